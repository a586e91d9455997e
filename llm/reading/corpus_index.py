"""Find the spans of a sample that occur in a text too large to be held in memory: cite.py's task, by tokens on disk.

A span is looked up as the tokens that it has by itself (text/token_index.py), so here white space counts, and a place
is a number of a token: a corpus has neither titles nor chapters.
"""

import bisect

import numpy as np

from llm.reading.cite import MIN_WORDS, WORD, Span, divided
from llm.text.token_index import TokenIndex
from llm.text.tokenizer import Tokenizer


class CorpusIndex:
    """A corpus in which spans are looked up; spans and pieces are those of cite.BookIndex."""

    def __init__(self, index: TokenIndex, tokenizer: Tokenizer):
        self.index, self.tokenizer = index, tokenizer

    def spans(self, text: str) -> list[Span]:
        """The spans of at least MIN_WORDS whole words of `text` that occur in the corpus, from left to right.

        `at` and `line` of a span are the token of the corpus at which it begins, and that number counted from 1.
        """
        words = [match.span() for match in WORD.finditer(text)]
        ids = self.tokenizer.encode(text)
        ends = character_ends(ids, self.tokenizer)
        found, token = [], 0
        starts = [start for start, _ in words]
        stops = [stop for _, stop in words]
        while token < len(ids):
            length, position = self.index.longest_match(ids[token:])
            begin, end = int(ends[token - 1]) if token else 0, int(ends[token + length - 1]) if length else 0
            first, last = bisect.bisect_left(starts, begin), bisect.bisect_right(stops, end)
            if length and last - first >= MIN_WORDS:
                span = Span(starts[first], stops[last - 1], last - first, "", position + 1, at=position)
                found.append(span)
                token += length
            else:
                token += 1
        return found

    def pieces(self, text: str) -> list[tuple[str, Span | None]]:
        """The text in pieces: (piece, span) for spans that occur in the corpus, (piece, None) for what is between."""
        return divided(text, self.spans(text))

    def where(self, position: int) -> str:
        """A token's place in words: "token 12,345,678, 34 %"."""
        return f"token {position + 1:,}, {100 * position / max(1, len(self.index)):.0f} %"


def character_ends(ids: list[int], tokenizer: Tokenizer) -> np.ndarray:
    """Where each token ends in the text, in characters; one within a character ends before it."""
    n_bytes = np.cumsum([len(tokenizer.decode_bytes([i])) for i in ids])
    data = np.frombuffer(tokenizer.decode_bytes(ids), dtype=np.uint8)
    begins = np.append((data & 0xC0) != 0x80, True)  # of each byte: whether a character begins there
    n_begun = np.concatenate([[0], np.cumsum(begins)])  # characters that begin before a byte
    return n_begun[n_bytes] - ~begins[n_bytes]
