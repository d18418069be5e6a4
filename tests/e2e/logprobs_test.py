"""The promises about log probabilities, (a) to (g) of the API, on prompts of every kind: words, emoji, scripts of many bytes
a character, ids that split characters. lm-evaluation-harness and others read the lists by position; one entry too many or
one offset off is a wrong score and no error."""

import concurrent.futures
import json
import math
import random

import pytest

from harness import MODEL, REFERENCE, Server

PIECES = ["the king", " of Israel", " Elizabeth", "\n\n", "  ", "\t", "a", ".", "naïve", "Ω≈ç√", "日本語", "ภาษาไทย", "👩‍👩‍👧‍👦", "🏳️‍🌈", "e\u0301",
          "\u200f", "שלום", "\ufffd", "\x00", "bytes:\\xe2", "1234567890", "</ s>", "🦜" * 3, "\u2028", "é"]
NUM_IDS = 4096  # of the demo model; 4 to 259 are single bytes
EOS, SPECIAL = 2, (1, 2)  # </s>; it and <pad> show nothing
BATCH = 16  # prompts in one request


def text_prompts(seed, count):
    draw = random.Random(seed)
    return ["".join(draw.choices(PIECES, k=draw.randint(1, 6))) for _ in range(count)]


def id_prompts(seed, count):
    """Ids at random, from all of the vocabulary: byte tokens split and break characters."""
    draw = random.Random(seed)
    return [[draw.randrange(4, NUM_IDS if draw.random() < 0.6 else 260)
             for _ in range(draw.randint(1, 24))] for _ in range(count)]


def no_duplicates(pairs):
    keys = [key for key, _ in pairs]
    assert len(set(keys)) == len(keys), f"a key twice: {keys}"
    return dict(pairs)


class Printed(str):
    """A number of JSON as it was printed."""


def raw(response):
    """The answer with its numbers as printed, refusing an object that has a key twice."""
    assert response.status_code == 200, response.text
    return json.loads(response.text, parse_float=Printed, object_pairs_hook=no_duplicates)


def choices_of(server, prompts, **fields):
    body = {"prompt": prompts, "temperature": 0, **fields}
    return raw(server.post(body))["choices"]


def streamed_choices(server, prompts, **fields):
    """The choices put together from a stream's pieces; lists are joined, texts too."""
    body = {"prompt": prompts, "temperature": 0, "stream": True, **fields}
    response = server.post(body)
    assert response.status_code == 200, response.text
    frames = response.content.decode("utf-8").removesuffix("\n\n").split("\n\n")
    assert frames[-1] == "data: [DONE]"
    whole = {}
    for frame in frames[:-1]:
        for piece in json.loads(frame.removeprefix("data: "), parse_float=Printed,
                                object_pairs_hook=no_duplicates)["choices"]:
            choice = whole.setdefault(piece["index"], piece)
            if choice is piece:
                continue
            choice["text"] += piece["text"]
            for key, values in (piece["logprobs"] or {}).items():
                choice["logprobs"][key] += values
            choice.update({key: piece[key] for key in ("finish_reason", "stop_reason")})
    return [whole[index] for index in sorted(whole)]


