"""How well each window of the book is known, for the map: from the file that recall.py writes, else measured once.

A window's level is from 0 to 100: 100 = its last 50 tokens are recited exactly; else the share of them that come before
the first wrong one; UNKNOWN = not measured yet.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from llm.configurator import UserError
from llm.reading.contents import Contents
from llm.reading.greedy import grade_spans
from llm.reading.reader import Reader
from llm.reading.recall import PREFIX, SUFFIX, recall_obstacle, split_starts
from llm.reading.windows import is_count, read_windows
from llm.runtime import notice

UNKNOWN = -1
MAX_SHOWN = 20_000  # windows
BATCH = 8  # windows measured at once
PAUSE = 0.05  # seconds between batches while requests are answered


def level_of(greedy: bool, first_slip: int | None, suffix: int = SUFFIX) -> int:
    """The level of a window; first_slip: of `suffix` tokens."""
    return 100 if greedy else min(99, 100 * (first_slip or 0) // suffix)


class WindowLevels:
    """The windows of a book and their levels. Reading them is safe from any thread."""

    def __init__(self, contents: Contents):
        self.contents = contents
        self.starts = np.zeros(0, dtype=np.int64)  # characters of the text
        self.levels = np.zeros(0, dtype=np.int64)
        self.measuring, self.obstacle = False, ""  # why they are not known, in one line

    def answer(self) -> dict:
        """The JSON for the map."""
        return {
            "starts": self.starts.tolist(),
            "levels": self.levels.tolist(),
            "measuring": self.measuring,
            "obstacle": self.obstacle,
        }

    def show(self, tokens: list[int], levels: list[int]) -> None:
        """Take levels of windows that begin at these tokens of the text."""
        self.starts = self.contents.characters_of(np.clip(tokens, 0, max(0, len(self.contents.split) - 1)).astype(int))
        self.levels = np.clip(levels, UNKNOWN, 100)

    def load(self, path: Path, *, whole: bool = True, model_sha256: Callable[[], str] | None = None) -> bool:
        """Take the levels from the per-window file; False if there is none, or it is about another text or model.

        whole: refuse a file to which windows are still being added. model_sha256: of the model's weights, asked for
        only if there is such a file; None = of any model.
        """
        if not path.exists():
            return False
        try:
            header, rows = read_windows(path)
        except UserError as e:
            notice(str(e))
            return False
        if header.get("text_sha256") != self.contents.split.sha256 or (whole and len(rows) < header["n_windows"]):
            return False
        if model_sha256 and header.get("model_sha256") != model_sha256():
            notice(f"{path} is about other weights than the model's now: the map is measured again")
            return False
        suffix = header["suffix"] if is_count(header.get("suffix")) and header["suffix"] else SUFFIX
        rows = [rows[n] for n in np.linspace(0, len(rows) - 1, min(len(rows), MAX_SHOWN)).round().astype(int)]
        last = max(0, len(self.contents.text) - 1)
        self.starts = np.array([min(row["start_char"], last) for row in rows], dtype=np.int64)
        self.levels = np.array([level_of(r["greedy"], r["first_slip"], suffix) for r in rows], dtype=np.int64)
        return True

    def measure(self, reader: Reader, *, stopped: threading.Event, is_busy: Callable[[], bool]) -> None:
        """Measure all windows, a few at a time from all over the book, and wait while requests are answered."""
        split = self.contents.split
        self.obstacle = recall_obstacle(reader.config.block_size, len(split)) or ""
        if self.obstacle:
            return
        starts = split_starts(split, MAX_SHOWN)
        self.starts = self.contents.characters_of(starts)
        self.levels, self.measuring = np.full(len(starts), UNKNOWN), True
        spans = starts[:, None] + np.array([0, PREFIX, PREFIX + SUFFIX])
        unused = torch.empty(0)  # the head is in float32: no answer is in doubt
        stride = -(-len(spans) // BATCH)
        for first in range(stride):
            numbers = np.arange(first, len(spans), stride)
            errors = grade_spans(reader, split, spans[numbers], unused)[0][:, PREFIX:]
            slips = np.where(errors.any(1), errors.argmax(1), SUFFIX)
            self.levels[numbers] = [level_of(slip == SUFFIX, slip) for slip in slips.tolist()]
            while is_busy() and not stopped.is_set():
                time.sleep(PAUSE)
            if stopped.is_set():
                return
        self.measuring = False
