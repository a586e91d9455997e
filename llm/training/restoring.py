"""Make an out_dir again that somebody has removed, moved or replaced while a training writes to it."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from llm.configurator import UserError
from llm.files import locked_folder, read_regular
from llm.storage import checkpoint
from llm.training.metrics import Metrics, file_identity


class OutDirGuard:
    """Looks before each save whether out_dir is still the folder that the run has locked, with its metrics.jsonl."""

    def __init__(
        self,
        out_dir: Path,
        log: Metrics,
        *,
        stack: contextlib.ExitStack,
        put_aside: Callable[[Path], None],
        notify: Callable[[str], None],
    ):
        """stack: holds the locks; put_aside: moves the files of another run away; notify: shows a line to the user."""
        self.out_dir, self.log, self.stack, self.put_aside, self.notify = out_dir, log, stack, put_aside, notify
        self.locked, self.is_new = file_identity(out_dir), False  # is_new: another folder, whose files are to be moved

    def is_locked_by_us(self) -> bool:
        """Whether out_dir is the folder that the run has locked, by its number or by what .lock says.

        Some network file systems give a folder another number after a while.
        """
        if file_identity(self.out_dir) == self.locked:
            return True
        try:
            return read_regular(self.out_dir / ".lock").decode() == str(os.getpid())
        except (OSError, ValueError):
            return False

    def sync(self) -> None:
        """Return when all figures are on the disk, in a folder that is this run's. UserError if the disk refuses.

        A folder that is missing is made and locked again. Another one in its place is locked, which is refused if
        another training writes to it, and its files are put aside.
        """
        if not self.is_locked_by_us():
            checkpoint.make_out_dir(self.out_dir)
            self.stack.enter_context(locked_folder(self.out_dir))
            self.locked, self.is_new = file_identity(self.out_dir), True
        if self.is_new:  # also if that failed the last time
            try:
                self.put_aside(self.out_dir)
            except OSError as e:
                raise UserError(f"cannot write to out_dir={self.out_dir}: {e.strerror}") from None
            self.is_new = False
            self.notify(
                f"{self.out_dir} was removed, moved or replaced while this run trains; it is made again with the "
                "latest state and all figures, without earlier states"
            )
        if file_identity(self.log.path) != file_identity(self.log.file.fileno()):
            self.log.write_again()
        self.log.sync()
