"""OpenDocument's .odt: paragraphs, headings, lists, tables and notes, which stand at the end of their chapter."""

import re
from xml.etree.ElementTree import Element

from llm.configurator import UserError
from llm.text.book import Book, TextBuilder
from llm.text.packed import Archive, BadMember, attribute, local_name, text_of

LEFT_OUT = {
    *("annotation", "annotation-end", "tracked-changes", "change", "table-of-content", "sequence-decls", "forms"),
    *("title", "desc"),  # of pictures
    *("alphabetical-index", "illustration-index", "table-index", "object-index"),  # of pages
}


def collapsed(text: str | None) -> str:
    """White space in XML as the format reads it: any run of it is one space."""
    return re.sub(r"[ \t\r\n]+", " ", text or "")


class Document:
    """Walks through a document and puts its text together."""

    def __init__(self, root: Element, *, footnotes: bool):
        self.footnotes = footnotes
        self.ordered = {  # names of the styles of numbered lists
            attribute(style, "name")
            for style in root.iter()
            if local_name(style) == "list-style" and len(style) and local_name(style[0]) == "list-level-style-number"
        }
        self.builder = TextBuilder()
        self.pending: list[tuple[str, Element]] = []  # (mark, body of a note)
        self.boxes: list[Element] = []  # text boxes in the paragraph, which follow it
        self.close = False  # whether the paragraph before is an item of the same list or a row of the same table

    def inline(self, element: Element) -> str:
        """The text of a paragraph."""
        pieces = [collapsed(element.text)]
        for part in element:
            name = local_name(part)
            if name == "s":
                count = attribute(part, "c", "1")
                pieces.append(" " * (int(count) if count.isdigit() else 1))
            elif name == "tab":
                pieces.append("\t")
            elif name == "line-break":
                pieces.append("\n")
            elif name == "note":
                parts = {local_name(e): e for e in part}
                mark = f"[{text_of(parts.get('note-citation')).strip('[]')}]"
                if self.footnotes and "note-body" in parts:
                    pieces.append(mark)
                    self.pending.append((mark, parts["note-body"]))
            elif name == "ruby":
                pieces += [self.inline(e) for e in part if local_name(e) == "ruby-base"]
            elif name == "text-box":
                self.boxes.append(part)
            elif name not in LEFT_OUT:
                pieces.append(self.inline(part))
            pieces.append(collapsed(part.tail))
        return "".join(pieces)

    def add_notes(self) -> None:
        """Append the notes that the chapter before has named."""
        while self.pending:
            mark, body = self.pending.pop(0)
            self.builder.add_note(mark, [self.inline(p).strip() for p in body.iter() if local_name(p) == "p"])

    def walk(self, element: Element, mark: str = "") -> None:
        """Append all paragraphs in an element; mark: of the list item that it is."""
        is_item = bool(mark)
        for part in element:
            name = local_name(part)
            if name in ("p", "h"):
                text = self.inline(part).replace("\xad", "").strip()
                level = attribute(part, "outline-level", "1") if name == "h" else "0"
                if text:
                    if level in ("1", "2"):
                        self.add_notes()
                    self.builder.add(mark + text, heading=level in ("1", "2", "3"), close=bool(mark) and self.close)
                    self.close, mark = bool(mark), ""
                boxes, self.boxes = self.boxes, []
                for box in boxes:
                    self.walk(box)
            elif name == "list":
                self.close = self.close and is_item  # a list in an item follows it at once
                ordered = attribute(part, "style-name") in self.ordered
                items = [item for item in part if local_name(item) in ("list-item", "list-header")]
                for number, item in enumerate(items, 1):
                    self.walk(item, f"{number}. " if ordered else "- ")
            elif name == "table-row":
                cells = [" ".join(self.inline(p).strip() for p in cell.iter() if local_name(p) == "p") for cell in part]
                if any(cells):
                    self.builder.add("\t".join(cells), close=self.close)
                    self.close = True
            elif name not in LEFT_OUT:
                self.close = False
                self.walk(part)


def odt_book(archive: Archive, *, footnotes: bool = True) -> Book:
    """The book in an .odt file. UserError if it is damaged."""
    try:
        root = archive.xml("content.xml")
    except BadMember as problem:
        raise UserError(f"{archive.name} is a damaged OpenDocument text: {problem}") from None
    document = Document(root, footnotes=footnotes)
    document.walk(root)
    document.add_notes()
    facts: dict[str, str] = {}
    try:
        for element in archive.xml("meta.xml").iter():
            facts.setdefault(local_name(element), text_of(element))
    except BadMember:
        pass
    author = facts.get("initial-creator") or facts.get("creator", "")
    return Book(facts.get("title", ""), author, document.builder.text(), document.builder.chapters)
