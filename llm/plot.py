"""Draw loss, recall and learning rate of a training from its metrics.jsonl into a picture.

python plot.py --out_dir=out-tale
python plot.py --out_dir=out-tale --over=seconds --output=recall.svg
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llm.configurator import UserError, require, run_script
from llm.training.metrics import read_metrics


@dataclass(frozen=True)
class Settings:
    out_dir: str = "out"  # the folder that train.py wrote
    output: str | None = None  # the picture; None = metrics.png in out_dir
    over: Literal["step", "epoch", "seconds"] = "step"  # what is drawn from left to right


def main(cfg: Settings) -> None:
    lines = read_metrics(cfg.out_dir)
    matplotlib = require("matplotlib", "plot")
    matplotlib.use("Agg")  # draws into files, needs no screen
    plt = require("matplotlib.pyplot", "plot")

    def points(name: str) -> tuple[list, list]:
        """(places from left to right, values) of the lines that have the figure."""
        found = [(line[cfg.over], line[name]) for line in lines if name in line]
        return [place for place, _ in found], [value for _, value in found]

    figure, (top, middle, bottom) = plt.subplots(3, 1, sharex=True, figsize=(8, 9), height_ratios=(3, 2, 1))
    top.plot(*points("loss"), linewidth=1, label="loss")
    if points("val_loss")[0]:
        top.plot(*points("val_loss"), marker="o", label="val loss")
    top.set(ylabel="loss, nats a token", yscale="log", title=f"{Path(cfg.out_dir).name}: {lines[-1]['step']:,} updates")
    top.legend()
    middle.plot(*points("recall"), marker="o", color="tab:green")
    middle.set(ylabel="recall@50/50", ylim=(-0.03, 1.03))
    bottom.plot(*points("lr"), color="tab:gray")
    bottom.set(ylabel="learning rate", xlabel={"step": "updates", "epoch": "epochs", "seconds": "seconds"}[cfg.over])
    for axes in (top, middle, bottom):
        axes.grid(alpha=0.3)
    path = Path(cfg.output) if cfg.output else Path(cfg.out_dir) / "metrics.png"
    try:
        figure.savefig(path, dpi=120, bbox_inches="tight")
    except (OSError, ValueError) as e:  # no such folder, a full disk; an ending that is no picture's
        raise UserError(f"cannot write {path}: {e}") from None
    print(f"wrote {path}")


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
