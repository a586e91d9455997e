"""Join the lines of a paragraph: with a space, with nothing, or without the hyphen that divided a word."""

import re
from collections import Counter

from llm.text.scripts import is_spaceless

WORD_PART = r"[^\W_][\w\u0300-\u036f]*"
LINE_END_HYPHEN = re.compile(rf"({WORD_PART})[-\u2010]$")
DIVIDED_WORD = re.compile(r"[\w\u0300-\u036f]+[-\u2010]\s*\n\s*[\w\u0300-\u036f]+")
ENDS_DIVIDED = re.compile(r"\w[\u00ad¬]$")  # a soft hyphen, or what a scan makes of one: it only stands at line ends
FIRST_WORD = re.compile(WORD_PART)
DASH_END, DASH_START = re.compile(r"\S(?:--+|—)$"), re.compile(r"(?:--+|—)\S")
SUSPENDED = frozenset(  # words that follow a hyphen which stands for the rest of a word: "Ein- und Ausgänge"
    ["und", "oder", "bzw", "sowie", "als", "wie", "bis", "noch", "statt", "and", "or", "to", "nor", "et", "ou"]
    + ["en", "of", "dan", "och", "eller", "og", "i", "y", "o", "e", "ed", "u", "czy", "lub"]
)


class LineJoiner:
    """Joins lines as the rest of their text is written: `words` and dashes are looked up there."""

    def __init__(self, text: str, *, typeset: bool = False):
        """typeset: whether hyphens at line ends divide words unless both halves are words elsewhere, as in a PDF."""
        self.words = set(re.findall(r"[\w\u0300-\u036f]+", text.lower()))
        undivided = DIVIDED_WORD.sub(" ", text.lower()) if typeset else ""
        self.whole_words = set(re.findall(r"(?<![-\u2010])\b[\w\u0300-\u036f]+\b(?![-\u2010])", undivided))
        self.typeset = typeset
        # U+2010 inside a line is this text's hyphen; one that only ends lines divides words
        self.has_unicode_hyphen = bool(re.search(r"\w\u2010\w", text))
        counts = Counter({"open": len(re.findall(r"\w[.,;:!?»”)]? —\w|\w—[,.;:!?]? \w", text))})
        counts["closed"] = len(re.findall(r"\w—\w", text))
        self.has_spaced_dashes = counts["open"] > counts["closed"]
        mixed = re.findall(r"[\u3400-\u9fff]( ?)[A-Za-z0-9]|[A-Za-z0-9]( ?)[\u3400-\u9fff]", text)
        self.spaces_latin = sum(bool(a or b) for a, b in mixed) * 2 > len(mixed)

    def join(self, lines: list[str]) -> str:
        """One paragraph of these lines, in time linear in its length."""
        pieces = [lines[0].rstrip()]
        for following in lines[1:]:
            following = following.lstrip()
            pieces[-1], separator = self.line_end(pieces[-1], following)
            pieces += [separator, following.rstrip() if following is not lines[-1] else following]
        return "".join(pieces)

    def line_end(self, line: str, following: str) -> tuple[str, str]:
        """(the line, perhaps without its hyphen, what separates it from the following one)."""
        if ENDS_DIVIDED.search(line):
            return line[:-1], ""
        if (head := LINE_END_HYPHEN.search(line[-80:])) and (tail := FIRST_WORD.match(following)):
            whole = (head[1] + tail[0]).lower()
            if whole in self.words or line[-1] == "\u2010" and not self.has_unicode_hyphen:
                return line[:-1], ""
            if self.typeset and self.is_divided(line, head[1], tail[0]):
                return line[:-1], ""
            return line, " " if tail[0].lower() in SUSPENDED else ""
        if DASH_END.search(line[-9:]) or DASH_START.match(following):
            return line, " " if self.has_spaced_dashes and "--" not in (line[-2:], following[:2]) else ""
        if re.search(r"\w[–/]$", line[-2:]) and following[:1].isalnum():
            return line, ""
        return line, self.between(line[-1:], following[:1], line, following)

    def is_divided(self, line: str, head: str, tail: str) -> bool:
        """Whether a typesetter has divided a word into head and tail: no well-known, no mother-in-law, no Jean-Paul."""
        if not tail.islower() or tail in SUSPENDED or line[: -len(head) - 1].endswith(("-", "\u2010")):
            return False
        return not {head.lower(), tail} <= self.whole_words

    def between(self, last: str, first: str, line: str, following: str) -> str:
        """A space, or nothing in scripts that have none between words."""
        if is_spaceless(last) and is_spaceless(first):
            return ""
        before = next((c for c in reversed(line[-20:]) if c.isalnum() or is_spaceless(c)), "")
        after = next((c for c in following[:20] if c.isalnum() or is_spaceless(c)), "")
        if is_spaceless(before) and is_spaceless(after):
            return ""
        if is_spaceless(before) or is_spaceless(after):
            return " " if self.spaces_latin and last.isalnum() and first.isalnum() else ""
        return " "
