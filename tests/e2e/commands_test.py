"""The subcommands that end by themselves."""

import json

import pytest

from harness import MODEL, REFERENCE, run

CASE = REFERENCE[0]


@pytest.mark.parametrize("from_stdin", [False, True])
def test_generate_prints_the_completion(from_stdin):
    source = [] if from_stdin else ["--prompt", CASE["prompt"]]
    ended = run("generate", MODEL, *source, "--temperature", 0, "--max-tokens", CASE["max_tokens"],
                stdin=CASE["prompt"] if from_stdin else "")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.removesuffix("\n") == CASE["text"]


def test_tokenize_and_back():
    lines = "Call me Ishmael.\n  two spaces\n"
    ids = run("tokenize", MODEL, stdin=lines)
    assert ids.returncode == 0, ids.stderr
    assert json.loads(ids.stdout.splitlines()[0]) == REFERENCE[1]["prompt_ids"]
    assert run("tokenize", MODEL, "--decode", stdin=ids.stdout).stdout == lines


@pytest.mark.parametrize("args", [["--version"], ["--help"], ["serve", "--help"]])
def test_help_and_version_are_answers(args):
    ended = run(*args)
    assert ended.returncode == 0 and ended.stdout and not ended.stderr


@pytest.mark.parametrize("args", [["nonsense"], ["generate"], ["tokenize", "/nowhere"]])
def test_bad_usage_is_exit_code_2(args):
    ended = run(*args)
    assert ended.returncode == 2 and ended.stderr and not ended.stdout
