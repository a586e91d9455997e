"""Recall@200/200 characters: recall@50/50 with characters for tokens, so that languages and tokenizers compare.

Windows begin at character 0, 200, 400, ... of each document; the model sees the tokens that begin in the first 200
characters and must produce those that begin in the next 200 exactly, greedily. In English these are about 50 and 50.
"""

from collections.abc import Callable

import numpy as np

from llm.text.dataset import Split
from llm.text.spacing import evenly_spaced, evenly_spaced_indices
from llm.text.tokenizer import Tokenizer

CHARACTERS = 200
MAX_TOKENS = 2_000_000  # of a document of which all windows are cut; of a longer one, as many as are measured
WINDOW_TOKENS = 1_600  # that hold two times CHARACTERS in any script
MIN_FITTING = 0.5  # of the windows: share that must fit the model's context


def character_starts(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """The number of characters that begin before each token; one more entry for the end."""
    different, inverse = np.unique(ids, return_inverse=True)
    lengths = [
        0 if i == tokenizer.end_of_text else sum(byte & 0xC0 != 0x80 for byte in tokenizer.decode_bytes([i]))
        for i in different.tolist()
    ]
    return np.concatenate([[0], np.cumsum(np.array(lengths)[inverse])])


def character_windows(split: Split, tokenizer: Tokenizer, max_windows: int) -> np.ndarray:
    """(n, 3) tokens: where a window starts, where its second 200 characters start, and where they end."""
    found = []
    for document in split.documents:
        if document.stop - document.start > MAX_TOKENS:  # windows from all over it, each where a token begins
            lasts = document.stop - document.start - WINDOW_TOKENS
            for start in (document.start + evenly_spaced_indices(lasts, max_windows)).tolist():
                starts = character_starts(split.tokens(start, start + WINDOW_TOKENS), tokenizer)
                if starts[-1] >= 2 * CHARACTERS:
                    found.append(np.searchsorted(starts, CHARACTERS * np.arange(3)) + start)
            continue
        starts = character_starts(split.tokens(document.start, document.stop), tokenizer)
        borders = np.searchsorted(starts, np.arange(0, starts[-1] + 1, CHARACTERS)) + document.start
        found += list(zip(borders, borders[1:], borders[2:], strict=False))
    return evenly_spaced(np.array(found, dtype=np.int64).reshape(-1, 3), max_windows)


def measure_characters(
    grade: Callable[[np.ndarray], np.ndarray], split: Split, tokenizer: Tokenizer, *, block_size: int, max_windows: int
) -> tuple[str, dict]:
    """(line to print, figures for recall.json); grade: `greedy_errors` of spans of the split."""
    windows, name = character_windows(split, tokenizer, max_windows), f"recall@{CHARACTERS}/{CHARACTERS} characters"
    if not len(windows):
        return f"{name}: not measured: the text has too few characters", {}
    lengths = windows[:, 2] - windows[:, 0]
    fitting = windows[lengths - 1 <= block_size]
    if len(fitting) < MIN_FITTING * len(windows):
        return f"{name}: not measured: up to {lengths.max()} tokens, block_size={block_size}", {}
    too_long, longest = len(windows) - len(fitting), int((fitting[:, 2] - fitting[:, 0]).max())
    ends = np.minimum(fitting[:, 0] + longest, len(split))  # all but the last are read to one length: one batch
    errors = grade(np.stack([fitting[:, 0], fitting[:, 1], ends], axis=1))
    inside = np.arange(errors.shape[1]) < (fitting[:, 2] - fitting[:, 0])[:, None]
    recited, n_windows = int((~(errors & inside).any(1)).sum()), len(fitting)
    line = f"{name}: {recited / n_windows:.4f} ({recited:,}/{n_windows:,} windows)"
    line += f", {too_long:,} are longer than the context" if too_long else ""
    return line, {"windows": n_windows, "recited": recited, "recall": recited / n_windows, "too_long": too_long}
