"""windows.jsonl is read whole or refused in one line, and a killed measurement goes on with the same bytes."""

import json
import math

import pytest

from llm.configurator import UserError
from llm.reading import windows

HEADER = {"text_sha256": "0" * 64, "prefix": 50, "suffix": 50, "stride": 50, "n_windows": 5}


def row(n, **changes) -> dict:
    values = dict(start_token=50 * n, start_char=230 * n, log_p=-1.5 - n, log_p_top40=None, greedy=False, first_slip=n)
    return values | changes


def measured(path, n_rows, header=HEADER):
    """A measurement in batches of 2 that ended after n_rows rows."""
    rows = windows.begin(path, header, batch_size=2)
    for start in range(len(rows), n_rows, 2):
        windows.append(path, [row(n) for n in range(start, min(start + 2, n_rows))])
    return rows


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "windows.jsonl"
    measured(path, 5)
    header, rows = windows.read_windows(path)
    assert header == {"format": 1} | HEADER
    assert rows == [row(n) for n in range(5)]
    assert windows.as_log(rows[0]["log_p_top40"]) == -math.inf and windows.as_stored(-math.inf) is None
    assert windows.as_stored(-1.23456789) == -1.23457


@pytest.mark.parametrize("cut", [1, 40, 300, 400, 500, 600, 10_000])
def test_a_measurement_that_was_killed_anywhere_ends_with_the_same_bytes(tmp_path, cut):
    path = tmp_path / "windows.jsonl"
    measured(path, 5)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    kept = measured(path, 5)
    assert path.read_bytes() == whole
    assert len(kept) in ((5,) if cut > len(whole) else (0, 2, 4))


def test_another_measurement_begins_anew(tmp_path):
    path = tmp_path / "windows.jsonl"
    measured(path, 5)
    assert windows.begin(path, HEADER | {"stride": 10}, batch_size=2) == []
    assert windows.read_windows(path) == ({"format": 1} | HEADER | {"stride": 10}, [])


def test_half_a_line_at_the_end_is_left_out(tmp_path):
    path = tmp_path / "windows.jsonl"
    measured(path, 4)
    with path.open("ab") as f:
        f.write(b'{"start_token": 2')
    assert len(windows.read_windows(path)[1]) == 4


@pytest.mark.parametrize(
    "line, text",
    [
        (1, b"[]"),
        (1, b'{"format": true, "n_windows": 5}'),
        (1, b'{"format": 1}'),
        (3, b"no JSON"),
        (2, b"\xff"),
        (3, json.dumps(row(1, greedy=1)).encode()),
        (3, json.dumps(row(1, log_p=math.nan)).encode()),
        (3, json.dumps(row(1, start_char=-1)).encode()),
        (3, json.dumps(row(1) | {"text": "a"}).encode()),
        (2, b"[" * 100_000),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, text):
    path = tmp_path / "windows.jsonl"
    measured(path, 4)
    lines = path.read_bytes().split(b"\n")
    lines[line - 1] = text
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(UserError, match=f"damaged in line {line}: remove it"):
        windows.read_windows(path)


def test_a_missing_file_and_a_newer_format_are_told(tmp_path):
    path = tmp_path / "windows.jsonl"
    with pytest.raises(UserError, match="is missing: recall.py writes it"):
        windows.read_windows(path)
    path.write_text('{"format": 2, "n_windows": 0}\n')
    with pytest.raises(UserError, match="has format 2, this llm reads up to 1: update llm"):
        windows.read_windows(path)


def test_the_name_follows_the_checkpoints(tmp_path):
    assert windows.windows_path(tmp_path, "ckpt.pt") == tmp_path / "windows.jsonl"
    assert windows.windows_path(tmp_path, "ckpt_init.pt") == tmp_path / "windows_ckpt_init.jsonl"
