"""Measures what starting costs: time to the ready line, and memory for the weights against the file's size.

    build/test-venv/bin/python tests/bench/startup.py [MODEL_DIR [flags for serve ...]]

Prints the median of five starts as a ratio of the goal (0.5 s for the demo model), and, for the last one, how much of the
weights' file is resident and how much private memory the processes hold besides, both as ratios of the file: weights held
twice show as private memory near 1 or above. Only says; passes and fails nothing.
"""

import pathlib
import re
import statistics
import sys

import psutil

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

from harness import MODEL, Server  # noqa: E402  (the path above comes first)

GOAL_SECONDS = 0.5
STARTS = 5


def memory(pid, weights):
    """Returns (resident bytes of the mapped files `weights`, private bytes of everything else) of one process."""
    mapped = private = 0
    name = ""
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            name = line.split(maxsplit=5)[5] if len(line.split()) > 5 else ""
            continue
        key, value = line.split(":", 1)
        if name in weights and key == "Rss":
            mapped += int(value.split()[0]) * 1024
        elif name not in weights and key in ("Private_Clean", "Private_Dirty"):
            private += int(value.split()[0]) * 1024
    return mapped, private


def main():
    model, *flags = sys.argv[1:] or [MODEL]
    model = pathlib.Path(model)
    weights = {str(path.resolve()) for path in model.glob("*.safetensors")}
    file_bytes = sum(pathlib.Path(path).stat().st_size for path in weights)
    seconds = []
    for _ in range(STARTS):
        with Server(*flags, model=model) as server:
            seconds.append(server.start_seconds)
            server.complete("Call me", max_tokens=1)
            root = psutil.Process(server.process.pid)
            totals = [memory(process.pid, weights) for process in [root, *root.children(recursive=True)]]
    median = statistics.median(seconds)
    mapped, private = (sum(column) for column in zip(*totals))
    print(f"start to ready   {median:8.3f} s      {median / GOAL_SECONDS:6.2f} x the goal of {GOAL_SECONDS} s")
    print(f"weights resident {mapped / 2**20:8.1f} MiB    {mapped / file_bytes:6.2f} x the file, goal <= 1")
    print(f"private besides  {private / 2**20:8.1f} MiB    {private / file_bytes:6.2f} x the file: buffers, KV cache, code's data")


if __name__ == "__main__":
    main()
