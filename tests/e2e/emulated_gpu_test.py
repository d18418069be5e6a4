"""The server with `--device cuda` on emulated GPUs (tests/cuda_emulator): the whole way from HTTP to kernels, without a GPU."""

import concurrent.futures
import os
import re
import signal
import subprocess
import threading
import time

import psutil
import pytest

from harness import BINARY, MODEL, REFERENCE, Server, generated_ids
from other_host import MPIRUN, MpiHost

EMULATED = BINARY.with_name("optserve-emulated")
TOKENS = 6  # an emulated step takes a second


@pytest.fixture
def emulated(monkeypatch):
    """Makes the harness start the server with emulated GPUs."""
    monkeypatch.setattr("harness.BINARY", EMULATED)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_greedy_tokens_are_the_cpus(emulated, ranks, tmp_path):
    log = tmp_path / "log"
    case = min(REFERENCE, key=lambda case: len(case["prompt"]))
    with Server("--device", "cuda", "--tensor-parallel-size", ranks, "--cuda-graph-batch", 1, log=log) as server:
        choice = server.complete(case["prompt"], max_tokens=TOKENS, logprobs=0,
                                 return_tokens_as_token_ids=True)["choices"][0]
        assert generated_ids(choice) == case["ids"][:TOKENS]
    text = log.read_text()
    plan = fields(text, "gpu_memory_planned")
    parts = ("driver", "workspace", "peer_arena", "weights", "activations", "steps", "graphs", "reserve", "kv_cache", "left")
    assert sum(plan[part] for part in parts) == plan["total"] == 1 << 30
    assert all(plan[part] >= 0 for part in parts) and (plan["peer_arena"] > 0) == (ranks > 1)
    assert fields(text, "graphs_captured")["batches"] == 1
    assert ("ranks_joined" in text and "the GPUs' memory" in text) == (ranks > 1)


def fields(log, event):
    """The numbers of an event's line in the log."""
    line, = [line for line in log.splitlines() if f" {event} " in line]
    return {key: int(value) for key, value in re.findall(r"(\w+)=\"?(-?\d+)\b", line)}


# --- ranks as processes, which add up by an emulated NCCL -------------------------------------------------------------

NCCL = str(BINARY.parent / "tests" / "cuda_emulator" / "nccl")
RANK = EMULATED.name + "-rank"


@pytest.fixture
def nccl(emulated, monkeypatch):
    """Beside that, GPUs have a queue of their own, and processes find NCCL."""
    monkeypatch.setenv("LD_LIBRARY_PATH", NCCL, prepend=":")
    monkeypatch.setenv("OPTSERVE_EMULATOR_QUEUES", "1")


def processes(ranks, *args, launcher=None):
    return ("--device", "cuda", "--tensor-parallel-size", ranks, "--engine-launcher",
            launcher or f"{MPIRUN} -n {ranks}", *args)


@pytest.mark.parametrize("ranks, graph_batch", [(2, 1), (4, 0)])
def test_processes_give_the_cpus_tokens(nccl, ranks, graph_batch, tmp_path):
    log = tmp_path / "log"
    case = min(REFERENCE, key=lambda case: len(case["prompt"]))
    with Server(*processes(ranks, "--cuda-graph-batch", graph_batch), log=log) as server:
        choice = server.complete(case["prompt"], max_tokens=TOKENS, logprobs=0,
                                 return_tokens_as_token_ids=True)["choices"][0]
        assert generated_ids(choice) == case["ids"][:TOKENS]
        assert server.stop() == 0
    text = log.read_text()
    assert "NCCL 2.21.5, between processes" in text
    assert text.count(" gpu_memory_planned ") == ranks
    assert ("graphs_captured" in text) == (graph_batch > 0)
    assert "engine_died" not in text


def test_an_old_nccl_has_no_graphs_and_the_log_says_so(nccl, tmp_path, monkeypatch):
    monkeypatch.setenv("OPTSERVE_EMULATOR_PEERS", "0")
    monkeypatch.setenv("OPTSERVE_EMULATOR_NCCL", "2804")
    log = tmp_path / "log"
    with Server("--device", "cuda", "--tensor-parallel-size", 2, "--cuda-graph-batch", 1, log=log):
        pass
    assert ('no_graphs why="the ranks add up by NCCL 2.8.4, which graphs cannot hold; 2.9.6 is the first that they can"'
            in log.read_text())


def test_a_process_that_sees_one_gpu_takes_it(nccl, tmp_path):
    """As under `srun --gpus-per-task=1`."""
    one_gpu = tmp_path / "one_gpu"
    one_gpu.write_text('#!/bin/sh\nexport OPTSERVE_EMULATOR_DEVICES=1 OPTSERVE_EMULATOR_FIRST=$OMPI_COMM_WORLD_LOCAL_RANK\n'
                       'exec "$@"\n')
    one_gpu.chmod(0o755)
    with Server(*processes(2, "--cuda-graph-batch", 0, launcher=f"{MPIRUN} -n 2 {one_gpu}")) as server:
        assert server.complete("Call me", max_tokens=1)["choices"][0]["text"]


def ranks_of(server):
    """The processes of the ranks, rank 0 first."""
    found = [p for p in psutil.Process(server.process.pid).children(recursive=True) if p.name() == RANK]
    return sorted(found, key=lambda p: int(p.environ()["OMPI_COMM_WORLD_RANK"]))


def why_died(log):
    return re.findall(r' engine_died .*?why="([^"]*)"', log.read_text())


