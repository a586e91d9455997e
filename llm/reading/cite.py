"""Find the spans of a text that occur word for word in the book, and where: recitation told from invention."""

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np

MIN_WORDS = 8  # of a span; shorter matches are chance
WORD = re.compile(r"\S+")
BLOCK = 1024  # suffixes whose first word is known
# A line that names a chapter: CHAPTER IV, Book the First, XII., 7, THE GREEN DOOR
HEADING = re.compile(
    r"(?:(?i:chapter|book|part|volume|canto|letter|act|scene|section|chapitre|kapitel|cap[ií]tulo)\b.{0,60}"
    r"|[IVXLC]{1,8}(?:[.:—-].{0,60})?|\d{1,3}\.?|[A-Z][A-Z0-9 ,.'’&:;!?—-]{2,60})"
)


@dataclass(frozen=True)
class Span:
    """text[start:end] occurs in the book, from line number `line` of `chapter` on."""

    start: int  # in characters
    end: int
    words: int
    chapter: str  # its heading; "" = none
    line: int  # of the book's text, counted from 1

    def where(self) -> str:
        """For example "CHAPTER II, line 1,010"."""
        return f"{self.chapter}, line {self.line:,}" if self.chapter else f"line {self.line:,}"


class BookIndex:
    """A book in which spans are looked up. White space is ignored; everything else must match.

    Lines are those of the text that the model learned, in which a paragraph may be a single line (text/clean.py).
    The index is a suffix array of the book's words (Manber and Myers 1990), made by prefix doubling: the runs of 1, 2,
    4, 8, ... words get a rank each, in the order of the ranks of their halves. A text of n words then takes
    n log(words of the book) steps, whatever it says.
    """

    def __init__(self, book_text: str):
        self.words: list[str] = []
        # of each line with words: index of its first word, its number, the heading of its chapter
        self.first_words: list[int] = []
        self.line_numbers: list[int] = []
        self.chapters: list[str] = []
        chapter = ""
        lines = ["", *book_text.split("\n"), ""]  # so that each line has two neighbours, and the first is number 1
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            stands_alone = not lines[number - 1].strip() and not lines[number + 1].strip()
            if stands_alone and HEADING.fullmatch(line.strip()):
                chapter = " ".join(line.split())
            self.first_words.append(len(self.words))
            self.line_numbers.append(number)
            self.chapters.append(chapter)
            self.words += line.split()
        self.joined = f" {' '.join(self.words)} "
        self._sort_suffixes()

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
            line = bisect_right(self.first_words, index) - 1
            start, end = matches[n].start(), matches[n + length - 1].end()
            found.append(Span(start, end, length, self.chapters[line], self.line_numbers[line]))
            next_word = n + length
        return found

    def pieces(self, text: str) -> list[tuple[str, Span | None]]:
        """The text in pieces: (piece, span) for spans that occur in the book, (piece, None) for what is between."""
        pieces, end = [], 0
        for span in self.spans(text):
            pieces += [(text[end : span.start], None), (text[span.start : span.end], span)]
            end = span.end
        pieces.append((text[end:], None))
        return [(piece, span) for piece, span in pieces if piece]
