"""The lines of a PDF's pages, without running heads and page numbers.

A PDF has no paragraphs and no lines, only pieces of text at places on a page. pypdf puts pieces together into lines.
"""

import re
from collections import Counter
from dataclasses import dataclass
from statistics import median

LIGATURES = {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "ſt", "ﬆ": "st"}  # shapes, not letters
MIN_PAGES = 3  # on which a line must be repeated to be a running head
HEAD_LINES = 2  # at the top and at the bottom of a page
NUMBER = re.compile(r"(?<![\w.])([0-9]{1,4}|[ivxlc]{1,7})(?![\w.])")
LONE_NUMBER = re.compile(r"\W*(?:page|seite|p\.|s\.)?\W*([0-9]{1,4}|[ivxlc]{1,7})\W*(?:(?:of|von|/)\W*\d+)?\W*", re.I)
WORD_GAP, HUGE_GAP = 160, 1000  # thousandths of the size of the letters
SAME = 2.5  # points: heights that differ by less are the same


@dataclass
class Line:
    """One line: its text, where it begins (points from the left and from the bottom), and the size of its letters."""

    text: str
    x: float
    y: float
    size: float
    page: int = 0


def page_lines(page, number: int) -> list[Line]:
    """The lines of a page of pypdf, in the order in which they are drawn."""
    lines: list[Line] = []
    pieces: list[tuple[str, float, float, float]] = []

    def end_line() -> None:
        text = "".join(piece for piece, *_ in pieces)
        if text.strip():
            _, x, y, _ = next(piece for piece in pieces if piece[0].strip())
            sizes = Counter()
            for piece, _, _, size in pieces:
                sizes[size] += len(piece.strip())
            lines.append(Line(text, x, y, sizes.most_common(1)[0][0], number))
        pieces.clear()

    def visit(text: str, cm: list[float], tm: list[float], font, size: float) -> None:
        x, y = tm[4] * cm[0] + tm[5] * cm[2] + cm[4], tm[4] * cm[1] + tm[5] * cm[3] + cm[5]
        height = round(abs(size * (tm[3] or tm[1]) * (cm[3] or cm[1])), 1)
        for n, part in enumerate(text.split("\n")):
            if n:
                end_line()
            if part:
                pieces.append((part, x, y, height))

    page.extract_text(visitor_text=visit, visitor_operand_before=mark_word_gaps)
    end_line()
    return lines


def mark_word_gaps(operator: bytes, operands: list, cm: list[float], tm: list[float]) -> None:
    """Make pypdf see the gaps between words: it overlooks those of fonts without a space, such as XeTeX's.

    pypdf takes a move (in thousandths of the size of the letters) for a gap if it is larger than half the width of the
    font's space, for which it takes 500 or 1,000 there. A gap becomes two moves, the first of which is large enough.
    """
    if operator == b"TJ" and operands and isinstance(operands[0], list):
        moves = []
        for item in operands[0]:
            is_gap = isinstance(item, int | float) and -item >= WORD_GAP
            moves += [type(item)(-HUGE_GAP), type(item)(HUGE_GAP + item)] if is_gap else [item]
        operands[0][:] = moves


def value(number: str) -> int:
    """An Arabic or small Roman number; Roman ones are negative, as they count the pages before the first."""
    if number.isdigit():
        return int(number)
    digits = [dict(i=1, v=5, x=10, l=50, c=100)[c] for c in number]
    return -1000 + sum(-d if d < after else d for d, after in zip(digits, [*digits[1:], 0], strict=True))


def edges(pages: list[list[Line]]) -> list[tuple[int, int, Line]]:
    """(page, edge, line) of the outermost lines of each page; edge: 1 at the top, -1 at the bottom."""
    found = []
    for n, lines in enumerate(pages):
        ordered = sorted(lines, key=lambda line: -line.y)
        heights = sorted({round(line.y) for line in ordered}, reverse=True)
        top, bottom = heights[:HEAD_LINES], heights[-HEAD_LINES:]
        for line in ordered:
            if round(line.y) in top:
                found.append((n, 1, line))
            elif round(line.y) in bottom:
                found.append((n, -1, line))
    return found


def page_offsets(outer: list[tuple[int, int, Line]], n_pages: int) -> set[int]:
    """Printed page number minus page index, for the sequences of numbers at the edges of the pages."""
    pages_of: dict[int, set[int]] = {}
    for n, _, line in outer:
        for number in NUMBER.findall(line.text.lower()):
            pages_of.setdefault(value(number) - n, set()).add(n)
    return {offset for offset, found in pages_of.items() if len(found) >= max(MIN_PAGES, 0.1 * n_pages)}


def without_heads(pages: list[list[Line]]) -> tuple[list[list[Line]], int, int]:
    """(pages, running heads removed, page numbers removed).

    A running head is a line at the edge of a page that, without its page number, stands at the same height on at least
    MIN_PAGES pages, or on two with the right number. At that height, any line with a page number is a head.
    """
    outer = edges(pages)
    offsets = page_offsets(outer, len(pages))
    numbers = {id(line) for n, _, line in outer if is_page_number(line.text, n, offsets)}

    def key(n: int, line: Line) -> str:
        def drop(match: re.Match) -> str:
            return "" if value(match[1]) - n in offsets else match[0]

        return " ".join(NUMBER.sub(drop, line.text.lower()).split())

    heights: dict[tuple[str, int], list[float]] = {}
    for n, edge, line in outer:
        heights.setdefault((key(n, line), edge), []).append(line.y)
    repeated = {
        k: median(ys) for k, ys in heights.items() if sum(abs(y - median(ys)) < SAME for y in ys) >= MIN_PAGES and k[0]
    }
    heads = {id(line) for n, e, line in outer if abs(repeated.get((key(n, line), e), -9e9) - line.y) < SAME}
    levels = {(round(line.y), e) for _, e, line in outer if id(line) in heads}
    for n, edge, line in outer:
        numbered = any(value(number) - n in offsets for number in NUMBER.findall(line.text.lower()))
        at_level = any((round(line.y) + d, edge) in levels for d in (-1, 0, 1))
        if numbered and len(heights[key(n, line), edge]) >= 2 or at_level and numbered:
            heads.add(id(line))
    heads -= numbers
    kept = [[line for line in lines if id(line) not in heads | numbers] for lines in pages]
    return kept, len(heads), len(numbers)


def is_page_number(text: str, page: int, offsets: set[int]) -> bool:
    """Whether a line holds nothing but the number of its page."""
    match = LONE_NUMBER.fullmatch(text.strip())
    return bool(match) and value(match[1].lower()) - page in offsets
