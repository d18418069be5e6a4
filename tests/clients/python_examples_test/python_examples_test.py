"""The programs of clients/python, each run as its users would, against the real server."""

import json
import math
import os
import re
import struct
import subprocess
import sys

import pytest

from harness import REFERENCE, ROOT, Server, run

EXAMPLES = ROOT / "clients/python"
CASE = REFERENCE[0]
TEXTS = [case["prompt"] + case["text"] for case in REFERENCE]


def example(name, *args, server=None, path="", code=0, **env):
    environment = {**os.environ, "PYTHONPATH": str(path), "OPENAI_API_KEY": "none", **env}
    if server is not None:
        environment["OPENAI_BASE_URL"] = server.url + "/v1"
    ended = subprocess.run([sys.executable, EXAMPLES / name, *map(str, args)], capture_output=True, text=True, timeout=180,
                           env=environment)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended


def test_complete_shows_tokens_with_their_probabilities(server):
    lines = example("complete.py", CASE["prompt"], server=server).stdout.split("\n")
    choice = server.complete(CASE["prompt"], max_tokens=8, logprobs=2)["choices"][0]
    count = CASE["prompt"].count("\n") + choice["text"].count("\n")
    assert "\n".join(lines[:count + 1]) == CASE["prompt"] + choice["text"]
    tokens = lines[count + 1:-2]
    assert len(tokens) == 8
    for line, token, logprob in zip(tokens, choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"]):
        assert line.startswith(f"{math.exp(logprob):.2f}  {token!r}  instead of ")
    assert lines[-2] == f"{len(CASE['prompt_ids'])} + 8 tokens, length"


def test_stream_prints_what_the_server_says_at_once(server):
    ended = example("stream.py", CASE["prompt"], server=server)
    whole = server.post({"prompt": CASE["prompt"], "max_tokens": 40, "temperature": 0.8, "seed": 7, "top_k": 50,
                         "repetition_penalty": 1.1}).json()
    assert ended.stdout == CASE["prompt"] + whole["choices"][0]["text"]
    said = re.search(r"(\d+) tokens in ([0-9.]+) s, the first after ([0-9.]+) s", ended.stderr)
    assert int(said[1]) == whole["usage"]["completion_tokens"] and 0 < float(said[3]) <= float(said[2])


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    """Made by the command in the example's head."""
    out = tmp_path_factory.mktemp("stubs")
    command = re.search(r"python (-m grpc_tools.protoc .*)", (EXAMPLES / "grpc_stream.py").read_text())[1]
    subprocess.run([sys.executable, *command.replace("=stubs", f"={out}").split()], cwd=EXAMPLES, check=True)
    return out


def test_grpc_stream_says_what_http_says(server, stubs):
    ended = example("grpc_stream.py", server.grpc, CASE["prompt"], path=stubs)
    choice = server.complete(CASE["prompt"], max_tokens=16, logprobs=0)["choices"][0]
    text, _, likelihood = ended.stdout.rstrip("\n").rpartition("\nlog likelihood ")
    assert text == CASE["prompt"] + choice["text"]
    assert float(likelihood) == pytest.approx(sum(choice["logprobs"]["token_logprobs"]), abs=2e-3)


def test_grpc_stream_shows_its_key_and_says_what_went_wrong(stubs, tmp_path):
    keys = tmp_path / "keys"
    key = run("keys", "new", "--name", "ana", "--api-key-file", keys).stdout.split()[-1]
    with Server("--api-key-file", keys) as server:
        example("grpc_stream.py", server.grpc, "x", path=stubs, OPTSERVE_API_KEY=key)
        assert "UNAUTHENTICATED" in example("grpc_stream.py", server.grpc, "x", path=stubs, code=1).stderr


def test_lm_eval_scores_the_texts(server, tmp_path):
    pages = tmp_path / "pages.jsonl"
    pages.write_text("".join(json.dumps({"page": text}) + "\n" for text in TEXTS))
    ended = example("score_lm_eval.py", server.url, pages)
    printed = dict(line.split("\t") for line in ended.stdout.splitlines() if "\t" in line)
    # lm-eval puts the end-of-text token in front, as OPT's tokenizer does, and scores each token of the text.
    scores = [server.complete(text, max_tokens=0, echo=True, logprobs=0)["choices"][0]["logprobs"]["token_logprobs"][1:]
              for text in TEXTS]
    total, bytes_ = sum(map(sum, scores)), sum(len(text.encode()) for text in TEXTS)
    assert float(printed["byte_perplexity"]) == pytest.approx(math.exp(-total / bytes_), abs=1e-3)
    assert float(printed["bits_per_byte"]) == pytest.approx(-total / bytes_ / math.log(2), abs=1e-3)


def test_perplexity_by_position_is_printed_and_plotted(server, tmp_path):
    texts, plot = tmp_path / "texts.txt", tmp_path / "plot.png"
    texts.write_text("\n\n".join(text.replace("\n\n", "\n") for text in TEXTS), encoding="utf-8")
    ended = example("perplexity_by_position.py", texts, plot, server=server, MPLCONFIGDIR=str(tmp_path))
    losses = []
    for text in texts.read_text(encoding="utf-8").split("\n\n"):
        scores = server.complete(text, max_tokens=0, echo=True, logprobs=0)["choices"][0]["logprobs"]["token_logprobs"]
        losses.append([-score for score in scores[1:]])
    count = sum(map(len, losses))
    lines = ended.stdout.splitlines()
    assert lines[0] == f"{len(losses)} texts, {count} tokens, perplexity {math.exp(sum(map(sum, losses)) / count):.2f}"
    rows = [line.split() for line in lines[2:-1]]
    assert sum(int(row[2]) for row in rows) == count
    first = [loss for text in losses for loss in text[:4]]
    assert float(rows[0][1]) == pytest.approx(math.exp(sum(first) / len(first)), abs=0.01)
    image = plot.read_bytes()
    assert image.startswith(b"\x89PNG") and struct.unpack(">II", image[16:24]) == (840, 480)


def test_every_example_is_tested():
    tested = (ROOT / "tests/clients/python_examples_test/python_examples_test.py").read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f'example("{path.name}"' in tested, path.name
