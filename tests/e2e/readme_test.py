"""The curl lines of server/README.md do what it says."""

import re
import subprocess

import pytest

from harness import ROOT

README = (ROOT / "server/README.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]


def test_there_are_examples():
    assert len(COMMANDS) >= 8 and all(command.startswith("curl ") for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_example_succeeds(server, command):
    command = command.replace("http://127.0.0.1:8000", server.url).replace("curl ", "curl -sS --fail-with-body ", 1)
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout
    if '"stream": true' in command:
        assert ended.stdout.endswith("data: [DONE]\n\n")
