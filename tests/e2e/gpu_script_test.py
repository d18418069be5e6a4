"""tests/gpu/run.sh from the folder that bundle.sh makes, with emulated GPUs: every part, what a part that fails or takes too
long does to the others, what is said where there is no GPU, and the page that the results are written to."""

import json
import os
import shutil
import subprocess

import pytest

from harness import ROOT

GPU = ROOT / "tests" / "gpu"
FEW_TESTS = "CudaInstructionTest.*:*SumsByATreeToTheSameBitsEverywhere/2_one_shot:*postln_proj_sm70"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    bundle = tmp_path_factory.mktemp("gpu") / "gpu-bundle"
    subprocess.run([GPU / "bundle.sh", "--emulated", bundle], check=True, cwd=ROOT, timeout=120)
    return bundle


@pytest.fixture
def bundle(built, tmp_path):
    """One that a test may change."""
    copy = tmp_path / "bundle"
    shutil.copytree(built, copy, symlinks=True)
    return copy


@pytest.fixture(scope="module")
def toolkit(tmp_path_factory):
    """In place of a CUDA toolkit: a compute-sanitizer that only runs the program, after it has looked at its options."""
    folder = tmp_path_factory.mktemp("cuda")
    (folder / "bin").mkdir()
    program(folder / "bin" / "compute-sanitizer",
            '[[ $1 == --error-exitcode && $3 == --tool && $4 =~ ^(mem|race|sync)check$ ]] || exit 1\nshift 4\nexec "$@"')
    return folder


def program(path, text):
    path.unlink(missing_ok=True)
    path.write_text("#!/usr/bin/env bash\n" + text + "\n")
    path.chmod(0o755)


def run(bundle, *parts, **environment):
    """Exit code, all it printed, and results.json or None."""
    out = bundle.parent / "results"
    ended = subprocess.run([bundle / "run.sh", "--out", out, *parts], text=True, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, timeout=600, env=os.environ | {"GTEST_FILTER": FEW_TESTS} | environment)
    results = out / "results.json"
    return ended.returncode, ended.stdout, json.loads(results.read_text()) if results.exists() else None


def outcome(results):
    return {part["part"]: part["result"] for part in results["parts"]}


def test_every_part_runs(bundle, toolkit):
    # A Python without torch, so that this is the same on every machine.
    code, text, results = run(bundle, CUDA_HOME=str(toolkit), PYTHON=python_without_torch(bundle.parent))
    assert code == 0, text
    parts = outcome(results)
    assert parts.pop("ptx70") == "not run: this bundle has no PTX of sm_70"
    assert parts.pop("transformers").startswith("not run: no torch in ")
    assert set(parts.values()) == {"passed"} and len(parts) == 14
    assert results["emulated"] and results["gpu"] == "emulated GPU 0" and len(results["commit"]) == 40
    names = {figure["name"] for figure in results["figures"]}
    assert {"roof: read", "roof: gemm", "smoke qkv 1 rows", "smoke decode attention, batch 2", "1.3b decode, batch 2",
            "30b prefill, 20 tokens", "175b of 16 decode, batch 8", "all-reduce, 4 ranks on 4 GPUs, two-shot, 3 x 40"} <= names
    assert "emulated, no figure is a speed" in text
    tests = json.loads((bundle.parent / "results" / "instructions.json").read_text())
    assert tests["tests"] >= 7 and tests["failures"] == 0


def python_without_torch(folder):
    path = folder / "python-without-torch"
    program(path, 'exec python3 -I -S "$@"')
    return str(path)


def test_other_parts_go_on_where_one_fails_or_takes_too_long(bundle):
    program(bundle / "bin" / "gpu_models_test", "echo it broke; exit 5")
    program(bundle / "bin" / "gpu_collective_test", "sleep 100")
    program(bundle / "bin" / "gpu_model_bench", """echo '{"name": "first", "us": 1, "achieved": 2, "unit": "GB/s"}'; printf '{"na'; kill -9 $$""")
    code, text, results = run(bundle, "collectives", "models", "decode", "memcheck", "bench", CUDA_HOME="/nonexistent",
                              OPTSERVE_PART_SECONDS="15")
    assert code == 1
    parts = outcome(results)
    assert parts["collectives"] == "failed: took more than 15 s"
    assert parts["models"] == "failed: exit code 5" and "it broke" in text
    assert parts["decode"].startswith("failed: exit code 1")
    assert parts["memcheck"] == "not run: no compute-sanitizer in /nonexistent/bin"
    assert parts["bench"] == "passed"
    assert next(figure for figure in results["figures"] if figure["part"] == "decode")["name"] == "first"


