"""A recitation is what sampling from the first tokens gives."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import greedy_tokens

from llm.reading import greedy, recitation
from llm.reading.reader import Reader
from llm.runtime import Runtime
from llm.text.dataset import Split
from llm.training.target import TargetCheck

ALONE = Runtime(torch.device("cpu"), torch.float32, compile=False)


@pytest.mark.parametrize("block_size", [100, 101, 700])
def test_recitation_spans_have_the_contexts_that_generate_has(tiny_model, block_size):
    model, allowed = tiny_model(block_size=block_size, vocab_size=40).eval(), torch.arange(40)
    beginning = torch.randint(40, (50,), generator=torch.Generator().manual_seed(3)).tolist()
    text_ids = beginning + greedy_tokens(model, beginning, 650)
    spans = recitation.recitation_spans(700, block_size)
    assert spans[0, 1] == 50 and spans[-1, 2] == 700 and (spans[1:, 1] == spans[:-1, 2]).all()  # each token once
    known = Split.in_memory(text_ids, 40)  # what it says is what it would say again, to the last token
    assert greedy.greedy_errors(model, known, spans, allowed=allowed, rt=ALONE).sum() == 0
    text_ids[-1] = (text_ids[-1] + 1) % 40
    wrong = greedy.greedy_errors(model, Split.in_memory(text_ids, 40), spans, allowed=allowed, rt=ALONE)
    assert wrong.sum(1).tolist() == [0] * (len(spans) - 1) + [1] and wrong[-1, spans[-1, 2] - spans[-1, 0] - 1]
    for target, n_spans, goal in ((1.0, 13 + len(spans), "1.0 with all of the text recited"), (0.999, 13, "0.999")):
        check = TargetCheck(target, known, block_size, allowed=allowed, rt=ALONE)
        assert len(check.spans) == n_spans and check.goal == goal


def test_covered_tokens_are_in_blocks_of_20_in_order():
    book = np.random.default_rng(0).integers(0, 40, 300)
    assert recitation.covered_tokens(book, book) == 300
    assert recitation.covered_tokens(book, book[:19]) == 0 and recitation.covered_tokens(book, book[30:50]) == 20
    slip = book.copy()
    slip[100] += 50
    assert recitation.covered_tokens(book, slip) == 299
    slip[112] += 50  # between the two errors are fewer than 20 tokens
    assert recitation.covered_tokens(book, slip) == 287
    assert recitation.covered_tokens(book, np.concatenate([book[200:], book[:200]])) == 200  # in order
    assert recitation.covered_tokens(book, np.concatenate([book[:100], book])) == 300


def test_a_recitation_continues_as_sampling_does_and_names_its_first_slip(half_learned):
    model, text = half_learned
    reader = Reader(model, torch.arange(40), torch.float32)
    words = SimpleNamespace(decode=lambda ids: " ".join(map(str, ids)))
    lines, figures = recitation.recite(reader, words, Split.in_memory(text, 40))
    text_ids = text[:50] + greedy_tokens(model, text[:50], 650)
    slip = next(i for i, (a, b) in enumerate(zip(text_ids, text, strict=True)) if a != b)
    assert figures["first_slip"] == slip >= 100 and 0.1 < figures["recited"] < 1
    assert figures["recited"] == recitation.covered_tokens(np.array(text), np.array(text_ids)) / 700
    assert lines[0].startswith(f"first slip: token {slip:,} of 700: after ")
    assert f"the book has '{' '.join(map(str, text[slip : slip + 8]))}'" in lines[0]
    lines, figures = recitation.recite(reader, words, Split.in_memory(text[:slip], 40))
    assert figures == {"first_slip": None, "recited": 1.0, "tokens": slip}
