"""The benchmark measures what it says, on a small model."""

import dataclasses
import re
import sys

import pytest
import torch
from conftest import STORY, save_trained

from llm import bench, bench_sampling, train
from llm.configurator import UserError
from llm.runtime import Runtime
from llm.storage import pretrained

ALONE = Runtime(torch.device("cpu"), torch.float32, compile=False)
TINY = train.Settings(n_layer=2, n_head=2, n_embd=32, block_size=16, batch_size=2, optimizer="muon")


def test_it_prints_both_and_their_ratio(monkeypatch, capsys):
    pytest.importorskip("transformers")
    monkeypatch.setattr(bench, "models", lambda: {"tiny": TINY})
    bench.main(bench.Settings(repeats=1, dtype="float32", sampling=False))
    out = capsys.readouterr().out
    assert re.search(r"matrix products: bfloat16 [\d,]+ GFLOP/s, float32 [\d,]+ GFLOP/s", out)
    ours, theirs, ratio = re.search(r"\| tiny \| ([\d,]+) \| \d+% \| ([\d,]+) \| ([\d.]+) \|", out).groups()
    ours, theirs = (float(number.replace(",", "")) for number in (ours, theirs))
    assert float(ratio) == pytest.approx(ours / theirs, rel=0.1, abs=0.1)
    assert re.search(r"torch.optim.Muon [\d.]+ s, ratio [\d.]+", out)


@pytest.fixture
def rows(monkeypatch, capsys):
    """rows(out_dir) runs the benchmark of sampling: its table's rows, as (what, beside), and all that it printed."""
    pytest.importorskip("transformers")
    monkeypatch.setattr(bench, "models", lambda: {"tiny": dataclasses.replace(TINY, block_size=32)})
    monkeypatch.setattr(bench_sampling, "SHORT", 20)
    monkeypatch.setattr(bench_sampling, "LONG", 60)

    def rows(out_dir):
        bench.main(bench.Settings(repeats=1, dtype="float32", training=False, out_dir=out_dir))
        out = capsys.readouterr().out
        found = re.findall(r"^\| ([18] samples?, .+) \| ([\d,]+) \| (.+) \| ([\d,]+) \| ([\d.]+) \|$", out, re.M)
        for _, ours, _, other, ratio in found:
            ours, other = (float(number.replace(",", "")) for number in (ours, other))
            assert float(ratio) == pytest.approx(ours / other, rel=0.1, abs=0.1)
        return [(what, beside) for what, _, beside, _, _ in found], out

    return rows


BESIDE = ["Hugging Face, float32, cache"] * 2 + [
    "without a cache, float32",
    "all weights read from memory for each token",
]


def test_a_learned_model_is_timed_with_and_without_guesses(rows, monkeypatch, prepare, tiny_model, tmp_path):
    monkeypatch.chdir(tmp_path)
    story = prepare("story", STORY[:3000])
    (tmp_path / "out").mkdir()
    save_trained(
        tmp_path / "out" / "ckpt.pt", tiny_model(vocab_size=50304), story.train, story.corpus_ids, dataset="story"
    )
    found, out = rows("out")
    assert [beside for _, beside in found] == BESIDE * 2
    assert found[0][0] == "1 sample, 8 tokens"  # as many as Hugging Face's context has places for
    assert [what.endswith(", nothing guessed") for what, _ in found] == [False] * 4 + [True] * 4
    assert re.search(r"sample.py to its first token: [\d.]+ s, .* ratio [\d.]+", out)
    of = bench_sampling.subject_of(TINY, "out")
    assert of.prompt == of.book[len(of.book) // 2 :][:8].tolist()
    assert (of.book == story.train.tokens(0, len(story.train))).all()


def test_without_a_learned_model_it_has_random_weights_and_nothing_to_guess_from(tmp_path):
    of = bench_sampling.subject_of(TINY, None)
    assert of.book is None and len(of.prompt) == 8 and of.model.config.n_embd == TINY.n_embd
    bench_sampling.save_for_sampling(of, tmp_path)
    assert pretrained.load_model(str(tmp_path))[2].corpus_ids == of.allowed.tolist()


def test_hugging_face_is_given_the_same_weights():
    pytest.importorskip("transformers")
    model = bench_sampling.subject_of(TINY, None).model
    reference = bench_sampling.hugging_face_model(model)
    idx = torch.randint(50257, (1, 16))
    torch.testing.assert_close(reference(idx).logits, model(idx, idx)[0], rtol=1e-4, atol=1e-4)


def test_what_is_timed_is_what_is_trained():
    prince, gpt2 = bench.models().values()
    assert (prince.n_layer, prince.n_embd, prince.optimizer) == (6, 384, "muon")
    assert (gpt2.n_layer, gpt2.n_embd, gpt2.block_size) == (12, 768, 1024)


def test_works_are_timed_in_turns_and_the_first_round_does_not_count():
    done = []
    times = bench.in_turns([lambda: done.append("a"), lambda: done.append("b")], 3, ALONE)
    assert done == ["a", "b"] * 4 and len(times) == 2


def test_arithmetic_is_counted_by_the_formula():
    assert bench.flops_per_token(n_layer=1, n_embd=2, block_size=3, rows=5) == 6 * (48 + 10) + 72


def test_an_update_changes_the_weights():
    update, optimizers = bench.our_update(TINY, ALONE)
    before = [p.clone() for o in optimizers for group in o.param_groups for p in group["params"]]
    update()
    after = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True) if a.dim() > 1)


def test_without_transformers_it_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"needs the extra dev"):
        bench.main(bench.Settings())
