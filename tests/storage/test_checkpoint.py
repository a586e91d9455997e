"""A checkpoint comes back as it was, in both directions with nanoGPT, and nothing damaged is ever used."""

import dataclasses
import pickle

import pytest
import torch
from conftest import hugging_face_gpt2, with_nanogpts_names

from llm.configurator import UserError
from llm.storage import checkpoint, pretrained
from llm.text import tokenizer
from llm.training import optim

RATES = dict(optimizer="muon", learning_rate=0.01, muon_lr=0.02, muon_momentum=0.9, weight_decay=0.1, betas=(0.9, 0.95))


@pytest.fixture
def saved(tiny_model, tmp_path):
    """saved(**changes) writes a checkpoint of a tiny model that was trained for a step; returns (path, model)."""

    def saved(name="ckpt.pt", **changes):
        model = tiny_model(vocab_size=64)
        optimizers = optim.make_optimizers(model, **RATES)
        idx = torch.randint(61, (1, 9))
        model(idx[:, :-1], idx[:, 1:])[1].backward()
        for optimizer in optimizers:
            optimizer.step()
        parts = dict(
            model=model,
            optimizers=optimizers,
            iter_num=1,
            best_val_loss=1e9,
            config={"dataset": "story"},
            tokenizer_description=tokenizer.characters("abc").description,
            corpus_ids=[0, 1, 2],
            loop={"place": [0, 3], "seconds": 1.5, "metrics_bytes": 10, "text_sha256": "x"},
        )
        (tmp_path / "out").mkdir(exist_ok=True)
        checkpoint.save(tmp_path / "out" / name, **parts | changes)
        return tmp_path / "out" / name, model

    return saved


def nanogpt_file(path, model, state_dict=None, **changes):
    """Writes what nanoGPT's train.py writes for a compiled model of this shape."""
    state_dict = state_dict or model.state_dict()
    nanogpt = {
        "model": {f"_orig_mod.{name}": tensor for name, tensor in state_dict.items()},
        "optimizer": {},
        "model_args": {k: v for k, v in dataclasses.asdict(model.config).items() if k != "gelu"},
        "iter_num": 7,
        "best_val_loss": torch.tensor(1.5),
        "config": {"dataset": "shakespeare", "compile": True},
    }
    path.parent.mkdir(exist_ok=True)
    torch.save(nanogpt | changes, path)


def test_load_model_gives_back_weights_tokenizer_and_origin(saved):
    path, model = saved()
    loaded, encoder, info = pretrained.load_model(str(path.parent))
    idx = torch.randint(61, (2, 16))
    assert torch.equal(loaded(idx)[0], model(idx)[0]) and not loaded.training
    assert loaded.transformer.wte.weight is loaded.lm_head.weight
    assert encoder.encode("cab") == [2, 0, 1]
    assert (info.iter_num, info.dataset, info.corpus_ids, info.text_sha256) == (1, "story", [0, 1, 2], "x")


def test_keys_are_nanogpts_and_ours(saved):
    keys = set(torch.load(saved()[0], weights_only=True))
    assert keys >= {"model", "model_args", "optimizer", "iter_num", "best_val_loss", "config"}
    assert keys - {"model", "model_args", "optimizer", "iter_num", "best_val_loss", "config"} == {
        "format",
        "gelu",
        "optimizers",
        "tokenizer",
        "corpus_ids",
        "loop",
        "checksums",
    }


def test_a_nanogpt_checkpoint_loads_and_computes_what_nanogpt_does(tiny_model, tmp_path):
    """nanoGPT's network is Hugging Face's with the exact GELU in place of GPT-2's approximation."""
    reference = hugging_face_gpt2(activation_function="gelu", vocab_size=50304)
    shape = tiny_model(n_layer=3, n_head=4, n_embd=32, block_size=24, bias=True, vocab_size=50304)
    nanogpt_file(tmp_path / "out" / "ckpt.pt", shape, with_nanogpts_names(reference))
    loaded, encoder, info = pretrained.load_model(str(tmp_path / "out"))
    idx = torch.randint(50257, (2, 24))
    torch.testing.assert_close(loaded(idx, idx)[0], reference(idx).logits, rtol=1e-4, atol=1e-4)
    assert encoder is tokenizer.gpt2() and info.corpus_ids is None and info.iter_num == 7


def test_a_nanogpt_checkpoint_of_characters_takes_its_datasets_tokenizer(tiny_model, tmp_path, prepare, capsys):
    prepare("chars", text="abcabc" * 9, encoder=tokenizer.characters("abc"))
    nanogpt_file(tmp_path / "out" / "ckpt.pt", tiny_model(vocab_size=3), config={"dataset": "chars"})
    assert pretrained.load_model(str(tmp_path / "out"))[1].encode("cab") == [2, 0, 1]
    assert "taken from the dataset chars" in capsys.readouterr().err


def test_a_nanogpt_checkpoint_of_characters_without_its_dataset_says_what_to_prepare(tiny_model, tmp_path, data):
    nanogpt_file(tmp_path / "out" / "ckpt.pt", tiny_model(vocab_size=65), config={"dataset": "chars"})
    with pytest.raises(UserError, match="dataset chars is not prepared"):
        pretrained.load_model(str(tmp_path / "out"))


