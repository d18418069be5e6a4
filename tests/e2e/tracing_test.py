"""Traces as a collector gets them, and traceparent as clients see it."""

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import ssl
import time

import grpc
import pytest
import requests

from access_test import new_key
from client_failures_test import certificate
from harness import Server
from trace_collector import Collector, attributes, seconds

PROMPT = "Call me Ishmael."
PARTS = ["decode", "deliver", "prefill", "prepare", "queue"]
TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-(0[01])")


@pytest.fixture(scope="module")
def collector():
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("tracing") / "log"


@pytest.fixture(scope="module")
def traced(collector, log):
    with Server("--otlp-traces-endpoint", collector.url, "--log-format", "json", log=log) as running:
        yield running


def new_parent(flags="01"):
    """(trace id, span id, traceparent) of a client."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, span_id, f"00-{trace_id}-{span_id}-{flags}"


def ask(server, headers=None, **fields):
    body = {"prompt": PROMPT, "max_tokens": 8, "temperature": 0, "ignore_eos": True, **fields}
    return requests.post(server.url + "/v1/completions", json=body, headers=headers, timeout=60)


def logged(log, event):
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def check_parts(trace):
    """Parts are children of the whole, one begins where the other ends, and together they are the whole."""
    order = [trace.part(name) for name in ("prepare", "queue", "prefill", "decode", "deliver")]
    assert order[0].start_time_unix_nano == trace.root.start_time_unix_nano
    assert order[-1].end_time_unix_nano == trace.root.end_time_unix_nano
    for before, after in zip(order, order[1:]):
        assert before.end_time_unix_nano == after.start_time_unix_nano, (before.name, after.name)
    for part in order:
        assert (part.trace_id, part.parent_span_id) == (trace.root.trace_id, trace.root.span_id)
        assert part.kind == part.SPAN_KIND_INTERNAL and part.end_time_unix_nano >= part.start_time_unix_nano
    assert len({span.span_id for span in [trace.root, *order]}) == 6


@pytest.mark.parametrize("stream", [False, True])
def test_a_completion_is_a_child_of_its_clients_span(traced, collector, log, stream):
    trace_id, span_id, parent = new_parent()
    began = time.time_ns()
    response = ask(traced, {"traceparent": parent, "tracestate": "shop=42", "x-request-id": "ana-1"}, stream=stream)
    ended = time.time_ns()
    assert response.status_code == 200
    trace = collector.trace(trace_id)
    check_parts(trace)
    root = trace.root
    assert TRACEPARENT.fullmatch(response.headers["traceparent"]).groups() == (trace_id, root.span_id.hex(), "01")
    assert root.parent_span_id.hex() == span_id and root.trace_state == "shop=42"
    assert root.name == "text_completion demo-model" and root.flags == 0x301
    assert began <= root.start_time_unix_nano <= root.end_time_unix_nano <= ended + 50_000_000
    facts = trace.facts
    expected = {"gen_ai.operation.name": "text_completion", "gen_ai.request.model": "demo-model",
                "gen_ai.request.id": "ana-1", "gen_ai.request.max_tokens": 8, "gen_ai.request.temperature": 0.0,
                "gen_ai.request.n": 1, "gen_ai.usage.completion_tokens": 8, "gen_ai.usage.output_tokens": 8,
                "gen_ai.response.finish_reasons": ["length"], "http.route": "/v1/completions",
                "http.response.status_code": 200, "optserve.request.stream": stream}
    assert {name: facts.get(name) for name in expected} == expected
    assert "error.type" not in facts and root.status.code == 0
    if not stream:
        assert facts["gen_ai.usage.prompt_tokens"] == response.json()["usage"]["prompt_tokens"]
        assert facts["gen_ai.response.id"] == response.json()["id"]
    first_token = trace.part("decode").start_time_unix_nano - root.start_time_unix_nano
    assert facts["gen_ai.latency.time_to_first_token"] == pytest.approx(first_token * 1e-9, abs=1e-6)
    assert facts["gen_ai.latency.time_in_queue"] == pytest.approx(seconds(trace.part("queue")), abs=1e-6)
    assert facts["gen_ai.latency.e2e"] == pytest.approx(seconds(root), abs=1e-6)
    line = next(line for line in logged(log, "completion") if line["trace_id"] == trace_id)
    assert line["request_id"] == "ana-1" and line["id"] == facts["gen_ai.response.id"]
    resource = attributes(collector.requests[0].resource_spans[0].resource)
    assert resource["service.name"] == "optserve" and resource["process.pid"] == traced.process.pid


@pytest.mark.parametrize("sent", ["", "nonsense", "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
                                  "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                                  "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"])
def test_what_is_no_traceparent_begins_a_trace(traced, collector, sent):
    response = ask(traced, {"traceparent": sent} if sent else None, max_tokens=1)
    assert response.status_code == 200
    trace_id, span_id, flags = TRACEPARENT.fullmatch(response.headers["traceparent"]).groups()
    assert flags == "01" and trace_id not in sent
    trace = collector.trace(trace_id)
    assert trace.root.span_id.hex() == span_id and trace.root.parent_span_id == b""


def test_what_the_client_does_not_sample_is_not_recorded(traced, collector, log):
    trace_id, span_id, parent = new_parent("00")
    response = ask(traced, {"traceparent": parent}, max_tokens=1)
    answered = TRACEPARENT.fullmatch(response.headers["traceparent"])
    assert answered[1] == trace_id and answered[2] != span_id and answered[3] == "00"
    sampled_id, _, sampled = new_parent()
    ask(traced, {"traceparent": sampled}, max_tokens=1)
    collector.trace(sampled_id)
    assert all(span.trace_id.hex() != trace_id for span in collector.spans())
    assert any(line["trace_id"] == trace_id for line in logged(log, "completion"))


def test_several_prompts_and_answers(traced, collector):
    trace_id, _, parent = new_parent()
    response = ask(traced, {"traceparent": parent}, prompt=[PROMPT, "It was"], n=2, seed=1, temperature=1)
    assert len(response.json()["choices"]) == 4
    trace = collector.trace(trace_id)
    assert trace.names() == sorted(["prepare", "deliver"] + ["queue", "prefill", "decode"] * 2)
    assert sorted(attributes(span)["optserve.prompt.index"] for span in trace.parts if span.name == "decode") == [0, 1]
    assert trace.facts["gen_ai.usage.num_sequences"] == 4
    assert trace.facts["gen_ai.usage.completion_tokens"] == response.json()["usage"]["completion_tokens"]


def test_no_text_leaves_the_server(traced, collector):
    trace_id, _, parent = new_parent()
    ask(traced, {"traceparent": parent}, prompt="xylophone", stop=["zeppelin"], user="quixote", metadata={"a": "gnu"})
    collector.trace(trace_id)
    everything = str(collector.requests)
    assert not [word for word in ("xylophone", "zeppelin", "quixote", "gnu") if word in everything]


@pytest.mark.parametrize("body, status", [({"prompt": PROMPT, "max_tokens": -1}, 400), ({"prompt": PROMPT, "model": "x"}, 404),
                                          ({"prompt": "a " * 4000, "max_tokens": 1}, 400)])
def test_requests_that_are_refused(traced, collector, body, status):
    trace_id, _, parent = new_parent()
    response = requests.post(traced.url + "/v1/completions", json=body, headers={"traceparent": parent}, timeout=60)
    assert response.status_code == status and TRACEPARENT.fullmatch(response.headers["traceparent"])[1] == trace_id
    trace = collector.trace(trace_id)
    assert trace.parts == [] and trace.root.status.code == 0, "the client's fault is no failure of the server"
    assert (trace.facts["http.response.status_code"], trace.facts["error.type"]) == (status, str(status))


def test_a_deadline_is_a_failure(traced, collector):
    trace_id, _, parent = new_parent()
    response = ask(traced, {"traceparent": parent}, max_tokens=1000, timeout=0.02)
    assert response.status_code == 504
    trace = collector.trace(trace_id)
    assert trace.root.status.code == trace.root.status.STATUS_CODE_ERROR
    assert trace.facts["optserve.finish"] == "deadline"
    assert trace.facts["gen_ai.response.finish_reasons"] == ["deadline"]


def test_a_client_that_leaves(traced, collector):
    trace_id, _, parent = new_parent()
    with ask_streamed(traced, parent) as response:
        next(response.iter_lines())
    trace = collector.trace(trace_id)
    assert trace.facts["http.response.status_code"] == 499 and trace.facts["optserve.finish"] == "cancelled"
    assert trace.names() == ["decode", "prefill", "prepare", "queue"]
    assert trace.part("decode").end_time_unix_nano == trace.root.end_time_unix_nano
    assert 0 < trace.facts["gen_ai.usage.completion_tokens"] < 900


def ask_streamed(server, parent):
    body = {"prompt": PROMPT, "max_tokens": 900, "stream": True, "ignore_eos": True}
    return requests.post(server.url + "/v1/completions", json=body, headers={"traceparent": parent}, stream=True,
                         timeout=60)


def test_grpc(traced, collector, pb):
    message = pb[0].CompletionRequest(prompt=[{"text": PROMPT}], max_tokens=4, temperature=0, ignore_eos=True)
    with grpc.insecure_channel(traced.grpc) as channel:
        service = pb[1].CompletionStub(channel)
        for method in ("Complete", "Stream"):
            trace_id, span_id, parent = new_parent()
            call = (service.Complete.future if method == "Complete" else service.Stream)(
                message, metadata=[("traceparent", parent), ("tracestate", "shop=42")])
            answered = dict(call.initial_metadata())["traceparent"]
            call.result() if method == "Complete" else list(call)
            trace = collector.trace(trace_id)
            check_parts(trace)
            assert answered == f"00-{trace_id}-{trace.root.span_id.hex()}-01"
            assert trace.root.parent_span_id.hex() == span_id and trace.root.trace_state == "shop=42"
            expected = {"rpc.system": "grpc", "rpc.service": "optserve.v1.Completion", "rpc.method": method,
                        "rpc.grpc.status_code": 0, "gen_ai.usage.completion_tokens": 4}
            assert {name: trace.facts.get(name) for name in expected} == expected

        trace_id, _, parent = new_parent()
        with pytest.raises(grpc.RpcError):
            service.Complete(pb[0].CompletionRequest(prompt=[{"text": PROMPT}], max_tokens=-1),
                             metadata=[("traceparent", parent)])
        refused = collector.trace(trace_id)
        assert refused.parts == [] and refused.facts["error.type"] == "INVALID_ARGUMENT"

        trace_id, _, parent = new_parent()
        message.max_tokens = 900
        call = service.Stream(message, metadata=[("traceparent", parent)])
        next(call)
        call.cancel()
        left = collector.trace(trace_id)
        assert left.facts["error.type"] == "CANCELLED" and left.facts["optserve.finish"] == "cancelled"
        assert left.names() == ["decode", "prefill", "prepare", "queue"]

        _, _, invalid = new_parent()
        call = service.Stream(message, metadata=[("traceparent", invalid.upper())])
        assert dict(call.initial_metadata())["traceparent"][3:35] != invalid[3:35]
        call.cancel()


def test_probes_make_no_spans(traced, collector):
    trace_id, _, parent = new_parent()
    for path in ("/livez", "/metrics", "/v1/models"):
        assert "traceparent" not in requests.get(traced.url + path, headers={"traceparent": parent}, timeout=10).headers
    sampled_id, _, sampled = new_parent()
    ask(traced, {"traceparent": sampled}, max_tokens=1)
    collector.trace(sampled_id)
    assert all(span.trace_id.hex() != trace_id for span in collector.spans())


def test_without_a_collector_a_traceparent_is_passed_on(server):
    _, _, parent = new_parent()
    assert ask(server, {"traceparent": parent}, max_tokens=1).headers["traceparent"] == parent
    assert "traceparent" not in ask(server, {"traceparent": "nonsense"}, max_tokens=1).headers
    assert "traceparent" not in ask(server, max_tokens=1).headers


def free_port():
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_collector_that_is_down_and_comes_back(tmp_path):
    port, log = free_port(), tmp_path / "log"
    url = f"http://127.0.0.1:{port}"  # without a path it is OTLP's
    with Server("--otlp-traces-endpoint", url, "--log-format", "json", log=log) as server:
        trace_id, _, parent = new_parent()
        assert ask(server, {"traceparent": parent}).status_code == 200
        deadline = time.monotonic() + 10
        while not logged(log, "trace_collector_fails"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for _ in range(20):
            assert ask(server, max_tokens=1).elapsed.total_seconds() < 2
        with Collector(port) as collector:
            assert collector.trace(trace_id).facts["gen_ai.usage.completion_tokens"] == 8
            server.wait_for_metric("optserve_trace_spans_exported_total", 21 * 6)
            assert server.metric("optserve_trace_spans_dropped_total") == 0
        assert len(logged(log, "trace_collector_fails")) == len(logged(log, "trace_collector_answers")) == 1


def test_a_collector_that_refuses_loses_spans_and_the_metric_says_so(tmp_path):
    log = tmp_path / "log"
    with Collector() as collector, Server("--otlp-traces-endpoint", collector.url, log=log) as server:
        collector.status = 500
        assert ask(server).status_code == 200
        server.wait_for_metric("optserve_trace_spans_dropped_total", 6)
        assert "it answered 500" in log.read_text()
        collector.status, collector.answer = 200, b'{"partialSuccess":{"rejectedSpans":"2"}}'
        assert ask(server).status_code == 200
        server.wait_for_metric("optserve_trace_spans_dropped_total", 8)
        assert server.metric("optserve_trace_spans_exported_total") == 4


def test_the_end_waits_for_a_slow_collector_but_not_for_long(tmp_path):
    with Collector() as collector:
        server = Server("--otlp-traces-endpoint", collector.url)
        trace_id, _, parent = new_parent()
        ask(server, {"traceparent": parent})
        assert server.stop() == 0
        collector.trace(trace_id, timeout_seconds=1)  # sent by the end, within the second that batches wait

        collector.delay = 30
        server = Server("--otlp-traces-endpoint", collector.url)
        ask(server)
        began = time.monotonic()
        assert server.stop() == 0
        assert 2 < time.monotonic() - began < 10
        collector.delay = 0


def test_sampling_is_of_those_who_do_not_say(collector):
    with Server("--otlp-traces-endpoint", collector.url, "--trace-sampling", 0) as server:
        response = ask(server, max_tokens=1)
        unsampled = TRACEPARENT.fullmatch(response.headers["traceparent"])
        assert unsampled[3] == "00"
        trace_id, _, parent = new_parent()
        ask(server, {"traceparent": parent}, max_tokens=1)
        collector.trace(trace_id)
        assert all(span.trace_id.hex() != unsampled[1] for span in collector.spans())


def test_only_who_has_a_key_makes_spans(tmp_path, collector):
    keys = tmp_path / "keys"
    key = new_key(keys)
    with Server("--otlp-traces-endpoint", collector.url, "--api-key-file", keys) as server:
        stranger_id, _, stranger = new_parent()
        assert ask(server, {"traceparent": stranger}).status_code == 401
        trace_id, _, parent = new_parent()
        assert ask(server, {"traceparent": parent, "authorization": f"Bearer {key}"}).status_code == 200
        collector.trace(trace_id)
        assert all(span.trace_id.hex() != stranger_id for span in collector.spans())


def test_tls_to_the_collector(tmp_path, monkeypatch):
    cert, key = certificate(tmp_path, "collector", "DNS:localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    log = tmp_path / "log"
    with Collector(tls=context) as collector:
        with Server("--otlp-traces-endpoint", collector.url, log=log) as server:
            assert ask(server).status_code == 200
            deadline = time.monotonic() + 10
            while "certificate verify failed" not in log.read_text():
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        with Server("--otlp-traces-endpoint", collector.url) as server:
            trace_id, _, parent = new_parent()
            ask(server, {"traceparent": parent})
            collector.trace(trace_id)


def test_spans_outlive_an_engine(traced, collector):
    trace_id, _, parent = new_parent()
    with ask_streamed(traced, parent) as response:
        lines = response.iter_lines()
        next(lines)
        children = os.popen(f"pgrep -P {traced.process.pid}").read().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        assert b"data: [DONE]" in list(lines)
    trace = collector.trace(trace_id, timeout_seconds=30)
    check_parts(trace)
    assert trace.facts["gen_ai.usage.completion_tokens"] == 900
