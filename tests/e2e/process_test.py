"""Starting, stopping, breaking: what the process does, seen from outside."""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import threading
import time

import psutil
import pytest
import requests

from harness import BINARY, MODEL, Server, run

IDLE = {"optserve_requests_running": 0, "optserve_requests_waiting": 0, "optserve_kv_cache_usage_ratio": 0}
LONG = {"prompt": "Call me Ishmael.", "max_tokens": 900, "ignore_eos": True, "temperature": 1, "seed": 1, "stream": True}


def open_stream(server):
    response = requests.post(server.url + "/v1/completions", json=LONG, stream=True, timeout=60)
    lines = response.iter_lines()
    assert next(lines).startswith(b"data: ")
    return response, lines


def test_probes_and_models_answer(server):
    for path in ("/livez", "/readyz", "/health"):
        assert requests.get(server.url + path, timeout=10).status_code == 200
    models = requests.get(server.url + "/v1/models", timeout=10).json()
    assert [model["id"] for model in models["data"]] == [server.model]


def test_it_takes_more_connections_than_a_shell_gives_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        server = Server()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with server, contextlib.ExitStack() as stack:
        port = int(server.url.rsplit(":", 1)[1])
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(200)]
        assert requests.get(server.url + "/livez", timeout=10).status_code == 200
        idle[-1].sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        assert idle[-1].recv(100).startswith(b"HTTP/1.1 200 ")


