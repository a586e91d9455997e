"""When and how a run saves its checkpoints. A full disk delays them; it does not end the run."""

import copy
import functools
import time
from collections.abc import Callable
from pathlib import Path

from llm.configurator import UserError
from llm.storage import checkpoint

TRIES, WAIT = 6, 10  # how often the last checkpoint is tried again, and after how many seconds


class Saver:
    """Writes the checkpoints of a run into out_dir; does nothing on ranks other than 0.

    ckpt.pt is the latest state. With keep_best it is the one with the lowest val_loss, and ckpt_last.pt the latest.
    """

    def __init__(
        self,
        out_dir: Path,
        pack: Callable[[], dict],
        *,
        sync: Callable[[], None],
        notify: Callable[[str], None],
        keep_best: bool,
        enabled: bool,
    ):
        """pack() returns the content of a checkpoint; sync() is called before each save and may raise UserError, too.

        notify: shows a line to the user.
        """
        self.out_dir, self.pack, self.sync, self.notify = out_dir, pack, sync, notify
        self.keep_best, self.enabled = keep_best, enabled
        self.latest = "ckpt_last.pt" if keep_best else "ckpt.pt"
        self.unwritten: dict | None = None  # a copy of the best state so far, which the disk refused
        self.error: UserError | None = None  # why the files are not up to date

    def write(self, name: str) -> None:
        """Save the current state. UserError if the disk refuses."""
        if self.enabled:
            self._write_content(name, self.pack())

    def save_latest(self) -> None:
        """Save the current state as the latest; an error is kept in `error`."""
        self._attempt(functools.partial(self.write, self.latest))

    def save_evaluated(self, *, improved: bool) -> None:
        """Save after an evaluation: the latest state and, if val_loss improved, the best one.

        If the disk refuses the best state, a copy is kept in memory, because training changes the weights.
        """
        self.error = None
        if improved and self.keep_best:
            self._attempt(self._write_best)
        else:
            self._attempt(self._write_kept)
        best_error = self.error
        self.save_latest()
        self.error = self.error or best_error

    def warn(self) -> None:
        """Tell the user if the last save failed and training goes on."""
        if self.error:
            self.notify(f"{self.error}; training goes on, and saves again at its next evaluation")

    def finish(self) -> None:
        """Make sure that the files are up to date: waits for a minute for somebody to make room. UserError if not."""
        if not self.error:  # after a signal: the latest state is saved, the best one may still be in memory
            self._attempt(self._write_kept)
        for _ in range(TRIES):
            if not self.error:
                return
            self.notify(f"{self.error}; make room, it is tried again in {WAIT} seconds")
            time.sleep(WAIT)
            self.error = None
            self._attempt(self._write_kept)
            if not self.error:
                self.save_latest()
        if self.error:
            raise UserError(f"{self.error}; what was learned since the last checkpoint in {self.out_dir} is lost")

    def _attempt(self, write: Callable[[], None]) -> None:
        try:
            write()
            self.error = None
        except UserError as e:
            self.error = e

    def _write_best(self) -> None:
        if not self.enabled:
            return
        content = self.pack()
        try:
            self._write_content("ckpt.pt", content)
            self.unwritten = None
        except UserError:
            self.unwritten = copy.deepcopy(content)
            raise

    def _write_kept(self) -> None:
        if self.unwritten is not None:
            self._write_content("ckpt.pt", self.unwritten)
            self.unwritten = None

    def _write_content(self, name: str, content: dict) -> None:
        self.sync()
        checkpoint.write(self.out_dir / name, content)
