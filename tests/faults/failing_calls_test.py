"""R22: one call in a hundred fails, of malloc, read, write, mmap or the network, by libfiu."""

import contextlib
import os
import subprocess
import time

import pytest
import requests

from faulty import FaultyServer, answer_of, answers_of, body_of

BODIES = [body_of(index, 40) for index in range(8)]


@pytest.fixture
def server(tmp_path):
    libraries = [f"/usr/lib/fiu/fiu_{name}_preload.so" for name in ("run", "posix")]
    assert all(map(os.path.exists, libraries))
    os.environ |= {"LD_PRELOAD": " ".join(libraries), "FIU_CTRL_FIFO": str(tmp_path / "fiu")}
    try:
        server = FaultyServer("--max-engine-deaths", 1000, "--step-timeout", 3, log=tmp_path / "log")
    finally:
        del os.environ["LD_PRELOAD"], os.environ["FIU_CTRL_FIFO"]
    server.fiu = tmp_path / "fiu"
    yield server
    server.process.kill()
    server.process.wait(timeout=10)


def let_fail(server, pid, name, probability=0.01, timeout=30):
    told = subprocess.run(["fiu-ctrl", "-f", server.fiu, "-c", f"enable_random name={name},probability={probability}", str(pid)],
                          check=True, timeout=timeout, capture_output=True, text=True)
    if told.stdout:  # a complaint: it is no error of fiu-ctrl's that nobody was told
        raise subprocess.SubprocessError(told.stdout)


def let_engine_fail(server, name):
    """The engine that serves. The one before may have died of its last failure after all was answered, and be a process
    still: nobody reads what fiu-ctrl would write to it, and fiu-ctrl waits. The next one may not listen to it yet."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for engine in server.engines():
            with contextlib.suppress(subprocess.SubprocessError):
                return let_fail(server, engine.pid, name, timeout=2)
        time.sleep(0.05)
    raise AssertionError("no engine can be told to fail")


@pytest.mark.parametrize("name", ["libc/mm/malloc", "posix/io/rw/read", "posix/io/rw/write", "posix/mm/mmap", "posix/io/net/*"])
def test_r22_in_the_engine_clients_see_nothing(server, name):
    expected = answers_of(server, BODIES)
    for _ in range(2):
        let_engine_fail(server, name)
        assert answers_of(server, BODIES) == expected


@pytest.mark.parametrize("name", ["posix/io/rw/read", "posix/mm/mmap", "posix/io/net/*"])
def test_r22_in_the_front_end_only_connections_fail(server, name):
    expected = answers_of(server, BODIES)
    let_fail(server, server.process.pid, name)
    for body in BODIES:
        try:
            answer_of(server, body, timeout=5)
        except requests.RequestException:
            pass  # an error of its client's, who knows that it has no answer
    assert server.process.poll() is None
    subprocess.run(["fiu-ctrl", "-f", server.fiu, "-c", f"disable name={name}", str(server.process.pid)], check=True, timeout=30)
    assert answers_of(server, BODIES) == expected
    server.wait_until_idle()


def test_r22_nobody_waits_at_the_door_because_another_was_not_let_in(server):
    expected = answers_of(server, BODIES[:1])
    let_fail(server, server.process.pid, "posix/io/net/accept", probability=0.5)
    # One after the other: nobody comes behind them to wake the server for those who wait.
    for _ in range(40):
        try:
            assert answer_of(server, BODIES[0], timeout=5) == expected[0]
        except requests.ConnectionError:
            pass  # refused, and knows it
        # requests.Timeout: it hung


def test_r22_a_front_end_without_memory_ends_with_a_line(server):
    engines = server.engines()
    let_fail(server, server.process.pid, "libc/mm/malloc")
    for body in BODIES:
        try:
            answer_of(server, body, timeout=5)
        except requests.RequestException:
            pass
    assert server.process.wait(timeout=10) == 1
    assert "optserve: out of memory" in server.log_path.read_text()
    for engine in engines:
        engine.wait(timeout=5)
