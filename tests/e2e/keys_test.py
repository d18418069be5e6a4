"""API keys, from the command that makes them to the requests that need them."""

import grpc
import pytest
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc

from harness import MODEL, Server, run

BODY = {"prompt": "Call me Ishmael.", "max_tokens": 2}


@pytest.fixture
def key_file(tmp_path):
    return tmp_path / "keys"


def new_key(key_file, name="a test"):
    made = run("keys", "new", "--api-key-file", key_file, "--name", name)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def complete(server, key=None, **headers):
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    return requests.post(server.url + "/v1/completions", json=BODY, headers=headers, timeout=60)


def test_keys_are_made_listed_and_revoked(key_file):
    first, second = new_key(key_file, "Ana"), new_key(key_file, "Ben")
    assert first != second and first.startswith("sk-")
    assert first not in key_file.read_text() and key_file.stat().st_mode & 0o777 == 0o600
    listed = run("keys", "list", "--api-key-file", key_file).stdout.splitlines()
    assert [line.split()[-1] for line in listed] == ["Ana", "Ben"]
    assert run("keys", "revoke", listed[0].split()[0], "--api-key-file", key_file).returncode == 0
    assert [line.split()[-1] for line in run("keys", "list", "--api-key-file", key_file).stdout.splitlines()] == ["Ben"]


def test_only_who_has_a_key_is_served(key_file):
    key = new_key(key_file)
    with Server("--api-key-file", key_file) as server:
        assert complete(server, key).status_code == 200
        for response in complete(server), complete(server, "sk-wrong"), complete(server, key[:-1]):
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (401, "invalid_api_key")
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert key not in response.text
        assert requests.get(server.url + "/v1/models", timeout=10).status_code == 401
        for path in ("/livez", "/readyz", "/metrics"):
            assert requests.get(server.url + path, timeout=10).status_code == 200
        with grpc.insecure_channel(server.grpc) as channel:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            models = channel.unary_unary("/optserve.v1.Completion/ListModels")
            with pytest.raises(grpc.RpcError) as refused:
                models(b"", timeout=10)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
            assert models(b"", timeout=10, metadata=[("authorization", f"Bearer {key}")])


def test_ten_bad_keys_are_enough(key_file):
    key = new_key(key_file)
    with Server("--api-key-file", key_file) as server:
        assert [complete(server, "sk-guess").status_code for _ in range(11)] == [401] * 10 + [429]
        assert int(complete(server, "sk-guess").headers["Retry-After"]) <= 61
        assert complete(server, key).status_code == 200


@pytest.mark.parametrize("args, says", [
    (["keys", "sell", "--api-key-file", "{file}"], "sell"),
    (["keys", "revoke", "--api-key-file", "{file}"], "ID"),
    (["keys", "revoke", "key-00000000", "--api-key-file", "{file}"], "key-00000000"),
    (["keys", "list", "--api-key-file", "{file}.none"], "{file}.none"),
    (["keys", "new"], "--api-key-file"),
    (["serve", str(MODEL), "--api-key-file", "{file}.none", "--port", "0", "--grpc-port", "0"], "{file}.none"),
])
def test_what_is_wrong_is_one_line_and_exit_code_2(key_file, args, says):
    new_key(key_file)
    ended = run(*[arg.format(file=key_file) for arg in args])
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1 and says.format(file=key_file) in ended.stderr
