"""Generation draws what the logits say, and a sample is the same whatever is drawn beside it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.reading.generate import (
    GREEDY,
    MAX_MATCH,
    MIN_MATCH,
    Sample,
    Sampling,
    allowed_ids,
    choose,
    context_start,
    generate,
    next_tokens,
    position_in_book,
)
from llm.reading.reader import Reader

ALL_IDS = torch.arange(61)


class CountingReader(Reader):
    """A reader that notes how many tokens each sample reads in each call of decode, and each context it prefills."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.decoded_counts, self.prefilled = [], []

    def decode(self, tokens, caches):
        self.decoded_counts.append([len(ids) for ids in tokens])
        return super().decode(tokens, caches)

    def prefill(self, ids, cache):
        self.prefilled.append(ids)
        return super().prefill(ids, cache)


@pytest.fixture
def reader(tiny_model):
    return CountingReader(tiny_model(), ALL_IDS, torch.float32)


def drawn(reader, prompt, n, **options):
    """n tokens after a prompt."""
    return [token for _, token in generate(reader, prompt, max_new_tokens=n, **options)]


def drawn_samples(reader, prompt, n, numbers, **options):
    """{number: n tokens after a prompt} of samples that are drawn together."""
    samples = {number: [] for number in numbers}
    for number, token in generate(reader, prompt, max_new_tokens=n, numbers=numbers, **options):
        samples[number].append(token)
    return samples


@torch.no_grad()
def plain_generate(model, ids, max_new_tokens, sampling, allowed, random):
    """The code in generate.py's docstring: what it computes, without cache, batch and drafts."""
    prompt_length = len(ids)
    for _ in range(max_new_tokens):
        start = context_start(prompt_length, len(ids), model.config.block_size)
        logits, _ = model(torch.tensor([ids[start:]]))
        index = choose(logits[0, -1, allowed].numpy(), sampling, random)
        ids.append(allowed[index])
        yield ids[-1]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.5, top_k=20, top_p=0.9)])
@pytest.mark.parametrize("prompt_length", [1, 3, 20])
def test_it_draws_what_the_plain_code_in_its_docstring_draws(tiny_model, prompt_length, sampling):
    """Beyond a context of 16 tokens, with every third id allowed."""
    prompt, allowed = [(7 * n) % 61 for n in range(prompt_length)], list(range(0, 61, 3))
    plain = plain_generate(tiny_model(), list(prompt), 40, sampling, allowed, np.random.default_rng([5, 0]))
    reader = Reader(tiny_model(), torch.tensor(allowed), torch.float32)
    assert drawn(reader, prompt, 40, sampling=sampling, seed=5) == list(plain)


def test_a_greedy_text_is_what_it_was(reader):
    """Golden: changes only where the arithmetic or the rule for a full context is meant to change."""
    assert drawn(reader, [3, 1, 4], 40) == [int(token) for token in GOLDEN.split()]


GOLDEN = """
11 11 11 11 0 45 11 11 11 30 60 24 11 28 45 30 30 45 30 30
45 52 32 19 6 12 47 27 47 47 47 47 12 30 50 11 30 6 11 31
"""


@pytest.mark.parametrize("prompt_length", [1, 3, 8, 9, 20])
def test_the_context_never_exceeds_block_size_and_keeps_half(prompt_length):
    start = max(0, prompt_length - 8)
    for length in range(prompt_length, 100):
        if length - start > 8:
            start = length - 4
        assert context_start(prompt_length, length, 8) == start


def test_a_context_of_one_token_works(tiny_model):
    assert len(drawn(Reader(tiny_model(block_size=1), ALL_IDS, torch.float32), [5], 10)) == 10


def test_only_allowed_ids_are_drawn(tiny_model):
    allowed = [2, 30, 59]
    reader = Reader(tiny_model(), torch.tensor(allowed), torch.float32)
    for temperature in (0.0, 5.0):
        tokens = drawn(reader, [1], 200, sampling=Sampling(temperature=temperature, repetition_penalty=1.5))
        assert set(tokens) <= set(allowed)


def test_a_seed_reproduces_and_another_differs(reader):
    wild = Sampling(temperature=2.0)
    one, again, other = (drawn(reader, [1], 30, sampling=wild, seed=seed) for seed in (1, 1, 2))
    assert one == again != other


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_in_float32_a_sample_is_the_same_whatever_is_drawn_with_it(reader, penalty):
    """11 samples of one prompt, more than are read at once, over three drops of the context's older half."""
    options = dict(sampling=Sampling(temperature=1.5, top_p=0.9, repetition_penalty=penalty), seed=7)
    together = drawn_samples(reader, [3, 1, 4], 40, range(11), **options)
    assert len({tuple(tokens) for tokens in together.values()}) == 11
    for n in range(11):
        assert drawn_samples(reader, [3, 1, 4], 40, [n], **options)[n] == together[n]


