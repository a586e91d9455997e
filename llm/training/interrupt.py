"""Ctrl-C, SIGTERM and SIGHUP: the current step is finished and saved before the program ends.

A second signal ends the program at once, and says what is lost. torchrun passes Ctrl-C on as SIGTERM to processes that
the terminal has signalled already, and a job scheduler may signal both, so under torchrun only a second Ctrl-C counts.
A second SIGHUP never counts: the system sends one when a terminal is closed, and the shell in it another.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
if hasattr(signal, "SIGHUP"):  # the terminal was closed; Windows has no such signal
    NAMES[signal.SIGHUP] = "SIGHUP"
MESSAGE = "finishing this step, then saving; {name} again to quit without saving"


class Interrupt:
    """A context; `signal` is the number of the signal that asked to end, 0 if there was none."""

    def __init__(self):
        self.signal = 0
        self.describe_unsaved: Callable[[], str] = lambda: "ended without saving"  # of the run; see outputs.py

    def __enter__(self) -> "Interrupt":
        heeded = [number for number in NAMES if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]  # False once it is closed
        self._handlers = {number: signal.signal(number, self._handle) for number in heeded}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @property
    def name(self) -> str:
        """The signal's name as people know it."""
        return NAMES.get(self.signal, "the end of another process")

    def _handle(self, number: int, frame) -> None:
        if self.signal:
            repeated_by_torchrun = number != signal.SIGINT and "TORCHELASTIC_RUN_ID" in os.environ
            if NAMES[number] != "SIGHUP" and not repeated_by_torchrun:
                signal.signal(number, signal.SIG_DFL)  # a third one does not wait
                try:
                    self._tell(self.describe_unsaved())
                finally:
                    os._exit(128 + number)  # files are whole at every instant
            return
        self.signal = number
        if NAMES[number] == "SIGHUP":
            for descriptor in self._terminals:  # writing to a closed terminal is an error
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        self._tell(MESSAGE.format(name=NAMES[number]))

    @staticmethod
    def _tell(message: str) -> None:
        if os.environ.get("RANK", "0") == "0":
            # os.write, because a handler may interrupt a print; the empty line ends the terminal's "^C"
            line = ("\n" if sys.stderr.isatty() else "") + message + "\n"
            with contextlib.suppress(OSError):
                os.write(2, line.encode())
