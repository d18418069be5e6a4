"""`optserve bench` with the real binary: in process, over HTTP and gRPC, and against servers that stall or fail on purpose."""

import contextlib
import http.server
import json
import socketserver
import threading
import time

import pytest

from harness import MODEL, run


def bench(tmp_path, *args):
    """Runs a benchmark and returns its JSON report."""
    path = tmp_path / "report.json"
    ended = run("bench", *args, "--json", path, "--no-roof")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads(path.read_text())


def check_exact(run_, requests, prompt, output):
    summary = run_["summary"]
    assert summary["answered"] == summary["requests"] == requests and summary["errors"] == {}
    assert summary["prompt_tokens"] == requests * prompt and summary["output_tokens"] == requests * output
    assert summary["answers_counted_by"] == {"tokens": requests, "usage": 0, "chunks": 0}
    assert summary["merged_arrivals"] == 0
    assert summary["latency"]["itl_ms"]["count"] == requests * (output - 1)


def explained(tmp_path, *args):
    """The explanation whose parts sum best to the latencies, of up to three runs: other programs on the machine can take
    the processor between the moments that two clocks see."""
    explanations = []
    for _ in range(3):
        one, = bench(tmp_path, *args)["runs"]
        explanations.append(one["explain"])
        if abs(explanations[-1]["explained"] - 1) <= 0.03:
            break
    return min(explanations, key=lambda explanation: abs(explanation["explained"] - 1))


def check_steps(explanation):
    """The last steps are real ones: they follow each other, and when all are there they sum to the account."""
    steps = explanation["last_steps"]
    assert len(steps) == min(explanation["steps"], 1024)
    assert all(step["tokens"] >= step["sequences"] > 0 and step["ms"]["weights"] > 0 for step in steps)
    lengths = [sum(step["ms"].values()) for step in steps]
    for one, length, following in zip(steps, lengths, steps[1:]):
        assert following["begin_ms"] >= one["begin_ms"] + length - 0.02
    if len(steps) == explanation["steps"]:
        assert sum(lengths) == pytest.approx(explanation["steps_ms"], rel=0.01)


SMALL = ("--requests", 16, "--warm-up", 4, "--prompt-tokens", 32, "--output-tokens", 24)


def test_offline_counts_exactly_and_the_parts_sum_to_the_latencies(tmp_path):
    one, = bench(tmp_path, "offline", MODEL, *SMALL)["runs"]
    check_exact(one, 16, 32, 24)
    explanation = explained(tmp_path, "offline", MODEL, *SMALL)
    assert explanation["explained"] == pytest.approx(1, abs=0.03)
    check_steps(explanation)
    parts = {part["name"]: part["ms"] for part in one["explain"]["parts"]}
    assert parts["weights"] > 0 and parts["attention"] > 0 and parts["host"] > 0 and parts["all_reduce"] == 0


def test_two_ranks_spend_time_on_adding_up(tmp_path):
    one, = bench(tmp_path, "offline", MODEL, *SMALL, "--tensor-parallel-size", 2)["runs"]
    assert {part["name"]: part["ms"] for part in one["explain"]["parts"]}["all_reduce"] > 0


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_serve_counts_exactly(server, tmp_path, protocol):
    url = ["--url", server.url] if protocol == "http" else ["--url", f"grpc://{server.grpc}", "--metrics-url", server.url]
    load = (*url, *SMALL, "--vocab-size", 4096)
    closed, = bench(tmp_path, "serve", *load)["runs"]
    check_exact(closed, 16, 32, 24)
    assert closed["explain"]["tokens"] == 20 * 24
    opened, = bench(tmp_path, "serve", *load, "--rate", 40)["runs"]
    check_exact(opened, 16, 32, 24)
    assert opened["name"] == "40 requests/s, Poisson"
    explanation = explained(tmp_path, "serve", *load)
    assert explanation["explained"] == pytest.approx(1, abs=0.03)
    check_steps(explanation)
    parts = {part["name"]: part["ms"] for part in explanation["parts"]}
    assert parts["front_end"] > 0 and parts["wire"] > 0 and parts["client"] > 0


