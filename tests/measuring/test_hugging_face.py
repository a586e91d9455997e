"""Any model in Hugging Face's layout: the probabilities of a plain loop with transformers, and refusals in one line."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import STORY

from llm import recall as recall_script
from llm.configurator import PACKAGE, UserError
from llm.measuring import inputs, instrument, measures, scoring
from llm.measuring.hugging_face import HuggingFaceModel
from llm.measuring.instrument import Folder, Plan
from llm.measuring.scoring import score
from llm.measuring.texts import Text, exact_windows, token_windows
from llm.runtime import Runtime

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
pytestmark = pytest.mark.filterwarnings("default")  # transformers' own are not ours to mend

ALONE = Runtime(torch.device("cpu"), torch.float32, compile=False)
KINDS = ("gpt_neox", "llama", "gpt2")
TEXT = STORY[:2000]
PLAN = Plan(prefix=50, suffix=50, stride=50, coverage="windows", generate=0, show_text=False)


def small_tokenizer(kind: str):
    """A byte-pair encoding of 400 ids; Llama's puts <s> before a text."""
    encoding = tokenizers.Tokenizer(tokenizers.models.BPE())
    encoding.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    encoding.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    encoding.train_from_iterator([STORY[:20_000]], trainer)
    if kind == "llama":
        first = ("<s>", encoding.token_to_id("<s>"))
        encoding.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", "<s> $A $B", [first])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=encoding, bos_token="<s>", eos_token="</s>")


def small_model(kind: str):
    """A random model of 2 layers with logits that differ from each other."""
    shared = dict(vocab_size=400, initializer_range=0.3, bos_token_id=0, eos_token_id=1)
    layers = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    torch.manual_seed(2)
    if kind == "gpt_neox":
        config = transformers.GPTNeoXConfig(**shared, **layers, max_position_embeddings=128)
        return transformers.GPTNeoXForCausalLM(config)
    if kind == "llama":
        config = transformers.LlamaConfig(**shared, **layers, max_position_embeddings=128, num_key_value_heads=2)
        return transformers.LlamaForCausalLM(config)
    config = transformers.GPT2Config(**shared, n_embd=32, n_layer=2, n_head=4, n_positions=128)
    return transformers.GPT2LMHeadModel(config)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """kind -> a folder with a small random model and its tokenizer."""
    root = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        small_model(kind).save_pretrained(root / kind)
        small_tokenizer(kind).save_pretrained(root / kind)
    return {kind: root / kind for kind in KINDS}


