"""windows.jsonl: what a measurement found in each window of a text, and its state while it runs.

The first line is an object about the measurement (`format`, `n_windows`, and what was measured); each further line is
an object about one window, in the order of the text, with these keys and no text:

    start_token   index of the window's first token in the text; null where each window is tokenised by itself
    start_char    index of its first character
    log_p         natural logarithm of the suffix's probability, given the prefix: the full softmax at temperature 1
    log_p_top40   the same when each token is drawn among the 40 most likely ones
    greedy        whether greedy decoding produces the whole suffix
    first_slip    index within the suffix of the first token that greedy decoding gets wrong; null = none

A log-probability of null means that the probability is 0: a token is not among the 40.

A measurement appends whole batches, and goes on after the last one when it was killed (measuring/state.py).
"""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

from llm.configurator import UserError
from llm.files import open_regular, read_regular, write_atomic
from llm.settings import is_a

FORMAT = 1
DECIMALS = 5  # of log-probabilities
MEASURED = (  # files that a measurement writes beside a checkpoint (measuring/instrument.py)
    *("windows*.jsonl", "slips*.jsonl", "control_*.jsonl", "coverage_*.jsonl"),
    *("windows*.csv", "report*.html", "report*.svg", "recall_*.json"),
)
KEYS = ("start_token", "start_char", "log_p", "log_p_top40", "greedy", "first_slip")


def windows_path(folder: Path, checkpoint_name: str) -> Path:
    """windows.jsonl for ckpt.pt; for another checkpoint, such as ckpt_init.pt, windows_ckpt_init.jsonl."""
    name = "windows.jsonl" if checkpoint_name == "ckpt.pt" else f"windows_{Path(checkpoint_name).stem}.jsonl"
    return folder / name


def read_windows(path: Path) -> tuple[dict, list[dict]]:
    """(the measurement's header, its windows so far). UserError if the file is missing, damaged or of a newer format.

    A last line without a line end is left out: a measurement was killed, or is still running.
    """
    try:
        data = read_regular(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: recall.py writes it") from None
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from None
    header, rows = parse(data, path)
    for number, row in enumerate(rows, 2):
        if not is_window(row):
            raise damaged(path, number)
    return header, rows


def parse(data: bytes, path: Path) -> tuple[dict, list]:
    """(header, rows) in the whole lines of a file. UserError if one is no JSON, or the header has another format."""
    *lines, _ = data.split(b"\n")
    values = []
    for number, line in enumerate(lines, 1):
        try:
            values.append(json.loads(line, parse_constant=not_finite))
        except (ValueError, RecursionError):
            raise damaged(path, number) from None
    header = values[0] if values else None
    version = header.get("format") if isinstance(header, dict) else None
    if type(version) is not int or not is_count(header.get("n_windows")):
        raise damaged(path, 1)
    if version > FORMAT:
        raise UserError(f"{path} has format {version}, this llm reads up to {FORMAT}: update llm, or measure again")
    if len(values) - 1 > header["n_windows"]:
        raise damaged(path, header["n_windows"] + 2)
    return header, values[1:]


def not_finite(name: str) -> None:
    """Refuses what Python's json would read as NaN or infinity."""
    raise ValueError(name)


def damaged(path: Path, line: int) -> UserError:
    return UserError(f"{path} is damaged in line {line}: remove it, and measure again with recall.py")


def is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def is_window(row: object) -> bool:
    """Whether a line's value is a window with valid values."""
    return (
        isinstance(row, dict)
        and sorted(row) == sorted(KEYS)
        and is_count(row["start_char"])
        and type(row["greedy"]) is bool
        and all(row[name] is None or is_count(row[name]) for name in ("start_token", "first_slip"))
        and all(row[name] is None or is_a(row[name], float) for name in ("log_p", "log_p_top40"))
    )


def as_stored(log_p: float) -> float | None:
    """A log-probability as it is stored: rounded, null for a probability of 0."""
    return round(log_p, DECIMALS) if math.isfinite(log_p) else None


def as_log(stored: float | None) -> float:
    """A stored log-probability as a number."""
    return -math.inf if stored is None else stored


def header_of(n_windows: int, **measured) -> dict:
    """The first line of the file; measured: what was measured, and how."""
    return {"format": FORMAT, **measured, "n_windows": n_windows}


def to_line(value: dict) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()


def earlier_rows(path: Path, header: dict, is_row: Callable[[object], bool] = is_window) -> list[dict]:
    """The rows that an earlier, perhaps interrupted measurement with the same header wrote; [] if there is none.

    is_row: whether a line's value is a valid row.
    """
    try:
        found, rows = parse(read_regular(path), path)
    except (OSError, UserError):
        return []
    return rows if found == json.loads(to_line(header)) and all(map(is_row, rows)) else []


def begin(path: Path, header: dict, rows: list[dict]) -> None:
    """Write a file that holds the header and these rows alone; `append` adds the others."""
    write_atomic(path, b"".join(map(to_line, [header, *rows])))


def append(path: Path, rows: list[dict]) -> None:
    """Add a batch of rows to the file. UserError if the operating system refuses to write."""
    try:
        with open_regular(path, "ab") as f:
            f.write(b"".join(map(to_line, rows)))
            f.flush()
            os.fsync(f.fileno())
    except OSError as e:
        raise UserError(f"cannot write {path}: {e.strerror or e}") from None
