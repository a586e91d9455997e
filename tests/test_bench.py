"""The benchmark measures what it says, on a small model."""

import contextlib
import dataclasses
import re
import subprocess
import sys

import pytest
import torch
from conftest import STORY, save_trained

from llm import bench, runtime, train
from llm.configurator import UserError
from llm.reading import samplers
from llm.runtime import Runtime
from llm.storage import pretrained

CPU = torch.device("cpu")
ALONE = Runtime(CPU, torch.float32, compile=False)
TINY = train.Settings(n_layer=2, n_head=2, n_embd=32, block_size=16, batch_size=2, optimizer="muon")


@pytest.fixture
def stopped_clock(monkeypatch):
    """Every call that is timed is made, and takes 10 ms longer than the one before it: rates do not vary.

    What has a process of its own is made and timed in this one.
    """
    calls = iter(range(1, 10**6))

    def seconds_of(work, device, *arguments):
        work(*arguments)
        return next(calls) / 100

    @contextlib.contextmanager
    def peer(make, device, *arguments):
        work = make(*arguments, device)
        yield lambda *arguments: seconds_of(work, device, *arguments)

    monkeypatch.setattr(bench, "seconds_of", seconds_of)
    monkeypatch.setattr(bench, "peer", peer)


def numbers(*cells):
    return [float(cell.replace(",", "")) for cell in cells]


def test_writing_is_shown_beside_an_epoch_of_gradient_descent(monkeypatch, capsys):
    monkeypatch.setattr(bench, "seconds_of", lambda work, *arguments: (work(), 6.0)[1])
    monkeypatch.setattr(bench, "BOOK_TOKENS", 200)
    monkeypatch.setattr(bench, "WRITTEN_TOKENS", 1024)
    shape = dict(n_layer=3, n_head=2, n_embd=64, block_size=64)
    training = dataclasses.replace(TINY, **shape)
    bench.report_writing(training, 1, ALONE, 1e12)
    out = capsys.readouterr().out
    found = re.search(
        r"(\d+) steps in ([\d.]+) s, ([\d.]+) TFLOP; ([\d.]+)% known; .* takes ([\d.]+) s, ([\d.]+) times", out
    )
    steps, seconds, tflop, known, epoch, ratio = numbers(*found.groups())
    assert known > 99 and seconds == tflop == 6 and epoch == 6 * 1024 / (2 * 64) and ratio == epoch * steps / 6


@pytest.mark.slow
def test_training_is_shown_beside_hugging_face_with_the_ratio(monkeypatch, capsys, stopped_clock):
    pytest.importorskip("transformers")
    monkeypatch.setattr(bench, "trainings", lambda: {"tiny": dataclasses.replace(TINY, n_layer=3, block_size=32)})
    monkeypatch.setattr(bench, "WRITTEN_TOKENS", 300)
    bench.main(bench.Settings(repeats=1, dtype="float32", sampling=False))
    out = capsys.readouterr().out
    assert re.search(r"matrix products: bfloat16 [\d,]+ GFLOP/s, float32 [\d,]+ GFLOP/s\ndtype=auto chooses \w+", out)
    found = re.search(r"\| tiny \| ([\d,]+) \| \d+% \| ([\d,]+) \| ([\d.]+) \|", out)
    ours, theirs, ratio = numbers(*found.groups())
    assert ratio == pytest.approx(ours / theirs, rel=0.1, abs=0.1)
    assert "\nwriting 300 random tokens in closed form: " in out
    found = re.search(r"Muon, an update of the 30M model: ([\d.]+) s, torch.optim.Muon ([\d.]+) s, ratio ([\d.]+)", out)
    ours, theirs, ratio = numbers(*found.groups())
    assert ratio == pytest.approx(theirs / ours, abs=0.1)


@pytest.mark.slow
def test_another_process_is_timed_with_the_arguments_of_each_call():
    with bench.peer(make_sleeper, CPU, 0.01) as seconds:
        assert seconds(1) >= 0.01 and seconds(3) >= 0.03


def make_sleeper(unit, device):
    """A function that sleeps for so many units; made in the other process, which imports this file."""
    import time

    assert device == CPU
    return lambda count: time.sleep(unit * count)


@pytest.mark.parametrize(
    "has_bfloat16, bfloat16, float32, expected",
    [
        (
            True,
            165e9,
            330e9,
            "dtype=auto chooses bfloat16, but float32 is 2.0 times as fast here: type --dtype=float32",
        ),
        (
            False,
            400e9,
            160e9,
            "dtype=auto chooses float32, but bfloat16 is 2.5 times as fast here: type --dtype=bfloat16",
        ),
        (True, 400e9, 160e9, "dtype=auto chooses bfloat16, which fits this machine"),
        (False, 165e9, 330e9, "dtype=auto chooses float32, which fits this machine"),
        (True, 100e9, 109e9, "dtype=auto chooses bfloat16, which fits this machine"),  # 10 % do not matter
    ],
)
def test_a_dtype_rule_that_chooses_the_slower_dtype_is_reported(monkeypatch, has_bfloat16, bfloat16, float32, expected):
    monkeypatch.setattr(runtime, "has_bfloat16", lambda device: has_bfloat16)
    assert bench.dtype_verdict({"bfloat16": bfloat16, "float32": float32}, CPU) == expected


