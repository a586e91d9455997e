"""The map of the book on a terminal, made from the per-window file."""

import numpy as np
import pytest

from llm.reading import book_map, windows
from llm.reading.recall import split_starts


@pytest.fixture
def path(prepare, tmp_path):
    """A per-window file in which every window is known but two."""
    data = prepare()
    rows = []
    for n, start in enumerate(split_starts(data.train).tolist()):
        wrong = n in (3, 8)
        found = {"log_p": -9.0 - n if wrong else -0.01 * n, "greedy": not wrong, "first_slip": 4 if wrong else None}
        rows.append({"start_token": start, "start_char": 4 * start, "log_p_top40": None} | found)
    path = windows.windows_path(tmp_path, "ckpt.pt")
    windows.begin(path, windows.header_of(len(rows), text_sha256=data.train.sha256), [])
    windows.append(path, rows)
    return path, data, rows


def test_a_window_that_is_not_known_stays_visible_in_a_short_line(path):
    path, data, rows = path
    head, line, *_ = book_map.describe(path, data, width=12)
    assert head.startswith(f"map of the book, {len(rows)} windows, {len(rows) - 2} known by heart")
    assert len(line) == 12 and line.count("█") == 8
    wide = book_map.describe(path, data, width=200)[1]
    assert np.flatnonzero(np.array(list(wide.strip("[]"))) != "█").tolist() == [3, 8]


def test_the_windows_that_are_known_worst_are_named(path):
    path, data, rows = path
    worst = book_map.describe(path, data, width=80)[3:]
    assert len(worst) == 5 and all("%" in line for line in worst)
    assert "slips at token 5, probability 4.1e-08: " in worst[0] and "by heart, probability 0.7" in worst[2]


def test_without_a_file_of_this_text_there_is_no_map(path, tmp_path, prepare):
    path, data, _ = path
    assert book_map.describe(tmp_path / "windows_other.jsonl", data) == []
    assert book_map.describe(path, prepare("other", "Another text, which was never seen. " * 30)) == []
