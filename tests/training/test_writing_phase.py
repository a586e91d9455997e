"""Writing as the first phase of a run of train.py."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from conftest import STORY, TINY, timeless, weights

from llm import train
from llm.model import GPTConfig
from llm.storage import checkpoint
from llm.training import outputs, writing, writing_phase
from llm.training.metrics import read_metrics
from llm.training.stopping import StopRule

WRITTEN = dict(
    dataset="verse",
    n_layer=3,
    n_head=4,
    n_embd=128,
    block_size=128,
    weights="written",
    max_iters=None,
    target_recall=0.99,
)


@pytest.fixture
def verse(prepare):
    return prepare("verse", text=STORY[:2400])


def test_a_text_is_written_and_measured_without_an_update(learn, verse, capsys):
    lines = learn(**WRITTEN)
    out, err = capsys.readouterr()
    assert "to be written in closed form" in out and "all blocks were written in" in out
    assert "recall@50/50 has reached 0.99" in out and "recall@50/50: 1.0000" in out
    assert "writing block 1, step 1 of at most" in err
    saved = torch.load("out/ckpt.pt", weights_only=True)
    assert saved["iter_num"] == 0 and saved["loop"]["n_written"] == 3 and lines[-1]["recall"] == 1.0
    steps = [line for line in lines if "written_block" in line]
    assert [line["written_block"] for line in steps] == sorted(line["written_block"] for line in steps)
    assert steps[-1]["writing_loss"] < 0.05 < steps[0]["writing_loss"] and steps[-1]["known_tokens"] > 0.9
    assert json.loads(Path("out/recall.json").read_text())["recall"] == 1.0
    before = weights(name="ckpt_init.pt")  # the model before anything of the text
    assert not torch.equal(
        before["transformer.h.0.mlp.c_proj.weight"], saved["model"]["transformer.h.0.mlp.c_proj.weight"]
    )  # and before its heads repeat the last token: random weights
    assert all(tensor.std() > 0.005 for name, tensor in before.items() if name.endswith("proj.weight"))


def test_a_text_that_is_written_compiles_nothing_and_needs_no_optimizer(learn, verse, monkeypatch):
    """Not even until later: torch imports its compiler for the first optimizer, which takes a second or two."""
    compiled, made = [], []
    monkeypatch.setattr(outputs, "compiled_or_eager", lambda model, *arguments: compiled.append(1) or model)
    make = train.make_optimizers
    monkeypatch.setattr(train, "make_optimizers", lambda *args, **options: made.append(1) or make(*args, **options))
    learn(**WRITTEN, compile=True)
    assert not compiled and not made
    learn(**WRITTEN | dict(weights="look_back", max_iters=2), out_dir="updates", compile=True)
    assert len(compiled) == 1


def test_the_same_seed_writes_the_same_and_another_seed_something_else(learn, verse):
    first = timeless(learn(**WRITTEN, out_dir="first"))
    assert timeless(learn(**WRITTEN, out_dir="second")) == first
    assert timeless(learn(**WRITTEN, out_dir="third", seed=5)) != first
    a, b = weights("first"), weights("second")
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("steps_before", [1, 3, 4])
def test_a_run_that_was_interrupted_while_writing_goes_on_to_the_same_model(
    learn, verse, monkeypatch, capsys, steps_before
):
    """Weights and figures; the interrupted run evaluated before it saved, and kept the figures of half a block."""
    whole_lines = learn(**WRITTEN, out_dir="whole")
    steps = []
    interrupted, report = StopRule.interrupted, writing_phase.report
    monkeypatch.setattr(writing_phase, "report", lambda run, step: steps.append(step) or report(run, step))

    def signal_after(self):
        if len(steps) >= steps_before:
            self.interrupt.signal = 2
        return interrupted(self)

    monkeypatch.setattr(StopRule, "interrupted", signal_after)
    assert train.train(dataclasses.replace(TINY, **WRITTEN, out_dir="halves")) == 130
    assert "blocks were written in" in capsys.readouterr().err
    monkeypatch.setattr(StopRule, "interrupted", interrupted)
    assert checkpoint.read(Path("halves/ckpt.pt"), ())["iter_num"] == 0
    lines = learn(**WRITTEN, out_dir="halves", init_from="resume")
    whole, halves = weights("whole"), weights("halves")
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
    lines_again = learn(**WRITTEN, out_dir="halves", init_from="resume")  # it has ended: nothing is written again
    assert timeless(lines_again) == timeless(lines) == timeless(whole_lines)
    again = weights("halves")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_long_writing_is_saved_after_each_block(learn, verse, monkeypatch):
    monkeypatch.setattr(writing_phase, "SAVE_INTERVAL", -1)
    found = []
    save_block = writing_phase.save_block

    def save(run, n):
        save_block(run, n)
        found.append(torch.load("out/ckpt.pt", weights_only=True)["loop"]["n_written"])

    monkeypatch.setattr(writing_phase, "save_block", save)
    learn(**WRITTEN)
    assert found == [1, 2, 3]


def write_nothing(model, *args, block_written, **kwargs):
    for n in range(3):
        block_written(n + 1)
    return True


def test_where_writing_falls_short_gradient_descent_begins_from_look_back_weights(learn, verse, monkeypatch, capsys):
    monkeypatch.setattr(writing, "write", write_nothing)
    lines = learn(**WRITTEN | {"target_recall": 0.5}, lr_decay_iters=4)
    assert "target_recall=0.5 is not reached: learning by gradient descent instead" in capsys.readouterr().err
    look_back = learn(**WRITTEN | {"target_recall": 0.5, "weights": "look_back"}, lr_decay_iters=4, out_dir="other")
    assert [line["loss"] for line in lines if "loss" in line] == [line["loss"] for line in look_back if "loss" in line]


def test_what_is_written_of_a_long_text_is_kept_although_it_falls_short(learn, verse, monkeypatch, capsys):
    monkeypatch.setattr(writing_phase, "GRADIENT_TOKENS", 0)
    monkeypatch.setattr(writing, "write", write_nothing)
    lines = learn(**WRITTEN)
    out, err = capsys.readouterr()
    assert "target_recall=0.99 is out of reach of writing in this shape" in out and "train longer" not in err
    assert lines[-1]["step"] == 0 and lines[-1]["recall"] == json.loads(Path("out/recall.json").read_text())["recall"]
    kept = weights()
    assert learn(**WRITTEN, init_from="resume") == lines
    again = weights()
    assert all(torch.equal(kept[name], again[name]) for name in kept)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(max_iters=3), "because max_iters=3 counts updates"),
        (dict(target_recall=None, lr_decay_iters=1), "without target_recall nothing says when it is done"),
        (dict(n_layer=2, lr_decay_iters=1), "because n_layer=2, expected at least 3"),
        (dict(n_embd=32, lr_decay_iters=1), "heads of 8 dimensions"),
    ],
)
def test_a_run_that_cannot_write_says_why_and_trains_as_before(learn, verse, capsys, changes, words):
    lines = learn(**WRITTEN | changes)
    assert words in capsys.readouterr().err and lines[-1]["step"] > 0
    assert not any("written_block" in line for line in lines)


def test_a_text_that_is_too_long_for_the_shape_names_the_width_to_allow(prepare, learn, capsys):
    prepare("verse", text=STORY[:12000])
    assert learn(**WRITTEN | dict(n_head=2, n_embd=32), lr_decay_iters=1)[-1]["step"] > 0
    notice = capsys.readouterr().err
    assert "tokens need max_n_embd=112: learning by gradient descent" in notice


def test_a_part_to_generalise_on_is_not_written(prepare, learn, capsys):
    prepare("verse", text=STORY[:4000], val_fraction=0.3)
    lines = learn(**WRITTEN, lr_decay_iters=1)
    assert "tokens are held out, to generalise on" in capsys.readouterr().err and lines[-1]["step"] > 0


def test_long_texts_are_written_into_larger_models():
    shape = dict(n_layer=6, n_head=6, n_embd=384, block_size=256)
    config = GPTConfig(**shape, bias=False, vocab_size=50304, dropout=0.0, gelu="tanh")
    for n_tokens, limit, n in ((21_544, 1024, 6), (50_077, 1024, 8), (206_258, 1024, 13), (10**6, 1024, 16)):
        large = writing_phase.enlarged(config, n_tokens, limit)
        assert (large.n_layer, large.n_head, large.n_embd) == (n, n, 64 * n)
    assert writing_phase.enlarged(config, 50_077, None) == config


def test_a_text_too_long_for_the_shape_is_learned_in_a_larger_model(learn, verse, capsys):
    learn(**WRITTEN | dict(n_head=2, n_embd=32, max_n_embd=192))
    saved = torch.load("out/ckpt.pt", weights_only=True)
    assert saved["model_args"]["n_embd"] == saved["config"]["n_embd"] > 32
    assert saved["model_args"]["n_layer"] == saved["config"]["n_layer"] > 3
    assert os.path.exists("out/recall.json") and "recall@50/50: 1.0000" in capsys.readouterr().out
    assert read_metrics("out")
    learn(**WRITTEN | dict(n_head=2, n_embd=32, max_n_embd=192), init_from="resume")
    assert "cannot change on resume" not in capsys.readouterr().err
