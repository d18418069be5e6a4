"""A Debian 12 with nothing in it but what every Debian has, in namespaces of its own; needs to be root."""

import os
import pathlib
import signal
import subprocess
import time

from harness import ROOT

ARCHIVE = ROOT / "build" / "deploy" / "debian12-minbase.tar"


def archive():
    """Makes the archive with this machine's own package sources, or takes the one that is there."""
    if not ARCHIVE.exists():
        ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
        made = ARCHIVE.with_suffix(f".{os.getpid()}.tar")
        sources = [path for path in (pathlib.Path("/etc/apt/sources.list.d/debian.sources"),
                                     pathlib.Path("/etc/apt/sources.list")) if path.exists()]
        subprocess.run(["mmdebstrap", "--variant=minbase", "--quiet", "bookworm", made, *sources[:1]], check=True,
                       timeout=500)
        made.rename(ARCHIVE)
    return ARCHIVE


class BareRoot:
    """`network`: the machine's; else a namespace with a loopback device only, so that ports are free and nothing can be
    fetched."""

    def __init__(self, archive_path, path, network=False):
        self.path = pathlib.Path(path)
        self.path.mkdir(parents=True)
        subprocess.run(["tar", "-xf", archive_path, "-C", self.path], check=True)
        setup = (f"mount -t proc proc {self.path}/proc && mount -t tmpfs tmpfs {self.path}/dev/shm && "
                 f"mount -t devpts devpts {self.path}/dev/pts && "
                 + ("" if network else "ip link set lo up && ") + "echo up && exec sleep infinity")
        self._namespaces = ["--mount", "--pid"] + ([] if network else ["--net"])
        self._unshare = subprocess.Popen(["unshare", *self._namespaces, "--fork", "--kill-child", "sh", "-c", setup],
                                         stdout=subprocess.PIPE, text=True)
        assert self._unshare.stdout.readline() == "up\n"
        children = pathlib.Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text().split()
        self._inner = children[0]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        os.kill(int(self._inner), signal.SIGKILL)  # and with it all that runs in its namespace
        self._unshare.wait()
        subprocess.run(["rm", "-rf", "--one-file-system", self.path], check=True)

    def inside(self, script):
        """The command that runs a script of bash in the root, in /root."""
        return ["nsenter", "--target", self._inner, *self._namespaces, "--", "env", "-i", "HOME=/root", "LC_ALL=C.UTF-8",
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive",
                "chroot", str(self.path), "/bin/bash", "-euc", "cd /root\n" + script]

    def outside(self, script):
        """The command that runs it with this machine's programs and the root's network."""
        return ["nsenter", "--target", self._inner, "--net", "--", "/bin/bash", "-euc", script]

    def run(self, script, timeout=120):
        """Runs it inside, to a good end; what it printed on both outputs."""
        return completed(self.inside(script), timeout)


def completed(command, timeout=120):
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
                           timeout=timeout)
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def wait_for(condition, timeout_seconds=30, what="it"):
    """Until condition() is true, which it returns."""
    deadline = time.monotonic() + timeout_seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_seconds} s"
        time.sleep(0.05)
    return value
