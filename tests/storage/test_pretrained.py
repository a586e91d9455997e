"""Base models and LoRA checkpoints: the base is found by its path, verified, and the differences added to it."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from conftest import save_checkpoint

from llm.configurator import UserError
from llm.network import lora
from llm.storage import checkpoint, pretrained
from llm.storage.progress import Progress
from llm.text import tokenizer

CHARACTERS = dict(tokenizer_description=tokenizer.characters("abcdefg").description)


@pytest.fixture
def tuned(tiny_model, tmp_path, monkeypatch):
    """base/ckpt.pt, a model of the ids 0 to 4, and tuned/ckpt.pt, LoRA weights on top of it for 2 to 6; that model."""
    monkeypatch.chdir(tmp_path)
    for folder in ("base", "tuned"):
        Path(folder).mkdir()
    save_checkpoint(Path("base/ckpt.pt"), model=tiny_model(vocab_size=7), corpus_ids=[0, 1, 2, 3, 4], **CHARACTERS)
    base = pretrained.load_base("base")
    model = lora.attach(base.model, 4, base.new_ids([2, 3, 4, 5, 6])).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p), alpha=0.1)
    progress = Progress(base=base.origin, lora_rank=4)
    save_checkpoint(Path("tuned/ckpt.pt"), model=model, progress=progress, corpus_ids=list(range(7)), **CHARACTERS)
    return model


def test_a_lora_checkpoint_holds_only_what_was_trained(tuned):
    names = torch.load("tuned/ckpt.pt", weights_only=True)["model"].keys()
    assert names and all(".lora_" in name for name in names)


def test_a_lora_checkpoint_computes_what_was_saved_attached_and_merged(tuned):
    idx = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 5, 4]])
    content = checkpoint.read(Path("tuned/ckpt.pt"), parts=("model",))
    attached = pretrained.build_model(content, Path("tuned/ckpt.pt")).eval()
    assert torch.equal(attached(idx, idx)[0], tuned(idx, idx)[0])
    merged, _, info = pretrained.load_model("tuned")
    assert not lora.adapters(merged.state_dict()) and merged.transformer.wte.weight is merged.lm_head.weight
    torch.testing.assert_close(merged(idx, idx)[0], tuned(idx, idx)[0], rtol=1e-4, atol=1e-4)
    base = pretrained.load_base("base")
    assert info.base == base.origin and not torch.allclose(merged(idx)[0], base.model.eval()(idx)[0], atol=1e-2)
    unchanged = (merged.lm_head.weight == base.model.lm_head.weight).all(1)
    assert unchanged.tolist() == [True] * 5 + [False] * 2  # only the rows of new ids are trained


def test_a_base_that_was_moved_to_its_name_is_found(tuned, tmp_path, monkeypatch):
    """The path is tried first, then the name as it was typed, relative to the current folder."""
    (tmp_path / "elsewhere").mkdir()
    os.rename("base", "elsewhere/base")
    os.rename("tuned", "elsewhere/tuned")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pretrained.load_model("tuned")[2].base["name"] == "base"


def test_a_missing_base_is_named_with_its_path(tuned, tmp_path):
    os.rename("base", "elsewhere")
    message = f"tuned/ckpt.pt holds only LoRA weights for the base model base, which is no longer at {tmp_path}/base"
    with pytest.raises(UserError, match=message):
        pretrained.load_model("tuned")


def test_a_changed_base_is_refused(tuned, tiny_model):
    save_checkpoint(Path("base/ckpt.pt"), model=tiny_model(seed=1, vocab_size=7), **CHARACTERS)
    with pytest.raises(UserError, match="base has changed since a model was trained on top of it"):
        pretrained.load_model("tuned")


def test_lora_weights_of_another_rank_are_refused(tuned):
    content = checkpoint.read(Path("tuned/ckpt.pt"), parts=())
    content["progress"] = dataclasses.replace(content["progress"], lora_rank=3)
    with pytest.raises(UserError, match="the weights in .*ckpt.pt do not fit its model_args"):
        pretrained.build_model(content, Path("tuned/ckpt.pt"))


def test_load_base_takes_a_folder_and_a_file_and_crops_the_context(tuned):
    folder, file = pretrained.load_base("base"), pretrained.load_base("base/ckpt.pt", block_size=8)
    assert folder.origin["path"] == os.path.abspath("base") and file.origin["path"] == os.path.abspath("base/ckpt.pt")
    assert folder.corpus_ids == file.corpus_ids == [0, 1, 2, 3, 4]
    assert (folder.model.config.block_size, file.model.config.block_size) == (16, 8)
    assert torch.equal(file.model.transformer.wpe.weight, folder.model.transformer.wpe.weight[:8])
    assert folder.origin["sha256"] == file.origin["sha256"]  # of the whole model


def test_a_context_longer_than_the_bases_is_refused(tuned):
    with pytest.raises(UserError, match="block_size=64, but base has 16 positions; type --block_size=16 or less"):
        pretrained.load_base("base", block_size=64)


def test_a_name_of_no_model_lists_those_in_the_current_folder(tuned):
    with pytest.raises(UserError, match="init_from=nowhere: no such model; expected gpt2, .*; here are: base, tuned$"):
        pretrained.load_base("nowhere")


def test_new_ids_are_those_that_the_base_was_not_trained_on(tuned):
    base = pretrained.load_base("base")
    assert base.new_ids([3, 4, 5, 6]) == [5, 6] and base.new_ids([0, 4]) == [] and base.new_ids(None) == []
    assert dataclasses.replace(base, corpus_ids=None).new_ids([3, 9]) == []  # unknown


@pytest.mark.parametrize("rank", [3, 10**8, 2**62])
def test_a_rank_that_the_weights_do_not_have_takes_no_memory(tuned, monkeypatch, rank):
    """A file of 10 KB that said rank 3,000,000 took 1.5 GB before it was refused; 10**8 ended the process."""
    content = checkpoint.read(Path("tuned/ckpt.pt"), parts=())
    content["progress"] = dataclasses.replace(content["progress"], lora_rank=rank)
    monkeypatch.setattr(lora, "attach", lambda *_: pytest.fail("built"))
    with pytest.raises(UserError, match="the weights in .*ckpt.pt do not fit its model_args: .*lora_A is .*, not"):
        pretrained.build_model(content, Path("tuned/ckpt.pt"))


def test_ids_beyond_the_bases_table_are_refused(tuned):
    content = checkpoint.read(Path("tuned/ckpt.pt"), parts=()) | {"corpus_ids": [0, 5, 7]}
    with pytest.raises(UserError, match="do not fit its model_args"):
        pretrained.build_model(content, Path("tuned/ckpt.pt"))


@pytest.mark.parametrize("name", ["tuned", "tuned/ckpt.pt"])
def test_a_base_that_is_the_checkpoint_itself_is_refused(tuned, name):
    content = checkpoint.read(Path("tuned/ckpt.pt"), parts=())
    content["progress"] = dataclasses.replace(content["progress"], base=dict(name="x", path=name, sha256="0"))
    with pytest.raises(UserError, match="their base model is this file itself"):
        pretrained.build_model(content, Path("tuned/ckpt.pt"))
