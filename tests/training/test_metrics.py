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
    with pytest.raises(UserError, match=r'the extra plot, which is not installed.*pip install -e ".\[plot\]"'):
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
            log.settle()
        assert [line["step"] for line in metrics.read_metrics(str(tmp_path))] == [0]
        log.file = real
        log.write(2, loss=1.0)
        log.settle()
        assert log.length == (tmp_path / "metrics.jsonl").stat().st_size
    assert [line["step"] for line in metrics.read_metrics(str(tmp_path))] == [0, 1, 2]
