"""Measure windows batch by batch: several processes share the work, and a killed measurement goes on.

The files are the state: windows.jsonl (reading/windows.py), and beside it slips.jsonl, which has the same header, and
`right_tokens` and `last_slip` of each window. A batch is appended when it is measured. After a kill, the whole batches
that both files hold are kept, and the next batch is the one that an uninterrupted measurement would have measured then:
both end with the same bytes.
"""

import time
from pathlib import Path

import numpy as np
import torch

from llm.configurator import UserError
from llm.measuring.models import Model
from llm.measuring.scoring import NEGLIGIBLE, Scores, batch_size_for, quick_dtype_for, score
from llm.measuring.texts import Windows
from llm.reading import windows as windows_file
from llm.runtime import Runtime, is_out_of_memory, notice

SLIPS = ("right_tokens", "last_slip")
SECONDS_BETWEEN_NOTICES = 15.0


def slips_path(path: Path) -> Path:
    """The file beside windows.jsonl: slips.jsonl; beside coverage_exact.jsonl, coverage_exact_slips.jsonl."""
    name = path.name
    return path.with_name(
        name.replace("windows", "slips", 1) if name.startswith("windows") else f"{path.stem}_slips.jsonl"
    )


def is_slips(row: object) -> bool:
    """Whether a line's value is a row of slips.jsonl."""
    return (
        isinstance(row, dict)
        and sorted(row) == sorted(SLIPS)
        and windows_file.is_count(row["right_tokens"])
        and (row["last_slip"] is None or windows_file.is_count(row["last_slip"]))
    )


class State:
    """The two files, and in `rows` what they hold: the keys of both in one dict for each window."""

    def __init__(self, path: Path, header: dict, batch_size: int):
        """Goes on from the files of an earlier measurement with this header, else begins new ones."""
        self.paths = {path: windows_file.KEYS, slips_path(path): SLIPS}
        checks = (windows_file.is_window, is_slips)
        found = [windows_file.earlier_rows(p, header, is_row) for p, is_row in zip(self.paths, checks, strict=True)]
        n = min(map(len, found))
        if n < header["n_windows"]:
            n = n // batch_size * batch_size
        for p, rows in zip(self.paths, found, strict=True):
            windows_file.begin(p, header, rows[:n])
        self.rows = [a | b for a, b in zip(*(rows[:n] for rows in found), strict=True)]

    def append(self, rows: list[dict]) -> None:
        """Add a batch to both files."""
        for path, keys in self.paths.items():
            windows_file.append(path, [{name: row[name] for name in keys} for row in rows])
        self.rows += rows


def measure(model: Model, windows: Windows, *, path: Path, header: dict, rt: Runtime, what: str) -> list[dict]:
    """The rows of all windows (see `rows_of`), on every rank.

    path: the state's file, written by rank 0; header: what determines the figures. what: for the lines of progress. Of
    each round, rank r measures batch r, so batches are the same for any number of processes.
    """
    batch_size = batch_size_for(model, windows.suffix)
    quick = quick_dtype_for(model, windows.ids, windows.prefix) if len(windows) else None
    if quick is not None:
        header = header | {"quick_dtype": str(quick).removeprefix("torch."), "quick_below": NEGLIGIBLE}
    header = windows_file.header_of(len(windows), **header, batch_size=batch_size)
    state = State(path, header, batch_size) if rt.is_main else None
    rows = rt.gather(state.rows if state else [])
    batches = [range(at, min(at + batch_size, len(windows))) for at in range(len(rows), len(windows), batch_size)]
    if rows and batches:
        notice(f"{what}: going on after window {len(rows):,} of {len(windows):,}")
    began = last = time.monotonic()
    for at in range(0, len(batches), rt.world_size):
        mine = batches[at + rt.rank : at + rt.rank + 1]
        measured = rt.gather([row for numbers in mine for row in measure_batch(model, windows, numbers, quick)])
        rows = rows + measured if state is None else rows
        if state:
            state.append(measured)
            rows = state.rows
        if time.monotonic() - last > SECONDS_BETWEEN_NOTICES:
            last = time.monotonic()
            left = (last - began) * (len(batches) / min(at + rt.world_size, len(batches)) - 1)
            notice(f"{what}: {len(rows):,} of {len(windows):,} windows, {in_words(left)} left")
    return rows


def measure_batch(model: Model, windows: Windows, numbers: range, quick: torch.dtype | None) -> list[dict]:
    """The rows of the windows with these numbers. UserError if there is not enough memory for them."""
    try:
        scores = score(model, windows.ids[numbers.start : numbers.stop], windows.prefix, quick=quick)
    except RuntimeError as e:
        if is_out_of_memory(e):
            raise UserError(
                f"not enough memory for {len(numbers)} windows at a time: type --device=cpu, or a dtype of fewer bytes"
            ) from None
        raise
    return rows_of(windows, numbers, scores)


def rows_of(windows: Windows, numbers: range, scores: Scores) -> list[dict]:
    """What is kept of windows: the keys of windows.jsonl, and those of slips.jsonl."""
    rows = []
    for number, log_p, log_p_top40, errors in zip(
        numbers, scores.log_p.tolist(), scores.log_p_top40.tolist(), scores.errors, strict=True
    ):
        slips = np.flatnonzero(errors).tolist()
        rows.append(
            {
                "start_token": None if windows.start_token is None else int(windows.start_token[number]),
                "start_char": int(windows.start_char[number]),
                "log_p": windows_file.as_stored(log_p),
                "log_p_top40": windows_file.as_stored(log_p_top40),
                "greedy": not slips,
                "first_slip": slips[0] if slips else None,
                "right_tokens": len(errors) - len(slips),
                "last_slip": slips[-1] if slips else None,
            }
        )
    return rows


def in_words(seconds: float) -> str:
    """A duration for people: 40 seconds, 12 minutes, 3.4 hours."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"
