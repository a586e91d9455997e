"""Find the spans of a text that occur word for word in the book, and where: recitation told from invention.

In scripts without spaces between words, each character is looked up as a word is elsewhere, and counts half as much.
"""

import re
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np

from llm.text.headings import find_chapters
from llm.text.scripts import CJK, SOUTH_EAST, is_spaceless

MIN_WORDS = 8  # of a span; shorter matches are chance
CHARACTERS_PER_WORD = 2  # in scripts without spaces
WORD = re.compile(rf"[{CJK}{SOUTH_EAST}]|[^\s{CJK}{SOUTH_EAST}]+")
BLOCK = 1024  # suffixes whose first word is known


def split_words(text: str) -> list[str]:
    """The words of a text; in scripts without spaces, its characters."""
    return WORD.findall(text)


@dataclass(frozen=True)
class Section:
    """A part of the book's text from character `start` on: which book, of several, and which chapter."""

    start: int
    book: str = ""  # its title; "" = there is one alone
    chapter: str = ""  # its heading; "" = none


@dataclass(frozen=True)
class Span:
    """text[start:end] occurs in the book, from line number `line` of `chapter` on."""

    start: int  # in characters
    end: int
    words: int
    chapter: str  # its heading; "" = none
    line: int  # of the book's text, counted from 1
    book: str = ""  # its title; "" = there is one alone
    at: int = 0  # character of the book's text where it begins
    book_end: int = 0  # and the one after its last

    def where(self) -> str:
        """For example "CHAPTER II, line 1,010"."""
        return ", ".join(filter(None, [self.book, self.chapter, f"line {self.line:,}"]))


