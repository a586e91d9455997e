"""Text on a terminal: words are not broken at its edge, whatever the pieces in which they come."""

import io
import os
import sys

import pytest

from llm.configurator import PACKAGE
from llm.reading.terminal import LineWriter, has_colours

TEXT = "When I was six years old I saw a magnificent picture in a book.\n\n  It was called True Stories from Nature."


def written(text, width, size):
    """The text in pieces of `size` characters, as it stands on a terminal of this width."""
    stream = io.StringIO()
    lines = LineWriter(stream, width)
    for start in range(0, len(text), size):
        lines.write(text[start : start + size])
    lines.end()
    return stream.getvalue()


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_lines_end_before_the_word_that_does_not_fit(size):
    shown = written(TEXT, 20, size)
    assert all(len(line) <= 20 for line in shown.split("\n"))
    assert shown.split() == TEXT.split() and shown.startswith("When I was six years\nold I saw")
    assert "\n\n  It was" in shown


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_without_a_terminal_the_text_stays_as_it_is(size):
    assert written(TEXT + "  ", 0, size) == TEXT + "  "


def test_wide_characters_take_two_columns_and_may_end_any_line():
    assert written("子曰学而时习之", 6, 1) == "子曰学\n而时习\n之"


def test_colours_take_no_room():
    text = "one \x1b[33mtwo\x1b[0m three"
    assert written(text, 9, 1) == "one \x1b[33mtwo\x1b[0m\nthree"


def test_a_word_longer_than_a_line_is_left_to_the_terminal():
    assert written("ab " + "x" * 25 + " cd", 10, 3) == "ab\n" + "x" * 25 + " cd"


def test_colours_only_where_a_person_wants_them(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert has_colours(Terminal()) and not has_colours(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_colours(Terminal())


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_on_a_terminal_a_line_can_be_edited_and_comes_back():
    """The arrow keys printed ^[[A."""
    import pty

    code = "from llm.reading.terminal import read_line\nfor _ in range(3): print(repr(read_line('> ')))"
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = str(PACKAGE.parent)
        os.execv(sys.executable, [sys.executable, "-c", code])
    shown = b""

    def read_until(words):
        nonlocal shown
        while words not in shown:
            shown += os.read(terminal, 1000)
        shown = shown.partition(words)[2]

    for typed, expected in ((b"first\n", b"'first'"), (b"\x1b[A\x7fX\n", b"'firsX'"), (b"b\xff\n", b"\\ufffd'")):
        read_until(b"> ")
        os.write(terminal, typed)
        read_until(expected.replace(b"\\ufffd", "\ufffd".encode()) if b"ufffd" in expected else expected)
    os.waitpid(pid, 0)
    os.close(terminal)