def test_samples_of_different_prompts_are_what_they_are_alone(reader):
    """As a server draws them: others come and go in between."""
    sampling, prompts = Sampling(temperature=1.0), [[n] * (1 + 3 * n) for n in range(6)]
    alone = [drawn(reader, prompt, 30, sampling=sampling, seed=5) for prompt in prompts]
    waiting, running, found = list(enumerate(prompts)), {}, {}
    while len(found) < len(prompts):
        if waiting and len(running) < 4:
            n, prompt = waiting.pop(0)
            running[n] = Sample(reader, prompt, sampling, [5, 0])
        next_tokens(reader, list(running.values()))
        for n in [n for n, sample in running.items() if len(sample.ids) == len(prompts[n]) + 30]:
            found[n] = running.pop(n).ids[len(prompts[n]) :]
    assert [found[n] for n in range(6)] == alone


@pytest.fixture
def book(tiny_model):
    """A text that the tiny model knows by heart: what it says at temperature 0 after [3, 1, 4]; uint16 ids."""
    tokens = drawn(Reader(tiny_model(), ALL_IDS, torch.float32), [3, 1, 4], 200)
    return np.array([3, 1, 4, *tokens], dtype=np.uint16)


def test_a_book_known_by_heart_is_read_many_tokens_at_a_time(tiny_model, book):
    reader = CountingReader(tiny_model(), ALL_IDS, torch.float32, book_ids=book)
    assert drawn(reader, [3, 1, 4], 150) == book[3:153].tolist()
    assert 0 < len(reader.decoded_counts) < 150 / 4
    assert max(reader.decoded_counts) > [4]  # of at most 8: half of the context is dropped every 9 tokens


@pytest.mark.parametrize("temperature, penalty", [(0.0, 1.0), (1.2, 1.2)])
@pytest.mark.parametrize("kind", ["the book", "shuffled", "with mistakes", "another", "short"])
def test_drafts_change_nothing_about_what_is_drawn(tiny_model, book, kind, temperature, penalty):
    random = np.random.default_rng(1)
    texts = {"the book": book, "short": book[:5], "another": np.arange(61).repeat(3)}
    texts["shuffled"] = random.permutation(book)
    texts["with mistakes"] = np.where(random.random(len(book)) < 0.1, 7, book).astype(np.uint16)
    options = dict(sampling=Sampling(temperature, repetition_penalty=penalty), seed=4)
    for prompt in ([3, 1, 4], book[40:60].tolist(), [9]):
        plain = drawn(Reader(tiny_model(), ALL_IDS, torch.float32), prompt, 60, **options)
        for length in (60, 7):
            reader = Reader(tiny_model(), ALL_IDS, torch.float32, book_ids=texts[kind])
            assert drawn(reader, prompt, length, **options) == plain[:length]


def test_with_drafts_too_a_sample_is_the_same_whatever_is_drawn_with_it(tiny_model, book):
    reader = CountingReader(tiny_model(), ALL_IDS, torch.float32, book_ids=book)
    options = dict(sampling=Sampling(0.6), seed=7)
    together = drawn_samples(reader, [3, 1, 4], 40, range(11), **options)
    assert len({tuple(tokens) for tokens in together.values()}) == 11
    assert all(len(tokens) == 40 for tokens in together.values())
    assert any(len(set(counts)) > 1 for counts in reader.decoded_counts)  # they advanced at different speeds
    for n in range(11):
        assert drawn_samples(reader, [3, 1, 4], 40, [n], **options)[n] == together[n]


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), min_size=1, max_size=12))
def test_the_position_in_the_book_follows_the_longest_match(book_ids, ids):
    def match_length(position):
        """How many of the last tokens of ids stand just before a position in the book."""
        n = 0
        while n < min(len(ids), position, MAX_MATCH) and book_ids[position - n - 1] == ids[-n - 1]:
            n += 1
        return n

    best = max(range(len(book_ids) + 1), key=match_length)
    expected = best if match_length(best) >= MIN_MATCH else None
    assert position_in_book(np.array(book_ids, dtype=np.uint16), ids) == expected


def test_several_samples_of_a_prompt_read_it_once(reader):
    list(generate(reader, [3, 1, 4], max_new_tokens=5, sampling=Sampling(), numbers=range(8)))
    assert reader.prefilled == [[3, 1, 4]]


def draws(logits, n=20_000, seen_mask=None, **sampling):
    """How often each index is chosen in n draws, as a share of them."""
    random = np.random.default_rng(0)
    logits = np.array(logits, dtype=np.float32)
    chosen = [choose(logits, Sampling(**sampling), random, seen_mask) for _ in range(n)]
    return np.bincount(chosen, minlength=len(logits)) / n