class BookIndex:
    """A book in which spans are looked up. White space is ignored; everything else must match.

    Lines are those of the text that the model learned, in which a paragraph may be a single line (text/unwrap.py).
    The index is a suffix array of the book's words (Manber and Myers 1990), made by prefix doubling: the runs of 1, 2,
    4, 8, ... words get a rank each, in the order of the ranks of their halves. A text of n words then takes
    n log(words of the book) steps, whatever it says.
    """

    def __init__(self, book_text: str, sections: list[Section] | None = None):
        """sections: in the order of the text; None = chapters are looked for."""
        if sections is None:
            sections = [Section(chapter.start, "", chapter.title) for chapter in find_chapters(book_text)]
        self.text, self.sections = book_text, sections
        self.section_starts = [section.start for section in sections]
        self.words: list[str] = []
        self.word_starts = array("L")
        for match in WORD.finditer(book_text):
            self.words.append(match[0])
            self.word_starts.append(match.start())
        self.line_starts = array("L", [0, *(match.end() for match in re.finditer("\n", book_text))])
        self.joined = f" {' '.join(self.words)} "
        self._sort_suffixes()

    def place(self, position: int) -> tuple[Section, int]:
        """(section, number of the line in its book) of a character of the book's text."""
        n = bisect_right(self.section_starts, position) - 1
        section = self.sections[n] if n >= 0 else Section(0)
        line = bisect_right(self.line_starts, position)
        if section.book:
            first = next(other for other in self.sections if other.book == section.book)
            line -= bisect_right(self.line_starts, first.start) - 1
        return section, line

    def _sort_suffixes(self) -> None:
        """Make the suffix array, and what finds the runs of MIN_WORDS words that another text shares with the book."""
        self.id_of = {word: n for n, word in enumerate(dict.fromkeys(self.words))}
        self.ids = [self.id_of[word] for word in self.words]
        ranks, length = np.array(self.ids, dtype=np.int64), 1
        self.pairs: list[np.ndarray] = []  # sorted keys of the book's runs of 2, 4 and 8 words
        runs = ranks
        while length < MIN_WORDS or (len(ranks) and ranks.max() + 1 < len(ranks)):
            pairs, ranks = np.unique(self._pair_keys(ranks, length), return_inverse=True)
            length *= 2
            if length <= MIN_WORDS:
                self.pairs.append(pairs)
                runs = ranks
        suffixes = np.argsort(ranks, kind="stable")
        self.sorted_runs = runs[suffixes]  # ranks of the runs that the suffixes begin with
        padding = np.full(-len(suffixes) % BLOCK, len(suffixes))
        self.block_firsts = np.concatenate([suffixes, padding]).reshape(-1, BLOCK).min(1)  # the first index in each
        self.suffixes = suffixes  # indices of words, in the order of what follows from there on

    def _pair_keys(self, ranks: np.ndarray, length: int) -> np.ndarray:
        """A key for each run of 2 * length words, from the ranks of its halves; -1 if one of those is -1."""
        second = np.zeros_like(ranks)  # 0 = the text ends before it
        second[: max(0, len(ranks) - length)] = ranks[length:] + 1
        keys = ranks * (len(self.words) + 1) + second
        keys[: max(0, len(ranks) - length)][ranks[length:] < 0] = -1
        return np.where(ranks < 0, -1, keys)

    def _run_ranks(self, ids: list[int]) -> list[int]:
        """For each run of MIN_WORDS ids, its rank among the book's; -1 if the book does not have it."""
        ranks, length = np.array(ids, dtype=np.int64), 1
        for pairs in self.pairs:
            keys = self._pair_keys(ranks, length)
            index = np.searchsorted(pairs, keys).clip(max=len(pairs) - 1)
            ranks, length = np.where(pairs[index] == keys, index, -1), 2 * length
        return ranks[: max(0, len(ids) - MIN_WORDS + 1)].tolist()

    def _shared(self, ids: list[int], n: int, suffix: int, start: int, limit: int) -> int:
        """How many words ids[n:] and the book's from `suffix` on share, at most `limit`; `start` are known."""
        limit, length = min(limit, len(ids) - n, len(self.ids) - suffix), start
        while length < limit and ids[n + length] == self.ids[suffix + length]:
            length += 1
        return length

    def _longest_match(self, ids: list[int], n: int, run: int) -> tuple[int, int]:
        """(length, index in the book) of the longest prefix of ids[n:] that the book has; the first if it has several.

        run: rank of the first MIN_WORDS words.
        """
        first, last = (int(np.searchsorted(self.sorted_runs, run, side)) for side in ("left", "right"))
        low, high, low_shared, high_shared, longest, at = first, last, MIN_WORDS, MIN_WORDS, 0, first
        while low < high:  # where among the suffixes ids[n:] would stand: its neighbours there share most with it
            middle = (low + high) // 2
            suffix = int(self.suffixes[middle])
            shared = self._shared(ids, n, suffix, min(low_shared, high_shared), len(ids))
            if shared > longest:
                longest, at = shared, middle
            if n + shared == len(ids):
                break
            if suffix + shared == len(self.ids) or self.ids[suffix + shared] < ids[n + shared]:
                low, low_shared = middle + 1, shared
            else:
                high, high_shared = middle, shared

        def shares_all(middle: int) -> bool:
            return self._shared(ids, n, int(self.suffixes[middle]), MIN_WORDS, longest) == longest

        begin = bisect_left(range(first, at), True, key=shares_all) + first
        end = bisect_left(range(at, last), True, key=lambda middle: not shares_all(middle)) + at
        return longest, self._first_word(begin, end)

    def _first_word(self, begin: int, end: int) -> int:
        """The smallest of suffixes[begin:end]."""
        first_block, last_block = -(-begin // BLOCK), end // BLOCK
        if first_block >= last_block:
            return int(self.suffixes[begin:end].min())
        parts = self.suffixes[begin : first_block * BLOCK], self.suffixes[last_block * BLOCK : end]
        return min(int(part.min()) for part in (*parts, self.block_firsts[first_block:last_block]) if len(part))

    def spans(self, text: str) -> list[Span]:
        """The spans of at least MIN_WORDS words of `text` that occur in the book, from left to right."""
        if not self.words:
            return []
        matches = list(WORD.finditer(text))
        ids = [self.id_of.get(match[0], -1) for match in matches]
        found, next_word = [], 0
        for n, run in enumerate(self._run_ranks(ids)):
            if run < 0 or n < next_word:
                continue
            length, index = self._longest_match(ids, n, run)
            n_characters = sum(is_spaceless(match[0]) for match in matches[n : n + length])
            if length - n_characters + n_characters / CHARACTERS_PER_WORD >= MIN_WORDS:
                section, line = self.place(self.word_starts[index])
                start, end = matches[n].start(), matches[n + length - 1].end()
                at, last = self.word_starts[index], index + length - 1
                book_end = self.word_starts[last] + len(self.words[last])
                found.append(Span(start, end, length, section.chapter, line, section.book, at, book_end))
            next_word = n + length
        return found

    def pieces(self, text: str) -> list[tuple[str, Span | None]]:
        """The text in pieces: (piece, span) for spans that occur in the book, (piece, None) for what is between."""
        return divided(text, self.spans(text))


def divided(text: str, spans: list[Span]) -> list[tuple[str, Span | None]]:
    """The text in pieces, none empty: (piece, span) for these spans of it, (piece, None) for what is between."""
    pieces, end = [], 0
    for span in spans:
        pieces += [(text[end : span.start], None), (text[span.start : span.end], span)]
        end = span.end
    pieces.append((text[end:], None))
    return [(piece, span) for piece, span in pieces if piece]
