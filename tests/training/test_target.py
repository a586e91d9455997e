"""target_recall is reached if recall of the whole text says so, whatever is checked first."""

import pytest
import torch

from llm.reading import greedy, recall
from llm.runtime import Runtime
from llm.text.dataset import Split
from llm.training.target import TargetCheck

ALONE = Runtime(torch.device("cpu"), torch.float32, compile=False)


@pytest.fixture
def graded(monkeypatch):
    """The first tokens of the spans that are graded, in that order."""
    found, answers = [], greedy.grade_spans
    monkeypatch.setattr(greedy, "grade_spans", lambda *args: found.extend(args[2][:, 0].tolist()) or answers(*args))
    monkeypatch.setattr(greedy.runtime, "has_bfloat16", lambda _: False)
    return found


@pytest.mark.parametrize("size", [1, 4, 64])
def test_the_target_is_reached_if_the_recall_of_the_whole_text_is(half_learned, size):
    model, text = half_learned
    split, allowed = Split.in_memory(text, 40), torch.arange(40)
    spans = recall.window_spans(recall.window_starts(len(text), 100))
    wrong = greedy.greedy_errors(model, split, spans, allowed=allowed, rt=ALONE)
    share = recall.Recall.from_errors(wrong).share
    check = TargetCheck(share + 0.01, split, 128, allowed=allowed, rt=ALONE, batch_size=size)
    assert check.errors_if_reached(model) is check.errors_if_reached(model) is None
    check = TargetCheck(share, split, 128, allowed=allowed, rt=ALONE, batch_size=size)
    assert (check.errors_if_reached(model) == wrong).all() and (check.errors_if_reached(model) == wrong).all()
    assert sorted(check.interleaved) == list(range(13))


def test_windows_that_failed_the_last_time_are_checked_first(half_learned, graded):
    model, text = half_learned
    split, allowed = Split.in_memory(text, 40), torch.arange(40)
    starts = recall.window_starts(len(text), 100)
    wrong = greedy.greedy_errors(model, split, recall.window_spans(starts), allowed=allowed, rt=ALONE)
    known = ~wrong[:, 50:].any(1)
    check = TargetCheck(0.99, split, 128, allowed=allowed, rt=ALONE, batch_size=2)
    assert check.max_failed == 0 and check.errors_if_reached(model) is None
    graded.clear()
    assert check.errors_if_reached(model) is None
    assert len(graded) == 2 and graded[0] in starts[~known]  # one batch is enough


def test_windows_that_training_just_got_wrong_are_checked_first(half_learned, graded):
    model, text = half_learned
    check = TargetCheck(0.99, Split.in_memory(text, 40), 128, allowed=torch.arange(40), rt=ALONE, batch_size=1)
    for tokens in ([0, 49, 699], [599, 600], [100, 149, 650]):  # no window predicts the first 50
        check.note_errors(tokens)
    check.max_failed = 99
    check.errors_if_reached(model)
    assert graded[:4] == [50, 600, 500, 550] and sorted(graded) == check.spans[:, 0].tolist()


def test_the_number_of_windows_that_may_fail_does_not_suffer_from_rounding():
    text = Split.in_memory(list(range(50)) * 11, 50)  # 10 windows, and (1 - 0.9) * 10 is below 1
    assert TargetCheck(0.9, text, 128, allowed=torch.arange(50), rt=ALONE).max_failed == 1
