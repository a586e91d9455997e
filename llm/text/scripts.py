"""Which characters are written without spaces between words, and how wide a line is."""

import re
import unicodedata

# Chinese and Japanese, with their punctuation and full-width forms; Korean has spaces
CJK = "\u2e80-\u2fdf\u3001-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff01-\uff9f\U00020000-\U0003ffff"  # noqa: E501
# Thai, Lao, Tibetan, Myanmar, Khmer and Tai: words are not marked, so a line may end within any run of letters
SOUTH_EAST = "\u0e01-\u0eff\u0f00-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\ua9e0-\ua9ff\uaa60-\uaa7f"
CJK_CHARACTER = re.compile(f"[{CJK}]")
SOUTH_EAST_CHARACTER = re.compile(f"[{SOUTH_EAST}]")
SPACELESS = re.compile(f"[{CJK}{SOUTH_EAST}]")
NARROW = frozenset("iljtf.,;:'’‘|!()[]I-")
WIDE = frozenset("mwMW—…@%")


def is_spaceless(character: str) -> bool:
    """Whether a character belongs to a script without spaces between words; False for ""."""
    return bool(SPACELESS.match(character))


def mostly_spaceless(text: str) -> bool:
    """Whether most letters of a text belong to scripts without spaces between words."""
    n_letters = len(re.findall(r"\w", text))
    return 2 * len(SPACELESS.findall(text)) > n_letters > 0


def characters(line: str) -> int:
    """Length of a line in code points."""
    return len(line)


def columns(line: str) -> int:
    """Width of a line in a terminal: wide characters count twice, combining marks not at all."""
    if line.isascii():
        return len(line)
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in line
    )


def printed_width(line: str) -> float:
    """Approximate width of a line in a proportional font, in average letters."""
    return sum(
        0.5 if c in NARROW else 1.45 if c in WIDE else 1.2 if c.isupper() else 0.7 if c == " " else 1.0 for c in line
    )
