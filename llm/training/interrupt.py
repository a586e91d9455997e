"""Ctrl-C and SIGTERM: the step that runs is finished and saved before the program ends. A second one ends it at once.

torchrun passes Ctrl-C on as SIGTERM to processes that the terminal has told already, and a job scheduler may tell both,
so under torchrun only a second Ctrl-C counts as one.
"""

import os
import signal

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Interrupt:
    """A context; `signal` is that of the request to end, 0 while there is none."""

    def __init__(self):
        self.signal = 0

    def __enter__(self) -> "Interrupt":
        self._before = {number: signal.signal(number, self._note) for number in NAMES}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def name(self) -> str:
        """What people call the request."""
        return NAMES.get(self.signal, "the end of another process")

    def _note(self, number: int, frame) -> None:
        if self.signal and (number == signal.SIGINT or "TORCHELASTIC_RUN_ID" not in os.environ):
            os._exit(128 + number)  # files are whole at every instant
        self.signal = self.signal or number
