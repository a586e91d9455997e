"""Recall@50/50: the share of windows of a text that a model recites exactly.

Definition (Carlini et al. 2023, arXiv 2202.07646, definition 3.1 with k = 50): windows begin at token 0, 50, 100, ...
of the trained text; the model sees only a window's first 50 tokens and must produce the next 50 exactly, greedily.

Reported beside it: token accuracy over the same positions, a Wilson 95 % interval, recall@8/50 (a prompt as short as
people type; only windows whose first 8 tokens occur once in the text, because others have more than one right
continuation), and the same measure on a control text that the model never saw, which separates knowing by heart from
guessing well. recall@200/200 characters (character_recall.py) lets languages and tokenizers compare.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from llm.configurator import UserError
from llm.files import write_atomic
from llm.model import GPT
from llm.reading.character_recall import measure_characters
from llm.reading.greedy import greedy_errors
from llm.runtime import Runtime, notice
from llm.text.dataset import Dataset, Split
from llm.text.documents import book_names
from llm.text.formats import read_text
from llm.text.names import BUNDLED
from llm.text.spacing import evenly_spaced_indices
from llm.text.tokenizer import Tokenizer

PREFIX, SUFFIX, STRIDE = 50, 50, 50  # tokens
SHORT_PREFIX = 8  # tokens
MAX_WINDOWS = 1000  # of a whole measurement
MAX_COMPARED = 20_000_000  # tokens of a text in which windows are looked for whose first tokens occur once
MAX_CHARACTER_WINDOWS = 500  # of the measurement by characters, which needs a pass of its own
SAMPLE_WINDOWS = 64  # of an estimate during training
NEEDED_CONTEXT = PREFIX + SUFFIX - 1  # the last token is predicted, never read
CONTROL_TEXT = BUNDLED / "tale" / "control.txt"


@dataclass(frozen=True)
class Recall:
    """Counts of one measurement: windows, windows recited exactly, right tokens (of SUFFIX per window)."""

    windows: int
    recited: int
    right_tokens: int

    @classmethod
    def from_errors(cls, errors: np.ndarray, prefix: int = PREFIX) -> "Recall":
        """Recall@prefix/50 from what `greedy_errors` returned for `window_spans`."""
        n_errors = errors[:, prefix : prefix + SUFFIX].sum(1)
        return cls(len(errors), int((n_errors == 0).sum()), int((SUFFIX - n_errors).sum()))

    @property
    def share(self) -> float:
        return self.recited / self.windows if self.windows else 0.0

    @property
    def token_accuracy(self) -> float:
        return self.right_tokens / (self.windows * SUFFIX) if self.windows else 0.0

    def __str__(self) -> str:
        return f"{self.share:.4f} ({self.recited:,}/{self.windows:,} windows)"


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927): wilson(458, 463) is about (0.975, 0.995)."""
    if trials == 0:
        return 0.0, 1.0
    z, p = 1.959964, successes / trials
    center = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    spread = z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return max(0.0, center - spread), min(1.0, center + spread)


