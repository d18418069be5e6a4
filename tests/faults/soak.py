"""A mix of good, bad and crashing clients, and engines that die, for as long as wanted; does anything grow?

    OPTSERVE_BINARY=build/faults/optserve build/test-venv/bin/python tests/faults/soak.py --hours 2

The first half kills an engine every few seconds, the second leaves it alone, so that its memory can be judged too.
"""

import argparse
import dataclasses
import json
import pathlib
import random
import socket
import statistics
import sys
import tempfile
import threading
import time

import psutil
import requests

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

from clients_leave_test import leave  # noqa: E402
from faulty import FaultyServer, Probes, answer_of, body_of  # noqa: E402

MAX_GROWTH_PER_10K_REQUESTS = 1 << 20
NOISE_BYTES = 4 << 20  # what allocators and page caches move about


@dataclasses.dataclass
class Sample:
    seconds: float
    requests: int
    rss: int
    descriptors: int
    threads: int


class Watch:
    """Samples of one process."""

    def __init__(self, pid):
        self.process = psutil.Process(pid)
        self.samples = []

    def look(self, seconds, num_requests):
        with self.process.oneshot():
            self.samples.append(Sample(seconds, num_requests, self.process.memory_info().rss, self.process.num_fds(),
                                       self.process.num_threads()))


def growth(samples):
    """What has grown without end, as text; empty if nothing has. The first quarter is warm-up."""
    samples = samples[len(samples) // 4:]
    if len(samples) < 8:
        return "too few samples"
    quarter = max(2, len(samples) // 4)
    early, late = samples[:quarter], samples[-quarter:]
    num_requests = late[-1].requests - early[0].requests
    rss = statistics.median(s.rss for s in late) - statistics.median(s.rss for s in early)
    allowed = NOISE_BYTES + MAX_GROWTH_PER_10K_REQUESTS * num_requests / 10_000
    found = []
    if rss > allowed:
        found.append(f"memory by {rss / 2**20:.1f} MiB in {num_requests} requests")
    for name in ("descriptors", "threads"):
        # Under the same load: the least of each part is what nobody gave back.
        before, after = (min(getattr(s, name) for s in part) for part in (early, late))
        if after > before + 2 + 0.1 * before:
            found.append(f"{name} from {before} to {after}")
    return "; ".join(found)


def one_request(server, random_source, counts):
    kind = random_source.choice(["good"] * 5 + ["leaves", "times_out", "bad", "half"])
    body = body_of(random_source.randrange(1000), max_tokens=random_source.randrange(1, 60))
    if kind == "good":
        answer = answer_of(server, body)
        if "error" in answer:
            counts[answer["error"]["code"] or "500"] = counts.get(answer["error"]["code"] or "500", 0) + 1
    elif kind == "leaves":
        leaving = {"prompt": body["prompt"], "max_tokens": 300, "n": random_source.randrange(1, 4), "stream": True}
        leave(server.url, {**leaving, "ignore_eos": True}, random_source.randrange(4), 0.02)
    elif kind == "times_out":
        answer_of(server, {**body, "timeout": 0.05, "max_tokens": 500})
    elif kind == "bad":
        assert server.post({**body, "temperature": -1}).status_code == 400
    else:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{\"prompt\":")
    counts[kind] = counts.get(kind, 0) + 1


def soak(seconds, folder, faults="", workers=8, kill_every=6.0, hold_connections=False):
    """Runs it; returns a report, whose "grown" says what has grown, by process."""
    counts, stopping = {}, threading.Event()
    held, failures = [], []
    with FaultyServer("--max-engine-deaths", 1 << 20, "--kv-cache-memory", "16MiB", "--max-num-seqs", 32, faults=faults,
                      log=pathlib.Path(folder) / "log") as server, Probes(server) as probes:
        def work(seed):
            random_source = random.Random(seed)
            while not stopping.is_set():
                try:
                    one_request(server, random_source, counts)
                    if hold_connections:
                        held.append(requests.get(server.url + "/livez", stream=True, timeout=10))
                except Exception as error:  # noqa: BLE001: all of them are findings
                    failures.append(repr(error))
                    time.sleep(0.1)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(workers)]
        for thread in threads:
            thread.start()
        begin = time.monotonic()
        front, engine, next_kill = Watch(server.process.pid), None, kill_every
        period = max(0.25, seconds / 400)
        while (now := time.monotonic() - begin) < seconds:
            done = sum(counts.values())
            front.look(now, done)
            if kill_every and next_kill <= now < seconds / 2:
                for child in server.engines()[:1]:
                    child.kill()
                next_kill = now + kill_every
            if now >= seconds / 2 or not kill_every:
                if engine is None:
                    engine = Watch(server.engines()[0].pid)
                engine.look(now, done)
            time.sleep(period)
        stopping.set()
        for thread in threads:
            thread.join()
        server.wait_until_idle(timeout_seconds=10)
        restarts = server.metric("optserve_engine_restarts_total")
    return {
        "seconds": round(seconds), "requests": sum(counts.values()), "counts": counts, "restarts": restarts,
        "failures": failures[:5], "num_failures": len(failures), "probes": probes.summary(),
        "front_end": {"rss_mib": [round(s.rss / 2**20, 1) for s in front.samples[::max(1, len(front.samples) // 8)]],
                      "descriptors": front.samples[-1].descriptors, "threads": front.samples[-1].threads},
        "engine": {"rss_mib": [round(s.rss / 2**20, 1) for s in engine.samples[::max(1, len(engine.samples) // 8)]]},
        "grown": {"front end": growth(front.samples), "engine": growth(engine.samples)},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=0)
    parser.add_argument("--minutes", type=float, default=0, help="beside the hours; 20 if neither is given")
    parser.add_argument("--workers", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = soak(3600 * args.hours + 60 * args.minutes or 1200, folder, workers=args.workers)
    print(json.dumps(report, indent=1))
    sys.exit(any(report["grown"].values()) or report["num_failures"] > 0)


if __name__ == "__main__":
    main()
