"""Servers that fail on order, and requests whose answers can be compared bit for bit."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys

import psutil
import requests

import harness

IDLE = ("optserve_requests_running", "optserve_requests_waiting", "optserve_kv_cache_usage_ratio")


class FaultyServer(harness.Server):
    """`faults` is what engine/util/fault_injection.h reads; standard error goes to the file `log`."""

    def __init__(self, *args, faults="", log, model=harness.MODEL):
        self.log_path = log
        os.environ["OPTSERVE_FAULTS"] = faults
        try:
            with open(log, "w") as stderr, contextlib.redirect_stderr(stderr):
                saved = os.dup(2)
                os.dup2(stderr.fileno(), 2)
                try:
                    super().__init__("--log-format", "json", *args, model=model)
                except AssertionError as error:
                    raise AssertionError(f"{error}; its log ends with:\n{log.read_text()[-3000:]}") from error
                finally:
                    os.dup2(saved, 2)
                    os.close(saved)
        finally:
            del os.environ["OPTSERVE_FAULTS"]

    def events(self, name):
        """The log's events of that name, as dicts."""
        lines = [line for line in self.log_path.read_text().splitlines() if line.startswith("{")]
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def engines(self):
        return psutil.Process(self.process.pid).children()

    def wait_until_idle(self, timeout_seconds=2):
        for name in IDLE:
            self.wait_for_metric(name, 0, timeout_seconds)


def body_of(index, max_tokens=120):
    """Request number `index` of a mix: streamed or not, several answers, best_of, echoed scores, greedy or not."""
    body = {"prompt": f"Call me number {index}, and tell me of the sea", "max_tokens": max_tokens, "seed": index,
            "temperature": index % 3 / 2, "ignore_eos": True, "logprobs": 2}
    body |= [{"stream": True}, {"n": 3, "presence_penalty": 0.5}, {"stream": True, "n": 2, "echo": True},
             {"best_of": 3, "n": 2}, {"stream": True, "stop": ["e t"], "no_repeat_ngram_size": 3},
             {"echo": True, "prompt_logprobs": 1}][index % 6]
    return body


def answer_of(server, body, timeout=120):
    """All that a client gets of a request, put together: by choice its text, log probabilities and end; or the error."""
    with requests.post(server.url + "/v1/completions", json=body, stream=body.get("stream", False),
                       timeout=timeout) as response:
        if not body.get("stream") or response.status_code != 200:
            got = response.json()
            if "error" in got:
                return got
            return {c["index"]: (c["text"], c["logprobs"], c["finish_reason"]) for c in got["choices"]}
        choices = {}
        for line in response.iter_lines():
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[len(b"data: "):])
            if "error" in event:
                return event
            for part in event["choices"]:
                whole = choices.setdefault(part["index"], {"text": "", "finish": None})
                whole["text"] += part["text"]
                whole["finish"] = part["finish_reason"] or whole["finish"]
                for key, values in (part["logprobs"] or {}).items():
                    whole.setdefault(key, []).extend(values or [])
        return choices


def answers_of(server, bodies):
    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: answer_of(server, body), bodies))


def undisturbed_answers(bodies, tmp_path_factory):
    """A function of the number of ranks: the answers to `bodies` of a server to which nothing happens, asked once."""
    answers = {}

    def by_ranks(ranks):
        if ranks not in answers:
            log = tmp_path_factory.mktemp("undisturbed") / "log"
            with FaultyServer("--tensor-parallel-size", ranks, log=log) as server:
                answers[ranks] = answers_of(server, bodies)
                assert server.metric("optserve_engine_restarts_total") == 0
        return answers[ranks]

    return by_ranks


class Probes:
    """Has prober.py ask /livez and /readyz until it is left; `statuses` has what came back, by path."""

    def __init__(self, server):
        self.server = server

    def __enter__(self):
        self.process = subprocess.Popen([sys.executable, pathlib.Path(__file__).with_name("prober.py"), self.server.url],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "asking\n"
        return self

    def __exit__(self, *exc):
        out, _ = self.process.communicate(timeout=30)
        self.seen = json.loads(out)
        self.statuses = {path: set(seen["statuses"]) for path, seen in self.seen.items()}

    def summary(self):
        """Latencies; those of "echo" are what a server that does nothing at all would have had at the same time."""
        return {path: {"asked": len(seen["seconds"]), "p50_ms": round(1e3 * statistics.median(seen["seconds"]), 2),
                       "p99.9_ms": round(1e3 * sorted(seen["seconds"])[int(len(seen["seconds"]) * 0.999)], 2),
                       "statuses": sorted(seen["statuses"])} for path, seen in self.seen.items()}
