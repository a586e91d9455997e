"""Find the spans of a text that occur word for word in the book, and where: recitation told from invention."""

import re
from bisect import bisect_right
from dataclasses import dataclass

MIN_WORDS = 8  # of a span; shorter matches are chance
WORD = re.compile(r"\S+")
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
        self.word_offsets = [0]  # in `joined`, of the space before each word
        for word in self.words:
            self.word_offsets.append(self.word_offsets[-1] + len(word) + 1)

    def longest_match(self, words: list[str]) -> tuple[int, int]:
        """(length, index in the book) of the longest prefix of `words` that occurs in the book, in words.

        (0, 0) if it is shorter than MIN_WORDS; of several occurrences, the first.
        """
        longest, index = 0, 0
        if len(words) < MIN_WORDS:
            return longest, index
        prefix = f" {' '.join(words[:MIN_WORDS])} "
        offset = self.joined.find(prefix)
        while offset >= 0:
            first = bisect_right(self.word_offsets, offset) - 1
            length = MIN_WORDS
            while length < len(words) and self.words[first + length : first + length + 1] == [words[length]]:
                length += 1
            if length > longest:
                longest, index = length, first
            offset = self.joined.find(prefix, offset + 1)
        return longest, index

    def spans(self, text: str) -> list[Span]:
        """The spans of at least MIN_WORDS words of `text` that occur in the book, from left to right."""
        matches = list(WORD.finditer(text))
        words = [match[0] for match in matches]
        found, n = [], 0
        while n <= len(words) - MIN_WORDS:
            length, index = self.longest_match(words[n:])
            if length:
                line = bisect_right(self.first_words, index) - 1
                start, end = matches[n].start(), matches[n + length - 1].end()
                found.append(Span(start, end, length, self.chapters[line], self.line_numbers[line]))
            n += length or 1
        return found

    def pieces(self, text: str) -> list[tuple[str, Span | None]]:
        """The text in pieces: (piece, span) for spans that occur in the book, (piece, None) for what is between."""
        pieces, end = [], 0
        for span in self.spans(text):
            pieces += [(text[end : span.start], None), (text[span.start : span.end], span)]
            end = span.end
        pieces.append((text[end:], None))
        return [(piece, span) for piece, span in pieces if piece]
