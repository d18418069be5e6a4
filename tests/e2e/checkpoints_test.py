"""Every unusual and broken checkpoint of tests/data/golden/corrupt, served by the real binary: what it says, how long it
takes, how much memory, and which files it opens."""

import json
import math
import os
import pathlib
import re
import selectors
import shutil
import signal
import subprocess
import time

import pytest
import requests

from harness import BINARY, READY, ROOT

GOLDEN = ROOT / "tests/data/golden"
MANIFEST = json.loads((GOLDEN / "corrupt/manifest.json").read_text())
MODELS = sorted(path.name for path in (GOLDEN / "models").iterdir())

MOST_SECONDS = 1.0
MOST_BYTES = 100e6
TOLERANCE = 5e-5


def lay(root, entry):
    """Makes the folder of an entry, and that of the neighbour that one of them climbs out to."""
    for laid in MANIFEST["entries"]:
        if laid["path"] not in (entry["path"], "ok_plain"):
            continue
        folder = root / laid["path"]
        folder.mkdir(exist_ok=True)
        for name, source in laid["files"].items():
            shutil.copyfile(GOLDEN / "corrupt" / source, folder / name)
    return root / entry["path"]


class Started:
    """`serve --verify` of a folder, until it is ready or has ended."""

    def __init__(self, folder):
        began = time.monotonic()
        self.process = subprocess.Popen([BINARY, "serve", folder, "--port", "0", "--no-grpc", "--verify", "--threads", "1"],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(30), "neither ready nor ended within 30 s"
        self.line = self.process.stdout.readline()
        self.seconds = time.monotonic() - began

    def end(self):
        """Exit code (negative: a signal), what it printed, and what it and its engine used: computing time, most memory."""
        if self.line:
            self.process.send_signal(signal.SIGTERM)
        errors, output = self.process.stderr.read(), self.line + self.process.stdout.read()
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return self.process.returncode, output, errors, usage


@pytest.fixture(scope="module")
def control(tmp_path_factory):
    """What a right model of the same size takes: (seconds, bytes)."""
    entry = next(entry for entry in MANIFEST["entries"] if entry["path"] == "ok_plain")
    folder = lay(tmp_path_factory.mktemp("control"), entry)
    runs = []
    for _ in range(3):
        started = Started(folder)
        runs.append((started.seconds, started.end()[3].ru_maxrss * 1024))
    return tuple(min(column) for column in zip(*runs))


def check_numbers(url):
    expected = MANIFEST["ok_expected"]
    answer = requests.post(url + "/v1/completions", timeout=60, json={
        "prompt": expected["ids"], "max_tokens": 1, "echo": True, "logprobs": 0, "temperature": 0,
        "return_token_ids": True}).json()
    scores = answer["choices"][0]["logprobs"]["token_logprobs"]
    for score, right in zip(scores[1:], expected["token_logprobs"][1:]):
        assert math.isclose(score, right, abs_tol=TOLERANCE)


@pytest.mark.parametrize("entry", MANIFEST["entries"], ids=lambda entry: entry["path"])
def test_an_entry_does_what_the_manifest_says(entry, control, tmp_path, record_property):
    started = Started(lay(tmp_path, entry))
    if started.line:
        check_numbers(READY.fullmatch(started.line.strip()).group(1))
    code, output, errors, used = started.end()
    assert MANIFEST["canary"] not in output + errors
    assert used.ru_maxrss * 1024 - control[1] < MOST_BYTES
    # What was computed in, which no other load of the machine stretches; and that nothing was waited for: a right model,
    # just before, is what a start takes here and now.
    computing = used.ru_utime + used.ru_stime
    print(f"{started.seconds:.3f} s, {computing:.3f} s of them computing; a right model {control[0]:.3f} s")
    assert computing < MOST_SECONDS
    assert started.seconds < max(MOST_SECONDS, 3 * control[0])
    if started.line:
        assert code == 0 and entry["expect"].startswith("load")
        return
    assert (code, output) == (2, "") and "refuse" in entry["expect"], errors
    assert len(errors.splitlines()) == 1 and errors.startswith("optserve: ") and len(errors) < 1000
    for names in entry["error_should_name"]:
        assert any(name in errors for name in names.split("|")), f"{names} is not in: {errors}"


# Where a program's own files are; what else it opens must be the model's.
SYSTEM = re.compile(r"/(etc/(ld\.so\.cache|localtime|ssl/|nsswitch\.conf|host\.conf|resolv\.conf|hosts|gai\.conf)|lib|usr/|proc/|"
                    r"sys/|dev/(null|urandom)$)")


def opened(folder, *command):
    """Paths outside of the system's own that a run of the binary opened, as the kernel resolved them."""
    trace = folder.parent / "trace"
    subprocess.run(["strace", "-f", "-y", "-qq", "-e", "trace=open,openat,openat2", "-o", trace, BINARY, *command],
                   capture_output=True, timeout=120)
    paths = set()
    for line in trace.read_text(errors="replace").splitlines():
        match = re.search(r"= (\d+)<([^>]*)>", line)  # -y: the file that it is, links followed
        if match and not SYSTEM.match(match.group(2)):
            paths.add(match.group(2))
    return paths


def leaves(paths, folder):
    return sorted(path for path in paths if pathlib.Path(path) != folder and folder not in pathlib.Path(path).parents)


@pytest.mark.parametrize("entry", MANIFEST["entries"], ids=lambda entry: entry["path"])
def test_nothing_outside_of_the_folder_is_opened(entry, tmp_path):
    folder = lay(tmp_path, entry).resolve()
    paths = opened(folder, "verify", folder)
    assert str(folder) in paths and leaves(paths, folder) == []


@pytest.mark.parametrize("model", MODELS)
def test_of_a_golden_model_neither(model, tmp_path):
    folder = (tmp_path / model).resolve()
    shutil.copytree(GOLDEN / "models" / model, folder)
    paths = opened(folder, "verify", folder)
    assert len(paths) >= 3 and leaves(paths, folder) == []


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors", "vocab.json", "merges.txt",
                                  "tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("kind", ["link", "fifo", "device"])
def test_what_is_no_file_of_the_folder_is_refused(name, kind, tmp_path):
    folder = (tmp_path / "model").resolve()
    shutil.copytree(GOLDEN / "models/preln_d64", folder)
    outside = tmp_path.resolve() / "outside"
    shutil.move(folder / name, outside)
    if kind == "link":
        (folder / name).symlink_to(outside)
    elif kind == "fifo":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero")
    command = ["generate", folder, "--prompt", "the", "--max-tokens", "1"]
    ended = subprocess.run([BINARY, *command], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout) == (2, "") and name in ended.stderr, ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert leaves(opened(folder, *command), folder) == []


def test_links_of_the_hugging_face_cache_are_followed(tmp_path):
    repository = tmp_path.resolve() / "models--a--b"
    snapshot = repository / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for file in (GOLDEN / "models/preln_d64").iterdir():
        shutil.copyfile(file, repository / "blobs" / f"blob-{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/blob-{file.name}")
    command = ["generate", snapshot, "--prompt", "the", "--max-tokens", "1"]
    ended = subprocess.run([BINARY, *command], capture_output=True, text=True, errors="replace", timeout=30)
    assert ended.returncode == 0, ended.stderr
    assert leaves(opened(snapshot, *command), repository) == []
