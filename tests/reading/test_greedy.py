"""Grading in bfloat16 first gives the answers of float32."""

import pytest
import torch

from llm.reading import greedy, recall
from llm.runtime import Runtime
from llm.text.dataset import Split

ALONE = Runtime(torch.device("cpu"), torch.float32, compile=False)


@pytest.mark.parametrize("margin, regraded", [(0.0, "some"), (1 / 16, "some"), (100.0, "all")])
def test_answers_that_bfloat16_leaves_uncertain_are_graded_in_float32(half_learned, monkeypatch, margin, regraded):
    """The answers are float32's, but not all of the text is graded twice."""
    model, text = half_learned
    split, spans = Split.in_memory(text, 40), recall.window_spans(recall.window_starts(len(text), 100))
    options = dict(allowed=torch.arange(40), rt=ALONE)
    monkeypatch.setattr(greedy.runtime, "has_bfloat16", lambda _: False)
    exact = greedy.greedy_errors(model, split, spans, **options)
    monkeypatch.setattr(greedy.runtime, "has_bfloat16", lambda _: True)
    monkeypatch.setattr(greedy, "CLEAR_MARGIN", margin)
    grade_spans, counts = greedy.grade_spans, {torch.bfloat16: 0, torch.float32: 0}

    def counted(reader, split, spans, mean_row):
        counts[reader.dtype] += len(spans)
        return grade_spans(reader, split, spans, mean_row)

    monkeypatch.setattr(greedy, "grade_spans", counted)
    found = greedy.greedy_errors(model, split, spans, **options)
    assert counts[torch.bfloat16] == 13 and (counts[torch.float32] == 13) == (regraded == "all")
    assert (found == exact).all() or margin == 0


def test_uncertain_errors_in_bfloat16_do_not_end_the_grading(half_learned, monkeypatch):
    """A bfloat16 pass that finds only errors: if they are uncertain, float32 decides; if they are clear, it stops."""
    model, text = half_learned
    split, spans = Split.in_memory(text[:400], 40), recall.window_spans(recall.window_starts(400, 100))
    monkeypatch.setattr(greedy.runtime, "has_bfloat16", lambda _: True)
    options = dict(allowed=torch.arange(40), rt=ALONE, batch_size=2)
    exact = greedy.greedy_errors(model, split, spans, **options)
    grade_spans = greedy.grade_spans
    for uncertain, n_wrong in ((True, exact[:, 50:].any(1).sum()), (False, 2)):

        def broken(reader, split, spans, mean_row, uncertain=uncertain):
            errors, doubt = grade_spans(reader, split, spans, mean_row)
            return (errors, doubt) if reader.dtype == torch.float32 else (errors | True, doubt | True & uncertain)

        monkeypatch.setattr(greedy, "grade_spans", broken)
        found = greedy.greedy_errors(model, split, spans, **options, max_failed=1)
        assert found[:, 50:].any(1).sum() == n_wrong and len(found) == 7
        assert (found == exact).all() or not uncertain
