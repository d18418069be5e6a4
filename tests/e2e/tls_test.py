"""TLS as its users meet it, with certificates that openssl made: HTTP and gRPC, what is refused, and what SIGHUP changes."""

import contextlib
import signal
import socket
import ssl
import subprocess
import threading
import time

import grpc
import pytest
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc

from harness import MODEL, Server, run, wait_until

PROMPT = "Call me Ishmael."


class Files:
    """A certificate and its key; `replace` puts another pair in their place."""

    def __init__(self, folder):
        self.folder, self.cert, self.key = folder, folder / "cert.pem", folder / "key.pem"
        self.replace("first")

    def replace(self, name):
        made = [self.folder / f"{name}.cert", self.folder / f"{name}.key"]
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-keyout", made[1], "-out", made[0], "-days", "2", "-subj", f"/CN={name}",
                        "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"], check=True, capture_output=True)
        made[0].replace(self.cert)
        made[1].replace(self.key)
        self.pem = self.cert.read_text()

    def flags(self):
        return "--tls-cert", self.cert, "--tls-key", self.key


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A server that no test changes, and its files."""
    files = Files(tmp_path_factory.mktemp("tls"))
    with Server(*files.flags()) as server:
        yield server, files


def port_of(url):
    return int(url.rsplit(":", 1)[1])


def connect(server, **changes):
    """An established connection."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(changes.get("alpn", ["http/1.1"]))
    if "maximum" in changes:
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = changes["maximum"]
        context.set_ciphers(changes.get("ciphers", "DEFAULT:@SECLEVEL=0"))
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port_of(server.url)), timeout=30),
                               server_hostname="localhost")


def subject(address):
    """Of the certificate that is served at host:port."""
    host, port = address.rsplit(":", 1)
    pem = ssl.get_server_certificate((host, int(port)), timeout=30)
    return subprocess.run(["openssl", "x509", "-noout", "-subject"], input=pem, capture_output=True, text=True,
                          check=True).stdout.strip().rsplit(" ", 1)[-1]


def test_answers_whole_and_streamed_are_those_of_clear_text(running, server):
    tls, files = running
    assert tls.url.startswith("https://")
    body = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0}
    clear = server.complete(PROMPT, max_tokens=24)["choices"][0]["text"]
    with requests.Session() as session:
        session.verify, session.trust_env = str(files.cert), False
        for _ in range(3):  # on one connection
            whole = session.post(tls.url + "/v1/completions", json=body, timeout=60)
            assert whole.status_code == 200 and whole.json()["choices"][0]["text"] == clear
        streamed = session.post(tls.url + "/v1/completions", json={**body, "stream": True}, timeout=60)
        assert streamed.text.count("data: ") == 25 and streamed.text.endswith("data: [DONE]\n\n")
        # Longer than any record and any buffer on the way.
        long = session.post(tls.url + "/tokenize", json={"prompt": "a b c d " * 50_000}, timeout=60)
        assert long.status_code == 200 and long.json()["count"] >= 200_000
        back = session.post(tls.url + "/detokenize", json={"tokens": long.json()["tokens"]}, timeout=60)
        assert back.json()["prompt"].endswith("a b c d " * 50_000)


def test_versions_ciphers_and_protocols(running):
    server, _ = running
    for version, name in ((ssl.TLSVersion.TLSv1_3, "TLSv1.3"), (ssl.TLSVersion.TLSv1_2, "TLSv1.2")):
        with connect(server, maximum=version) as client:
            assert client.version() == name and client.selected_alpn_protocol() == "http/1.1"
            assert "GCM" in client.cipher()[0] or "CHACHA20" in client.cipher()[0]
    with connect(server, alpn=["h2", "http/1.1"]) as client:
        assert client.selected_alpn_protocol() == "http/1.1"
    for refused in ({"maximum": ssl.TLSVersion.TLSv1_1}, {"alpn": ["h2"]},
                    {"maximum": ssl.TLSVersion.TLSv1_2, "ciphers": "AES128-SHA256:AES256-SHA:@SECLEVEL=0"}):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            connect(server, **refused).do_handshake()


def test_plain_http_is_told_what_to_do(running):
    server, _ = running
    with socket.create_connection(("127.0.0.1", port_of(server.url)), timeout=30) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 ") and b"https://" in answer


def test_a_handshake_that_never_ends_is_ended_and_holds_up_nobody(running):
    server, files = running
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port_of(server.url)), timeout=30))
                for _ in range(20)]
        for client in slow[:10]:
            client.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
        began = time.monotonic()
        assert requests.get(server.url + "/livez", verify=str(files.cert), timeout=10).status_code == 200
        assert time.monotonic() - began < 5
        for client in slow:
            assert client.recv(1) == b""  # closed by the server, long before the 30 s of the client
        assert time.monotonic() - began < 25


def test_who_leaves_is_noticed(running):
    server, files = running
    client = connect(server)
    body = b'{"prompt": "Call me", "max_tokens": 900, "ignore_eos": true, "stream": true}'
    client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                   b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert client.recv(100).startswith(b"HTTP/1.1 200")
    client.close()

    def idle():
        text = requests.get(server.url + "/metrics", verify=str(files.cert), timeout=10).text
        return "\noptserve_requests_running 0\n" in text and 'finish_reason="cancelled"} 0' not in text
    wait_until(idle, "the end of the stream that nobody reads")


def grpc_channel(server, files):
    return grpc.secure_channel(server.grpc.replace("127.0.0.1", "localhost"),
                               grpc.ssl_channel_credentials(files.pem.encode()),
                               options=[("grpc.use_local_subchannel_pool", 1)])


