"""The llm command, with our server as one of its models."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from harness import REFERENCE

CASE = REFERENCE[0]
LLM = pathlib.Path(sys.executable).with_name("llm")


@pytest.fixture
def ask(server, tmp_path):
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: ours\n  model_name: {server.model}\n  api_base: {server.url}/v1\n  completion: true\n")

    def call(*args):
        command = [LLM, *args, "--key", "none"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120,
                              env={**os.environ, "LLM_USER_PATH": str(tmp_path)})
    call.logs = lambda: json.loads(subprocess.run(
        [LLM, "logs", "--json"], capture_output=True, text=True, timeout=120, check=True,
        env={**os.environ, "LLM_USER_PATH": str(tmp_path)}).stdout)
    return call


@pytest.mark.parametrize("streamed", [True, False])
def test_prompt(ask, streamed):
    ended = ask("-m", "ours", CASE["prompt"], "-o", "temperature", "0", "-o", "max_tokens", str(CASE["max_tokens"]),
                *([] if streamed else ["--no-stream"]))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == CASE["text"].strip()


def test_logprobs_are_kept_in_its_log(ask):
    ended = ask("-m", "ours", CASE["prompt"], "-o", "temperature", "0", "-o", "max_tokens", "4", "-o", "logprobs", "2",
                "--no-stream")
    assert ended.returncode == 0, ended.stderr
    logprobs = ask.logs()[0]["response_json"]["choices"][0]["logprobs"]["token_logprobs"]
    assert logprobs == pytest.approx(CASE["logprobs"][:4], abs=1e-3)


def test_an_error_is_shown(ask):
    ended = ask("-m", "ours", CASE["prompt"], "-o", "max_tokens", "100000")
    assert ended.returncode != 0 and "context" in ended.stderr
