"""Our own models: the same probabilities as a plain loop, as serve.py's, and the same windows as recall@50/50."""

import dataclasses
import json
import math
import os
import random
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import STORY, save_trained

from llm import recall as recall_script
from llm.measuring import inputs, instrument, models, scoring, state, texts
from llm.measuring.instrument import Folder, Plan
from llm.measuring.models import OwnModel
from llm.measuring.texts import Text
from llm.reading import recall
from llm.reading.generate import allowed_ids
from llm.reading.reader import Reader
from llm.reading.windows import read_windows
from llm.runtime import Runtime
from llm.serving.logprobs import prompt_scores
from llm.storage.pretrained import ModelInfo
from llm.text import tokenizer
from llm.text.dataset import Split

ALONE = Runtime(torch.device("cpu"), torch.float32, compile=False)
LETTERS = "".join(chr(0x100 + n) for n in range(40))
PLAN = Plan(prefix=50, suffix=50, stride=50, coverage="windows", generate=0, show_text=False)


def info(corpus_ids=None) -> ModelInfo:
    return ModelInfo(Path("out/ckpt.pt"), 7, "story", corpus_ids, None, {})


def plain_scores(model, ids, starts, prefix=50, suffix=50, corpus=None):
    """(log_p, log_p_top40, errors) of each window: one at a time, in float64, without any of our shortcuts."""
    found = []
    for start in starts:
        window = torch.as_tensor(ids[start : start + prefix + suffix])[None]
        logits = model.lm_head(model.hidden(window[:, :-1]))[0, prefix - 1 :].double()
        target = window[0, prefix:, None]
        log_p = logits.log_softmax(-1).gather(1, target)
        kth = logits.topk(40).values[:, -1:] if logits.shape[1] > 40 else logits.min(-1, keepdim=True).values
        top = logits.masked_fill(logits < kth, -torch.inf).log_softmax(-1).gather(1, target)
        drawable = logits
        if corpus is not None:
            outside = [n for n in range(logits.shape[1]) if n not in corpus]
            drawable = logits.index_fill(1, torch.tensor(outside), -torch.inf)
        found.append((float(log_p.sum()), float(top.sum()), (drawable.argmax(-1) != target[:, 0]).numpy()))
    return found


@pytest.fixture
def half(half_learned):
    """(our model with a tokenizer of 40 characters, a text of which it knows one part)."""
    model, ids = half_learned
    characters = tokenizer.Characters(LETTERS)
    own = OwnModel(model, characters, info(), ALONE, None)
    return own, Text.encoded("half", characters.decode(ids), own.encode)


@torch.inference_mode()
def test_windows_have_the_probabilities_of_a_plain_loop(half, half_learned):
    own, text = half
    model, ids = half_learned
    for prefix, suffix, stride in ((50, 50, 50), (20, 30, 7), (8, 1, 100)):
        windows = texts.token_windows(text, prefix=prefix, suffix=suffix, stride=stride)
        scores = scoring.score(own, windows.ids, prefix)
        for n, (log_p, top, errors) in enumerate(plain_scores(model, ids, windows.start_token, prefix, suffix)):
            assert scores.log_p[n] == pytest.approx(log_p, abs=1e-4)
            assert scores.log_p_top40[n] == pytest.approx(top, abs=1e-4)
            assert (scores.errors[n] == errors).all()


def test_bfloat16_first_leaves_every_figure_that_matters(half):
    own, text = half
    windows = texts.token_windows(text, prefix=50, suffix=50, stride=50)
    exact, quick = (scoring.score(own, windows.ids, 50, quick=dtype) for dtype in (None, torch.bfloat16))
    matter = scoring.matters(exact)
    assert 0 < matter.sum() < len(matter)
    assert quick.log_p[matter] == pytest.approx(exact.log_p[matter], abs=1e-4)
    assert (quick.errors[matter] == exact.errors[matter]).all()
    assert quick.log_p == pytest.approx(exact.log_p, rel=0.02) and (quick.log_p != exact.log_p).any()


