"""Measures how fast an engine comes back: from the start of its process to its first answer.

    build/test-venv/bin/python tests/bench/restart.py [MODEL_DIR [flags for serve ...]]

Prints the median of seven comebacks after SIGKILL as a ratio of the goal, 1 s. Only says; passes and fails nothing.
"""

import pathlib
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "e2e"), str(ROOT / "faults")]

from faulty import FaultyServer  # noqa: E402  (the path above comes first)
from harness import MODEL  # noqa: E402

GOAL_SECONDS = 1.0
DEATHS = 7


def main():
    model, *flags = sys.argv[1:] or [MODEL]
    with tempfile.TemporaryDirectory() as folder:
        with FaultyServer("--max-engine-deaths", 100, *flags, log=pathlib.Path(folder) / "log", model=model) as server:
            for deaths in range(1, DEATHS + 1):
                server.engines()[0].kill()
                while len(server.events("engine_replaced")) < deaths:
                    time.sleep(0.02)
            seconds = [float(event["seconds"]) for event in server.events("engine_replaced")]
    median = statistics.median(seconds)
    print(f"comeback {median:.3f} s (worst {max(seconds):.3f} s)   {median / GOAL_SECONDS:.2f} x the goal of {GOAL_SECONDS} s")


if __name__ == "__main__":
    main()