@torch.no_grad()
def plain_loop(folder: Path, text: str, prefix: int, suffix: int, stride: int) -> list[tuple]:
    """(log_p, log_p_top40, greedy) of each window, with transformers alone, as anybody would write it."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    top_k = transformers.TopKLogitsWarper(40)
    first = [tokenizer.bos_token_id] if folder.name == "llama" else []
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = []
    for start in range(0, len(ids) - prefix - suffix + 1, stride):
        window = first + ids[start : start + prefix + suffix]
        logits = model(torch.tensor([window])).logits[0, -suffix - 1 : -1]
        target = torch.tensor(window[-suffix:])
        log_p = logits.log_softmax(-1)[torch.arange(suffix), target].double().sum()
        top = top_k(None, logits).log_softmax(-1)[torch.arange(suffix), target].double().sum()
        found.append((float(log_p), float(top), bool((logits.argmax(-1) == target).all())))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_those_of_a_plain_loop(folders, kind, tmp_path):
    model = HuggingFaceModel(str(folders[kind]), ALONE)
    text = Text.encoded("story", TEXT, model.encode)
    assert model.beginning == ([0] if kind == "llama" else [])
    assert model.decode(text.ids.tolist()) == TEXT
    for prefix, suffix, stride in ((50, 50, 50), (50, 50, 17), (20, 30, 100)):
        plan = Plan(prefix, suffix, stride, "windows", 0, False)
        _, rows, _ = instrument.run(model, text, [], plan, Folder(tmp_path), ALONE)
        expected = plain_loop(folders[kind], TEXT, prefix, suffix, stride)
        assert len(rows) == len(expected) > 5
        assert measures.column(rows, "log_p") == pytest.approx([e[0] for e in expected], abs=1e-4)
        assert measures.column(rows, "log_p_top40") == pytest.approx([e[1] for e in expected], abs=1e-4)
        assert [row["greedy"] for row in rows] == [e[2] for e in expected]


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_first_leaves_every_figure_that_matters(folders, kind):
    """Windows of a text that the model never saw, and one that it has generated itself."""
    model = HuggingFaceModel(str(folders[kind]), ALONE, torch.bfloat16)
    ids = model.encode(TEXT)[0]
    own = np.array([*ids[:50], *model.continuation(ids[:50].tolist(), 50)])
    windows = np.stack([*(ids[at : at + 100] for at in range(0, 500, 50)), own])
    exact, quick = score(model, windows, 50), score(model, windows, 50, quick=torch.bfloat16)
    matter = scoring.matters(exact)
    assert matter.tolist() == [False] * 10 + [True] and not quick.errors[-1].any()
    assert quick.log_p[-1] == pytest.approx(exact.log_p[-1], abs=1e-4)
    assert quick.log_p_top40[-1] == pytest.approx(exact.log_p_top40[-1], abs=1e-4)
    assert (quick.log_p != exact.log_p)[:10].any()  # bfloat16 was used ...
    assert quick.log_p == pytest.approx(exact.log_p, rel=0.02)  # ... and is good enough for what is negligible
    assert np.exp(quick.log_p) == pytest.approx(np.exp(exact.log_p), abs=1e-4)


def test_bfloat16_comes_first_only_where_most_windows_do_not_matter(folders, tmp_path):
    model = HuggingFaceModel(str(folders["gpt2"]), ALONE, torch.bfloat16)
    text = Text.encoded("story", TEXT, model.encode)
    instrument.run(model, text, [], PLAN, Folder(tmp_path), ALONE)
    header = json.loads((tmp_path / "windows.jsonl").read_text().splitlines()[0])
    assert (header["quick_dtype"], header["quick_below"]) == ("bfloat16", scoring.NEGLIGIBLE)
    ids = model.encode(TEXT)[0]
    known = np.stack([[*ids[n : n + 50], *model.continuation(ids[n : n + 50].tolist(), 20)] for n in range(3)])
    assert scoring.quick_dtype_for(model, known, 50) is None
    assert scoring.quick_dtype_for(HuggingFaceModel(str(folders["gpt2"]), ALONE), known, 50) is None


def test_what_the_model_generates_it_knows_by_heart(folders):
    """Its own greedy continuation: every window is recited, and by generate() of transformers, too."""
    model = HuggingFaceModel(str(folders["llama"]), ALONE)
    prompt = model.encode(TEXT)[0][:50].tolist()
    ids = np.array(prompt + model.continuation(prompt, 70))
    options = dict(max_new_tokens=70, do_sample=False, pad_token_id=0, eos_token_id=None)
    given = torch.tensor([[0, *prompt]])
    reference = model.model.generate(given, attention_mask=torch.ones_like(given), **options)
    assert reference[0, 1:].tolist() == ids.tolist()
    text = Text("own", "", ids, np.arange(121), [(0, 120)], [])
    scores = score(model, token_windows(text, prefix=50, suffix=50, stride=20).ids[:1], 50)
    assert not scores.errors.any() and scores.log_p_top40[0] >= scores.log_p[0]


def test_a_generation_goes_beyond_the_context(folders):
    model = HuggingFaceModel(str(folders["gpt2"]), ALONE)
    ids = model.encode(TEXT)[0][:50].tolist()
    found = model.continuation(ids, 150)
    ids += found[:79]  # the context of 128 holds them and predicts one more; then its newer half is kept
    with torch.no_grad():
        logits = model.model(torch.tensor([(ids)[-64:]])).logits[0, -1]
    assert len(found) == 150 and found[79] == int(logits.argmax())


def test_tokens_say_where_they_stand_in_the_text(folders):
    model = HuggingFaceModel(str(folders["gpt_neox"]), ALONE)
    words = "Ünïcode – “quotes”, 漢字 and\n\n  spaces"
    ids, starts = model.encode(words)
    assert starts[0] == 0 and starts[-1] == len(words) and (np.diff(starts) >= 0).all()
    whole = [n for n, (a, b) in enumerate(zip(starts, starts[1:], strict=False)) if b > a and words[a:b].isascii()]
    assert whole and all(model.decode([int(ids[n])]) == words[starts[n] : starts[n + 1]] for n in whole)


def test_exact_windows_are_those_of_the_whole_rest(folders):
    model = HuggingFaceModel(str(folders["gpt2"]), ALONE)
    text = Text.encoded("story", TEXT[:700], model.encode)
    windows = exact_windows(text, model.encode, prefix=20, suffix=20, characters=10)
    for n, start in enumerate(windows.start_char.tolist()):
        ids, starts = model.encode(TEXT[start:700])
        assert windows.ids[n].tolist() == ids[:40].tolist()
        assert windows.suffix_chars[n].tolist() == [start + starts[20], start + starts[40]]
    assert len(windows) > 40


def test_the_script_measures_a_folder(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inputs, "BUNDLED_CONTROLS", inputs.BUNDLED_CONTROLS[:1])  # seconds
    (tmp_path / "story.txt").write_text(TEXT)
    settings = dict(model=str(folders["gpt2"]), text=str(tmp_path / "story.txt"), device="cpu")
    recall_script.main(recall_script.Settings(**settings, coverage="both", recite=True, recite_tokens=20))
    out = capsys.readouterr().out.splitlines()
    figures = json.loads((tmp_path / "story-gpt2" / "recall.json").read_text())
    assert out[-1] == f"recall@50/50: 0.0000 (0/{figures['windows']} windows)"
    assert figures["coverage"]["largest difference"] == 0.0 and figures["near_verbatim"]["tokens"] == 20
    assert figures["calibration"]["control_windows"] > 10 and figures["versions"]["transformers"]
    names = {path.name for path in (tmp_path / "story-gpt2").iterdir()}
    assert {"windows.jsonl", "coverage_exact.jsonl", "coverage_offsets.jsonl", "report.html", "report.svg"} <= names


def test_the_harness_task_has_the_same_windows(folders):
    """docs/lm_eval: its windows as text, tokenised as the harness does, and its figures of one."""
    task = runpy.run_path(str(PACKAGE.parent / "docs" / "lm_eval" / "by_heart.py"))
    model = HuggingFaceModel(str(folders["gpt2"]), ALONE)
    windows = token_windows(Text.encoded("story", TEXT, model.encode), prefix=30, suffix=20, stride=40)
    found = task["cut"](TEXT, model.tokenizer, prefix=30, suffix=20, stride=40, metadata="of the harness")
    same = [
        model.encode(pair["prefix"] + pair["suffix"])[0].tolist() == ids.tolist()
        for pair, ids in zip(found, windows.ids, strict=True)
    ]
    assert len(same) > 5 and sum(same) >= 0.8 * len(same)
    assert task["figures"]({}, [(-6.9, True)]) == {"recall": 1.0, "log_p": -6.9, "extractable": 1.0}
    assert task["figures"]({}, [(-7.0, False)]) == {"recall": 0.0, "log_p": -7.0, "extractable": 0.0}


def refused(folder, text, **settings) -> str:
    """The one line with which a measurement is refused."""
    with pytest.raises(UserError) as error:
        recall_script.main(recall_script.Settings(model=str(folder), text=text, device="cpu", **settings))
    return str(error.value)


@pytest.fixture
def copy(folders, tmp_path):
    """A copy of the GPT-2's files, to be damaged."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in folders["gpt2"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture
