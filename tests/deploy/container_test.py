"""The Dockerfile linted, and its runtime stage carried out in a bare root: there is no container engine here."""

import json
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import yaml

import bare_root
import harness
from bare_root import completed
from harness import ROOT
from packages import VERSION

CONTAINER = ROOT / "deploy" / "container"
DOCKERFILE = (CONTAINER / "Dockerfile").read_text()
JOINED = re.sub(r"\\\n\s*", " ", re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
STAGES = [stage.splitlines() for stage in re.split(r"(?=^FROM )", JOINED, flags=re.MULTILINE)[1:]]
BUILD, RUNTIME = STAGES
COMPOSE = yaml.safe_load((CONTAINER / "compose.yaml").read_text())


def instructions(stage, word):
    return [line.split(" ", 1)[1] for line in stage if line.startswith(word + " ")]


def test_hadolint_finds_nothing():
    hadolint = pathlib.Path(sys.executable).with_name("hadolint")
    assert completed([str(hadolint), str(CONTAINER / "Dockerfile")]) == ""


def test_both_stages_are_pinned_and_the_runtime_is_not_root():
    assert [re.fullmatch(r"(debian:bookworm-\d{8}(-slim)?) AS (\w+)", line[0].removeprefix("FROM ")).group(3)
            for line in STAGES] == ["build", "runtime"]
    assert instructions(RUNTIME, "USER") == ["10001:10001"]


def test_the_build_stage_does_what_the_release_test_does():
    """Its commands and files exist: what runs in it is what the other tests run on this machine."""
    [copied] = [line for line in instructions(BUILD, "COPY") if line != ". ."]
    assert all((ROOT / path).exists() for path in copied.split()[:-1])
    script = " ".join(instructions(BUILD, "RUN"))
    presets = {preset["name"] for preset in json.loads((ROOT / "CMakePresets.json").read_text())["configurePresets"]}
    assert {"release", "cuda12"} <= presets and "--target optserve_programs" in script and "cpack -G TGZ" in script
    for line in instructions(BUILD, "RUN"):
        completed(["bash", "-n", "-c", line])


@pytest.fixture(scope="module")
def runtime(release, root_archive, tmp_path_factory):
    """The runtime stage's instructions, carried out in a bare root."""
    with bare_root.BareRoot(root_archive, tmp_path_factory.mktemp("container") / "root") as root:
        for source in instructions(RUNTIME, "COPY"):
            assert source == "--from=build /out/ /usr/local/"
            completed(["tar", "-xzf", str(release.tarball), "-C", str(root.path / "usr/local"), "--strip-components=1"])
        for command in instructions(RUNTIME, "RUN"):
            root.run(command)
        root.run("mount --bind / /mnt && mount -o remount,bind,ro /mnt && mount -t proc proc /mnt/proc")
        yield root


def as_user(root, words):
    """Runs words as the image's user, with a root file system that cannot be written."""
    return root.inside("exec chroot /mnt setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs "
                       f"--bounding-set=-all {shlex.join(words)}")


def test_the_user_can_write_nothing(runtime):
    ended = subprocess.run(as_user(runtime, ["touch", "/tmp/file"]), capture_output=True, text=True)
    assert "Read-only file system" in ended.stderr


def test_the_image_s_command_serves_as_its_user(runtime):
    entry = json.loads(instructions(RUNTIME, "ENTRYPOINT")[0]) + json.loads(instructions(RUNTIME, "CMD")[0])
    health = json.loads(re.search(r"CMD (\[.*\])$", instructions(RUNTIME, "HEALTHCHECK")[0]).group(1))
    ill = subprocess.run(runtime.inside(shlex.join(health)), capture_output=True, timeout=30)
    assert ill.returncode != 0  # nothing serves yet
    server = subprocess.Popen(as_user(runtime, entry), stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout.readline().startswith("optserve ready http=http://0.0.0.0:8000 grpc=off model=demo-model")
        completed(runtime.inside(shlex.join(health)))
        answer = completed(runtime.outside("curl -sS http://127.0.0.1:8000/v1/completions --json "
                                           "'{\"prompt\": \"The sea\", \"max_tokens\": 2}'"))
        assert json.loads(answer)["usage"]["completion_tokens"] == 2
        pids = completed(runtime.inside("grep -lz ^serve$ /proc/[0-9]*/cmdline | cut -d/ -f3")).split()
        assert "Uid:\t10001\t10001" in completed(runtime.inside(f"cat /proc/{pids[0]}/status"))
        completed(runtime.inside(f"kill -TERM {pids[0]}"))
        assert server.wait(timeout=60) == 0
    finally:
        server.kill()
        server.wait()


def test_the_file_list_is_complete(runtime):
    """Nothing that the binary loads comes from anywhere but the base image and the tarball."""
    loaded = runtime.run("ldd /usr/local/bin/optserve /usr/local/bin/optserve-cli")
    assert "not found" not in loaded
    for name, path in re.findall(r"(\S+) => (\S+)", loaded):
        assert path.startswith("/usr/local/bin/../lib/optserve/") or re.match(r"lib(c|m|stdc\+\+|gcc_s)\.so", name), path


def test_compose_s_server_takes_its_arguments():
    service = COMPOSE["services"]["optserve"]
    assert harness.run(*service["command"], "--print-config").returncode == 0
    drain = int(service["command"][service["command"].index("--shutdown-timeout") + 1])
    assert int(service["stop_grace_period"].removesuffix("s")) > drain + 15
    assert service["image"] == f"optserve:{VERSION}" and service["read_only"] and service["cap_drop"] == ["ALL"]
    assert (CONTAINER / service["build"]["context"] / service["build"]["dockerfile"]).exists()
    for mount in service["volumes"] + COMPOSE["services"]["prometheus"]["volumes"]:
        source = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", mount).split(":")[0]
        assert (CONTAINER / source).is_dir()
    assert set(COMPOSE["services"]["optserve"]) <= COMPOSE_SERVICE_KEYS
    assert set(COMPOSE["services"]["prometheus"]) <= COMPOSE_SERVICE_KEYS


# Of the Compose specification, those that a service here may have: a misspelt one is none of them.
COMPOSE_SERVICE_KEYS = {"image", "build", "command", "volumes", "ports", "read_only", "tmpfs", "shm_size", "cap_drop",
                        "security_opt", "stop_grace_period", "restart", "ulimits", "network_mode", "depends_on"}


def test_what_is_not_sent_to_the_builder():
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {"build", ".git"} <= set(ignored)