def test_grpc_speaks_it_too(running):
    server, files = running
    with grpc_channel(server, files) as channel:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError):
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)


@pytest.mark.parametrize("protocol", ["https", "grpcs"])
def test_bench_trusts_the_file_that_it_is_given_and_no_other(running, protocol):
    tls, files = running
    address = tls.url if protocol == "https" else f"grpcs://{tls.grpc}"
    load = ("bench", "serve", "--url", address, "--no-roof", "--requests", 2, "--warm-up", 0, "--vocab-size",
            4096, "--output-tokens", 2)
    measured = run(*load, "--ca-file", files.cert)
    assert measured.returncode == 0, measured.stderr
    refused = run(*load)
    assert refused.returncode != 0 and "certificate" in refused.stderr.lower(), refused.stderr


def test_sighup_serves_another_certificate_and_loses_no_request(tmp_path):
    files, log = Files(tmp_path), tmp_path / "log"
    with Server(*files.flags(), log=log) as server:
        http_address = server.url.removeprefix("https://")
        assert subject(http_address) == subject(server.grpc) == "first"
        old_pem = tmp_path / "old.pem"
        old_pem.write_text(files.pem)
        answered, failed, stop = [0, 0], [], threading.Event()

        def ask(index, keep_alive):
            session = requests.Session()
            session.verify, session.trust_env = False, False
            while not stop.is_set():
                try:
                    response = session.post(server.url + "/v1/completions", timeout=60,
                                            json={"prompt": PROMPT, "max_tokens": 8, "stream": True, "temperature": 0})
                    assert response.status_code == 200 and response.text.endswith("data: [DONE]\n\n"), response.text
                    answered[index] += 1
                except Exception as error:  # pylint: disable=broad-except
                    failed.append(error)
                if not keep_alive:
                    session.close()

        threads = [threading.Thread(target=ask, args=(index, index == 0)) for index in range(2)]
        with grpc_channel(server, files) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            health.Check(health_pb2.HealthCheckRequest(), timeout=30)
            for thread in threads:
                thread.start()
            try:
                for name in ("second", "third", "fourth"):
                    before = list(answered)
                    files.replace(name)
                    server.process.send_signal(signal.SIGHUP)
                    wait_until(lambda: subject(http_address) == name, f"certificate {name} over HTTP")
                    wait_until(lambda: subject(server.grpc) == name, f"certificate {name} over gRPC")
                    wait_until(lambda: failed or all(now > then + 1 for now, then in zip(answered, before)), "more answers")
                    assert not failed
                    health.Check(health_pb2.HealthCheckRequest(), timeout=30)  # a connection that was there goes on
                with grpc_channel(server, files) as fresh:
                    health_pb2_grpc.HealthStub(fresh).Check(health_pb2.HealthCheckRequest(), timeout=30)

                for what, broken in (("cert", "nonsense\n"), ("key", "nonsense\n"), ("cert", files.pem.replace("MII", "MIJ"))):
                    file = files.cert if what == "cert" else files.key
                    good, lines = file.read_text(), log.read_text().count("reload_failed")
                    file.write_text(broken)
                    server.process.send_signal(signal.SIGHUP)
                    wait_until(lambda: log.read_text().count("reload_failed") == lines + 1, "the refusal")
                    file.write_text(good)
                time.sleep(1.5)  # gRPC would have looked by now
                assert subject(http_address) == subject(server.grpc) == "fourth"
            finally:
                stop.set()
                for thread in threads:
                    thread.join(timeout=60)
        assert not failed and min(answered) > 3
    lines = [line for line in log.read_text().splitlines() if "reload_failed" in line]
    assert all("what=certificate" in line and str(tmp_path) in line for line in lines)


@pytest.mark.parametrize("change, says", [
    (lambda f: f.cert.unlink(), "cert.pem"),
    (lambda f: f.key.unlink(), "key.pem"),
    (lambda f: f.cert.write_text("nonsense"), "cert.pem"),
    (lambda f: f.key.write_text("nonsense"), "key.pem"),
    (lambda f: f.key.write_text(""), "key.pem"),
    (lambda f: f.cert.write_text(f.key.read_text()), "cert.pem"),
    (lambda f: [old := f.key.read_text(), f.replace("other"), f.key.write_text(old)], "is not the key of"),
    (lambda f: f.cert.write_text(f.pem + f.pem[:200]), "cert.pem"),
    (lambda f: subprocess.run(["openssl", "ec", "-aes128", "-passout", "pass:abcd", "-in", f.key, "-out", f.key],
                              check=True, capture_output=True), "password"),
])
def test_what_is_wrong_at_the_start_is_one_line_and_exit_code_2(tmp_path, change, says):
    files = Files(tmp_path)
    change(files)
    ended = run("serve", MODEL, "--port", 0, "--grpc-port", 0, *files.flags())
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1 and says in ended.stderr


@pytest.mark.parametrize("flag", ["--tls-cert", "--tls-key"])
def test_certificate_and_key_belong_together(tmp_path, flag):
    ended = run("serve", MODEL, "--port", 0, "--grpc-port", 0, flag, Files(tmp_path).cert)
    assert ended.returncode == 2 and "belong together" in ended.stderr


def test_a_key_that_everybody_may_read_is_warned_of(tmp_path):
    files, log = Files(tmp_path), tmp_path / "log"
    files.key.chmod(0o644)
    with Server(*files.flags(), log=log):
        pass
    assert log.read_text().count("tls_key_is_exposed") == 1
    files.key.chmod(0o600)
    with Server(*files.flags(), log=log):
        pass
    assert log.read_text().count("tls_key_is_exposed") == 1
