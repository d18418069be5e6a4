"""The commands of server/README.md do what it says."""

import json
import re
import subprocess

import pytest

from harness import ROOT, Server

README = (ROOT / "server/README.md").read_text()
LINES = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("curl ")]
SUMMARIES = [line for line in LINES if line.startswith("jq ")]


def test_there_are_examples():
    assert len(COMMANDS) >= 8 and len(SUMMARIES) == 1
    assert len(LINES) == len(COMMANDS) + len(SUMMARIES)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_example_succeeds(server, command):
    command = command.replace("http://127.0.0.1:8000", server.url).replace("curl ", "curl -sS --fail-with-body ", 1)
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout
    if '"stream": true' in command:
        assert ended.stdout.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("command", SUMMARIES)
def test_a_summary_of_the_usage_log_adds_it_up(command, tmp_path):
    with Server("--usage-log", tmp_path / "usage.jsonl") as server:
        usages = [server.complete("The sea", max_tokens=4)["usage"] for _ in range(2)]
    ended = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    [of_all] = json.loads(ended.stdout)
    assert of_all["tokens"] == sum(usage["total_tokens"] for usage in usages)
    assert of_all["seconds"] > 0
