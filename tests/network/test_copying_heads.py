"""Copying heads put the last tokens into the residual stream, whatever the position."""

import pytest
import torch

from llm.model import GPT, GPTConfig
from llm.network.copying_heads import (
    DEEP,
    NEAR,
    context_length,
    copy_further,
    copying_obstacle,
    later_offsets,
    near_offsets,
    set_copying_heads,
)

SHAPE = dict(n_layer=4, n_head=4, n_embd=128, block_size=128, vocab_size=500, bias=False, dropout=0.0, gelu="tanh")


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = GPT(GPTConfig(**SHAPE)).eval()
    set_copying_heads(model, torch.Generator().manual_seed(0))
    return model


def after_attention(block, model, idx, x=None):
    x = model.transformer.wte(idx) + model.transformer.wpe(torch.arange(idx.size(1))) if x is None else x
    return x + block.attn(block.ln_1(x))


def token_part(model, x):
    """The residual stream without what depends on the position alone."""
    return x - model.transformer.wpe.weight[: x.size(1)]


@torch.no_grad()
def test_what_a_row_holds_depends_on_the_tokens_before_it_and_not_on_the_position(model):
    window = torch.randint(500, (1, 100))
    reach = SHAPE["n_head"]
    early = token_part(model, after_attention(model.transformer.h[0], model, window[:, :60]))
    late = token_part(model, after_attention(model.transformer.h[0], model, window[:, 30:90]))
    same, shared = early[0, 30 + reach :], late[0, reach:30]
    assert torch.allclose(same, shared, atol=1e-2 * same.std().item(), rtol=0)
    changed = window[:, 30:90].clone()
    changed[0, 5] = (changed[0, 5] + 1) % 500
    other = token_part(model, after_attention(model.transformer.h[0], model, changed))
    moved = (other - late)[0].norm(dim=-1)
    # the token itself and those that copy it, nearer ones with more weight; nothing before it, hardly anything after
    assert moved[:5].max() == 0 and moved[6 + reach :].max() < 0.02 * moved[6]
    assert (moved[6 : 5 + reach] > moved[7 : 6 + reach]).all() and moved[5 + reach] > 0.05 * moved[6]


@torch.no_grad()
def test_the_later_block_copies_from_further_back(model):
    block = model.transformer.h[2]
    idx = torch.randint(500, (1, 100))
    x = after_attention(model.transformer.h[0], model, idx)
    offsets = later_offsets(SHAPE["n_layer"], SHAPE["n_head"])[2]
    copy_further(model, 2, offsets, float(x.norm(dim=-1).mean()), torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[0, 40] += torch.randn(SHAPE["n_embd"])
    moved = (after_attention(block, model, idx, changed) - after_attention(block, model, idx, x))[0].norm(dim=-1)
    moved[40] = 0
    copied = [40 + offset for offset in offsets]
    assert sorted(moved.topk(SHAPE["n_head"]).indices.tolist()) == copied
    moved[copied] = 0
    assert moved.max() < 0.02


def test_what_is_copied_follows_from_the_shape_and_from_how_far_a_text_needs_it():
    assert near_offsets(4) == [1, 2, 3, 4] and near_offsets(9) == [1, 1, 2, 3, 4, 4, 5, 6, 7]
    assert later_offsets(6, 6) == {4: [7, 10, 13, 16, 19, 22]}
    deep = later_offsets(DEEP, 8)  # two blocks: what the second copies begins where the first ends
    assert list(deep) == [4, 6] and deep[4] == list(range(NEAR + 1, NEAR + 9)) and deep[6][0] == NEAR + 9
    assert context_length(DEEP, 8) == deep[6][-1] + NEAR + 1
    assert later_offsets(6, 6, 3) == later_offsets(6, 6, 12) == {4: [7, 8, 9, 10, 11, 12]}
    assert later_offsets(6, 6, 13) == {4: [7, 9, 11, 13, 15, 17]}
    assert list(later_offsets(DEEP, 8, NEAR + 8)) == [4] and context_length(DEEP, 8, NEAR + 8) == 2 * NEAR + 9
    assert later_offsets(DEEP, 8, NEAR + 9)[6] == list(range(NEAR + 9, NEAR + 17))


def test_shapes_that_cannot_copy_are_named():
    assert copying_obstacle(GPTConfig(**SHAPE)) == ""
    for change, words in (
        (dict(n_layer=2), "n_layer=2, expected at least 3"),
        (dict(n_embd=32), "heads of 8 dimensions, expected at least 16"),
        (dict(block_size=20), f"block_size=20, expected at least {2 * context_length(4, 4)}"),
    ):
        assert copying_obstacle(GPTConfig(**SHAPE | change)) == words
