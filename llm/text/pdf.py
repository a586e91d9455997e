"""PDF with text, by pypdf (extra books): lines joined into paragraphs by where they stand on the page.

A paragraph begins at an indent, a gap, another size of letters, or after a line that ends early. Running heads, page
numbers, ligatures and the hyphens of divided words are removed; notes at the bottom of a page follow the paragraph that
the page's end interrupts. A scan without text is refused: it needs character recognition first.
"""

import io
import logging
import re
from collections import Counter

from llm.configurator import UserError, require
from llm.text.book import Book, Chapter, TextBuilder
from llm.text.joining import LineJoiner
from llm.text.pdf_lines import LIGATURES, Line, page_lines, without_heads
from llm.text.scripts import printed_width

MIN_CHARACTERS = 25  # a page on average, below which it is a scan
HEADING_SIZE, NOTE_SIZE = 1.12, 0.9  # times the size of the text's letters
MAX_HEADING = 200  # characters
MIN_COLUMN = 10  # width of a column, times the size of the text's letters
GAP = 1.25  # times the usual distance of lines
DIVIDED = re.compile(r"\w[-\u00ad\u2010¬]$")
SENTENCE_END = re.compile(r"[.!?…][\"'”’»)]*$")
USELESS_TITLE = re.compile(r"(?:untitled|microsoft word|document\d*$|.*\.(?:docx?|tex|indd|dvi|odt|pdf|qxd)$)", re.I)


def pdf_book(data: bytes, *, name: str, footnotes: bool = True) -> Book:
    """The book in a PDF. UserError if it is encrypted, damaged or a scan without text."""
    pypdf = require("pypdf", "books")
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it reports every small fault of a file
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise encrypted(name)
        n_pages = len(reader.pages)
        facts = reader.metadata or {}
        title, author = (" ".join(str(facts.get(key) or "").split()) for key in ("/Title", "/Author"))
    except UserError:
        raise
    except pypdf.errors.DependencyError:
        raise encrypted(name) from None
    except Exception:  # pypdf raises all kinds for a damaged file
        raise UserError(f"{name} is a damaged PDF: expected one that a viewer opens") from None
    pages, notes = [], []
    for number in range(n_pages):
        try:
            pages.append(page_lines(reader.pages[number], number))
        except Exception:
            pages.append([])
            notes.append(f"WARNING: page {number + 1:,} cannot be read and is left out")
    refuse_scan(pages, name)
    if empty := [str(n + 1) for n, lines in enumerate(pages) if not lines]:
        notes.append(f"pages without text: {', '.join(empty[:5])}{', ...' if len(empty) > 5 else ''}")
    pages, n_heads, n_numbers = without_heads(pages)
    done = {"running heads": n_heads, "page numbers": n_numbers, "ligatures": replace_ligatures(pages)}
    text, headings, n_hyphens = Layout(pages).book(footnotes=footnotes)
    done["line-end hyphens"] = n_hyphens
    notes += [f"{what} {'replaced' if what == 'ligatures' else 'removed'}: {n:,}" for what, n in done.items() if n]
    chapters = outline_chapters(reader, text) or headings
    return Book("" if USELESS_TITLE.match(title) else title, author, text, chapters, notes)


def encrypted(name: str) -> UserError:
    return UserError(
        f"{name} is encrypted; type: qpdf --decrypt --password=PASSWORD {name} readable.pdf, and prepare that"
    )


def refuse_scan(pages: list[list[Line]], name: str) -> None:
    """UserError if the pages hold next to no text."""
    n_characters = sum(len(line.text.strip()) for lines in pages for line in lines)
    if n_characters < MIN_CHARACTERS * len(pages):
        raise UserError(
            f"{name} is a scan: its {len(pages):,} pages are pictures without text; type: "
            f"ocrmypdf {name} with_text.pdf, and prepare that"
        )


