"""The initial weights attend to the last tokens and do not predict anything yet."""

import math

import pytest
import torch

from llm.model import GPT, GPTConfig
from llm.network.look_back import set_look_back_weights


def attention(model, idx):
    """(blocks, nh, T, T): the weights with which each head of each block attends."""
    found = []
    for block in model.transformer.h:
        block.attn.c_attn.register_forward_hook(lambda module, given, qkv: found.append(qkv))
    model(idx)
    T, nh = idx.size(1), model.config.n_head
    later = torch.ones(T, T, dtype=torch.bool).triu(1)
    weights = []
    for qkv in found:
        q, k, _ = qkv.view(T, 3, nh, -1).permute(1, 2, 0, 3)
        weights.append((q @ k.mT / math.sqrt(q.size(-1))).masked_fill(later, -math.inf).softmax(-1))
    return torch.stack(weights)


@pytest.mark.parametrize("shape", [dict(n_layer=6, n_embd=384, n_head=6), dict(n_layer=4, n_embd=256, n_head=4)])
def test_each_head_of_the_first_two_blocks_attends_to_the_token_at_its_distance(shape):
    shape |= dict(block_size=256, vocab_size=4000, bias=False, dropout=0.0, gelu="tanh")
    torch.manual_seed(0)
    model = GPT(GPTConfig(**shape))
    set_look_back_weights(model)
    weights = attention(model, torch.randint(4000, (1, 256)))
    for nearest, block, median in ((1, weights[0], 0.99), (2, weights[1], 0.9)):
        for head, weight in enumerate(block):
            looked = weight.diagonal(-(nearest + head))
            assert looked.median() > median and looked.min() > 0.5


def test_all_tokens_are_about_equally_likely(tiny_model):
    model = tiny_model(n_embd=384, n_head=6, block_size=64, vocab_size=1000)
    set_look_back_weights(model)
    x = torch.randint(1000, (8, 64))
    assert model(x, torch.randint(1000, (8, 64)))[1].item() == pytest.approx(math.log(1000), abs=1.5)


@pytest.mark.parametrize("shape", [dict(n_embd=4, n_head=4), dict(n_embd=6, n_head=2), dict(bias=True, n_layer=1)])
def test_any_shape_works_and_the_same_seed_gives_the_same_weights(tiny_model, shape):
    first, second = tiny_model(**shape), tiny_model(seed=1, **shape)
    for model in (first, second):
        torch.manual_seed(3)
        for p in model.parameters():
            torch.nn.init.normal_(p)
        set_look_back_weights(model)
    assert all(
        torch.equal(a, b) and a.isfinite().all() for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
