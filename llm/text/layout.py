"""Lines of a text that may belong to one paragraph, told from lists, tables, quotations and data."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llm.text.scripts import mostly_spaceless

# lines that are never joined to any other: tables, tables of contents, quoted mail, Markdown's headings and rules
ALONE = re.compile(r"\.{5,}|(?:\. ){5,}|\S {3,}\S|\S\t|^\s*(?:>|\||#{1,6} |```|~~~|[-=_*~]{3,}$)|-->")
FENCE = re.compile(r"\s*(?:```|~~~)")
ITEM = re.compile(r"(?:([*•·+‣◦▪–—-])|\(?(\d{1,3}|[a-z])[.)])\s+(?=(\S))")
SENTENCE_END = re.compile(r"[.!?:…。！？：؟۔।॥][\"'”’»«“)\]）」』】_*]*$")
SPACE_RUN = re.compile(r"(?<=\S)[ \u00a0]{2,}(?=\S)")
DELIMITER = re.compile(r"[,;|\t](?=\S)")
MIN_JUSTIFIED = 4  # lines of equal width with runs of spaces

Fills = Callable[[str, str], bool]  # whether a line is full, so that the following one may continue it


@dataclass(frozen=True)
class LineGroup:
    """Lines that may belong to one paragraph; start: index of the first in the text."""

    start: int
    lines: list[str]


def line_groups(lines: list[str], fills: Fills | None = None) -> Iterator[LineGroup]:
    """Groups of lines, in order, that hold every line; an empty line is a group of its own.

    fills: see Fills. Without it, every line that looks like a list item begins a group; with it, "12. Mai" and "- he
    said" continue a sentence.
    """
    block_start, fenced = 0, False
    for number, line in enumerate([*lines, ""]):
        if line.strip() and not FENCE.match(line):
            continue
        block = lines[block_start:number]
        if fenced:
            yield from (LineGroup(block_start + n, [inside]) for n, inside in enumerate(block))
        elif block:
            yield from block_groups(block_start, block, fills)
        if number < len(lines):
            yield LineGroup(number, [line])
            fenced ^= bool(FENCE.match(line))
        block_start = number + 1


def block_groups(start: int, block: list[str], fills: Fills | None) -> Iterator[LineGroup]:
    """The groups of lines without an empty line between them."""
    if is_data(block):
        yield from (LineGroup(start + n, [line]) for n, line in enumerate(block))
        return
    items = [ITEM.match(line) for line in block]
    numerals = {numeral_of(item[2]) for item in items if item and item[2]}
    listed = listed_bullets(block, items, fills) if fills else set()
    group = [block[0]]
    for n, line in enumerate(block[1:], 1):
        begins = line[0].isspace() or ALONE.search(line.rstrip()) or ALONE.search(group[-1].strip())
        prose = (
            fills and items[n] and continues_sentence(block[n - 1].rstrip(), line, items[n], fills, numerals, listed)
        )
        if begins or items[n] and not prose:
            yield LineGroup(start + n - len(group), group)
            group = []
        group.append(line)
    yield LineGroup(start + len(block) - len(group), group)


def continues_sentence(
    before: str, line: str, item: re.Match, fills: Fills, numerals: set[int], listed: set[str]
) -> bool:
    """Whether a line that looks like a list item is the rest of a sentence: "12. Mai", "c. 1840", "- he said".

    numerals: of all items of its block; listed: bullets that begin list items there.
    """
    bullet, number, first = item.groups()
    if SENTENCE_END.search(before) or before.endswith(";") or not fills(before, line):
        return False
    if number:
        return not numerals & {numeral_of(number) - 1, numeral_of(number) + 1}
    return bullet in "-–—" and bullet not in listed and not first.isupper()


def listed_bullets(block: list[str], items: list[re.Match | None], fills: Fills) -> set[str]:
    """Bullets of which one at least follows a line that neither is full nor ends a sentence, as only in a list."""
    found = set()
    for n, item in enumerate(items[1:], 1):
        if item and item[1] and item[1] not in found:
            before = block[n - 1].rstrip()
            if not SENTENCE_END.search(before) and not fills(before, block[n]):
                found.add(item[1])
    return found


def numeral_of(number: str) -> int:
    """The place of a list item: 12 for "12", 2 for "b"."""
    return int(number) if number.isdigit() else ord(number) - ord("a") + 1


def is_data(block: list[str]) -> bool:
    """Whether lines are records, of a table, a log or an encoded file, and no sentences."""
    if len(block) >= 2 and all(len(line) > 30 and " " not in line.strip() for line in block[:-1]):
        return not mostly_spaceless(block[0])
    if len(block) < 3:
        return False
    tokens = {re.sub(r"\d+", "9", line.split(maxsplit=1)[0]) for line in block}
    delimiters = {len(DELIMITER.findall(line.strip())) for line in block}
    return len(tokens) == 1 and "9" in next(iter(tokens)) or len(delimiters) == 1 and min(delimiters) >= 2


def indent_of(line: str) -> str:
    """The white space that a line begins with."""
    return line[: len(line) - len(line.lstrip())]


def common_indent(lines: list[str]) -> str:
    """The white space that (almost) all lines of a text begin with; "" if there is none."""
    indents = Counter(indent_of(line) for line in lines if line.strip())
    n_lines = sum(indents.values())
    shared = [
        indent
        for indent in indents
        if sum(n for other, n in indents.items() if other.startswith(indent)) >= 0.97 * n_lines
    ]
    return max(shared, key=len, default="")


def justified_width(lines: list[str]) -> int:
    """The width to which the lines of a text are stretched by runs of spaces; 0 if they are not."""
    stretched = Counter(len(line.rstrip()) for line in lines if SPACE_RUN.search(line.strip()))
    if not stretched:
        return 0
    width, n = stretched.most_common(1)[0]
    return width if n >= MIN_JUSTIFIED and n >= 0.6 * stretched.total() and width >= 30 else 0


def squeeze(lines: list[str], width: int) -> list[str]:
    """The lines without the runs of spaces in those of this width."""
    return [
        indent_of(line) + SPACE_RUN.sub(" ", line.strip()) if len(line.rstrip()) == width else line for line in lines
    ]
