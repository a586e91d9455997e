"""What a run does with the files of an earlier one, and with a dataset that changes while it trains."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import OTHER, STORY, losses, written_and_stopped_at

from llm import train
from llm.storage import checkpoint
from llm.text import dataset, tokenizer
from llm.training.batches import Batches
from llm.training.metrics import read_metrics
from llm.training.stopping import StopRule

plan_update = train.plan_update


def names(folder) -> set[str]:
    return {path.name for path in Path(folder).iterdir()} - {".lock"}


def test_a_new_run_puts_the_files_of_earlier_ones_aside(learn, capsys):
    """Each into a folder of its own, which is an out_dir: the run there can be resumed."""
    measured = {"windows.jsonl", "slips_ckpt_init.jsonl", "control_1.jsonl", "report.html", "recall_ckpt_init.json"}
    for seed in (1, 2, 3):
        learn(seed=seed, max_iters=2)
        for name in (*measured, "notes.txt"):  # of the earlier model, they would be taken for the new one's
            Path("out", name).write_text("of a model")
    learn(seed=4, max_iters=2)
    assert not measured & names("out") and "notes.txt" in names("out") and names("out/previous_3") >= measured
    assert "out held an earlier run: its files are now in out/previous_2; delete them" in capsys.readouterr().err
    for folder in ("out/previous_1", "out/previous_2", "out/previous_3"):
        assert names(folder) >= {"ckpt.pt", "ckpt_init.pt", "metrics.jsonl"}
    assert len({losses(read_metrics(folder))[0] for folder in ("out", "out/previous_1", "out/previous_2")}) == 3
    first = learn(out_dir="out/previous_1", seed=1, max_iters=3, init_from="resume")
    assert len(losses(first)) == 3


def test_an_interrupted_run_is_not_resumed_after_a_newer_one_was_begun(learn, prepare, monkeypatch):
    """Only ckpt_last.pt was there, which a new run left where it was; auto went on from it after a kill."""
    prepare("held", val_fraction=0.2)
    settings = dict(dataset="held", always_save_checkpoint=False, eval_interval=100)
    with monkeypatch.context() as patch:
        patch.setattr(StopRule, "interrupted", lambda self: self.progress.iter_num == 3)
        patch.setattr(train.outputs, "close_run", lambda run, resume_command: 130)
        learn(**settings)
    assert names("out") == {"ckpt_init.pt", "ckpt_last.pt", "metrics.jsonl"}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "write", written_and_stopped_at(0))
        learn(**settings, learning_rate=5e-3)
    assert not checkpoint.resumable(Path("out")) and "ckpt_last.pt" in names("out/previous_1")


def interrupted_at_step_2(run, cfg):
    """In place of train.plan_update: a kill."""
    if run.progress.iter_num == 2:
        raise KeyboardInterrupt
    return plan_update(run, cfg)


def test_a_run_that_has_saved_nothing_leaves_its_figures(learn, monkeypatch):
    """Its first weights are made again, so that a machine that restarts again and again does not fill its disk."""
    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(train, "plan_update", interrupted_at_step_2)
            learn(init_from="auto")
    assert names("out") == {"ckpt_init.pt", "metrics.jsonl", "previous_1"}
    assert names("out/previous_1") == {"metrics.jsonl"} and len(read_metrics("out/previous_1")) == 3


def test_a_run_that_no_longer_keeps_the_best_goes_on_from_the_latest(learn, prepare):
    """ckpt_last.pt stayed behind, and the next resume would have gone back to it."""
    prepare("held", val_fraction=0.2)
    settings = dict(dataset="held", eval_interval=2)
    learn(**settings, max_iters=4, always_save_checkpoint=False)
    learn(**settings, max_iters=6, init_from="resume")
    assert names("out") >= {"ckpt.pt", "ckpt_best.pt"} and "ckpt_last.pt" not in names("out")
    assert checkpoint.read(checkpoint.latest("out"), ())["iter_num"] == 6


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_dataset_may_be_changed_or_removed_while_a_run_trains(learn, data, monkeypatch, capsys, in_memory):
    """A large text was read from the new files, or ended in a traceback when they were gone."""
    if not in_memory:
        monkeypatch.setattr(dataset, "IN_MEMORY", 0)
    settings = dict(block_size=128, max_iters=6, eval_interval=3)
    whole = learn(out_dir="whole", **settings)
    report = json.loads(Path("whole/recall.json").read_text())
    next_batch, n_batches = Batches.next, []

    def change_dataset(self):
        n_batches.append(1)
        if len(n_batches) == 3:
            options = dict(val_fraction=0.0, source={}, train_command=None)
            dataset.write_dataset(data / "story", STORY[6000:9000] + OTHER, tokenizer.gpt2(), **options)
        elif len(n_batches) == 5:
            shutil.rmtree(data / "story")
        return next_batch(self)

    monkeypatch.setattr(Batches, "next", change_dataset)
    capsys.readouterr()
    lines = learn(**settings)
    assert [line.get("loss") for line in lines] == [line.get("loss") for line in whole] and len(n_batches) == 6
    assert json.loads(Path("out/recall.json").read_text()) == report
    assert "recall@50/50" in capsys.readouterr().out
