"""A book as its readers see it: title, author, contents, its text by position, where each token stands in it."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llm.reading.cite import split_words
from llm.reading.shelf import ShelvedBook, shelved
from llm.text.dataset import Split
from llm.text.documents import token_ends
from llm.text.headings import find_chapters
from llm.text.tokenizer import Tokenizer

MAX_PART = 40_000  # characters; a longer chapter is divided at the end of a paragraph
RIGHT_TO_LEFT = ("\u0590", "\u08ff")  # first and last character of Hebrew, Arabic, Syriac and their neighbours
SHOWN = 4_000  # characters from which the direction of writing is told


@dataclass(frozen=True)
class Part:
    """A chapter, or a piece of a long one: characters start to end - 1 of the text of all books."""

    title: str
    start: int
    end: int
    book: str  # the title of its book


class Contents:
    """The books of a dataset, one after the other, divided into parts that can be read one by one."""

    def __init__(self, split: Split, tokenizer: Tokenizer, books: Sequence[ShelvedBook] | None = None):
        """books: those of the split, if they are made already."""
        self.split, self.tokenizer = split, tokenizer
        self.books = list(books or shelved(split.tokens(0, len(split)), split.documents, tokenizer))
        self.text = "".join(book.text for book in self.books)
        self.author = split.documents[0].author if len(split.documents) == 1 else ""
        alone = len(self.books) == 1
        self.titles = [
            "" if alone and not document.title.strip() else readable(book.title)
            for book, document in zip(self.books, split.documents, strict=True)
        ]
        self.parts, start = [], 0
        for book, title, document in zip(self.books, self.titles, split.documents, strict=True):
            chapters = [(c.title, c.character) for c in document.chapters]
            chapters = chapters or [(c.title, c.start) for c in find_chapters(book.text)]
            self.parts += divided(book, title, chapters, start)
            start += len(book.text)
        self.part_starts = [part.start for part in self.parts]

    @property
    def title(self) -> str:
        """The book's title, "" if it has none; or those of several."""
        titles = self.titles
        if len(titles) > 3:
            titles = [*titles[:2], f"{len(titles) - 2} more"]
        return ", ".join(titles)

    def n_words(self) -> int:
        """Words of the text; in scripts without spaces, its characters."""
        return len(split_words(self.text))

    def right_to_left(self) -> bool:
        """Whether most letters at the beginning are of a script that is written from right to left."""
        letters = [c for c in self.text[:SHOWN] if c.isalpha()]
        return 2 * sum(RIGHT_TO_LEFT[0] <= c <= RIGHT_TO_LEFT[1] for c in letters) > len(letters)

    def part_at(self, position: int) -> int:
        """The number of the part that holds a character."""
        return max(0, bisect.bisect_right(self.part_starts, position) - 1)

    def where(self, position: int) -> str:
        """A character's place in a reader's words: "Brother Jacob, CHAPTER II, 34 %"."""
        part = self.parts[self.part_at(position)] if self.parts else Part("", 0, 0, "")
        percent = f"{100 * position / max(1, len(self.text)):.0f} %"
        return ", ".join(filter(None, dict.fromkeys([part.book, part.title, percent])))

    def characters_of(self, tokens: np.ndarray) -> np.ndarray:
        """For each token index of the split, the character of the text at which the token begins."""
        ends = token_ends(self.split.tokens(0, len(self.split)).tolist(), self.tokenizer)
        starts = np.concatenate([[0], ends])[tokens]  # in bytes
        data = np.frombuffer(self.text.encode("utf-8", "replace"), dtype=np.uint8)
        first_bytes = np.flatnonzero((data & 0xC0) != 0x80)  # of each character
        return np.searchsorted(first_bytes, starts, side="right").clip(1, max(1, len(self.text))) - 1


def readable(title: str) -> str:
    """A title to be shown: that of a file without one is its name, brother_jacob -> Brother Jacob."""
    return title if title != title.lower() else title.replace("_", " ").strip().title() or title


def divided(book: ShelvedBook, title: str, chapters: list[tuple[str, int]], start: int) -> list[Part]:
    """The parts of a book that begins at character `start`; chapters: (title, character of the book)."""
    borders = [("", 0), *chapters] if not chapters or book.text[: chapters[0][1]].strip() else list(chapters)
    borders[0] = (borders[0][0], 0)
    ends = [character for _, character in borders[1:]] + [len(book.text)]
    parts = []
    for (chapter, begin), end in zip(borders, ends, strict=True):
        pieces = cut(book.text, begin, end)
        for number, (first, stop) in enumerate(pieces, 1):
            name = chapter if number == 1 else f"{chapter} ({number})".strip()
            if not chapter:
                name = "The beginning" if chapters else f"Part {number}" if len(pieces) > 1 else title or "The book"
            parts.append(Part(name, start + first, start + stop, title))
    return parts


def cut(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """text[start:end] in pieces of at most MAX_PART characters, each ending with a paragraph where there is one."""
    pieces = []
    while end - start > MAX_PART:
        border = max(text.rfind("\n", start + MAX_PART // 2, start + MAX_PART), start + MAX_PART // 2 - 1) + 1
        pieces.append((start, border))
        start = border
    return [*pieces, (start, end)]
