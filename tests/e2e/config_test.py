"""Where settings come from, and what is said about wrong ones."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time

import psutil
import pytest
import requests

from harness import BINARY, MODEL, Server, run


def printed_config(*args, environment=None):
    """What --print-config shows: {option: (value, origin)}."""
    ended = subprocess.run([BINARY, "serve", "--print-config", *map(str, args)], capture_output=True, text=True,
                           timeout=60, env={**os.environ, **(environment or {})})
    assert ended.returncode == 0, ended.stderr
    words = [line.split() for line in ended.stdout.splitlines()]
    return {line[0]: (" ".join(line[1:-1]), line[-1]) for line in words}


def test_flag_wins_over_environment_over_file_over_default(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"port": 1, "host": "file", "grpc_host": "file", "kv_cache_memory": "1GiB"}))
    shown = printed_config("--port", 3, "--no-grpc", environment={
        "OPTSERVE_CONFIG": str(file), "OPTSERVE_PORT": "2", "OPTSERVE_HOST": "env"})
    assert shown["port"] == ("3", "flag")
    assert shown["no-grpc"] == ("true", "flag")
    assert shown["host"] == ("env", "environment")
    assert shown["grpc-host"] == ("file", "file")
    assert shown["kv-cache-memory"] == (str(2**30), "file")
    assert shown["max-num-seqs"] == ("256", "default")


@pytest.mark.parametrize("args, says", [
    (["--ctx-size", 5], "did you mean --max-model-len?"),
    (["--num-shard", 2], "did you mean --tensor-parallel-size?"),
    (["--prot", 1], "did you mean --port?"),
    (["--config", "/no/such/file"], "/no/such/file"),
    (["--max_num_seqs", 4], "did you mean --max-num-seqs?"),
    (["--device", "cuda"], "--device cpu"),
    (["--host", "no.such.host.invalid"], "--host is 'no.such.host.invalid'"),
    (["--grpc-host", "no.such.host.invalid"], "--grpc-host is 'no.such.host.invalid'"),
    (["--host", "192.0.2.1"], "--host must be an address of this machine"),
    (["--max-model-len", 100000], "--max-model-len is 100000"),
    (["--kv-cache-memory", "1KiB"], "--kv-cache-memory is 1024 bytes"),
    (["--kv-cache-memory", "900TiB"], "are available; lower it"),
    (["--tensor-parallel-size", 3], "--tensor-parallel-size is 3"),
    (["--dtype", "int8"], "--dtype is int8"),
    (["--otlp-traces-endpoint", "grpc://127.0.0.1:4317"], "must be the URL of a collector's OTLP/HTTP"),
    (["--otlp-traces-endpoint", "collector"], "must be the URL of a collector's OTLP/HTTP"),
    (["--otlp-endpoint", "http://127.0.0.1:4318"], "did you mean --otlp-traces-endpoint?"),
    (["--trace-sampling", "1.5"], "--trace-sampling is '1.5', but it must be a number from 0 to 1"),
])
def test_what_cannot_be_is_one_line_and_exit_code_2(args, says):
    ended = run("serve", MODEL, "--port", 0, "--grpc-port", 0, *args)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1 and says in ended.stderr


def test_variables_that_look_like_ours_are_not_passed_over():
    slip = subprocess.run([BINARY, "serve", "--print-config"], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "OPTSERVE_PROT": "1"})
    assert (slip.returncode, slip.stdout) == (2, "") and "did you mean OPTSERVE_PORT?" in slip.stderr
    other = subprocess.run([BINARY, "serve", "--print-config"], capture_output=True, text=True, timeout=60,
                           env={**os.environ, "OPTSERVE_SERVICE_HOST": "10.0.0.1"})
    assert other.returncode == 0 and other.stdout and "OPTSERVE_SERVICE_HOST" in other.stderr


def test_vllms_dashboards_find_their_numbers():
    with Server("--metrics-compat", "vllm") as server:
        server.complete("Call me", max_tokens=3, ignore_eos=True)
        text = requests.get(server.url + "/metrics", timeout=10).text
        labels = '{model_name="demo-model",engine="0"}'
        assert f"vllm:generation_tokens_total{labels} {server.metric('optserve_generation_tokens_total'):g}" in text
        assert f"vllm:e2e_request_latency_seconds_count{labels} 1" in text


def test_a_taken_grpc_port_leaves_nothing_behind():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("serve", MODEL, "--port", 0, "--grpc-port", port)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1 and str(port) in ended.stderr
    orphans = [process for process in psutil.process_iter(["cmdline", "ppid"])
               if "engine-process" in (process.info["cmdline"] or []) and process.info["ppid"] == 1]
    assert orphans == []


def test_without_grpc_the_ready_line_says_so():
    with Server("--no-grpc") as server:
        assert server.grpc == "off"
        server.complete("Call me", max_tokens=1)


def test_the_name_is_what_clients_ask_for():
    with Server("--served-model-name", "my-opt", "--unknown-fields", "ignore") as server:
        assert server.model == "my-opt"
        assert server.post({"model": "my-opt", "prompt": "x", "max_tokens": 1, "nonsense": 1}).status_code == 200
        assert server.post({"model": "demo-model", "prompt": "x"}).status_code == 404


def test_limits_reach_the_engine():
    with Server("--max-model-len", 32, "--block-size", 8, "--kv-cache-memory", "1MiB") as server:
        models = requests.get(server.url + "/v1/models", timeout=10).json()
        assert models["data"][0]["max_model_len"] == 32
        assert server.post({"prompt": "x", "max_tokens": 32}).json()["error"]["code"] == "context_length_exceeded"


def test_a_log_for_machines_is_one_object_a_line():
    process = subprocess.Popen([BINARY, "serve", MODEL, "--port", "0", "--grpc-port", "0", "--log-format", "json"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("optserve ready ")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    events = [json.loads(line) for line in errors.splitlines()]
    assert [event["event"] for event in events] == ["ready", "draining", "stopped"]
    assert events[0]["model"] == "demo-model" and events[0]["parameters"] > 0


LONG = {"prompt": "Call me Ishmael.", "max_tokens": 1000, "ignore_eos": True, "temperature": 1, "n": 8, "stream": True}


def test_the_shutdown_timeout_ends_what_still_runs():
    server = Server("--shutdown-timeout", 0)
    with requests.post(server.url + "/v1/completions", json=LONG, stream=True, timeout=60) as response:
        lines = response.iter_lines()
        assert next(lines).startswith(b"data: ")
        server.process.send_signal(signal.SIGTERM)
        tail = [line for line in lines if line]
    assert b'"error"' in tail[-2] and tail[-1] == b"data: [DONE]"
    assert server.process.wait(timeout=10) == 0


def test_a_second_signal_ends_at_once():
    server = Server()
    with requests.post(server.url + "/v1/completions", json=LONG, stream=True, timeout=60) as response:
        lines = response.iter_lines()  # kept: a generator that ends closes the connection
        assert next(lines).startswith(b"data: ")
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert server.process.wait(timeout=30) == 1
        assert time.monotonic() - began < 2


def test_a_model_without_tokenizer_is_served_for_ids(tmp_path):
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copy(MODEL / name, tmp_path)
    with Server(model=tmp_path) as server:
        refused = server.post({"prompt": "x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "tokenizer_missing")
        answer = server.complete([2, 100, 101], max_tokens=4, return_token_ids=True)
        assert answer["choices"][0]["text"] == "" and len(answer["choices"][0]["token_ids"]) == 4


def test_a_name_is_looked_up_in_the_hugging_face_cache(tmp_path, monkeypatch):
    """As `hf download` leaves it: the files of a snapshot are links to blobs."""
    entry = tmp_path / "models--someone--tiny-opt"
    snapshot = entry / "snapshots" / "c0ffee"
    for folder in (snapshot, entry / "blobs", entry / "refs"):
        folder.mkdir(parents=True)
    (entry / "refs" / "main").write_text("c0ffee")
    for number, path in enumerate(sorted(MODEL.glob("*.*"))):
        shutil.copy(path, entry / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with Server(model="someone/tiny-opt") as server:
        assert server.model == "someone/tiny-opt"
        server.complete("Call me", max_tokens=1)


def test_a_broken_tokenizer_is_one_line_and_exit_code_2(tmp_path):
    for name in ("config.json", "generation_config.json", "model.safetensors", "merges.txt"):
        shutil.copy(MODEL / name, tmp_path)
    (tmp_path / "vocab.json").write_text("{")
    ended = run("serve", tmp_path, "--port", 0, "--grpc-port", 0)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1 and "vocab.json" in ended.stderr


def test_limits_are_flags_and_in_force():
    flags = {"max-header-fields": 12, "max-text-size": "1KiB", "max-body-size": "2KiB", "max-choices": 3, "max-queue": 7,
             "stall-timeout": 9}
    with Server(*(part for name, value in flags.items() for part in (f"--{name}", value))) as server:
        limits = requests.get(server.url + "/v1/capabilities", timeout=10).json()["limits"]
        assert {name: limits[name] for name in ("header_fields", "text_body_bytes", "body_bytes", "max_choices", "max_queue",
                                                "stall_seconds")} == {
            "header_fields": 12, "text_body_bytes": 1024, "body_bytes": 2048, "max_choices": 3, "max_queue": 7,
            "stall_seconds": 9}
        assert server.post({"prompt": "a" * 900, "max_tokens": 1}).status_code == 200
        assert server.post({"prompt": "a" * 1100, "max_tokens": 1}).status_code == 413
        assert server.post({"prompt": [5] * 600, "max_tokens": 1}).status_code == 200
        assert server.post({"prompt": [5] * 1100, "max_tokens": 1}).status_code == 413
        assert server.post({"prompt": "a", "n": 3, "max_tokens": 1}).status_code == 200
        assert server.post({"prompt": "a", "n": 4, "max_tokens": 1}).status_code == 400
        many = {f"x-{i}": "a" for i in range(12)}
        assert requests.get(server.url + "/livez", headers=many, timeout=10).status_code == 431
