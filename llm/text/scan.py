"""Remove the traces of a scan: page numbers, form feeds, running heads, gaps at page breaks.

Functions that change a text return it with notes: short phrases that name what was changed, none if nothing was.
"""

import re

from llm.text.formats import Cleaned
from llm.text.layout import SENTENCE_END

PAGE_NUMBER = re.compile(r"[-–—\[(]?\s*([0-9]{1,4})\s*[-–—\])]?")  # alone on its line: 12, - 12 -, [12], (12)


def sentence_continues(before: str, after: str) -> bool:
    """Whether a sentence continues from one line to the next, as across a page break."""
    return not SENTENCE_END.search(before.rstrip()) and after.strip()[:1].islower()


def page_numbers(lines: list[str]) -> set[int]:
    """Indices of the lines that hold nothing but a page number.

    They are the chain of numbers with the largest weight whose steps are 1 to 10, as scanners miss some, and of which
    at least a fifth interrupt a sentence. Those between dashes or next to a form feed have more weight, but numbers of
    chapters stand there as well. Years and chapter numbers outside the chain are kept.
    """
    # (weight, line, number, whether it interrupts a sentence, index of the previous chain or -1)
    chains: list[tuple[float, int, int, bool, int]] = []
    for i, line in enumerate(lines):
        around = [*lines[max(0, i - 1) : i], *lines[i + 1 : i + 2]]
        if not (match := PAGE_NUMBER.fullmatch(line.strip())) or any(a.strip() for a in around) and "\f" not in around:
            continue
        before = next((lines[j] for j in range(i - 1, -1, -1) if lines[j].strip()), "")
        after = next((lines[j] for j in range(i + 1, len(lines)) if lines[j].strip()), "")
        interrupts = sentence_continues(before, after)
        looks_like_page = "\f" in around or not line.strip().isdigit() or interrupts
        number = int(match[1])
        near = [n for n in range(max(0, len(chains) - 50), len(chains)) if 0 < number - chains[n][2] <= 10]
        best = max(near, key=lambda n: chains[n][0], default=-1)
        chains.append((1 + looks_like_page / 2 + (chains[best][0] if near else 0), i, number, interrupts, best))
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