def softmax(x):
    p = np.exp(np.array(x) - max(x))
    return p / p.sum()


def test_draws_follow_the_softmax_at_a_temperature():
    np.testing.assert_allclose(draws([2.0, 0.0, -1.0], temperature=2.0), softmax([1.0, 0.0, -0.5]), atol=0.01)
    assert draws([2.0, 0.0, 2.001], n=50, temperature=1e-300).tolist() == [0, 0, 1]


def test_top_k_draws_only_among_the_k_largest_even_with_ties():
    assert (draws([1.0, 1.0, 1.0, 0.0], n=200, top_k=2) > 0).sum() == 2
    assert (draws([1.0, 1.0, 1.0, 0.0], n=200, top_k=9) > 0).sum() == 4
    np.testing.assert_allclose(draws([0.0, 3.0, 2.0], top_k=2), [0, *softmax([3.0, 2.0])], atol=0.01)


def test_top_p_draws_among_the_likeliest_with_that_total_probability():
    logits = np.log([0.1, 0.5, 0.15, 0.25])
    for top_p, kept in ((0.4, [1]), (0.5001, [1, 3]), (0.76, [1, 2, 3]), (1.0, [0, 1, 2, 3]), (1e-9, [1])):
        assert np.flatnonzero(draws(logits, n=500, top_p=top_p)).tolist() == kept
    np.testing.assert_allclose(draws(logits, top_p=0.6), [0, 2 / 3, 0, 1 / 3], atol=0.01)


def test_min_p_draws_tokens_of_that_probability_relative_to_the_likeliest():
    logits = np.log([0.1, 0.5, 0.15, 0.25])
    for min_p, kept in ((0.0, [0, 1, 2, 3]), (0.25, [1, 2, 3]), (0.45, [1, 3]), (0.99, [1])):
        assert np.flatnonzero(draws(logits, n=500, min_p=min_p)).tolist() == kept


def test_a_repetition_penalty_makes_tokens_that_occurred_less_likely():
    seen = np.array([True, True, False, False])
    got = draws([2.0, -1.0, 2.0, -1.0], seen_mask=seen, repetition_penalty=2.0)
    np.testing.assert_allclose(got, softmax([1.0, -2.0, 2.0, -1.0]), atol=0.01)
    assert draws([2.0, -1.0, 1.5, -1.0], n=1, seen_mask=seen, temperature=0.0, repetition_penalty=2.0).tolist()[2] == 1


def test_a_repetition_penalty_counts_the_prompt_and_drawn_tokens(reader):
    harsh = Sampling(temperature=0.0, repetition_penalty=1e9)
    tokens = drawn(reader, [5, 6], 30, sampling=harsh)
    assert not {5, 6} & set(tokens) and len(set(tokens)) == 30  # each once, while others have a logit above 0


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=12),
    st.builds(
        Sampling,
        temperature=st.floats(0, 3),
        top_k=st.none() | st.integers(0, 15),
        top_p=st.floats(1e-6, 1),
        min_p=st.floats(0, 0.99),
        repetition_penalty=st.floats(0.1, 10),
    ),
)
def test_no_setting_makes_the_choice_fail_or_excludes_the_likeliest_token(logits, sampling):
    logits = np.array(logits, dtype=np.float32)
    index = choose(logits, sampling, np.random.default_rng(0), np.zeros(len(logits), dtype=bool))
    assert 0 <= index < len(logits)
    if sampling.temperature == 0 or sampling.top_k == 1:
        assert logits[index] == logits.max()


def test_hugging_faces_filters_keep_the_same_tokens():
    from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    rng = np.random.default_rng(1)
    for _ in range(30):
        logits = rng.normal(0, 3, 40).astype(np.float32)
        scores = torch.from_numpy(logits)[None] / 0.8
        for warper in (TopKLogitsWarper(12), TopPLogitsWarper(0.8), MinPLogitsWarper(0.05)):
            scores = warper(None, scores)
        kept = set(np.flatnonzero(draws(logits, n=3000, temperature=0.8, top_k=12, top_p=0.8, min_p=0.05)))
        assert kept <= set(torch.isfinite(scores[0]).nonzero()[:, 0].tolist())
        assert {i for i in range(40) if scores[0].softmax(-1)[i] > 0.01} <= kept


def test_padding_rows_are_never_allowed():
    assert allowed_ids(None, 50257).max() == 50256
    assert allowed_ids([4, 7], 50257).tolist() == [4, 7]


def test_the_limit_is_exact(reader):
    assert drawn(reader, [1], 0) == [] and len(drawn(reader, [1], 3)) == 3
