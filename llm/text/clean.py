"""Clean a text: remove Project Gutenberg's frame and the traces of a scan, join wrapped lines into paragraphs.

A first-time reader may skip this file: it is used by data/NAME/prepare.py alone and has nothing to do with the network.
Functions that change a text return it with notes: short phrases that name what was changed, none if nothing was.
In doubt, the text is left unchanged.
"""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from llm.text.formats import Cleaned

# Project Gutenberg's frame; the text between asterisks may be wrapped
GUTENBERG_START = re.compile(r"^\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG[^*]{0,400}\*\*\*[^\n]*", re.I | re.M)
SMALL_PRINT_END = re.compile(r"^\*END\*? ?THE SMALL PRINT![^\n]*", re.I | re.M)  # before about 2004
GUTENBERG_END = re.compile(
    r"^(?:(?:End of (?:the |this )?Project Gutenberg[^\n]*(?:\n[^\n]+){0,2}\s+)?\*\*\* ?END OF TH(?:E|IS) "
    r"|End of (?:the |this )?)PROJECT GUTENBERG",
    re.I | re.M,
)
PAGE_NUMBER = re.compile(r"\s*[-–—\[(]?\s*([0-9]{1,4})\s*[-–—\])]?\s*")  # alone on its line: 12, - 12 -, [12], (12)
SENTENCE_END = re.compile(r"[.!?:…][\"'”’»)\]_]*\s*$")
# never joined to the line above: list items; never joined to any line: lines of a table of contents
LIST_ITEM = re.compile(r"(?:[*•·+-]|\(?(?:\d{1,3}|[a-z])[.)])\s")
TABLE_LINE = re.compile(r"\.{5,}|(?:\. ){5,}|\S {3,}\S|\t")


def strip_gutenberg(text: str) -> Cleaned:
    """The text between Project Gutenberg's header and licence, and notes; any other text is unchanged."""
    notes = []
    if start := GUTENBERG_START.search(text) or SMALL_PRINT_END.search(text):
        text = text[start.end() :].lstrip("\n")
        notes.append("Project Gutenberg's header removed")
    if ends := list(GUTENBERG_END.finditer(text)):
        text = text[: ends[-1].start()].rstrip() + "\n"
        notes.append("Project Gutenberg's licence removed")
    return text, notes


def sentence_continues(before: str, after: str) -> bool:
    """Whether a sentence continues from one line to the next, as across a page break."""
    return not SENTENCE_END.search(before) and after.strip()[:1].islower()


def page_numbers(lines: list[str]) -> set[int]:
    """Indices of the lines that hold nothing but a page number.

    They are the chain of numbers with the largest weight whose steps are 1 to 10, as scanners miss some, and of which
    at least a fifth look like page numbers: in mid-sentence, between dashes or next to a form feed. Years and chapter
    numbers outside the chain are kept; those of chapters increase as well, but do not look like page numbers.
    """
    # (weight, line, number, whether it looks like a page number, index of the previous chain or -1)
    chains: list[tuple[float, int, int, bool, int]] = []
    for i, line in enumerate(lines):
        around = [*lines[max(0, i - 1) : i], *lines[i + 1 : i + 2]]
        if not (match := PAGE_NUMBER.fullmatch(line)) or any(a.strip() for a in around) and "\f" not in around:
            continue
        before = next((lines[j] for j in range(i - 1, -1, -1) if lines[j].strip()), "")
        after = next((lines[j] for j in range(i + 1, len(lines)) if lines[j].strip()), "")
        looks_like_page = "\f" in around or not line.strip().isdigit() or sentence_continues(before, after)
        number = int(match[1])
        near = [n for n in range(max(0, len(chains) - 50), len(chains)) if 0 < number - chains[n][2] <= 10]
        best = max(near, key=lambda n: chains[n][0], default=-1)
        chains.append((1 + looks_like_page / 2 + (chains[best][0] if near else 0), i, number, looks_like_page, best))
    found: dict[int, bool] = {}
    n = chains.index(max(chains)) if chains else -1
    while n >= 0:
        _, i, _, found[i], n = chains[n]
    return set(found) if len(found) >= 3 and sum(found.values()) * 5 >= len(found) else set()


def clean_scan(text: str) -> Cleaned:
    """A scanned text without form feeds, page numbers, trailing spaces and long gaps, and notes.

    A sentence that a page break interrupts is joined. A line that contains a letter is never removed.
    """
    # (?<!...) makes the time linear in the text's length
    text, trailing = re.subn(r"(?<![^\S\n\f])[^\S\n\f]+$", "", text, flags=re.M)
    lines = re.sub(r"\n?\f\n?", "\n\f\n", text).split("\n")
    numbers = page_numbers(lines)
    marked = "\n".join("\f" if i in numbers else line for i, line in enumerate(lines))
    marked, gaps = re.subn(r"\n{4,}", "\n\n\n", marked)

    def close_up(gap: re.Match) -> str:
        before, after = marked[max(0, gap.start() - 80) : gap.start()], marked[gap.end() : gap.end() + 80]
        return ("\n" if sentence_continues(before, after) else "\n\n") if before else ""

    feeds = lines.count("\f")
    done = {"form feeds": feeds, "page numbers": len(numbers), "trailing spaces": trailing, "long gaps": gaps}
    notes = [f"{what} removed: {n:,}" for what, n in done.items() if n]
    return re.sub(r"(?<!\s)\s*\f(?:\s*\n)?", close_up, marked), notes


