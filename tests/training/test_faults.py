"""Each call that writes fails once, or is the last before a kill or a power cut: the resumed run is the same.

After SQLite's tests of I/O errors and crashes (sqlite.org/testing.html): the first operation, the second, ... of a
whole short run, on a disk that is simulated in this process.
"""

from pathlib import Path

import pytest
from conftest import STORY, timeless
from disk import Disk, write_image

from llm.configurator import UserError
from llm.storage import checkpoint
from llm.text import tokenizer
from llm.training import saving, writing_phase
from llm.training.metrics import read_metrics
from llm.training.stopping import StopRule

TEXT = STORY[:1200]
SHAPE = dict(n_layer=1, n_embd=16, block_size=16, batch_size=2, dropout=0.1)
SHORT = SHAPE | dict(dataset="letters", max_iters=2, eval_interval=1)
BEST = SHAPE | dict(dataset="held", max_iters=4, eval_interval=2, always_save_checkpoint=False)
WRITTEN = dict(dataset="verse", n_layer=3, n_head=4, n_embd=128, block_size=128, weights="written", max_iters=None)
WRITTEN |= dict(target_recall=0.99, lr_decay_iters=2, eval_interval=2)


@pytest.fixture
def letters(prepare):
    """Small datasets, so that a checkpoint is written in a few operations."""
    prepare("letters", TEXT, tokenizer.characters(TEXT))
    prepare("held", TEXT, tokenizer.characters(TEXT), val_fraction=0.2)


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """disk() stands before the folder out."""
    with monkeypatch.context() as patch:
        disk = Disk(tmp_path / "out", patch)
        yield disk
        disk.close()


def state(out_dir):
    """Everything that a run leaves, except times."""
    found = {}
    for path in Path(out_dir).glob("ckpt*.pt"):
        content = checkpoint.read(path, checkpoint.PARTS)
        loop = {k: v for k, v in content["loop"].items() if k not in ("seconds", "metrics_bytes")}
        parts = [checkpoint.digest(content[part]) for part in checkpoint.PARTS]
        found[path.name] = parts, loop, content["iter_num"], content["best_val_loss"]
    return found, timeless(read_metrics(out_dir))


def crash_images(disk, run):
    """The distinct images of a run's folder before each of its operations, and what was about to be done then."""
    images = {}

    def watch():
        for kind, image in disk.images().items():
            ignored = {path: b"" if path.endswith((".tmp", ".lock")) else content for path, content in image.items()}
            images.setdefault(tuple(sorted(ignored.items())), f"{kind} at operation {len(disk.operations)}")

    disk.watch(watch)
    run()
    watch()
    disk.watcher = None
    return {when: dict(image) for image, when in images.items()}


def check_crashes(learn, disk, settings):
    """Resume after each crash of a run. Returns how many differ."""
    images = crash_images(disk, lambda: learn(out_dir="out", **settings))
    whole = state("out")
    for number, (when, image) in enumerate(images.items()):
        write_image(Path(f"crash{number}"), image)
        learn(out_dir=f"crash{number}", init_from="auto", **settings)
        assert state(f"crash{number}") == whole, when
    return len(images)


@pytest.mark.parametrize("settings", [SHORT, pytest.param(BEST, marks=pytest.mark.slow)])
def test_a_run_that_crashed_at_any_operation_goes_on_to_the_same_end(learn, letters, disk, settings):
    assert check_crashes(learn, disk, settings) > 15


@pytest.mark.slow
@pytest.mark.parametrize("n_written", [3, 5, 99])
def test_a_run_that_crashed_while_writing_goes_on_to_the_same_end(learn, prepare, disk, monkeypatch, n_written):
    """After the blocks, after two more rounds of the last one, and where gradient descent takes over."""
    prepare("verse", STORY[:2400])
    monkeypatch.setattr(writing_phase, "SAVE_INTERVAL", -1)
    reached = StopRule.target_reached
    monkeypatch.setattr(
        StopRule, "target_reached", lambda self, model: self.progress.n_written >= n_written and reached(self, model)
    )
    assert check_crashes(learn, disk, WRITTEN) > 15


def operations_of(learn, disk, settings):
    """What a run does to its folder, and what it leaves."""
    disk.fail(None)
    learn(out_dir="out", **settings)
    return disk.operations, state("out")


def check_failure(learn, disk, number, lasting, settings, whole):
    """Let one operation, or all from it on, fail; the run may end with one line, and goes on to the same end."""
    for path in sorted(Path("out").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    disk.fail(number, lasting=lasting)
    try:
        learn(out_dir="out", **settings)
    except UserError as error:
        assert "\n" not in str(error) and "Input/output error" in str(error)
    failed = disk.operations[number : number + 1]  # [] if an error before it ended the run
    disk.fail(None)
    learn(out_dir="out", init_from="auto", **settings)
    assert state("out") == whole, failed


def test_a_run_survives_the_failure_of_an_operation(learn, letters, disk, monkeypatch):
    """Of every third; of every second of these, all that follow fail, too. The slow test takes all."""
    monkeypatch.setattr(saving.time, "sleep", lambda seconds: None)
    operations, whole = operations_of(learn, disk, SHORT)
    assert {name.split()[0] for name in operations} >= {"open", "write", "fsync", "replace", "truncate"}
    for number in range(0, len(operations), 3):
        check_failure(learn, disk, number, number % 2 == 0, SHORT, whole)


@pytest.mark.slow
@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("settings", [SHORT, BEST])
def test_a_run_survives_the_failure_of_every_operation(learn, letters, disk, monkeypatch, lasting, settings):
    monkeypatch.setattr(saving.time, "sleep", lambda seconds: None)
    operations, whole = operations_of(learn, disk, settings)
    for number in range(len(operations)):
        check_failure(learn, disk, number, lasting, settings, whole)


def test_a_new_run_that_crashes_loses_nothing_of_an_earlier_one(learn, letters, disk):
    """And what it leaves is never resumed as if it were the earlier one, once it has written anything itself."""
    learn(out_dir="out", **BEST | dict(learning_rate=0.02))
    earlier = {path.name: path.read_bytes() for path in Path("out").iterdir() if path.name != ".lock"}
    assert earlier.keys() == {"ckpt.pt", "ckpt_last.pt", "ckpt_init.pt", "metrics.jsonl"}
    images = crash_images(disk, lambda: learn(out_dir="out", **BEST))
    for when, image in images.items():
        assert set(earlier.values()) <= set(image.values()), when
        begun = image.get("ckpt_init.pt") not in (None, earlier["ckpt_init.pt"])
        resumable = {image.get("ckpt.pt"), image.get("ckpt_last.pt")}
        assert not (begun and resumable & {earlier["ckpt.pt"], earlier["ckpt_last.pt"]}), when
    assert {path.name: path.read_bytes() for path in Path("out/previous_1").iterdir()} == earlier
