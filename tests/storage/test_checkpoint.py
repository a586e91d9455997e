"""Checkpoints: loaded as they were saved, exchanged with nanoGPT in both directions, refused when damaged."""

import dataclasses
import math
import pickle

import pytest
import torch
from conftest import hugging_face_gpt2, save_checkpoint, with_nanogpts_names

from llm.configurator import UserError
from llm.storage import checkpoint, pretrained
from llm.storage.progress import Progress
from llm.text import tokenizer
from llm.training import optim

OPTIMIZER = dict(optimizer="muon", learning_rate=0.01, muon_lr=0.02, weight_decay=0.1, betas=(0.9, 0.95))


PROGRESS = Progress(iter_num=1, position=[0, 3], seconds=1.5, metrics_bytes=10, text_sha256="x")


@pytest.fixture
def saved(tiny_model, tmp_path):
    """saved(...) writes a checkpoint of a tiny model that was trained for one update; returns (path, model)."""

    def saved(name="ckpt.pt", progress=PROGRESS):
        model = tiny_model(vocab_size=64)
        optimizers = optim.make_optimizers(model, **OPTIMIZER)
        idx = torch.randint(61, (1, 9))
        model(idx[:, :-1], idx[:, 1:])[1].backward()
        for optimizer in optimizers:
            optimizer.step()
        path = tmp_path / "out" / name
        path.parent.mkdir(exist_ok=True)
        save_checkpoint(
            path,
            model=model,
            optimizers=optimizers,
            progress=progress,
            config={"dataset": "story"},
            tokenizer_description=tokenizer.characters("abc").description,
            corpus_ids=[0, 1, 2],
        )
        return path, model

    return saved


def nanogpt_file(path, model, state_dict=None, **changes):
    """Write what nanoGPT's train.py writes for a compiled model of this shape."""
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


def test_load_model_returns_weights_tokenizer_and_origin(saved):
    path, model = saved()
    loaded, encoder, info = pretrained.load_model(str(path.parent))
    idx = torch.randint(61, (2, 16))
    assert torch.equal(loaded(idx)[0], model(idx)[0]) and not loaded.training
    assert loaded.transformer.wte.weight is loaded.lm_head.weight
    assert encoder.encode("cab") == [2, 0, 1]
    assert (info.iter_num, info.dataset, info.corpus_ids, info.text_sha256) == (1, "story", [0, 1, 2], "x")


def test_the_keys_are_nanogpts_and_ours(saved):
    nanogpts = {"model", "model_args", "optimizer", "iter_num", "best_val_loss", "config"}
    ours = {"format", "gelu", "optimizers", "tokenizer", "corpus_ids", "loop", "checksums"}
    assert set(torch.load(saved()[0], weights_only=True)) == nanogpts | ours


def test_the_state_of_training_comes_back(saved):
    assert checkpoint.read(saved()[0], parts=())["progress"] == PROGRESS


def as_format_1(path):
    """Rewrite a checkpoint as commit b3bb275 wrote it: other names in loop, no threads."""
    content = torch.load(path, weights_only=True)
    old_names = {
        "position": "place",
        "replay_starts": "again",
        "evals_without_gain": "stale",
        "stop_reason": "ended",
        "skipped_updates": "skipped",
        "baseline": "before",
    }
    loop = {old_names.get(name, name): value for name, value in content["loop"].items() if name != "threads"}
    content |= {"format": 1, "loop": loop}
    torch.save(content | {"checksums": checkpoint.checksums(content)}, path)


def test_a_checkpoint_of_format_1_is_read(saved):
    progress = dataclasses.replace(
        PROGRESS, replay_starts=[4, 8], evals_without_gain=2, stop_reason="patience", skipped_updates=3
    )
    path, model = saved(progress=progress)
    as_format_1(path)
    assert torch.load(path, weights_only=True)["loop"]["place"] == [0, 3]
    content = checkpoint.read(path, parts=checkpoint.PARTS)
    assert content["format"] == 1 and content["progress"] == progress
    idx = torch.randint(61, (2, 16))
    loaded, _, info = pretrained.load_model(str(path.parent))
    assert torch.equal(loaded(idx)[0], model(idx)[0]) and info.text_sha256 == "x"


