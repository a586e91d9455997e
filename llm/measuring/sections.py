"""The figures of each book and each chapter of a text."""

from bisect import bisect_right

import numpy as np

from llm.measuring.measures import column, finite
from llm.measuring.texts import Text, Windows


def section_figures(text: Text, windows: Windows, rows: list[dict]) -> list[dict]:
    """For each book and chapter, in order: its name, the windows whose suffix begins in it, how many are recited.

    A book has an entry of its own, with all of its chapters, where there are several. [] for a text without chapters.
    """
    starts = [section.start for section in text.sections]
    numbers = np.array([bisect_right(starts, at) - 1 for at in windows.suffix_chars[:, 0].tolist()])
    log_p = column(rows, "log_p")
    greedy = np.array([row["greedy"] for row in rows], dtype=bool)
    found = []
    for number, section in enumerate(text.sections):
        is_book = bool(section.book) and not section.chapter
        of_book = [n for n, other in enumerate(text.sections) if other.book == section.book]
        inside = np.isin(numbers, of_book) if is_book else numbers == number
        if not (section.book or section.chapter):
            continue
        figures = {
            "book": section.book,
            "chapter": section.chapter,
            "start_char": section.start,
            "windows": int(inside.sum()),
            "recited": int(greedy[inside].sum()),
            "recall": float(greedy[inside].mean()) if inside.any() else None,
            "median_log_p": finite(float(np.median(log_p[inside]))) if inside.any() else None,
        }
        found.append(figures)
    return found
