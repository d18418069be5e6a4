"""What clients/README.md shows of optserve-cli is what it prints."""

import os
import re
import subprocess

import pytest

from harness import BINARY, ROOT

README = (ROOT / "clients/README.md").read_text(encoding="utf-8")


def transcripts():
    """(command, what is printed behind it) of all ```console blocks, in order."""
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            yield command, printed


def without_times(text):
    return re.sub(r"[0-9.]+ (s|tokens/s)\b", r"N \1", text)


def test_there_are_transcripts():
    assert len(list(transcripts())) >= 8


@pytest.mark.parametrize("command, printed", transcripts(), ids=lambda text: text[:40])
def test_a_command_prints_what_the_readme_shows(server, tmp_path, command, printed):
    environment = {**os.environ, "PATH": f"{BINARY.parent}:{os.environ['PATH']}", "OPTSERVE_ADDRESS": server.url}
    ended = subprocess.run(["bash", "-c", command], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           timeout=60, env=environment)
    assert without_times(ended.stdout) == without_times(printed)
