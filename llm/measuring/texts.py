"""A text as a model's tokens, and the windows of it that are measured.

Three ways of cutting it:

- `token_windows`: one tokenisation of the text, a window every `stride` tokens. Windows begin anew in each document of
  a dataset, and span no two.
- `offset_windows`: the same tokens, a window at the first token that begins at or after every 10th character.
- `exact_windows`: a window at every 10th character, and the text from there on tokenised by itself (Cooper et al. 2025,
  arXiv 2505.12546). A window may then begin within a word, as it does in their measurements.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llm.reading.cite import Section

Encode = Callable[[str], tuple[np.ndarray, np.ndarray]]  # text -> (ids (n,), where each begins and the last ends)
CHARACTERS_PER_TOKEN = 8  # of the piece that is tokenised for an exact window, at first
SPARE_TOKENS = 8  # at a piece's end, where another end of the text may give other tokens


@dataclass(frozen=True)
class Text:
    """A text and its one tokenisation. Positions are characters of `text`."""

    name: str
    text: str
    ids: np.ndarray  # (n,) int64
    starts: np.ndarray  # (n + 1,) int64: where each token begins; the last entry is where the last token ends
    documents: list[tuple[int, int]]  # (first token, token after the last) of each
    sections: list[Section]  # books and chapters

    @property
    def sha256(self) -> str:
        """Of the text in UTF-8."""
        return hashlib.sha256(self.text.encode("utf-8", "replace")).hexdigest()

    @classmethod
    def encoded(cls, name: str, text: str, encode: Encode, sections: list[Section] | None = None) -> "Text":
        """A text that is one document."""
        ids, starts = encode(text)
        return cls(name, text, ids, starts, [(0, len(ids))], sections or [])


@dataclass(frozen=True)
class Windows:
    """Windows of one length. Row n belongs to the nth window, in the order of the text."""

    ids: np.ndarray  # (n, prefix + suffix) integers
    start_token: np.ndarray | None  # (n,) index in the text's one tokenisation; None = tokenised by themselves
    start_char: np.ndarray  # (n,) where the window begins
    suffix_chars: np.ndarray  # (n, 2) where its suffix begins and ends
    prefix: int  # tokens

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def suffix(self) -> int:
        """Tokens of the suffix."""
        return self.ids.shape[1] - self.prefix


def windows_at(text: Text, first: np.ndarray, prefix: int, suffix: int) -> Windows:
    """The windows that begin at these tokens of the text."""
    first = np.asarray(first, dtype=np.int64)
    ids = text.ids[first[:, None] + np.arange(prefix + suffix)].astype(np.int32)
    spans = np.stack([text.starts[first + prefix], text.starts[first + prefix + suffix]], axis=1)
    return Windows(ids, first, text.starts[first], spans, prefix)


def token_windows(text: Text, *, prefix: int, suffix: int, stride: int) -> Windows:
    """A window every `stride` tokens. Where no document is as long as a window, of the text as a whole."""
    length = prefix + suffix
    first = [np.arange(start, stop - length + 1, stride) for start, stop in text.documents]
    if not any(map(len, first)):
        first = [np.arange(0, len(text.ids) - length + 1, stride)]
    return windows_at(text, np.concatenate(first), prefix, suffix)


def offset_windows(text: Text, *, prefix: int, suffix: int, characters: int) -> Windows:
    """A window at the first token at or after every `characters` characters; each token begins one window at most."""
    found = []
    for start, stop in text.documents:
        wanted = np.arange(text.starts[start], text.starts[stop], characters)
        first = np.unique(np.searchsorted(text.starts[start:stop], wanted)) + start
        found.append(first[first + prefix + suffix <= stop])
    return windows_at(text, np.concatenate(found), prefix, suffix)


def exact_windows(text: Text, encode: Encode, *, prefix: int, suffix: int, characters: int) -> Windows:
    """A window every `characters` characters, each tokenised by itself."""
    length = prefix + suffix
    ids, begins, spans = [], [], []
    for start, stop in text.documents:
        begin, end = int(text.starts[start]), int(text.starts[stop])
        for at in range(begin, end, characters):
            window = first_tokens(text.text[at:end], encode, length)
            if window is None:  # the rest is shorter than a window
                continue
            ids.append(window[0])
            begins.append(at)
            spans.append((at + window[1][prefix], at + window[1][length]))
    return Windows(
        np.array(ids, dtype=np.int32).reshape(-1, length),
        None,
        np.array(begins, dtype=np.int64),
        np.array(spans, dtype=np.int64).reshape(-1, 2),
        prefix,
    )


def first_tokens(rest: str, encode: Encode, length: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(ids (length,), starts (length + 1,)) of the first tokens of a text; None if it has fewer.

    Only a piece is tokenised: a longer one, until enough tokens follow that its end cannot matter.
    """
    n_characters = CHARACTERS_PER_TOKEN * length
    while True:
        ids, starts = encode(rest[:n_characters])
        if n_characters >= len(rest):
            return (ids[:length], starts[: length + 1]) if len(ids) >= length else None
        if len(ids) >= length + SPARE_TOKENS:
            return ids[:length], starts[: length + 1]
        n_characters *= 2