def test_a_nanogpt_checkpoint_loads_and_computes_what_nanogpt_does(tiny_model, tmp_path):
    """nanoGPT's network is Hugging Face's with the exact GELU in place of GPT-2's approximation."""
    reference = hugging_face_gpt2(activation_function="gelu", vocab_size=50304)
    shape = tiny_model(n_layer=3, n_head=4, n_embd=32, block_size=24, bias=True, vocab_size=50304)
    nanogpt_file(tmp_path / "out" / "ckpt.pt", shape, with_nanogpts_names(reference))
    loaded, encoder, info = pretrained.load_model(str(tmp_path / "out"))
    idx = torch.randint(50257, (2, 24))
    torch.testing.assert_close(loaded(idx, idx)[0], reference(idx).logits, rtol=1e-4, atol=1e-4)
    assert encoder is tokenizer.gpt2() and info.corpus_ids is None and info.iter_num == 7


def test_a_nanogpt_checkpoint_of_characters_uses_its_datasets_tokenizer(tiny_model, tmp_path, prepare, capsys):
    prepare("chars", text="abcabc" * 9, encoder=tokenizer.characters("abc"))
    nanogpt_file(tmp_path / "out" / "ckpt.pt", tiny_model(vocab_size=3), config={"dataset": "chars"})
    assert pretrained.load_model(str(tmp_path / "out"))[1].encode("cab") == [2, 0, 1]
    assert "using the tokenizer of dataset chars" in capsys.readouterr().err


def test_a_nanogpt_checkpoint_of_characters_without_its_dataset_says_what_to_prepare(tiny_model, tmp_path, data):
    nanogpt_file(tmp_path / "out" / "ckpt.pt", tiny_model(vocab_size=65), config={"dataset": "chars"})
    with pytest.raises(UserError, match="dataset chars is not prepared"):
        pretrained.load_model(str(tmp_path / "out"))


def test_the_optimizers_states_come_back(saved):
    path, _ = saved()
    read = checkpoint.read(path, parts=checkpoint.PARTS)
    model = pretrained.build_model(read, path)
    adamw, muon = optim.make_optimizers(model, **OPTIMIZER)
    checkpoint.restore_optimizers([adamw, muon], read, path)
    assert len(adamw.state) + len(muon.state) == len(list(model.parameters()))
    assert all(state["step"] == 1 for state in adamw.state.values())
    assert all(state["momentum_buffer"].any() for state in muon.state.values())


def test_another_optimizers_state_is_refused(saved):
    path, _ = saved()
    read = checkpoint.read(path, parts=checkpoint.PARTS)
    optimizers = optim.make_optimizers(pretrained.build_model(read, path), **OPTIMIZER | {"optimizer": "adamw"})
    with pytest.raises(UserError, match="does not fit this model and optimizer"):
        checkpoint.restore_optimizers(optimizers, read, path)


@pytest.mark.parametrize("part", ["model", "optimizer", "optimizers", "rest"])
def test_a_changed_value_is_detected_in_each_part(saved, part):
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
    path, model = saved()
    content = torch.load(path, weights_only=True)
    content["optimizer"]["state"][0]["exp_avg"] += 1
    torch.save(content, path)
    with pytest.raises(UserError, match="checksum of its part 'optimizer'"):
        checkpoint.read(path, parts=checkpoint.PARTS)
    loaded = pretrained.load_model(str(path.parent))[0]
    assert checkpoint.digest(loaded.state_dict()) == checkpoint.digest(model.state_dict())


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code was run')",))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "damage, message",
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
def test_a_file_that_is_no_checkpoint_gives_a_one_line_error(saved, damage, message):
    path, _ = saved()
    damage(path)
    with pytest.raises(UserError, match=message):
        pretrained.load_model(str(path.parent))


def test_a_newer_format_is_refused(saved):
    path, _ = saved()
    torch.save(torch.load(path, weights_only=True) | {"format": 99}, path)
    with pytest.raises(UserError, match="format 99, this llm reads up to 3: update llm"):
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


def test_model_args_are_only_nanogpts(saved):
    names = {"n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout"}
    assert set(torch.load(saved()[0], weights_only=True)["model_args"]) == names


