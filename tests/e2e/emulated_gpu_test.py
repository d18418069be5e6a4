"""The server with `--device cuda` on emulated GPUs (tests/cuda_emulator): the whole way from HTTP to kernels, without a GPU."""

import os
import re
import subprocess

import pytest

from harness import BINARY, MODEL, REFERENCE, Server, generated_ids

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
MPIRUN = "mpirun --allow-run-as-root --oversubscribe"


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


def refusal(*args, **settings):
    """What `serve --device cuda` on two ranks says on a machine like that; one line, exit code 2."""
    ended = subprocess.run([str(part) for part in (EMULATED, "serve", MODEL, "--port", 0, "--grpc-port", 0, "--device",
                                                   "cuda", "--tensor-parallel-size", 2, *args)],
                           capture_output=True, text=True, timeout=60,
                           env=os.environ | {f"OPTSERVE_EMULATOR_{name}": str(value) for name, value in settings.items()})
    assert ended.returncode == 2, ended.stderr
    return ended.stderr.splitlines()[-1]


def test_what_a_machine_lacks_is_said_at_start():
    assert "no NVIDIA driver is loaded" in refusal(DRIVER=0)
    assert "knows CUDA 11.8 and this build needs 12.4" in refusal(DRIVER=11080)
    assert "no NVIDIA GPU" in refusal(DEVICES=0)
    assert "lower tensor_parallel_size to at most 1" in refusal(DEVICES=1)
    assert "nvidia-smi -mig 0" in refusal(MIG=1)
    assert "cannot write into the memory of" in refusal(PEERS=0)
    assert "too few" in refusal(MEMORY=70_000_000)
