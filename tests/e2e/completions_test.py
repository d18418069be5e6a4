"""Completions over HTTP, against what transformers says about the same model and against each other."""

import concurrent.futures

import pytest

from harness import REFERENCE, generated_ids

# Rounding differs between transformers' f32 products and ours; log probabilities agree to this.
LOGPROB_TOLERANCE = 5e-4
PROMPT = REFERENCE[0]["prompt"]


@pytest.mark.parametrize("case", REFERENCE, ids=lambda case: ascii(case["prompt"][:16]))
@pytest.mark.parametrize("as_ids", [False, True], ids=["text", "ids"])
def test_greedy_is_what_transformers_generates(server, case, as_ids):
    prompt = case["prompt_ids"] if as_ids else case["prompt"]
    body = server.complete(prompt, max_tokens=case["max_tokens"], logprobs=1, return_tokens_as_token_ids=True)
    choice = body["choices"][0]
    assert generated_ids(choice) == case["ids"]
    assert choice["text"] == case["text"]
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(case["logprobs"], abs=LOGPROB_TOLERANCE)
    assert body["usage"]["prompt_tokens"] == len(case["prompt_ids"])
    assert body["usage"]["completion_tokens"] == len(case["ids"])


@pytest.mark.parametrize("case", REFERENCE, ids=lambda case: ascii(case["prompt"][:16]))
def test_scoring_is_what_transformers_computes(server, case):
    choice = server.complete(case["prompt"], max_tokens=0, echo=True, logprobs=0)["choices"][0]
    scores = choice["logprobs"]["token_logprobs"]
    assert choice["text"] == case["prompt"]
    assert scores[0] is None
    assert scores[1:] == pytest.approx(case["prompt_logprobs"], abs=LOGPROB_TOLERANCE)


@pytest.mark.parametrize("fields", [{}, {"echo": True}, {"temperature": 1, "seed": 5}], ids=["greedy", "echo", "seeded"])
def test_a_stream_adds_up_to_the_answer(server, fields):
    fields = {"max_tokens": 24, "logprobs": 3, **fields}
    whole = server.complete(PROMPT, **fields)
    *events, last = server.stream(PROMPT, stream_options={"include_usage": True}, **fields)
    choices = [event["choices"][0] for event in events]
    expected = whole["choices"][0]
    assert "".join(choice["text"] for choice in choices) == expected["text"]
    for key, values in expected["logprobs"].items():
        assert [value for choice in choices for value in choice["logprobs"][key]] == values, key
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert choices[-1]["finish_reason"] == expected["finish_reason"]
    assert all(event["usage"] is None for event in events)
    assert last["choices"] == [] and last["usage"]["total_tokens"] == whole["usage"]["total_tokens"]


def test_one_event_per_token_and_whole_characters_only(server):
    events = server.stream(PROMPT, max_tokens=16)
    assert len(events) == 16
    assert not any("\ufffd" in event["choices"][0]["text"] for event in events)


def test_echo_with_logprobs_has_one_entry_per_token(server):
    logprobs = server.complete(PROMPT, max_tokens=1, echo=True, logprobs=2)["choices"][0]["logprobs"]
    prompt_tokens = len(REFERENCE[0]["prompt_ids"])
    assert {len(values) for values in logprobs.values()} == {prompt_tokens + 1}
    assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
    for token, value, top in list(zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"]))[1:]:
        assert top[token] == value


def test_text_offsets_point_at_the_tokens(server):
    choice = server.complete(PROMPT, max_tokens=8, echo=True, logprobs=0)["choices"][0]
    tokens, offsets = choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]
    assert offsets[:2] == [0, 0]  # BOS shows nothing
    for token, offset in list(zip(tokens, offsets))[1:]:
        assert choice["text"][offset:offset + len(token)] == token


def test_same_seed_same_tokens_alone_and_in_a_crowd(server):
    fields = {"max_tokens": 24, "temperature": 1, "logprobs": 1}
    alone = server.complete(PROMPT, seed=7, **fields)["choices"]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        crowd = list(pool.map(lambda seed: server.complete(PROMPT, seed=seed, **fields)["choices"], [7] + list(range(100, 111))))
    assert crowd[0] == alone
    assert len({choices[0]["text"] for choices in crowd}) > 6


def test_n_choices_differ_and_are_numbered(server):
    choices = server.complete(PROMPT, n=4, seed=3, temperature=1, max_tokens=16)["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert len({choice["text"] for choice in choices}) > 1


def test_several_prompts_answer_in_order(server):
    cases = REFERENCE[:3]
    choices = server.complete([case["prompt"] for case in cases], max_tokens=cases[0]["max_tokens"])["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert [choice["text"] for choice in choices] == [case["text"] for case in cases]


def test_best_of_returns_the_likeliest(server):
    fields = {"seed": 3, "temperature": 1, "max_tokens": 8, "logprobs": 0}
    mean = lambda choice: sum(choice["logprobs"]["token_logprobs"]) / len(choice["logprobs"]["token_logprobs"])
    candidates = server.complete(PROMPT, n=5, **fields)["choices"]
    best = server.complete(PROMPT, n=1, best_of=5, **fields)["choices"]
    assert [choice["text"] for choice in best] == [max(candidates, key=mean)["text"]]


@pytest.mark.parametrize("include", [False, True])
def test_a_stop_string_across_tokens_cuts_the_text(server, include):
    full = REFERENCE[0]["text"]
    stop = full[8:14]  # starts and ends inside words
    choice = server.complete(PROMPT, max_tokens=40, stop=stop, include_stop_str_in_output=include)["choices"][0]
    assert choice["text"] == full[:full.index(stop) + (len(stop) if include else 0)]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)


@pytest.mark.parametrize("fields, param", [
    ({"nonsense": 1}, "nonsense"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"temperature": 2.5}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"n": 129}, "n"),
    ({"logprobs": 21}, "logprobs"),
    ({"stop": [""]}, "stop[0]"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [5, 4096]}, "prompt[1]"),
    ({"suffix": "x"}, "suffix"),
])
def test_a_bad_field_is_named(server, fields, param):
    response = server.post({"prompt": PROMPT, **fields})
    error = response.json()["error"]
    assert response.status_code == 400
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_more_than_the_context_is_refused_with_the_numbers(server):
    response = server.post({"prompt": PROMPT, "max_tokens": 2000})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "2000" in error["message"] and "1024" in error["message"]
