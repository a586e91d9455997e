"""Recall per 200 characters counts windows of characters, whatever the tokens are."""

import numpy as np
import pytest

from llm.reading.character_recall import character_starts, character_windows, measure_characters
from llm.text.dataset import Split
from llm.text.tokenizer import characters, gpt2

TEXT = "The ferryman counted to forty, naïve — 字 🦊 — and began again. " * 40


@pytest.mark.parametrize("tokenizer", [gpt2(), characters(TEXT)])
def test_windows_begin_every_200_characters(tokenizer):
    ids = np.array(tokenizer.encode(TEXT) + ([tokenizer.end_of_text] if tokenizer.end_of_text else []))
    starts = character_starts(ids, tokenizer)
    assert starts[-1] == len(TEXT)
    windows = character_windows(Split.in_memory(ids.tolist(), tokenizer.vocab_size), tokenizer, 2000)
    assert len(windows) == len(TEXT) // 200 - 1
    for n, (a, b, c) in enumerate(windows.tolist()):
        for token, character in ((a, 200 * n), (b, 200 * n + 200), (c, 200 * n + 400)):
            # the first token that begins at this character or after it
            assert starts[token] >= character and (token == 0 or starts[token - 1] < character)


def test_a_window_counts_if_its_second_200_characters_have_no_error():
    split = Split.in_memory(gpt2().encode(TEXT), 50304)
    windows = character_windows(split, gpt2(), 2000)
    wrong = {int(windows[3][1]), int(windows[5][2]) - 1}  # the first and the last token of such characters

    def grade(spans):
        errors = np.zeros((len(spans), int((spans[:, 2] - spans[:, 0]).max())), dtype=bool)
        for row, (start, first, end) in enumerate(spans.tolist()):
            for token in wrong & set(range(first, end)):
                errors[row, token - start] = True
        return errors

    line, figures = measure_characters(grade, split, gpt2(), block_size=1024, max_windows=2000)
    n = figures["windows"]
    assert len(windows) - 1 <= n <= len(windows) and figures["recited"] == n - 2
    assert line == f"recall@200/200 characters: {(n - 2) / n:.4f} ({n - 2}/{n} windows)"


def test_a_context_or_a_text_that_is_too_short_is_said():
    split = Split.in_memory(gpt2().encode(TEXT), 50304)
    line, figures = measure_characters(lambda spans: 1 / 0, split, gpt2(), block_size=50, max_windows=9)
    assert "not measured: up to" in line and figures == {}
    short = Split.in_memory(gpt2().encode("too short"), 50304)
    assert "too few characters" in measure_characters(lambda s: 1 / 0, short, gpt2(), block_size=50, max_windows=9)[0]
