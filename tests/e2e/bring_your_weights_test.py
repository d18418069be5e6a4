"""Every command of the README's section "Bring your weights", run as it is written there, on models laid out as it says."""

import json
import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess

import pytest
import requests

from harness import BINARY, READY, ROOT

SECTION = re.search(r"## Bring your weights\n(.*?)\n## ", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
COMMANDS = re.findall(r"`(build/release/optserve [^`]*)`", SECTION)
MODELS = ROOT / "tests/data/golden/models"

# Which golden model stands for which of the README's: folder -> (its files, whether they are answered for).
STANDS_FOR = {
    "models/opt-1.3b": "sharded_safetensors",
    "models/opt-175b": "metaseq_fsdp",
    "models/opt-30b": "metaseq_mp4",
    "models/mine": "metaseq_mp2",
    "models/opt-125m": "preln_d64",
}


def expected_ids(name):
    """The first known prompt of a golden model, and the tokens that go on from it."""
    case, = [case for case in json.loads((MODELS.parent / "cases.json").read_text()) if case["name"] == name]
    prompt = json.loads((MODELS.parent / case["expected"]).read_text())["prompts"][0]
    return prompt["ids"], prompt["greedy"]["ids"]


@pytest.fixture
def work(tmp_path):
    """A folder in which the README's commands can be typed."""
    (tmp_path / "build/release").mkdir(parents=True)
    (tmp_path / "build/release/optserve").symlink_to(BINARY)
    for folder, golden in STANDS_FOR.items():
        shutil.copytree(MODELS / golden, tmp_path / folder)
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(MODELS / "preln_d64" / name, tmp_path / "models/opt-175b" / name)
    shutil.move(tmp_path / "models/mine/config.json", tmp_path / "mine.json")
    repository = tmp_path / "cache/hub/models--facebook--opt-125m"
    for folder in ("refs", "blobs", "snapshots/1"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs/main").write_text("1")
    for file in (MODELS / "preln_d64").iterdir():
        shutil.copyfile(file, repository / "blobs" / f"blob-{file.name}")
        (repository / "snapshots/1" / file.name).symlink_to(f"../../blobs/blob-{file.name}")
    return tmp_path


def environment(work):
    return {**os.environ, "HF_HOME": str(work / "cache"), "OPTSERVE_PORT": "0", "OPTSERVE_GRPC_PORT": "0"}


def golden_of(model):
    return STANDS_FOR.get(model, "preln_d64" if model == "facebook/opt-125m" else None)


def test_there_is_a_command_for_each_situation():
    said = {shlex.split(command)[1] for command in COMMANDS}
    assert len(COMMANDS) >= 9 and said == {"serve", "inspect", "verify", "convert", "plan", "doctor"}
    for option in ("--verify", "--model-config", "--tokenizer", "--tensor-parallel-size"):
        assert any(option in command for command in COMMANDS)


@pytest.mark.parametrize("command", [command for command in COMMANDS if " serve " in command])
def test_what_is_served_answers(command, work):
    process = subprocess.Popen(shlex.split(command), cwd=work, env=environment(work), stdout=subprocess.PIPE, text=True)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            assert selector.select(30), "no ready line within 30 s"
        url = READY.fullmatch(process.stdout.readline().strip()).group(1)
        prompt, greedy = expected_ids(golden_of(shlex.split(command)[2]))
        answer = requests.post(url + "/v1/completions", timeout=60, json={
            "prompt": prompt, "max_tokens": 4, "temperature": 0, "ignore_eos": True, "return_token_ids": True}).json()
        assert answer["choices"][0]["token_ids"] == greedy[:4]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize("command", [command for command in COMMANDS if " serve " not in command])
def test_what_ends_ends_well(command, work):
    ended = subprocess.run(shlex.split(command), cwd=work, env=environment(work), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0 and ended.stdout, ended.stderr
    if " convert " not in command:
        return
    target = shlex.split(command)[3]
    assert list((work / target).glob("*.safetensors"))
    seen = subprocess.run([BINARY, "verify", work / target], capture_output=True, text=True, timeout=60)
    assert seen.returncode == 0, seen.stderr
