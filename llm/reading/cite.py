"""Which spans of a text stand word for word in the book, and where: recitation told from invention."""

import re
from bisect import bisect_right
from dataclasses import dataclass

MIN_WORDS = 8  # of a span: shorter agreements are anybody's
WORD = re.compile(r"\S+")
# a line that stands alone and names what follows: CHAPTER IV, Book the First, XII., 7, THE GREEN DOOR
HEADING = re.compile(
    r"(?:(?i:chapter|book|part|volume|canto|letter|act|scene|section|chapitre|kapitel|cap[ií]tulo)\b.{0,60}"
    r"|[IVXLC]{1,8}(?:[.:—-].{0,60})?|\d{1,3}\.?|[A-Z][A-Z0-9 ,.'’&:;!?—-]{2,60})"
)


@dataclass(frozen=True)
class Span:
    """text[start:end] stands in the book from line number `line` (the first is 1) of its `chapter` ("" = none) on."""

    start: int
    end: int
    words: int
    chapter: str
    line: int

    def where(self) -> str:
        return f"{self.chapter}, line {self.line:,}" if self.chapter else f"line {self.line:,}"


class Book:
    """A text in which spans are looked up. White space does not count, all else does.

    Lines are those of the text that the model learned, where a paragraph may be one line (text.unwrap), counted from
    its beginning.
    """

    def __init__(self, text: str):
        self.words, self.firsts = [], []  # firsts: for each line that has words, the number of the first of them
        self.lines, self.chapters, chapter = [], [], ""
        lines = text.split("\n")
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            alone = not any(
                other.strip() for other in lines[max(0, number - 1) : number] + lines[number + 1 : number + 2]
            )
            if alone and HEADING.fullmatch(line.strip()):
                chapter = " ".join(line.split())
            self.firsts.append(len(self.words))
            self.lines.append(number + 1)
            self.chapters.append(chapter)
            self.words += line.split()
        self.joined = f" {' '.join(self.words)} "
        self.begins = [0]  # where in `joined` each word's space is
        for word in self.words:
            self.begins.append(self.begins[-1] + len(word) + 1)

    def longest(self, words: list[str]) -> tuple[int, int]:
        """(words that agree, number of the first in the book) of the longest beginning of `words` that is in the book.

        (0, 0) where not even MIN_WORDS agree; of several places, the first.
        """
        best, at, wanted = (0, 0), -1, f" {' '.join(words[:MIN_WORDS])} "
        while len(words) >= MIN_WORDS and (at := self.joined.find(wanted, at + 1)) >= 0:
            first = bisect_right(self.begins, at) - 1
            n = MIN_WORDS
            while n < len(words) and self.words[first + n : first + n + 1] == [words[n]]:
                n += 1
            best = max(best, (n, -first))
        return best[0], -best[1]

    def spans(self, text: str) -> list[Span]:
        """The spans of at least MIN_WORDS words of `text` that stand in the book, from left to right."""
        found, words, n = [], list(WORD.finditer(text)), 0
        only = [word[0] for word in words]
        while n <= len(words) - MIN_WORDS:
            agree, first = self.longest(only[n:])
            if agree:
                line = bisect_right(self.firsts, first) - 1
                at = words[n].start(), words[n + agree - 1].end()
                found.append(Span(*at, agree, self.chapters[line], self.lines[line]))
            n += agree or 1
        return found

    def cut(self, text: str) -> list[tuple[str, Span | None]]:
        """The text in pieces: the spans that stand in the book, and what is between them."""
        pieces, at = [], 0
        for span in self.spans(text):
            pieces += [(text[at : span.start], None), (text[span.start : span.end], span)]
            at = span.end
        return [(piece, span) for piece, span in [*pieces, (text[at:], None)] if piece]
