"""How many tokens of context tell the passages of a text apart, counted by the rule and by looking at all pairs."""

import numpy as np
import pytest

from llm.training.writing_context import FARTHEST, needed_context, undecided


def text_with_repeats():
    """3,000 random tokens; a passage of 20 of them stands there a second time and goes on differently."""
    tokens = np.random.default_rng(0).integers(50, size=3000)
    tokens[2000:2020] = tokens[500:520]
    tokens[2020] = tokens[520] + 1
    return tokens


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_undecided_tokens_are_those_whose_context_occurs_elsewhere_with_another_token_after_it(n):
    tokens, followers = text_with_repeats()[:900], {}
    for at in range(n, len(tokens)):
        followers.setdefault(tuple(tokens[at - n : at]), set()).add(tokens[at])
    expected = [len(followers[tuple(tokens[at - n : at])]) > 1 for at in range(n, len(tokens))]
    assert undecided(tokens, n) == pytest.approx(np.mean(expected)) and (n > 2 or any(expected))


def test_the_needed_context_is_one_more_than_the_longest_passage_that_occurs_twice():
    tokens = text_with_repeats()
    assert undecided(tokens, 20) == pytest.approx(2 / 2980) and undecided(tokens, 21) == 0
    assert needed_context(tokens) == 21


def test_a_text_that_never_decides_has_a_limit():
    tokens = np.tile(np.arange(100), 8)
    tokens[150::250] = 7
    assert needed_context(tokens) == FARTHEST
    assert needed_context(np.arange(30)) == 1
