"""Clean a text: drop Project Gutenberg's frame and the marks of a scan, join wrapped lines into paragraphs.

Used by every data/NAME/prepare.py; there is no command of its own. The functions that change a text return it together
with notes: short phrases that say what was done, none when nothing was.
What this file does not do: tokens and shards (dataset.py), printing, guessing. In doubt a text stays as it is.
"""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from llm.text.formats import Cleaned

# Project Gutenberg's frame; what stands between asterisks may be wrapped
GUTENBERG_START = re.compile(r"^\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG[^*]{0,400}\*\*\*[^\n]*", re.I | re.M)
SMALL_PRINT_END = re.compile(r"^\*END\*? ?THE SMALL PRINT![^\n]*", re.I | re.M)  # before about 2004
GUTENBERG_END = re.compile(
    r"^(?:(?:End of (?:the |this )?Project Gutenberg[^\n]*(?:\n[^\n]+){0,2}\s+)?\*\*\* ?END OF TH(?:E|IS) "
    r"|End of (?:the |this )?)PROJECT GUTENBERG",
    re.I | re.M,
)
PAGE_NUMBER = re.compile(r"\s*[-–—\[(]?\s*([0-9]{1,4})\s*[-–—\])]?\s*")  # alone on its line: 12, - 12 -, [12], (12)
SENTENCE_END = re.compile(r"[.!?:…][\"'”’»)\]_]*\s*$")
# an item of a list never goes on from the line above; a line of a table of contents does not on either side
LIST_ITEM = re.compile(r"(?:[*•·+-]|\(?(?:\d{1,3}|[a-z])[.)])\s")
TABLE_LINE = re.compile(r"\.{5,}|(?:\. ){5,}|\S {3,}\S|\t")


def strip_gutenberg(text: str) -> Cleaned:
    """The book between Project Gutenberg's header and its licence, and notes; any other text unchanged."""
    notes = []
    if start := GUTENBERG_START.search(text) or SMALL_PRINT_END.search(text):
        text = text[start.end() :].lstrip("\n")
        notes.append("Project Gutenberg's header removed")
    if ends := list(GUTENBERG_END.finditer(text)):
        text = text[: ends[-1].start()].rstrip() + "\n"
        notes.append("Project Gutenberg's licence removed")
    return text, notes


def runs_on(before: str, after: str) -> bool:
    """Whether a sentence goes on from one line to the other, as it often does across a page break."""
    return not SENTENCE_END.search(before) and after.strip()[:1].islower()


def page_numbers(lines: list[str]) -> set[int]:
    """Places of the lines that are page numbers: alone, rising through the text, some of them in mid-sentence.

    They are the heaviest chain of numbers with steps of 1 to 10 (scanners lose some); a year or a chapter's number
    outside of it stays. Chapters rise as well, but not in mid-sentence, between dashes or next to a form feed.
    """
    chains: list[tuple[float, int, int, bool, int]] = []  # weight, line, number, whether it looks like one, previous
    for i, line in enumerate(lines):
        around = [*lines[max(0, i - 1) : i], *lines[i + 1 : i + 2]]
        if not (match := PAGE_NUMBER.fullmatch(line)) or any(a.strip() for a in around) and "\f" not in around:
            continue
        before = next((lines[j] for j in range(i - 1, -1, -1) if lines[j].strip()), "")
        after = next((lines[j] for j in range(i + 1, len(lines)) if lines[j].strip()), "")
        looks = "\f" in around or not line.strip().isdigit() or runs_on(before, after)
        number = int(match[1])
        near = [n for n in range(max(0, len(chains) - 50), len(chains)) if 0 < number - chains[n][2] <= 10]
        best = max(near, key=lambda n: chains[n][0], default=-1)
        chains.append((1 + looks / 2 + (chains[best][0] if near else 0), i, number, looks, best))
    found: dict[int, bool] = {}
    n = chains.index(max(chains)) if chains else -1
    while n >= 0:
        _, i, _, found[i], n = chains[n]
    return set(found) if len(found) >= 3 and sum(found.values()) * 5 >= len(found) else set()


def clean_scan(text: str) -> Cleaned:
    """A scanned text without form feeds, page numbers, trailing spaces and long gaps, and notes.

    A sentence that runs over a page break is closed up. A line with a letter in it is never removed.
    """
    text, trailing = re.subn(r"(?<![^\S\n\f])[^\S\n\f]+$", "", text, flags=re.M)  # the (?<!) keeps this linear
    lines = re.sub(r"\n?\f\n?", "\n\f\n", text).split("\n")
    numbers = page_numbers(lines)
    marked = "\n".join("\f" if i in numbers else line for i, line in enumerate(lines))
    marked, gaps = re.subn(r"\n{4,}", "\n\n\n", marked)

    def close_up(gap: re.Match) -> str:
        before, after = marked[max(0, gap.start() - 80) : gap.start()], marked[gap.end() : gap.end() + 80]
        return ("\n" if runs_on(before, after) else "\n\n") if before else ""

    feeds = lines.count("\f")
    done = {"form feeds": feeds, "page numbers": len(numbers), "trailing spaces": trailing, "long gaps": gaps}
    notes = [f"{what} removed: {n:,}" for what, n in done.items() if n]
    return re.sub(r"(?<!\s)\s*\f(?:\s*\n)?", close_up, marked), notes


