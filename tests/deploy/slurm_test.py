"""The sbatch script on a real Slurm: munged, slurmctld and slurmd of one node, in namespaces of their own."""

import json
import os
import stat
import subprocess
import time

import pytest
import requests

import harness
from bare_root import completed, wait_for
from harness import ROOT
from monitoring_test import free_port

SCRIPT = ROOT / "deploy" / "slurm" / "optserve.sbatch"


class Slurm:
    """Daemons in the foreground, all of their files in one folder, ports of their own."""

    def __init__(self, folder):
        self.folder, self.home = folder, folder / "home"
        self.home.mkdir()
        self.processes = []
        for name in ("state", "spool", "munge"):
            (folder / name).mkdir(mode=0o700)
        (folder / "munge" / "key").write_bytes(os.urandom(128))
        (folder / "munge" / "key").chmod(0o400)
        os.chmod(folder, 0o755)
        host = os.uname().nodename.split(".")[0]
        (folder / "slurm.conf").write_text(f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MailProg=/bin/true
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
""")
        self.environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin", "HOME": str(self.home),
                            "SLURM_CONF": str(folder / "slurm.conf"), "OPTSERVE": str(harness.BINARY),
                            "SERVE_ADDRESS": "127.0.0.1"}

    def __enter__(self):
        folder = self.folder
        self.start("munged", "--foreground", "--force", f"--socket={folder}/munge/socket", f"--key-file={folder}/munge/key",
                   f"--pid-file={folder}/munge/pid", f"--log-file={folder}/munge/log", f"--seed-file={folder}/munge/seed")
        wait_for((folder / "munge" / "socket").exists, 10, "munged's start")
        self.start("slurmctld", "-D")
        self.start("slurmd", "-D")
        wait_for(lambda: "idle" in self.ask("sinfo", "--noheader", "--format=%T"), 60, f"an idle node; see {folder}")
        return self

    def __exit__(self, *exc):
        self.ask("scancel", "--user=root")
        deadline = time.monotonic() + 20
        while self.ask("squeue", "--noheader").strip() and time.monotonic() < deadline:
            time.sleep(0.2)  # no job outlives its daemons
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:  # slurmd waits for jobs, which have been told to end
                process.kill()
                process.wait()

    def start(self, *command):
        with open(self.folder / f"{command[0]}.out", "w") as out:
            self.processes.append(subprocess.Popen(command, env=self.environment, stdout=out, stderr=out))

    def ask(self, *command):
        ended = subprocess.run(command, env=self.environment, cwd=self.home, capture_output=True, text=True, timeout=60)
        return ended.stdout + ended.stderr

    def submit(self, *arguments):
        printed = self.ask("sbatch", "--parsable", *map(str, arguments))
        assert printed.strip().isdigit(), printed
        return printed.strip()

    def endpoint(self, job):
        return self.home / ".optserve" / f"{job}.json"

    def serving(self, job):
        wait_for(self.endpoint(job).exists, 60, f"the endpoint of job {job}: {self.ask('squeue')} {self.log(job)}")
        endpoint = json.loads(self.endpoint(job).read_text())
        # The node's name need not be known on the machine that tests.
        endpoint["url"] = "http://127.0.0.1:" + endpoint["url"].rsplit(":", 1)[1]
        return endpoint

    def log(self, job):
        path = self.home / f"optserve-{job}.log"
        return path.read_text() if path.exists() else ""

    def state(self, job):
        return self.ask("scontrol", "show", "job", job)

    def terminate(self, job):
        """As Slurm does before the time limit."""
        said = self.ask("scancel", "--signal=TERM", "--batch", job)
        assert said == "", said

    def wait_for_state(self, job, state):
        deadline = time.monotonic() + 60
        while f"JobState={state} " not in self.state(job):
            assert time.monotonic() < deadline, self.state(job) + self.log(job)
            time.sleep(0.2)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with Slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def test_the_script_is_clean_shell():
    assert completed(["shellcheck", str(SCRIPT)]) == ""


def test_a_job_serves_and_tells_its_user_alone_where(slurm):
    job = slurm.submit(SCRIPT, harness.MODEL)
    endpoint = slurm.serving(job)
    mode = stat.S_IMODE(slurm.endpoint(job).stat().st_mode)
    assert mode == 0o600 and stat.S_IMODE(slurm.endpoint(job).parent.stat().st_mode) == 0o700
    body = {"prompt": "The sea", "max_tokens": 4}
    keyed = {"Authorization": f"Bearer {endpoint['api_key']}"}
    assert endpoint["model"] == "demo-model"
    assert requests.post(endpoint["url"] + "/v1/completions", json=body, headers=keyed, timeout=10).status_code == 200
    assert requests.post(endpoint["url"] + "/v1/completions", json=body, timeout=10).status_code == 401
    slurm.terminate(job)
    slurm.wait_for_state(job, "COMPLETED")
    assert not slurm.endpoint(job).exists()
    assert "draining" in slurm.log(job) and "stopped" in slurm.log(job)


def test_term_lets_running_requests_finish(slurm):
    job = slurm.submit(SCRIPT, harness.MODEL)
    endpoint = slurm.serving(job)
    keyed = {"Authorization": f"Bearer {endpoint['api_key']}"}
    body = {"prompt": "It is", "max_tokens": 900, "ignore_eos": True, "n": 4, "stream": True}
    with requests.post(endpoint["url"] + "/v1/completions", json=body, headers=keyed, stream=True, timeout=60) as response:
        stream = response.iter_lines()
        next(stream)
        slurm.terminate(job)
        events = [line for line in stream if line]
    assert events[-1] == b"data: [DONE]" and not any(b'"error"' in event for event in events)
    assert len(events) > 3000
    slurm.wait_for_state(job, "COMPLETED")


def test_a_job_whose_model_is_not_there_fails_and_leaves_nothing(slurm):
    job = slurm.submit(SCRIPT, "/nowhere")
    slurm.wait_for_state(job, "FAILED")
    assert "ExitCode=2:0" in slurm.state(job) and "/nowhere" in slurm.log(job)
    assert not slurm.endpoint(job).exists()


def test_two_jobs_share_a_node(slurm):
    jobs = [slurm.submit("--cpus-per-task=1", SCRIPT, harness.MODEL, "--threads", 1) for _ in range(2)]
    endpoints = [slurm.serving(job) for job in jobs]
    assert endpoints[0]["url"] != endpoints[1]["url"] and endpoints[0]["api_key"] != endpoints[1]["api_key"]
    for job in jobs:
        slurm.terminate(job)
    for job in jobs:
        slurm.wait_for_state(job, "COMPLETED")


def test_slurm_sends_term_before_the_limit():
    assert "#SBATCH --signal=B:TERM@120" in SCRIPT.read_text()
    timeout = SCRIPT.read_text().split("--shutdown-timeout ")[1].split()[0]
    assert int(timeout) < 120
