"""A continuation ends at its limit, a stop string or the end of the document, whatever is drawn beside it."""

import string

import numpy as np
import pytest
import torch

from llm.reading.continuation import Continuation, step
from llm.reading.generate import GREEDY, Sampling, generate
from llm.reading.reader import Reader
from llm.text.tokenizer import Characters, gpt2

ALL_IDS = torch.arange(61)
PROMPT = [3, 1, 4]
WILD = Sampling(temperature=1.5)


@pytest.fixture
def tokenizer():
    """One letter, digit or mark for each of the tiny model's 61 ids."""
    return Characters((string.ascii_letters + string.digits)[:61])


@pytest.fixture
def reader(tiny_model):
    return Reader(tiny_model(), ALL_IDS, torch.float32)


@pytest.fixture
def drafting_reader(tiny_model, reader):
    """A reader whose book is what it says at temperature 0, so that it accepts whole drafts."""
    return Reader(tiny_model(), ALL_IDS, torch.float32, book_ids=np.array([*PROMPT, *tokens_after(reader, 200)]))


def tokens_after(reader, n, sampling=GREEDY, seed=0, number=0):
    """What generate draws after the prompt."""
    drawn = generate(reader, PROMPT, max_new_tokens=n, sampling=sampling, seed=seed, numbers=[number])
    return [token for _, token in drawn]


def finish(reader, continuations):
    """Steps until all are finished; returns the pieces of text of each."""
    pieces = [[] for _ in continuations]
    while any(continuation.finish_reason is None for continuation in continuations):
        for new_texts, new_text in zip(pieces, step(reader, continuations), strict=True):
            new_texts.append(new_text)
    return pieces


def test_it_draws_what_generate_draws_up_to_the_limit(reader, drafting_reader, tokenizer):
    for some_reader in (reader, drafting_reader):
        for n in (1, 7, 40):
            options = dict(max_new_tokens=n, sampling=WILD, seed=[7, 2])
            continuation = Continuation(some_reader, tokenizer, PROMPT, **options)
            pieces = finish(some_reader, [continuation])[0]
            assert continuation.tokens == tokens_after(reader, n, WILD, seed=7, number=2)
            assert continuation.text == "".join(pieces) == tokenizer.decode(continuation.tokens)
            assert continuation.finish_reason == "length"


def test_a_limit_within_an_accepted_draft_is_exact(reader, drafting_reader, tokenizer):
    for n in range(1, 20):
        continuation = Continuation(drafting_reader, tokenizer, PROMPT, max_new_tokens=n, sampling=GREEDY, seed=0)
        finish(drafting_reader, [continuation])
        assert continuation.tokens == tokens_after(reader, n)


def test_a_limit_of_0_draws_nothing(reader, tokenizer):
    continuation = Continuation(reader, tokenizer, PROMPT, max_new_tokens=0, sampling=GREEDY, seed=0)
    assert step(reader, [continuation]) == [""]
    assert (continuation.finish_reason, continuation.tokens, continuation.text) == ("length", [], "")
    assert continuation.sample.ids == PROMPT


@pytest.mark.parametrize("drafts", [False, True])
def test_the_end_of_the_document_ends_it_and_is_not_shown(reader, drafting_reader, tokenizer, drafts):
    plain = tokens_after(reader, 60)
    tokenizer.end_of_text = plain[30]
    some_reader = drafting_reader if drafts else reader
    continuation = Continuation(some_reader, tokenizer, PROMPT, max_new_tokens=60, sampling=GREEDY, seed=0)
    finish(some_reader, [continuation])
    assert continuation.finish_reason == "stop"
    assert continuation.tokens == plain[: plain.index(plain[30])]
    assert continuation.text == tokenizer.decode(continuation.tokens)


@pytest.mark.parametrize("drafts", [False, True])
def test_a_stop_string_ends_the_text_before_it_at_any_token(reader, drafting_reader, tokenizer, drafts):
    whole = tokenizer.decode(tokens_after(reader, 40))
    some_reader = drafting_reader if drafts else reader
    for start in range(30):
        stop = whole[start : start + 3]
        options = dict(max_new_tokens=40, sampling=GREEDY, seed=0, stop=["-", stop])
        continuation = Continuation(some_reader, tokenizer, PROMPT, **options)
        pieces = finish(some_reader, [continuation])[0]
        assert continuation.text == "".join(pieces) == whole[: whole.index(stop)]
        assert continuation.finish_reason == "stop"
        assert tokenizer.decode(continuation.tokens) == whole[: whole.index(stop) + 3]


def test_the_others_go_on_when_one_has_finished(reader, tokenizer):
    """11 continuations, more than are read at once, with limits and seeds of their own, and a stop string for one."""

    def make(n):
        stop = [tokenizer.decode(tokens_after(reader, 5, WILD, seed=7, number=4))[3:]] if n == 4 else []
        options = dict(max_new_tokens=30 - 2 * n, sampling=WILD, seed=[7, n], stop=stop)
        return Continuation(reader, tokenizer, PROMPT, **options)

    together = [make(n) for n in range(11)]
    finish(reader, together)
    assert [c.finish_reason for c in together] == ["length"] * 4 + ["stop"] + ["length"] * 6
    for n, continuation in enumerate(together):
        alone = make(n)
        finish(reader, [alone])
        assert (continuation.tokens, continuation.text) == (alone.tokens, alone.text)


def test_what_was_held_back_is_there_after_an_interruption(reader, tokenizer):
    whole = tokenizer.decode(tokens_after(reader, 5))
    options = dict(max_new_tokens=5, sampling=GREEDY, seed=0, stop=[f"{whole[2:4]}-"])
    continuation = Continuation(reader, tokenizer, PROMPT, **options)
    for _ in range(4):
        step(reader, [continuation])
    assert continuation.text == whole[:2] and continuation.finish_reason is None
    assert continuation.flush() == whole[2:4] and continuation.text == whole[:4]
    assert continuation.flush() == ""


def test_a_character_that_the_limit_cuts_is_left_out(tiny_model):
    first_byte = gpt2().encode("🦊")[0]
    reader = Reader(tiny_model(vocab_size=50257, n_embd=4), torch.tensor([first_byte]), torch.float32)
    continuation = Continuation(reader, gpt2(), PROMPT, max_new_tokens=1, sampling=GREEDY, seed=0)
    assert step(reader, [continuation]) == [""] and continuation.finish_reason == "length"
