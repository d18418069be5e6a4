"""gRPC as its users meet it: stubs made from our .proto, stock health and reflection, and the same answers as HTTP."""

import signal
import socket
import struct

import grpc
import pytest
import requests
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from harness import REFERENCE, Server

SERVICE = "optserve.v1.Completion"
SAMPLED = {"prompt": ["Call me Ishmael.", "It was the best of times"], "max_tokens": 12, "n": 2, "seed": 7,
           "temperature": 0.8, "top_p": 0.95, "logprobs": 3, "echo": True, "prompt_logprobs": 2, "stop": ["zzz"],
           "return_token_ids": True}


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.grpc) as opened:
        yield opened


@pytest.fixture
def stub(pb, channel):
    return pb[1].CompletionStub(channel)


def message_of(pb, body):
    """The CompletionRequest that says what a body of HTTP says."""
    fields = {name: value for name, value in body.items() if name not in ("prompt", "stop", "stream")}
    prompts = body["prompt"]
    if isinstance(prompts, str) or isinstance(prompts[0], int):
        prompts = [prompts]
    message = pb[0].CompletionRequest(**fields)
    for prompt in prompts:
        if isinstance(prompt, str):
            message.prompt.add(text=prompt)
        else:
            message.prompt.add(token_ids=pb[0].TokenIds(ids=prompt))
    message.stop.extend(body.get("stop", []))
    return message


def float32(number):
    return None if number is None else struct.unpack("f", struct.pack("f", number))[0]


def choice_as_json(pb, choice):
    """A Choice as HTTP prints it, with floats as they are in the model."""
    def logprob(token):
        return token.logprob if token.HasField("logprob") else None

    reason = choice.WhichOneof("stop_reason")
    return {
        "index": choice.index,
        "text": choice.text,
        "finish_reason": {0: None, 1: "stop", 2: "length"}[choice.finish_reason],
        "stop_reason": reason and getattr(choice, reason),
        "token_ids": list(choice.token_ids),
        "prompt_token_ids": list(choice.prompt_token_ids),
        "logprobs": {
            "tokens": [entry.token.token for entry in choice.logprobs],
            "token_logprobs": [logprob(entry.token) for entry in choice.logprobs],
            "top_logprobs": [{token.token: logprob(token) for token in entry.top}
                             if entry.token.HasField("logprob") else None for entry in choice.logprobs],
            "text_offset": [entry.text_offset for entry in choice.logprobs],
        },
        "prompt_logprobs": [{str(token.token_id): {"logprob": logprob(token), "decoded_token": token.token}
                             for token in entry.top} if entry.HasField("token") else None
                            for entry in choice.prompt_logprobs],
    }


def rounded(value):
    """JSON's floats as 32-bit ones."""
    if isinstance(value, float):
        return float32(value)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value


def error_of(call):
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value


def detail(error, kind):
    """The google.rpc detail of that kind, or None."""
    status = rpc_status.from_call(error)
    for packed in status.details if status else []:
        found = kind()
        if packed.Unpack(found):
            return found
    return None


@pytest.mark.parametrize("case", REFERENCE, ids=lambda case: case["prompt"][:20])
def test_greedy_tokens_are_those_of_transformers(pb, stub, case):
    request = message_of(pb, {"prompt": case["prompt"], "max_tokens": case["max_tokens"], "temperature": 0,
                              "return_token_ids": True})
    choice = stub.Complete(request, timeout=60).choices[0]
    assert list(choice.prompt_token_ids) == case["prompt_ids"]
    assert list(choice.token_ids) == case["ids"]
    assert choice.text == case["text"]
    pieces = [event.choices[0] for event in stub.Stream(request, timeout=60)]
    assert "".join(piece.text for piece in pieces) == case["text"]
    assert [piece_id for piece in pieces for piece_id in piece.token_ids] == case["ids"]