def story(tmp_path) -> str:
    (tmp_path / "story.txt").write_text(TEXT)
    return str(tmp_path / "story.txt")


def test_a_name_that_needs_a_network_is_told_in_one_line(story, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    line = refused("nobody/no-such-model", story)
    assert "neither a folder here nor in the hub's cache" in line and "type --model=THAT_FOLDER" in line


def test_pickled_weights_are_refused(copy, story):
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    assert "pytorch_model.bin is a pickle, which is never read here" in refused(copy, story)


def test_code_of_a_model_is_never_run(copy, story):
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "code.py").write_text(f"open({str(copy / 'ran')!r}, 'w')")
    assert "needs code that comes with it, which is never run here" in refused(copy, story)
    config["model_type"] = "gpt2"  # of a kind that is known, the known code is used
    (copy / "config.json").write_text(json.dumps(config))
    HuggingFaceModel(str(copy), ALONE)
    assert not (copy / "ran").exists()


def test_a_tokenizer_without_offsets_is_refused(copy, story):
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    assert "ByT5Tokenizer has no offsets of its tokens in the text" in refused(copy, story)


def test_a_text_shorter_than_a_window_is_refused(folders, tmp_path):
    (tmp_path / "short.txt").write_text("Too short for this.")
    line = refused(folders["gpt2"], str(tmp_path / "short.txt"))
    assert "short.txt has" in line and "recall@50/50 needs at least 100" in line


def test_missing_weights_are_no_random_ones(copy, story):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert "does not hold all weights of its config.json: transformer.h.1.mlp.c_fc.weight" in refused(copy, story)


def test_damaged_weights_windows_beyond_the_context_and_a_missing_text_are_told(copy, story, tmp_path):
    assert "needs a context of 199 tokens" in refused(copy, story, prefix=100, suffix=100)
    assert "--model needs a text to measure: type --text=FILE" in refused(copy, None)
    (copy / "model.safetensors").write_bytes(b"\0" * 100)
    assert "cannot be loaded" in refused(copy, story)
    assert "has no config.json" in refused(tmp_path, story)
    (tmp_path / "ckpt.pt").write_bytes(b"")
    assert f"is an out_dir of train.py: type --out_dir={tmp_path}" in refused(tmp_path, story)


@pytest.mark.slow
def test_several_processes_measure_the_same(folders, story, run, tmp_path):
    arguments = (f"--model={folders['gpt2']}", f"--text={story}", "--stride=7", "--device=cpu")
    run("recall.py", *arguments, f"--to={tmp_path / 'one'}")
    run(
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "recall.py",
        *arguments,
        f"--to={tmp_path / 'two'}",
    )
    for name in ("windows.jsonl", "slips.jsonl", "control_1.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
