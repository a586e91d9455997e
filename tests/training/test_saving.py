"""A full disk delays the checkpoints of a run; it loses nothing, and does not end the run."""

import pytest
import torch

from llm.configurator import UserError
from llm.training import saving
from llm.training.saving import TRIES, WAIT, Saver


class Disk:
    """Where checkpoints are written; it refuses while `full` holds. `files`: name -> the weight that was saved."""

    def __init__(self):
        self.full, self.files, self.writes = False, {}, []

    def write(self, path, content):
        self.writes.append(path.name)
        if self.full:
            raise UserError(f"cannot write {path}: No space left on device")
        self.files[path.name] = float(content["weight"])


@pytest.fixture
def disk(monkeypatch):
    disk = Disk()
    monkeypatch.setattr(saving.checkpoint, "write", disk.write)
    return disk


class Training:
    """A model of one weight, which "learns" in place; and what its Saver tells the user, and how long it waits."""

    def __init__(self, out_dir, **options):
        self.weight, self.told, self.waited, self.synced = torch.zeros(()), [], [], 0
        options = dict(keep_best=False, enabled=True, sync=self.sync) | options
        self.saver = Saver(out_dir, lambda: {"weight": self.weight}, notify=self.told.append, **options)

    def sync(self):
        self.synced += 1

    def evaluated(self, weight, *, improved):
        """After some updates, an evaluation, which saves."""
        self.weight.fill_(weight)
        self.saver.save_evaluated(improved=improved)
        self.saver.warn()


@pytest.fixture
def training(disk, tmp_path, monkeypatch):
    """training(keep_best=..., ...) with a clock that does not wait."""

    def training(**options):
        made = Training(tmp_path, **options)
        monkeypatch.setattr(saving.time, "sleep", made.waited.append)
        return made

    return training


def test_the_latest_state_is_ckpt(training, disk):
    run = training()
    run.evaluated(1, improved=True)
    run.evaluated(2, improved=False)
    run.saver.finish()
    assert disk.files == {"ckpt.pt": 2.0} and run.told == run.waited == []


def test_with_keep_best_the_best_state_is_ckpt_and_the_latest_ckpt_last(training, disk):
    run = training(keep_best=True)
    run.evaluated(1, improved=True)
    assert disk.files == {"ckpt.pt": 1.0, "ckpt_last.pt": 1.0}
    run.evaluated(2, improved=False)
    assert disk.files == {"ckpt.pt": 1.0, "ckpt_last.pt": 2.0}


def test_figures_are_on_the_disk_before_a_checkpoint_that_counts_their_bytes(training, disk):
    run = training()
    run.saver.write("ckpt_init.pt")
    run.evaluated(1, improved=True)
    assert run.synced == 2 == len(disk.writes)


def test_a_full_disk_is_reported_and_training_goes_on(training, disk, tmp_path):
    run = training()
    run.evaluated(1, improved=False)
    disk.full = True
    run.evaluated(2, improved=False)
    assert run.told == [
        f"cannot write {tmp_path}/ckpt.pt: No space left on device; training goes on, and saves again at its next "
        "evaluation"
    ]
    disk.full = False
    run.evaluated(3, improved=False)
    run.saver.finish()
    assert disk.files == {"ckpt.pt": 3.0} and len(run.told) == 1 and run.waited == []


def test_figures_that_the_disk_refuses_are_reported_like_a_checkpoint(training, disk):
    def sync():
        raise UserError("cannot write metrics.jsonl: No space left on device")

    run = training(sync=sync)
    run.evaluated(1, improved=False)
    assert run.told == [
        "cannot write metrics.jsonl: No space left on device; training goes on, and saves again at its next evaluation"
    ]
    assert disk.writes == []


def test_the_best_state_that_the_disk_refused_is_written_later_as_it_was(training, disk):
    """Training changes the weights in place, so a copy is kept."""
    run = training(keep_best=True)
    disk.full = True
    run.evaluated(1, improved=True)
    disk.full = False
    run.evaluated(2, improved=False)
    assert disk.files == {"ckpt.pt": 1.0, "ckpt_last.pt": 2.0}
    run.evaluated(3, improved=False)
    assert disk.writes == ["ckpt.pt", "ckpt_last.pt"] * 2 + ["ckpt_last.pt"]  # the best once


def test_the_best_state_that_the_disk_refused_is_written_after_a_signal(training, disk):
    """A signal has the latest state saved and the run finished, without another evaluation."""
    run = training(keep_best=True)
    disk.full = True
    run.evaluated(1, improved=True)
    disk.full = False
    run.weight.fill_(2)
    run.saver.save_latest()
    run.saver.finish()
    assert disk.files == {"ckpt.pt": 1.0, "ckpt_last.pt": 2.0}


def test_a_better_state_replaces_one_that_the_disk_refused(training, disk):
    run = training(keep_best=True)
    disk.full = True
    run.evaluated(1, improved=True)
    run.evaluated(2, improved=True)
    disk.full = False
    run.evaluated(3, improved=False)
    assert disk.files == {"ckpt.pt": 2.0, "ckpt_last.pt": 3.0}
    run.evaluated(4, improved=True)
    run.evaluated(5, improved=False)
    assert disk.files == {"ckpt.pt": 4.0, "ckpt_last.pt": 5.0}


def test_the_refusal_of_the_best_state_is_reported_although_the_latest_was_saved(training, disk, monkeypatch):
    run = training(keep_best=True)

    def write(path, content):
        disk.full = path.name == "ckpt.pt"
        disk.write(path, content)

    monkeypatch.setattr(saving.checkpoint, "write", write)
    run.evaluated(1, improved=True)
    assert disk.files == {"ckpt_last.pt": 1.0}
    assert "ckpt.pt: No space left on device; training goes on" in run.told[0] and len(run.told) == 1


def test_at_the_end_saving_is_tried_again_until_there_is_room(training, disk, monkeypatch):
    run = training(keep_best=True)
    disk.full = True
    run.evaluated(1, improved=True)
    run.weight.fill_(2)
    run.saver.save_latest()
    run.told.clear()

    def sleep(seconds):
        run.waited.append(seconds)
        disk.full = len(run.waited) < 3  # somebody makes room meanwhile

    monkeypatch.setattr(saving.time, "sleep", sleep)
    run.saver.finish()
    assert disk.files == {"ckpt.pt": 1.0, "ckpt_last.pt": 2.0} and run.waited == [WAIT] * 3
    assert all(line.endswith(f"; make room, it is tried again in {WAIT} seconds") for line in run.told)
    assert len(run.told) == 3 and run.saver.error is None


def test_a_disk_that_stays_full_ends_with_an_error_that_says_what_is_lost(training, disk, tmp_path):
    run = training()
    run.evaluated(1, improved=False)
    disk.full = True
    run.evaluated(2, improved=False)
    with pytest.raises(UserError) as error:
        run.saver.finish()
    assert str(error.value) == (
        f"cannot write {tmp_path}/ckpt.pt: No space left on device; what was learned since the last checkpoint in "
        f"{tmp_path} is lost"
    )
    assert run.waited == [WAIT] * TRIES and disk.files == {"ckpt.pt": 1.0}


def test_the_first_checkpoint_must_be_written(training, disk):
    disk.full = True
    with pytest.raises(UserError, match="No space left on device"):
        training().saver.write("ckpt_init.pt")


def test_other_ranks_write_nothing(training, disk):
    run = training(keep_best=True, enabled=False)
    run.saver.write("ckpt_init.pt")
    run.evaluated(1, improved=True)
    run.saver.finish()
    assert disk.writes == [] and run.synced == 0
