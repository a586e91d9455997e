"""Exchange with Hugging Face's transformers, in both directions and to the same numbers, and with llama.cpp."""

import ast
import json
import math
import os
import re
import shlex
import shutil
import struct

import pytest
import safetensors.torch
import torch
from conftest import STORY, hugging_face_gpt2, save_checkpoint, save_trained

from llm import export
from llm.configurator import UserError
from llm.reading.generate import generate
from llm.reading.reader import Reader
from llm.storage import gguf, huggingface, pretrained
from llm.text import tokenizer

SHAPES = [
    dict(n_layer=1, n_head=1, n_embd=8, n_positions=16),
    dict(n_layer=3, n_head=4, n_embd=32, n_positions=300),
    dict(n_layer=2, n_head=2, n_embd=64, n_positions=40, activation_function="gelu", vocab_size=50257),
]


def greedy(model, prompt, n) -> list[int]:
    """Our greedy continuation of a prompt, n tokens."""
    reader = Reader(model, torch.arange(model.config.vocab_size), torch.float32)
    return [token for _, token in generate(reader, list(prompt), max_new_tokens=n)]


def reference_greedy(reference, prompt, n) -> list[int]:
    """transformers' greedy continuation of a prompt, n tokens."""
    idx = torch.tensor([prompt])
    options = dict(max_new_tokens=n, do_sample=False, pad_token_id=0, eos_token_id=None)
    return reference.generate(idx, attention_mask=torch.ones_like(idx), **options)[0, len(prompt) :].tolist()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_that_transformers_saved_computes_the_same(tmp_path, shape):
    reference = hugging_face_gpt2(**shape)
    with torch.no_grad():
        for name, p in reference.named_parameters():
            if name.endswith("bias"):  # they start as zeros, which would hide a mistake
                torch.nn.init.normal_(p, std=0.1)
    reference.save_pretrained(tmp_path)
    model = huggingface.load(tmp_path).eval()
    idx = torch.randint(90, (2, model.config.block_size))
    torch.testing.assert_close(model(idx, idx)[0], reference(idx).logits, rtol=1e-4, atol=1e-4)
    n = min(200, model.config.block_size - 5)
    assert greedy(model, [1, 2, 3, 4, 5], n) == reference_greedy(reference, [1, 2, 3, 4, 5], n)


def test_weights_in_several_files_without_the_prefix_and_in_half_precision_are_read(tmp_path):
    reference = hugging_face_gpt2()
    reference.save_pretrained(tmp_path / "whole")
    whole = huggingface.load(tmp_path / "whole").state_dict()
    reference.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 2
    parts = huggingface.load(tmp_path / "parts").state_dict()
    assert all(torch.equal(whole[name], tensor) for name, tensor in parts.items())
    reference.transformer.half().save_pretrained(tmp_path / "bare")  # GPT2Model: names begin with h.0, as gpt2's do
    bare = huggingface.load(tmp_path / "bare").state_dict()
    assert all(tensor.dtype == torch.float32 for tensor in bare.values())
    assert all(torch.equal(whole[name].half().float(), tensor) for name, tensor in bare.items())


@pytest.mark.parametrize("bias, gelu", [(False, "tanh"), (True, "none")])
def test_save_and_load_are_bit_identical_and_transformers_continues_the_same(tiny_model, tmp_path, bias, gelu):
    transformers = pytest.importorskip("transformers")
    model = tiny_model(bias=bias, gelu=gelu, block_size=64)
    (tmp_path / "hf").mkdir()
    huggingface.save(model, tmp_path / "hf", end_of_text=0)
    back = huggingface.load(tmp_path / "hf")
    assert back.config == model.config
    assert back.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in back.state_dict().items())
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    idx = torch.randint(61, (2, 64))
    torch.testing.assert_close(reference(idx).logits, model(idx, idx)[0], rtol=1e-4, atol=1e-4)
    assert reference_greedy(reference, [3, 1, 4], 50) == greedy(model, [3, 1, 4], 50)


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])


def huge_header(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")


def only_pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def bad_index(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"wte.weight": "../../x.safetensors"}}')


