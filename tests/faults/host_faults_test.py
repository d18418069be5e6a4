"""R27, R5: what the machine does to us: no room, no descriptors, files that change under us."""

import fcntl
import os
import resource
import shutil
import signal
import subprocess
import time

import psutil
import pytest
import requests

import harness
from faulty import FaultyServer, answer_of, answers_of, body_of

BODY = body_of(1, max_tokens=30)


def start_with_stderr(stderr, *args):
    """A server whose log goes to `stderr`; its URL and process."""
    process = subprocess.Popen([harness.BINARY, "serve", harness.MODEL, "--port", "0", "--grpc-port", "0", *args],
                               stdout=subprocess.PIPE, stderr=stderr, text=True)
    line = process.stdout.readline()
    match = harness.READY.fullmatch(line.rstrip("\n"))
    assert match is not None, line
    return match[1], process


class At:
    def __init__(self, url):
        self.url = url


@pytest.fixture
def own_model(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(harness.MODEL, folder)
    return folder


def test_r27_a_log_that_cannot_be_written_is_no_reason_to_stop():
    with open("/dev/full", "w") as full:
        url, process = start_with_stderr(full)
    try:
        assert "error" not in answer_of(At(url), BODY)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()


def test_r27_nor_is_a_log_whose_reader_has_gone():
    read_end, write_end = os.pipe()
    url, process = start_with_stderr(write_end)
    os.close(write_end)
    os.close(read_end)
    try:
        expected = answer_of(At(url), BODY)
        psutil.Process(process.pid).children()[0].kill()  # whose successor inherits that log
        assert answer_of(At(url), BODY) == expected
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()


def test_r27_a_model_file_cut_short_under_us_ends_with_a_line_that_names_it(own_model, tmp_path):
    server = FaultyServer(log=tmp_path / "log", model=own_model)
    os.truncate(own_model / "model.safetensors", 4096)
    answer = answer_of(server, {**BODY, "stream": False})
    assert answer["error"]["code"] == "engine_dead"
    assert server.process.wait(timeout=30) == 1
    died = server.events("engine_died")
    assert "signal 7" in died[0]["why"] or "model.safetensors" in died[0]["why"]
    assert "model.safetensors" in died[-1]["why"]
    assert "model.safetensors" in server.events("stopped_without_engine")[0]["why"]


def test_r27_a_model_file_that_was_replaced_properly_changes_nothing(own_model, tmp_path):
    with FaultyServer(log=tmp_path / "log", model=own_model) as server:
        expected = answer_of(server, BODY)
        shutil.copy(own_model / "model.safetensors", tmp_path / "new")
        os.replace(tmp_path / "new", own_model / "model.safetensors")
        assert answer_of(server, BODY) == expected
        server.engines()[0].kill()
        assert answer_of(server, BODY) == expected


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_r27_a_log_on_a_full_disk_goes_on_when_there_is_room(small_disk):
    log, ballast = small_disk / "log", small_disk / "ballast"
    with open(log, "a") as stderr:
        url, process = start_with_stderr(stderr)
    try:
        with pytest.raises(OSError):
            ballast.write_bytes(bytes(1 << 20))
        expected = answer_of(At(url), BODY)
        psutil.Process(process.pid).children()[0].kill()
        for _ in range(200):  # more lines than the last page of the file takes
            assert "error" not in answer_of(At(url), {**BODY, "max_tokens": 1})
        assert answer_of(At(url), BODY) == expected
        full = log.stat().st_size
        ballast.unlink()
        assert answer_of(At(url), BODY) == expected
        assert log.stat().st_size > full
        assert log.read_text().rstrip().splitlines()[-1].split()[2] == "completion"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()


def test_r17_a_load_that_hangs_is_noticed_by_its_progress(tmp_path):
    with FaultyServer("--load-timeout", 1, faults="hang step=0 generation=2", log=tmp_path / "log") as server:
        expected = answer_of(server, BODY)
        server.engines()[0].kill()
        begin = time.monotonic()
        assert answer_of(server, BODY) == expected
        assert time.monotonic() - begin < 10
        died = server.events("engine_died")
    assert len(died) == 2
    assert "made no progress for 1." in died[1]["why"], died[1]


def test_r17_a_first_load_that_hangs_ends_with_a_line(monkeypatch):
    monkeypatch.setenv("OPTSERVE_FAULTS", "hang step=0")
    ended = harness.run("serve", harness.MODEL, "--port", 0, "--no-grpc", "--load-timeout", 1)
    assert ended.returncode == 1
    assert "made no progress" in ended.stderr


def test_r5_without_descriptors_the_engine_is_still_replaced(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with FaultyServer("--max-engine-deaths", 100, log=tmp_path / "log") as server:
        expected = answer_of(server, BODY)
        # Nothing more can be opened: the socket pair of the next engine cannot be made, until some are free again.
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (psutil.Process(server.process.pid).num_fds(), hard))
        server.engines()[0].kill()
        time.sleep(0.3)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert answer_of(server, BODY) == expected
        assert requests.get(server.url + "/readyz", timeout=10).status_code == 200


def test_r22_no_memory_at_a_restart_is_tried_again(tmp_path):
    # An address space limit that the successor inherits: it cannot take its KV pool.
    with FaultyServer("--max-engine-deaths", 1000, log=tmp_path / "log") as server:
        expected = answers_of(server, [body_of(i, 40) for i in range(4)])
        infinite = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(server.process.pid, resource.RLIMIT_AS,
                         (psutil.Process(server.process.pid).memory_info().vms + (32 << 20), resource.RLIM_INFINITY))
        server.engines()[0].kill()
        harness.wait_until(lambda: len(server.events("engine_died")) >= 2, "the second death", seconds=10)
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, infinite)
        assert answers_of(server, [body_of(i, 40) for i in range(4)]) == expected


def test_r27_a_log_that_becomes_read_only_is_no_reason_to_stop():
    # A sealed file refuses every write, as a file of a disk does that the kernel has made read-only after errors.
    log = os.memfd_create("log", os.MFD_ALLOW_SEALING)
    url, process = start_with_stderr(log)
    try:
        expected = answer_of(At(url), BODY)
        written = os.fstat(log).st_size
        fcntl.fcntl(log, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW)
        psutil.Process(process.pid).children()[0].kill()
        assert answer_of(At(url), BODY) == expected
        assert os.fstat(log).st_size == written
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        os.close(log)


def test_r27_a_usage_log_on_a_disk_that_is_read_only_when_it_is_rotated(tmp_path):
    folder = tmp_path / "usage"
    folder.mkdir()
    usage = folder / "usage.jsonl"

    def lines(path):
        return len(path.read_text().splitlines())

    with FaultyServer("--usage-log", usage, log=tmp_path / "log") as server:
        server.complete("Call me", max_tokens=1)
        usage.rename(folder / "usage.1")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], check=True)
        try:
            server.process.send_signal(signal.SIGHUP)
            harness.wait_until(lambda: server.events("reloaded"), "the reload")
            failed, = server.events("reload_failed")
            assert failed["what"] == "usage_log" and "Read-only file system" in failed["why"]
            server.complete("Call me", max_tokens=1)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
        harness.wait_until(lambda: lines(folder / "usage.1") == 2, "the second line")  # the file it had
        server.process.send_signal(signal.SIGHUP)
        harness.wait_until(lambda: len(server.events("reloaded")) == 2, "the second reload")
        server.complete("Call me", max_tokens=1)
        harness.wait_until(lambda: usage.exists() and lines(usage) == 1, "the line of the new file")
        assert server.metric("optserve_usage_records_lost_total") == 0
