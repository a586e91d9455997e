"""Where the figures of a run go: metrics.jsonl and, if asked, Weights & Biases or TensorBoard.

metrics.jsonl holds one object a line. `step` counts the updates made before the figures were taken. `known` estimates
the share of the text that is known by heart, from the training batches. `tokens_per_s` and `seconds` are the only
fields that differ between two runs with the same seed on one machine.
"""

import contextlib
import errno
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

from llm.configurator import UserError, require
from llm.files import open_regular, read_regular, write_atomic
from llm.text.dataset import Split

METRICS = "metrics.jsonl"


class Metrics:
    """Writes figures to metrics.jsonl in out_dir and to the optional services."""

    def __init__(self, out_dir: Path, *, keep_bytes: int, wandb_run=None, tensorboard=None):
        """keep_bytes: length of an existing file that belongs to this (resumed) run; the rest is dropped."""
        self.path, self.unwritten = out_dir / METRICS, b""  # unwritten: lines that a full disk refused
        self.file = open_regular(self.path, "a+b", buffering=0)  # closed by __exit__
        self.written = min(keep_bytes, self.file.seek(0, 2))  # the first line that is written truncates it to this
        self.wandb_run, self.tensorboard = wandb_run, tensorboard

    def write(self, step: int, **figures: float | None) -> None:
        """Write one line, without figures that are None or not finite (which JSON cannot express).

        If the disk refuses a line, it is kept and written with the next one.
        """
        figures = {name: value for name, value in figures.items() if value is not None and math.isfinite(value)}
        self.unwritten += (json.dumps({"step": step, **figures}) + "\n").encode()
        with contextlib.suppress(OSError):
            self._flush()
        if self.wandb_run is not None:
            self.wandb_run.log(figures, step=step)
        if self.tensorboard is not None:
            for name, value in figures.items():
                self.tensorboard.add_scalar(name, value, step)

    def _flush(self) -> None:
        """Write the unwritten lines. A part that an earlier try has written is dropped first."""
        self.file.truncate(self.written)
        if self.file.write(self.unwritten) != len(self.unwritten):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.written, self.unwritten = self.written + len(self.unwritten), b""

    def rewind(self, length: int) -> None:
        """Drop the lines after this length; the file loses them with the next line or `sync`."""
        self.unwritten = self.unwritten[: max(0, length - self.written)]
        self.written = min(self.written, length)

    @property
    def length(self) -> int:
        """Length of all lines so far in bytes; a checkpoint stores it."""
        return self.written + len(self.unwritten)

    def sync(self) -> None:
        """Return when all lines are on the disk. UserError if the disk refuses."""
        try:
            self._flush()
            os.fsync(self.file.fileno())
        except OSError as e:
            raise UserError(f"cannot write {self.path}: {e.strerror}") from None

    def write_again(self) -> None:
        """Write the file anew, if somebody has removed or replaced it: the lines so far. UserError if they are lost.

        A file that is removed keeps its content as long as it is open.
        """
        try:
            self.file.seek(0)
            write_atomic(self.path, self.file.read(self.written))
            file = open_regular(self.path, "a+b", buffering=0)
        except OSError as e:
            raise UserError(f"cannot write {self.path}: {e.strerror}") from None
        self.file.close()
        self.file = file

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *_) -> None:
        self.file.close()
        if self.wandb_run is not None:
            self.wandb_run.finish()
        if self.tensorboard is not None:
            self.tensorboard.close()


def file_identity(path: Path | int) -> tuple[int, int] | None:
    """What tells a file or folder (or an open one, by its number) from all others; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def require_services(*, wandb: bool, tensorboard: bool, watch: bool = False) -> None:
    """UserError if a service that is asked for is not installed."""
    if wandb:
        require("wandb", "wandb")
    if tensorboard:
        require("torch.utils.tensorboard", "tensorboard")
    for module in ("uvicorn", "fastapi") if watch else ():
        require(module, "serve")


def open_metrics(out_dir: Path, *, keep_bytes: int, wandb: dict | None, tensorboard: bool) -> Metrics:
    """The metrics of a run. wandb: arguments of wandb.init, None = not used. UserError if they cannot be written."""
    wandb_run = writer = None
    if wandb is not None:
        wandb_run = require("wandb", "wandb").init(dir=out_dir, **wandb)
    if tensorboard:
        writer = require("torch.utils.tensorboard", "tensorboard").SummaryWriter(out_dir / "tensorboard")
    try:
        return Metrics(out_dir, keep_bytes=keep_bytes, wandb_run=wandb_run, tensorboard=writer)
    except OSError as e:
        raise UserError(f"cannot write {out_dir / METRICS}: {e.strerror}; type another --out_dir") from None


def describe_loss(loss: float, split: Split) -> str:
    """The loss, and in bits per character if the dataset says how many characters the split has."""
    if not split.characters:
        return f"{loss:.4f}"
    return f"{loss:.4f} ({loss / math.log(2) * len(split) / split.characters:.3f} bits per character)"


class Timer:
    """Seconds spent on each kind of work, and how often it was done."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.laps: dict[str, tuple[float, int]] = {}  # seconds and count at the last call of `lap`

    @contextlib.contextmanager
    def measure(self, name: str, count: int = 1) -> Iterator[None]:
        """Add the time of the block to `name`, also if it raises. count: how often this counts."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
            self.counts[name] = self.counts.get(name, 0) + count

    def total(self, name: str) -> float:
        """Seconds of `name` so far."""
        return self.seconds.get(name, 0.0)

    def lap(self, name: str) -> tuple[float, int]:
        """(seconds, count) of `name` since the last call."""
        now = self.seconds.get(name, 0.0), self.counts.get(name, 0)
        seconds, count = self.laps.get(name, (0.0, 0))
        self.laps[name] = now
        return now[0] - seconds, now[1] - count


def read_metrics(out_dir: str | Path) -> list[dict]:
    """The lines of out_dir's metrics.jsonl; a last line that is not complete yet is skipped. UserError if none is."""
    path = Path(out_dir) / METRICS
    try:
        *lines, rest = read_regular(path).decode("utf-8").split("\n")
        found = [parse_line(line) for line in lines if line]
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}; train.py writes it into its out_dir") from None
    except ValueError:
        raise UserError(f"{path} is damaged: a line of it is not a step with its figures") from None
    with contextlib.suppress(ValueError):
        found += [parse_line(rest)] if rest else []
    if not found:
        raise UserError(f"{path} holds no figures yet: wait for the first evaluation")
    return found


def parse_line(line: str) -> dict:
    """One line of metrics.jsonl. ValueError unless it is an object with a step, and of finite numbers alone."""
    try:
        figures = json.loads(line)
        if figures["step"] >= 0 and all(type(x) in (int, float) and math.isfinite(x) for x in figures.values()):
            return figures
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        pass
    raise ValueError(f"no line of {METRICS}")


def clock(seconds: float) -> str:
    """A duration as people read it: 75 -> 1:15, 3700 -> 1:01:40."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
