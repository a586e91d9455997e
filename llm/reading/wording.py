"""Recitation told from invention, word by word, with what the book has in place of what was invented.

cite.py finds the spans that stand in the book. What lies between two of them is compared here with what the book has
between the same two places (or after the first one): words that agree are recited, too.
"""

import difflib
from dataclasses import dataclass

from llm.reading.cite import WORD, BookIndex, Span

MAX_COMPARED = 120  # words of an invention that is compared word by word
MAX_SHOWN = 12  # words of the book that are shown where it goes on differently
FAR = 4  # times as long as an invention, and 200 characters: two places so far apart are two passages
MAX_REGION = 5_000  # characters of the book that an invention is compared with


@dataclass(frozen=True)
class Piece:
    """A piece of a text: recited, from character `at` of the book on, or invented (at None).

    wording: what the book has in place of it; None = unknown, "" = nothing. text may be "": a passage is left for
    another one, and wording is how it goes on.
    """

    text: str
    at: int | None = None
    wording: str | None = None


def pieces_with_wording(index: BookIndex, text: str) -> list[Piece]:
    """The text in pieces, which together are the text."""
    spans, pieces, end = index.spans(text), [], 0
    for before, span in zip([None, *spans], [*spans, None], strict=True):
        gap = text[end : span.start if span else len(text)]
        pieces += between(index, gap, before, span)
        if span:
            pieces.append(Piece(text[span.start : span.end], span.at))
            end = span.end
    return pieces


def between(index: BookIndex, gap: str, before: Span | None, after: Span | None) -> list[Piece]:
    """The pieces of what stands between two spans; None: the text begins or ends there."""
    left = None if before is None else before.book_end
    right = None if after is None else after.at
    jumps = left is not None and right is not None and not 0 <= right - left <= min(FAR * len(gap) + 200, MAX_REGION)
    words = list(WORD.finditer(gap))
    if not words:
        if jumps or (left is not None and right is not None and WORD.search(index.text, left, right)):
            wording = index.text[left:right] if not jumps else first_words(index.text[left : left + 400], MAX_SHOWN)
            return [Piece("", None, " ".join(wording.split())), Piece(gap, left)] if wording.strip() else [Piece(gap)]
        return [Piece(gap, left)] if gap else []
    if right is None and left is not None and len(words) == 1:
        following = WORD.search(index.text, left)
        if following and gap.endswith(words[0][0]) and following[0].startswith(words[0][0]):
            return [Piece(gap, following.start())]  # a word whose end was not drawn any more
    if left is None and right is None or len(words) > MAX_COMPARED:
        if left is None:
            return [Piece(gap)]
        return [Piece(gap, None, first_words(index.text[left : left + 400], MAX_SHOWN))]
    if left is None:
        region = max(0, right - min(2 * len(gap) + 50, MAX_REGION)), right
    elif right is None or jumps:
        region = left, left + min(2 * len(gap) + 50, MAX_REGION)
    else:
        region = left, right
    return aligned(index.text, gap, words, region, open_end=right is None or jumps, open_start=left is None)


def aligned(
    book_text: str, gap: str, words: list, region: tuple[int, int], *, open_end: bool, open_start: bool
) -> list[Piece]:
    """The pieces of a gap, compared word by word with a region of the book.

    open_start, open_end: the region only begins, or ends, somewhere; what the gap has no counterpart for is no wording.
    """
    book_words = list(WORD.finditer(book_text, *region))
    matcher = difflib.SequenceMatcher(None, [w[0] for w in words], [w[0] for w in book_words], autojunk=False)
    pieces, end, codes = [], 0, matcher.get_opcodes()
    for number, (kind, first, stop, book_first, book_stop) in enumerate(codes):
        stop_at = words[stop].start() if stop < len(words) else len(gap)
        piece, end = gap[end:stop_at], stop_at
        if kind == "equal":
            pieces.append(Piece(piece, book_words[book_first].start()))
            continue
        if kind == "insert" and (open_start and number == 0 or open_end and number == len(codes) - 1):
            pieces += [Piece(piece)] if piece else []
            continue
        n_shown = max(stop - first, 3)
        if open_start and number == 0:
            book_first = max(book_first, book_stop - n_shown)
        if open_end and number == len(codes) - 1:
            book_stop = min(book_stop, book_first + n_shown)
        wording = ""
        if book_first < book_stop:
            wording = book_text[book_words[book_first].start() : book_words[book_stop - 1].end()]
        pieces.append(Piece(piece, None, " ".join(wording.split())))
    if end < len(gap):
        pieces.append(Piece(gap[end:]))
    return pieces


def first_words(text: str, n: int) -> str:
    """The first n words of a text, on one line."""
    words = list(WORD.finditer(text))[:n]
    return " ".join(text[words[0].start() : words[-1].end()].split()) if words else ""
