"""A map of the book for the terminal: a line of blocks, dark where the model knows it; and what it knows worst.

Made from the per-window file (windows.py), so it costs nothing beyond the measurement.
"""

import math
import shutil
from pathlib import Path

from llm.reading.contents import Contents
from llm.reading.windows import as_log, read_windows
from llm.text.dataset import Dataset

BLOCKS = " ░▒▓█"  # from nothing to all of the windows of a column
N_WORST = 5
SHOWN = 60  # characters of a passage


def describe(path: Path, data: Dataset, *, width: int | None = None) -> list[str]:
    """Lines: the map, and the windows that are known worst. [] if there is no per-window file of this text.

    width: of the map in columns; None = the terminal's, at most 100.
    """
    if not path.exists():
        return []
    header, rows = read_windows(path)
    if not rows or header.get("text_sha256") != data.train.sha256:
        return []
    return [*map_lines(rows, width), *worst_lines(rows, Contents(data.train, data.tokenizer))]


def map_lines(rows: list[dict], width: int | None = None) -> list[str]:
    """The map alone, which shows nothing of the text; width: see `describe`."""
    width = width or min(100, shutil.get_terminal_size().columns)
    known = sum(row["greedy"] for row in rows)
    title = f"map of the book, {len(rows):,} windows, {known:,} known by heart (█), from its beginning to its end:"
    return [title, f"[{blocks(rows, width - 2)}]"]


def blocks(rows: list[dict], width: int) -> str:
    """The windows as at most `width` characters, each for an equal share of them.

    A column is full only if all its windows are known: a single one that is not stays visible.
    """
    n, line = min(width, len(rows)), ""
    for column in range(n):
        some = rows[column * len(rows) // n : (column + 1) * len(rows) // n]
        share = sum(row["greedy"] for row in some) / len(some)
        line += BLOCKS[math.floor(share * (len(BLOCKS) - 1))]
    return line


def worst_lines(rows: list[dict], contents: Contents) -> list[str]:
    """The N_WORST windows with the least probable suffix, with place and first words."""
    worst = sorted(rows, key=lambda row: (row["greedy"], as_log(row["log_p"])))[:N_WORST]
    lines = ["known worst:"]
    for row in worst:
        slip = "by heart" if row["greedy"] else f"slips at token {(row['first_slip'] or 0) + 1}"
        at = min(row["start_char"], max(0, len(contents.text) - 1))
        words = " ".join(contents.text[at : at + 2 * SHOWN].split())[:SHOWN]
        lines.append(f"  {contents.where(at)}: {slip}, probability {probability(row['log_p'])}: {words} ...")
    return lines


def probability(log_p: float | None) -> str:
    """A probability from its logarithm, with two digits."""
    return "0" if log_p is None else f"{math.exp(log_p):.2g}"
