"""plot.py draws the figures of metrics.jsonl, complete or not."""

import json

import pytest

from llm import plot
from llm.configurator import UserError
from llm.training import metrics

LINES = [
    {"step": 0, "epoch": 0.0, "val_loss": 9.0, "recall": 0.0, "seconds": 0.1},
    {"step": 0, "epoch": 0.0, "loss": 10.0, "lr": 1e-3, "seconds": 0.2},
    {"step": 3, "epoch": 0.6, "loss": 5.0, "lr": 1e-3, "known": 0.1, "seconds": 20.0},
    {"step": 5, "epoch": 1.0, "loss": 2.0, "lr": 1e-4, "known": 0.4, "seconds": 30.0},
    {"step": 6, "epoch": 1.2, "val_loss": 3.0, "recall": 0.5, "seconds": 31.5},
]
ESTIMATE = "recall, estimated from the training batches"


@pytest.fixture
def out_dir(tmp_path):
    (tmp_path / metrics.METRICS).write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return tmp_path


def curves(lines, x="step"):
    """The curves of the recall panel by label: (values of x, values of y)."""
    panel = plot.draw(lines, x, "title").axes[1]
    return {curve.get_label(): (list(curve.get_xdata()), list(curve.get_ydata())) for curve in panel.get_lines()}


def test_a_plot_is_a_picture(out_dir, capsys):
    pytest.importorskip("matplotlib")
    plot.main(plot.Settings(out_dir=str(out_dir)))
    assert (out_dir / "metrics.png").read_bytes().startswith(b"\x89PNG") and "metrics.png" in capsys.readouterr().out
    for over, label in (("step", b"updates"), ("epoch", b"epochs"), ("seconds", b"seconds")):
        plot.main(plot.Settings(out_dir=str(out_dir), output=str(out_dir / "curve.svg"), over=over))
        assert b"<svg" in (picture := (out_dir / "curve.svg").read_bytes()) and b"<!-- " + label + b" -->" in picture


def test_a_plot_that_cannot_be_written_is_a_users_mistake(out_dir):
    pytest.importorskip("matplotlib")
    for output in (out_dir / "nowhere" / "a.png", out_dir / "a.xyz"):
        with pytest.raises(UserError, match="cannot write"):
            plot.main(plot.Settings(out_dir=str(out_dir), output=str(output)))


def test_a_picture_is_not_written_through_a_link(out_dir):
    pytest.importorskip("matplotlib")
    (out_dir / "victim").write_bytes(b"precious")
    (out_dir / "metrics.png").symlink_to("victim")
    plot.main(plot.Settings(out_dir=str(out_dir)))
    assert (out_dir / "victim").read_bytes() == b"precious"
    assert (out_dir / "metrics.png").read_bytes().startswith(b"\x89PNG")


def test_recall_is_drawn_as_measured_and_as_estimated_between_measurements():
    pytest.importorskip("matplotlib")
    assert curves(LINES) == {ESTIMATE: ([3, 5], [0.1, 0.4]), "recall@50/50": ([0, 6], [0.0, 0.5])}
    assert curves(LINES, "seconds")[ESTIMATE] == ([20.0, 30.0], [0.1, 0.4])


def test_metrics_without_estimates_have_no_such_curve():
    pytest.importorskip("matplotlib")
    assert list(curves([line for line in LINES if "known" not in line])) == ["recall@50/50"]


def test_an_incomplete_last_line_is_left_out(out_dir):
    """As train.py, which is still running, or was killed, may leave it."""
    pytest.importorskip("matplotlib")
    with open(out_dir / metrics.METRICS, "a") as f:
        f.write('\n{"step": 7, "epo')  # an empty line, as a full disk may leave it, is left out as well
    plot.main(plot.Settings(out_dir=str(out_dir)))
    assert (out_dir / "metrics.png").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"step": 1\n{"step": 2, "loss": 1.0}\n', "damaged: a line of it is not a step with its figures"),
        ("", "holds no figures yet"),
        ('{"st', "holds no figures yet"),
    ],
)
def test_metrics_that_cannot_be_drawn_are_a_users_mistake(tmp_path, content, message):
    (tmp_path / metrics.METRICS).write_text(content)
    with pytest.raises(UserError, match=message):
        plot.main(plot.Settings(out_dir=str(tmp_path)))


def test_the_message_about_missing_metrics_names_the_script_that_writes_them(tmp_path):
    with pytest.raises(UserError, match="cannot read .*metrics.jsonl.*train.py writes it"):
        plot.main(plot.Settings(out_dir=str(tmp_path)))
