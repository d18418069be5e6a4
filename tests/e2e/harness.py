"""The real binary as the tests see it: started on free ports, spoken to over real sockets, stopped by signal."""

import contextlib
import json
import os
import pathlib
import re
import selectors
import signal
import subprocess
import time

import requests

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "deploy" / "demo-model"
# Not for the binary itself, which warns of variables that it does not know.
BINARY = pathlib.Path(os.environ.pop("OPTSERVE_BINARY", ROOT / "build" / "release" / "optserve"))
READY = re.compile(r"optserve ready http=(https?://\S+) grpc=(\S+) model=(\S+)")
REFERENCE = json.loads((ROOT / "tests/data/golden/demo-model/reference.json").read_text())["cases"]


def run(*args, stdin=""):
    """Runs a subcommand to its end and returns its CompletedProcess."""
    return subprocess.run([BINARY, *map(str, args)], input=stdin, capture_output=True, text=True, timeout=60)


class Server:
    """`optserve serve` in a process of its own; a context manager that stops it with SIGTERM. `log`: a file for its
    standard error."""

    def __init__(self, *args, model=MODEL, log=None):
        command = [BINARY, "serve", model, "--port", 0, "--grpc-port", 0, *args]
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            stderr = stack.enter_context(open(log, "ab")) if log is not None else None
            self.process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=stderr,
                                            text=True)
        line = self._read_ready_line(timeout_seconds=30)
        self.start_seconds = time.monotonic() - began
        match = READY.fullmatch(line.rstrip("\n"))
        if match is None:
            self.process.kill()
            raise AssertionError(f"expected the ready line, got {line!r}")
        self.url, self.grpc, self.model = match.groups()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()

    def _read_ready_line(self, timeout_seconds):
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout_seconds):
                self.process.kill()
                raise AssertionError(f"no ready line within {timeout_seconds} s")
        return self.process.stdout.readline()

    def stop(self):
        """Sends SIGTERM once and returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def post(self, body, path="/v1/completions"):
        return requests.post(self.url + path, json=body, timeout=60)

    def complete(self, prompt, **fields):
        """A completion that must succeed; greedy unless told otherwise."""
        response = self.post({"prompt": prompt, "temperature": 0, **fields})
        assert response.status_code == 200, response.text
        return response.json()

    def stream(self, prompt, **fields):
        """The events of a streamed completion, after checking their framing byte for byte."""
        body = {"prompt": prompt, "temperature": 0, "stream": True, **fields}
        with requests.post(self.url + "/v1/completions", json=body, stream=True, timeout=60) as response:
            assert response.status_code == 200, response.text
            assert response.headers["Content-Type"].startswith("text/event-stream")
            raw = response.content.decode("utf-8", errors="strict")
        assert raw.endswith("\n\n")
        frames = raw[:-2].split("\n\n")
        assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames)
        assert frames[-1] == "data: [DONE]"
        return [json.loads(frame[len("data: "):]) for frame in frames[:-1]]

    def metric(self, name):
        """The value of an unlabelled metric."""
        text = requests.get(self.url + "/metrics", timeout=10).text
        values = [float(line.split()[1]) for line in text.splitlines() if line.startswith(name + " ")]
        assert len(values) == 1, f"{name} appears {len(values)} times"
        return values[0]

    def wait_for_metric(self, name, value, timeout_seconds=10):
        deadline = time.monotonic() + timeout_seconds
        while (seen := self.metric(name)) != value:
            assert time.monotonic() < deadline, f"{name} is {seen}, not {value}, after {timeout_seconds} s"
            time.sleep(0.02)


def wait_until(holds, what, seconds=30):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)


def generated_ids(choice):
    """The ids behind a choice asked for with logprobs and return_tokens_as_token_ids."""
    return [int(token.removeprefix("token_id:")) for token in choice["logprobs"]["tokens"]]
