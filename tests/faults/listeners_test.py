"""R31: who listens: the front end, where it was told to, and nobody else but mpirun, which has ports of its own."""

import collections
import os
import pathlib
import re

import psutil
import pytest

from faulty import FaultyServer
from mpi_test import MPIRUN, RANK, group_server

LISTEN = "0A"  # of /proc/net/tcp
ACCEPTS = 0x10000  # of /proc/net/unix: somebody listens here


def sockets_of(process):
    """The numbers of its sockets."""
    found = set()
    for fd in pathlib.Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(fd))
        except FileNotFoundError:
            continue
        if match:
            found.add(match[1])
    return found


def rows(kind):
    return [line.split() for line in pathlib.Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]


def listeners_of(process):
    """What it can be reached at: "127.0.0.1:80", "udp 0.0.0.0:53", "unix /a/name"."""
    own, found = sockets_of(process), set()
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for row in rows(kind):
            host, port = row[1].rsplit(":", 1)
            if row[9] not in own or (kind.startswith("tcp") and row[3] != LISTEN):
                continue
            if len(host) == 32 and host.startswith("0000000000000000FFFF0000"):
                host = host[24:]  # an IPv4 address in IPv6's way of writing
            if len(host) == 8:
                host = ".".join(str(byte) for byte in reversed(bytes.fromhex(host)))
            found.add(("" if kind.startswith("tcp") else "udp ") + f"{host}:{int(port, 16)}")
    for row in rows("unix"):
        if row[6] in own and int(row[3], 16) & ACCEPTS:
            found.add("unix " + (row[7] if len(row) > 7 else "without a name"))
    return found


def listeners(server):
    front_end = psutil.Process(server.process.pid)
    processes = [front_end, *front_end.children(recursive=True)]
    found = collections.defaultdict(set)
    for process in processes:
        found[process.name()] |= listeners_of(process)
    return found, len(processes)


@pytest.mark.parametrize("ranks, replicas", [(1, 1), (2, 1), (4, 2)])
def test_r31_only_the_two_ports_are_open(ranks, replicas, tmp_path):
    with FaultyServer("--tensor-parallel-size", ranks, "--replicas", replicas, log=tmp_path / "log") as server:
        server.complete("Call me", max_tokens=4)
        found, num_processes = listeners(server)
    assert num_processes == 1 + replicas
    assert set().union(*found.values()) == {server.url.removeprefix("http://"), server.grpc}


def test_r31_without_grpc_only_one_is(tmp_path):
    with FaultyServer("--no-grpc", log=tmp_path / "log") as server:
        found, _ = listeners(server)
    assert set().union(*found.values()) == {server.url.removeprefix("http://")}


def test_r31_ranks_of_one_machine_that_mpirun_starts_open_none(tmp_path):
    with group_server(2, tmp_path / "log", launcher=f"{MPIRUN} -n 2 --mca btl self,vader") as server:
        server.complete("Call me", max_tokens=4)
        found, _ = listeners(server)
    del found["mpirun"]  # adr/0009
    assert RANK in found
    assert set().union(*found.values()) == {server.url.removeprefix("http://"), server.grpc}
