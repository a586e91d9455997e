"""Sampled softmax: over all turns it is the softmax over all tokens, and complete candidates are exactly that."""

import pytest
import torch

from llm.training import candidates
from llm.training.candidates import TokenTable

V, C = 301, 16


@pytest.fixture
def table():
    torch.manual_seed(0)
    return torch.randn(V, C)


def token_table(table, n_other):
    counts = torch.randint(1, 1000, (V,))
    if n_other:
        counts[-1] = 0
    return TokenTable(table, counts, n_other=n_other, dtype=torch.float32)


def odds(found, n=20):
    """(n,) what all other tokens together have, over what the right one has, for n rows; and the rows."""
    z, y = torch.randn(n, C, generator=torch.Generator().manual_seed(1)) * 0.1, torch.arange(n) * 7 % (V - 1)
    rest = found.probabilities(z, y).double().sum(1)
    return rest / (1 - rest), z, y


@pytest.mark.parametrize("n_other", [0, 50])
def test_complete_candidates_are_the_softmax_over_all_tokens(table, n_other):
    found = token_table(table, n_other).candidates(5, everything=True)
    others, z, y = odds(found)
    logits = z @ table.T
    if n_other:
        logits[:, -1] += torch.tensor(float(n_other)).log()
    p = logits.double().softmax(1)
    p[range(len(y)), y] = 0.0
    assert found.complete and len(found.table) % candidates.MULTIPLE == 0
    assert torch.allclose(others, p.sum(1) / (1 - p.sum(1)), rtol=1e-3)
    pull = found.probabilities(z, y) @ found.table
    assert torch.allclose(pull, (p @ table.double()).float(), atol=1e-5)


@pytest.mark.parametrize("n_other", [0, 50])
def test_the_turns_together_compare_every_token_as_often_as_all_at_once(table, n_other):
    whole = token_table(table, n_other)
    steps = [whole.candidates(step, everything=False) for step in range(candidates.TURNS)]
    assert not any(found.complete for found in steps)
    assert all(len(found.table) < V / 2 for found in steps)
    mean = torch.stack([odds(found)[0] for found in steps]).mean(0)
    assert torch.allclose(mean, odds(whole.candidates(0, everything=True))[0], rtol=1e-3)


def test_the_frequent_tokens_and_the_row_of_all_others_are_always_compared(table):
    counts = torch.arange(V)
    whole = TokenTable(table, counts, n_other=9, dtype=torch.float32)
    frequent = [V - 2, V - 3, V - 4]  # the last row stands for the others, whatever its count
    for step in range(candidates.TURNS):
        rows = whole.candidates(step, everything=False).rows
        assert rows[-1] == 1 and (rows[frequent] > 0).all()
