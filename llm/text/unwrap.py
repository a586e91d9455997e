"""Join wrapped lines into paragraphs; in doubt, leave them alone.

First the whole text is judged (wrapping.py), then each group of lines that may be a paragraph (layout.py), then each
line end. Verse, lists, tables, addresses and texts of one paragraph a line are unchanged.
"""

import re
from dataclasses import dataclass
from itertools import pairwise

from llm.text.formats import Cleaned
from llm.text.joining import LineJoiner
from llm.text.layout import LineGroup, common_indent, justified_width, line_groups, squeeze
from llm.text.wrapping import Habits, Wrap, find_wrap, is_wrapped, pairs_of

DASH = re.compile(r"[—–-]")
HARD_BREAK = re.compile(r"(?:\S {2,}|\\)$")
SHOWN = 40  # characters of an example before and after a line end


@dataclass(frozen=True)
class Unwrapped:
    """A text with one line per paragraph."""

    text: str
    joined: int = 0  # line ends that were removed
    examples: tuple[tuple[str, str], ...] = ()  # (before, after) of two of them, from all over the text


def unwrap(text: str) -> Cleaned:
    """The text with one line per paragraph, and notes."""
    unwrapped = join_wrapped(text)
    return unwrapped.text, [f"wrapped lines joined: {unwrapped.joined:,}"] if unwrapped.joined else []


def join_wrapped(text: str, *, hard_breaks: bool = False) -> Unwrapped:
    """The text with one line per paragraph, with examples.

    hard_breaks: two spaces or a backslash at a line's end keep it, as in Markdown.

    Idempotent, join_wrapped(join_wrapped(t).text).text == join_wrapped(t).text: it repeats until nothing is joined,
    which for a book is one round.
    """
    joiner, first = LineJoiner(text), None
    lines = text.split("\n")
    while (joined := join_round(lines, joiner, hard_breaks)) and len(joined[0]) < len(lines):
        lines, examples = joined
        first = examples if first is None else first
    return Unwrapped("\n".join(lines), text.count("\n") + 1 - len(lines), tuple(first or ()))


def join_round(
    original: list[str], joiner: LineJoiner, hard_breaks: bool
) -> tuple[list[str], list[tuple[str, str]]] | None:
    """(the lines, each full one joined with the next, two examples); None if the text is not wrapped."""
    indent = common_indent(original)
    dedented = [line.removeprefix(indent) for line in original]
    lines = squeeze(dedented, justified_width(dedented))
    found = find_wrap(list(line_groups(lines)))
    if found is None:
        return None
    wrap, habits = found
    result: list[str] = []
    places: list[tuple[str, str, str]] = []
    for group in line_groups(lines, wrap.fills):
        paragraphs = split_group(group, wrap, habits, HARD_BREAK if hard_breaks else None)
        if len(paragraphs) == len(group.lines):
            result += dedented[group.start : group.start + len(group.lines)]
            continue
        for paragraph in paragraphs:
            result.append(joiner.join(paragraph) if len(paragraph) > 1 or not hard_breaks else paragraph[0])
            places += [(a, b, result[-1]) for a, b in list(pairwise(paragraph))[:1]]
    return result, [example(*places[n]) for n in sorted({len(places) // 3, 2 * len(places) // 3}) if n < len(places)]


def split_group(group: LineGroup, wrap: Wrap, habits: Habits, kept: re.Pattern | None) -> list[list[str]]:
    """A group's lines in paragraphs; each line is one if the group is not wrapped. kept: line ends that stay."""
    if len(group.lines) == 1:
        return [group.lines]
    pairs = pairs_of(group, wrap.measure)
    wrapped = is_wrapped(group, pairs, wrap, habits)
    dialogue = any(
        pair.ends_sentence and not wrap.joins(pair, following) and DASH.match(following)
        for pair, following in zip(pairs, group.lines[1:], strict=True)
    )
    paragraphs = [[group.lines[0]]]
    for pair, line, following in zip(pairs, group.lines, group.lines[1:], strict=False):
        begins = dialogue and pair.ends_sentence and DASH.match(following) or kept and kept.search(line)
        if wrapped and wrap.joins(pair, following) and not begins:
            paragraphs[-1].append(following)
        else:
            paragraphs.append([following])
    return paragraphs


def example(line: str, following: str, joined: str) -> tuple[str, str]:
    """What two lines looked like around their line end, and what the paragraph looks like there."""
    before, after = line.strip()[-SHOWN:], following.strip()[:SHOWN]
    start = max(0, joined.find(before[:-1]))
    return f"{before}⏎{after}", joined[start : start + len(before) + len(after) + 1]