def replace_ligatures(pages: list[list[Line]]) -> int:
    """Replace ligatures by their letters in place; returns how many there were."""
    n = 0
    for line in (line for lines in pages for line in lines):
        n += sum(map(line.text.count, LIGATURES))
        line.text = line.text.translate(str.maketrans(LIGATURES))
    return n


class Layout:
    """The usual measures of a book's pages, by which its lines become paragraphs."""

    def __init__(self, pages: list[list[Line]]):
        self.pages = pages
        lines = [line for page in pages for line in page]
        sizes: Counter[float] = Counter()
        for line in lines:
            sizes[line.size] += len(line.text)
        self.size = sizes.most_common(1)[0][0]
        body = [line for line in lines if line.size == self.size]
        self.columns = [self.column_starts([line for line in body if line.page % 2 == side]) for side in (0, 1)]
        steps = Counter(round(a.y - b.y, 1) for a, b in self.pairs() if 0 < a.y - b.y < 4 * self.size)
        # the smallest of the common distances: larger ones are gaps between paragraphs
        common = [step for step, n in steps.items() if n >= 0.2 * steps.most_common(1)[0][1]]
        self.step = min(common, default=1.2 * self.size)
        widths = sorted(printed_width(line.text.strip()) + self.indent(line) / 5 for line in body)
        self.width = widths[int(0.95 * (len(widths) - 1))]
        firsts = Counter(
            round(self.indent(a))
            for a, b in self.pairs()
            if self.indent(a) > 0.6 * self.size and abs(self.indent(b)) < 2
        )
        self.first_indent = firsts.most_common(1)[0][0] if firsts else 0  # of the first line of a paragraph; 0 = none
        spaces = [line.text.endswith(" ") for line in body]
        self.marks_line_ends = 0.2 < sum(spaces) / len(spaces) < 0.97  # a space at line ends inside paragraphs alone
        self.joiner = LineJoiner("\n".join(line.text for line in lines), typeset=True)

    def column_starts(self, lines: list[Line]) -> list[float]:
        """The left edges of the columns of text: the leftmost of the common ones, and those with lines beside it."""
        counts = Counter(round(line.x) for line in lines)
        common = sorted(x for x, n in counts.items() if n >= 0.2 * counts.most_common(1)[0][1])
        starts = common[:1] or [0.0]
        heights = {(line.page, round(line.y)) for line in lines if line.x < starts[0] + MIN_COLUMN * self.size}
        for x in common:
            found = [line for line in lines if round(line.x) == x]
            beside = sum(any((line.page, round(line.y) + d) in heights for d in (-1, 0, 1)) for line in found)
            if x - starts[-1] > MIN_COLUMN * self.size and 2 * beside > len(found):
                starts.append(x)
        return starts

    def pairs(self):
        """Neighbouring lines of the text's size."""
        for lines in self.pages:
            for a, b in zip(lines, lines[1:], strict=False):
                if a.size == b.size == self.size:
                    yield a, b

    def indent(self, line: Line) -> float:
        """How far a line begins from the left edge of its column."""
        starts = self.columns[line.page % 2]
        return line.x - max((start for start in starts if start < line.x + 2), default=starts[0])

    def ends_early(self, line: Line, following: Line) -> bool:
        """Whether the first word of the following line would have had room at the end of this one."""
        if (
            self.marks_line_ends
            and line.text.endswith(" ")
            or DIVIDED.search(line.text)
            and following.text[0].islower()
        ):
            return False
        if self.marks_line_ends and line.page != following.page and SENTENCE_END.search(line.text):
            return True
        word = following.text.split()[0]
        used = printed_width(line.text.strip()) + max(0.0, self.indent(line)) / 5
        return used + 1 + printed_width(word) < 0.9 * self.width

    def begins_paragraph(self, line: Line, following: Line) -> bool:
        """Whether a paragraph begins with the following line."""
        if abs(line.size - following.size) > 0.3:
            return True
        deeper = following.x - line.x if line.page == following.page else self.indent(following) - self.indent(line)
        if line.page == following.page:
            gap = line.y - following.y
            if gap > GAP * self.step * max(1.0, line.size / self.size) or gap < -self.step:
                if gap > 0 or self.ends_early(line, following):
                    return True
                indented = self.indent(following) > 0.6 * self.size  # the first line of the next column
                return indented and bool(SENTENCE_END.search(line.text.strip()))
            if abs(gap) < 1:
                return False
        elif self.ends_early(line, following):
            return True
        if self.first_indent and abs(deeper) < 1 and abs(self.indent(following) - self.first_indent) < 1:
            return bool(SENTENCE_END.search(line.text.strip())) and self.ends_early(line, following)  # dialogue
        return 0.6 * self.size < deeper < 6 * self.size and self.indent(following) > 0.6 * self.size

    def book(self, *, footnotes: bool) -> tuple[str, list[Chapter], int]:
        """(text, chapters by size of letters, hyphens removed)."""
        builder, group, pending = TextBuilder(), [], []
        hyphens = 0

        def end_paragraph() -> None:
            nonlocal hyphens
            if group:
                text, n = self.paragraph(group)
                hyphens += n
                heading = group[0].size > HEADING_SIZE * self.size and len(text) < MAX_HEADING
                builder.add(text, heading=heading)
            group.clear()
            notes = pending[:]
            pending.clear()
            for line in notes:
                if group and self.begins_paragraph(group[-1], line) and re.match(r"\W?\d|[*†]", line.text):
                    end_paragraph()
                group.append(line)
            if notes:
                end_paragraph()

        for lines in self.pages:
            n = len(lines)
            while n > 1 and lines[n - 1].size < NOTE_SIZE * self.size and lines[n - 1].y < lines[0].y:
                n -= 1
            n = n if n > 1 else len(lines)  # a page all in small letters
            for line in lines[:n]:
                if group and self.begins_paragraph(group[-1], line):
                    end_paragraph()
                group.append(line)
            pending += lines[n:] if footnotes else []
        end_paragraph()
        return builder.text(), builder.chapters, hyphens

    def paragraph(self, lines: list[Line]) -> tuple[str, int]:
        """(text, hyphens removed) of the lines of a paragraph: those that end early, as in verse, keep their ends."""
        groups = [[lines[0]]]
        for line, following in zip(lines, lines[1:], strict=False):
            one_line = line.page == following.page and abs(line.y - following.y) < 1
            if not one_line and self.ends_early(line, following):
                groups.append([])
            groups[-1].append(following)
        joined, n = [], 0
        for group in groups:
            texts = [" ".join(line.text.split()) for line in group]
            joined.append(self.joiner.join(texts))
            n += sum(text.endswith(("-", "\u00ad", "\u2010", "¬")) for text in texts[:-1])
            n -= joined[-1].count("-") - sum(text[:-1].count("-") for text in texts[:-1]) - texts[-1].count("-")
        return "\n".join(joined), max(n, 0)


def outline_chapters(reader, text: str) -> list[Chapter]:
    """The chapters that a PDF's bookmarks name, where the text has their titles; empty if fewer than two."""
    titles: list[str] = []

    def collect(entries: list) -> None:
        for entry in entries:
            if isinstance(entry, list):
                collect(entry)
            else:
                titles.append(" ".join(str(entry.title).split()))

    try:
        collect(reader.outline)
    except Exception:  # damaged bookmarks do not lose the book
        return []
    chapters, position = [], 0
    for title in filter(None, titles):
        words = r"\s+".join(map(re.escape, title.split()))
        if found := re.compile(rf"^\W*{words}[^\n]{{0,40}}$", re.M).search(text, position):
            chapters.append(Chapter(title, found.start()))
            position = found.end()
    return chapters if len(chapters) > 1 else []
