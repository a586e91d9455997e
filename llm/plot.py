"""Draw the loss, recall and learning rate of a training into a picture.

    python plot.py --out_dir=out-tale
    python plot.py --out_dir=out-tale --over=seconds --output=recall.svg

The figures come from metrics.jsonl in out_dir, also while train.py is still running. Needs the extra plot.
"""

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package, installed or not
from llm.configurator import UserError, require, run_script
from llm.files import write_atomic
from llm.training.metrics import read_metrics

X_LABELS = {"step": "updates", "epoch": "epochs", "seconds": "seconds"}


@dataclass(frozen=True)
class Settings:
    out_dir: str = "out"  # the folder that train.py wrote
    output: str | None = None  # the picture; None = metrics.png in out_dir
    over: Literal["step", "epoch", "seconds"] = "step"  # the unit of the x axis


def points(lines: list[dict], x: str, y: str) -> tuple[list[float], list[float]]:
    """The values of x and of y in the lines of metrics.jsonl that have both."""
    found = [(line[x], line[y]) for line in lines if x in line and y in line]
    return [pair[0] for pair in found], [pair[1] for pair in found]


def draw(lines: list[dict], x: str, title: str):
    """A matplotlib figure with three panels: loss, recall, learning rate; x: a key of X_LABELS."""
    figure = require("matplotlib.figure", "plot").Figure(figsize=(8, 9))
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 1))
    top.plot(*points(lines, x, "loss"), linewidth=1, label="loss")
    if any("val_loss" in line for line in lines):
        top.plot(*points(lines, x, "val_loss"), marker="o", label="val loss")
    top.set(ylabel="loss, nats a token", yscale="log", title=title)
    top.legend()
    estimated = any("known" in line for line in lines)
    if estimated:
        known = points(lines, x, "known")
        middle.plot(*known, linewidth=1, color="tab:olive", label="recall, estimated from the training batches")
    style = "o" if estimated else "o-"  # a line between two measurements would hide the estimates
    middle.plot(*points(lines, x, "recall"), style, color="tab:green", label="recall@50/50")
    middle.set(ylabel="recall@50/50", ylim=(-0.03, 1.03))
    middle.legend()
    bottom.plot(*points(lines, x, "lr"), color="tab:gray")
    bottom.set(ylabel="learning rate", xlabel=X_LABELS[x])
    for axes in (top, middle, bottom):
        axes.grid(alpha=0.3)
    return figure


def main(cfg: Settings) -> None:
    lines = read_metrics(cfg.out_dir)
    figure = draw(lines, cfg.over, title=f"{Path(cfg.out_dir).name}: {lines[-1]['step']:,} updates")
    path, picture = Path(cfg.output) if cfg.output else Path(cfg.out_dir) / "metrics.png", io.BytesIO()
    try:
        figure.savefig(picture, format=path.suffix[1:] or "png", dpi=120, bbox_inches="tight")
    except ValueError as e:  # a file name extension that is no picture's
        raise UserError(f"cannot write {path}: {e}") from None
    write_atomic(path, picture.getvalue())
    print(f"wrote {path}")


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
