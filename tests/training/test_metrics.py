"""Figures are written once each."""

import pytest

from llm.configurator import UserError, require
from llm.training import metrics


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path):
    with metrics.Metrics(tmp_path, keep_bytes=0) as log:
        log.write(0, loss=3.0, val_loss=None)
        size = log.length
        log.write(1, loss=2.0)
    with metrics.Metrics(tmp_path, keep_bytes=size) as log:
        log.write(1, loss=2.5, grad_norm=float("inf"))
    assert metrics.read_metrics(str(tmp_path)) == [{"step": 0, "loss": 3.0}, {"step": 1, "loss": 2.5}]


def test_a_metrics_file_that_is_shorter_than_its_checkpoint_says_is_not_padded(tmp_path):
    with metrics.Metrics(tmp_path, keep_bytes=1000) as log:
        log.write(7, loss=1.0)
    assert metrics.read_metrics(str(tmp_path)) == [{"step": 7, "loss": 1.0}]


@pytest.mark.parametrize("seconds, text", [(0, "0:00"), (75.9, "1:15"), (3700, "1:01:40"), (360000, "100:00:00")])
def test_clock(seconds, text):
    assert metrics.clock(seconds) == text


def test_a_missing_extra_is_named():
    with pytest.raises(UserError, match=r"the extra plot, which is not installed.*pip install -e .*\[plot\]"):
        require("nosuchpackage.sub", "plot")


def test_lines_that_a_full_disk_refuses_are_written_later(tmp_path, monkeypatch):
    """A file on a full disk takes a part of what is written, then nothing; a run must not stumble over its figures."""
    with metrics.Metrics(tmp_path, keep_bytes=0) as log:
        log.write(0, loss=3.0)
        real = log.file

        class Full:
            def __getattr__(self, name):
                return getattr(real, name)

            def write(self, data):
                return real.write(data[: len(data) // 2])

        log.file = Full()
        log.write(1, loss=2.0)
        with pytest.raises(UserError, match="cannot write .*metrics.jsonl: No space left on device"):
            log.sync()
        assert [line["step"] for line in metrics.read_metrics(str(tmp_path))] == [0]
        log.file = real
        log.write(2, loss=1.0)
        log.sync()
        assert log.length == (tmp_path / "metrics.jsonl").stat().st_size
    assert [line["step"] for line in metrics.read_metrics(str(tmp_path))] == [0, 1, 2]


@pytest.mark.parametrize("torn", ["", "{", '{"step": 2, "lo', '{"step": 2, "loss": 1.0}'])
def test_a_torn_last_line_is_skipped_and_a_whole_one_is_read(tmp_path, torn):
    """A run that is being watched may have written a part of its line."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "loss": 3.0}\n{"step": 1, "loss": 2.0}\n' + torn)
    assert len(metrics.read_metrics(tmp_path)) == (3 if torn.endswith("}") else 2)


def test_a_line_in_the_middle_that_is_no_json_is_an_error(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(UserError, match="is damaged: a line of it is not a step with its figures"):
        metrics.read_metrics(tmp_path)


LINES = ["5", "[1]", "null", '{"a": 1}', '{"step": "x"}', '{"step": 1, "loss": "x"}', '{"step": 1, "loss": [1, 2]}']
LINES += ['{"step": 1, "loss": 1e999}', '{"step": 1, "loss": NaN}', '{"step": 1, "loss": null}', "[" * 100_000]


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_other_json_is_an_error(tmp_path, line):
    """plot.py ended with a TypeError, KeyError, ValueError or RecursionError."""
    (tmp_path / "metrics.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match="is damaged: a line of it is not a step with its figures"):
        metrics.read_metrics(tmp_path)


def test_metrics_are_not_written_through_a_link(tmp_path):
    """A stranger's out_dir had metrics.jsonl as a link to a file elsewhere, which a run then overwrote."""
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "metrics.jsonl").symlink_to("victim")
    with pytest.raises(
        UserError, match="cannot write .*metrics.jsonl: metrics.jsonl is a symbolic link, which is not followed"
    ):
        metrics.open_metrics(tmp_path, keep_bytes=0, wandb=None, tensorboard=False)
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_a_timer_adds_up_each_kind_of_work_and_its_laps(monkeypatch):
    now = iter([0.0, 2.0, 10.0, 11.0, 20.0, 24.0])
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(now))
    timer = metrics.Timer()
    with timer.measure("updates"):
        pass
    with timer.measure("updates", count=0):
        pass
    assert timer.lap("updates") == (3.0, 1)
    with pytest.raises(ZeroDivisionError), timer.measure("updates"):
        1 / 0  # noqa: B018 (what took time before an error counts, too)
    assert timer.lap("updates") == (4.0, 1) and timer.total("updates") == 7.0 and timer.total("saving") == 0.0