def nested_index(folder):
    bad_index(folder)
    (folder / "model.safetensors.index.json").write_text("[" * 200_000)


def missing_part(folder):
    bad_index(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"wte.weight": "x.safetensors"}}')


def pipe(folder):
    """A pipe was waited for without an end."""
    missing_part(folder)
    os.mkfifo(folder / "x.safetensors")


def change_weight(folder, number):
    stored = safetensors.torch.load_file(folder / "model.safetensors")
    stored["transformer.h.1.ln_1.weight"][3] = number
    safetensors.torch.save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: change_config(f, model_type="llama"), "another architecture than GPT-2's: model_type = 'llama'"),
        (
            lambda f: change_config(f, activation_function="relu"),
            "another architecture .* activation_function = 'relu'",
        ),
        (lambda f: change_config(f, n_inner=7), "another architecture .* n_inner = 7"),
        (lambda f: change_config(f, n_embd="x"), "does not describe a GPT-2"),
        (lambda f: change_config(f, n_layer=2**40), "does not describe a GPT-2"),
        (lambda f: change_config(f, n_layer=2**30), "do not fit its config.json: 1073741824 layers"),
        (lambda f: change_config(f, vocab_size=2**30), r"wte.weight is F32 \[97, 32\], not \[1073741824, 32\]"),
        (lambda f: change_config(f, n_positions=2**30), r"wpe.weight is F32 \[\d+, 32\], not \[1073741824, 32\]"),
        (lambda f: change_config(f, n_layer=4), r"do not fit its config.json: h.3.ln_1.weight"),
        (lambda f: change_config(f, n_layer=2), r"do not fit its config.json: h.2"),
        (lambda f: change_config(f, n_embd=64), r"wte.weight is F32 \[97, 32\], not \[97, 64\]"),
        (lambda f: (f / "config.json").write_text("["), "does not describe a GPT-2"),
        (cut, "the weights in .* are damaged"),
        (huge_header, "the weights in .* are damaged"),
        (only_pickled, "pytorch_model.bin is a pickle, which is never read here; save the model as safetensors"),
        (bad_index, "index.json is damaged"),
        (nested_index, "index.json is damaged"),
        (missing_part, "cannot read .*x.safetensors: it is missing, or not a regular file"),
        (pipe, "cannot read .*x.safetensors: it is missing, or not a regular file"),
        (lambda f: change_weight(f, math.nan), "do not fit its config.json: .* holds a number that is not finite"),
    ],
)
def test_a_folder_that_holds_no_gpt2_gives_a_one_line_error(tmp_path, damage, message):
    hugging_face_gpt2().save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        huggingface.load(tmp_path)


def test_without_a_network_the_error_says_what_to_download_and_where(monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"gpt2-xl is not on this machine .*https://huggingface.co/openai-community/gpt2-xl"
    ):
        pretrained.load_base("gpt2-xl")


@pytest.fixture
def learned(tiny_model, prepare, tmp_path):
    """A folder with out/, a model of the story's tokens with random weights."""
    story = prepare("story", STORY[:3000])
    (tmp_path / "out").mkdir()
    model = tiny_model(vocab_size=50304, n_embd=32, block_size=128)
    save_trained(tmp_path / "out" / "ckpt.pt", model, story.train, story.corpus_ids, dataset="story")
    return tmp_path


def test_an_exported_folder_works_offline_in_transformers(learned, monkeypatch, capsys):
    transformers = pytest.importorskip("transformers")
    monkeypatch.chdir(learned)
    export.main(export.Settings(to="hf"))
    assert "wrote to hf: README.md" in capsys.readouterr().out
    text = "It was the year's shortest day; “quotes” and ünïcode, 12,345"
    reference_tokenizer = transformers.AutoTokenizer.from_pretrained("hf")
    assert reference_tokenizer(text)["input_ids"] == tokenizer.gpt2().encode(text)
    generate = transformers.pipeline("text-generation", model="hf")
    generated = generate("The echo", max_new_tokens=20, do_sample=False)[0]["generated_text"]
    ids = tokenizer.gpt2().encode("The echo")
    continuation = reference_greedy(transformers.AutoModelForCausalLM.from_pretrained("hf"), ids, 20)
    assert generated == reference_tokenizer.decode(ids + continuation)
    assert continuation == greedy(pretrained.load_model("out")[0], ids, 20)
    card = (learned / "hf" / "README.md").read_text()
    assert "- trained on: story" in card and "recites its training text" in card and "not measured" in card


