"""optserve-cli as its users meet it: against the real server, in pipes and on a terminal."""

import json
import math
import os
import pty
import re
import select
import subprocess
import threading
import time

import pytest

from harness import BINARY, REFERENCE, Server, run

CLI = BINARY.parent / "optserve-cli"
CASE = REFERENCE[0]
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def cli(*args, address=None, stdin="", env=None):
    variables = {"PATH": os.environ["PATH"], "OPTSERVE_ADDRESS": address or "http://127.0.0.1:9", **(env or {})}
    return subprocess.run([str(CLI), *map(str, args)], input=stdin, capture_output=True, text=True, timeout=60,
                          env=variables)


def on_a_terminal(*args, address, seconds=20, env=None):
    """What the command writes to a terminal of 80 columns, until it ends."""
    master, slave = pty.openpty()
    variables = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "OPTSERVE_ADDRESS": address, **(env or {})}
    process = subprocess.Popen([str(CLI), *map(str, args)], stdin=slave, stdout=slave, stderr=subprocess.DEVNULL,
                               env=variables)
    os.close(slave)
    written, deadline = b"", time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not select.select([master], [], [], 0.1)[0]:
            continue
        try:
            written += os.read(master, 65536)
        except OSError:  # the other end is closed
            break
    assert process.wait(timeout=5) == 0
    os.close(master)
    return written.decode().replace("\r\n", "\n")


@pytest.fixture(params=["http", "grpc"])
def address(request, server):
    return server.url if request.param == "http" else f"grpc://{server.grpc}"


GREEDY = ["--temperature", 0, "--max-tokens", CASE["max_tokens"]]


@pytest.mark.parametrize("source", ["argument", "stdin", "file"])
def test_complete_prints_the_completion(address, source, tmp_path):
    file = tmp_path / "prompt"
    file.write_text(CASE["prompt"] + "\n")
    words = {"argument": [CASE["prompt"]], "stdin": [], "file": ["--file", file]}[source]
    ended = cli("complete", *words, *GREEDY, address=address, stdin=CASE["prompt"] if source == "stdin" else "")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == CASE["text"] + ("" if CASE["text"].endswith("\n") else "\n")


def test_several_prompts_are_told_apart(address):
    ended = cli("complete", CASE["prompt"], "Call me", *GREEDY, address=address)
    assert ended.stdout.startswith(f"==> {CASE['prompt']} <==\n{CASE['text'].rstrip()}")
    assert "\n\n==> Call me <==\n" in ended.stdout


def test_several_answers_are_those_of_the_server(address, server):
    ended = cli("complete", "Call me", "--n", 3, "--seed", 1, "--max-tokens", 4, address=address)
    texts = [choice["text"] for choice in
             server.post({"prompt": "Call me", "n": 3, "seed": 1, "max_tokens": 4}).json()["choices"]]
    assert ended.stdout == "\n".join(text.removesuffix("\n") + "\n" for text in texts)


def test_json_is_the_whole_answer(address, server):
    ended = cli("complete", CASE["prompt"], "Call me", *GREEDY, "--logprobs", 2, "--json", "--return-token-ids",
                address=address)
    first, second = map(json.loads, ended.stdout.splitlines())
    choice = first["choices"][0]
    assert choice["text"] == CASE["text"] and choice["token_ids"] == CASE["ids"]
    assert [score["token"]["token_id"] for score in choice["logprobs"]] == CASE["ids"]
    assert second["usage"]["completion_tokens"] == len(second["choices"][0]["token_ids"])


def test_stats_go_to_standard_error(address):
    ended = cli("complete", CASE["prompt"], *GREEDY, "--stats", address=address)
    assert re.fullmatch(rf"{len(CASE['ids'])} tokens in [0-9.]+ s, first after [0-9.]+ s, [0-9.]+ tokens/s\n", ended.stderr)


# --- colour ------------------------------------------------------------------------------------------------------------

