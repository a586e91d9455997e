"""The paragraphs of HTML and XHTML.

A web page may be badly nested, and a book's page may be XHTML or HTML. What a style sheet does is not known here.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

from llm.text.numerals import numeral
from llm.text.tags import End, Start, markup_events

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"}
DROPPED = {
    *(
        "script",
        "style",
        "head",
        "title",
        "nav",
        "header",
        "footer",
        "form",
        "button",
        "select",
        "textarea",
        "template",
    ),
    *("svg", "math", "iframe", "object", "noscript", "rt", "rp", "audio", "video", "canvas", "map", "dialog"),
}
BLOCKS = {
    *("address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "dialog", "div", "dl"),
    *("dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr"),
    *("hgroup", "html", "li", "main", "nav", "ol", "p", "pre", "section", "summary", "table", "tbody", "tfoot"),
    *("thead", "tr", "ul"),
}
SECTIONS = {"article", "section", "main", "aside"}
HEADINGS = {f"h{level}" for level in range(1, 7)}
FURNITURE_TYPES = {
    "toc",
    "doc-toc",
    "landmarks",
    "page-list",
    "doc-pagelist",
    "navigation",
    "pagebreak",
    "doc-pagebreak",
}
NOTE_TYPES = {"footnote", "endnote", "rearnote", "doc-footnote", "doc-endnote"}
BACK_LINKS = {"backlink", "doc-backlink", "referrer"}
NOTE_MARKS = {"noteref", "doc-noteref"}
NOTE_MARK = re.compile(r"\s*(\w{1,4}|[*†‡§¶]{1,4})\s*")
FURNITURE_CLASSES = re.compile(r"(?:^|\s)(?:pagenum|pageno|page-?number|page-?break|noprint|sr-only)(?:\s|$)", re.I)
HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)
BLANK_LINE = re.compile(r"(?<![ \t\r\f])[ \t\r\f]*\n[ \t\r\f]*\n\s*")
SPACES = re.compile(r"[ \t\n\r\f]+")
SCENE_BREAK = "* * *"
MAX_DEPTH = 256  # of nested elements; with more, the outermost are taken for unclosed
# stand for a line end, a tab between cells and a space of preformatted text, which collapsing white space leaves alone
LINE_END, CELL_END, HARD_SPACE = "\x00", "\x01", "\x02"
MARKERS = dict.fromkeys((0, 1, 2))


@dataclass
class Paragraph:
    """A paragraph, heading (level 1 to 6), list item or row; anchors: the ids in it; note: the id of its footnote."""

    text: str
    level: int = 0
    close: bool = False  # follows the one before without an empty line: a list item, a row
    rule: bool = False  # <hr>
    preformatted: bool = False
    anchors: list[str] = field(default_factory=list)
    note: str | None = None
    references: list[tuple[str, str]] = field(default_factory=list)  # (target, mark) of the footnotes named in it


@dataclass
class Element:
    """An open element."""

    tag: str
    dropped: bool
    preformatted: bool
    counter: int | None = None  # of <ol>: the number of its next item; of <ul>: None
    numbering: str = "1"  # of <ol>: its type
    note: str | None = None
    note_mark: str | None = None  # the target, if it is the mark of a footnote
    linked: bool = False  # whether it is a link, or in one
    sectioned: bool = False  # whether it is a part of the page's prose, or in one


class Paragraphs:
    """The paragraphs of a page; results: paragraphs, title, author, headings' levels."""

    def __init__(self, markup: str, *, footnotes: bool, blank_lines: bool):
        """footnotes: whether they are kept; blank_lines: whether empty lines in the source separate paragraphs."""
        self.footnotes, self.blank_lines = footnotes, blank_lines
        self.paragraphs: list[Paragraph] = []
        self.open: list[Element] = []
        self.n_open: Counter[str] = Counter()  # tag -> how often it is open
        self.pieces: list[str] = []
        self.current = Paragraph("")
        self.item = ""  # the mark of a list item that has begun
        self.title, self.author, self.in_title = "", "", False
        self.n_blank_lines = self.n_soft_hyphens = self.n_linked = 0  # n_linked: characters of text in links
        self.last_list: Element | None = None  # of the paragraph before, if it is a list's item or a table's row
        for event in markup_events(markup):
            if isinstance(event, str):
                self.add_text(event)
            elif isinstance(event, End):
                self.end_element(event.tag.rpartition(":")[2])
            else:
                self.start_element(event)
        self.end_paragraph()
        self.title = " ".join(self.title.split())

    # -- elements

    def start_element(self, start: Start) -> None:
        tag, values = start.tag.rpartition(":")[2], start.attributes
        if tag == "meta" and values.get("name", "").lower() in ("author", "dc.creator"):
            self.author = self.author or values.get("content", "").strip()
        self.in_title = tag == "title" and not self.title
        if tag in BLOCKS or tag in ("td", "th"):
            self.close_implied(tag)
        if tag in BLOCKS:
            self.end_paragraph()
        if not self.dropping():
            self.start(tag, values)
        if tag not in VOID:
            self.open.append(self.element(tag, values))
            self.n_open[tag] += 1
            if len(self.open) > MAX_DEPTH:
                self.n_open[self.open.pop(0).tag] -= 1
            if start.closed:
                self.end_element(tag)

    def close_from(self, n: int) -> None:
        """Close the n-th open element and all in it."""
        self.n_open.subtract(element.tag for element in self.open[n:])
        del self.open[n:]

    def element(self, tag: str, values: dict[str, str]) -> Element:
        """The entry of an element that has just begun."""
        types = {*values.get("epub:type", "").lower().split(), *values.get("role", "").lower().split()}
        parent = self.open[-1] if self.open else Element("", False, False)
        dropped = (
            parent.dropped
            or tag in DROPPED
            or bool(types & FURNITURE_TYPES)
            or "hidden" in values
            or bool(HIDDEN.search(values.get("style", "")))
            or bool(FURNITURE_CLASSES.search(values.get("class", "")))
        )
        if tag in ("header", "footer") and parent.sectioned:
            dropped = parent.dropped  # the heading of a part, not of the page
        note, mark = parent.note, parent.note_mark
        if types & NOTE_TYPES and tag not in ("a", "sup"):
            note = values.get("id") or f"note-{len(self.paragraphs)}"
            dropped |= not self.footnotes
        if tag == "a" and (types & NOTE_MARKS or "footnote-ref" in values.get("class", "")):
            mark = values.get("href") or "#"
            dropped |= not self.footnotes
        dropped |= bool(types & BACK_LINKS) or "footnote-back" in values.get("class", "")
        start = values.get("start", "1")
        counter = int(start) if tag == "ol" and re.fullmatch(r"-?\d{1,6}", start) else 1 if tag == "ol" else None
        linked, sectioned = parent.linked or tag == "a", parent.sectioned or tag in SECTIONS
        preformatted = parent.preformatted or tag == "pre"
        numbering = values.get("type", "1")
        return Element(tag, dropped, preformatted, counter, numbering, note, mark, linked, sectioned)

    def start(self, tag: str, values: dict[str, str]) -> None:
        """What the start of an element adds to the text."""
        for name in ("id", "name") if tag == "a" else ("id",):
            if values.get(name):
                self.current.anchors.append(values[name])
        if tag == "br":
            self.pieces.append(LINE_END)
        elif tag == "hr" and (values.get("align"), values.get("width")) != ("left", "33%"):  # Word's, above footnotes
            self.paragraphs.append(Paragraph(SCENE_BREAK, rule=True))
        elif tag == "img" and len(values.get("alt", "").strip()) == 1:  # an initial that is a picture
            self.pieces.append(values["alt"].strip())
        elif tag == "q":
            self.pieces.append("“")
        elif tag in ("td", "th") and self.pieces:
            self.pieces.append(CELL_END)
        elif tag == "li":
            ordered = next((e for e in reversed(self.open) if e.tag in ("ol", "ul")), None)
            self.item = "- "
            if ordered is not None and ordered.tag == "ol":
                value = values.get("value", "")
                ordered.counter = int(value) if re.fullmatch(r"\d{1,6}", value) else ordered.counter
                self.item = f"{numeral(ordered.counter, values.get('type') or ordered.numbering)}. "
                ordered.counter += 1

    def close_implied(self, tag: str) -> None:
        """Close an open <p>, <li>, <td> or the like, which the start of this element ends without an end tag."""
        ends = {"li": ("li",), "dt": ("dt", "dd"), "dd": ("dt", "dd"), "tr": ("tr", "td", "th"), "td": ("td", "th")}
        closing = ends.get(tag, ("p",) if tag in BLOCKS else ())
        if not any(self.n_open[name] for name in closing):
            return
        scope = {"table", "ul", "ol", "dl", "div", "section", "aside", "blockquote", "body"}
        for n in range(len(self.open) - 1, -1, -1):
            if self.open[n].tag in closing:
                if tag not in ("td", "th"):
                    self.end_paragraph()
                self.close_from(n)
            elif self.open[n].tag in scope:
                return

    def end_element(self, tag: str) -> None:
        self.in_title = self.in_title and tag != "title"
        if not self.n_open[tag]:
            return
        if tag in BLOCKS:
            self.end_paragraph()
        elif tag == "q" and not self.dropping():
            self.pieces.append("”")
        self.close_from(next(n for n in range(len(self.open) - 1, -1, -1) if self.open[n].tag == tag))

    def dropping(self) -> bool:
        return bool(self.open) and self.open[-1].dropped

    # -- text

    def add_text(self, data: str) -> None:
        if self.in_title:
            self.title += data
        if self.dropping():
            return
        element = self.open[-1] if self.open else Element("", False, False)
        if element.note_mark and data.strip():
            bare = NOTE_MARK.fullmatch(data)
            self.current.references.append((element.note_mark, bare[1] if bare else data.strip()))
            before = next(filter(None, reversed(self.pieces)), "")
            data = f"[{bare[1]}]" if bare and not before.endswith(("[", "(")) else data
        self.n_linked += len(data) * element.linked
        self.n_soft_hyphens += data.count("\xad")  # where a reader's program may break a word
        data = data.translate(MARKERS).replace("\xad", "")
        if element.preformatted:
            data = data.expandtabs().replace("\r\n", "\n").replace("\n", LINE_END).replace(" ", HARD_SPACE)
        for n, piece in enumerate(BLANK_LINE.split(data)):
            if n:
                self.n_blank_lines += 1
                if self.blank_lines:
                    self.end_paragraph()
                else:
                    self.pieces.append(" ")
            self.pieces.append(piece)

    def end_paragraph(self) -> None:
        """Append the paragraph that ends here, if it has any text."""
        raw, self.pieces = "".join(self.pieces), []
        lines = [SPACES.sub(" ", line).strip(" ") for line in raw.split(LINE_END)]
        text = "\n".join(line.replace(HARD_SPACE, " ").rstrip(" ") for line in lines).strip("\n")
        text = re.sub(f" ?{CELL_END} ?", "\t", text)
        if not text.strip():
            return
        tags = [element.tag for element in self.open]
        heading = next((tag for tag in tags if tag in HEADINGS), None)
        group = next((e for e in self.open if e.tag in ("ol", "ul") or e.tag == "table" and "\t" in text), None)
        paragraph, self.current = self.current, Paragraph("")
        paragraph.text, self.item = self.item + text, ""
        paragraph.level = int(heading[1]) if heading else 0
        paragraph.close = group is not None and group is self.last_list
        paragraph.preformatted = "pre" in tags
        paragraph.note = self.open[-1].note if self.open else None
        self.last_list = group
        self.paragraphs.append(paragraph)
