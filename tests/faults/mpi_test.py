"""Ranks as processes, on one machine and on two: the same tokens, and what happens when one of them goes."""

import os
import re
import signal
import threading
import time

import psutil
import pytest

import harness
from faulty import FaultyServer, answer_of, answers_of, body_of, undisturbed_answers
from other_host import MPIRUN, MpiHost, ip

STREAMS = [body_of(index, max_tokens=60) for index in range(16)]
RANK = "optserve-rank"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return undisturbed_answers(STREAMS, tmp_path_factory)  # from ranks that are threads


def group_server(ranks, log, *args, launcher=None, faults=""):
    return FaultyServer("--device", "cpu", "--tensor-parallel-size", ranks, "--engine-launcher",
                        launcher or f"{MPIRUN} -n {ranks}", *args, faults=faults, log=log)


def ranks_of(server):
    """The processes of the ranks, rank 0 first."""
    processes = [p for p in psutil.Process(server.process.pid).children(recursive=True) if p.name() == RANK]
    return sorted(processes, key=lambda p: int(p.environ()["OMPI_COMM_WORLD_RANK"]))


def wait_for_death(server, seconds=15):
    """Returns after how many seconds it is known."""
    begin = time.monotonic()
    harness.wait_until(lambda: server.events("engine_died"), "a death", seconds)
    return time.monotonic() - begin


def wait_for_steps(server, seconds=15):
    harness.wait_until(lambda: server.metric("optserve_requests_running") > 0, "a request's start", seconds)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("steps_in_flight", [1, 2])
def test_processes_give_the_tokens_of_threads(ranks, steps_in_flight, undisturbed, tmp_path):
    with group_server(ranks, tmp_path / "log", "--steps-in-flight", steps_in_flight) as server:
        assert len(ranks_of(server)) == ranks
        assert answers_of(server, STREAMS) == undisturbed(ranks)
        assert server.metric("optserve_engine_restarts_total") == 0
        assert server.stop() == 0
    assert server.events("engine_died") == []


@pytest.mark.parametrize("ranks", [2, 4])
def test_r17_a_killed_rank_is_named_and_the_group_replaced(ranks, undisturbed, tmp_path):
    faults = f"kill step=20 rank={ranks - 1} generation=1; kill step=15 rank=0 generation=2"
    with group_server(ranks, tmp_path / "log", faults=faults) as server:
        assert answers_of(server, STREAMS) == undisturbed(ranks)
        died = server.events("engine_died")
    assert len(died) == 2
    assert f"rank {ranks - 1} " in died[0]["why"], died[0]
    assert "rank 0 " in died[1]["why"], died[1]


def test_r17_a_rank_killed_while_nothing_is_to_do_is_noticed(undisturbed, tmp_path):
    with group_server(2, tmp_path / "log") as server:
        ranks_of(server)[1].kill()
        print(f"noticed after {wait_for_death(server, 8):.2f} s")
        assert "rank 1 " in server.events("engine_died")[0]["why"]
        assert answers_of(server, STREAMS) == undisturbed(2)


@pytest.mark.parametrize("busy", [True, False])
def test_r19_a_stopped_rank_is_named_and_the_group_replaced(busy, undisturbed, tmp_path):
    faults = "slow from=2 rank=0 ms=20 generation=1" if busy else ""
    with group_server(2, tmp_path / "log", "--step-timeout", 2, faults=faults) as server:
        if not busy:
            os.kill(ranks_of(server)[1].pid, signal.SIGSTOP)
            wait_for_death(server)
        else:
            threading.Timer(0.3, os.kill, (ranks_of(server)[1].pid, signal.SIGSTOP)).start()
        assert answers_of(server, STREAMS) == undisturbed(2)
        died, = server.events("engine_died")
    assert "rank 1 on host" in died["why"], died


@pytest.mark.parametrize("fault", ["device", "alloc"])
def test_r21_a_rank_that_fails_says_why(fault, undisturbed, tmp_path):
    with group_server(2, tmp_path / "log", faults=f"{fault} step=12 rank=1 generation=1") as server:
        assert answers_of(server, STREAMS) == undisturbed(2)
        died, = server.events("engine_died")
    said = {"device": "device error 700", "alloc": "no memory"}[fault]
    assert re.search(f"rank 1 on host .*: {said}", died["why"]), died


def test_r18_no_rank_outlives_the_front_end(tmp_path):
    server = group_server(2, tmp_path / "log", faults="hang step=3 rank=1")
    processes = psutil.Process(server.process.pid).children(recursive=True)
    assert len(processes) >= 4  # who waits, mpirun, two ranks
    with pytest.raises(Exception):
        server.post({"prompt": "x", "max_tokens": 20, "timeout": 1}).raise_for_status()
    server.process.kill()
    server.process.wait(timeout=10)
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive


