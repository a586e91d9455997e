"""The benchmark measures what it says, on a small model."""

import re
import sys

import pytest
import torch

from llm import bench, train
from llm.configurator import UserError
from llm.runtime import Runtime

ALONE = Runtime(torch.device("cpu"), torch.float32, compile=False)
TINY = train.Settings(n_layer=2, n_head=2, n_embd=32, block_size=16, batch_size=2, optimizer="muon")


def test_it_prints_both_and_their_ratio(monkeypatch, capsys):
    pytest.importorskip("transformers")
    monkeypatch.setattr(bench, "models", lambda: {"tiny": TINY})
    bench.main(bench.Settings(repeats=1, dtype="float32"))
    out = capsys.readouterr().out
    assert re.search(r"matrix products: bfloat16 [\d,]+ GFLOP/s, float32 [\d,]+ GFLOP/s", out)
    ours, theirs, ratio = re.search(r"\| tiny \| ([\d,]+) \| \d+% \| ([\d,]+) \| ([\d.]+) \|", out).groups()
    ours, theirs = (float(number.replace(",", "")) for number in (ours, theirs))
    assert float(ratio) == pytest.approx(ours / theirs, rel=0.1, abs=0.1)
    assert re.search(r"torch.optim.Muon [\d.]+ s, ratio [\d.]+", out)


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
