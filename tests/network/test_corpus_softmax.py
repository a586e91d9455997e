"""The corpus softmax is the full softmax, computed with less work."""

import numpy as np
import pytest
import torch

from llm.model import GPT, GPTConfig
from llm.network.corpus_softmax import CompactGPT, compact, row_of_id
from llm.reading.generate import Sampling, choose

IDS = [3, 5, 6, 11, 40]


def compact_model(ids=tuple(IDS), seed=0, **changes) -> CompactGPT:
    """A small CompactGPT with random weights of a healthy size (see conftest.tiny_model)."""
    shape = dict(n_layer=2, n_head=2, n_embd=32, block_size=16, bias=False, vocab_size=61, dropout=0.0, gelu="tanh")
    torch.manual_seed(seed)
    model = CompactGPT(GPTConfig(**shape | changes), list(ids))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3) if p.dim() > 1 else torch.nn.init.normal_(p, mean=1.0, std=0.1)
    return model.eval()


@pytest.fixture
def pair():
    """(a model with the compact table of IDS, the same with the full table)."""
    small = compact_model()
    return small, small.expanded()


def tokens(*shape) -> torch.Tensor:
    """Random ids that occur."""
    return torch.tensor(IDS)[torch.randint(len(IDS), shape, generator=torch.Generator().manual_seed(0))]


def test_rows_are_in_the_order_of_ids_with_one_for_all_others():
    assert row_of_id([0, 2, 5], 6).tolist() == [0, 3, 1, 3, 3, 2]
    small = compact_model()
    assert len(small.lm_head.weight) == 6 and small.n_other == 56 and small.config.vocab_size == 61
    assert small.rows_of(torch.tensor([3, 40, 4, -1])).tolist() == [0, 4, 5, -1]


def test_the_loss_is_that_of_the_full_softmax_of_what_is_saved(pair):
    small, full = pair
    ids = tokens(4, 17)
    torch.testing.assert_close(small(ids[:, :-1], ids[:, 1:])[1], full(ids[:, :-1], ids[:, 1:])[1])


def test_targets_of_minus_one_are_ignored_as_by_the_full_model(pair):
    small, full = pair
    ids = tokens(4, 17)
    targets = ids[:, 1:].clone()
    targets[:, :5] = -1
    torch.testing.assert_close(small(ids[:, :-1], targets)[1], full(ids[:, :-1], targets)[1])


def test_predictions_are_the_full_models_ids_unless_they_are_other_tokens(pair):
    small, full = pair
    ids = tokens(4, 16)
    found = small.predicted_ids(small(ids, ids)[0])
    expected = full.predicted_ids(full(ids, ids)[0])
    occurring = torch.isin(expected, torch.tensor(IDS)) & (found >= 0)
    assert occurring.any() and torch.equal(found[occurring], expected[occurring])
    assert set(found.flatten().tolist()) <= {*IDS, -1}  # -1: an other token, which is never right


def test_the_gradients_are_the_full_softmaxs(pair):
    """u's gradient is the sum over the rows that are its copies; all other parameters have the same one."""
    small, expanded = pair
    full = GPT(expanded.config)
    full.load_state_dict(expanded.state_dict())
    ids = tokens(4, 17)
    small(ids[:, :-1], ids[:, 1:])[1].backward()
    full(ids[:, :-1], ids[:, 1:])[1].backward()
    for (name, a), (_, b) in zip(small.named_parameters(), full.named_parameters(), strict=True):
        expected = b.grad
        if name.endswith("wte.weight"):
            others = [i for i in range(61) if i not in IDS]
            expected = torch.cat([expected[IDS], expected[others].sum(0, keepdim=True)])
        torch.testing.assert_close(a.grad, expected, rtol=1e-4, atol=1e-6)


def test_a_corpus_that_uses_every_token_is_the_ordinary_model(tiny_model):
    model = tiny_model()
    same = compact(model, list(range(61)))
    idx = torch.randint(61, (2, 12))
    assert same.n_other == 0 and len(same.lm_head.weight) == 61
    assert torch.equal(same(idx, idx)[1], model(idx, idx)[1])
    assert torch.equal(same.predicted_ids(same(idx, idx)[0]), model.predicted_ids(model(idx, idx)[0]))


def test_compact_and_expanded_are_inverse(pair):
    small, full = pair
    again = compact(full, IDS)
    assert again.n_other == small.n_other and again.config == small.config == full.config
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), small.state_dict().values(), strict=True))
    assert full.transformer.wte.weight is full.lm_head.weight and len(full.lm_head.weight) == 61
    assert type(full) is GPT and not any("lookup" in name or "row_ids" in name for name in small.state_dict())


def test_a_trained_model_never_draws_a_token_that_does_not_occur():
    """nanoGPT's way of sampling, from the full table: softmax over all rows, at temperature 1, top_k 200."""
    ids = list(range(0, 60, 2))
    model = compact_model(ids, vocab_size=300, n_embd=64, block_size=32, n_layer=1)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.mul_(0.1)
    idx = torch.tensor(ids)[torch.randint(30, (8, 33), generator=torch.Generator().manual_seed(0))]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(600):
        loss = model(idx[:, :-1], idx[:, 1:])[1]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    full = model.expanded().eval()
    logits = full(idx[:, :-1], torch.zeros(8, 32, dtype=torch.int64))[0].flatten(0, 1)
    logits, random = logits.detach().numpy(), np.random.default_rng(0)
    drawn = [choose(logits[i % len(logits)], Sampling(top_k=200), random) for i in range(10_000)]
    assert set(drawn) <= set(ids)
