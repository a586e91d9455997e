"""What a training shows: a bar that fits into a terminal, plain lines in a file."""

import io
import os
import re
import sys

import pytest
import torch

from llm.training.display import Display
from llm.training.writing_solver import Step

FIGURES = dict(epoch=1.25, loss=2.34567, lr=6e-4, notes=["knows 12%"], tokens_per_s=1234.5, seconds_per_iter=2.0)


class Stream(io.StringIO):
    """Standard error as a file, or as a terminal."""

    encoding = "utf-8"

    def __init__(self, *, terminal: bool):
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def fileno(self) -> int:
        return 2  # whose width is asked for

    def screen(self) -> list[str]:
        """The lines as a terminal shows them, spaces at their ends removed."""
        lines = []
        for line in self.getvalue().split("\n"):
            shown = ""
            for part in line.split("\r"):  # each is written over the part before
                shown = part + shown[len(part) :]
            lines.append(shown.rstrip())
        return lines


@pytest.fixture
def stderr(monkeypatch):
    """stderr(terminal=..., columns=...) replaces standard error by a Stream."""

    def stderr(*, terminal, columns=80):
        monkeypatch.setattr(sys, "stderr", Stream(terminal=terminal))
        monkeypatch.setattr(os, "get_terminal_size", lambda descriptor: os.terminal_size((columns, 24)))
        return sys.stderr

    return stderr


def test_in_a_file_each_update_is_a_line(stderr):
    stream = stderr(terminal=False)
    with Display("tale", iter_num=0, seconds=0.0, enabled=True) as display:
        display.update(6, 1000, **FIGURES)
        display.line("evaluated: step 7")
        display.update(999, 1000, **FIGURES | dict(notes=[]))
    assert stream.getvalue() == (
        "step 6/1,000, epoch 1.2, loss 2.3457, lr 6.00e-04, knows 12%, 1,234 tokens/s, 33:06 left\n"
        "evaluated: step 7\n"
        "step 999/1,000, epoch 1.2, loss 2.3457, lr 6.00e-04, 1,234 tokens/s, 0:00 left\n"
    )


def test_in_a_terminal_the_bar_shows_loss_and_notes_and_counts_to_the_expected_end(stderr):
    stream = stderr(terminal=True)
    display = Display("tale", iter_num=0, seconds=0.0, enabled=True)
    display.update(24, 100, **FIGURES)
    display.bar.refresh()  # by itself it is drawn ten times a second
    figures = "knows 12%, loss 2.346, 1,234 tokens/s"
    assert re.fullmatch(rf"learning tale +25%\|█+ +\| \d\d:\d\d<[\d:?]+, {figures}", stream.screen()[-1])
    display.update(49, 200, **FIGURES)  # the end is expected later
    display.bar.refresh()
    assert re.match(r"learning tale +25%\|", stream.screen()[-1])
    assert all(len(part) <= 80 for part in stream.getvalue().split("\r")) and "\n" not in stream.getvalue()


@pytest.mark.parametrize("columns", [10, 40, 60, 200])
def test_the_bar_fits_any_width(stderr, columns):
    stream = stderr(terminal=True, columns=columns)
    with Display("tale", iter_num=0, seconds=0.0, enabled=True) as display:
        display.update(24, 100, **FIGURES)
        display.bar.refresh()
        assert len(stream.screen()[-1].rstrip()) <= columns
        assert columns < 60 or re.search(r"<[\d:?]+, knows 12%", stream.screen()[-1])
        step = Step(3, 12, 1, 2.5, 0.4, torch.arange(100), torch.ones(100))
        display.writing(step)
        display.bar.refresh()
        assert len(stream.screen()[-1].rstrip()) <= columns
        assert columns < 200 or re.search(r"25%.*writing, knew 40% of tokens, [\d,]+ tokens/s", stream.screen()[-1])


def test_a_line_stays_above_the_bar_and_the_bar_is_removed_at_the_end(stderr):
    stream = stderr(terminal=True)
    with Display("tale", iter_num=0, seconds=0.0, enabled=True) as display:
        display.update(24, 100, **FIGURES)
        display.line("evaluated: step 25")
        assert stream.screen()[0] == "evaluated: step 25" and stream.screen()[1].startswith("learning tale")
        display.close()
        print("done", file=stream)
    assert stream.screen() == ["evaluated: step 25", "done", ""]


def test_a_resumed_run_begins_where_it_was(stderr):
    stream = stderr(terminal=True)
    with Display("tale", iter_num=50, seconds=3600.0, enabled=True) as display:
        display.update(50, 102, **FIGURES)
        display.bar.refresh()
        assert re.match(r"learning tale +50%\|.*\| 1:\d\d:\d\d<", stream.screen()[-1])


@pytest.mark.parametrize("terminal", [True, False])
def test_other_ranks_show_nothing(stderr, terminal):
    stream = stderr(terminal=terminal)
    with Display("tale", iter_num=0, seconds=0.0, enabled=False) as display:
        display.update(1, 10, **FIGURES)
        display.line("evaluated")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_output_that_cannot_be_written_does_not_end_the_run(stderr, monkeypatch, terminal):
    """The log may stand on a disk that is full, and a terminal may be closed."""
    stream = stderr(terminal=terminal)
    with Display("tale", iter_num=0, seconds=0.0, enabled=True) as display:

        def write(text):
            raise OSError(5 if terminal else 28, "refused")

        with monkeypatch.context() as patch:
            patch.setattr(stream, "write", write)
            display.update(1, 10, **FIGURES)
            display.line("evaluated: step 2")
        display.line("evaluated: step 3")
    assert "evaluated: step 3" in stream.screen()