def vocabulary():
    """What each id of the demo model stands for. vocab.json writes bytes in GPT-2's alphabet of printable characters."""
    printable = [*range(0x21, 0x7f), *range(0xa1, 0xad), *range(0xae, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {**{chr(byte): byte for byte in printable}, **{chr(256 + i): byte for i, byte in enumerate(others)}}
    tokens = json.loads((MODEL / "vocab.json").read_text())
    return {index: b"" if index in SPECIAL else bytes(alphabet[char] for char in token) for token, index in tokens.items()}


def is_begun(data):
    """Whether these bytes are a character or the beginning of one."""
    try:
        return len(data.decode()) == 1
    except UnicodeDecodeError as error:
        return error.start == 0 and error.reason == "unexpected end of data"


def character_of_each_byte(data):
    """The number of the character that a byte is part of; what is no character is U+FFFD for each of its longest beginnings."""
    numbers, begin, count = [], 0, 0
    while begin < len(data):
        end = begin + 1
        while end < len(data) and not data[begin:end].decode("utf-8", "ignore") and is_begun(data[begin:end + 1]):
            end += 1
        numbers += [count] * (end - begin)
        begin, count = end, count + 1
    return numbers, count


def expected_offsets(tokens):
    """Where tokens of these bytes begin, in characters of the text that all of them are."""
    data = b"".join(tokens)
    numbers, count = character_of_each_byte(data)
    assert count == len(data.decode("utf-8", "replace"))
    begins = [sum(map(len, tokens[:i])) for i in range(len(tokens))]
    return [numbers[begin] if begin < len(data) else count for begin in begins]


BYTES = vocabulary()


def shown(token_id):
    """(d) A token as the lists show it: its text, or its bytes where they are not text, which no other token's are."""
    try:
        return BYTES[token_id].decode("utf-8") or {1: "<pad>", 2: "</s>"}[token_id]
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in BYTES[token_id])


def assert_lists(choice, ids, num_top, has_first=True):
    """(a) to (d) and (f) for the lists of one choice over `ids`, which begin a sequence if `has_first`."""
    lists = choice["logprobs"]
    assert lists["tokens"] == [shown(token_id) for token_id in ids]
    assert [len(values) for values in lists.values()] == [len(ids)] * 4
    assert lists["text_offset"] == expected_offsets([BYTES[token_id] for token_id in ids])
    scores, tops = lists["token_logprobs"], lists["top_logprobs"]
    if has_first:
        assert scores[0] is None and tops[0] is None
    for token, score, top in list(zip(lists["tokens"], scores, tops))[has_first:]:
        assert top[token] == score  # the same characters, not only the same value
        assert -200 < float(score) <= 0
        others = sorted((float(value) for value in top.values()), reverse=True)[:num_top]
        assert len(others) == num_top and len(top) <= num_top + 1
        assert sum(map(math.exp, others)) < 1 + 1e-5


def batches(prompts):
    return [prompts[begin:begin + BATCH] for begin in range(0, len(prompts), BATCH)]


@pytest.mark.parametrize("prompts", [text_prompts(1, 512), id_prompts(2, 512)], ids=["texts", "ids"])
def test_every_list_of_a_thousand_prompts_keeps_the_promises(server, prompts):
    def check(batch):
        for prompt, choice in zip(batch, choices_of(server, batch, echo=True, max_tokens=1, logprobs=3,
                                                    return_token_ids=True), strict=True):
            prompt_ids, new_ids = choice["prompt_token_ids"], choice["token_ids"]
            assert prompt_ids == prompt or isinstance(prompt, str) and prompt_ids[0] == EOS
            assert len(new_ids) == 1
            assert_lists(choice, prompt_ids + new_ids, num_top=3)
            # What lm-evaluation-harness takes for "is greedy": true of the greedy token itself.
            assert choice["logprobs"]["token_logprobs"][-1] == max(choice["logprobs"]["top_logprobs"][-1].values(), key=float)
            text = b"".join(BYTES[token_id] for token_id in prompt_ids + new_ids).decode("utf-8", "replace")
            assert choice["text"] == text
            if isinstance(prompt, str):
                assert choice["text"].startswith(prompt)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(check, batches(prompts)))


def test_an_eos_that_is_generated_keeps_its_entry(server):
    choice, = choices_of(server, ["Call me"], echo=True, max_tokens=5, logprobs=1, logit_bias={str(EOS): 100},
                         return_token_ids=True)
    assert choice["token_ids"] == [EOS] and choice["finish_reason"] == "stop"
    assert_lists(choice, choice["prompt_token_ids"] + [EOS], num_top=1)
    assert choice["text"] == "Call me"


