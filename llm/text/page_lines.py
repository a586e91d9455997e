"""Remove lines that a page has and a book has not: page numbers, and running heads ("THE THIRD ROPE   20").

They are told from lists, years and chapter numbers by what surrounds them: most of them interrupt a sentence, several
lines of text lie between them, and their numbers go on by 1 to 3 or their titles are the same. In doubt, they stay.
"""

import re
from dataclasses import dataclass

from llm.text.formats import Cleaned
from llm.text.scan import sentence_continues

NUMBER_ALONE = re.compile(r"[-–—\[(]? ?(?:(?:page|seite|p\.|s\.|стр\.) ?)?([0-9]{1,4}) ?[-–—\])]?", re.I)
NUMBER_BESIDE = re.compile(
    r"([0-9]{1,4})(?:\s{2,}|\s(?=[^a-zà-ÿа-я]+$))(\S.{0,70})|(\S.{0,70}?)(?:\s{2,}|\s)([0-9]{1,4})"
)
CAPITALS = re.compile(r"[^\Wa-zà-ÿа-я\d_][^a-zà-ÿа-я\d]{3,70}")  # a head without a number
MIN_LINES = 3  # of a kind in a text
MIN_TEXT = 5  # lines of text on a page
MIN_LENGTH = 25  # characters of the line before one that interrupts a sentence
MAX_STEP = 3  # pages: scanners miss some
MAX_SPAN = 20  # candidates before one that may be its predecessor


@dataclass(frozen=True)
class Candidate:
    """A line that may be a page's; number: -1 = none. text_line: how many lines of text stand before it."""

    line: int
    number: int
    title: str
    text_line: int
    interrupts: bool


def strip_page_lines(text: str) -> Cleaned:
    """The text without its pages' numbers and heads, and notes; form feeds beside them go as well."""
    lines = re.sub(r"\n?\f\n?", "\n\f\n", text).split("\n")
    candidates = find_candidates(lines)
    found = {c.line: c for c in [*numbered_pages(candidates), *repeated_heads(candidates)]}
    if not found:
        return text, []
    kept: list[str] = []
    n = 0
    while n < len(lines):
        if n not in found:
            kept.append(lines[n])
            n += 1
            continue
        interrupts = False
        gap = [bool(kept) and not kept[-1].strip()]
        while kept and not kept[-1].strip():
            kept.pop()
        while n < len(lines) and (n in found or not lines[n].strip()):
            interrupts |= n in found and found[n].interrupts
            gap.append(not lines[n].strip())
            n += 1
        if kept and any(gap) and not interrupts:
            kept.append("")
    shown = lines[min(found)].strip()
    note = f"lines of pages removed (numbers, running heads): {len(found):,}, the first is {shown!r}"
    return "\n".join(kept).replace("\n\f\n", "\n\f"), [note]


def find_candidates(lines: list[str]) -> list[Candidate]:
    """The lines that may be a page's, in order."""
    parsed = {n: found for n, line in enumerate(lines) if (found := parse(line.strip()))}
    n_text, before, result = 0, "", []
    pending: list[tuple[int, int, str, int]] = []
    for n, line in enumerate([*lines, ""]):
        if n in parsed:
            pending.append((n, *parsed[n], n_text))
        elif line.strip() or n == len(lines):
            for at, number, title, text_line in pending:
                interrupts = len(before.strip()) >= MIN_LENGTH and sentence_continues(before, line)
                result.append(Candidate(at, number, title, text_line, interrupts))
            pending, before, n_text = [], line, n_text + 1
    return result


def parse(line: str) -> tuple[int, str] | None:
    """(number, title) of a line that may be a page's; None for a line of text."""
    if not line or len(line) > 76:
        return None
    if match := NUMBER_ALONE.fullmatch(line):
        return int(match[1]), ""
    if match := NUMBER_BESIDE.fullmatch(line):
        title = (match[2] or match[3]).strip()
        if "  " in line or "\t" in line or title == title.upper() and any(c.isalpha() for c in title):
            return int(match[1] or match[4]), title
    if CAPITALS.fullmatch(line) and any(c.isalpha() for c in line):
        return -1, line
    return None


def numbered_pages(candidates: list[Candidate]) -> list[Candidate]:
    """Those whose numbers go on, if half of them interrupt a sentence, with the titles that interrupt one."""
    numbered = [c for c in candidates if c.number >= 0]
    best: list[tuple[float, int]] = []  # (weight, index of the predecessor or -1)
    for n, candidate in enumerate(numbered):
        weight, predecessor = 0.0, -1
        for m in range(max(0, n - MAX_SPAN), n):
            other = numbered[m]
            step, n_text = candidate.number - other.number, candidate.text_line - other.text_line
            is_long = n_text >= MIN_TEXT * step or n_text and n + 1 == len(numbered)  # the last page may be short
            if 0 < step <= MAX_STEP and is_long and best[m][0] > weight:
                weight, predecessor = best[m][0], m
        best.append((weight + 1 + candidate.interrupts / 2, predecessor))
    chain, n = [], max(range(len(best)), key=lambda n: best[n][0], default=-1)
    while n >= 0:
        chain.append(numbered[n])
        n = best[n][1]
    return accepted(chain)


def repeated_heads(candidates: list[Candidate]) -> list[Candidate]:
    """Heads without a number that stand again and again, if half of them interrupt a sentence."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        group = groups.setdefault(candidate.title, [])
        if candidate.number < 0 and (not group or candidate.text_line - group[-1].text_line >= MIN_TEXT):
            group.append(candidate)
    return [candidate for group in groups.values() for candidate in accepted(group)]


def accepted(group: list[Candidate]) -> list[Candidate]:
    """A group's lines, but those whose title never interrupts a sentence; [] if too few lines do."""
    interrupting = [c for c in group if c.interrupts]
    if len(group) < MIN_LINES or 2 * len(interrupting) < len(group) or len(interrupting) < 2:
        return []
    titles = {c.title for c in interrupting}
    return [c for c in group if c.title in titles]