def test_the_optimizers_come_back(saved):
    path, _ = saved()
    read = checkpoint.read(path, parts=checkpoint.PARTS)
    model = pretrained.build_model(read, path)
    adamw, muon = optim.make_optimizers(model, **RATES)
    checkpoint.restore_optimizers([adamw, muon], read, path)
    assert len(adamw.state) + len(muon.state) == len(list(model.parameters()))
    assert all(state["step"] == 1 for state in adamw.state.values())
    assert all(state["momentum_buffer"].any() for state in muon.state.values())


def test_another_optimizers_state_is_refused(saved):
    path, _ = saved()
    read = checkpoint.read(path, parts=checkpoint.PARTS)
    optimizers = optim.make_optimizers(pretrained.build_model(read, path), **RATES | {"optimizer": "adamw"})
    with pytest.raises(UserError, match="does not fit this model and optimizer"):
        checkpoint.restore_optimizers(optimizers, read, path)


@pytest.mark.parametrize("part", ["model", "optimizer", "optimizers", "rest"])
def test_a_changed_value_is_found_in_each_part(saved, part):
    path, _ = saved()
    content = torch.load(path, weights_only=True)
    if part == "model":
        content["model"]["transformer.h.1.mlp.c_fc.weight"][3, 3] += 1e-6
    elif part == "optimizer":
        content["optimizer"]["state"][0]["exp_avg"][0, 0] *= 1.001
    elif part == "optimizers":
        content["optimizers"][0]["state"][0]["momentum_buffer"][0, 0] += 1
    else:
        content["iter_num"] += 1
    torch.save(content, path)
    with pytest.raises(UserError, match=f"damaged: the checksum of its part '{part}'"):
        checkpoint.read(path, parts=checkpoint.PARTS)


def test_sampling_reads_a_checkpoint_whose_optimizer_is_damaged(saved):
    path, _ = saved()
    content = torch.load(path, weights_only=True)
    content["optimizer"]["state"][0]["exp_avg"] += 1
    torch.save(content, path)
    pretrained.load_model(str(path.parent))


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code was run')",))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "spoil, message",
    [
        (cut, "damaged or no checkpoint"),
        (lambda p: p.write_text("not a checkpoint"), "damaged or no checkpoint"),
        (lambda p: p.write_bytes(b""), "damaged or no checkpoint"),
        (lambda p: torch.save({"model": Bomb()}, p), "more than plain data .__builtin__.exec., which is never loaded"),
        (lambda p: p.write_bytes(pickle.dumps(Bomb())), "damaged or no checkpoint"),
        (lambda p: torch.save({"weights": 1}, p), "its keys are not a checkpoint's"),
        (lambda p: torch.save([1, 2], p), "its keys are not a checkpoint's"),
    ],
)
def test_what_is_no_checkpoint_is_told_in_one_line(saved, spoil, message):
    path, _ = saved()
    spoil(path)
    with pytest.raises(UserError, match=message):
        pretrained.load_model(str(path.parent))


def test_a_newer_format_is_refused(saved):
    path, _ = saved()
    torch.save(torch.load(path, weights_only=True) | {"format": 99}, path)
    with pytest.raises(UserError, match="format 99, this llm reads up to 1: update llm"):
        pretrained.load_model(str(path.parent))


def test_weights_of_another_shape_are_refused(tiny_model, tmp_path):
    model = tiny_model(vocab_size=50304, n_embd=8)
    shape = dataclasses.asdict(model.config) | {"n_layer": 3}
    shape.pop("gelu")
    nanogpt_file(tmp_path / "out" / "ckpt.pt", model, model_args=shape)
    with pytest.raises(UserError, match="do not fit its model_args") as error:
        pretrained.load_model(str(tmp_path / "out"))
    assert "\n" not in str(error.value)


def test_a_missing_out_dir_lists_those_that_exist(saved, monkeypatch):
    path, _ = saved()
    monkeypatch.chdir(path.parent.parent)
    with pytest.raises(UserError, match=r"out_dir=out-x does not exist \(here are: out\)"):
        checkpoint.find("out-x", "ckpt.pt")
    with pytest.raises(UserError, match=r"ckpt_init.pt does not exist in out_dir=out \(it has: ckpt.pt\)"):
        checkpoint.find("out", "ckpt_init.pt")


def test_model_args_are_nanogpts_alone(saved):
    names = {"n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout"}
    assert set(torch.load(saved()[0], weights_only=True)["model_args"]) == names


def test_a_new_run_puts_an_earlier_ones_checkpoint_aside(saved, capsys):
    path, _ = saved()
    saved("ckpt_last.pt")
    checkpoint.clear_out_dir(path.parent, resumed=False)
    assert [p.name for p in path.parent.iterdir()] == ["ckpt_previous.pt"]
    assert "its checkpoint is now ckpt_previous.pt" in capsys.readouterr().err


def test_a_failed_save_leaves_the_old_file_and_nothing_else(saved, monkeypatch):
    path, _ = saved()
    old = path.read_bytes()
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="cannot write .*No space left"):
        saved()
    assert path.read_bytes() == old and [p.name for p in path.parent.iterdir()] == ["ckpt.pt"]


@pytest.mark.parametrize(
    "loop",
    [
        {"skipped": "many"},
        {"before": [1]},
        {"base": {"name": "x", "sha256": "0"}},  # without a path
        {"base": "x"},
        {"lora_rank": -1},
        {"lora_rank": 4},  # without a base
    ],
)
def test_a_place_to_go_on_that_makes_no_sense_is_told(saved, loop):
    path, _ = saved(loop=loop)
    with pytest.raises(UserError, match="its part 'loop' is not what is expected|do not fit its model_args"):
        pretrained.load_model(str(path.parent))