def test_bodies_in_chunks_of_one_byte_take_no_memory():
    body = json.dumps({"prompt": [5], "max_tokens": 1}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in b" " * 65_537 + body)
    request = (b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
               b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    with Server() as server, socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as client:
        front_end = psutil.Process(server.process.pid)

        def send(count):
            for _ in range(count):
                client.sendall(request)
                assert client.recv(65536).startswith(b"HTTP/1.1 200 ")

        send(4)
        before = front_end.memory_info().rss
        send(32)
        # A byte kept of each chunk would be twice this.
        assert front_end.memory_info().rss - before < 32 * 65_537 / 2


def test_tokenize_and_detokenize_are_inverse(server):
    tokens = server.post({"prompt": "Call me Ishmael.", "add_special_tokens": False}, "/tokenize").json()["tokens"]
    assert server.post({"tokens": tokens}, "/detokenize").json() == {"prompt": "Call me Ishmael."}


def test_a_client_that_leaves_frees_its_blocks():
    with Server() as server:
        response, _ = open_stream(server)
        assert server.metric("optserve_requests_running") == 1
        response.raw._fp.fp.raw._sock.shutdown(socket.SHUT_RDWR)
        response.close()
        for name, value in IDLE.items():
            server.wait_for_metric(name, value, timeout_seconds=2)


def test_sigterm_lets_running_requests_finish_and_refuses_new_ones():
    server = Server()
    _, lines = open_stream(server)
    tail = []
    reader = threading.Thread(target=lambda: tail.extend(lines))
    reader.start()
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    try:
        refused = server.post({"prompt": "x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert "Retry-After" in refused.headers
    except requests.ConnectionError:
        pass  # a closed door is a refusal too
    reader.join(timeout=60)
    assert tail[-2] == b"data: [DONE]" and not any(b'"error"' in line for line in tail)
    assert server.process.wait(timeout=30) == 0


def test_what_has_not_finished_by_the_shutdown_timeout_ends_with_an_error_event(tmp_path):
    log = tmp_path / "log"
    server = Server("--shutdown-timeout", 0, "--tensor-parallel-size", 2, log=log)
    _, lines = open_stream(server)
    server.process.send_signal(signal.SIGTERM)
    tail = [line for line in lines if line]
    assert b'"shutting_down"' in tail[-2] and tail[-1] == b"data: [DONE]"
    assert server.process.wait(timeout=30) == 0
    assert "shutdown_timeout" in log.read_text()


def test_a_second_sigterm_ends_at_once(tmp_path):
    log = tmp_path / "log"
    server = Server(log=log)
    streams = [open_stream(server) for _ in range(8)]
    server.process.send_signal(signal.SIGTERM)
    while "draining" not in log.read_text():
        time.sleep(0.005)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=10) == 1
    assert "stopped_at_once" in log.read_text()
    for response, _ in streams:
        response.close()


def test_sighup_while_draining_does_not_end_it(tmp_path):
    log = tmp_path / "log"
    server = Server(log=log)
    _, lines = open_stream(server)
    server.process.send_signal(signal.SIGTERM)
    while "draining" not in log.read_text():
        time.sleep(0.005)
    server.process.send_signal(signal.SIGHUP)
    assert [line for line in lines if line][-1] == b"data: [DONE]"
    assert server.process.wait(timeout=30) == 0


def start_and_hold_while_loading():
    """A server whose engine is stopped before it has loaded the model; the server and the engine."""
    for _ in range(20):
        process = subprocess.Popen([BINARY, "serve", MODEL, "--port", "0", "--grpc-port", "0"], stdout=subprocess.PIPE)
        engine = None
        while engine is None and process.poll() is None:
            children = psutil.Process(process.pid).children()
            with contextlib.suppress(psutil.Error):
                engine = next((child for child in children if "engine-process" in child.cmdline()), None)
        engine.suspend()
        os.set_blocking(process.stdout.fileno(), False)
        time.sleep(0.3)
        if not process.stdout.read():
            return process, engine
        engine.resume()  # it was faster
        process.kill()
        process.wait(timeout=30)
        process.stdout.close()
    raise AssertionError("the engine loads faster than it can be stopped")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_model_is_loading_ends_it_well(number):
    process, engine = start_and_hold_while_loading()
    with process.stdout:
        process.send_signal(signal.SIGHUP)  # a reload, not an end
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=30) == 0
        assert not process.stdout.read()
    engine.wait(timeout=10)


def test_a_dead_engine_is_replaced_and_the_stream_goes_on():
    with Server() as server:
        _, lines = open_stream(server)
        undisturbed = [json.loads(line[6:])["choices"][0]["text"] for line in lines if line.startswith(b"data: {")]
        engine, = psutil.Process(server.process.pid).children()
        _, lines = open_stream(server)
        os.kill(engine.pid, signal.SIGKILL)
        assert [json.loads(line[6:])["choices"][0]["text"] for line in lines if line.startswith(b"data: {")] == undisturbed
        assert server.metric("optserve_engine_restarts_total") == 1
        assert requests.get(server.url + "/readyz", timeout=10).status_code == 200


def test_an_engine_that_dies_too_often_is_given_up():
    with Server("--max-engine-deaths", 1) as server:
        engine, = psutil.Process(server.process.pid).children()
        _, lines = open_stream(server)
        os.kill(engine.pid, signal.SIGKILL)
        assert any(b'"error"' in line and b"engine_dead" in line for line in lines)
        assert server.process.wait(timeout=30) == 1


def test_the_engine_ends_with_its_front_end():
    server = Server()
    engine, = psutil.Process(server.process.pid).children()
    server.process.kill()
    server.process.wait(timeout=10)
    engine.wait(timeout=5)


def test_the_demo_model_is_ready_in_seconds(record_property):
    with Server() as server:
        record_property("start_seconds", round(server.start_seconds, 3))
        print(f"from start to the ready line: {server.start_seconds:.3f} s")
        assert server.start_seconds < 10  # a hang, not a speed: tests/bench/startup.py measures that


@pytest.fixture
def broken_models(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    bad_json = tmp_path / "bad_json"
    bad_json.mkdir()
    (bad_json / "config.json").write_text("{")
    no_weights = tmp_path / "no_weights"
    no_weights.mkdir()
    (no_weights / "config.json").write_bytes((MODEL / "config.json").read_bytes())
    truncated = tmp_path / "truncated"
    truncated.mkdir()
    (truncated / "config.json").write_bytes((MODEL / "config.json").read_bytes())
    (truncated / "model.safetensors").write_bytes((MODEL / "model.safetensors").read_bytes()[:-1])
    return tmp_path


@pytest.mark.parametrize("model, says", [
    ("missing", "missing"), ("empty", "config.json"), ("bad_json", "config.json"), ("no_weights", "safetensors"),
    ("truncated", "model.safetensors"),
])
def test_a_bad_model_is_one_line_and_exit_code_2(broken_models, model, says):
    ended = run("serve", broken_models / model, "--port", 0, "--grpc-port", 0)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1 and says in ended.stderr


@pytest.mark.parametrize("args", [
    ["--nonsense"], ["--port", "70000"], ["--port", "x"], ["--tensor-parallel-size", "0"], ["--block-size", "-1"],
    ["--kv-cache-memory", "much"],
])
def test_a_bad_flag_is_named_and_exit_code_2(args):
    ended = run("serve", MODEL, *args)
    assert ended.returncode == 2
    assert args[0] in ended.stderr


def test_a_port_in_use_is_one_line_and_exit_code_2():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("serve", MODEL, "--port", port, "--grpc-port", 0)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1 and str(port) in ended.stderr
