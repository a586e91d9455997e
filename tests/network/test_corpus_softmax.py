"""The corpus softmax is the full softmax, computed with less work."""

import dataclasses

import numpy as np
import pytest
import torch

from llm.network.corpus_softmax import Corpus, compact, expand
from llm.reading.generate import Sampling, choose

CORPUS = Corpus(ids=(3, 5, 6, 11, 40), vocab_size=61)


@pytest.fixture
def pair(tiny_model):
    """(a model with the compact table of CORPUS, the same with the full table)."""
    small = tiny_model(vocab_size=CORPUS.rows)
    small.others = CORPUS.others
    return small, expand(small, CORPUS)


def tokens(*shape) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids that occur, the rows of the compact table that they are)."""
    rows = torch.randint(len(CORPUS.ids), shape, generator=torch.Generator().manual_seed(0))
    return torch.tensor(CORPUS.ids)[rows], rows


def test_lookup_gives_rows_in_the_order_of_ids_and_one_for_all_others():
    assert Corpus(ids=(0, 2, 5), vocab_size=6).lookup().tolist() == [0, 3, 1, 3, 3, 2]
    assert (CORPUS.rows, CORPUS.others) == (6, 56)


def test_the_loss_is_that_of_the_full_softmax_of_what_is_saved(pair):
    small, full = pair
    (ids, rows) = tokens(4, 17)
    torch.testing.assert_close(small(rows[:, :-1], rows[:, 1:])[1], full(ids[:, :-1], ids[:, 1:])[1])


def test_the_gradients_are_the_full_softmaxs(pair):
    """u's gradient is the sum over the rows that are its copies; all other parameters have the same one."""
    small, full = pair
    full = type(full)(full.config)
    full.load_state_dict(pair[1].state_dict())
    (ids, rows) = tokens(4, 17)
    small(rows[:, :-1], rows[:, 1:])[1].backward()
    full(ids[:, :-1], ids[:, 1:])[1].backward()
    for (name, a), (_, b) in zip(small.named_parameters(), full.named_parameters(), strict=True):
        expected = b.grad
        if name.endswith("wte.weight"):
            others = [i for i in range(61) if i not in CORPUS.ids]
            expected = torch.cat([expected[list(CORPUS.ids)], expected[others].sum(0, keepdim=True)])
        torch.testing.assert_close(a.grad, expected, rtol=1e-4, atol=1e-6)


def test_a_corpus_that_uses_every_token_is_the_ordinary_model(tiny_model):
    model, every = tiny_model(), Corpus(ids=tuple(range(61)), vocab_size=61)
    same = compact(model, every)
    idx = torch.randint(61, (2, 12))
    assert every.others == same.others == 0
    assert torch.equal(same(idx, idx)[1], model(idx, idx)[1])


def test_compact_and_expand_are_inverse(pair):
    small, full = pair
    again = compact(full, CORPUS)
    assert again.others == CORPUS.others and again.config == small.config
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), small.state_dict().values(), strict=True))
    assert full.transformer.wte.weight is full.lm_head.weight and len(full.lm_head.weight) == 61
    assert dataclasses.replace(full.config, vocab_size=6) == small.config


def test_what_was_learned_never_draws_a_foreign_token(tiny_model):
    """nanoGPT's way of sampling, from the full table: softmax over all rows, at temperature 1, top_k 200."""
    corpus = Corpus(ids=tuple(range(0, 60, 2)), vocab_size=300)
    model = tiny_model(vocab_size=corpus.rows, n_embd=64, block_size=32, n_layer=1)
    model.others = corpus.others
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.1) if p.dim() > 1 else None
    rows = torch.randint(30, (8, 33), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(600):
        loss = model(rows[:, :-1], rows[:, 1:])[1]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    full = expand(model, corpus).eval()
    logits = full(torch.tensor(corpus.ids)[rows[:, :-1]], torch.zeros(8, 32, dtype=torch.int64))[0].flatten(0, 1)
    logits, random = logits.detach().numpy(), np.random.default_rng(0)
    drawn = [choose(logits[i % len(logits)], Sampling(top_k=200), random) for i in range(10_000)]
    assert set(drawn) <= set(corpus.ids)