def test_log_probabilities_are_of_the_model_whatever_the_sampling(server):
    """A token is pushed where the model would not go; its log probability does not say so."""
    plain, = choices_of(server, [[2, 100, 200]], echo=True, max_tokens=1, logprobs=20)
    ranked = sorted(plain["logprobs"]["top_logprobs"][-1].items(), key=lambda item: float(item[1]), reverse=True)
    wanted, score = ranked[10]
    token_id = next(index for index in BYTES if shown(index) == wanted)
    pushed, = choices_of(server, [[2, 100, 200]], echo=True, max_tokens=1, logprobs=20, logit_bias={str(token_id): 100},
                         temperature=0.3, top_k=2, repetition_penalty=1.5, presence_penalty=1)
    assert pushed["logprobs"]["tokens"][-1] == wanted
    assert pushed["logprobs"]["token_logprobs"][-1] == score
    assert pushed["logprobs"]["top_logprobs"] == plain["logprobs"]["top_logprobs"]


VARIANTS = [{}, {"echo": True}, {"echo": True, "prompt_logprobs": 2, "max_tokens": 0}, {"n": 3, "seed": 1, "temperature": 1},
            {"echo": True, "stop": ["a", "\n", "th"], "seed": 2, "temperature": 1},
            {"stop": ["e "], "include_stop_str_in_output": True}, {"echo": True, "return_tokens_as_token_ids": True}]


@pytest.mark.parametrize("fields", VARIANTS, ids=[",".join(fields) for fields in VARIANTS])
def test_a_stream_says_the_same_to_the_last_digit(server, fields):
    prompts = text_prompts(3, 8) + ["It is a truth"]
    fields = {"max_tokens": 12, "logprobs": 2, "return_token_ids": True, **fields}
    whole = choices_of(server, prompts, **fields)
    pieces = streamed_choices(server, prompts, **fields)
    for one, other in zip(whole, pieces, strict=True):
        assert {**one, "token_ids": None} == {**other, "token_ids": None}
    prompts = id_prompts(4, 8)
    whole = choices_of(server, prompts, **fields)
    for one, other in zip(whole, streamed_choices(server, prompts, **fields), strict=True):
        assert one["logprobs"] == other["logprobs"] and one["text"] == other["text"]


def test_offsets_count_from_the_answer_without_echo(server):
    for choice in choices_of(server, text_prompts(5, 16), max_tokens=12, logprobs=1, return_token_ids=True):
        ids = choice["token_ids"]
        assert_lists(choice, ids, num_top=1, has_first=False)


# What must not show in a score: (g). Few blocks: with 24 prompts at once some sequences are preempted.
ENGINES = {
    "chunks": ["--max-num-batched-tokens", 7],
    "few-blocks": ["--kv-cache-memory", "4MiB", "--max-model-len", 256],
    "ranks": ["--tensor-parallel-size", 2, "--deterministic-tp"],
}


@pytest.mark.parametrize("flags", ENGINES.values(), ids=ENGINES.keys())
def test_no_score_shows_how_the_engine_works(flags):
    fields = {"echo": True, "max_tokens": 40, "logprobs": 5, "prompt_logprobs": 1, "ignore_eos": True}
    prompts = [case["prompt_ids"] for case in REFERENCE] + id_prompts(6, 24)
    same_arithmetic = ["--deterministic-tp"] if "--deterministic-tp" in flags else []
    with Server(*same_arithmetic) as server:
        expected = [choices_of(server, prompt, **fields) for prompt in prompts]
    with Server(*flags) as server, concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
        for _ in range(2):  # the second time out of the prefix cache, where it holds
            assert list(pool.map(lambda prompt: choices_of(server, prompt, **fields), prompts)) == expected
        preempted = server.metric("optserve_preemptions_total")
    assert (preempted > 0) == (flags is ENGINES["few-blocks"])


def test_scores_come_out_of_the_prefix_cache_unchanged(server):
    prompt = REFERENCE[0]["prompt_ids"] * 4
    fields = {"echo": True, "max_tokens": 1, "logprobs": 4}
    first = raw(server.post({"prompt": prompt, "temperature": 0, **fields}))
    plain = server.complete(prompt, max_tokens=1)  # without scores the prefix is read from the cache
    second = raw(server.post({"prompt": prompt, "temperature": 0, **fields}))
    assert plain["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert first["choices"] == second["choices"]