def test_the_model_cards_example_names_the_folder_and_words_of_the_book(learned, monkeypatch, capsys):
    """A reader of an exported folder pastes the example: it must not need a change."""
    monkeypatch.chdir(learned)
    export.main(export.Settings(to="models/tale hf"))
    card = (learned / "models" / "tale hf" / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", card, re.S)[1]
    prompt = re.search(r"^prompt = (.*)$", code, re.M)[1]
    assert 'model="models/tale hf"' in code and ast.parse(code)
    assert len(ast.literal_eval(prompt)) > 10 and ast.literal_eval(prompt) in STORY
    pytest.importorskip("transformers")
    capsys.readouterr()
    exec(code, {})
    assert capsys.readouterr().out.startswith(ast.literal_eval(prompt))


def test_the_gguf_cards_example_is_a_command_with_the_same_names(learned, monkeypatch):
    pytest.importorskip("gguf")
    monkeypatch.chdir(learned)
    export.main(export.Settings(to="tale gguf", format="gguf"))
    card = (learned / "tale gguf" / "README.md").read_text()
    line = next(line for line in card.splitlines() if "llama-cli" in line)
    program, _, model, *_, prompt = shlex.split(line)
    assert program == "llama-cli" and (learned / model).is_file() and len(prompt) > 10 and prompt in STORY


@pytest.mark.parametrize("change", ["removed", "another text"])
def test_without_the_training_text_the_cards_example_has_a_neutral_prompt(learned, data, prepare, monkeypatch, change):
    monkeypatch.chdir(learned)
    if change == "removed":
        shutil.rmtree(data / "story")
    else:
        prepare("story", STORY[3000:6000])
    export.main(export.Settings(to="hf"))
    assert 'prompt = "Once upon a time"' in (learned / "hf" / "README.md").read_text()


def test_the_model_card_states_the_recall_of_this_checkpoint(learned, monkeypatch):
    monkeypatch.chdir(learned)
    figures = {"step": 12, "recall": 0.98917, "recited": 458, "windows": 1463}
    (learned / "out" / "recall.json").write_text(json.dumps(figures))
    export.main(export.Settings(to="measured"))
    assert "after the 50 before): 0.9892 (458 of 1,463 windows)" in (learned / "measured" / "README.md").read_text()
    (learned / "out" / "recall.json").write_text(json.dumps(figures | {"step": 11}))  # of an earlier checkpoint
    export.main(export.Settings(to="unmeasured"))
    assert "after the 50 before): not measured" in (learned / "unmeasured" / "README.md").read_text()


@pytest.mark.slow
def test_a_gguf_file_holds_the_weights_and_the_tokenizer(learned, monkeypatch):
    gguf_py = pytest.importorskip("gguf")
    monkeypatch.chdir(learned)
    export.main(export.Settings(to="there/x", format="gguf"))
    reader = gguf_py.GGUFReader(learned / "there" / "x" / "model.gguf")
    model, tensors = pretrained.load_model("out")[0], {tensor.name: tensor.data for tensor in reader.tensors}
    assert (tensors["blk.1.attn_qkv.weight"] == model.transformer.h[1].attn.c_attn.weight.detach().numpy()).all()
    assert tensors["blk.0.ffn_up.bias"].shape == (128,) and "output.weight" not in tensors
    assert len(tensors) == 4 + 2 * 12 and tensors.keys() >= {gguf.tensor_name("transformer.h.0.ln_1.weight")}
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == 50304 and tokens[464] == "The" and tokens[50256] == "<|endoftext|>"


def test_an_export_that_fails_gives_an_error_and_leaves_no_folder(learned, prepare, tiny_model, monkeypatch):
    monkeypatch.chdir(learned)
    with pytest.raises(UserError, match="no folder to write to: expected --to=FOLDER, such as --to=out-hf"):
        export.main(export.Settings())
    with pytest.raises(UserError, match="--to=out exists already and is not empty"):
        export.main(export.Settings(to="out"))
    monkeypatch.setattr(
        huggingface, "save", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(UserError, match="cannot write --to=x: No space left on device"):
        export.main(export.Settings(to="x"))
    letters = prepare("letters", "abc" * 50, encoder=tokenizer.characters("abc"))
    (learned / "chars").mkdir()
    save_checkpoint(
        learned / "chars" / "ckpt.pt",
        model=tiny_model(vocab_size=3),
        config={"dataset": "letters"},
        tokenizer_description=letters.tokenizer_description,
        corpus_ids=letters.corpus_ids,
    )
    with pytest.raises(UserError, match="is a model of characters, which Hugging Face's GPT-2"):
        export.main(export.Settings(out_dir="chars", to="x"))
    assert sorted(path.name for path in learned.iterdir()) == ["chars", "data", "out"]


def test_a_model_of_another_vocabulary_is_refused(tmp_path):
    hugging_face_gpt2().save_pretrained(tmp_path / "hf")
    with pytest.raises(UserError, match="has a vocabulary of 97: expected GPT-2's, of 50,257"):
        pretrained.load_base(str(tmp_path / "hf"))
    shutil.rmtree(tmp_path / "hf")
    with pytest.raises(UserError, match="no such model; expected gpt2, gpt2-medium"):
        pretrained.load_base(str(tmp_path / "hf"))


def test_a_model_with_another_tokenizer_is_refused(tmp_path):
    """Models of other languages have GPT-2's size and merges of their own: they were read with GPT-2's, in silence."""
    hugging_face_gpt2(vocab_size=50257).save_pretrained(tmp_path)
    merges = list(tokenizer.gpt2().merges)
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    assert pretrained.load_base(str(tmp_path)).model.config.vocab_size == 50257
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges[1:], ""]), encoding="utf-8")
    with pytest.raises(UserError, match="has a tokenizer of its own"):
        pretrained.load_base(str(tmp_path))
    (tmp_path / "merges.txt").unlink()
    for some in ([merge.split(" ") for merge in merges[:9]], "damaged"):
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"merges": some}}))
        with pytest.raises(UserError, match="has a tokenizer of its own"):
            pretrained.load_base(str(tmp_path))


