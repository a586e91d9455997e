"""Figures are drawn."""

import json

import pytest

from llm import plot
from llm.configurator import UserError
from llm.training import metrics

LINES = [
    {"step": 0, "epoch": 0.0, "val_loss": 9.0, "recall": 0.0, "seconds": 0.1},
    {"step": 0, "epoch": 0.0, "loss": 10.0, "lr": 1e-3, "seconds": 0.2},
    {"step": 5, "epoch": 1.0, "loss": 2.0, "lr": 1e-4, "seconds": 30.0},
    {"step": 6, "epoch": 1.2, "val_loss": 3.0, "recall": 0.5, "seconds": 31.5},
]


@pytest.fixture
def out_dir(tmp_path):
    (tmp_path / metrics.METRICS).write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return tmp_path


def test_a_plot_is_a_picture(out_dir, capsys):
    pytest.importorskip("matplotlib")
    plot.main(plot.Settings(out_dir=str(out_dir)))
    assert (out_dir / "metrics.png").read_bytes().startswith(b"\x89PNG") and "metrics.png" in capsys.readouterr().out
    for over, label in (("step", b"updates"), ("epoch", b"epochs"), ("seconds", b"seconds")):
        plot.main(plot.Settings(out_dir=str(out_dir), output=str(out_dir / "curve.svg"), over=over))
        assert b"<svg" in (picture := (out_dir / "curve.svg").read_bytes()) and b"<!-- " + label + b" -->" in picture
    for output in (out_dir / "nowhere" / "a.png", out_dir / "a.xyz"):
        with pytest.raises(UserError, match="cannot write"):
            plot.main(plot.Settings(out_dir=str(out_dir), output=str(output)))


def test_a_plot_without_metrics_says_who_writes_them(tmp_path):
    with pytest.raises(UserError, match="cannot read .*metrics.jsonl.*train.py writes it"):
        plot.main(plot.Settings(out_dir=str(tmp_path)))
    for content, message in (("{", "damaged"), ("", "holds no figures yet")):
        (tmp_path / metrics.METRICS).write_text(content)
        with pytest.raises(UserError, match=message):
            plot.main(plot.Settings(out_dir=str(tmp_path)))
