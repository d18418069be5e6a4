"""The openai package, pointed at our server as its users would."""

import openai
import pytest

from harness import REFERENCE

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
