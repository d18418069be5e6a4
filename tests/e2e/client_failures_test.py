"""What the C++ client makes of a real server that is closed to it, busy, or dies; seen through optserve-cli."""

import contextlib
import http.server
import json
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest
import requests

from cli_test import CLI, cli
from harness import REFERENCE, Server, run

PROTOCOLS = ["http", "grpc"]
CASE = REFERENCE[0]


def address_of(server, protocol, tls=False):
    if protocol == "http":
        return server.url
    return f"grpc{'s' if tls else ''}://{server.grpc}"


# --- TLS ---------------------------------------------------------------------------------------------------------------

def certificate(folder, name, names):
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key,
                    "-out", cert, "-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName={names}"],
                   check=True, capture_output=True)
    return cert, key


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """A server with TLS, its certificate, and another one."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = certificate(folder, "server", "DNS:localhost")
    other, _ = certificate(folder, "other", "DNS:localhost")
    with Server("--tls-cert", cert, "--tls-key", key) as server:
        yield server, cert, other


def tls_address(server, protocol, host):
    port = server.url.rsplit(":", 1)[1] if protocol == "http" else server.grpc.rsplit(":", 1)[1]
    return f"{'https' if protocol == 'http' else 'grpcs'}://{host}:{port}"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_of_a_known_authority_is_believed(tls, protocol):
    server, cert, _ = tls
    ended = cli("complete", CASE["prompt"], "--temperature", 0, "--max-tokens", CASE["max_tokens"], "--ca-file", cert,
                address=tls_address(server, protocol, "localhost"))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.rstrip("\n") == CASE["text"].rstrip("\n")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_of_an_unknown_authority_is_not_believed(tls, protocol):
    server, _, other = tls
    address = tls_address(server, protocol, "localhost")
    for flags in ([], ["--ca-file", other]):
        ended = cli("models", *flags, "--timeout", 10, address=address)
        assert ended.returncode != 0 and ended.stdout == ""
        assert "certificate" in ended.stderr.lower() and "--ca-file" in ended.stderr, ended.stderr


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_certificate_of_another_name_is_not_believed(tls, protocol):
    """The certificate is for localhost, not for its address."""
    server, cert, _ = tls
    ended = cli("models", "--ca-file", cert, "--timeout", 10, address=tls_address(server, protocol, "127.0.0.1"))
    assert ended.returncode != 0 and ended.stdout == ""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_is_not_believed_gets_no_byte_of_the_request(protocol, tmp_path):
    """A listener with a certificate of its own making keeps what it can read."""
    cert, key = certificate(tmp_path, "stranger", "DNS:localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["h2", "http/1.1"])
    received, taken = [], []

    def take(listener):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                taken.append(connection)
                with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as stranger:
                    received.append(stranger.recv(4096))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=take, args=[listener])
        thread.start()
        scheme = "https" if protocol == "http" else "grpcs"
        ended = cli("models", "--timeout", 5, address=f"{scheme}://localhost:{listener.getsockname()[1]}",
                    env={"OPTSERVE_API_KEY": "sk-secret"})
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=10)
    assert ended.returncode != 0 and taken and b"".join(received) == b""


# --- busy --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_busy_server_is_waited_for_as_long_as_it_says(protocol, tmp_path):
    """A key of 30 requests a minute that has taken 30: the next one is there in two seconds."""
    keys = tmp_path / "keys"
    key = run("keys", "new", "--name", "ana", "--requests-per-minute", 30, "--api-key-file", keys).stdout.split()[-1]
    with Server("--api-key-file", keys) as server:
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {key}"
        body = {"prompt": "x", "max_tokens": 1}
        statuses = []
        while 429 not in statuses:
            answer = session.post(server.url + "/v1/completions", json=body, timeout=60)
            statuses.append(answer.status_code)
        assert statuses.count(200) >= 30 and int(answer.headers["Retry-After"]) >= 1
        began = time.monotonic()
        ended = cli("complete", "x", "--max-tokens", 1, address=address_of(server, protocol), env={"OPTSERVE_API_KEY": key})
        assert ended.returncode == 0, ended.stderr
        assert time.monotonic() - began >= 1
        at_once = time.monotonic()
        refused = cli("complete", "x", "--max-tokens", 1, "--timeout", 0.5, address=address_of(server, protocol),
                      env={"OPTSERVE_API_KEY": key})
        assert refused.returncode == 1 and time.monotonic() - at_once < 2


# --- gone --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_dies_in_the_middle_of_a_stream_is_told(protocol):
    server = Server()
    try:
        process = subprocess.Popen([str(CLI), "complete", "Call me", "--max-tokens", "1000", "--ignore-eos", "--address",
                                    address_of(server, protocol)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout.read(10)  # it has begun
        server.process.send_signal(signal.SIGKILL)
        rest, errors = process.communicate(timeout=30)
    finally:
        server.process.kill()
        server.process.wait()
    assert process.returncode == 1
    assert rest.endswith(b"\n") and errors.startswith(b"optserve-cli: ")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_leaves_frees_the_server(server, protocol):
    # A shell that runs the tests in the background has them ignore SIGINT, and their children with them.
    process = subprocess.Popen([str(CLI), "complete", "Call me", "--max-tokens", "1000", "--ignore-eos", "--address",
                                address_of(server, protocol)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    assert process.stdout.read(10)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT
    server.wait_for_metric("optserve_requests_running", 0)


@pytest.mark.parametrize("indices", [[0], [0, 0], [0, 2], [0, -1], [0, 1 << 31], []], ids=str)
def test_scores_of_other_texts_than_were_asked_for_are_an_error(indices):
    logprobs = {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [None], "text_offset": [0]}
    body = json.dumps({"choices": [{"index": index, "text": "a", "logprobs": logprobs} for index in indices]})

    class Wrong(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Wrong) as wrong:
        threading.Thread(target=wrong.handle_request).start()
        ended = cli("score", stdin="one\ntwo\n", address=f"http://127.0.0.1:{wrong.server_port}")
    assert (ended.returncode, ended.stdout) == (1, "") and ended.stderr.startswith("optserve-cli: "), ended.stderr


def test_a_reader_that_closes_its_pipe_ends_the_command(server):
    """`optserve-cli complete ... | head -c 5`."""
    process = subprocess.Popen([str(CLI), "complete", "Call me", "--max-tokens", "1000", "--ignore-eos", "--address", server.url],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdout.read(5)
    process.stdout.close()
    assert process.wait(timeout=10) == -signal.SIGPIPE
    server.wait_for_metric("optserve_requests_running", 0)