def asked_and_begun(server, case):
    """A future of the answer, of which the first token has come."""
    answer = concurrent.futures.Future()
    threading.Thread(target=lambda: answer.set_result(server.complete(
        case["prompt"], max_tokens=TOKENS, return_tokens_as_token_ids=True, logprobs=0)["choices"][0])).start()
    while server.metric("optserve_generation_tokens_total") == 0:
        time.sleep(0.02)
    return answer


# A killed process closes its sockets, which NCCL notices or, between GPUs of one machine, does not.
@pytest.mark.parametrize("sign, silent", [(signal.SIGKILL, False), (signal.SIGKILL, True), (signal.SIGSTOP, True)])
def test_a_process_that_goes_is_named_and_the_answer_goes_on(nccl, sign, silent, tmp_path, monkeypatch):
    if silent:
        monkeypatch.setenv("OPTSERVE_EMULATOR_NCCL_SILENT", "1")
    log = tmp_path / "log"
    case = min(REFERENCE, key=lambda case: len(case["prompt"]))
    with Server(*processes(2, "--step-timeout", 3, "--cuda-graph-batch", 1), log=log) as server:
        answer = asked_and_begun(server, case)
        began = time.monotonic()
        os.kill(ranks_of(server)[1].pid, sign)
        while not why_died(log):
            assert time.monotonic() < began + 20
            time.sleep(0.02)
        print(f"known after {time.monotonic() - began:.1f} s")
        assert generated_ids(answer.result(timeout=60)) == case["ids"][:TOKENS]
    assert "rank 1 on host" in why_died(log)[0], why_died(log)


def test_a_host_that_dies_is_named_and_the_answer_goes_on(nccl, tmp_path, monkeypatch):
    """The other host is a network namespace; its GPU 0 is another than ours."""
    log = tmp_path / "log"
    case = min(REFERENCE, key=lambda case: len(case["prompt"]))
    with MpiHost(tmp_path) as host:
        monkeypatch.setenv("NCCL_SOCKET_IFNAME", host.link)
        launcher = f"{host.launcher(2)} -x LD_LIBRARY_PATH -x OPTSERVE_EMULATOR_QUEUES"
        with Server(*processes(2, "--cuda-graph-batch", 1, launcher=launcher), log=log) as server:
            answer = asked_and_begun(server, case)
            assert RANK in [p.cmdline()[0].rsplit("/", 1)[-1] for p in host.processes() if p.cmdline()]
            host.kill_all()
            assert generated_ids(answer.result(timeout=60)) == case["ids"][:TOKENS]
    assert "rank 1 on host hostb" in why_died(log)[0], why_died(log)


def test_a_process_whose_gpu_fails_is_named(nccl, tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("OPTSERVE_EMULATOR_FAULT", "20")  # of GPU 1, some steps after the start
    with Server(*processes(2, "--max-engine-deaths", 1, "--cuda-graph-batch", 0), log=log) as server:
        answer = server.post({"prompt": "Call me", "max_tokens": 20, "ignore_eos": True})
        assert answer.json()["error"]["code"] == "engine_dead"
        assert server.process.wait(timeout=30) == 1
    assert re.search(r"rank 1 on host \S+: emulated GPU 1: .*error 700", why_died(log)[0]), why_died(log)


def test_what_processes_lack_is_said_at_start(emulated, monkeypatch):
    one_of_two = re.compile(r"rank 1 on host \S+ and rank 0 have the same GPU, .* start no more ranks on a machine than")
    assert one_of_two.search(refusal("--engine-launcher", f"{MPIRUN} -n 2", DEVICES=1))
    assert re.search(r"NCCL (is not installed|does not start|cannot join 2 GPUs)",
                     refusal("--engine-launcher", f"{MPIRUN} -n 2"))
    assert re.search(r"rank 2 on host \S+: a rank needs GPU 2 for itself and there are 2; lower tensor_parallel_size",
                     refusal("--engine-launcher", f"{MPIRUN} -n 4", ranks=4, DEVICES=2))
    assert "--deterministic-tp is set" in refusal("--engine-launcher", f"{MPIRUN} -n 2", "--deterministic-tp")


def refusal(*args, ranks=2, **settings):
    """What `serve --device cuda` says on a machine like that, with exit code 2: one line, or one of each
    process of a launcher."""
    ended = subprocess.run([str(part) for part in (EMULATED, "serve", MODEL, "--port", 0, "--grpc-port", 0, "--device",
                                                   "cuda", "--tensor-parallel-size", ranks, *args)],
                           capture_output=True, text=True, timeout=60,
                           env=os.environ | {f"OPTSERVE_EMULATOR_{name}": str(value) for name, value in settings.items()})
    assert ended.returncode == 2, ended.stderr
    said = [line for line in ended.stderr.splitlines() if line.startswith("optserve: ")]  # mpirun says more
    assert len(said) == 1 or "--engine-launcher" in args, said
    return "\n".join(said)


def test_what_a_machine_lacks_is_said_at_start():
    assert "no NVIDIA driver is loaded" in refusal(DRIVER=0)
    assert "knows CUDA 11.8 and this build needs 12.4" in refusal(DRIVER=11080)
    assert "no NVIDIA GPU" in refusal(DEVICES=0)
    assert "lower tensor_parallel_size to at most 1" in refusal(DEVICES=1)
    assert "nvidia-smi -mig 0" in refusal(MIG=1)
    assert "cannot write into the memory of" in refusal(PEERS=0)
    assert "too few" in refusal(MEMORY=70_000_000)