def groups(lines: list[str]) -> Iterator[list[str]]:
    """Groups of lines that may belong to one paragraph; blank lines, indents, list items and tables separate them."""
    group: list[str] = []
    for line in lines:
        starts = not line.strip() or line[0].isspace() or LIST_ITEM.match(line) or TABLE_LINE.search(line.rstrip())
        if group and (starts or not group[-1].strip() or TABLE_LINE.search(group[-1].strip())):
            yield group
            group = []
        group.append(line)
    yield group


def line_lengths(group: list[str]) -> list[tuple[int, int]]:
    """(length, length with the next line's first word) of each line but the last; an empty list for verse.

    A group is verse if at least three lines follow the first and all begin with a capital letter.
    """
    first_letters = [next((c for c in line if c.isalpha()), "") for line in group[1:]]
    if len(first_letters) >= 3 and all(c.isupper() for c in first_letters):
        return []
    return [(len(a.rstrip()), len(a.rstrip()) + 1 + len(b.split()[0])) for a, b in pairwise(group)]


def wrap_limits(lines: list[str]) -> tuple[float, float] | None:
    """(longest, limit) of a wrapped text, None if it is not wrapped.

    longest: characters of the longest wrapped line. A line is full if len(line) + 1 + len(next word) > limit.
    """
    pairs = [pair for group in groups(lines) for pair in line_lengths(group)]
    tight = Counter(w for length, reach in pairs for w in range(max(length, 40), min(reach, 121)))
    if not tight:
        return None
    width = limit = max(sorted(tight), key=tight.__getitem__)
    # a program wraps at one exact width; the lines of a printed page differ, but nearly reach its longest line
    if tight[width] < 0.85 * sum(length > 0.8 * width for length, _ in pairs):
        width = sorted(length for length, _ in pairs)[int(0.98 * (len(pairs) - 1))]
        limit = 0.85 * width
        if not 40 <= width <= 120 or sum(reach > limit for _, reach in pairs) < 0.7 * len(pairs):
            return None
    full = [length for length, reach in pairs if length <= 1.1 * width and reach > limit]
    # if most of the text is in long lines, those are whole paragraphs, and the short ones are verse or lists
    unwrapped = sum(len(line) for line in lines if len(line) > 1.5 * width)
    return (1.1 * width, limit) if len(full) >= 3 and sum(full) >= unwrapped else None


def join_pair(line: str, following: str, words: set[str]) -> str:
    """Two lines joined by a space, or by nothing at a dash.

    A hyphen at the end of the first is removed if the whole word also occurs in the text without it (`words`).
    """
    line = line.rstrip()
    head, tail = re.search(r"(\w+)-$", line), re.match(r"\w+", following)
    if head and tail:
        return (line[:-1] if (head[1] + tail[0]).lower() in words else line) + following
    dash = re.search(r"\S(?:--+|—)$", line) or re.match(r"(?:--+|—)\S", following)
    return line + ("" if dash else " ") + following


def join_lines(lines: list[str], longest: float, limit: float, words: set[str]) -> list[str]:
    """The lines, each full one joined with the next.

    In a group of which at least half the lines are full, a line that ends in mid-sentence is joined as well.
    """
    result: list[str] = []
    for group in groups(lines):
        pairs = line_lengths(group)
        full = [length <= longest and reach > limit for length, reach in pairs]
        wrapped = sum(full) * 2 >= len(full)
        result.append(group[0])
        for n, (line, following) in enumerate(pairwise(group)):
            continues = following[0].islower() or len(line) > 0.8 * limit and not SENTENCE_END.search(line)
            if pairs and (full[n] or wrapped and continues and len(line) <= longest):
                result[-1] = join_pair(result[-1], following, words)
            else:
                result.append(following)
    return result


def unwrap(text: str) -> Cleaned:
    """The text with one line per paragraph, and notes; verse, headings, lists and unwrapped texts are unchanged.

    Idempotent, unwrap(unwrap(t)) == unwrap(t): it repeats until nothing is joined, which for a book is one round.
    """
    lines = text.split("\n")
    words = set(re.findall(r"\w+", text.lower()))
    while found := wrap_limits(lines):
        joined = join_lines(lines, *found, words)
        if len(joined) == len(lines):
            break
        lines = joined
    n_joined = text.count("\n") + 1 - len(lines)
    return "\n".join(lines), [f"wrapped lines joined: {n_joined:,}"] if n_joined else []