def test_probabilities_have_colours_on_a_terminal(server):
    written = on_a_terminal("complete", CASE["prompt"], *GREEDY, "--probabilities", address=server.url)
    painted = re.findall(r"\x1b\[38;5;(\d+)m([^\x1b]*)\x1b\[0m", written)
    answer = server.complete(CASE["prompt"], max_tokens=CASE["max_tokens"], logprobs=0)["choices"][0]
    pieces = [(math.exp(logprob), token) for token, logprob in
              zip(answer["logprobs"]["tokens"], answer["logprobs"]["token_logprobs"]) if token.strip("\n")]
    assert len(painted) == len(pieces)
    for (color, _), (probability, _) in zip(painted, pieces):
        expected = next(shade for bound, shade in [(.8, 34), (.5, 148), (.2, 220), (.05, 208), (0, 196)]
                        if probability >= bound)
        assert int(color) == expected
    assert ESCAPE.sub("", written).rstrip("\n") == CASE["text"].rstrip("\n")


@pytest.mark.parametrize("env, args", [({"NO_COLOR": "1"}, []), ({"TERM": "dumb"}, []), ({}, ["--color", "never"])])
def test_who_wants_no_colour_gets_none(server, env, args):
    written = on_a_terminal("complete", CASE["prompt"], *GREEDY, "--probabilities", *args, address=server.url, env=env)
    assert "\x1b" not in written and written.rstrip("\n") == CASE["text"].rstrip("\n")


def test_a_pipe_gets_plain_text_unless_it_asks(server):
    plain = cli("complete", CASE["prompt"], *GREEDY, "--probabilities", address=server.url)
    assert "\x1b" not in plain.stdout + plain.stderr
    always = cli("complete", CASE["prompt"], *GREEDY, "--probabilities", "--color", "always", address=server.url)
    assert "\x1b[38;5;" in always.stdout and ESCAPE.sub("", always.stdout) == plain.stdout


# --- score, tokenize, models -------------------------------------------------------------------------------------------

def likelihood(server, text):
    scores = server.complete(text, max_tokens=0, echo=True, logprobs=0)["choices"][0]["logprobs"]["token_logprobs"]
    return sum(scores[1:]), len(scores) - 1


def test_score_is_a_line_for_each_text(address, server, tmp_path):
    texts = ["Call me Ishmael.", "It was the best of times", "caf\u00e9 \U0001f600"] * 3
    file = tmp_path / "texts"
    file.write_text("\n".join(texts) + "\n")
    ended = cli("score", file, "--batch-size", 4, address=address)
    assert ended.returncode == 0
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [(line["index"], line["text"]) for line in lines] == list(enumerate(texts))
    for line in lines:
        expected, count = likelihood(server, line["text"])
        assert line["tokens"] == count
        assert line["log_likelihood"] == pytest.approx(expected, abs=1e-4)
        assert line["perplexity"] == pytest.approx(math.exp(-expected / count), rel=1e-5)
    total = sum(line["log_likelihood"] for line in lines) / sum(line["tokens"] for line in lines)
    assert ended.stderr == f"9 texts, {sum(line['tokens'] for line in lines)} tokens, perplexity {math.exp(-total):.4f}\n"


def test_a_text_that_the_server_refuses_does_not_stop_the_others(address):
    ended = cli("score", stdin="Call me\n\n" + "word " * 3000 + "\nIshmael\n", address=address)
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 1 and "2 refused" in ended.stderr
    assert ["error" in line for line in lines] == [False, True, True, False]
    assert "1024" in lines[2]["error"]


def test_texts_may_be_members_of_json_lines_or_whole_files(server, tmp_path):
    ended = cli("score", "--json-field", "body", stdin=json.dumps({"body": "a\nb"}) + "\n", address=server.url)
    whole = tmp_path / "whole"
    whole.write_text("a\nb\n")
    other = cli("score", "--whole-files", whole, address=server.url)
    assert ended.stdout == other.stdout and json.loads(ended.stdout)["text"] == "a\nb"
    bad = cli("score", "--json-field", "body", stdin='{"body":"x"}\n{"text":"y"}\n', address=server.url)
    assert (bad.returncode, bad.stdout) == (2, "") and "line 2" in bad.stderr and "'body'" in bad.stderr


