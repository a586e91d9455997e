"""Text on a terminal: control characters, which it would obey, are shown instead of sent.

Titles, names and reasons come from files and servers of strangers; so may the text that a model draws.
"""

import re
import sys

# of terminals, of the direction of writing, and halves of characters; not tabs and line ends
CONTROLS = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"


def visible(message: str) -> str:
    """The message with escapes instead of control characters: "\\\\x1b" for the one that begins a command."""
    return re.sub(CONTROLS, lambda found: ascii(found[0])[1:-1], message)


def displayed(text: str) -> str:
    """The text for standard output: exact for a file or a pipe, with escapes for a terminal."""
    return visible(text) if sys.stdout.isatty() else text


def show(text: str, *, end: str = "\n") -> None:
    """Print a text on standard output: exactly into a file or pipe, with escapes on a terminal."""
    print(displayed(text), end=end, flush=True)