def test_greedy_windows_are_those_of_recall(half, half_learned, tmp_path):
    own, text = half
    model, ids = half_learned
    split = Split.in_memory(ids, 40)
    expected = recall.measure(model, split, recall.split_starts(split), allowed=torch.arange(40), rt=ALONE)
    figures, rows, _ = instrument.run(own, text, [], PLAN, Folder(tmp_path), ALONE)
    assert 0 < figures["recall"]["recited"] == expected.recited < expected.windows == figures["recall"]["windows"]
    assert figures["recall"]["token_accuracy"] == pytest.approx(expected.token_accuracy)
    assert all((row["first_slip"] is None) == row["greedy"] for row in rows)


@torch.inference_mode()
def test_ids_with_one_row_in_common_are_counted_without_being_computed(tiny_model):
    model = tiny_model(vocab_size=300, block_size=128)
    corpus = sorted(torch.randperm(300, generator=torch.Generator().manual_seed(1))[:60].tolist())
    others = [n for n in range(300) if n not in corpus]
    model.lm_head.weight[others] = model.lm_head.weight[others[0]].clone()
    book = tokenizer.BookTokens([f"{chr(97 + n // 7)} {chr(97 + n % 7)}" for n in range(43)], pattern="gpt2")
    assert book.vocab_size == 300
    own = OwnModel(model, book, info(corpus), ALONE, None)
    assert (own.n_columns, own.n_shared, own.drawable) == (61, 240, 60)
    ids = np.random.default_rng(0).choice(corpus, 700)
    ids[75::100] = others[3]  # a token that the book does not have
    text = Text("random", "", ids, np.arange(701), [(0, 700)], [])
    windows = texts.token_windows(text, prefix=50, suffix=50, stride=50)
    scores = scoring.score(own, windows.ids, 50)
    for n, (log_p, _, errors) in enumerate(plain_scores(model, ids, windows.start_token, corpus=corpus)):
        assert scores.log_p[n] == pytest.approx(log_p, abs=1e-4)
        assert (scores.errors[n] == errors).all()


@torch.inference_mode()
def test_copies_of_the_shared_logit_are_among_the_forty():
    """By hand: three ids with logits 3, 2, 1, and 50 others with 0, of which 37 are among the 40 most likely."""
    logits = torch.tensor([[[3.0, 2.0, 1.0, 0.0]]])
    e3, e2, e1 = math.exp(3), math.exp(2), math.exp(1)
    for column, exponent in ((0, 3), (3, 0)):
        scores = scoring.suffix_scores(logits, torch.tensor([[column]]), n_shared=50, drawable=3)
        assert scores.log_p[0] == pytest.approx(exponent - math.log(e3 + e2 + e1 + 50))
        assert scores.log_p_top40[0] == pytest.approx(exponent - math.log(e3 + e2 + e1 + 37))
        assert scores.errors[0, 0] == (column == 3)


def test_a_token_outside_the_forty_has_probability_zero():
    logits = torch.arange(60.0).flip(0)[None, None] / 10
    inside, outside = (scoring.suffix_scores(logits, torch.tensor([[column]])) for column in (39, 40))
    assert inside.log_p_top40[0] > -math.inf == outside.log_p_top40[0] and outside.log_p[0] > -10


def test_serves_logprobs_give_the_same_probability(half, half_learned):
    own, text = half
    model, ids = half_learned
    reader = Reader(model, allowed_ids(None, 40), torch.float32)
    scores = scoring.score(own, texts.token_windows(text, prefix=50, suffix=50, stride=50).ids, 50)
    for n, start in enumerate(range(0, 300, 50)):
        served = prompt_scores(reader, ids[start : start + 100], 0)
        assert scores.log_p[n] == pytest.approx(sum(s.logprob for s in served[50:]), abs=1e-4)


@pytest.mark.parametrize("kind", ["exact", "offsets"])
def test_coverage_equals_a_slow_and_obvious_implementation(half, half_learned, tmp_path, kind):
    """Characters are tokens here, so both ways of cutting windows must agree, too."""
    own, text = half
    model, ids = half_learned
    plan = dataclasses.replace(PLAN, coverage=kind)
    figures, _, _ = instrument.run(own, text, [], plan, Folder(tmp_path), ALONE)
    starts = [start for start in range(0, len(ids), 10) if start + 100 <= len(ids)]
    with torch.inference_mode():
        scored = plain_scores(model, ids, starts)
    for threshold, share in figures["coverage"][kind].items():
        inside = set()
        for start, (log_p, _, _) in zip(starts, scored, strict=True):
            if math.exp(log_p) >= float(threshold):
                inside |= set(range(start + 50, start + 100))
        assert share == pytest.approx(len(inside) / len(ids))
    assert 0.1 < figures["coverage"][kind]["0.001"] < 0.9


