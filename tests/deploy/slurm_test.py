"""The sbatch script on a real Slurm: munged, slurmctld, and slurmd on two nodes, this machine and a network namespace with
a name and an address of its own."""

import concurrent.futures
import contextlib
import json
import os
import shlex
import stat
import subprocess
import time

import psutil
import pytest
import requests

import harness
from bare_root import completed, wait_for
from harness import ROOT
from monitoring_test import free_port
from other_host import OtherHost

SCRIPT = ROOT / "deploy" / "slurm" / "optserve.sbatch"
# Host names of the nodes, whatever this machine's is: Open MPI reads numbers in names.
HERE, THERE = "node-a", "node-b"


class Slurm:
    """Daemons in the foreground, all of their files in one folder, ports of their own; `other` is the second node, which
    jobs of one node do not get."""

    def __init__(self, folder, other):
        self.folder, self.home, self.other = folder, folder / "home", other
        self.home.mkdir()
        self.processes = []
        # Each node has a folder of its own for PMIx' sockets, which on two machines would be two /tmp.
        for name in ("state", "munge", f"tmp-{HERE}", f"tmp-{THERE}"):
            (folder / name).mkdir(mode=0o700)
        (folder / "munge" / "key").write_bytes(os.urandom(128))
        (folder / "munge" / "key").chmod(0o400)
        os.chmod(folder, 0o755)
        host = os.uname().nodename.split(".")[0]
        (folder / "slurm.conf").write_text(f"""
ClusterName=test
SlurmctldHost={host}({other.here})
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
TmpFS={folder}/tmp-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0
ReturnToService=2
MailProg=/bin/true
KillWait=5
NodeName={HERE} NodeAddr={other.here} CPUs={os.cpu_count()} State=UNKNOWN Weight=1
NodeName={THERE} NodeAddr={other.there} CPUs={os.cpu_count()} State=UNKNOWN Weight=2
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
        self.start("unshare", "--uts", "sh", "-c", f"hostname {HERE}; exec slurmd -D")
        self.start(*self.other.command("slurmd", "-D"))
        wait_for(lambda: self.ask("sinfo", "--Node", "--noheader", "--format=%T").split() == ["idle", "idle"], 60,
                 f"two idle nodes; see {folder}")
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
        with open(self.folder / f"{command[0]}.out", "w") as out:  # of daemons: what they say before their logs are open
            self.processes.append(subprocess.Popen(command, env=self.environment, stdout=out, stderr=out))

    def ask(self, *command, **environment):
        ended = subprocess.run(command, env=self.environment | environment, cwd=self.home, capture_output=True, text=True, timeout=60)
        return ended.stdout + ended.stderr

    def submit(self, *arguments, **environment):
        printed = self.ask("sbatch", "--parsable", *map(str, arguments), **environment)
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
    with OtherHost(THERE) as other, \
            Slurm(tmp_path_factory.mktemp("slurm"), other) as running:
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


def drained_stream(slurm, job, max_tokens=900):
    """The events of a long stream, in the midst of which the job was told to end."""
    endpoint = slurm.serving(job)
    keyed = {"Authorization": f"Bearer {endpoint['api_key']}"}
    body = {"prompt": "It is", "max_tokens": max_tokens, "ignore_eos": True, "n": 4, "stream": True}
    with requests.post(endpoint["url"] + "/v1/completions", json=body, headers=keyed, stream=True, timeout=60) as response:
        stream = response.iter_lines()
        next(stream)
        slurm.terminate(job)
        return [line for line in stream if line]


def test_term_lets_running_requests_finish(slurm):
    job = slurm.submit(SCRIPT, harness.MODEL)
    events = drained_stream(slurm, job)
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


# --- ranks on two nodes -------------------------------------------------------------------------------------------------

TWO_NODES = ("--nodes=2", "--ntasks-per-node=1")
BODIES = [{"prompt": "The sea", "max_tokens": 40, "logprobs": 2, "temperature": 0},
          {"prompt": "Call me", "max_tokens": 40, "logprobs": 2, "temperature": 0.8, "seed": 1, "n": 2},
          {"prompt": "It was the best", "max_tokens": 100, "ignore_eos": True, "logprobs": 1, "seed": 2}]


def answers(url, key=""):
    def ask(body):
        answer = requests.post(url + "/v1/completions", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"]

    with concurrent.futures.ThreadPoolExecutor(len(BODIES)) as pool:
        return list(pool.map(ask, BODIES))


def answers_of_threads(ranks):
    with harness.Server("--device", "cpu", "--tensor-parallel-size", ranks) as server:
        return answers(server.url)


@pytest.fixture(scope="module")
def undisturbed():
    """The answers to BODIES by two ranks that are threads of one process."""
    return answers_of_threads(2)


def ranks_there(slurm):
    """The ranks on the second node."""
    ranks = []
    for process in slurm.other.processes():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            if process.name() == "optserve-rank":
                ranks.append(process)
    return ranks


def wait_until_no_rank_is_there(slurm):
    wait_for(lambda: not ranks_there(slurm), 10, "the end of the ranks on the second node")


@pytest.mark.parametrize("launcher", ["", "mpirun --allow-run-as-root -n 2"],
                         ids=["srun", "mpirun"])
def test_two_nodes_give_the_tokens_of_one_process(launcher, slurm, undisturbed):
    environment = {"OPTSERVE_ENGINE_LAUNCHER": launcher} if launcher else {}
    job = slurm.submit(*TWO_NODES, SCRIPT, harness.MODEL, "--device", "cpu", **environment)
    endpoint = slurm.serving(job)
    assert stat.S_IMODE(slurm.endpoint(job).stat().st_mode) == 0o600
    assert len(ranks_there(slurm)) == 1
    assert answers(endpoint["url"], endpoint["api_key"]) == undisturbed
    slurm.terminate(job)
    slurm.wait_for_state(job, "COMPLETED")
    wait_until_no_rank_is_there(slurm)
    assert not slurm.endpoint(job).exists()
    assert "engine_died" not in slurm.log(job)


def test_four_ranks_on_two_nodes_give_the_tokens_of_one_process(slurm):
    job = slurm.submit("--nodes=2", "--ntasks-per-node=2", SCRIPT, harness.MODEL, "--device", "cpu")
    endpoint = slurm.serving(job)
    assert len(ranks_there(slurm)) == 2
    assert answers(endpoint["url"], endpoint["api_key"]) == answers_of_threads(4)
    slurm.terminate(job)
    slurm.wait_for_state(job, "COMPLETED")
    wait_until_no_rank_is_there(slurm)


def test_a_killed_rank_is_named_and_the_group_replaced(slurm, undisturbed):
    job = slurm.submit(*TWO_NODES, SCRIPT, harness.MODEL, "--device", "cpu", "--log-format", "json")
    endpoint = slurm.serving(job)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(answers, endpoint["url"], endpoint["api_key"])
        wait_for(lambda: running(endpoint) > 0, 20, "a running request")
        [rank] = ranks_there(slurm)
        rank.kill()
        assert asked.result() == undisturbed
    [died] = [json.loads(line) for line in slurm.log(job).splitlines() if '"engine_died"' in line]
    assert f"rank 1 on host {THERE}" in died["why"] or "task 1: Killed" in died["why"], died
    assert ranks_there(slurm) not in ([], [rank])
    slurm.terminate(job)
    slurm.wait_for_state(job, "COMPLETED")


def running(endpoint):
    page = requests.get(endpoint["url"] + "/metrics", timeout=10).text
    return float(page.split("\noptserve_requests_running ")[1].split()[0])


def test_ranks_that_die_again_and_again_end_the_job(slurm):
    job = slurm.submit(*TWO_NODES, SCRIPT, harness.MODEL, "--device", "cpu")
    slurm.serving(job)
    killed = set()
    while len(killed) < 3:
        [rank] = wait_for(lambda: [each for each in ranks_there(slurm) if each not in killed], 30, "another rank")
        killed.add(rank)
        rank.kill()
    slurm.wait_for_state(job, "FAILED")
    assert "ExitCode=1:0" in slurm.state(job) and not slurm.endpoint(job).exists()
    assert "stopped_without_engine" in slurm.log(job)


def test_term_lets_requests_of_two_nodes_finish(slurm):
    job = slurm.submit(*TWO_NODES, SCRIPT, harness.MODEL, "--device", "cpu")
    events = drained_stream(slurm, job, max_tokens=100)
    assert events[-1] == b"data: [DONE]" and not any(b'"error"' in event for event in events)
    slurm.wait_for_state(job, "COMPLETED")
    wait_until_no_rank_is_there(slurm)


# --- containers: how they would be called, recorded by programs in the place of apptainer and of pyxis' srun -------------

APPTAINER = """#!/bin/bash
echo "apptainer ${*@Q}" >> "$RECORD"
while [[ $1 != *.sif ]]; do shift; done
exec "${@:2}"
"""
SRUN = """#!/bin/bash
echo "srun ${*@Q}" >> "$RECORD"
words=()
for word; do [[ $word == --container-* || $word == --no-container-* ]] || words+=("$word"); done
exec /usr/bin/srun "${words[@]}"
"""
CALLS = {
    "apptainer": ["exec", "--bind", "MODEL:MODEL:ro", "--bind", "WORK", "/images/optserve.sif", "optserve"],
    "srun": ["--nodes=1", "--ntasks=1", "--container-image=/images/optserve.sqsh",
             "--container-mounts=MODEL:MODEL:ro,WORK:WORK", "--no-container-entrypoint", "optserve"],
}


@pytest.mark.parametrize("program, recorder, variable, image", [
    ("apptainer", APPTAINER, "SERVE_APPTAINER", "/images/optserve.sif"),
    ("srun", SRUN, "SERVE_PYXIS", "/images/optserve.sqsh")], ids=["apptainer", "pyxis"])
def test_a_container_sees_the_model_and_the_keys_and_drains(program, recorder, variable, image, slurm, tmp_path):
    (tmp_path / "optserve").symlink_to(harness.BINARY.resolve())
    (tmp_path / program).write_text(recorder)
    (tmp_path / program).chmod(0o755)
    path = f"{tmp_path}:{slurm.environment['PATH']}"
    job = slurm.submit(SCRIPT, harness.MODEL, "--threads", 1,
                       **{variable: image, "PATH": path, "RECORD": str(tmp_path / "calls")})
    events = drained_stream(slurm, job, max_tokens=300)
    assert events[-1] == b"data: [DONE]" and not any(b'"error"' in event for event in events)
    slurm.wait_for_state(job, "COMPLETED")
    keys, serve = [shlex.split(line) for line in (tmp_path / "calls").read_text().splitlines()]
    work = os.path.dirname(keys[-1])
    expected = [program] + [word.replace("MODEL", str(harness.MODEL)).replace("WORK", work) for word in CALLS[program]]
    assert keys[:len(expected)] == serve[:len(expected)] == expected
    assert keys[len(expected):] == ["keys", "new", "--name", f"slurm job {job}", "--api-key-file", work + "/keys"]
    assert serve[len(expected):len(expected) + 4] == ["serve", str(harness.MODEL), "--threads", "1"]


@pytest.mark.parametrize("gpus, words", [("0,1", ["exec", "--nv", "--bind"]), ("", ["exec", "--bind"])])
def test_a_container_has_the_gpus_of_the_job(gpus, words, tmp_path):
    """Of none, apptainer would warn that there is no driver."""
    (tmp_path / "apptainer").write_text('#!/bin/bash\nprintf "%s\n" "$@" > "$HOME/words"\nexit 3\n')
    (tmp_path / "apptainer").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "SERVE_APPTAINER": "/images/optserve.sif",
                   "SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_GPUS": gpus}
    ended = subprocess.run(["bash", SCRIPT, harness.MODEL], env=environment, timeout=20)
    assert ended.returncode == 3
    assert (tmp_path / "words").read_text().splitlines()[:len(words)] == words


def test_ranks_in_containers_are_refused(slurm):
    job = slurm.submit(*TWO_NODES, SCRIPT, harness.MODEL, SERVE_APPTAINER="/images/optserve.sif")
    slurm.wait_for_state(job, "FAILED")
    assert "ExitCode=2:0" in slurm.state(job) and "use the tarball" in slurm.log(job)