def test_complete_says_what_http_says(pb, stub, server):
    response = stub.Complete(message_of(pb, SAMPLED), timeout=60)
    body = server.post(SAMPLED).json()
    assert [choice_as_json(pb, choice) for choice in response.choices] == rounded(body["choices"])
    assert response.model == body["model"]
    assert response.usage.total_tokens == body["usage"]["total_tokens"]
    assert response.usage.completion_tokens == body["usage"]["completion_tokens"]


def test_stream_says_what_http_says(pb, stub, server):
    body = {**SAMPLED, "stream_options": {"include_usage": True}}
    events = list(stub.Stream(message_of(pb, body), timeout=60))
    chunks = server.stream(**body)
    assert len(events) == len(chunks)

    def by_choice(pieces):  # several choices run at once: only the order within each is fixed
        return sorted(pieces, key=lambda piece: piece["index"])

    ours = [choice_as_json(pb, choice) for event in events for choice in event.choices]
    theirs = [rounded(choice) for chunk in chunks for choice in chunk["choices"]]
    assert len(ours) == len(theirs)
    for one, other in zip(by_choice(ours), by_choice(theirs)):
        assert {key: one[key] for key in other} == other
    assert [len(event.choices) for event in events] == [len(chunk["choices"]) for chunk in chunks]
    assert events[-1].usage.total_tokens == chunks[-1]["usage"]["total_tokens"]


def test_token_ids_are_used_as_given(pb, stub, server):
    ids = REFERENCE[0]["prompt_ids"]
    response = stub.Complete(message_of(pb, {"prompt": ids, "max_tokens": 8, "temperature": 0}), timeout=60)
    assert response.choices[0].text == server.complete(ids, max_tokens=8)["choices"][0]["text"]


@pytest.mark.parametrize("text", ["Call me Ishmael.", "", "caf\u00e9 \U0001f600</s>"])
def test_tokenize_and_detokenize_say_what_http_says(pb, stub, server, text):
    answer = stub.Tokenize(pb[0].TokenizeRequest(prompt=text), timeout=10)
    body = server.post({"prompt": text}, "/tokenize").json()
    assert list(answer.tokens) == body["tokens"]
    assert (answer.count, answer.max_model_len) == (body["count"], body["max_model_len"])
    back = stub.Detokenize(pb[0].DetokenizeRequest(tokens=answer.tokens), timeout=10)
    assert back.prompt == server.post({"tokens": body["tokens"]}, "/detokenize").json()["prompt"]


def test_models_are_those_of_http(pb, stub, server):
    models = stub.ListModels(pb[0].ListModelsRequest(), timeout=10).models
    listed = requests.get(server.url + "/v1/models", timeout=10).json()["data"]
    assert [(model.id, model.created, model.owned_by, model.max_model_len) for model in models] == [
        (model["id"], model["created"], model["owned_by"], model["max_model_len"]) for model in listed]


@pytest.mark.parametrize("body, code", [
    ({"prompt": ["x"], "temperature": 3}, grpc.StatusCode.INVALID_ARGUMENT),
    ({"prompt": ["x", ""]}, grpc.StatusCode.INVALID_ARGUMENT),
    ({"prompt": ["x"], "max_tokens": 0}, grpc.StatusCode.INVALID_ARGUMENT),
    ({"prompt": ["x"], "max_tokens": 1_000_000}, grpc.StatusCode.INVALID_ARGUMENT),
    ({"prompt": [[1, 1_000_000]]}, grpc.StatusCode.INVALID_ARGUMENT),
    ({"prompt": ["x"], "model": "nonsense"}, grpc.StatusCode.NOT_FOUND),
], ids=str)
def test_errors_say_what_http_says(pb, stub, server, body, code):
    expected = server.post(body).json()["error"]
    for call in (lambda: stub.Complete(message_of(pb, body), timeout=10),
                 lambda: list(stub.Stream(message_of(pb, body), timeout=10))):
        error = error_of(call)
        assert error.code() == code
        assert error.details() == expected["message"]
        violation = detail(error, error_details_pb2.BadRequest).field_violations[0]
        assert violation.field == expected["param"]
        info = detail(error, error_details_pb2.ErrorInfo)
        assert (info and info.reason) == expected["code"]


