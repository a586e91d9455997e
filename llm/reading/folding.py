"""Make texts comparable that differ only in how they were typed: accents, quotation marks, dashes, white space.

The book itself is never changed: what is compared is a folded copy, which knows where each of its characters stands.
"""

import re
import unicodedata
from array import array

QUOTES = "'\"`´′″‘’‚‛“”„‟«»‹›「」『』〝〞〟ʼ＂＇"
DASHES = "-‐‑‒–—―−﹘﹣－"
# soft hyphens, zero-width characters, marks of direction, variation selectors
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff]"
)
SPACED_MARK = re.compile(rf"{INVISIBLE.pattern}*[?!;:？！；：]")  # French has a space before it
COMPOSED = str.maketrans({**dict.fromkeys(QUOTES, "'"), **dict.fromkeys(DASHES, "-"), "⁄": "/"})  # ⁄ in ½


def fold_character(c: str) -> str:
    """What a character is compared as: "é" as "e" and its accent, "ﬁ" as "fi", "“" as "'"; "" if it is invisible."""
    if INVISIBLE.match(c):
        return ""
    if c.isspace():
        return " "
    return unicodedata.normalize("NFKD", c.translate(COMPOSED)).translate(COMPOSED)


class Folded:
    """A folded text; character n of it stands at starts[n]:stops[n] of the original."""

    def __init__(self, original: str):
        changed = "".join(re.escape(c) for c in sorted(set(original)) if fold_character(c) != c)
        pattern = re.compile(  # French has spaces within guillemets and before punctuation; a typist may leave them out
            rf"\s*[{re.escape(DASHES)}]+\s*|«\s+|\s+»(?!\w)|\s+(?={SPACED_MARK.pattern})|\s{{2,}}"
            + (rf"|[{changed}]" if changed else "")
        )
        parts: list[str] = []
        self.starts, self.stops, done = array("I"), array("I"), 0
        for match in pattern.finditer(original):
            self._keep(parts, original[done : match.start()], done)
            done = match.end()
            found = match[0]
            visible = found.strip() or ("" if SPACED_MARK.match(original, done) else " ")
            folded = "-" if visible[:1] in DASHES and visible else "".join(map(fold_character, visible[:1]))
            parts.append(folded)
            start = match.start() + (len(found) - len(found.lstrip()) if visible.strip() else 0)
            self.starts.extend([start] * len(folded))
            self.stops.extend([match.start() + len(found.rstrip()) if visible.strip() else done] * len(folded))
        self._keep(parts, original[done:], done)
        self.text = "".join(parts)

    def _keep(self, parts: list[str], unchanged: str, start: int) -> None:
        """Add a part of the original that is its own folded form."""
        parts.append(unchanged)
        self.starts.extend(range(start, start + len(unchanged)))
        self.stops.extend(range(start + 1, start + len(unchanged) + 1))


def fold(text: str) -> str:
    """The folded form of a text."""
    return Folded(text).text
