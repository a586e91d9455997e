"""Generation chooses what the logits say, and a sample is the same whatever is drawn beside it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.reading import generate as module
from llm.reading.generate import Sample, Sampling, allowed_ids, choose, context_start, generate, next_tokens
from llm.reading.reader import Reader

EVERY = torch.arange(61)


@pytest.fixture
def reader(tiny_model):
    return Reader(tiny_model(), EVERY, torch.float32)


def drawn(reader, prompt, n, **options):
    return [token for _, token in generate(reader, prompt, max_new_tokens=n, **options)]


def test_greedy_is_the_argmax_of_the_whole_context(reader, tiny_model):
    ids = [3, 1, 4]
    for token in drawn(reader, ids, 13):
        assert token == tiny_model()(torch.tensor([ids]))[0].argmax()
        ids = ids + [token]


def test_a_greedy_text_is_what_it_was(reader):
    """Golden: changes only where the arithmetic or the rule for a full context is meant to change."""
    assert drawn(reader, [3, 1, 4], 40) == [int(token) for token in GREEDY.split()]


GREEDY = """
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
    assert len(drawn(Reader(tiny_model(block_size=1), EVERY, torch.float32), [5], 10)) == 10


def test_only_drawable_ids_are_drawn(tiny_model):
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
    """11 samples of one prompt, over three forgettings: more than are read at once."""
    wild = Sampling(temperature=1.5, top_p=0.9, repetition_penalty=penalty)

    def texts(numbers):
        found = {n: [] for n in numbers}
        for n, token in generate(reader, [3, 1, 4], max_new_tokens=40, sampling=wild, seed=7, numbers=numbers):
            found[n].append(token)
        return found

    together = texts(range(11))
    assert len({tuple(text) for text in together.values()}) == 11
    for n in range(11):
        assert texts([n])[n] == together[n]


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
def said(tiny_model):
    """What the tiny model says at temperature 0 after [3, 1, 4], the prompt with it: a text that it knows by heart."""
    return np.array([3, 1, 4] + drawn(Reader(tiny_model(), EVERY, torch.float32), [3, 1, 4], 200), dtype=np.uint16)


def known(tiny_model, book):
    """A reader that guesses from this book, and how many tokens each of its calls reads."""
    reader, counts = Reader(tiny_model(), EVERY, torch.float32, book=book), []
    decode = reader.decode
    reader.decode = lambda tokens, caches: counts.append([len(some) for some in tokens]) or decode(tokens, caches)
    return reader, counts


def test_a_book_that_is_known_is_read_many_tokens_at_a_time(tiny_model, said):
    reader, counts = known(tiny_model, said)
    assert drawn(reader, [3, 1, 4], 150) == said[3:153].tolist()
    assert 0 < len(counts) < 150 / 4 and max(counts) > [
        4
    ]  # a context of 16, whose older half is forgotten every 9 tokens


@pytest.mark.parametrize("temperature, penalty", [(0.0, 1.0), (1.2, 1.2)])
@pytest.mark.parametrize("book", ["said", "shuffled", "said with slips", "another", "short"])
def test_what_is_guessed_changes_nothing_about_what_is_drawn(tiny_model, said, book, temperature, penalty):
    random, books = np.random.default_rng(1), {"said": said, "short": said[:5], "another": np.arange(61).repeat(3)}
    books["shuffled"] = random.permutation(said)
    books["said with slips"] = np.where(random.random(len(said)) < 0.1, 7, said).astype(np.uint16)
    sampling = Sampling(temperature, repetition_penalty=penalty)
    for prompt in ([3, 1, 4], said[40:60].tolist(), [9]):
        options = dict(sampling=sampling, seed=4)
        plain = drawn(Reader(tiny_model(), EVERY, torch.float32), prompt, 60, **options)
        assert drawn(known(tiny_model, books[book])[0], prompt, 60, **options) == plain
        assert drawn(known(tiny_model, books[book])[0], prompt, 7, **options) == plain[:7]
        end = plain[30]
        expected = plain[: plain.index(end)]
        assert drawn(known(tiny_model, books[book])[0], prompt, 60, **options, end_of_text=end) == expected


def test_with_guesses_too_a_sample_is_the_same_whatever_is_drawn_with_it(tiny_model, said):
    reader, counts = known(tiny_model, said)

    def texts(numbers):
        found = {n: [] for n in numbers}
        options = dict(sampling=Sampling(0.6), seed=7, numbers=numbers)
        for n, token in generate(reader, [3, 1, 4], max_new_tokens=40, **options):
            found[n].append(token)
        return found

    together = texts(range(11))
    assert len({tuple(text) for text in together.values()}) == 11 and all(len(text) == 40 for text in together.values())
    assert any(len(set(some)) > 1 for some in counts)  # they went on at different speeds
    for n in range(11):
        assert texts([n])[n] == together[n]


