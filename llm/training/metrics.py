"""Where a training's figures go: one progress line, metrics.jsonl, and, where asked, wandb or TensorBoard.

metrics.jsonl holds one object a line. `step` counts the updates made before the figures were taken; `tokens_per_s` and
`seconds` are the only fields that differ between two runs of the same seed.
"""

import contextlib
import dataclasses
import errno
import json
import math
import os
import sys
import time
from pathlib import Path

from llm.configurator import UserError, require
from llm.text.dataset import Split

METRICS = "metrics.jsonl"


class Metrics:
    """Writes figures to metrics.jsonl in out_dir and to the optional services."""

    def __init__(self, out_dir: Path, *, keep_bytes: int, wandb_run=None, tensorboard=None):
        """keep_bytes: how much of an existing file belongs to this run (a resumed one's), the rest is dropped."""
        self.path, self.waiting = out_dir / METRICS, b""  # lines that the disk has not taken yet
        self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (closed by __exit__)
        self.written = min(keep_bytes, self.file.seek(0, 2))
        self.file.truncate(self.written)
        self.wandb_run, self.tensorboard = wandb_run, tensorboard

    def write(self, step: int, **figures: float | None) -> None:
        """One line; figures that are None, or no finite number (which JSON cannot say), are left out.

        A line that the disk refuses is kept, and written with the next.
        """
        figures = {name: value for name, value in figures.items() if value is not None and math.isfinite(value)}
        self.waiting += (json.dumps({"step": step, **figures}) + "\n").encode()
        with contextlib.suppress(OSError):
            self._flush()
        if self.wandb_run is not None:
            self.wandb_run.log(figures, step=step)
        if self.tensorboard is not None:
            for name, value in figures.items():
                self.tensorboard.add_scalar(name, value, step)

    def _flush(self) -> None:
        """Writes what waits, whole or not at all."""
        try:
            if self.file.write(self.waiting) != len(self.waiting):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self.file.truncate(self.written)
            raise
        self.written, self.waiting = self.written + len(self.waiting), b""

    @property
    def length(self) -> int:
        """Bytes of all lines so far: what a checkpoint remembers."""
        return self.written + len(self.waiting)

    def settle(self) -> None:
        """Returns when all lines are on the disk. UserError if the disk refuses."""
        try:
            self._flush()
            os.fsync(self.file.fileno())
        except OSError as e:
            raise UserError(f"cannot write {self.path}: {e.strerror}") from None

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *_) -> None:
        self.file.close()
        if self.wandb_run is not None:
            self.wandb_run.finish()
        if self.tensorboard is not None:
            self.tensorboard.close()


def require_services(cfg) -> None:
    """UserError if a service that train.Settings ask for is not installed."""
    if cfg.wandb_log:
        require("wandb", "wandb")
    if cfg.tensorboard_log:
        require("torch.utils.tensorboard", "tensorboard")


def describe_loss(loss: float, split: Split) -> str:
    """The loss, and in bits per character where the dataset says how many characters the split has."""
    bits = f" ({loss / math.log(2) * len(split) / split.characters:.3f} bits per character)" if split.characters else ""
    return f"{loss:.4f}{bits}"


def start(cfg, out_dir: Path, *, keep_bytes: int) -> Metrics:
    """Where train.Settings want the figures of a run."""
    wandb_run = tensorboard = None
    if cfg.wandb_log:
        wandb = require("wandb", "wandb")
        config = dataclasses.asdict(cfg)
        wandb_run = wandb.init(project=cfg.wandb_project, name=cfg.wandb_run_name, dir=out_dir, config=config)
    if cfg.tensorboard_log:
        tensorboard = require("torch.utils.tensorboard", "tensorboard").SummaryWriter(out_dir / "tensorboard")
    try:
        return Metrics(out_dir, keep_bytes=keep_bytes, wandb_run=wandb_run, tensorboard=tensorboard)
    except OSError as e:
        raise UserError(f"cannot write {out_dir / METRICS}: {e.strerror}; type another --out_dir") from None


class Stopwatch:
    """Adds up seconds."""

    seconds = 0.0

    def start(self) -> None:
        self.started = time.perf_counter()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self.started


class Speed:
    """Times training steps, evaluations left out."""

    def __init__(self, tokens_per_step: int):
        self.tokens_per_step = tokens_per_step
        self.steps = self.all_steps = 0  # since the last read(), and in all
        self.seconds = self.all_seconds = 0.0

    def start(self) -> None:
        self.started = time.perf_counter()

    def stop(self) -> None:
        self.steps, self.seconds = self.steps + 1, self.seconds + time.perf_counter() - self.started

    def read(self) -> float:
        """Tokens a second since the last read."""
        tokens_per_s = self.steps * self.tokens_per_step / self.seconds
        self.all_steps, self.all_seconds = self.all_steps + self.steps, self.all_seconds + self.seconds
        self.steps, self.seconds = 0, 0.0
        return tokens_per_s

    @property
    def seconds_a_step(self) -> float:
        """The mean over all steps that were read."""
        return self.all_seconds / self.all_steps


def read_metrics(out_dir: str) -> list[dict]:
    """The lines of out_dir's metrics.jsonl. UserError where there is none."""
    path = Path(out_dir) / METRICS
    try:
        if lines := [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]:
            return lines
        raise UserError(f"{path} holds no figures yet: wait for the first evaluation")
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}; train.py writes it into its out_dir") from None
    except ValueError:
        raise UserError(f"{path} is damaged: a line of it is not JSON") from None


def clock(seconds: float) -> str:
    """A duration as people read it: 75 -> 1:15, 3700 -> 1:01:40."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def progress(line: str, *, passing: bool) -> None:
    """Prints a line of progress. On a terminal a passing one is overwritten by the next; in a file each one stays."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K{line}", end="" if passing else "\n", flush=True)
    else:
        print(line, flush=True)
