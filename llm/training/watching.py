"""What a training shows to those who watch it (train.py --watch=True): which tokens it gets right by now, and a sample.

Both come from what training computes anyway and go to watch.json in out_dir every few seconds. The page that shows them
is serve.py's.
"""

import contextlib
import json
import time
from pathlib import Path

import numpy as np
import torch

from llm.configurator import UserError
from llm.files import write_atomic
from llm.model import GPT
from llm.reading.generate import generate
from llm.reading.reader import Reader
from llm.reading.recall import PREFIX, SUFFIX, split_starts
from llm.runtime import Runtime
from llm.text.dataset import Dataset

WATCH = "watch.json"
FORMAT = 1
MAX_WINDOWS = 20_000
SECONDS = 2.0  # between files ...
WRITE_COST = 200  # ... or so many times as long as writing one takes: under 0.5 % of the training
SAMPLED = 40  # tokens of a sample
SAMPLE_COST = 60  # times as long as a sample takes, training goes on before the next one: under 2 % of it
FIRST_SAMPLE = 3.0  # seconds before the first one


class Watched:
    """Collects which tokens of the text are right, as far as training has looked at them, and writes them down."""

    def __init__(self, out_dir: Path, data: Dataset, *, allowed: torch.Tensor, rt: Runtime):
        self.path, self.data, self.allowed, self.rt = out_dir / WATCH, data, allowed, rt
        self.starts = split_starts(data.train, MAX_WINDOWS)
        self.right = np.zeros((len(self.starts), SUFFIX), dtype=bool)  # of each window, the tokens after its prefix
        self.seen = np.zeros_like(self.right)
        self.sample: dict = {}
        self.write_due, self.sample_due = 0.0, time.monotonic() + FIRST_SAMPLE
        self.n_samples = 0

    def note(self, tokens: np.ndarray, right: np.ndarray) -> None:
        """Take note of whether these tokens of the text are predicted (indices, and bool of the same shape)."""
        if not len(self.starts):
            return
        windows = np.searchsorted(self.starts, tokens - PREFIX, side="right") - 1
        offsets = tokens - PREFIX - self.starts[windows]
        inside = (windows >= 0) & (offsets < SUFFIX)
        at = windows[inside], offsets[inside]
        self.right[at], self.seen[at] = right[inside], True

    def note_batch(self, starts: np.ndarray, correct: torch.Tensor) -> None:
        """The same of a batch's targets; starts: first tokens of its windows; correct: (B, T) bool."""
        first = min(PREFIX - 1, correct.size(1) // 2)  # with less context, a token may be ambiguous
        tokens = starts[:, None] + 1 + np.arange(first, correct.size(1))
        self.note(tokens, correct[:, first:].cpu().numpy())

    def levels(self) -> np.ndarray:
        """For each window, how many percent of its last 50 tokens come before the first wrong one; -1 = not seen."""
        wrong, seen = ~self.right, self.seen.all(1)
        slips = np.where(wrong.any(1), wrong.argmax(1), SUFFIX)
        return np.where(seen, 100 * slips // SUFFIX, -1)

    def update(self, model: GPT, *, now: bool = False) -> None:
        """Write the file if it is due, or `now`; before, draw a sample if that is due."""
        if time.monotonic() > self.sample_due:
            began = time.monotonic()
            self.draw(model)
            self.sample_due = time.monotonic() + SAMPLE_COST * (time.monotonic() - began)
        if now or time.monotonic() > self.write_due:
            began = time.monotonic()
            self.write()
            self.write_due = time.monotonic() + max(SECONDS, WRITE_COST * (time.monotonic() - began))

    def draw(self, model: GPT) -> None:
        """Let the model continue a window of the text, another one each time."""
        if not len(self.starts):
            return
        start = int(self.starts[self.n_samples * 7 % len(self.starts)])
        prompt = self.data.train.tokens(start, start + 20).tolist()
        was_training = model.training
        reader = Reader(model.eval(), self.allowed, self.rt.dtype)
        drawn = [token for _, token in generate(reader, prompt, max_new_tokens=SAMPLED)]
        model.train(was_training)
        decode = self.data.tokenizer.decode
        self.sample = {"prompt": " ".join(decode(prompt).split()), "text": " ".join(decode(drawn).split())}
        self.n_samples += 1

    def write(self) -> None:
        """Write watch.json; a full disk does not end the training."""
        content = {"format": FORMAT, "text_sha256": self.data.train.sha256, "starts": self.starts.tolist()}
        content |= {"levels": self.levels().tolist(), "sample": self.sample}
        with contextlib.suppress(UserError):
            write_atomic(self.path, json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))