@pytest.mark.parametrize("launcher, says", [
    (f"{MPIRUN} -n 2", "--tensor-parallel-size is 4, but the launcher started 2 processes"),
    ("no-such-launcher -n 4", "cannot run no-such-launcher"),
    ("false", "false ended with exit code 1"),
])
def test_a_launcher_that_cannot_work_is_one_line(launcher, says):
    ended = harness.run("serve", harness.MODEL, "--port", 0, "--no-grpc", "--device", "cpu", "--tensor-parallel-size",
                        4, "--engine-launcher", launcher)
    assert ended.returncode in (1, 2)
    assert says in ended.stderr


# --- two hosts: this one, and a network namespace with a name and an address of its own --------------------------------

@pytest.fixture
def other_host(tmp_path):
    with MpiHost(tmp_path) as host:
        yield host


@pytest.mark.parametrize("ranks", [2, 4])
def test_two_hosts_give_the_tokens_of_threads(ranks, other_host, undisturbed, tmp_path):
    with group_server(ranks, tmp_path / "log", launcher=other_host.launcher(ranks)) as server:
        there = other_host.processes()
        assert len([p for p in there if p.name() == RANK]) == ranks // 2
        assert answers_of(server, STREAMS) == undisturbed(ranks)
        assert server.stop() == 0
    _, alive = psutil.wait_procs(there, timeout=5)
    assert not alive


# "sh" is in the place of ssh: mpirun ends without another word when the connection to a host does.
@pytest.mark.parametrize("first, busy", [("", True), ("", False), ("sh", True), ("orted", False), (RANK, True)])
def test_a_host_that_dies_is_named_and_the_group_replaced(first, busy, other_host, undisturbed, tmp_path):
    faults = "slow from=2 rank=0 ms=20 generation=1" if busy else ""
    with group_server(2, tmp_path / "log", launcher=other_host.launcher(2), faults=faults) as server:
        if busy:
            threading.Thread(target=lambda: (wait_for_steps(server), other_host.kill_all(first))).start()
        else:
            other_host.kill_all(first)
            wait_for_death(server)
        begin = time.monotonic()
        assert answers_of(server, STREAMS) == undisturbed(2)
        print(f"all answered after {time.monotonic() - begin:.1f} s")
        died = server.events("engine_died")[0]
    assert "rank 1 on host hostb" in died["why"], died


# mpirun may notice first that it has lost a host, and take rank 0 with it before that has said a word.
@pytest.mark.parametrize("busy, with_rank0", [(True, True), (True, False), (False, True), (False, False)])
def test_a_host_that_dies_is_named_although_the_launcher_dies_with_it(busy, with_rank0, other_host, undisturbed, tmp_path):
    with group_server(2, tmp_path / "log", launcher=other_host.launcher(2),
                      faults="slow from=2 rank=0 ms=20 generation=1" if busy else "") as server:
        rank0 = next(rank for rank in ranks_of(server) if rank not in other_host.processes())
        mpirun = rank0.parent()
        assert mpirun.name() in ("mpirun", "orterun")

        def die():
            mpirun.suspend()  # until it is killed, so that it has no time for a word either
            other_host.kill_all()
            time.sleep(0.3)  # rank 0 is in a step now that does not end
            if with_rank0:
                rank0.kill()
            mpirun.kill()

        if busy:
            threading.Thread(target=lambda: (wait_for_steps(server), die())).start()
        else:
            die()
            wait_for_death(server)
        assert answers_of(server, STREAMS) == undisturbed(2)
        died = server.events("engine_died")[0]
    assert "rank 1 on host hostb" in died["why"], died


def test_a_cable_that_is_cut_ends_both_sides(other_host, undisturbed, tmp_path):
    with group_server(2, tmp_path / "log", "--step-timeout", 2, launcher=other_host.launcher(2)) as server:
        there = other_host.processes()
        ranks_there = [p for p in there if p.name() == RANK]
        assert ranks_there
        ip("link", "set", other_host.link, "down")
        print(f"noticed after {wait_for_death(server):.1f} s")
        died = server.events("engine_died")[0]
        assert "rank 1 on host hostb" in died["why"], died
        _, alive = psutil.wait_procs(ranks_there, timeout=10)
        assert not alive
        ip("link", "set", other_host.link, "up")
        assert answer_of(server, STREAMS[0]) == undisturbed(2)[0]
