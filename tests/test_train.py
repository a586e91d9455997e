"""Training: the losses of a tiny model are fixed, and nothing but the settings changes them."""

import dataclasses
import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import OTHER, STORY, TINY, losses, timeless, weights, written_and_stopped_at

from llm import files, runtime, sample, train
from llm.configurator import UserError
from llm.model import GPT, GPTConfig
from llm.storage import checkpoint, pretrained
from llm.text import dataset, tokenizer
from llm.training import saving
from llm.training.batches import Batches
from llm.training.metrics import read_metrics
from llm.training.schedule import Schedule

REPLAY = dict(lr_decay_iters=4, min_lr=1e-3, replay=0.5)
SETTINGS = {
    "full": {"corpus_softmax": False},
    "corpus": {},
    "muon": {"optimizer": "muon", "lr_shape": "wsd"},
    "book": {"optimizer": "muon", "weights": "look_back", "opening_weight": 0.1, "short_block": 8},
}
GOLDEN = {
    "full": [10.8163, 10.7825, 10.6836, 10.3559, 10.1636, 9.7741, 9.6064, 9.5599, 9.3747, 9.3599],
    "corpus": [10.8409, 10.6216, 10.0529, 9.7534, 9.5405, 9.1605, 8.9720, 8.9354, 8.7413, 8.7188],
    "muon": [10.8409, 10.7223, 10.5601, 10.1527, 9.8073, 9.3072, 9.0828, 9.0006, 8.7750, 8.7197],
    "book": [10.8810, 10.8295, 10.6694, 10.2853, 9.7979, 9.4983, 9.1856, 9.2917, 8.6860, 8.9488],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_first_ten_losses_are_these(learn, name):
    """A refactoring leaves them as they are. On one thread and in float32 throughout, Muon's products included, so that
    processors agree: of commit b3bb275 with Muon in float32 they are the same."""
    assert losses(learn(**SETTINGS[name])) == pytest.approx(GOLDEN[name], abs=1e-4)


def test_exactly_max_iters_updates_are_made_and_the_last_is_saved(learn):
    lines = learn(max_iters=7)
    saved = torch.load("out/ckpt.pt", weights_only=True)
    assert saved["iter_num"] == 7 and len(losses(lines)) == 7
    assert {int(state["step"]) for state in saved["optimizer"]["state"].values()} == {7}


def test_the_weights_before_training_are_kept(learn):
    learn(max_iters=1, corpus_softmax=False)
    torch.manual_seed(TINY.seed)
    shape = {f.name: getattr(TINY, f.name, 50304) for f in dataclasses.fields(GPTConfig)}
    fresh = GPT(GPTConfig(**shape | {"gelu": "tanh"})).state_dict()
    assert all(torch.equal(fresh[name], tensor) for name, tensor in weights(name="ckpt_init.pt").items())


def test_the_same_seed_gives_the_same_run_and_another_does_not(learn):
    first, second, other = learn(out_dir="a"), learn(out_dir="b"), learn(out_dir="c", seed=2)
    assert timeless(first) == timeless(second) != timeless(other)
    assert all(torch.equal(weights("a")[name], tensor) for name, tensor in weights("b").items())


def test_how_often_is_evaluated_changes_nothing_of_what_is_trained(learn, prepare):
    prepare("held", val_fraction=0.2)
    often = learn(out_dir="a", dataset="held", eval_interval=1, eval_iters=2, dropout=0.2)
    seldom = learn(out_dir="b", dataset="held", eval_interval=10, dropout=0.2)
    assert losses(often) == losses(seldom)


@pytest.mark.parametrize(
    "settings",
    [
        {"corpus_softmax": False},
        {"dropout": 0.3, "gradient_accumulation_steps": 3},
        {"optimizer": "muon", "weights": "look_back", "opening_weight": 0.1, "short_block": 8, "dropout": 0.1},
        REPLAY,
    ],
)
def test_five_steps_and_five_resumed_equal_ten(learn, settings, monkeypatch):
    """Bit for bit: weights, optimizers, and every line of the metrics but for the times. The first half ends as by
    Ctrl-C, right after the checkpoint at step 5 is saved."""
    whole = learn(out_dir="whole", **settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "write", written_and_stopped_at(5))
        learn(out_dir="halves", **settings)
    halves = learn(out_dir="halves", init_from="resume", **settings)
    assert timeless(halves) == timeless(whole)
    a, b = (checkpoint.read(checkpoint.find(out, "ckpt.pt"), checkpoint.PARTS) for out in ("whole", "halves"))
    assert checkpoint.digest(a["model"]) == checkpoint.digest(b["model"])
    assert checkpoint.digest(a["optimizer"]) == checkpoint.digest(b["optimizer"])
    assert checkpoint.digest(a["optimizers"]) == checkpoint.digest(b["optimizers"])
    assert a["loop"]["position"] == b["loop"]["position"] and a["loop"]["replay_starts"] == b["loop"]["replay_starts"]


def test_accumulated_micro_batches_equal_one_large_batch(learn):
    one = losses(learn(out_dir="a", batch_size=8))
    two = losses(learn(out_dir="b", batch_size=4, gradient_accumulation_steps=2))
    assert one == pytest.approx(two, abs=1e-4)


def test_the_best_and_the_latest_are_both_kept_where_a_part_is_held_out(learn, prepare):
    """A rate this high makes the loss worse in the end, so that the best is not the latest."""
    prepare("held", val_fraction=0.2)
    settings = dict(dataset="held", always_save_checkpoint=False, decay_lr=False, eval_interval=2, max_iters=12)
    lines = learn(learning_rate=1.0, warmup_iters=0, **settings)
    measured = {line["step"]: line["val_loss"] for line in lines if "val_loss" in line}
    assert list(measured) == [0, 2, 4, 6, 8, 10, 12]
    best = min((step for step in measured if step), key=measured.get)
    saved = torch.load("out/ckpt.pt", weights_only=True)
    assert saved["iter_num"] == best < 12 and saved["best_val_loss"] == measured[best]
    assert torch.load("out/ckpt_last.pt", weights_only=True)["iter_num"] == 12


def test_a_loss_that_is_not_finite_stops_with_the_step_and_keeps_the_last_checkpoint(learn, monkeypatch):
    """The third update breaks the weights; the evaluation right after it must not save them."""
    rate = Schedule.rate
    monkeypatch.setattr(Schedule, "rate", lambda self, step: math.nan if step == 2 else rate(self, step))
    with pytest.raises(
        UserError, match="not a finite number at step 3: the last checkpoint in out is from before; lower"
    ):
        learn(eval_interval=1)
    saved = torch.load("out/ckpt.pt", weights_only=True)
    assert saved["iter_num"] == 2 and all(tensor.isfinite().all() for tensor in saved["model"].values())


def test_eval_only_prints_the_losses_and_saves_nothing(learn, prepare, capsys):
    prepare("held", val_fraction=0.2)
    train.train(dataclasses.replace(TINY, dataset="held", eval_only=True))
    out = capsys.readouterr().out
    assert re.search(r"^train loss 10\.\d{4} \(4\.\d+ bits per character\)\nval loss 10\.", out, re.M)
    assert not os.path.exists("out")


def test_a_small_context_says_that_recall_needs_more(learn, capsys):
    learn(max_iters=1)
    assert "recall@50/50 needs a context of 99 tokens, block_size=32 has fewer" in capsys.readouterr().err


def test_recall_is_measured_at_each_evaluation_and_on_the_whole_text_at_the_end(learn, capsys):
    lines = learn(block_size=128, max_iters=2, eval_interval=1)
    assert [line["step"] for line in lines if "recall" in line] == [1, 2]  # before the first update it knows nothing
    last = capsys.readouterr().out
    assert "recall@50/50: 0.0000 (0/" in last and "control, the bundled control.txt" in last
    assert json.loads(Path("out/recall.json").read_text())["step"] == 2


BY_HEART = dict(block_size=128, n_embd=96, n_head=6, optimizer="muon", weights="look_back", muon_lr=0.03, batch_size=4)


def test_training_stops_once_the_text_is_known_by_heart_and_shows_what_to_type(learn, prepare, capsys):
    """What is shown below the command is what the command prints: sampling from the checkpoint gives the same text."""
    prepare("verse", text=STORY[:1200])
    lines = learn(dataset="verse", target_recall=0.99, max_iters=None, decay_epochs=250, eval_interval=1000, **BY_HEART)
    out = capsys.readouterr().out
    assert "recall@50/50 has reached 0.99" in out and "recall@50/50: 1.0000" in out
    saved = torch.load("out/ckpt.pt", weights_only=True)
    assert 20 < saved["iter_num"] == lines[-1]["step"] < saved["config"]["max_iters"]
    assert lines[-1]["recall"] == 1.0 == json.loads(Path("out/recall.json").read_text())["recall"]
    again = learn(dataset="verse", target_recall=0.99, init_from="resume", **BY_HEART | {"max_iters": 1000})
    assert again[-1]["step"] == saved["iter_num"]  # nothing is left to learn

    printed = out.splitlines()
    command, shown = printed[printed.index("Now type:") + 1 :][:2]
    words = shlex.split(command)
    start = next(word.removeprefix("--start=") for word in words if word.startswith("--start="))
    shown = shown.strip().removesuffix(" ...")
    assert "--temperature=0" in words and shown.startswith(start)
    assert len(tokenizer.gpt2().encode(start)) >= 8
    assert shown in " ".join(STORY[:1200].split())
    capsys.readouterr()
    sample.main(
        sample.Settings(out_dir="out", start=start, temperature=0.0, max_new_tokens=40, device="cpu", dtype="float32")
    )
    assert " ".join(capsys.readouterr().out.split()) == shown


def test_a_target_that_is_not_reached_is_said(learn, prepare, capsys):
    prepare("verse", text=STORY[:1200])
    learn(dataset="verse", target_recall=0.99, max_iters=3, **BY_HEART)
    assert "target_recall=0.99 was not reached; train longer with --max_iters=5" in capsys.readouterr().err
    learn(dataset="verse", target_recall=0.99, max_iters=None, lr_decay_iters=2, **BY_HEART)
    captured = capsys.readouterr()
    assert "was not reached; train longer with --lr_decay_iters=3" in captured.err
    assert "recall@50/50: 0.0000" in captured.out


def test_it_stops_at_a_target_loss_or_when_patience_ends(learn, prepare, capsys):
    prepare("held", val_fraction=0.2)
    lines = learn(dataset="held", target_loss=10.5, eval_interval=1, max_iters=50)
    assert (
        lines[-1]["val_loss"] <= 10.5 < lines[-3]["val_loss"] and "val_loss has reached 10.5" in capsys.readouterr().out
    )
    settings = dict(dataset="held", eval_interval=1, patience=3, learning_rate=1.0, warmup_iters=0, decay_lr=False)
    measured = [line["val_loss"] for line in learn(out_dir="b", max_iters=200, **settings) if "val_loss" in line]
    assert 4 < len(measured) < 200 and min(measured[-3:]) > min(measured[1:-3])
    assert "val_loss has not improved in 3 evaluations" in capsys.readouterr().out


def test_what_was_wrong_is_shown_again(learn):
    whole = learn(out_dir="whole", **REPLAY)
    assert losses(whole) != losses(learn(out_dir="without", **REPLAY | {"replay": 0.0}))
    epochs = [line["epoch"] for line in whole]
    assert epochs[-1] - epochs[-2] == pytest.approx((epochs[2] - epochs[1]) / 2)  # half a batch is not the epoch's
    assert torch.load("whole/ckpt.pt", weights_only=True)["loop"]["replay_starts"]


def test_what_is_to_be_shown_again_does_not_keep_a_learned_text_from_being_noticed(learn, prepare):
    prepare("verse", text=STORY[:1200])
    settings = BY_HEART | dict(
        dataset="verse", target_recall=0.99, max_iters=None, decay_epochs=150, eval_interval=1000
    )
    lines = learn(**settings, replay=0.5)
    assert lines[-1]["recall"] >= 0.99
    assert lines[-1]["step"] < torch.load("out/ckpt.pt", weights_only=True)["config"]["max_iters"]


def test_a_run_that_has_ended_by_its_val_loss_stays_ended(learn, prepare):
    prepare("held", val_fraction=0.2)
    settings = dict(dataset="held", eval_interval=1, max_iters=50)
    for name, ending in (("a", dict(target_loss=10.5)), ("b", dict(patience=1, learning_rate=1.0, decay_lr=False))):
        first = learn(out_dir=name, **settings, **ending)
        assert learn(out_dir=name, init_from="resume", **settings, **ending) == first and first[-1]["step"] < 50


def test_training_ends_with_commands_that_can_be_typed(learn, capsys):
    learn(max_iters=1)
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[1].endswith("sample.py") and words[2:] == [
        "--out_dir=out",
        "--start=The echo had been ill since Tuesday, and nobody in the",
        "--temperature=0",
    ]
    learn(max_iters=1, block_size=100)
    assert capsys.readouterr().out.endswith("recall.py --out_dir=out\n")


def test_a_run_of_no_updates_leaves_a_checkpoint(learn):
    learn(max_iters=0)
    assert torch.load("out/ckpt.pt", weights_only=True)["iter_num"] == 0


def test_resuming_on_another_text_is_refused(learn, prepare):
    learn(max_iters=1)
    prepare("other", text=OTHER)
    with pytest.raises(UserError, match=r"trained on another text \(dataset story\) than dataset other holds"):
        learn(init_from="resume", dataset="other")


def test_resuming_with_another_softmax_optimizer_or_seed_is_refused(learn):
    learn(max_iters=1)
    with pytest.raises(UserError, match="another softmax; type --corpus_softmax=True"):
        learn(init_from="resume", corpus_softmax=False)
    for name, now, then in (("optimizer", "muon", "adamw"), ("seed", 2, 1337)):
        with pytest.raises(
            UserError, match=f"^{name} cannot change on resume; type --{name}={then}, as in out/ckpt.pt"
        ):
            learn(**{"init_from": "resume", name: now})


def test_a_position_of_another_order_of_windows_can_be_sampled_from_but_not_resumed(learn):
    """The first versions of llm counted windows in another way, with one number."""
    learn(max_iters=1)
    saved = torch.load("out/ckpt.pt", weights_only=True)
    saved["loop"]["position"] = [1]
    checkpoint.write(Path("out/ckpt.pt"), {key: part for key, part in saved.items() if key != "checksums"})
    assert pretrained.load_model("out")[2].iter_num == 1
    with pytest.raises(UserError, match="of an earlier llm, whose order of windows is gone; begin anew"):
        learn(init_from="resume")


def test_what_is_saved_is_the_full_table_with_one_shared_row(learn):
    """All rows of tokens that do not occur are alike, and the loss of the full softmax is the one that was trained."""
    lines = learn(max_iters=3)
    saved = torch.load("out/ckpt.pt", weights_only=True)
    table, ids = saved["model"]["transformer.wte.weight"], saved["corpus_ids"]
    others = torch.ones(50304, dtype=torch.bool)
    others[ids] = False
    assert table.shape == (50304, 32) and (table[others] == table[others][0]).all() and others.sum() > 49_000
    full, _, _ = pretrained.load_model("out")
    batches = Batches(dataset.Dataset("story").train, 32, 4, seed=TINY.seed)
    x, y = [batches.next() for _ in range(3)][-1]
    trained = losses(learn(out_dir="again", max_iters=3))[-1]  # of the weights after two updates, on the third batch
    learn(out_dir="two", max_iters=2)
    two, _, _ = pretrained.load_model("two")
    assert losses(lines)[-1] == trained
    assert two(x, y)[1].item() == pytest.approx(trained, abs=1e-4)
    assert full(x, y)[1].item() != pytest.approx(trained, abs=1e-4)


def test_resuming_keeps_the_shape_and_says_so(learn, capsys):
    learn(max_iters=1)
    learn(max_iters=2, init_from="resume", n_layer=5)
    assert "cannot change on resume: n_layer=2, as in out/ckpt.pt" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"n_embd": 100, "n_head": 12}, "n_embd=100 is not a multiple of n_head=12"),
        ({"init_from": "gpt5"}, "init_from=gpt5: no such model; expected gpt2, gpt2-medium"),
        ({"init_from": "resume"}, "out_dir=out does not exist"),
        ({"patience": 2}, "are about val_loss, and dataset story holds nothing out"),
        ({"dataset": "nowhere"}, "dataset nowhere is not prepared"),
        ({"block_size": 5000}, "block_size=5000 needs at least 5,001; type --block_size="),
        ({"device": "cuda"}, "torch finds no CUDA GPU here"),
        ({"device": "tpu"}, "device=tpu: expected auto, cpu, cuda"),
        ({"wandb_log": True}, r"needs the extra wandb, .*pip install -e .*\[wandb\]"),
        ({"tensorboard_log": True}, r"needs the extra tensorboard, .*pip install -e .*\[tensorboard\]"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(learn, settings, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for extra in ("wandb", "tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, extra, None)  # not installed
    with pytest.raises(UserError, match=message):
        learn(**settings)
    assert not os.path.exists("out/metrics.jsonl")


def test_figures_go_to_tensorboard_where_asked(learn):
    pytest.importorskip("tensorboard")
    learn(tensorboard_log=True, max_iters=2)
    assert any(name.startswith("events") for name in os.listdir("out/tensorboard"))


def test_a_compiler_that_fails_on_the_first_step_is_left_out_with_one_warning(learn, monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", lambda model, **_: broken)
    compiled = losses(learn(out_dir="a", compile=True, dropout=0.2))
    warnings = [line for line in capsys.readouterr().err.splitlines() if "torch.compile" in line]
    assert len(warnings) == 1 and "going on without it (no C++ compiler)" in warnings[0]
    assert compiled == losses(learn(out_dir="b", dropout=0.2))


def test_float16_trains_with_a_scaler_and_resumes_with_its_state(learn):
    settings = {"dtype": "float16"}
    whole = learn(out_dir="whole", **settings)
    assert losses(whole)[-1] < losses(whole)[0] - 1  # the first updates overflow and are skipped
    learn(out_dir="halves", max_iters=5, lr_decay_iters=10, **settings)
    resumed = learn(out_dir="halves", init_from="resume", **settings)
    assert timeless(resumed, "updates") == timeless(whole, "updates")  # how long the run was to be has changed


# A process group that is still referenced when the interpreter shuts down keeps gloo's threads alive, and one of them
# sometimes aborts the process then ("terminate called without an active exception"), after everything was saved. That
# took 1 of 40 runs beside a busy process; the threads are there in each, so they are what is looked for.
NO_THREADS_LEFT = """
import atexit, glob, os

def check():
    if any("gloo" in open(path).read() for path in glob.glob("/proc/self/task/*/comm")):
        os._exit(3)

atexit.register(check)
"""


@pytest.mark.slow
def test_two_processes_equal_one_with_two_accumulation_steps(package, tmp_path, prepare, learn):
    """Under torchrun, with dropout: the losses are the same to rounding, and so is the recall of nothing learned."""
    changed = dict(gradient_accumulation_steps=2, dropout=0.2, block_size=100, batch_size=3, max_iters=6)
    changed |= dict(replay=0.5, lr_decay_iters=3, min_lr=1e-3, target_recall=0.5)
    one = learn(out_dir="one", **changed)
    (package / "data" / "story").mkdir(exist_ok=True)
    for name in ("train.bin", "meta.json"):
        (package / "data" / "story" / name).write_bytes((tmp_path / "data" / "story" / name).read_bytes())
    settings = dataclasses.asdict(dataclasses.replace(TINY, out_dir="two", **changed))
    (tmp_path / "sitecustomize.py").write_text(NO_THREADS_LEFT)
    finished = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", package / "train.py"]
        + [f"--{name}={value}" for name, value in settings.items()],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{package.parent}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    two = read_metrics("two")
    assert losses(two) == pytest.approx(losses(one), abs=1e-4) and len(losses(two)) == 6
    assert [line["epoch"] for line in two] == [line["epoch"] for line in one]
    assert [line.get("recall") for line in two] == [line.get("recall") for line in one]
    again = [torch.load(f"{out}/ckpt.pt", weights_only=True)["loop"]["replay_starts"] for out in ("one", "two")]
    assert again[0] == again[1] != []


def full_disk(monkeypatch, refuses):
    """From now on, a file whose path refuses() says no to cannot be written."""
    real = files.os.fsync

    def fsync(number):
        if refuses(os.readlink(f"/proc/self/fd/{number}")):
            raise OSError(28, "No space left on device")
        real(number)

    monkeypatch.setattr(files.os, "fsync", fsync)


def test_a_full_disk_is_said_and_training_goes_on_to_its_next_try(learn, monkeypatch, capsys):
    whole = learn(out_dir="whole", eval_interval=2)
    tries = iter([False, True, True, True, False, False])  # ckpt_init.pt, then ckpt.pt at 2, 4, ...
    full_disk(monkeypatch, lambda path: ".ckpt" in path and next(tries))
    assert timeless(learn(eval_interval=2)) == timeless(whole)
    said = capsys.readouterr().err
    assert said.count("cannot write out/ckpt.pt: No space left on device; training goes on, and saves again") == 3
    assert torch.load("out/ckpt.pt", weights_only=True)["iter_num"] == 10
    assert sorted(os.listdir("out")) == [".lock", "ckpt.pt", "ckpt_init.pt", "metrics.jsonl"]


def test_a_disk_that_stays_full_keeps_the_last_checkpoint_and_says_what_is_lost(learn, monkeypatch):
    tries = iter([False, False] + [True] * 7)
    full_disk(monkeypatch, lambda path: ".ckpt" in path and next(tries))
    waited = []
    monkeypatch.setattr(saving.time, "sleep", waited.append)
    with pytest.raises(
        UserError, match="No space left on device; what was learned since the last checkpoint in out is"
    ):
        learn()
    assert torch.load("out/ckpt.pt", weights_only=True)["iter_num"] == 5 and waited == [10] * 6


def test_the_best_that_a_full_disk_refused_is_kept_until_there_is_room(learn, prepare, monkeypatch):
    prepare("held", val_fraction=0.2)
    settings = dict(dataset="held", always_save_checkpoint=False, decay_lr=False, eval_interval=2, max_iters=12)
    settings |= dict(learning_rate=1.0, warmup_iters=0)
    learn(out_dir="whole", **settings)
    full = iter([False] + [True] * 6 + [False] * 20)  # the best comes early at such a rate
    full_disk(monkeypatch, lambda path: ".ckpt" in path and next(full))
    learn(out_dir="out", **settings)
    for name in ("ckpt.pt", "ckpt_last.pt"):
        whole, kept = (torch.load(f"{folder}/{name}", weights_only=True) for folder in ("whole", "out"))
        assert whole["iter_num"] == kept["iter_num"] and whole["checksums"]["model"] == kept["checksums"]["model"]


def test_the_free_space_is_looked_at_before_a_checkpoint_is_written(learn, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(
        UserError, match=r"cannot write out/ckpt_init.pt: it takes 7 MB, and 1 MB are free on this disk"
    ):
        learn()
    assert sorted(os.listdir("out")) == [".lock", "metrics.jsonl"]


def test_a_gradient_that_is_no_number_names_its_step(learn, monkeypatch):
    real, steps = torch.nn.utils.clip_grad_norm_, iter(range(100))

    def clip(parameters, max_norm):
        norm = real(parameters, max_norm)
        return norm * math.nan if next(steps) == 6 else norm

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    with pytest.raises(
        UserError, match="the loss or the gradient is not a finite number at step 6: the last checkpoint"
    ):
        learn(log_interval=100)
    assert torch.load("out/ckpt.pt", weights_only=True)["iter_num"] == 5


def test_updates_that_float16_skips_are_counted(learn, monkeypatch, capsys):
    """A scale of 2**30 overflows: 16 bits hold numbers up to 65,504."""
    real = torch.amp.GradScaler
    monkeypatch.setattr(
        torch.amp, "GradScaler", lambda device, enabled: real(device, init_scale=2.0**30, enabled=enabled)
    )
    lines = learn(dtype="float16", max_iters=25, eval_interval=20)
    skipped = [line["skipped"] for line in lines if "skipped" in line]
    assert 5 < skipped[-1] == skipped[-2] < 25 and skipped == sorted(skipped)
    assert f"{skipped[-1]} updates skipped (float16)" in capsys.readouterr().err
    assert torch.load("out/ckpt.pt", weights_only=True)["loop"]["skipped_updates"] == skipped[-1]


def test_memory_that_will_not_do_is_told_before(learn, monkeypatch, capsys):
    monkeypatch.setattr(runtime, "free_memory", lambda _: 2_000_000)
    learn(max_iters=1)
    told = re.search(
        r"training will take about \d\.\d GB, 0\.1 GB more than now, and 0\.0 GB of memory are free: "
        "lower --batch_size=4",
        capsys.readouterr().err,
    )
    assert told
    monkeypatch.setattr(runtime, "free_memory", lambda _: 2_000_000_000)
    learn(max_iters=1)
    assert "will take about" not in capsys.readouterr().err


def test_the_death_of_another_process_is_told(monkeypatch):
    gloo = RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1234")
    for error, kind in ((gloo, UserError), (RuntimeError("a bug"), RuntimeError)):
        monkeypatch.setattr(train, "train", lambda *_, error=error: (_ for _ in ()).throw(error))
        with monkeypatch.context() as patch, pytest.raises(kind) as raised:
            patch.setattr(runtime.dist, "is_initialized", lambda: True)
            patch.setattr(runtime.dist, "destroy_process_group", lambda: None)
            train.main(TINY)
        told = "another process of this training has died; to go on, type the same with --init_from=auto"
        assert str(raised.value) == (told if kind is UserError else "a bug")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: x")]
)
def test_out_of_memory_names_the_settings_to_lower(learn, monkeypatch, error):
    monkeypatch.setattr(train, "train", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(
        UserError, match=r"out of memory on cpu: lower --batch_size=4 \(and raise --gradient_accumulation"
    ):
        train.main(TINY)