def test_a_caller_has_enough_at_any_token(tiny_model, said):
    reader, _ = known(tiny_model, said)
    enough, found = set(), []
    for n, token in generate(reader, [3, 1, 4], max_new_tokens=100, enough=enough):
        found.append(token)
        enough |= {n} if len(found) == 6 else set()
    assert found == said[3:9].tolist()


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), min_size=1, max_size=12))
def test_the_place_in_the_book_is_where_the_longest_run_ends(book, ids):
    def run(place):
        n = 0
        while n < min(len(ids), place, module.LONGEST) and book[place - n - 1] == ids[-n - 1]:
            n += 1
        return n

    best = max(range(len(book) + 1), key=run)
    expected = best if run(best) >= module.FEWEST else None
    assert module.place_after(np.array(book, dtype=np.uint16), ids) == expected


def test_several_samples_of_a_prompt_read_it_once(reader, monkeypatch):
    read = []
    prefill = Reader.prefill
    monkeypatch.setattr(Reader, "prefill", lambda self, ids, cache: read.append(ids) or prefill(self, ids, cache))
    list(generate(reader, [3, 1, 4], max_new_tokens=5, sampling=Sampling(), numbers=range(8)))
    assert read == [[3, 1, 4]]


def test_end_of_text_ends_and_is_not_yielded(reader):
    wild = Sampling(temperature=1.0)
    tokens = drawn(reader, [1], 20, sampling=wild)
    stop = tokens[5]
    assert drawn(reader, [1], 20, sampling=wild, end_of_text=stop) == tokens[: tokens.index(stop)]


def test_a_caller_who_has_enough_of_a_sample_gets_the_others(reader):
    enough, found = {1}, {0: [], 1: []}
    for n, token in generate(reader, [1], max_new_tokens=20, sampling=Sampling(), numbers=(0, 1), enough=enough):
        found[n].append(token)
    assert len(found[0]) == 20 and len(found[1]) == 1


def draws(logits, n=20_000, seen=None, **sampling):
    random = np.random.default_rng(0)
    logits = np.array(logits, dtype=np.float32)
    found = [choose(logits, Sampling(**sampling), random, seen) for _ in range(n)]
    return np.bincount(found, minlength=len(logits)) / n


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


def test_top_p_draws_among_the_likeliest_that_have_it_together():
    logits = np.log([0.1, 0.5, 0.15, 0.25])
    for top_p, kept in ((0.4, [1]), (0.5001, [1, 3]), (0.76, [1, 2, 3]), (1.0, [0, 1, 2, 3]), (1e-9, [1])):
        assert np.flatnonzero(draws(logits, n=500, top_p=top_p)).tolist() == kept
    np.testing.assert_allclose(draws(logits, top_p=0.6), [0, 2 / 3, 0, 1 / 3], atol=0.01)


def test_min_p_draws_among_those_at_least_so_likely_as_the_likeliest():
    logits = np.log([0.1, 0.5, 0.15, 0.25])
    for min_p, kept in ((0.0, [0, 1, 2, 3]), (0.25, [1, 2, 3]), (0.45, [1, 3]), (0.99, [1])):
        assert np.flatnonzero(draws(logits, n=500, min_p=min_p)).tolist() == kept


def test_a_repetition_penalty_makes_what_was_there_less_likely():
    seen = np.array([True, True, False, False])
    got = draws([2.0, -1.0, 2.0, -1.0], seen=seen, repetition_penalty=2.0)
    np.testing.assert_allclose(got, softmax([1.0, -2.0, 2.0, -1.0]), atol=0.01)
    assert draws([2.0, -1.0, 1.5, -1.0], n=1, seen=seen, temperature=0.0, repetition_penalty=2.0).tolist()[2] == 1


def test_a_repetition_penalty_counts_the_prompt_and_what_was_drawn(reader):
    harsh = Sampling(temperature=0.0, repetition_penalty=1e9)
    tokens = drawn(reader, [5, 6], 30, sampling=harsh)
    positive = [t for t in tokens if t in (5, 6)]
    assert not positive and len(set(tokens)) == 30  # each token once, as long as others have a logit above 0


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
def test_the_likeliest_can_always_be_drawn_and_no_setting_makes_the_choice_fail(logits, sampling):
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


def test_padded_rows_are_never_drawable():
    assert allowed_ids(None, 50257).max() == 50256
    assert allowed_ids([4, 7], 50257).tolist() == [4, 7]


def test_no_more_is_drawn_than_asked_for(reader):
    assert drawn(reader, [1], 0) == [] and len(drawn(reader, [1], 3)) == 3
    assert module.GREEDY.temperature == 0