def test_tokenize_and_back(address):
    lines = "Call me Ishmael.\n  two spaces\n\n"
    ids = cli("tokenize", "--no-special-tokens", stdin=lines, address=address)
    assert ids.returncode == 0, ids.stderr
    assert [2, *json.loads(ids.stdout.splitlines()[0])] == REFERENCE[1]["prompt_ids"]
    assert cli("tokenize", "--decode", stdin=ids.stdout, address=address).stdout == lines
    assert json.loads(cli("tokenize", stdin=lines, address=address).stdout.splitlines()[0]) == REFERENCE[1]["prompt_ids"]
    bad = cli("tokenize", "--decode", stdin="[5]\nnonsense\n", address=address)
    assert bad.returncode == 2 and "line 2" in bad.stderr


def test_models_are_listed(address, server):
    assert cli("models", address=address).stdout == f"{server.model}  1024 tokens\n"
    assert json.loads(cli("models", "--json", address=address).stdout)["id"] == server.model


# --- watch -------------------------------------------------------------------------------------------------------------

def test_watch_sees_what_the_server_does(server):
    """While a request runs, its tokens and its sequence are in the lines."""
    body = {"prompt": "Call me", "max_tokens": 900, "ignore_eos": True, "n": 8}
    request = threading.Thread(target=server.post, args=[body])
    request.start()
    ended = cli("watch", "--interval", 0.2, "--count", 6, "--json", address=server.url)
    request.join()
    looks = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(looks) == 6
    busiest = max(looks, key=lambda look: look["generation_tokens_per_second"])
    assert max(look["running"] for look in looks) == 8 and busiest["generation_tokens_per_second"] > 4
    assert max(look["kv_usage"] for look in looks) > 0
    assert 0 < busiest["inter_token_latency_p50"] <= busiest["inter_token_latency_p99"]


def test_watch_is_lines_in_a_pipe_and_a_view_on_a_terminal(server):
    piped = cli("watch", "--interval", 0.1, "--count", 2, address=server.url)
    assert len(piped.stdout.splitlines()) == 2 and "\x1b" not in piped.stdout
    assert piped.stdout.startswith("running 0  waiting 0  kv 0.0 %")
    written = on_a_terminal("watch", "--interval", 0.1, "--count", 2, address=server.url)
    assert written.startswith("\x1b[?1049h") and written.endswith("\x1b[?25h\x1b[?1049l")  # the screen is given back
    view = ESCAPE.sub("", written)
    assert "sequences     0 running, 0 waiting" in view and "KV cache" in view and server.url in view
    assert max(len(line) for line in view.split("\n")) <= 80


