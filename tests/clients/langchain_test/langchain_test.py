"""langchain-openai's completion model, pointed at our server."""

import pytest
from langchain_core.prompts import PromptTemplate
from langchain_openai import OpenAI

from harness import REFERENCE

CASE, OTHER = REFERENCE[0], REFERENCE[2]


@pytest.fixture
def llm(server):
    return OpenAI(base_url=server.url + "/v1", api_key="none", model=server.model, temperature=0,
                  max_tokens=CASE["max_tokens"], max_retries=0)


def test_invoke(llm):
    assert llm.invoke(CASE["prompt"]) == CASE["text"]


def test_stream(llm):
    pieces = list(llm.stream(CASE["prompt"]))
    assert "".join(pieces) == CASE["text"]
    assert len(pieces) > 1


def test_batch_keeps_its_order(llm):
    assert llm.batch([OTHER["prompt"], CASE["prompt"]]) == [OTHER["text"], CASE["text"]]


def test_generate_counts_tokens(llm):
    result = llm.generate([CASE["prompt"], OTHER["prompt"]])
    assert [generations[0].text for generations in result.generations] == [CASE["text"], OTHER["text"]]
    usage = result.llm_output["token_usage"]
    assert usage["completion_tokens"] == len(CASE["ids"]) + len(OTHER["ids"])
    assert usage["prompt_tokens"] == len(CASE["prompt_ids"]) + len(OTHER["prompt_ids"])


def test_stop_in_a_chain(llm):
    word = CASE["text"].split()[5]
    chain = PromptTemplate.from_template("{prompt}") | llm.bind(stop=[word])
    assert chain.invoke({"prompt": CASE["prompt"]}) == CASE["text"].split(word)[0]


def test_logprobs(server):
    llm = OpenAI(base_url=server.url + "/v1", api_key="none", model=server.model, temperature=0, max_tokens=4,
                 max_retries=0, logprobs=2)
    generation = llm.generate([CASE["prompt"]]).generations[0][0]
    assert generation.generation_info["logprobs"]["token_logprobs"] == pytest.approx(CASE["logprobs"][:4], abs=1e-3)
    assert generation.generation_info["finish_reason"] == "length"