def test_a_failing_instruction_fails_its_part(bundle):
    """The exit code of a GoogleTest program gets through, one with a failing test: here because it finds no model."""
    shutil.rmtree(bundle / "tests" / "data")
    code, _, results = run(bundle, "models")
    assert code == 1 and outcome(results) == {"models": "failed: exit code 1"}


def test_no_gpu_is_said_at_once(bundle, tmp_path):
    (bundle / "emulated").unlink()
    (bundle / "toolkit").write_text("13\n")
    (tmp_path / "dev").mkdir()
    code, text, results = run(bundle, OPTSERVE_DEV=str(tmp_path / "dev"))
    assert (code, results) == (3, None) and "no GPU: this machine has no /dev/nvidia0" in text
    (tmp_path / "dev" / "nvidia0").touch()
    code, text, _ = run(bundle, OPTSERVE_DEV=str(tmp_path / "dev"), CUDA_HOME=str(tmp_path))
    assert code == 2 and f"no CUDA 13 toolkit in {tmp_path}" in text
    # There is a device file, but the driver will not give the GPU.
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64" / "libcudart.so.13").touch()
    program(bundle / "bin" / "gpu_bench", "echo no NVIDIA driver is loaded; exit 3")
    code, text, results = run(bundle, OPTSERVE_DEV=str(tmp_path / "dev"), CUDA_HOME=str(tmp_path))
    assert (code, results) == (3, None) and "no NVIDIA driver is loaded; nothing was run" in text


def test_unknown_part(bundle):
    code, text, _ = run(bundle, "benhc")
    assert code == 2 and "no part is called 'benhc'" in text and "transformers" in text


def report(*arguments):
    subprocess.run(["python3", GPU / "report.py", *arguments], check=True, timeout=60)


def test_the_page_says_what_was_measured(tmp_path):
    page = tmp_path / "RESULTS.md"
    page.write_text((ROOT / "kernels" / "RESULTS.md").read_text())
    figures = [{"name": "6.7b decode, batch 1", "us": 3400, "achieved": 294.1, "unit": "tokens/s", "ratio": 0.88, "of": "read bandwidth"},
               {"name": "30b decode, batch 1", "missing": "30b needs a larger GPU"},
               {"name": "175b of 16 decode, batch 1", "us": 29000, "achieved": 34.5, "unit": "tokens/s", "ratio": 0.8, "of": "read bandwidth"}]
    results = {"date": "2026-01-02", "gpu": "GPU 0 (NVIDIA H200)", "machine": ["H200, 580"], "emulated": False, "commit": "abc",
               "parts": [{"part": "bench", "result": "passed", "seconds": 3}], "figures": figures}
    written = tmp_path / "results.json"
    written.write_text(json.dumps(results))
    report("page", page, written)
    text = page.read_text()
    assert "| 6.7b decode, batch 1 | at least 90 % of read bandwidth | 3,400.0 us, 294.1 tokens/s, 88.0 % of read bandwidth: **missed** |" in text
    assert "| 6.7b decode, batch 1 | at least 285 tokens/s on an H200 | 3,400.0 us, 294.1 tokens/s, 88.0 % of read bandwidth |" in text
    assert "| 30b decode, batch 1 | at least 64 tokens/s on an H200 | not yet measured: 30b needs a larger GPU |" in text
    assert "| 13b prefill, 2048 tokens | at least 76 % of GEMM peak | not yet measured |" in text
    # The goal is of another GPU, so it is not judged by this one.
    assert "| 175b of 16 decode, batch 1 | at most 28.7 ms on a V100, without the wire | not yet measured |" in text
    assert "commit abc" in text
    report("page", page, written)
    assert page.read_text() == text
    # An emulator's figures are never a goal's.
    written.write_text(json.dumps(results | {"emulated": True}))
    report("page", page, written)
    assert "An emulated GPU" in page.read_text() and "**missed**" not in page.read_text()


def test_the_page_is_the_script_s(tmp_path):
    """What kernels/RESULTS.md says of speed is what the committed results say, or that there are none."""
    page = tmp_path / "RESULTS.md"
    page.write_text((ROOT / "kernels" / "RESULTS.md").read_text())
    committed = ROOT / "kernels" / "results.json"
    report("page", page, *([committed] if committed.exists() else []))
    assert page.read_text() == (ROOT / "kernels" / "RESULTS.md").read_text()