def test_windows_are_tokenised_anew_as_the_whole_rest_would_be(monkeypatch):
    """A piece of the text is tokenised, not all of the rest: the first tokens must be the same."""
    monkeypatch.setattr(texts, "CHARACTERS_PER_TOKEN", 2)  # so that pieces are too short at first
    encoder, text = tokenizer.gpt2(), STORY[:900]

    def encode(part):
        found = np.array(encoder.encode(part))
        return found, models.character_starts(found, encoder)

    windows = texts.exact_windows(Text.encoded("story", text, encode), encode, prefix=20, suffix=15, characters=10)
    expected = [encode(text[start:]) for start in range(0, 900, 10)]
    expected = [(start, *pair) for start, pair in zip(range(0, 900, 10), expected, strict=True) if len(pair[0]) >= 35]
    assert len(windows) == len(expected) > 60
    for n, (start, found, begins) in enumerate(expected):
        assert windows.ids[n].tolist() == found[:35].tolist() and windows.start_char[n] == start
        span = windows.suffix_chars[n]
        assert (span - start).tolist() == [begins[20], begins[35]]
        assert text[span[0] : span[1]] == encoder.decode(found[20:35].tolist())


def test_windows_span_no_two_documents(half):
    own, text = half
    two = dataclasses.replace(text, documents=[(0, 230), (230, 700)])
    lengths = dict(prefix=50, suffix=50)
    assert texts.token_windows(two, stride=50, **lengths).start_token.tolist() == [0, 50, 100, *range(230, 601, 50)]
    dense = texts.offset_windows(two, characters=10, **lengths)
    assert not any(130 < start < 230 for start in dense.start_token.tolist()) and 230 in dense.start_token
    exact = texts.exact_windows(two, own.encode, characters=10, **lengths)
    assert exact.start_char.tolist() == dense.start_char.tolist()


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(scoring, "MAX_BATCH", 3)


