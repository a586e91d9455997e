"""Where a training's figures go: one progress line, metrics.jsonl, and, where asked, wandb or TensorBoard.

metrics.jsonl holds one object a line. `step` counts the updates made before the figures were taken; `tokens_per_s` and
`seconds` are the only fields that differ between two runs of the same seed.
"""

import importlib
import json
import sys
from pathlib import Path

from llm.configurator import UserError

METRICS = "metrics.jsonl"


def require(module: str, extra: str):
    """The imported module of an optional extra. UserError that names the extra where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0]
        raise UserError(f'{package} is not installed, which this needs; type: pip install -e ".[{extra}]"') from None


class Metrics:
    """Writes figures to metrics.jsonl in out_dir and to the optional services."""

    def __init__(self, out_dir: Path, *, keep_bytes: int, wandb_run=None, tensorboard=None):
        """keep_bytes: how much of an existing file belongs to this run (a resumed one's), the rest is dropped."""
        self.file = open(out_dir / METRICS, "a+", encoding="utf-8")  # noqa: SIM115 (closed by __exit__)
        self.file.truncate(keep_bytes)
        self.wandb_run, self.tensorboard = wandb_run, tensorboard

    def write(self, step: int, **figures: float | None) -> None:
        """One line; figures that are None are left out."""
        figures = {name: value for name, value in figures.items() if value is not None}
        self.file.write(json.dumps({"step": step, **figures}) + "\n")
        self.file.flush()
        if self.wandb_run is not None:
            self.wandb_run.log(figures, step=step)
        if self.tensorboard is not None:
            for name, value in figures.items():
                self.tensorboard.add_scalar(name, value, step)

    def size(self) -> int:
        """Bytes written so far: what a checkpoint remembers."""
        return self.file.seek(0, 2)

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *_) -> None:
        self.file.close()
        if self.wandb_run is not None:
            self.wandb_run.finish()
        if self.tensorboard is not None:
            self.tensorboard.close()


def read_metrics(out_dir: str) -> list[dict]:
    """The lines of out_dir's metrics.jsonl. UserError where there is none."""
    path = Path(out_dir) / METRICS
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
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
