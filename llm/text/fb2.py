"""FictionBook 2: sections, titles, poems and notes, which stand at the end of the section that names them."""

import re
from xml.etree.ElementTree import Element

from llm.text.book import Book, TextBuilder
from llm.text.html import html_book
from llm.text.markup import decode_markup, replaced
from llm.text.packed import BadMember, attribute, local_name, text_of, xml_root

LEFT_OUT = {"description", "binary", "stylesheet", "image", "empty-line"}


class Sections:
    """Walks through the bodies of a FictionBook and puts its text together."""

    def __init__(self, notes: dict[str, Element], *, footnotes: bool):
        self.notes, self.footnotes = notes, footnotes
        self.builder = TextBuilder()
        self.in_table = False  # whether the paragraph before is a row of the same table
        self.pending: dict[str, str] = {}  # id of a note -> its mark

    def inline(self, element: Element) -> str:
        """The text of a paragraph; marks of notes become [1]."""
        pieces = [element.text or ""]
        for child in element:
            name = local_name(child)
            if name == "a" and attribute(child, "type") == "note":
                mark = text_of(child).strip("[]")
                target = attribute(child, "href").lstrip("#")
                if self.footnotes:
                    pieces.append(f"[{mark}]")
                    self.pending.setdefault(target, mark)
            elif name not in LEFT_OUT:
                pieces.append(self.inline(child))
            pieces.append(child.tail or "")
        return "".join(pieces)

    def paragraph(self, element: Element) -> str:
        """The text of a paragraph on one line."""
        return re.sub(r"[ \t\r\n]+", " ", self.inline(element).replace("\xad", "")).strip(" ")

    def add_notes(self) -> None:
        """Append the notes that the section before has named."""
        while self.pending:
            target, mark = next(iter(self.pending.items()))
            del self.pending[target]
            if target in self.notes:
                lines = [self.paragraph(p) for p in self.notes[target].iter() if local_name(p) in ("p", "v")]
                titles = [p for t in self.notes[target] if local_name(t) == "title" for p in t.iter()]
                skipped = sum(local_name(p) == "p" for p in titles)
                self.builder.add_note(f"[{mark}]", lines[skipped:])

    def walk(self, element: Element) -> None:
        """Append an element and all in it."""
        name = local_name(element)
        if name in LEFT_OUT:
            return
        if name == "title":
            lines = [self.paragraph(p) for p in element if local_name(p) == "p"]
            if any(lines):
                self.builder.add("\n".join(filter(None, lines)), heading=True)
        elif name == "stanza":
            parts = [e for e in element if local_name(e) not in ("v", "title", "subtitle")]
            for part in element:
                if local_name(part) in ("title", "subtitle"):
                    self.walk(part)
            verses = [self.paragraph(v) for v in element if local_name(v) == "v"]
            self.builder.add("\n".join(verses))
            for part in parts:
                self.walk(part)
        elif name == "tr":
            cells = [self.paragraph(cell) for cell in element]
            self.builder.add("\t".join(cells), close=self.in_table)
            self.in_table = True
        elif name in ("p", "subtitle", "text-author", "date", "v"):
            if line := self.paragraph(element):
                self.builder.add(line)
        else:
            self.in_table = False
            for child in element:
                self.walk(child)
            if name == "section" and not any(local_name(child) == "section" for child in element):
                self.add_notes()


def damaged_book(markup: str) -> Book:
    """The book in a file that is not well-formed, read as if it were a web page."""
    for name in ("description", "binary"):
        markup = replaced(rf"<{name}\b.*?</{name}>", "", markup, end=f"</{name}>")
    markup = re.sub(r"<(/?)title\b", r"<\1h2", markup)
    book = html_book(re.sub(r"<(/?)v\b", r"<\1p", markup))
    book.notes.append("WARNING: it is not well-formed XML, and read as well as it can be")
    return book


def fb2_book(data: bytes, *, name: str, footnotes: bool = True) -> Book:
    """The book in a FictionBook file."""
    try:
        root = xml_root(data, name)
    except BadMember:
        return damaged_book(decode_markup(data, name=name))
    bodies = [e for e in root if local_name(e) == "body"]
    main = [body for body in bodies if attribute(body, "name") not in ("notes", "comments", "footnotes")]
    others = [body for body in bodies if body not in main]
    notes = {attribute(e, "id"): e for body in others for e in body.iter() if attribute(e, "id")}
    sections = Sections(notes, footnotes=footnotes)
    for body in main:
        sections.walk(body)
        sections.add_notes()
    info = next((e for e in root.iter() if local_name(e) == "title-info"), root)
    title = text_of(next((e for e in info if local_name(e) == "book-title"), None))
    authors = []
    for author in (e for e in info if local_name(e) == "author"):
        names = {local_name(part): text_of(part) for part in author}
        parts = ("first-name", "middle-name", "last-name")
        authors.append(" ".join(names[part] for part in parts if names.get(part)) or names.get("nickname", ""))
    return Book(title, ", ".join(filter(None, authors)), sections.builder.text(), sections.builder.chapters)
