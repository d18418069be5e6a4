"""A network namespace that programs take for another machine; needs to be root."""

import contextlib
import os
import pathlib
import shlex
import subprocess
import time

import psutil

MPIRUN = "mpirun --allow-run-as-root --oversubscribe"


class OtherHost:
    """Has the address `there` and the host name `hostname`; this machine is `here` to it. A context manager that ends
    all that runs in it. Each has a network of its own, or tests that run beside each other, and one that was killed and
    left its network behind, would have their answers go astray."""

    def __init__(self, hostname):
        forget_the_dead()
        subnet = f"10.231.{os.getpid() % 250}"
        self.name = f"optserve-test-{os.getpid()}-{hostname}"
        self.link = f"os{os.getpid()}"
        self.hostname = hostname
        self.here, self.there, self.network = f"{subnet}.1", f"{subnet}.2", f"{subnet}.0/24"

    def __enter__(self):
        ip("netns", "add", self.name)
        ip("link", "add", self.link, "type", "veth", "peer", "name", "veth", "netns", self.name)
        ip("addr", "add", f"{self.here}/24", "dev", self.link)
        ip("link", "set", self.link, "up")
        ip("-n", self.name, "addr", "add", f"{self.there}/24", "dev", "veth")
        ip("-n", self.name, "link", "set", "veth", "up")
        ip("-n", self.name, "link", "set", "lo", "up")
        return self

    def __exit__(self, *exc):
        self.kill_all()
        ip("link", "del", self.link)
        ip("netns", "del", self.name)

    def command(self, *words):
        """The command that runs words there."""
        return ["nsenter", f"--net=/run/netns/{self.name}", "unshare", "--uts", "sh", "-c",
                f'hostname {self.hostname}; exec "$@"', "sh", *words]

    def processes(self):
        out = subprocess.run(["ip", "netns", "pids", self.name], check=True, capture_output=True, text=True).stdout
        running = []
        for pid in out.split():
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                running.append(psutil.Process(int(pid)))
        return running

    def kill_all(self, first=""):
        """All processes at once, or those of the name `first` a moment before the others."""
        processes = self.processes()
        early = [process for process in processes if process.name() == first]
        assert early or not first
        for process in early:
            process.kill()
        if early:
            time.sleep(0.3)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def forget_the_dead():
    """Takes away what tests have left that were killed."""
    for namespace in pathlib.Path("/run/netns").glob("optserve-test-*"):
        if not psutil.pid_exists(int(namespace.name.split("-")[2])):
            subprocess.run(["ip", "netns", "del", namespace.name], check=False)  # and with it its link


def ip(*args):
    subprocess.run(["ip", *args], check=True)


class MpiHost(OtherHost):
    """Another machine for mpirun; `agent` takes the place of ssh."""

    def __init__(self, folder):
        super().__init__("hostb")
        self.agent = pathlib.Path(folder) / "agent"
        self.agent.write_text(f'#!/bin/sh\nshift\nexec {shlex.join(self.command("sh", "-c"))} "$*"\n')
        self.agent.chmod(0o755)

    def launcher(self, ranks):
        return (f"{MPIRUN} -n {ranks} --host {self.here}:{ranks // 2},{self.there}:{ranks // 2} "
                f"--mca plm_rsh_agent {self.agent} "
                f"--mca oob_tcp_if_include {self.network} --mca btl_tcp_if_include {self.network}")
