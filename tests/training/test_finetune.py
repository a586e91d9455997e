"""Fine-tuning: from any model, over all tokens, with all weights or by low rank; the model before is kept."""

import os
import re
from pathlib import Path

import pytest
import torch
from conftest import OTHER, STORY, hugging_face_gpt2, losses, timeless, weights, written_and_stopped_at

from llm.configurator import UserError
from llm.network import lora
from llm.storage import checkpoint, pretrained
from llm.text import tokenizer

LORA = {"lora_rank": 4, "learning_rate": 3e-2}


@pytest.fixture
def base(learn, prepare):
    """A model in base/ that learned the story; the dataset other is there to be learned next."""
    learn(out_dir="base", max_iters=12)
    return prepare("other", text=OTHER)


def digest_of(out_dir, name="ckpt.pt"):
    return checkpoint.digest(pretrained.load_model(out_dir, name)[0].state_dict())


@pytest.mark.parametrize("settings", [{}, LORA])
def test_it_sets_out_from_the_base_and_learns_over_all_tokens(learn, base, settings, capsys):
    lines = learn(out_dir="tuned", init_from="base", dataset="other", **settings)
    assert "fine-tuned from base" in capsys.readouterr().out
    assert losses(lines)[-1] < losses(lines)[0] - (0.02 if settings else 0.3)  # of a base that knows next to nothing
    assert digest_of("tuned", "ckpt_init.pt") == digest_of("base") != digest_of("tuned")
    model, _, info = pretrained.load_model("tuned")
    assert info.base["name"] == "base" and info.base["sha256"] == digest_of("base")
    story = pretrained.load_model("base")[2].corpus_ids
    assert info.corpus_ids == sorted({*story, *base.corpus_ids}) and len(info.corpus_ids) > len(story)
    assert model.config.n_layer == 2 and not hasattr(model.transformer.h[0].mlp.c_fc, "lora_A")


@pytest.mark.parametrize("settings", [{}, LORA | {"dropout": 0.2}])
def test_five_steps_and_five_resumed_equal_ten(learn, base, settings, monkeypatch):
    settings |= dict(dataset="other")
    whole = learn(out_dir="whole", init_from="base", **settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "write", written_and_stopped_at(5))
        learn(out_dir="halves", init_from="base", **settings)
    assert timeless(learn(out_dir="halves", init_from="resume", **settings)) == timeless(whole)
    for part in checkpoint.PARTS:
        a, b = (checkpoint.read(Path(out) / "ckpt.pt", checkpoint.PARTS)[part] for out in ("whole", "halves"))
        assert checkpoint.digest(a) == checkpoint.digest(b)


