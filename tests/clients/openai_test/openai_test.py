"""The openai package, pointed at our server as its users would."""

import threading

import openai
import pytest

from harness import REFERENCE, Server, run

CASE = REFERENCE[0]
GREEDY = {"prompt": CASE["prompt"], "max_tokens": CASE["max_tokens"], "temperature": 0}


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def test_models_are_listed(client, server):
    assert [model.id for model in client.models.list()] == [server.model]


def test_create(client, server):
    answer = client.completions.create(model=server.model, **GREEDY)
    assert answer.choices[0].text == CASE["text"]
    assert answer.usage.completion_tokens == len(CASE["ids"])


def test_stream(client, server):
    chunks = client.completions.create(model=server.model, stream=True, **GREEDY)
    assert "".join(chunk.choices[0].text for chunk in chunks) == CASE["text"]


def test_logprobs_and_echo(client, server):
    answer = client.completions.create(model=server.model, **{**GREEDY, "max_tokens": 1}, logprobs=2, echo=True)
    assert len(answer.choices[0].logprobs.token_logprobs) == len(CASE["prompt_ids"]) + 1
    assert answer.choices[0].text.startswith(CASE["prompt"])


def test_n(client, server):
    answer = client.completions.create(model=server.model, prompt="Call me", n=3, max_tokens=8, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as error:
        client.completions.create(model="nonsense", **GREEDY)
    assert error.value.code == "model_not_found"


def test_a_bad_field_is_a_bad_request(client, server):
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model=server.model, **GREEDY, extra_body={"nonsense": 1})
    assert error.value.param == "nonsense"


def test_a_key_over_its_limit_is_told_when_to_come_back_and_does(tmp_path):
    """429 with Retry-After, which the package obeys: it waits and is then served."""
    key_file = tmp_path / "keys"
    made = run("keys", "new", "--api-key-file", key_file, "--name", "Ana", "--concurrent-requests", 1)
    with Server("--api-key-file", key_file) as server:
        patient, hasty = (openai.OpenAI(base_url=server.url + "/v1", api_key=made.stdout.strip(), max_retries=retries)
                          for retries in (2, 0))
        held = hasty.completions.create(model=server.model, prompt="Call me", max_tokens=900, stream=True,
                                        extra_body={"ignore_eos": True})
        next(iter(held))
        with pytest.raises(openai.RateLimitError) as error:
            hasty.completions.create(model=server.model, **GREEDY)
        assert error.value.code == "rate_limit_exceeded" and int(error.value.response.headers["retry-after"]) >= 1
        threading.Timer(0.2, held.close).start()
        answer = patient.completions.with_raw_response.create(model=server.model, **GREEDY)
        assert answer.retries_taken >= 1
        assert answer.parse().choices[0].text == CASE["text"]


def test_a_request_out_of_time_is_not_tried_again(server):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=2)
    with pytest.raises(openai.APIStatusError) as error:
        client.completions.create(model=server.model, prompt="Call me", max_tokens=900,
                                  extra_body={"ignore_eos": True, "timeout": 0.05})
    assert error.value.status_code == 504
    assert error.value.response.request.headers["x-stainless-retry-count"] == "0"


def test_no_key_and_a_wrong_key_are_authentication_errors(tmp_path):
    key_file = tmp_path / "keys"
    assert run("keys", "new", "--api-key-file", key_file).returncode == 0
    with Server("--api-key-file", key_file) as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="sk-wrong", max_retries=2)
        with pytest.raises(openai.AuthenticationError) as error:
            client.completions.create(model=server.model, **GREEDY)
        assert error.value.code == "invalid_api_key"


def test_a_server_that_drains_is_an_internal_server_error():
    with Server("--shutdown-timeout", 5) as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        held = client.completions.create(model=server.model, prompt="Call me", max_tokens=900, stream=True,
                                         extra_body={"ignore_eos": True})
        next(iter(held))
        server.process.terminate()
        with pytest.raises(openai.InternalServerError) as error:
            for _ in range(1000):  # until the signal has arrived
                client.completions.create(model=server.model, **{**GREEDY, "max_tokens": 1})
        assert error.value.status_code == 503 and error.value.code == "shutting_down"
