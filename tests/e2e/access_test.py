"""Who may take how much, and what is written down about it: quotas, ledger, reload on SIGHUP, what no log may hold."""

import json
import pathlib
import signal
import socket
import time

import grpc
import psutil
import pytest
import requests
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from harness import MODEL, Server, run, wait_until

PROMPT = "Call me Ishmael."
LONG = {"prompt": PROMPT, "max_tokens": 900, "ignore_eos": True, "temperature": 1, "seed": 1, "stream": True}


@pytest.fixture
def key_file(tmp_path):
    return tmp_path / "keys"


@pytest.fixture
def log(tmp_path):
    return tmp_path / "stderr"


def new_key(key_file, *settings):
    made = run("keys", "new", "--api-key-file", key_file, "--name", "a test", *settings)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def key_id(key_file):
    return run("keys", "list", "--api-key-file", key_file).stdout.split()[0]


def post(server, key, path="/v1/completions", **fields):
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return requests.post(server.url + path, json={"prompt": PROMPT, "max_tokens": 2, **fields}, headers=headers, timeout=60)


def reload(server, log):
    """Sends SIGHUP and waits until the server has done with it."""
    before = log.read_text().count(" reloaded ")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: log.read_text().count(" reloaded ") > before, "the reload")


def records(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_settings_of_keys_are_made_changed_and_listed(key_file):
    new_key(key_file, "--requests-per-minute", 60, "--share-weight", 3)
    listed = run("keys", "list", "--api-key-file", key_file).stdout
    assert "requests_per_minute=60 share_weight=3 a test" in listed
    identity = listed.split()[0]
    changed = run("keys", "set", identity, "--api-key-file", key_file, "--tokens-per-minute", 5000,
                  "--requests-per-minute", 0)
    assert changed.returncode == 0, changed.stderr
    assert "tokens_per_minute=5000 share_weight=3 a test" in run("keys", "list", "--api-key-file", key_file).stdout
    for bad in (["--share-weight", 0], ["--share-weight", 1001], ["--concurrent-requests", -1], []):
        refused = run("keys", "set", identity, "--api-key-file", key_file, *bad)
        assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_requests_per_minute_over_http(key_file, stream):
    key, other = new_key(key_file, "--requests-per-minute", 2), new_key(key_file)
    with Server("--api-key-file", key_file) as server:
        assert [post(server, key, stream=stream).status_code for _ in range(3)] == [200, 200, 429]
        refused = post(server, key, stream=stream)
        assert refused.json()["error"]["type"] == "rate_limit_exceeded"
        assert 1 <= int(refused.headers["Retry-After"]) <= 30
        assert post(server, other).status_code == 200


def test_retry_after_is_honest(key_file):
    key = new_key(key_file, "--requests-per-minute", 60)
    with Server("--api-key-file", key_file) as server:
        answers = (post(server, key) for _ in range(600))
        response = next(answer for answer in answers if answer.status_code != 200)
        assert response.status_code == 429
        time.sleep(int(response.headers["Retry-After"]))
        assert post(server, key).status_code == 200


def test_tokens_per_minute_count_prompt_and_answer_and_give_back_what_was_not_used(key_file):
    key = new_key(key_file, "--tokens-per-minute", 60)
    with Server("--api-key-file", key_file) as server:
        # It would need 50, and takes what the stop string left of that.
        first = post(server, key, max_tokens=40, stop=[" ", "e", "a", "o"], temperature=0)
        assert first.status_code == 200 and first.json()["usage"]["total_tokens"] < 30
        assert post(server, key, max_tokens=25).status_code == 200
        refused = post(server, key, max_tokens=40)
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_exceeded")
        assert 1 <= int(refused.headers["Retry-After"]) <= 60


def test_concurrent_requests_and_that_who_leaves_makes_room(key_file):
    key = new_key(key_file, "--concurrent-requests", 1)
    with Server("--api-key-file", key_file) as server:
        stream = requests.post(server.url + "/v1/completions", json=LONG, stream=True, timeout=60,
                               headers={"Authorization": f"Bearer {key}"})
        lines = stream.iter_lines()
        assert next(lines).startswith(b"data: ")
        refused = post(server, key)
        assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
        stream.raw._fp.fp.raw._sock.shutdown(socket.SHUT_RDWR)
        stream.close()
        wait_until(lambda: post(server, key).status_code == 200, "room for another request")


def test_tokenizing_counts_too(key_file, pb):
    key = new_key(key_file, "--requests-per-minute", 4)
    messages, stubs = pb
    with Server("--api-key-file", key_file) as server, grpc.insecure_channel(server.grpc) as channel:
        stub = stubs.CompletionStub(channel)  # gRPC's word for the client's side of a service
        metadata = [("authorization", f"Bearer {key}")]
        tokenized = requests.post(server.url + "/tokenize", json={"prompt": PROMPT}, timeout=10,
                                  headers={"Authorization": f"Bearer {key}"})
        ids = tokenized.json()["tokens"]
        assert stub.Tokenize(messages.TokenizeRequest(prompt=PROMPT), metadata=metadata, timeout=10).tokens == ids
        assert stub.Detokenize(messages.DetokenizeRequest(tokens=ids[1:]), metadata=metadata, timeout=10).prompt == PROMPT
        assert post(server, key).status_code == 200
        refused = requests.post(server.url + "/detokenize", json={"tokens": ids}, timeout=10,
                                headers={"Authorization": f"Bearer {key}"})
        assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
        with pytest.raises(grpc.RpcError) as error:
            stub.Tokenize(messages.TokenizeRequest(prompt=PROMPT), metadata=metadata, timeout=10)
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_quotas_over_grpc(key_file, pb):
    completion_pb2, completion_pb2_grpc = pb
    key = new_key(key_file, "--requests-per-minute", 1)
    with Server("--api-key-file", key_file) as server, grpc.insecure_channel(server.grpc) as channel:
        stub = completion_pb2_grpc.CompletionStub(channel)
        request = completion_pb2.CompletionRequest(prompt=[{"text": PROMPT}], max_tokens=2)
        metadata = [("authorization", f"Bearer {key}")]
        assert stub.Complete(request, metadata=metadata, timeout=30).choices
        for call in (lambda: stub.Complete(request, metadata=metadata, timeout=30),
                     lambda: list(stub.Stream(request, metadata=metadata, timeout=30))):
            with pytest.raises(grpc.RpcError) as refused:
                call()
            assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            retry = error_details_pb2.RetryInfo()
            assert any(detail.Unpack(retry) for detail in rpc_status.from_call(refused.value).details)
            assert 1 <= retry.retry_delay.seconds <= 60


def test_bad_keys_over_grpc_are_counted(key_file):
    """By the address that the server sees: tests/server/grpc; one count for each: tests/server/access."""
    key = new_key(key_file)
    with Server("--api-key-file", key_file) as server, grpc.insecure_channel(server.grpc) as channel:
        models = channel.unary_unary("/optserve.v1.Completion/ListModels")
        codes = []
        for _ in range(11):
            with pytest.raises(grpc.RpcError) as refused:
                models(b"", timeout=10, metadata=[("authorization", "Bearer sk-wrong")])
            codes.append(refused.value.code())
        assert codes == [grpc.StatusCode.UNAUTHENTICATED] * 10 + [grpc.StatusCode.RESOURCE_EXHAUSTED]
        assert post(server, key).status_code == 200


@pytest.mark.parametrize("path", [
    "//v1/completions", "/v1//completions", "/v1/./completions", "/./v1/completions", "/v1/x/../completions",
    "/v1%2fcompletions", "/%761/completions", "/v1/completions/", "/V1/completions", "/v1/completions;a",
    "/v1/completions%00", "/livez/../v1/completions", "http://a/v1/completions", "/v1/completions?x=/livez",
    "/completions", "/v1/engines/a%2F..%2Flivez/completions", "/v1/models", "/tokenize", "/detokenize",
    "/tokenizer_info", "/v1/capabilities", "/debug/steps",
])
def test_no_spelling_of_a_path_gets_around_the_key(key_file, path):
    new_key(key_file)
    server = default_deny_server(key_file)
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({"prompt": PROMPT, "tokens": [5], "max_tokens": 1}).encode()
    for method in ("POST", "GET", "HEAD", "PUT", "OPTIONS"):
        with socket.create_connection((host, int(port)), timeout=30) as client:
            client.sendall(f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n"
                           f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert int(answer.split()[1]) in (400, 401, 404, 405), (method, path, answer)


shared_servers = {}


def default_deny_server(key_file):
    """One for all spellings."""
    if "deny" not in shared_servers:
        shared_servers["deny"] = Server("--api-key-file", key_file)
    return shared_servers["deny"]


@pytest.fixture(scope="module", autouse=True)
def stop_shared_servers():
    yield
    for server in shared_servers.values():
        server.stop()


def test_probes_and_metrics_can_need_a_key(key_file):
    key = new_key(key_file)
    headers = {"Authorization": f"Bearer {key}"}
    with Server("--api-key-file", key_file, "--probes-need-key", "--metrics-need-key") as server:
        for path in ("/livez", "/readyz", "/health", "/ping", "/metrics", "/version"):
            assert requests.get(server.url + path, timeout=10).status_code == 401, path
            assert requests.get(server.url + path, headers=headers, timeout=10).status_code == 200, path
    refused = run("serve", MODEL, "--port", 0, "--grpc-port", 0, "--metrics-need-key")
    assert refused.returncode == 2 and "--api-key-file" in refused.stderr


def test_the_ledger_has_a_line_for_each_request(key_file, tmp_path):
    key, usage = new_key(key_file), tmp_path / "usage.jsonl"
    usage.write_text('{"from":"an earlier run"}\n{"broken')
    with Server("--api-key-file", key_file, "--usage-log", usage) as server:
        whole = post(server, key, max_tokens=5, ignore_eos=True, user='ana "the\nfirst"', temperature=0).json()
        cached = post(server, key, prompt=PROMPT * 20, max_tokens=3, ignore_eos=True).json()
        cached = post(server, key, prompt=PROMPT * 20, max_tokens=3, ignore_eos=True, n=2).json()
        stream = requests.post(server.url + "/v1/completions", json=LONG, stream=True, timeout=60,
                               headers={"Authorization": f"Bearer {key}", "x-request-id": "left-early"})
        lines = stream.iter_lines()
        for _ in range(9):
            next(lines)
        stream.raw._fp.fp.raw._sock.shutdown(socket.SHUT_RDWR)
        stream.close()
        assert post(server, key, max_tokens=-1).status_code == 400
        wait_until(lambda: len(records(usage)) == 5, "the fifth line")
    earlier, first, _, third, left = records(usage)
    assert earlier == {"from": "an earlier run"}
    assert first["id"] == whole["id"] and first["key"] == key_id(key_file) and first["model"] == "demo-model"
    assert first["user"] == 'ana "the\nfirst"' and first["finish"] == "length"
    assert (first["prompt_tokens"], first["completion_tokens"]) == (
        whole["usage"]["prompt_tokens"], whole["usage"]["completion_tokens"])
    assert 0 < first["engine_seconds"] < 30
    assert third["completion_tokens"] == 6 and third["cached_tokens"] > 0
    assert third["cached_tokens"] == cached["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert left["request_id"] == "left-early" and left["finish"] == "cancelled"
    assert left["completion_tokens"] >= 4 and left["engine_seconds"] > 0
    assert PROMPT not in usage.read_text()


def test_the_ledger_cannot_stop_the_server(tmp_path, log):
    usage = tmp_path / "usage.jsonl"
    usage.symlink_to("/dev/full")
    with Server("--usage-log", usage, log=log) as server:
        assert [server.post({"prompt": PROMPT}).status_code for _ in range(3)] == [200] * 3
        wait_until(lambda: "usage_log_failed" in log.read_text(), "the line of the log")
        assert server.metric("optserve_usage_log_failures_total") >= 1
        usage.unlink()
        reload(server, log)
        wait_until(lambda: usage.exists() and len(records(usage)) == 3, "the lines that had waited")
        assert log.read_text().count("usage_log_failed") == 1
        assert server.metric("optserve_usage_records_lost_total") == 0
    refused = run("serve", MODEL, "--port", 0, "--grpc-port", 0, "--usage-log", tmp_path / "none" / "usage")
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1 and "usage" in refused.stderr


def test_the_ledger_is_rotated_by_sighup(tmp_path, log):
    usage = tmp_path / "usage.jsonl"
    with Server("--usage-log", usage, log=log) as server:
        server.complete(PROMPT)
        wait_until(lambda: usage.exists() and len(records(usage)) == 1, "the first line")
        usage.rename(tmp_path / "usage.1")
        reload(server, log)
        server.complete(PROMPT)
        wait_until(lambda: len(records(usage)) == 1, "the first line of the new file")
    assert len(records(tmp_path / "usage.1")) == 1


def test_sighup_reloads_keys_and_limits_and_keeps_them_when_the_file_is_broken(key_file, log):
    key = new_key(key_file)
    with Server("--api-key-file", key_file, log=log) as server:
        assert post(server, key).status_code == 200
        assert run("keys", "set", key_id(key_file), "--requests-per-minute", 1, "--api-key-file", key_file).returncode == 0
        added = new_key(key_file)
        assert post(server, added).status_code == 401
        reload(server, log)
        assert [post(server, key).status_code for _ in range(2)] == [200, 429]
        assert post(server, added).status_code == 200

        good = key_file.read_text()
        key_file.write_text(good + "nonsense\n")
        reload(server, log)
        failed, = [line for line in log.read_text().splitlines() if " reload_failed " in line]
        assert "what=api_keys" in failed and "line 3" in failed
        assert post(server, added).status_code == 200

        key_file.write_text(good)
        revoked = run("keys", "revoke", key_id(key_file), "--api-key-file", key_file)
        assert revoked.returncode == 0
        reload(server, log)
        assert post(server, key).status_code == 401
        assert post(server, added).status_code == 200


def test_sighup_reloads_the_log_level(tmp_path, log):
    config = tmp_path / "config.json"
    config.write_text('{"log_level": "info"}')
    with Server("--config", config, log=log) as server:
        server.complete(PROMPT)
        wait_until(lambda: log.read_text().count(" completion ") == 1, "the line of the completion")
        config.write_text('{"log_level": "warning"}')
        server.process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        wait_until(lambda: server.complete(PROMPT) and log.read_text().count(" completion ") <= 2, "quiet")
        quiet = log.read_text()
        server.complete(PROMPT)
        assert log.read_text() == quiet
        config.write_text('{"log_level": ')
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "reload_failed what=configuration" in log.read_text(), "the refusal")


def test_sighup_reloads_limits_of_both_protocols_and_keeps_them_when_the_file_is_broken(tmp_path, log, pb):
    messages, stubs = pb
    config = tmp_path / "config.json"
    config.write_text("{}")
    with Server("--config", config, log=log) as server, grpc.insecure_channel(server.grpc) as channel:
        call = stubs.CompletionStub(channel).Complete
        client = requests.Session()  # one connection, older than the new limits

        def status(**fields):
            return client.post(server.url + "/v1/completions", timeout=60,
                               json={"prompt": PROMPT, "max_tokens": 1, **fields}).status_code

        def limits():
            return client.get(server.url + "/v1/capabilities", timeout=10).json()["limits"]

        four = messages.CompletionRequest(prompt=[{"text": PROMPT}], max_tokens=1, n=4)
        assert status(n=4) == 200 and len(call(four).choices) == 4
        before = limits()

        config.write_text('{"max_choices": 3, "max_body_size": "2KiB", "max_connections": 900, "idle_timeout": 600, "max_queue": 5}')
        reload(server, log)
        assert status(n=3) == 200 and status(n=4) == 400 and status(prompt="x" * 3000) == 413
        with pytest.raises(grpc.RpcError) as refused:
            call(four)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        after = limits()
        changed = {"max_choices": 3, "body_bytes": 2048, "connections": 900, "idle_seconds": 600}
        assert after == before | changed  # max_queue is not among them
        text = log.read_text()
        assert "changed_options=max-choices,max-body-size,max-connections,idle-timeout " in text
        assert "needs_restart options=max-queue " in text

        # A wrong value among right ones: none of them holds.
        for broken in ('{"max_choices": 9, "max_body_size": "much"}', '{"max_choices": 9, "max_boddy_size": 1}', '{"max_choices": 9'):
            config.write_text(broken)
            failures = log.read_text().count("reload_failed what=configuration")
            reload(server, log)
            assert log.read_text().count("reload_failed what=configuration") == failures + 1
            assert limits() == after and status(n=4) == 400

        config.write_text("{}")
        reload(server, log)
        assert limits() == before and status(n=4) == 200 and len(call(four).choices) == 4


def test_no_key_and_no_prompt_is_written_anywhere(key_file, tmp_path, log):
    marker = "xyzzyPlughSecret"
    key, usage = new_key(key_file), tmp_path / "usage.jsonl"
    with Server("--api-key-file", key_file, "--usage-log", usage, log=log) as server:
        told = [post(server, key, prompt=marker).headers, post(server, key + marker).text,
                post(server, key, prompt=marker, n="x").text, post(server, key, prompt=marker, stop=[""]).text,
                post(server, key, prompt=marker * 2000).text, post(server, key, path=f"/{marker}").headers,
                requests.get(server.url + "/metrics", timeout=10).text]
        with requests.post(server.url + "/v1/completions", data=f'{{"prompt": "{marker}", "x',
                           headers={"Authorization": f"Bearer {key}"}, timeout=10) as response:
            told.append(response.text)
        processes = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
        for process in processes:
            told += process.cmdline()
            told += [pathlib.Path(f"/proc/{process.pid}/environ").read_bytes().decode(errors="replace")]
            told += [thread.name for thread in [process]]
        wait_until(lambda: usage.exists() and len(records(usage)) >= 1, "a line of the ledger")
    told += [log.read_text(), usage.read_text(), key_file.read_text()]
    for text in told:
        assert marker not in str(text) and key not in str(text)