@pytest.fixture
def sampling_report(monkeypatch, capsys, stopped_clock):
    """sampling_report(out_dir): the table's rows as (what, beside), all that was printed, commands that were timed."""
    pytest.importorskip("transformers")
    monkeypatch.setattr(bench, "trainings", lambda: {"tiny": dataclasses.replace(TINY, block_size=32)})
    monkeypatch.setattr(bench, "SHORT", 20)
    monkeypatch.setattr(bench, "LONG", 60)
    commands = []

    def seconds_to_print(command, n_characters):
        commands.append((command, n_characters))
        return len(commands)

    monkeypatch.setattr(bench, "seconds_to_print", seconds_to_print)

    def sampling_report(out_dir):
        bench.main(bench.Settings(repeats=1, dtype="float32", training=False, out_dir=out_dir))
        out = capsys.readouterr().out
        rows = re.findall(r"^\| ([18] samples?, .+) \| ([\d,]+) \| (.+) \| ([\d,]+) \| ([\d.]+) \|$", out, re.M)
        for _, *cells, ratio in rows:
            ours, other = numbers(cells[0], cells[2])
            assert float(ratio) == pytest.approx(ours / other, rel=0.2, abs=0.1)  # printed rates are rounded
        return [(what, beside) for what, _, beside, _, _ in rows], out, commands

    return sampling_report


BESIDE = ["Hugging Face, float32, KV cache"] * 2 + [
    "no KV cache, float32",
    "all weights read from memory for each token",
]


@pytest.mark.slow
def test_a_learned_model_is_timed_with_and_without_drafts(sampling_report, monkeypatch, prepare, tiny_model, tmp_path):
    monkeypatch.chdir(tmp_path)
    story, model = prepare("story", STORY[:3000]), tiny_model(vocab_size=50304)
    (tmp_path / "out").mkdir()
    save_trained(tmp_path / "out" / "ckpt.pt", model, story.train, story.corpus_ids, dataset="story")
    rows, out, commands = sampling_report("out")
    assert [beside for _, beside in rows] == BESIDE * 2
    assert rows[0][0] == "1 sample, 8 tokens"  # all that fit into Hugging Face's context of 16, after the prompt
    assert [what.endswith(", not speculative") for what, _ in rows] == [False] * 4 + [True] * 4
    assert re.search(r"^read bandwidth [\d,]+ GB/s; a token reads \d+ MB$", out, re.M)
    assert re.search(r"^first token of 8: \d+ ms, Hugging Face \d+ ms$", out, re.M)
    assert out.endswith(
        "sample.py to its first token: 3.00 s, import torch and reading the weights 4.00 s, ratio 0.75\n"
    )
    (ours, n_characters), (read, _) = commands[:2]
    printed = subprocess.run([*ours, "--max_new_tokens=1"], capture_output=True, encoding="utf-8")
    assert printed.stdout.startswith("The morning") and len(printed.stdout) >= n_characters, printed.stderr
    assert repr(str(tmp_path / "out" / "ckpt.pt")) in read[-1]
    subject = samplers.subject_of(bench.shape_of(TINY), "out")
    assert subject.prompt_ids == subject.book_ids[len(subject.book_ids) // 2 :][:8].tolist()
    assert (subject.book_ids == story.train.tokens(0, len(story.train))).all()


def test_without_a_learned_model_random_weights_are_timed_without_drafts(sampling_report, tmp_path):
    rows, _, commands = sampling_report(None)
    assert [beside for _, beside in rows] == BESIDE and rows[0][0] == "1 sample, 20 tokens"
    subject = samplers.subject_of(bench.shape_of(TINY), None)
    assert subject.book_ids is None and len(subject.prompt_ids) == 8 and subject.model.config.n_embd == TINY.n_embd
    samplers.save_subject(subject, tmp_path)
    assert pretrained.load_model(str(tmp_path))[2].corpus_ids == subject.allowed.tolist()


def test_the_seconds_until_a_command_prints_do_not_include_its_end():
    command = [sys.executable, "-c", "import time; print('x', flush=True); time.sleep(600)"]
    assert 0 < bench.seconds_to_print(command, 1) < 600


def test_hugging_face_is_given_the_same_weights():
    pytest.importorskip("transformers")
    model = samplers.subject_of(bench.shape_of(TINY), None).model
    reference = samplers.with_our_weights(model)
    idx = torch.randint(50257, (1, 16))
    torch.testing.assert_close(reference(idx).logits, model(idx, idx)[0], rtol=1e-4, atol=1e-4)


def test_the_models_are_those_that_train_py_trains():
    prince, gpt2 = bench.trainings().values()
    assert (prince.n_layer, prince.n_embd, prince.optimizer) == (6, 384, "muon")
    assert (gpt2.n_layer, gpt2.n_embd, gpt2.block_size) == (12, 768, 1024)
    assert bench.shape_of(prince).n_embd == 384 and bench.shape_of(prince).vocab_size == 50304


def test_timers_take_turns_and_the_first_round_does_not_count():
    seconds, order = {"a": iter([9.0, 1.0, 2.0, 3.0]), "b": iter([9.0, 5.0, 5.0, 8.0])}, []

    def timer(name):
        return lambda: order.append(name) or next(seconds[name])

    assert bench.median_seconds([timer("a"), timer("b")], 3) == [2.0, 5.0] and order == ["a", "b"] * 4


def test_arithmetic_is_counted_by_the_formula():
    assert bench.flops_per_token(n_layer=1, n_embd=2, block_size=3, rows=5) == 6 * (48 + 10) + 72
    subject = samplers.subject_of(bench.shape_of(TINY), None)
    assert subject.bytes_per_token(torch.bfloat16) == 2 * (2 * 12 * 32**2 + 3841 * 32)


def test_an_update_changes_the_weights():
    update, optimizers = bench.our_update(TINY, ALONE)
    before = [p.clone() for o in optimizers for group in o.param_groups for p in group["params"]]
    update()
    after = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True) if a.dim() > 1)


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"needs the extra dev"):
        bench.main(bench.Settings())
