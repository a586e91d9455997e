"""Generation chooses what the logits say, and the cache changes nothing."""

import pytest
import torch

from llm.generate import choose, context_start, drawable_ids, generate

EVERY = torch.arange(61)


def drawn(model, prompt, n, **kwargs):
    return list(generate(model, prompt, max_new_tokens=n, **{"drawable": EVERY} | kwargs))


def test_greedy_is_the_argmax_of_the_whole_context(tiny_model):
    model = tiny_model()
    ids = [3, 1, 4]
    for token in drawn(model, ids, 13):
        assert token == model(torch.tensor([ids]))[0].argmax()
        ids = ids + [token]


@pytest.mark.parametrize("length", [1, 7, 8, 15, 16, 17, 40])
def test_cached_equals_uncached_across_the_context_border(tiny_model, length):
    """60 tokens from a context of 16: the older half is forgotten several times, at every alignment to the prompt."""
    model = tiny_model()
    prompt = torch.randint(61, (length,), generator=torch.Generator().manual_seed(length)).tolist()

    def draw(use_cache):
        generator = torch.Generator().manual_seed(0)
        return drawn(model, prompt, 60, temperature=1.0, generator=generator, use_cache=use_cache)

    assert draw(True) == draw(False)
    assert len(set(draw(True))) > 5  # not a stuck model, which would hide a wrong context


@pytest.mark.parametrize("prompt_length", [1, 3, 8, 9, 20])
def test_the_context_never_exceeds_block_size_and_keeps_half(prompt_length):
    start = max(0, prompt_length - 8)
    for length in range(prompt_length, 100):
        if length - start > 8:
            start = length - 4
        assert context_start(prompt_length, length, 8) == start


def test_a_context_of_one_token_works(tiny_model):
    assert len(drawn(tiny_model(block_size=1), [5], 10)) == 10


def test_only_drawable_ids_are_drawn(tiny_model):
    allowed = torch.tensor([2, 30, 59])
    for temperature in (0.0, 5.0):
        generator = torch.Generator().manual_seed(0)
        tokens = drawn(tiny_model(), [1], 200, drawable=allowed, temperature=temperature, generator=generator)
        assert set(tokens) <= set(allowed.tolist())


def test_a_seed_reproduces_and_another_differs(tiny_model):
    model = tiny_model()

    def text(seed):
        return drawn(model, [1], 30, temperature=2.0, generator=torch.Generator().manual_seed(seed))

    assert text(1) == text(1) != text(2)


def test_end_of_text_ends_and_is_not_yielded(tiny_model):
    model = tiny_model()
    tokens = drawn(model, [1], 20, temperature=1.0, generator=torch.Generator().manual_seed(0))
    stop = tokens[5]
    again = drawn(model, [1], 20, temperature=1.0, generator=torch.Generator().manual_seed(0), end_of_text=stop)
    assert again == tokens[: tokens.index(stop)]


def test_top_k_draws_only_among_the_k_largest_even_with_ties():
    logits = torch.tensor([1.0, 1.0, 1.0, 0.0])
    generator = torch.Generator().manual_seed(0)
    seen = {choose(logits, temperature=1.0, top_k=2, generator=generator) for _ in range(200)}
    assert len(seen) == 2 and 3 not in seen


def test_draws_follow_the_softmax_at_a_temperature():
    logits = torch.tensor([2.0, 0.0, -1.0])
    generator = torch.Generator().manual_seed(0)
    draws = torch.tensor([choose(logits, temperature=2.0, top_k=None, generator=generator) for _ in range(20_000)])
    torch.testing.assert_close(draws.bincount() / 20_000, (logits / 2).softmax(-1), atol=0.01, rtol=0)


def test_padded_rows_are_never_drawable():
    assert drawable_ids(None, 50257).max() == 50256
    assert drawable_ids([4, 7], 50257).tolist() == [4, 7]