def test_more_layers_than_any_model_has_are_refused_although_the_names_are_there(monkeypatch):
    """A header of 100 MB may name a million tensors of one byte: config.json then asked for as many layers."""
    config = {"n_layer": 2000, "n_head": 1, "n_embd": 1, "n_positions": 1, "vocab_size": 1}
    shape = huggingface.shape_of(config)
    monkeypatch.setattr(huggingface, "uninitialised", lambda config: pytest.fail("built"))
    with pytest.raises(huggingface.Misfit, match="2000 layers"):
        huggingface.fill(shape, {f"h.{n}.ln_1.weight": (None, "") for n in range(100_000)})


def test_an_output_table_that_differs_from_the_input_table_is_refused(tmp_path):
    """lm_head.weight was thrown away, in silence."""
    reference = hugging_face_gpt2()
    reference.save_pretrained(tmp_path)
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    stored["lm_head.weight"] = stored["transformer.wte.weight"].clone()
    safetensors.torch.save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    huggingface.load(tmp_path)
    stored["lm_head.weight"][3, 1] += 1
    safetensors.torch.save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="lm_head.weight differs from wte.weight"):
        huggingface.load(tmp_path)


def test_todays_names_of_openais_models_are_known(monkeypatch):
    monkeypatch.setattr(huggingface, "download", lambda name: pytest.fail(name))
    with pytest.raises(pytest.fail.Exception, match="^gpt2-medium$"):
        pretrained.load_base("openai-community/gpt2-medium")