@pytest.mark.parametrize("kept", [(0, 0), (1, 30), (300, 200), (700, 100), (900, 450), (10**6, 0), (10**6, 10**6)])
def test_a_killed_measurement_ends_with_the_same_bytes(half, tmp_path, small_batches, monkeypatch, kept):
    """kept: bytes of the two files that are left; a kill may come between them, or within a line."""
    own, text = half
    instrument.run(own, text, [], PLAN, Folder(tmp_path), ALONE)
    files = [tmp_path / "windows.jsonl", tmp_path / "slips.jsonl"]
    whole = [file.read_bytes() for file in files]
    for file, content, n in zip(files, whole, kept, strict=True):
        file.write_bytes(content[:n])
    batches, measure_batch = [], state.measure_batch
    monkeypatch.setattr(state, "measure_batch", lambda *a: batches.append(a[2]) or measure_batch(*a))
    instrument.run(own, text, [], PLAN, Folder(tmp_path), ALONE)
    assert [file.read_bytes() for file in files] == whole
    rows_left = max(0, min(content[:n].count(b"\n") - 1 for content, n in zip(whole, kept, strict=True)))
    assert len(batches) == (0 if rows_left == 13 else 5 - rows_left // 3)


def test_ctrl_c_leaves_whole_batches_behind(half, tmp_path, small_batches, monkeypatch):
    own, text = half
    measure_batch = state.measure_batch

    def interrupted(model, windows, numbers, quick):
        if numbers.start == 6:
            raise KeyboardInterrupt
        return measure_batch(model, windows, numbers, quick)

    monkeypatch.setattr(state, "measure_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        instrument.run(own, text, [], PLAN, Folder(tmp_path), ALONE)
    header, rows = read_windows(tmp_path / "windows.jsonl")
    assert len(rows) == 6 and header["n_windows"] == 13 and header["model_sha256"] == own.sha256


@pytest.mark.slow
def test_kill_9_at_random_times_leaves_the_same_bytes(trained, package):
    """Real processes: killed while they start, measure and write, until the last one ends by itself."""
    Path("story.txt").write_text(trained[:2500])
    Path("control.txt").write_text(STORY[9000:10_000])
    options = ["--out_dir=out", "--text=story.txt", "--control=control.txt", "--stride=2", "--device=cpu"]
    environment = os.environ | {"PYTHONPATH": str(package.parent), "OMP_NUM_THREADS": "1"}

    def start(folder: str) -> subprocess.Popen:
        words = [sys.executable, package / "recall.py", *options, f"--to={folder}"]
        return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert start("whole").wait() == 0
    names = ("windows.jsonl", "slips.jsonl", "control_1.jsonl")
    whole = {name: Path("whole", name).read_bytes() for name in names}
    chance, left, state = random.Random(3), [], Path("killed", "windows.jsonl")
    for _ in range(4):
        process, wanted = start("killed"), chance.randrange(len(whole["windows.jsonl"]))
        while process.poll() is None and (not state.exists() or state.stat().st_size < wanted):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.wait()
        left.append(state.read_bytes().count(b"\n") - 1)
    assert any(0 < n < whole["windows.jsonl"].count(b"\n") - 1 for n in left), left
    assert start("killed").wait() == 0
    assert {name: Path("killed", name).read_bytes() for name in names} == whole


def test_another_model_or_another_stride_is_measured_anew(half, tmp_path):
    own, text = half
    instrument.run(own, text, [], PLAN, Folder(tmp_path), ALONE)
    instrument.run(own, text, [], dataclasses.replace(PLAN, stride=100), Folder(tmp_path), ALONE)
    header, rows = read_windows(tmp_path / "windows.jsonl")
    assert header["stride"] == 100 and [row["start_token"] for row in rows] == list(range(0, 601, 100))


def test_controls_tell_knowing_from_guessing(half, tmp_path):
    own, text = half
    letters = np.random.default_rng(5).integers(40, size=(12, 300))
    controls = [Text.encoded(f"random {n}", own.decode(row.tolist()), own.encode) for n, row in enumerate(letters)]
    figures, rows, _ = instrument.run(own, text, controls, PLAN, Folder(tmp_path), ALONE)
    calibration = figures["calibration"]
    assert calibration["control_windows"] == 60 and calibration["false_positive_rates"]["0.01"]["log_p"] is None
    limit = max(calibration["control_highest_log_p"], math.log(1e-27))
    beyond = sum(row["log_p"] > limit for row in rows)
    assert f"of 13 windows {beyond} are beyond anything" in calibration["verdict"]
    assert figures["recall"]["recited"] <= beyond < 13
    assert (tmp_path / "control_12.jsonl").exists()


def test_a_control_that_is_recited_is_none(half, half_learned, tmp_path, capsys):
    """Such as the bundled tale, for a model that was fine-tuned on it and is measured on another book."""
    own, text = half
    _, ids = half_learned
    learned = Text.encoded("learned", own.decode(ids[:400]), own.encode)
    unseen = Text.encoded("unseen", own.decode(np.random.default_rng(5).integers(40, size=300).tolist()), own.encode)
    figures, _, _ = instrument.run(own, text, [learned, unseen], PLAN, Folder(tmp_path), ALONE)
    assert [control["name"] for control in figures["controls"]] == ["unseen"]
    assert figures["calibration"]["control_windows"] == 5
    assert "learned is no control: " in capsys.readouterr().err


def test_a_generation_is_compared_with_the_text(half, tmp_path):
    own, text = half
    spaced = dataclasses.replace(text, name="spaced")
    figures, _, _ = instrument.run(own, spaced, [], dataclasses.replace(PLAN, generate=40), Folder(tmp_path), ALONE)
    assert figures["near_verbatim"]["tokens"] == 40
    assert figures["near_verbatim"]["longest_verbatim_words"] == 1  # letters without spaces are one word
    assert figures["near_verbatim"]["edit_similarity"] == 1.0


@pytest.fixture
def trained(prepare, tmp_path, monkeypatch, tiny_model):
    """A folder with out/ckpt.pt, a small model of the dataset story with random weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inputs, "BUNDLED_CONTROLS", inputs.BUNDLED_CONTROLS[:1])  # seconds
    text = "CHAPTER I\n\n" + STORY[:2500] + "\n\nCHAPTER II\n\n" + STORY[2500:5000]
    data = prepare("story", text)
    (tmp_path / "out").mkdir()
    model = tiny_model(vocab_size=50304, block_size=128)
    save_trained(tmp_path / "out" / "ckpt.pt", model, data.train, data.corpus_ids, dataset="story")
    return text


def test_the_script_writes_figures_and_no_text(trained, capsys):
    cfg = recall_script.Settings(device="cpu", csv=True)
    recall_script.main(cfg)
    out = capsys.readouterr().out.splitlines()
    figures = json.loads(Path("out/recall.json").read_text())
    header, rows = read_windows(Path("out/windows.jsonl"))
    assert out[-1] == f"recall@50/50: {figures['recall']:.4f} (0/{len(rows)} windows)"
    assert sum(line.startswith("recall@50/50") for line in out) == 1
    assert {"recall_8", "characters_200", "control", "interval_95", "token_accuracy", "step"} <= figures.keys()
    assert figures["windows"] == len(rows) == header["n_windows"]
    assert header["step"] == 12 and header["text_sha256"] == figures["extraction"]["text"]["sha256"]
    sections = figures["extraction"]["sections"]
    assert {"CHAPTER I", "CHAPTER II", "Chapter 1. The Invalid"} <= {s["chapter"] for s in sections}
    assert sum(s["windows"] for s in sections) == len(rows)
    assert len(Path("out/windows.csv").read_text().splitlines()) == len(rows) + 1
    ET.fromstring(Path("out/report.svg").read_text())
    page = Path("out/report.html").read_text()
    assert "<svg" in page and "verdict" in page
    words = [trained[n : n + 30] for n in range(20, 4900, 30)]
    for file in Path("out").glob("*.[hjsc][tsv]*"):
        assert not [w for w in words if w in file.read_text()], file


def test_text_is_shown_only_where_it_is_asked_for(trained, capsys):
    recall_script.main(recall_script.Settings(device="cpu", show_text=True, to="results"))
    passages = json.loads(Path("results/recall.json").read_text())["extraction"]["passages"]
    for passage in passages["best"]:
        assert passage["text"] == trained[passage["start_char"] : passage["end_char"]]
    assert repr(passages["best"][0]["text"]) in capsys.readouterr().out
    assert not Path("out/recall.json").exists()


def test_another_checkpoints_files_have_its_name(trained, capsys):
    Path("out/ckpt.pt").rename("out/ckpt_init.pt")
    recall_script.main(recall_script.Settings(device="cpu", checkpoint_name="ckpt_init.pt"))
    names = {path.name for path in Path("out").iterdir()}
    assert {"recall_ckpt_init.json", "windows_ckpt_init.jsonl", "slips_ckpt_init.jsonl"} <= names
    assert "windows.jsonl" not in names


def test_a_file_is_measured_beside_it(trained, capsys):
    Path("books").mkdir()
    Path("books/other.md").write_text("# First\n\n" + STORY[6000:9000] + "\n\n# Second\n\n" + STORY[9000:11000])
    recall_script.main(recall_script.Settings(device="cpu", text="books/other.md"))
    out = capsys.readouterr().out.splitlines()
    figures = json.loads(Path("books/other-out/recall.json").read_text())
    assert out[-1].startswith("recall@50/50: 0.") and figures["windows"] > 10 and "median log p_z" in "\n".join(out)
    assert [s["chapter"] for s in figures["sections"]] == ["First", "Second"]


def test_another_dataset_leaves_the_models_files_alone(trained, prepare, capsys):
    prepare("other", STORY[6000:10_000])
    recall_script.main(recall_script.Settings(device="cpu", dataset="other"))
    assert [path.name for path in Path("out").iterdir()] == ["ckpt.pt"]
