"""What TLS and traces cost the front end, as ratios of its CPU time in one run:

    cmake --build build/release --target optserve && build/test-venv/bin/python tests/bench/front_cost.py

Servers of the demo model stand side by side: in clear, with TLS, and with traces to a collector of this program's, of none,
a hundredth and all of the requests. Each round asks them in turns, so that a busy machine is busy for all of them, and the
figures are medians over the rounds. Only the process counts that holds the sockets: engines are processes of their own.

A streamed token is counted with all that belongs to its answer, in a closed loop of `optserve bench serve`; a connection by
what a request on a new one takes more than one on a connection that is kept. Only says; passes and fails nothing.
"""

import argparse
import contextlib
import http.server
import multiprocessing
import os
import pathlib
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time

import grpc
import requests

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))

from harness import BINARY, Server  # noqa: E402  (the path above comes first)

STREAMS, TOKENS = 64, 256  # of a measurement of tokens: streams at a time, tokens of each
REQUESTS, SHORT = 512, 16  # of a measurement of traces, which are made by request
CONNECTIONS = 200
MEASURES = ["tokens", "connections", "traces"]
LIST_MODELS = "/optserve.v1.Completion/ListModels"


def cpu_seconds(server):
    """Of the whole process, ended threads included; Linux names the clock of process PID so."""
    return time.clock_gettime((~server.process.pid << 3) | 2)


class Collector(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args):
        pass


def collect(pipe):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        pipe.send(server.server_port)
        server.serve_forever()


class Variant:
    """A server, and how it is spoken to."""

    def __init__(self, name, server, cert):
        self.name, self.server, self.cert = name, server, cert
        self.http = server.url.replace("127.0.0.1", "localhost")
        self.port = int(server.url.rsplit(":", 1)[1])
        self.grpc_address = server.grpc.replace("127.0.0.1", "localhost")
        self.grpc = f"{'grpcs' if cert else 'grpc'}://{self.grpc_address}"

    def load(self, url, streams, num_requests, tokens):
        """CPU of the front end per request, in a closed loop; all streamed."""
        command = [BINARY, "bench", "serve", "--no-roof", "--url", url, "--requests", num_requests, "--warm-up", 0,
                   "--concurrency", streams, "--prompt-tokens", 8, "--output-tokens", tokens, "--vocab-size", 4096]
        if self.cert:
            command += ["--ca-file", self.cert]
        before = cpu_seconds(self.server)
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        return (cpu_seconds(self.server) - before) / num_requests

    def connect(self):
        connection = socket.create_connection(("localhost", self.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self.cert:
            return connection
        return ssl.create_default_context(cafile=self.cert).wrap_socket(connection, server_hostname="localhost")

    def channel(self):
        options = [("grpc.use_local_subchannel_pool", 1)]
        if not self.cert:
            return grpc.insecure_channel(self.grpc_address, options=options)
        credentials = grpc.ssl_channel_credentials(pathlib.Path(self.cert).read_bytes())
        return grpc.secure_channel(self.grpc_address, credentials, options=options)

    def http_connection(self):
        def ask(connection):
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")

        return self._difference(self.connect, ask)

    def grpc_connection(self):
        def ask(channel):  # in bytes: the environment of the tests has no stubs of ours here
            channel.unary_unary(LIST_MODELS, request_serializer=None, response_deserializer=None)(b"", timeout=10)

        return self._difference(self.channel, ask)

    def _difference(self, connect, ask):
        """CPU of the front end for a connection: asking on new ones, less asking on one."""
        before = cpu_seconds(self.server)
        for _ in range(CONNECTIONS):
            with connect() as connection:
                ask(connection)
        new = cpu_seconds(self.server) - before
        with connect() as connection:
            ask(connection)
            before = cpu_seconds(self.server)
            for _ in range(CONNECTIONS):
                ask(connection)
        return (new - (cpu_seconds(self.server) - before)) / CONNECTIONS


def measure(variants, rounds, cost):
    """`cost` of each variant in turns: seconds of each round by variant."""
    seconds = {variant.name: [] for variant in variants}
    for _ in rounds:
        for variant in variants:
            seconds[variant.name].append(cost(variant))
    return seconds


def report(what, unit, base, measured):
    """`measured`: seconds of each round by variant."""
    print(what)
    for name, seconds in measured.items():
        ratios = sorted(each / reference for each, reference in zip(seconds, measured[base]))
        middle = statistics.median(seconds) * 1e6
        line = f"  {name:28} {middle:9.2f} us {unit}"
        if name != base:
            line += f"   {statistics.median(ratios):5.2f} x {base}, rounds {ratios[0]:.2f} to {ratios[-1]:.2f}"
        print(line, flush=True)


def certificate(folder):
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
                    "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key,
                    "-out", cert], check=True, capture_output=True)
    return str(cert), str(key)


def spans(variant):
    text = requests.get(variant.server.url + "/metrics", timeout=10).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("optserve_trace_spans_exported"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", nargs="+", choices=MEASURES, default=MEASURES)
    options = parser.parse_args()
    rounds = range(options.rounds)
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cert, key = certificate(folder)
        ours, theirs = multiprocessing.Pipe()
        collector = multiprocessing.Process(target=collect, args=(theirs,), daemon=True)
        collector.start()
        endpoint = f"http://127.0.0.1:{ours.recv()}/v1/traces"

        def start(name, *flags, cert=None):
            log = folder / f"{name.replace(' ', '-')}.log"
            return Variant(name, stack.enter_context(Server("--max-num-seqs", STREAMS, *flags, log=log)), cert)

        plain, tls = start("in clear"), start("TLS", "--tls-cert", cert, "--tls-key", key, cert=cert)
        traced = [start(f"traces of {sampling}", "--otlp-traces-endpoint", endpoint, "--trace-sampling", sampling)
                  for sampling in (0, 0.01, 1)]
        print(f"{len(rounds)} rounds, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the start", flush=True)

        secured, variants = (plain, tls), (plain, *traced)
        urls = {"HTTP": lambda variant: variant.http, "gRPC": lambda variant: variant.grpc}
        connections = {"HTTP": Variant.http_connection, "gRPC": Variant.grpc_connection}
        for protocol, url in urls.items() if "tokens" in options.measure else ():
            cost = measure(secured, rounds, lambda v, url=url: v.load(url(v), STREAMS, STREAMS, TOKENS) / TOKENS)
            report(f"{protocol}, {STREAMS} streams of {TOKENS} tokens", "a token", plain.name, cost)
        for protocol, connection in connections.items() if "connections" in options.measure else ():
            report(f"{protocol}, a connection of its own", "a connection", plain.name, measure(secured, rounds, connection))
        for protocol, url in urls.items() if "traces" in options.measure else ():
            cost = measure(variants, rounds, lambda v, url=url: v.load(url(v), STREAMS, REQUESTS, SHORT))
            report(f"{protocol}, streamed answers of {SHORT} tokens", "a request", plain.name, cost)
        time.sleep(2)  # spans go a second's at a time
        print("spans that the collector took: " + ", ".join(f"{spans(one):.0f} with {one.name}" for one in traced))
        print(f"load {os.getloadavg()[0]:.1f} at the end")
        collector.terminate()


if __name__ == "__main__":
    main()
