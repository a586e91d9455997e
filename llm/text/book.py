"""A book in memory: its text, title, author and chapters, as every format is read and every dataset written."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Chapter:
    """The heading of a chapter, and the character offset in the book's text where it begins."""

    title: str
    start: int


@dataclass
class Book:
    """One document. The text is what is learned; chapters are in its order; notes say what was changed."""

    title: str  # "" = unknown
    author: str
    text: str
    chapters: list[Chapter] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # whether lines may be those of a page, so that they must be joined, and chapters be found in the text itself
    plain: bool = False
    hard_breaks: bool = False  # whether two spaces or a backslash at a line's end keep it, as in Markdown
    source: dict = field(default_factory=dict)  # its entry "source" in meta.json


@dataclass
class TextBuilder:
    """Puts a text together from paragraphs, and remembers where its headings and anchors begin."""

    parts: list[str] = field(default_factory=list)
    length: int = 0  # characters so far
    chapters: list[Chapter] = field(default_factory=list)
    anchors: dict[str, int] = field(default_factory=dict)  # name -> character offset of the paragraph that holds it

    def add(self, paragraph: str, *, heading: bool = False, anchors: tuple[str, ...] = (), close: bool = False) -> None:
        """Append a paragraph after an empty line; close: on the next line, as the items of a list are."""
        if self.length:
            gap = "\n" if close else "\n\n"
            self.parts.append(gap)
            self.length += len(gap)
        for anchor in anchors:
            self.anchors.setdefault(anchor, self.length)
        if heading:
            self.chapters.append(Chapter(" ".join(paragraph.split()), self.length))
        self.parts.append(paragraph)
        self.length += len(paragraph)

    def add_note(self, mark: str, paragraphs: Iterable[str]) -> None:
        """Append a footnote: its mark stands before its first paragraph; empty paragraphs are left out."""
        for n, paragraph in enumerate(filter(None, paragraphs)):
            self.add(paragraph if n else f"{mark} {paragraph}")

    def text(self) -> str:
        """The text, which ends with a line end."""
        return "".join(self.parts) + "\n"


def joined(books: list[Book], *, title: str, author: str = "") -> Book:
    """One book of several files, in their order: a folder of chapters."""
    text, chapters, notes = "", [], []
    for book in books:
        text += "\n\n" * bool(text)
        chapters += [replace(chapter, start=chapter.start + len(text)) for chapter in book.chapters]
        text += book.text.strip("\n")
        notes += book.notes
    return Book(
        title,
        author,
        text + "\n",
        chapters,
        notes,
        plain=any(book.plain for book in books),
        hard_breaks=any(book.hard_breaks for book in books),
    )


def move_chapters(chapters: list[Chapter], old_text: str, new_text: str) -> list[Chapter]:
    """The chapters where they begin in new_text, which is old_text cleaned; lost ones are left out."""
    inside = old_text.find(new_text.strip()) if new_text.strip() else -1
    if inside >= 0:  # only the beginning and the end were removed
        shift = inside - (len(new_text) - len(new_text.lstrip()))
        moved = [replace(chapter, start=chapter.start - shift) for chapter in chapters]
        return [chapter for chapter in moved if 0 <= chapter.start < len(new_text)]
    moved, position = [], 0
    for chapter in chapters:
        words = old_text[chapter.start : chapter.start + 100].split()[:10]
        for n in (len(words), 4, 2):  # line ends change, and with them the hyphens of the last words
            pattern = r"\s*".join(map(re.escape, words[:n]))
            if found := re.compile(pattern).search(new_text, position):
                moved.append(replace(chapter, start=found.start()))
                position = found.start() + 1
                break
    return moved