def groups(lines: list[str]) -> Iterator[list[str]]:
    """The lines in groups inside which one may go on in the next: cut at blank lines, indents, list items, tables."""
    group: list[str] = []
    for line in lines:
        starts = not line.strip() or line[0].isspace() or LIST_ITEM.match(line) or TABLE_LINE.search(line.rstrip())
        if group and (starts or not group[-1].strip() or TABLE_LINE.search(group[-1].strip())):
            yield group
            group = []
        group.append(line)
    yield group


def reaches(group: list[str]) -> list[tuple[int, int]]:
    """For each line but the last: its length, and the length it would have with the next line's first word.

    None for verse: where three or more lines follow the first and all begin with a capital, which prose does not do.
    """
    firsts = [next((c for c in line if c.isalpha()), "") for line in group[1:]]
    if len(firsts) >= 3 and all(c.isupper() for c in firsts):
        return []
    return [(len(a.rstrip()), len(a.rstrip()) + 1 + len(b.split()[0])) for a, b in pairwise(group)]


def wrapping(lines: list[str]) -> tuple[float, float] | None:
    """(longest line, what a line and the next word must exceed for the line to be full); None if it is not wrapped."""
    pairs = [pair for group in groups(lines) for pair in reaches(group)]
    tight = Counter(w for length, reach in pairs for w in range(max(length, 40), min(reach, 121)))
    if not tight:
        return None
    width = limit = max(sorted(tight), key=tight.__getitem__)
    # a program wraps at one exact width, a printed page at a ragged one: nearly that of its longest line
    if tight[width] < 0.85 * sum(length > 0.8 * width for length, _ in pairs):
        width = sorted(length for length, _ in pairs)[int(0.98 * (len(pairs) - 1))]
        limit = 0.85 * width
        if not 40 <= width <= 120 or sum(reach > limit for _, reach in pairs) < 0.7 * len(pairs):
            return None
    full = [length for length, reach in pairs if length <= 1.1 * width and reach > limit]
    # where more of the text stands in long lines, it has one paragraph on each, and the rest is verse or lists
    unwrapped = sum(len(line) for line in lines if len(line) > 1.5 * width)
    return (1.1 * width, limit) if len(full) >= 3 and sum(full) >= unwrapped else None


def glue(line: str, following: str, words: set[str]) -> str:
    """Two lines as one: a space between, none at a dash, and no hyphen in a word that the text also has without."""
    line = line.rstrip()
    head, tail = re.search(r"(\w+)-$", line), re.match(r"\w+", following)
    if head and tail:
        return (line[:-1] if (head[1] + tail[0]).lower() in words else line) + following
    dash = re.search(r"\S(?:--+|—)$", line) or re.match(r"(?:--+|—)\S", following)
    return line + ("" if dash else " ") + following


def join_lines(lines: list[str], longest: float, limit: float, words: set[str]) -> list[str]:
    """The lines, the full ones joined with the next; so is one in mid-sentence where the lines around are full."""
    result: list[str] = []
    for group in groups(lines):
        pairs = reaches(group)
        full = [length <= longest and reach > limit for length, reach in pairs]
        wrapped = sum(full) * 2 >= len(full)
        result.append(group[0])
        for n, (line, following) in enumerate(pairwise(group)):
            goes_on = following[0].islower() or len(line) > 0.8 * limit and not SENTENCE_END.search(line)
            if pairs and (full[n] or wrapped and goes_on and len(line) <= longest):
                result[-1] = glue(result[-1], following, words)
            else:
                result.append(following)
    return result


def unwrap(text: str) -> Cleaned:
    """The text with one line per paragraph, and notes; verse, headings, lists and texts without wrapping unchanged.

    unwrap(unwrap(t)) == unwrap(t): it goes on until nothing is left to join, which for a book is after one round.
    """
    lines = text.split("\n")
    words = set(re.findall(r"\w+", text.lower()))
    while found := wrapping(lines):
        joined = join_lines(lines, *found, words)
        if len(joined) == len(lines):
            break
        lines = joined
    gone = text.count("\n") + 1 - len(lines)
    return "\n".join(lines), [f"wrapped lines joined: {gone:,}"] if gone else []
