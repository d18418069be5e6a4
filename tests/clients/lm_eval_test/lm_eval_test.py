"""lm-evaluation-harness, pointed at our server: the scores of its own Hugging Face model, whichever way it asks.

reference.json has those scores; make_reference.py makes it.

Ids, lm-eval's default, are scored as they come. For texts lm-eval counts the tokens of the context itself, without the BOS
that OPT's tokenizer puts in front and so does the server, and has no way to ask for texts without it; with add_bos_token it
sends BOS as text, which OPT's tokenizer answers with two. Scores of texts are therefore right where the tokenizer adds none:
serve a copy of the model whose tokenizer_config.json says "add_bos_token": false. What is generated is right either way.
"""

import json
import pathlib
import shutil

import pytest

from evaluation import CONTEXT, evaluate
from harness import MODEL, Server

REFERENCE = json.loads((pathlib.Path(__file__).parent / "reference.json").read_text())


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("datasets")


def scores(server, cache, batch_size, num_concurrent, names=("choice", "rolling", "generate"), **model_args):
    args = {"model": server.model, "base_url": server.url + "/v1/completions", "tokenizer_backend": "remote",
            "max_length": CONTEXT, "num_concurrent": num_concurrent, "max_retries": 1, **model_args}
    return evaluate("local-completions", args, cache, names, batch_size=batch_size)


def check(ours, theirs):
    for name, score in ours.items():
        assert len(score["answers"]) == len(theirs[name]["answers"])
        for mine, other in zip(score["answers"], theirs[name]["answers"]):
            assert same(mine, other), f"{name}: {mine} is not {other}"
        assert score["metrics"] == pytest.approx(theirs[name]["metrics"], abs=1e-3)


def same(mine, other):
    if isinstance(mine, (list, tuple)):
        return len(mine) == len(other) and all(map(same, mine, other))
    return mine == pytest.approx(other, abs=1e-3) if isinstance(mine, float) else mine == other


@pytest.mark.parametrize("batch_size, num_concurrent", [(1, 1), (8, 1), (1, 8), (8, 8)])
def test_scores_of_ids_are_those_of_transformers(server, cache, batch_size, num_concurrent):
    check(scores(server, cache, batch_size, num_concurrent), REFERENCE["ids"])


@pytest.fixture(scope="module")
def server_without_bos(tmp_path_factory):
    model = tmp_path_factory.mktemp("model") / "demo-model"
    shutil.copytree(MODEL, model)
    file = model / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "add_bos_token": False}))
    with Server(model=model) as running:
        yield running


@pytest.mark.parametrize("batch_size, num_concurrent", [(1, 1), (8, 1), (1, 8), (8, 8)])
def test_scores_of_texts_are_those_of_transformers(server_without_bos, cache, batch_size, num_concurrent):
    ours = scores(server_without_bos, cache, batch_size, num_concurrent, tokenized_requests=False)
    check(ours, REFERENCE["ids"])


@pytest.mark.parametrize("batch_size, num_concurrent", [(1, 1), (8, 8)])
def test_texts_are_continued_as_transformers_does(server, cache, batch_size, num_concurrent):
    ours = scores(server, cache, batch_size, num_concurrent, names=["generate"], tokenized_requests=False)
    check(ours, REFERENCE["text"])
