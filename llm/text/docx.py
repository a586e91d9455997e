"""Word's .docx: paragraphs, headings by their style, lists with their numbers, tables, footnotes.

Deleted text, hidden text, field codes, the automatic table of contents, and the headers and footers of pages are left
out. Footnotes and endnotes stand at the end of the chapter that names them.
"""

import re
from collections import defaultdict
from xml.etree.ElementTree import Element

from llm.configurator import UserError
from llm.text.book import Book, TextBuilder
from llm.text.numerals import numeral
from llm.text.packed import Archive, BadMember, attribute, local_name, text_of

LEFT_OUT = {"del", "moveFrom", "instrText", "delText", "Fallback", "rPr", "pPr", "sectPr", "tblPr", "trPr", "tcPr"}
LEFT_OUT |= {"rt", "rubyPr"}  # what stands above the characters of <w:ruby>
STYLES = {"lowerLetter": "a", "upperLetter": "A", "lowerRoman": "i", "upperRoman": "I"}  # numFmt -> HTML's name


def child(element: Element | None, *path: str) -> Element | None:
    """The first descendant along a path of names; None if there is none."""
    for name in path:
        element = next((e for e in element if local_name(e) == name), None) if element is not None else None
    return element


def value(element: Element | None, *path: str) -> str | None:
    """The attribute w:val of a descendant."""
    found = child(element, *path)
    return attribute(found, "val", "true") if found is not None else None


class Styles:
    """Of each style: its heading level (0 = none), whether it is a title or of a table of contents, its numbering."""

    def __init__(self, root: Element | None):
        self.styles = {
            attribute(e, "styleId"): e for e in (root if root is not None else ()) if local_name(e) == "style"
        }

    def chain(self, style: str | None) -> list[Element]:
        """A style and those that it is based on."""
        found: list[Element] = []
        while style in self.styles and self.styles[style] not in found:
            found.append(self.styles[style])
            style = value(found[-1], "basedOn")
        return found

    def level(self, style: str | None) -> int:
        """1 to 9 for a heading, 0 for other text."""
        for element in self.chain(style):
            if match := re.fullmatch(r"heading ([1-9])", (value(element, "name") or "").lower()):
                return int(match[1])
            outline = value(element, "pPr", "outlineLvl")
            if outline is not None and outline.isdigit() and int(outline) < 9:
                return int(outline) + 1
        return 0

    def has_name(self, style: str | None, pattern: str) -> bool:
        names = [(value(element, "name") or "").lower() for element in self.chain(style)] or [(style or "").lower()]
        return bool(re.fullmatch(pattern, names[0]))

    def numbering(self, style: str | None) -> Element | None:
        return next((n for e in self.chain(style) if (n := child(e, "pPr", "numPr")) is not None), None)


class Numbering:
    """The marks of numbered and bulleted paragraphs, which Word computes."""

    def __init__(self, root: Element | None):
        children = list(root) if root is not None else []
        abstract = {attribute(e, "abstractNumId"): e for e in children if local_name(e) == "abstractNum"}
        self.levels: dict[tuple[str, str], Element] = {}
        self.abstract_of: dict[str, str] = {}
        for number in (e for e in children if local_name(e) == "num"):
            self.abstract_of[attribute(number, "numId")] = abstract_id = value(number, "abstractNumId") or ""
            for level in (e for e in abstract.get(abstract_id, ()) if local_name(e) == "lvl"):
                self.levels[attribute(number, "numId"), attribute(level, "ilvl")] = level
        self.counts: dict[str, dict[int, int]] = defaultdict(dict)

    def mark(self, properties: Element | None) -> str:
        """The mark of the next paragraph with these w:numPr, with a space; "" if it has none."""
        number, depth = value(properties, "numId") or "0", value(properties, "ilvl") or "0"
        level = self.levels.get((number, depth))
        if level is None or number == "0":
            return ""
        form, text = value(level, "numFmt") or "decimal", value(level, "lvlText") or ""
        if form == "bullet":
            return "- "
        counts, at = self.counts[number], int(depth)
        start = value(level, "start") or "1"
        counts[at] = counts[at] + 1 if at in counts else int(start) if start.isdigit() else 1
        for deeper in [d for d in counts if d > at]:
            del counts[deeper]

        def number_of(match: re.Match) -> str:
            n = counts.get(int(match[1]) - 1, 1)
            other = self.levels.get((number, str(int(match[1]) - 1)))
            return numeral(n, STYLES.get(value(other, "numFmt") or "", "1"))

        mark = re.sub(r"%([1-9])", number_of, text).strip() if form != "none" else ""
        return f"{mark} " if mark else ""