def test_a_failed_save_leaves_the_old_file_and_no_temporary_file(saved, monkeypatch):
    path, _ = saved()
    old = path.read_bytes()
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="cannot write .*No space left"):
        saved()
    assert path.read_bytes() == old and [p.name for p in path.parent.iterdir()] == ["ckpt.pt"]


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"skipped_updates": "many"}, "state of training is not what is expected: skipped_updates"),
        ({"baseline": [1]}, "state of training is not what is expected: baseline"),
        ({"base": {"name": "x", "sha256": "0"}}, "state of training is not what is expected: base"),  # without a path
        ({"base": "x"}, "state of training is not what is expected: base"),
        ({"lora_rank": -1}, "state of training is not what is expected: lora_rank"),
        ({"lora_rank": 4}, "do not fit its model_args: they are LoRA weights, and their base model is not named"),
    ],
)
def test_a_state_of_training_that_no_run_has_is_refused(saved, wrong, message):
    path, _ = saved(progress=dataclasses.replace(PROGRESS, **wrong))
    with pytest.raises(UserError, match=message):
        pretrained.load_model(str(path.parent))


def test_a_tokenizer_larger_than_the_token_table_is_refused(tiny_model, tmp_path):
    save_checkpoint(tmp_path / "ckpt.pt", model=tiny_model(vocab_size=64))  # with GPT-2's tokenizer
    with pytest.raises(UserError, match="its tokenizer has 50257 ids, its token table 64 rows"):
        pretrained.load_model(str(tmp_path))


def test_a_corpus_id_that_the_tokenizer_lacks_is_refused(tiny_model, tmp_path):
    description = tokenizer.characters("abc").description
    parts = dict(tokenizer_description=description, corpus_ids=[0, 3])
    save_checkpoint(tmp_path / "ckpt.pt", model=tiny_model(vocab_size=64), **parts)
    with pytest.raises(UserError, match="its tokenizer has 3 ids, .* the largest id of its corpus is 3"):
        pretrained.load_model(str(tmp_path))


def nothing_built(monkeypatch):
    """Fails the test if a model of the file's size is built."""
    monkeypatch.setattr(pretrained, "uninitialised", lambda config: pytest.fail(f"built {config}"))


LAYERS = "10000 layers, at most 1000 are read"
MISSHAPEN = {
    "10,000 layers that share one number": (
        lambda args, weights: (args | {"n_layer": 10_000}, {f"k{n}": torch.zeros(1) for n in range(10_000)}),
        LAYERS,
    ),
    "1,000 layers that share one number": (
        lambda args, weights: (args | {"n_layer": 1000}, {f"k{n}": torch.zeros(1) for n in range(1000)}),
        "k0 is no weight of it",
    ),
    "a width that no weight has": (lambda args, w: (args | {"n_embd": 2**26}, w), r"not \[50304, 67108864\]"),
    "a context that no weight has": (lambda args, w: (args | {"block_size": 2**40}, w), r"not \[1099511627776, 8\]"),
    "True layers": (lambda args, w: (args | {"n_layer": True}, w), "no model has"),
    "two layers and a half": (lambda args, w: (args | {"n_layer": 2.5}, w), "no model has"),
    "no heads": (lambda args, w: (args | {"n_head": 0}, w), "no model has"),
    "bytes": (lambda args, weights: (args, {k: w.byte() for k, w in weights.items()}), "is torch.uint8"),
    "NaN": (lambda args, weights: (args, {k: w * math.nan for k, w in weights.items()}), "a number that is not finite"),
    "another output table": (
        lambda args, weights: (args, weights | {"lm_head.weight": weights["lm_head.weight"] + 1}),
        "lm_head.weight differs from wte.weight",
    ),
}


@pytest.mark.parametrize("name", MISSHAPEN)
def test_weights_are_compared_with_the_config_before_a_model_is_built(tiny_model, tmp_path, monkeypatch, name):
    """A file of 0.17 MB said 10,000 layers: 221 MB and 11 s, linear, so that 4 MB of names would take 5 GB."""
    change, message = MISSHAPEN[name]
    model = tiny_model(vocab_size=50304, n_embd=8)
    shape = {k: v for k, v in dataclasses.asdict(model.config).items() if k != "gelu"}
    args, weights = change(shape, dict(model.state_dict()))
    nanogpt_file(tmp_path / "out" / "ckpt.pt", model, weights, model_args=args)
    nothing_built(monkeypatch)
    with pytest.raises(UserError, match=f"do not fit its model_args: .*{message}"):
        pretrained.load_model(str(tmp_path / "out"))


def test_an_unknown_gelu_is_refused(saved):
    path, _ = saved()
    content = torch.load(path, weights_only=True) | {"gelu": "foo"}
    torch.save(content | {"checksums": checkpoint.checksums(content)}, path)
    with pytest.raises(UserError, match="do not fit its model_args: no model has"):
        pretrained.load_model(str(path.parent))