def test_watch_waits_for_a_server_that_went_away():
    with Server() as server:
        watching = subprocess.Popen([str(CLI), "watch", "--interval", "0.1", "--count", "5", "--address", server.url],
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert "running" in watching.stdout.readline()
    _, errors = watching.communicate(timeout=60)
    assert watching.returncode == 0 and "Connection refused" in errors


# --- what goes wrong ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "grpc://127.0.0.1:9"])
def test_without_a_server_the_error_says_what_to_do(address):
    for command in (["complete", "x"], ["models"], ["score"], ["tokenize"], ["watch"]):
        if command == ["watch"] and address.startswith("grpc"):
            continue
        ended = cli(*command, address=address, stdin="x\n")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "onnection refused" in ended.stderr
        assert f"no server answers at {address}: start one with 'optserve serve MODEL'" in ended.stderr


def test_the_wrong_port_is_recognised(server):
    grpc_port, http_port = server.grpc.split(":")[1], server.url.rsplit(":", 1)[1]
    assert "grpc://" in cli("models", address=f"http://127.0.0.1:{grpc_port}").stderr
    assert "http://" in cli("models", "--timeout", 5, address=f"grpc://127.0.0.1:{http_port}").stderr
    assert "may not speak TLS" in cli("models", address=f"https://127.0.0.1:{http_port}").stderr
    assert "http://" in cli("watch", address=f"grpc://{server.grpc}").stderr


@pytest.mark.parametrize("args, says", [
    ([], "subcommand is required"), (["nonsense"], "there is no command 'nonsense'"), (["complete", "x", "--nonsense"], "--nonsense"),
    (["complete", "x", "--max-tokens", "many"], "max_tokens is 'many'"), (["complete", "x", "--temperature", 9], "temperature"),
    (["complete", "x", "--model", "other"], "other"), (["complete", "--file", "/no/such"], "/no/such"),
    (["score", "/no/such"], "/no/such"), (["models", "--address", "localhost:8000"], "write http://HOST:PORT"),
    (["models", "--api-key-file", "/no/such"], "/no/such"), (["watch", "--interval", 0], "interval"),
    (["models", "--address", "https://localhost:1", "--ca-file", "/no/such"], "/no/such"),
    (["completion", "powershell"], "bash, zsh and fish"), (["--verison"], "no option '--verison'"),
], ids=str)
def test_bad_usage_is_exit_code_2(server, args, says):
    ended = cli(*args, address=server.url)
    assert (ended.returncode, ended.stdout) == (2, "") and says in ended.stderr
    assert ended.stderr.startswith("optserve-cli: ")


def test_a_timeout_says_how_to_get_more_time(address):
    ended = cli("complete", "Call me", "--max-tokens", 900, "--ignore-eos", "--timeout", 0.05, address=address)
    assert ended.returncode == 1 and "--timeout gives it more" in ended.stderr


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_keys_are_shown_and_asked_for(protocol, tmp_path):
    keys = tmp_path / "keys"
    key = run("keys", "new", "--name", "ana", "--api-key-file", keys).stdout.split()[-1]
    (tmp_path / "mine").write_text(key + "\n")
    with Server("--api-key-file", keys) as server:
        address = server.url if protocol == "http" else f"grpc://{server.grpc}"
        assert cli("models", address=address, env={"OPTSERVE_API_KEY": key}).returncode == 0
        assert cli("models", "--api-key-file", tmp_path / "mine", address=address).returncode == 0
        refused = cli("models", address=address)
        assert refused.returncode == 2 and "--api-key-file" in refused.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_learn_the_commands(shell):
    script = cli("completion", shell)
    assert script.returncode == 0 and "tokenize" in script.stdout and "max-tokens" in script.stdout
    assert "optserve-cli" in script.stdout


def test_bash_completes_commands_and_flags(tmp_path):
    script = tmp_path / "completion"
    script.write_text(cli("completion", "bash").stdout)
    typed = f'. {script}; COMP_WORDS=(optserve-cli score --ba); COMP_CWORD=2; _optserve_cli; echo "${{COMPREPLY[@]}}"'
    assert subprocess.run(["bash", "-c", typed], capture_output=True, text=True, timeout=10).stdout == "--batch-size\n"


@pytest.mark.parametrize("args", [["--version"], ["--help"], ["complete", "--help"]])
def test_help_and_version_are_answers(args):
    ended = cli(*args)
    assert ended.returncode == 0 and ended.stdout and not ended.stderr


def test_the_command_line_links_no_engine():
    """Nothing of engine, kernels or server is in the binary: it holds names of none of their files."""
    names = subprocess.run(["nm", "-C", CLI], capture_output=True, text=True, timeout=60)
    assert "optserve::client::" in names.stdout
    for name in ("optserve::Scheduler", "optserve::OptModel", "optserve::Tokenizer", "optserve::HttpServer"):
        assert name not in names.stdout
