"""deploy/quickstart.sh itself, in a folder where the build is a program that says it was called: the rest is real."""

import os
import re
import signal
import socket
import subprocess
import threading

import pytest

from harness import BINARY, ROOT


@pytest.fixture
def clone(tmp_path):
    """What the script needs of a clone, with the binary under test where the build would leave it."""
    for name in ("deploy", "CMakePresets.json"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "build" / "release").mkdir(parents=True)
    (tmp_path / "build" / "release" / "optserve").symlink_to(BINARY)
    (tmp_path / "bin").mkdir()
    cmake = tmp_path / "bin" / "cmake"
    cmake.write_text('#!/bin/sh\necho "cmake $*"\n')
    cmake.chmod(0o755)
    return tmp_path


def start(clone, port):
    environment = {**os.environ, "PATH": f"{clone / 'bin'}:{os.environ['PATH']}", "OPTSERVE_PORT": str(port)}
    # A shell that runs the tests in the background has them ignore SIGINT, and their children with them.
    return subprocess.Popen(["bash", clone / "deploy" / "quickstart.sh"], env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, start_new_session=True,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def free_ports():
    """A port whose successor is free as well."""
    for _ in range(100):
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = first.getsockname()[1]
            try:
                with socket.create_server(("127.0.0.1", port + 1)):
                    return port
            except (OSError, OverflowError):
                continue
    raise AssertionError("no two ports in a row are free")


def read_until(process, line, timeout_seconds=60):
    seen = ""
    late = threading.Timer(timeout_seconds, process.kill)
    late.start()
    for text in process.stdout:
        seen += text
        if line in text:
            late.cancel()
            return seen
    raise AssertionError(f"{line!r} is not in {seen!r}; errors: {process.stderr.read()!r}")


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_it_builds_serves_and_stops(clone, sent):
    process = start(clone, free_ports())
    printed = read_until(process, "Ctrl-C stops it")
    assert "packages are already installed" in printed
    assert "cmake --preset release" in printed and "cmake --build build/release --target optserve" in printed
    assert re.search(r'"text":"[^"]+"', printed), printed
    server = subprocess.run(["pgrep", "--parent", str(process.pid), "optserve"], check=True, capture_output=True,
                            text=True).stdout.split()
    process.send_signal(sent)
    assert process.wait(timeout=60) == 0
    assert server and not os.path.exists(f"/proc/{server[0]}"), "it left the server behind"
    process.communicate()


def test_a_taken_port_is_said_before_anything_is_built(clone):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start(clone, taken.getsockname()[1])
        out, errors = process.communicate(timeout=30)
    assert process.returncode == 2 and "is in use; choose another one" in errors and out == ""


@pytest.mark.parametrize("port", ["0", "65535", "x"])
def test_what_is_no_port_is_refused(clone, port):
    process = start(clone, port)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2 and "must be a port from 1 to 65534" in errors


def test_a_build_that_fails_ends_it(clone):
    (clone / "bin" / "cmake").write_text("#!/bin/sh\nexit 3\n")
    process = start(clone, free_ports())
    process.communicate(timeout=60)
    assert process.returncode == 3
