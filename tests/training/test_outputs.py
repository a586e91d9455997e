"""What a run does with the files of an earlier one, and with a dataset that changes while it trains."""

import contextlib
import itertools
import json
import shutil
from pathlib import Path

import pytest
from conftest import OTHER, STORY, losses, written_and_stopped_at

from llm import train
from llm.configurator import UserError
from llm.files import locked_folder
from llm.storage import checkpoint
from llm.text import dataset, tokenizer
from llm.training import restoring, saving
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


def removed(folder: Path) -> None:
    shutil.rmtree(folder)


def moved(folder: Path) -> None:
    folder.rename("elsewhere")


def replaced(folder: Path) -> None:
    """By a folder with the files of another run."""
    folder.rename("elsewhere")
    shutil.copytree("other", folder)
    (folder / ".lock").write_text("1")


def without_figures(folder: Path) -> None:
    (folder / "metrics.jsonl").unlink()


@pytest.mark.parametrize("change", [removed, moved, replaced, without_figures])
def test_an_out_dir_that_is_removed_while_a_run_trains_is_made_again(learn, monkeypatch, capsys, change):
    """All saves were refused, and a minute after its end the run was lost; figures went into a removed file."""
    whole = learn(out_dir="whole")
    other = learn(out_dir="other", seed=5)
    with monkeypatch.context() as patch:

        def changed(run, cfg):
            if run.progress.iter_num == 7:
                change(run.out_dir)
            return plan_update(run, cfg)

        patch.setattr(train, "plan_update", changed)
        capsys.readouterr()
        learn()
    told = capsys.readouterr().err
    assert ("out was removed, moved or replaced while this run trains" in told) == (change is not without_figures)
    assert losses(read_metrics("out")) == losses(whole)
    saved = [checkpoint.read(Path(folder, "ckpt.pt"), ("model",)) for folder in ("out", "whole")]
    assert checkpoint.digest(saved[0]["model"]) == checkpoint.digest(saved[1]["model"])
    assert losses(learn(max_iters=12, init_from="resume")) == losses(
        learn(out_dir="whole", max_iters=12, init_from="resume")
    )
    if change is replaced:
        assert losses(read_metrics("out/previous_1")) == losses(other)


def test_a_file_system_that_gives_its_folders_other_numbers_loses_nothing(learn, monkeypatch, capsys):
    whole = learn(out_dir="whole")
    numbers = itertools.count()
    monkeypatch.setattr(restoring, "file_identity", lambda path: (0, next(numbers)))
    assert losses(learn()) == losses(whole)
    assert "removed" not in capsys.readouterr().err


def test_a_folder_in_place_of_out_dir_that_another_training_writes_to_is_left_alone(learn, monkeypatch, capsys):
    learn(out_dir="other", seed=5)
    theirs = Path("other/ckpt.pt").read_bytes()
    monkeypatch.setattr(saving.time, "sleep", lambda seconds: None)
    with contextlib.ExitStack() as stack:

        def changed(run, cfg):
            if run.progress.iter_num == 7:
                replaced(run.out_dir)
                stack.enter_context(locked_folder(Path("out")))
                Path("out/.lock").write_text("1")  # as if another process had
            return plan_update(run, cfg)

        monkeypatch.setattr(train, "plan_update", changed)
        with pytest.raises(UserError, match="being written to by another training.*since the last checkpoint"):
            learn()
    assert Path("out/ckpt.pt").read_bytes() == theirs and "previous_1" not in names("out")
