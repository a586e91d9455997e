"""Text on a terminal: words that are not broken at its edge, colours, a line that can be edited.

Where the output is a file or a pipe, text is passed on unchanged and without colours.
"""

import contextlib
import os
import re
import shutil
import sys
from typing import TextIO

from llm.text.scripts import CJK, SOUTH_EAST, columns

INVENTED, PLACE, BOLD, PLAIN = "\x1b[33m", "\x1b[2m", "\x1b[1m", "\x1b[0m"  # yellow, faint
UNIT = re.compile(rf"\x1b\[[0-9;]*m|\n|[^\S\n]+|[{CJK}{SOUTH_EAST}]|[^\s\x1b{CJK}{SOUTH_EAST}]+|\x1b")
UNFINISHED = re.compile(r"\x1b(?:\[[0-9;]*)?$")  # escape sequence


def is_terminal(stream: TextIO) -> bool:
    """Whether a person sees what is written here."""
    return hasattr(stream, "isatty") and stream.isatty()


def has_colours(stream: TextIO) -> bool:
    """Whether colours may be written: on a terminal, unless NO_COLOR is set (no-color.org) or it has none."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class LineWriter:
    """Writes text as it comes; on a terminal, a line ends before the word that would not fit on it.

    A word is written when its end is known. Without a terminal nothing is held back or added.
    """

    def __init__(self, stream: TextIO, width: int | None = None):
        """width: of the terminal in columns; None = its own, 0 = no terminal."""
        if width is None:
            width = shutil.get_terminal_size().columns if is_terminal(stream) else 0
        self.stream, self.width = stream, width
        self.column, self.space, self.held = 0, "", ""  # spaces and a word that are not written yet

    def write(self, text: str) -> None:
        """Write what is certain of the text, and flush."""
        if not self.width:
            self.stream.write(text)
            self.stream.flush()
            return
        text = self.held + text
        cut = UNFINISHED.search(text)
        text, self.held = (text[: cut.start()], cut[0]) if cut else (text, "")
        units = UNIT.findall(text)
        if units and not cut and not (units[-1].isspace() or units[-1][0] == "\x1b"):
            self.held = units.pop()
        for unit in units:
            self._put(unit)
        self.stream.flush()

    def end(self) -> None:
        """Write the rest, without the spaces at its end."""
        held, self.held = self.held, ""
        if held:
            self._put(held)
        self.space = ""
        self.stream.flush()

    def _put(self, unit: str) -> None:
        """Write a word, or remember the spaces before one."""
        if unit == "\n":
            self.stream.write("\n")
            self.column, self.space = 0, ""
        elif unit.isspace():
            self.space += unit.expandtabs(4)
        elif unit[0] == "\x1b":
            self.stream.write(self.space + unit)
            self.column += len(self.space)
            self.space = ""
        else:
            needed = columns(unit)
            if self.column and self.column + len(self.space) + needed > self.width:
                self.stream.write("\n")
                self.column, self.space = 0, ""
            self.stream.write(self.space + unit)
            self.column += len(self.space) + needed
            if self.column > self.width:  # a word that is longer than a line
                self.column %= self.width
            self.space = ""


def read_line(prompt: str) -> str | None:
    """A line that a person types, without its end; None at the end of the input. KeyboardInterrupt after Ctrl-C.

    On a terminal it can be edited, and arrow keys bring back earlier ones. Bytes that are not UTF-8 become U+FFFD.
    """
    if hasattr(sys.stdin, "reconfigure") and sys.stdin.errors != "replace":  # possible before the first line alone
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    if is_terminal(sys.stdin) and is_terminal(sys.stdout):
        with contextlib.suppress(ImportError):  # Windows has none, but edits lines itself
            import readline  # noqa: F401  (input() uses it once it is imported)
        try:
            return input(prompt)
        except EOFError:
            return None
    print(prompt, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.removesuffix("\n") if line else None
