"""A network namespace that programs take for another machine; needs to be root."""

import os
import signal
import subprocess


class OtherHost:
    """Has the address `there` and the host name `hostname`; this machine is `here` to it. A context manager that ends
    all that runs in it. `subnet`: the first three numbers of the addresses, such as "10.231.77"."""

    def __init__(self, subnet, hostname):
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

    def pids(self):
        out = subprocess.run(["ip", "netns", "pids", self.name], check=True, capture_output=True, text=True).stdout
        return [int(pid) for pid in out.split()]

    def kill_all(self):
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def ip(*args):
    subprocess.run(["ip", *args], check=True)