def test_reports_need_no_network_and_compare(tmp_path):
    html, csv = tmp_path / "report.html", tmp_path / "report.csv"
    report = bench(tmp_path, "offline", MODEL, *SMALL, "--html", html, "--csv", csv)
    page = html.read_text()
    assert report["started"] in page and "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
    assert len(csv.read_text().splitlines()) == 1 + 16 + 4
    compared = run("bench", "compare", tmp_path / "report.json", tmp_path / "report.json", "--json")
    metrics = json.loads(compared.stdout)["metrics"]
    assert len(metrics) == 8 and all(m["ratio"] == 1 and m["low"] <= 1 <= m["high"] for m in metrics)
    assert run("bench", "compare", csv, csv).returncode == 2


def test_a_workload_for_which_steps_are_many_tells_of_the_last_ones(tmp_path):
    explanation = explained(tmp_path, "offline", MODEL, "--requests", 40, "--concurrency", 1, "--prompt-tokens", 8,
                            "--output-tokens", 40)
    assert explanation["steps"] > 1024
    check_steps(explanation)


class StandIn(http.server.BaseHTTPRequestHandler):
    """A server of the protocol that answers at once, but stands still when told to, and breaks some of its streams; or one
    that knows OpenAI's fields only, and whose texts are of several tokens (`chunk_tokens`), with usage or without."""

    protocol_version = "HTTP/1.1"
    lock = threading.Lock()
    num_requests = stall_at = break_every = 0
    stall_seconds = 0.0
    is_strict, has_usage, chunk_tokens = False, True, 1
    is_end_a_token = False  # the last event's, which has no text

    def log_message(self, *_):
        pass

    def reply(self, content_type, body):
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.reply("application/json", json.dumps({"object": "list", "data": [{"id": "stand-in", "object": "model"}]}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        cls = type(self)
        with cls.lock:  # one at a time: who comes during the stall waits for it
            cls.num_requests += 1
            number = cls.num_requests
            if number == cls.stall_at:
                time.sleep(cls.stall_seconds)
        if cls.is_strict:
            known = {"model", "prompt", "max_tokens", "temperature", "stream", "stream_options"}
            if not all(isinstance(prompt, str) for prompt in body["prompt"]) or not set(body) <= known:
                self.send_error(400)
                return
        tokens = body["max_tokens"]
        events = [{"choices": [{"index": 0, "text": "a" * cls.chunk_tokens, "finish_reason": None}]}] * (tokens // cls.chunk_tokens)
        if cls.is_strict:  # as OpenAI's: the end is an event of its own
            events = events[:len(events) - cls.is_end_a_token] + [{"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}]
        if cls.break_every and number % cls.break_every == 0:
            events = events[:2] + [{"error": {"message": "gone", "type": "server_error", "param": None, "code": "engine_dead"}}]
        else:
            prompt = body["prompt"][0].split() if cls.is_strict else body["prompt"]
            usage = {"prompt_tokens": len(prompt), "completion_tokens": tokens, "total_tokens": 0}
            events = events + [{"choices": [], "usage": usage}] * cls.has_usage
        text = "".join(f"data: {json.dumps({'object': 'text_completion', **event})}\n\n" for event in events)
        self.reply("text/event-stream", (text + "data: [DONE]\n\n").encode())


class StandInServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 256


@contextlib.contextmanager
def stand_in(**behaviour):
    handler = type("Handler", (StandIn,), behaviour)
    server = StandInServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("in_flight", [1, 64])
def test_a_stall_is_charged_for_every_request_that_it_kept_waiting(tmp_path, in_flight):
    """A second of standstill while 50 requests a second are due: some 50 wait, half a second on average, whether or not the
    client could send them meanwhile. Counted from sending, with one under way, a single request of 150 would be slow."""
    with stand_in(stall_at=100, stall_seconds=1.0) as url:
        one, = bench(tmp_path, "serve", "--url", url, "--rate", 50, "--even", "--requests", 150, "--warm-up", 0,
                     "--max-in-flight", in_flight, "--output-tokens", 2)["runs"]
    assert one["summary"]["answered"] == 150 and "explain" not in one
    slow = [ms for ms in one["samples"]["e2e_ms"] if ms > 200]
    assert len(slow) >= 30
    assert one["summary"]["latency"]["e2e_ms"]["p99"] > 800
    if in_flight == 1:
        assert one["client_limits"], "it sent nothing while it waited"


def test_errors_inside_streams_are_counted_as_such(tmp_path):
    with stand_in(break_every=4) as url:
        one, = bench(tmp_path, "serve", "--url", url, "--requests", 40, "--warm-up", 0, "--output-tokens", 5)["runs"]
    summary = one["summary"]
    (kind, count), = summary["errors"].items()
    assert "engine_dead" in kind and count >= 8 and summary["answered"] == 40 - count
    assert summary["errors_in_stream"] == {kind: count}


@pytest.mark.parametrize("chunk_tokens, has_usage, is_end_a_token, counted_by, output, arrivals", [
    (1, True, False, "tokens", 8, 8), (1, True, True, "tokens", 8, 8), (2, True, False, "usage", 8, 4),
    (2, False, False, "chunks", 4, 4),
])
def test_a_server_of_openais_fields_is_measured_and_how_its_tokens_were_counted_is_said(
        tmp_path, chunk_tokens, has_usage, is_end_a_token, counted_by, output, arrivals):
    with stand_in(is_strict=True, has_usage=has_usage, chunk_tokens=chunk_tokens, is_end_a_token=is_end_a_token) as url:
        load = ("serve", "--url", url, "--requests", 10, "--warm-up", 0, "--prompt-tokens", 12, "--output-tokens", 8)
        refused = run("bench", *load, "--no-roof")
        assert refused.returncode == 2 and "no request was answered: 400" in refused.stderr
        one, = bench(tmp_path, *load, "--plain")["runs"]
        said = run("bench", *load, "--no-roof", "--plain").stdout
    summary = one["summary"]
    assert summary["answered"] == 10 and summary["output_tokens"] == 10 * output
    assert summary["prompt_tokens"] == (120 if has_usage else 0)
    assert summary["answers_counted_by"] == {kind: 10 if kind == counted_by else 0 for kind in ("tokens", "usage", "chunks")}
    assert summary["latency"]["itl_ms"]["count"] == 10 * (arrivals - 1)
    assert ("texts that are not a token each" in said) == (counted_by == "usage")
    assert ("answers without usage" in said) == (counted_by == "chunks")


def test_who_does_not_answer_is_named():
    ended = run("bench", "serve", "--url", "http://127.0.0.1:1")
    assert ended.returncode == 1 and "127.0.0.1:1" in ended.stderr
    assert run("bench", "serve", "--url", "nowhere").returncode == 2
    assert run("bench", "offline", MODEL, "--workload", "chat").returncode == 2


def test_what_the_server_says_to_a_load_that_comes_to_nothing_is_said(server):
    # Ids of OPT's own vocabulary, of which the demo model has the first 4096.
    ended = run("bench", "serve", "--url", server.url, "--requests", 2, "--warm-up", 0, "--no-roof")
    assert ended.returncode == 2 and "no request was answered: 400, prompt[" in ended.stderr, ended.stderr
    assert "0 to 4095" in ended.stderr


def test_files_that_cannot_be_written_are_refused_before_the_load(server):
    ended = run("bench", "serve", "--url", server.url, "--csv", "/no/such/folder/x.csv")
    assert ended.returncode == 2 and "/no/such/folder/x.csv cannot be written: No such" in ended.stderr
    assert ended.stdout == "" and "closed loop" not in ended.stderr
    bad = run("bench", "serve", "--url", server.url, "--rate", "0")
    assert bad.returncode == 2 and "--rate: it is 0, but must be a number above 0" in bad.stderr