def test_low_rank_saves_a_difference_alone_which_merges_to_what_was_trained(learn, base):
    learn(out_dir="tuned", init_from="base", dataset="other", **LORA)
    saved = torch.load("tuned/ckpt.pt", weights_only=True)
    new = sorted({*base.corpus_ids} - {*pretrained.load_model("base")[2].corpus_ids})
    one, *matrices, other = saved["model"].values()  # the new rows of the tied table stand there twice
    assert len(matrices) == 2 * 4 * 2 and torch.equal(one, other) and one.shape == (len(new), 32) and new
    assert os.path.getsize("tuned/ckpt.pt") < 500_000
    assert saved["optimizer"]["state"].keys() == set(range(17)) and saved["loop"]["lora_rank"] == 4
    apart = pretrained.build_model(checkpoint.read(Path("tuned/ckpt.pt"), ()), Path("tuned/ckpt.pt")).eval()
    assert isinstance(apart.transformer.h[0].mlp.c_fc, lora.LowRank)
    merged = pretrained.load_model("tuned")[0]
    idx = base.train.windows([0], 32)
    rows = pretrained.load_model("base")[0].lm_head.weight != merged.lm_head.weight
    assert rows.any(1).nonzero()[:, 0].tolist() == new  # what the base knew of words stays
    torch.testing.assert_close(merged(idx, idx)[0], apart(idx, idx)[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(merged(idx)[0], pretrained.load_model("base")[0](idx)[0], atol=1e-2)


def test_a_base_that_changed_or_is_gone_is_told(learn, base):
    learn(out_dir="tuned", init_from="base", dataset="other", max_iters=1, **LORA)
    learn(out_dir="base", max_iters=1)
    with pytest.raises(UserError, match="base has changed since a model was trained on top of it"):
        pretrained.load_model("tuned")
    os.rename("base", "elsewhere")
    with pytest.raises(UserError, match="holds only LoRA weights for the base model base, which is no longer at"):
        pretrained.load_model("tuned")


def test_what_was_learned_and_forgotten_is_said_side_by_side(learn, prepare, capsys):
    learn(out_dir="base", block_size=128, max_iters=5)
    prepare("other", text=OTHER)
    settings = dict(block_size=128, dataset="other", learning_rate=3e-2, max_iters=12, eval_interval=200)
    learn(out_dir="tuned", init_from="base", **settings)
    out = capsys.readouterr().out
    told = re.search(
        r"^learned: recall 0.0000 before, ([\d.]+) now; "
        r"forgotten: loss on the bundled control.txt ([\d.]+) before, ([\d.]+) now$",
        out,
        re.M,
    )
    recalled, before, now = map(float, told.groups())
    assert 0 <= recalled <= 1 and 5 < before < now  # one sentence over and over: the rest is forgotten


def test_gradient_checkpointing_changes_nothing_but_memory(learn, base):
    settings = dict(init_from="base", dataset="other", dropout=0.2)
    plain = learn(out_dir="a", **settings)
    assert losses(learn(out_dir="b", gradient_checkpointing=True, **settings)) == losses(plain)


def test_a_context_is_cropped_and_never_made_longer(learn, base):
    learn(out_dir="short", init_from="base", dataset="other", block_size=16, max_iters=1)
    assert pretrained.load_model("short")[0].config.block_size == 16
    assert torch.equal(weights("short", "ckpt_init.pt")["transformer.wpe.weight"],
                       weights("base")["transformer.wpe.weight"][:16])  # fmt: skip
    with pytest.raises(UserError, match="block_size=64, but base has 32 positions; type --block_size=32 or less"):
        learn(out_dir="long", init_from="base", dataset="other", block_size=64)


def test_a_folder_of_hugging_faces_and_a_file_of_nanogpts_are_bases_too(learn, prepare):
    prepare("other", text=OTHER)
    hugging_face_gpt2(vocab_size=50257, n_embd=8, n_positions=32).save_pretrained("hf")
    lines = learn(out_dir="a", init_from="hf", dataset="other")
    assert losses(lines)[-1] < losses(lines)[0]
    model, _, info = pretrained.load_model("a")
    assert model.config.vocab_size == 50257 and info.corpus_ids is None
    learn(out_dir="b", init_from="a/ckpt_init.pt", dataset="other", max_iters=0)
    assert digest_of("b") == digest_of("a", "ckpt_init.pt")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"init_from": "base", "out_dir": "base"}, "init_from=base is out_dir itself: type --init_from=resume"),
        ({"init_from": "nowhere"}, "init_from=nowhere: no such model; expected gpt2.*; here are: base"),
        ({"init_from": "base", "dataset": "letters"}, "prepared for another tokenizer than base was trained with"),
        ({"lora_rank": 4}, "lora_rank=4 learns a difference to a model: name one with --init_from"),
    ],
)
def test_mistakes_are_told(learn, base, prepare, settings, message):
    prepare("letters", STORY[:2000], encoder=tokenizer.characters(STORY[:2000]))
    with pytest.raises(UserError, match=message):
        learn(**{"out_dir": "tuned", "dataset": "other"} | settings)
    assert not os.path.exists("tuned")
