"""litellm's text completion, pointed at our server."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # before the import, which would fetch a list of prices

import litellm  # noqa: E402
import pytest  # noqa: E402

from harness import REFERENCE  # noqa: E402

CASE, OTHER = REFERENCE[0], REFERENCE[2]


@pytest.fixture
def ask(server):
    def call(prompt, **fields):
        fields = {"max_tokens": CASE["max_tokens"], "temperature": 0, "num_retries": 0, "max_retries": 0, **fields}
        return litellm.text_completion(model=f"text-completion-openai/{server.model}", prompt=prompt,
                                       api_base=server.url + "/v1", api_key="none", **fields)
    return call


def test_completion(ask):
    answer = ask(CASE["prompt"])
    assert answer.choices[0].text == CASE["text"]
    assert answer.usage.completion_tokens == len(CASE["ids"])
    assert answer.usage.prompt_tokens == len(CASE["prompt_ids"])


def test_stream(ask):
    pieces = [chunk.choices[0].text for chunk in ask(CASE["prompt"], stream=True) if chunk.choices]
    assert "".join(piece for piece in pieces if piece) == CASE["text"]


def test_several_prompts(ask):
    answer = ask([CASE["prompt"], OTHER["prompt"]])
    assert [choice.text for choice in answer.choices] == [CASE["text"], OTHER["text"]]


def test_token_ids(ask):
    assert ask(CASE["prompt_ids"]).choices[0].text == CASE["text"]


def test_logprobs_and_echo(ask):
    choice = ask(CASE["prompt"], max_tokens=1, echo=True, logprobs=1).choices[0]
    logprobs = choice.logprobs if isinstance(choice.logprobs, dict) else dict(choice.logprobs)
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["token_logprobs"][1:-1] == pytest.approx(CASE["prompt_logprobs"], abs=1e-3)


def test_errors_are_its_own(ask, server):
    with pytest.raises(litellm.BadRequestError):
        ask(CASE["prompt"], temperature=3)
    with pytest.raises(litellm.NotFoundError):
        litellm.text_completion(model="text-completion-openai/nonsense", prompt="x", api_base=server.url + "/v1",
                                api_key="none", max_retries=0)