def test_a_deadline_ends_the_call(pb, stub, server):
    request = message_of(pb, {"prompt": "Call me", "max_tokens": 900, "ignore_eos": True})
    assert error_of(lambda: stub.Complete(request, timeout=0.02)).code() == grpc.StatusCode.DEADLINE_EXCEEDED
    server.wait_for_metric("optserve_requests_running", 0)
    request.timeout = 0.02
    assert error_of(lambda: list(stub.Stream(request, timeout=60))).code() == grpc.StatusCode.DEADLINE_EXCEEDED
    server.wait_for_metric("optserve_requests_running", 0)


def test_a_deadline_ends_a_call_that_waits_in_the_queue(pb):
    """With room for one request, the second one's deadline passes before it gets a token."""
    with Server("--max-num-seqs", 1) as server, grpc.insecure_channel(server.grpc) as channel:
        stub = pb[1].CompletionStub(channel)
        first = stub.Stream(message_of(pb, {"prompt": "Call me", "max_tokens": 900, "ignore_eos": True}), timeout=60)
        next(first)
        waiting = message_of(pb, {"prompt": "It was", "max_tokens": 1})
        assert error_of(lambda: stub.Complete(waiting, timeout=0.05)).code() == grpc.StatusCode.DEADLINE_EXCEEDED
        server.wait_for_metric("optserve_requests_waiting", 0)
        first.cancel()
        assert stub.Complete(waiting, timeout=60).choices  # the place is free again


def test_a_message_above_the_limit_is_refused_and_the_connection_goes_on(pb, stub):
    too_long = pb[0].DetokenizeRequest(tokens=[50_000] * 6_000_000)
    assert too_long.ByteSize() > 16 << 20
    assert error_of(lambda: stub.Detokenize(too_long, timeout=30)).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.ListModels(pb[0].ListModelsRequest(), timeout=10).models


def test_a_client_that_pings_too_often_is_sent_away(pb, server):
    """grpc's own client pings every ten seconds at most, so this one speaks HTTP/2 by hand."""
    with socket.create_connection(server.grpc.rsplit(":", 1)) as peer:
        peer.settimeout(10)
        ping = b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)
        peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0" + ping * 10)
        received = b""
        while b"too_many_pings" not in received:
            received += peer.recv(65536) or pytest.fail(f"closed without a word: {received!r}")
    with grpc.insecure_channel(server.grpc) as channel:  # others are served
        assert pb[1].CompletionStub(channel).ListModels(pb[0].ListModelsRequest(), timeout=10).models


def test_health_watch_tells_of_a_drain(pb):
    with Server() as server, grpc.insecure_channel(server.grpc) as channel:
        stub = pb[1].CompletionStub(channel)
        running = stub.Stream(message_of(pb, {"prompt": "Call me", "max_tokens": 900, "ignore_eos": True}), timeout=60)
        next(running)  # so that the drain takes a while
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        running.cancel()


def test_a_cancelled_stream_frees_its_blocks(pb, stub, server):
    request = message_of(pb, {"prompt": "Call me", "max_tokens": 900, "ignore_eos": True})
    stream = stub.Stream(request, timeout=60)
    next(stream)
    stream.cancel()
    server.wait_for_metric("optserve_requests_running", 0)
    server.wait_for_metric("optserve_requests_waiting", 0)


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_is_serving(channel, service):
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_health_of_an_unknown_service_is_not_found(channel):
    with pytest.raises(grpc.RpcError) as error:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="nonsense"), timeout=10)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_service(channel):
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]), timeout=10))
    assert SERVICE in [service.name for service in answer.list_services_response.service]
