"""The number of ranks changes no token."""

import pytest

from harness import REFERENCE, Server, generated_ids, run, MODEL


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_greedy_tokens_do_not_depend_on_the_number_of_ranks(ranks):
    with Server("--tensor-parallel-size", ranks) as server:
        for case in REFERENCE:
            choice = server.complete(case["prompt"], max_tokens=case["max_tokens"], logprobs=0,
                                     return_tokens_as_token_ids=True)["choices"][0]
            assert generated_ids(choice) == case["ids"]


def test_ranks_that_do_not_divide_the_heads_are_refused():
    ended = run("serve", MODEL, "--port", 0, "--grpc-port", 0, "--tensor-parallel-size", 3)
    assert ended.returncode == 2
    assert "3" in ended.stderr and "4" in ended.stderr and len(ended.stderr.splitlines()) == 1