class Document:
    """Walks through a document and puts its text together."""

    def __init__(self, styles: Styles, numbering: Numbering, notes: dict[tuple[str, str], Element], *, footnotes: bool):
        self.styles, self.numbering, self.notes, self.footnotes = styles, numbering, notes, footnotes
        self.builder = TextBuilder()
        self.pending: list[tuple[str, Element]] = []  # (mark, note)
        self.n_notes, self.title = 0, ""
        self.list: str | None = None  # the number of the list that the paragraph before is an item of
        self.boxes: list[Element] = []  # text boxes in the paragraph, which follow it
        self.unfinished = ""  # the text of paragraphs whose ends are deleted: it goes on in the next one

    def inline(self, element: Element) -> str:
        """The text of a paragraph or a run."""
        pieces = []
        for part in element:
            name = local_name(part)
            hidden = name == "r" and value(part, "rPr", "vanish") not in (None, "0", "false")
            if name in LEFT_OUT or hidden:
                continue
            if name == "t":
                pieces.append(part.text or "")
            elif name in ("tab", "ptab"):
                pieces.append("\t")
            elif name in ("br", "cr"):
                pieces.append("\n" if attribute(part, "type", "textWrapping") == "textWrapping" else "")
            elif name == "noBreakHyphen":
                pieces.append("\u2011")
            elif name == "sym" and re.fullmatch("[0-9A-Fa-f]{4}", attribute(part, "char")):
                pieces.append(chr(int(attribute(part, "char"), 16)))
            elif name in ("footnoteReference", "endnoteReference"):
                pieces.append(self.note_mark(name.removesuffix("Reference"), attribute(part, "id")))
            elif name == "txbxContent":
                self.boxes.append(part)
            else:
                pieces.append(self.inline(part))
        return "".join(pieces)

    def note_mark(self, kind: str, number: str) -> str:
        note = self.notes.get((kind, number))
        if note is None or not self.footnotes:
            return ""
        self.n_notes += 1
        self.pending.append((f"[{self.n_notes}]", note))
        return f"[{self.n_notes}]"

    def add_notes(self) -> None:
        """Append the notes that the chapter before has named."""
        while self.pending:
            mark, note = self.pending.pop(0)
            self.builder.add_note(mark, [self.inline(p).strip() for p in note.iter() if local_name(p) == "p"])

    def end(self) -> None:
        """Append what is left after the last paragraph."""
        if text := self.unfinished.strip():
            self.builder.add(text)
        self.add_notes()

    def paragraph(self, element: Element) -> None:
        properties = child(element, "pPr")
        style = value(properties, "pStyle")
        if self.styles.has_name(style, r"toc (?:\d|heading)|toc\d|index \d|table of figures"):
            return
        if any(child(properties, "rPr", change) is not None for change in ("del", "moveFrom")):
            self.unfinished += self.inline(element)
            return
        level = self.styles.level(style)
        outline = value(properties, "outlineLvl")
        level = int(outline) + 1 if outline is not None and outline.isdigit() and int(outline) < 9 else level
        own = child(properties, "numPr")
        mark = self.numbering.mark(own if own is not None else self.styles.numbering(style))
        text = (self.unfinished + self.inline(element)).replace("\xad", "").strip()
        self.unfinished = ""
        if text:
            if 0 < level <= 2:
                self.add_notes()
            if self.styles.has_name(style, "title") and not self.title:
                self.title = " ".join(text.split())
            properties = own if own is not None else self.styles.numbering(style)
            group = value(properties, "numId") if mark and not level else None
            self.builder.add(mark + text, heading=0 < level <= 3, close=group is not None and group == self.list)
            self.list = group
        boxes, self.boxes = self.boxes, []
        for box in boxes:
            self.walk(box)

    def table(self, element: Element) -> None:
        """Append a table: cells of one line are separated by tabs, a cell with several paragraphs keeps them."""
        first = True
        for row in (e for e in element.iter() if local_name(e) == "tr"):
            cells = [[self.inline(p).strip() for p in cell.iter() if local_name(p) == "p"] for cell in row]
            if any(len(list(filter(None, lines))) > 1 for lines in cells):
                for line in (line for lines in cells for line in lines if line):
                    self.builder.add(line)
            elif any(any(lines) for lines in cells):
                columns = [
                    " ".join(filter(None, lines)) for lines, cell in zip(cells, row, strict=True) if is_cell(cell)
                ]
                self.builder.add("\t".join(columns), close=not first)
                first = False
        self.list = None

    def walk(self, element: Element) -> None:
        """Append all paragraphs and tables in an element."""
        for part in element:
            name = local_name(part)
            if name == "p":
                self.paragraph(part)
            elif name == "tbl":
                self.table(part)
            elif name == "sdt" and "Table of Contents" in (value(part, "sdtPr", "docPartObj", "docPartGallery") or ""):
                continue
            elif name not in LEFT_OUT:
                self.walk(part)


def is_cell(element: Element) -> bool:
    return local_name(element) == "tc"


def docx_book(archive: Archive, *, footnotes: bool = True) -> Book:
    """The book in a .docx file. UserError if it is damaged."""

    def part(name: str) -> Element | None:
        try:
            return archive.xml(name)
        except BadMember:
            return None

    try:
        body = archive.xml("word/document.xml")
    except BadMember as problem:
        raise UserError(f"{archive.name} is a damaged Word document: {problem}") from None
    notes = {}
    for kind in ("footnote", "endnote"):
        root = part(f"word/{kind}s.xml")
        for note in root if root is not None else ():
            if attribute(note, "type", "normal") == "normal":
                notes[kind, attribute(note, "id")] = note
    styles, numbering = Styles(part("word/styles.xml")), Numbering(part("word/numbering.xml"))
    document = Document(styles, numbering, notes, footnotes=footnotes)
    document.walk(body)
    document.end()
    core = part("docProps/core.xml")
    title = text_of(child(core, "title")) or document.title
    return Book(title, text_of(child(core, "creator")), document.builder.text(), document.builder.chapters)
