"""Measures what loading costs, as ratios:

    cmake --build build/release --target optserve load_bench && build/test-venv/bin/python tests/bench/load.py [FOLDER]

Makes a random checkpoint of OPT-1.3B's shape (2.6 GB) as safetensors and as a zip of torch.save, and one file for each of
two ranks; load_bench compares loading with reading the same files, warm and cold. Then one of OPT-125M's shape: from the
start of the program to its first token, warm, against the goal of 0.3 s. FOLDER (default: a temporary one) needs 8 GB and
is left empty. Only says; passes and fails nothing.
"""

import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build/release"
GOAL_SECONDS = 0.3
STARTS = 9


def make(shape, form, target):
    subprocess.run([sys.executable, ROOT / "tests/bench/make_checkpoint.py", shape, form, target], check=True)


def measure(title, model, *args):
    print(f"{title}", flush=True)
    subprocess.run([BUILD / "load_bench", model, *args], check=True)


def main():
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        model = pathlib.Path(folder) / "model"
        make("1.3b", "safetensors", model)
        measure("OPT-1.3B's shape, safetensors", model)
        subprocess.run([BUILD / "optserve", "convert", model, pathlib.Path(folder) / "ranks", "--tensor-parallel-size", "2"],
                       check=True, stdout=subprocess.DEVNULL)
        measure("the same, two ranks", model, "2")
        measure("the same, two ranks, a file for each", pathlib.Path(folder) / "ranks", "2")
        shutil.rmtree(model)
        make("1.3b", "torch", model)
        measure("OPT-1.3B's shape, torch zip", model)
        shutil.rmtree(model)
        make("125m", "safetensors", model)
        for name in ("vocab.json", "merges.txt"):
            shutil.copyfile(ROOT / "tests/data/opt-tokenizer" / name, model / name)
        seconds = []
        for _ in range(STARTS):
            began = time.monotonic()
            with subprocess.Popen([BUILD / "optserve", "generate", model, "--prompt", "Call me", "--max-tokens", "1"],
                                  stdout=subprocess.PIPE) as process:
                assert process.stdout.read(1)
                seconds.append(time.monotonic() - began)
                process.stdout.read()
        median = statistics.median(seconds)
        print(f"OPT-125M's shape, start to first token {median:.3f} s, {median / GOAL_SECONDS:.2f} x the goal of "
              f"{GOAL_SECONDS} s; all: {' '.join(f'{each:.3f}' for each in sorted(seconds))}")


if __name__ == "__main__":
    main()