def window_starts(n_tokens: int, length: int, max_windows: int = MAX_WINDOWS) -> np.ndarray:
    """Starts 0, 50, 100, ... of windows that fit into n_tokens; at most max_windows of them, evenly spaced."""
    return STRIDE * evenly_spaced_indices(max(0, (n_tokens - length) // STRIDE + 1), max_windows)


def split_starts(split: Split, max_windows: int = MAX_WINDOWS) -> np.ndarray:
    """Starts of the windows of recall@50/50; of several documents, each begins anew and no window spans two."""
    length = PREFIX + SUFFIX
    begins = np.array([document.start for document in split.documents])
    counts = [max(0, (document.stop - document.start - length) // STRIDE + 1) for document in split.documents]
    ends = np.cumsum(counts)  # windows of each document and those before it
    if not ends[-1]:  # documents of less than one window: a collection of poems
        return window_starts(len(split), length, max_windows)
    numbers = evenly_spaced_indices(int(ends[-1]), max_windows)
    owners = np.searchsorted(ends, numbers, side="right")
    return begins[owners] + STRIDE * (numbers - (ends - counts)[owners])


def sample_starts(split: Split) -> np.ndarray:
    """Starts of SAMPLE_WINDOWS windows from all over the text, always the same."""
    return split_starts(split, SAMPLE_WINDOWS)


def unique_prefixes(split: Split, starts: np.ndarray, length: int, chunk: int = 2**20) -> np.ndarray:
    """Those starts whose first `length` tokens occur only once in the text.

    Compares 64-bit hashes (a dot product with random odd numbers), `chunk` tokens of the text at a time. Two different
    sequences have the same hash with a probability of about 2**-63, which would leave out one window.
    """
    multipliers = np.random.SeedSequence(length).generate_state(length, np.uint64) | np.uint64(1)

    def hashes(tokens: np.ndarray) -> np.ndarray:
        grams = np.lib.stride_tricks.sliding_window_view(tokens.astype(np.uint64) + np.uint64(1), length)
        return (grams * multipliers).sum(axis=1, dtype=np.uint64)

    wanted = np.concatenate([hashes(split.tokens(s, s + length)) for s in starts.tolist()])
    counts = dict.fromkeys(wanted.tolist(), 0)
    for begin in range(0, len(split) - length + 1, chunk):
        found = hashes(split.tokens(begin, min(begin + chunk + length - 1, len(split))))
        for gram in found[np.isin(found, wanted)].tolist():
            counts[gram] += 1
    return starts[[counts[gram] == 1 for gram in wanted.tolist()]]


def window_spans(starts: np.ndarray) -> np.ndarray:
    """(n, 3) spans for `greedy_errors`: windows at `starts`, predicted from their 9th token to their last.

    One pass serves recall@8/50 and recall@50/50.
    """
    return starts[:, None] + np.array([0, SHORT_PREFIX, PREFIX + SUFFIX])


def measure(model: GPT, split: Split, starts: np.ndarray, **options) -> Recall:
    """recall@50/50 of the windows at `starts`; options: those of `greedy_errors`."""
    return Recall.from_errors(greedy_errors(model, split, window_spans(starts), **options))


def recall_obstacle(block_size: int, n_tokens: int) -> str | None:
    """Why recall@50/50 cannot be measured, in one line; None if it can."""
    if block_size < NEEDED_CONTEXT:
        return f"recall@{PREFIX}/{SUFFIX} needs a context of {NEEDED_CONTEXT} tokens, block_size={block_size} has fewer"
    if n_tokens < PREFIX + SUFFIX:
        return f"recall@{PREFIX}/{SUFFIX} needs a text of {PREFIX + SUFFIX} tokens, this one has {n_tokens}"
    return None


def find_control(path: str | None, data: Dataset, tokenizer: Tokenizer) -> tuple[str, Split] | None:
    """(name, tokens) of a text that the model never saw; None, with a notice, if the tokenizer cannot encode it.

    path: a text file; None = the dataset's held-out part, else the bundled control text.
    """
    if path is None and data.val is not None and len(data.val) >= PREFIX + SUFFIX:
        return f"{data.name}'s val.bin", data.val
    file = Path(path or CONTROL_TEXT)
    text, _ = read_text(file)
    try:
        ids = tokenizer.encode(text)
    except UserError as e:
        if path is not None:
            raise
        notice(f"no control: {file.name} cannot be encoded ({e})")
        return None
    if len(ids) < PREFIX + SUFFIX:
        raise UserError(f"{file} has {len(ids)} tokens, a control needs at least {PREFIX + SUFFIX}")
    return (path or "the bundled control.txt"), Split.in_memory(ids, data.vocab_size)


def report(
    model: GPT,
    data: Dataset,
    *,
    allowed: torch.Tensor,
    rt: Runtime,
    control: tuple[str, Split] | None,
    errors: np.ndarray | None = None,
) -> tuple[list[str], dict]:
    """(lines to print, figures for recall.json) of the whole measurement; the last line is recall@50/50.

    control: from `find_control`. errors: `greedy_errors` of all windows, if already known. UserError if recall cannot
    be measured: see `recall_obstacle`.
    """
    if reason := recall_obstacle(model.config.block_size, len(data.train)):
        raise UserError(reason)
    starts = split_starts(data.train)
    if errors is None:
        errors = greedy_errors(model, data.train, window_spans(starts), allowed=allowed, rt=rt)
    long = Recall.from_errors(errors)
    compared = len(data.train) <= MAX_COMPARED
    unique = np.isin(starts, unique_prefixes(data.train, starts, SHORT_PREFIX) if compared else [])
    short = Recall.from_errors(errors[unique], SHORT_PREFIX)
    low, high = wilson(long.recited, long.windows)
    figures = {
        "recall": long.share,
        **asdict(long),
        "token_accuracy": long.token_accuracy,
        "interval_95": [low, high],
        "recall_8": short.share if short.windows else None,
        "windows_8": short.windows,
        "recited_8": short.recited,
    }
    by_characters, character_figures = measure_characters(
        lambda spans: greedy_errors(model, data.train, spans, allowed=allowed, rt=rt),
        data.train,
        data.tokenizer,
        block_size=model.config.block_size,
        max_windows=MAX_CHARACTER_WINDOWS,
    )
    figures["characters_200"] = character_figures or None
    lines, books = per_book(data.train, starts, errors)
    figures |= {"books": books} if books else {}
    if control:
        name, split = control
        by_chance = measure(model, split, window_starts(len(split), PREFIX + SUFFIX), allowed=allowed, rt=rt)
        figures["control"] = {"text": name, **asdict(by_chance), "token_accuracy": by_chance.token_accuracy}
        lines.append(f"control, {name}: recall {by_chance}, token accuracy {by_chance.token_accuracy:.4f}")
    unknown = "no" if compared else "too much text to see which"
    lines += [
        by_characters,
        f"recall@{SHORT_PREFIX}/{SUFFIX}: "
        + (f"{short} whose" if short.windows else f"not measured: {unknown}")
        + f" {SHORT_PREFIX} tokens occur once in the text",
        f"token accuracy: {long.token_accuracy:.4f}",
        f"95 % interval: {low:.4f} to {high:.4f}",
        f"recall@{PREFIX}/{SUFFIX}: {long}",
    ]
    return lines, figures


def per_book(split: Split, starts: np.ndarray, errors: np.ndarray) -> tuple[list[str], list[dict]]:
    """(lines, figures) of each document's windows; both are empty if there is one document alone."""
    lines, figures = [], []
    for document, title in zip(split.documents, book_names(split.documents), strict=True):
        inside = (starts >= document.start) & (starts < document.stop)
        book = Recall.from_errors(errors[inside])
        lines.append(f"{title}: recall {book}")
        figures.append({"title": title, "recall": book.share, **asdict(book)})
    return (lines, figures) if len(figures) > 1 else ([], [])


def figures_path(out_dir: Path, checkpoint_name: str) -> Path:
    """recall.json for ckpt.pt; for another checkpoint, such as ckpt_init.pt, recall_ckpt_init.json."""
    name = "recall.json" if checkpoint_name == "ckpt.pt" else f"recall_{Path(checkpoint_name).stem}.json"
    return out_dir / name


def write(out_dir: Path, figures: dict, *, checkpoint_name: str, step: int, dataset: str) -> None:
    """Write the figures of a checkpoint to its `figures_path`."""
    figures = {"checkpoint": checkpoint_name, "step": step, "dataset": dataset} | figures
    write_atomic(figures_path(out_dir, checkpoint_name), (json.dumps(figures, indent=1) + "\n").encode())
