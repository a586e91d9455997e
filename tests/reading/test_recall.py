"""Recall counts what the model would really recite."""

import numpy as np
import pytest
import torch
from conftest import greedy_tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.reading import recall
from llm.reading.greedy import greedy_errors
from llm.runtime import Runtime
from llm.text.dataset import Split
from llm.text.documents import Document

ALONE = Runtime(torch.device("cpu"), torch.float32, compile=False)


def test_the_teacher_forced_answer_equals_really_generating(half_learned):
    model, text = half_learned
    split, allowed = Split.in_memory(text, 40), torch.arange(40)
    starts = recall.window_starts(len(text), 100)
    expected = 0
    for s in starts.tolist():
        continuation = greedy_tokens(model, text[s : s + 50], 50)
        expected += continuation == text[s + 50 : s + 100]
    measured = recall.measure(model, split, starts, allowed=allowed, rt=ALONE)
    assert measured.recited == expected and measured.windows == len(starts) == 13
    assert 3 <= expected <= 10  # some are known and some are not, or the comparison would mean little


def test_one_pass_answers_after_a_long_prompt_and_after_a_short_one(half_learned):
    model, text = half_learned
    split, allowed = Split.in_memory(text, 40), torch.arange(40)
    starts = recall.window_starts(len(text), 100)
    wrong = greedy_errors(model, split, recall.window_spans(starts), allowed=allowed, rt=ALONE)
    recited = [text[s + 8 : s + 58] == greedy_tokens(model, text[s : s + 8], 50) for s in starts.tolist()]
    assert recall.Recall.from_errors(wrong, 8).recited == sum(recited) > 0
    assert not wrong[:, :8].any()


def test_batches_do_not_change_the_answer(half_learned):
    model, text = half_learned
    split, starts = Split.in_memory(text, 40), recall.window_starts(len(text), 100)
    answers = {
        recall.measure(model, split, starts, allowed=torch.arange(40), rt=ALONE, batch_size=size) for size in (1, 5, 64)
    }
    assert len(answers) == 1


def test_an_id_that_cannot_be_drawn_is_never_right(half_learned):
    model, text = half_learned
    split, starts = Split.in_memory(text, 40), recall.window_starts(len(text), 100)
    all_but_one = torch.tensor([i for i in range(40) if i != text[60]])
    everything = recall.measure(model, split, starts[:1], allowed=torch.arange(40), rt=ALONE)
    without = recall.measure(model, split, starts[:1], allowed=all_but_one, rt=ALONE)
    assert everything.recited == 1 and without.recited == 0
    assert without.right_tokens <= 50 - text[50:100].count(text[60])


@pytest.mark.parametrize("n, starts", [(100, [0]), (149, [0]), (150, [0, 50]), (99, []), (260, [0, 50, 100, 150])])
def test_windows_begin_every_50_tokens_and_fit(n, starts):
    assert recall.window_starts(n, 100).tolist() == starts


def test_a_long_text_is_measured_on_1000_windows_from_all_over():
    starts = recall.window_starts(1_000_000, 100)
    assert len(starts) == len(set(starts.tolist())) == 1000
    assert starts[0] == 0 and starts[-1] == 999_900 and (starts % 50 == 0).all()


@given(tokens=st.lists(st.integers(0, 2), min_size=8, max_size=120), chunk=st.integers(1, 50))
@settings(deadline=None)
def test_standing_once_equals_a_plain_count(tokens, chunk):
    starts = np.arange(0, len(tokens) - 3, 2)
    grams = [tuple(tokens[i : i + 4]) for i in range(len(tokens) - 3)]
    expected = [s for s in starts.tolist() if grams.count(grams[s]) == 1]
    found = recall.unique_prefixes(Split.in_memory(tokens, 3), starts, 4, chunk=chunk)
    assert found.tolist() == expected


@pytest.mark.parametrize("successes, trials", [(458, 463), (0, 10), (20, 20), (1, 2)])
def test_the_ends_of_wilsons_interval_are_where_the_score_test_is_at_its_limit(successes, trials):
    share = successes / trials
    for end in recall.wilson(successes, trials):
        if 0 < end < 1:
            assert abs(share - end) / (end * (1 - end) / trials) ** 0.5 == pytest.approx(1.959964)
        else:
            assert end == share
    assert recall.wilson(0, 0) == (0.0, 1.0)


def test_obstacles_are_told_with_both_numbers():
    assert "context of 99 tokens, block_size=64" in recall.recall_obstacle(64, 1000)
    assert "text of 100 tokens, this one has 99" in recall.recall_obstacle(256, 99)
    assert recall.recall_obstacle(99, 100) is None


def test_windows_of_a_shelf_begin_anew_in_each_book_and_span_no_two(half_learned):
    model, text = half_learned
    ends = [0, 230, 310, 330, len(text)]  # the third book is shorter than a window
    documents = [Document(f"book {n}", "", a, b) for n, (a, b) in enumerate(zip(ends, ends[1:], strict=False))]
    split = Split([], 40, ids=np.array(text), documents=documents)
    starts = recall.split_starts(split)
    assert starts.tolist() == [0, 50, 100, *range(330, len(text) - 99, 50)]
    errors = greedy_errors(model, split, recall.window_spans(starts), allowed=torch.arange(40), rt=ALONE)
    lines, figures = recall.per_book(split, starts, errors)
    whole = recall.Recall.from_errors(errors)
    assert [figure["windows"] for figure in figures] == [3, 0, 0, len(starts) - 3]
    assert sum(figure["recited"] for figure in figures) == whole.recited > 0
    assert lines[0] == f"book 0: recall {recall.Recall.from_errors(errors[:3])}"


def test_one_book_alone_has_the_windows_that_it_always_had(half_learned):
    split = Split.in_memory(half_learned[1], 40)
    starts = recall.split_starts(split)
    assert starts.tolist() == recall.window_starts(len(split), 100).tolist()
    assert recall.per_book(split, starts, np.zeros((len(starts), 100), dtype=bool)) == ([], [])
