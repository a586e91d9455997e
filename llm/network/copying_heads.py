"""Copying heads: attention that copies the last tokens into the residual stream, exactly and for any text.

The heads of the first block copy the tokens 1, 2, ..., n_head back, each through a random projection and nearer ones
with more weight; all other blocks' attention is silent. So before the first MLP, the residual stream holds the token
itself and a fingerprint of the n_head tokens before it. Towards the end, one more block copies what stands further
back. training/writing.py writes a text into such a model.

Positions are as in network/look_back.py, but orthogonal to the mean that a layer norm subtracts, too, and everything
else is orthogonal to both: what is copied does not depend on where a window begins.
"""

import math

import torch

from llm.model import GPT, Block, GPTConfig
from llm.network.look_back import POSITION_RMS, TOKEN_STD, rotation, set_positions

SHARPNESS = (20.0, 40.0)  # logit of the token that a head copies, in the first and in the later block
FARTHEST = 0.1  # weight of the farthest token that the first block copies; the nearest has 1
FURTHER_STRIDE = 3  # tokens between those that the later block's heads copy
FURTHER_SIZE = 0.1  # length of what the later block adds, relative to the residual stream


def copying_obstacle(config: GPTConfig) -> str:
    """Why a model of this shape cannot have copying heads; "" if it can."""
    if config.n_layer < 3:
        return f"n_layer={config.n_layer}, expected at least 3"
    if config.n_embd // config.n_head < 16:
        return f"heads of {config.n_embd // config.n_head} dimensions, expected at least 16"
    if config.block_size < 2 * context_length(config.n_head):
        return f"block_size={config.block_size}, expected at least {2 * context_length(config.n_head)}"
    return ""


def further_reach(n_head: int) -> int:
    """How many tokens back the later block's last head copies from."""
    return n_head + 1 + (n_head - 1) * FURTHER_STRIDE


def context_length(n_head: int) -> int:
    """How many tokens what a row holds can depend on: itself, and what the first block has copied before it."""
    return further_reach(n_head) + n_head + 1


def further_block(n_layer: int) -> int:
    """The block, from 0, whose heads copy what stands further back than the first block's."""
    return n_layer - 2


@torch.no_grad()
def set_copying_heads(model: GPT) -> None:
    """Set a model's initial weights, in place; draws from torch's global generator. See copying_obstacle."""
    c, transformer = model.config, model.transformer
    size = c.n_embd // c.n_head
    n = size // 2
    ones = torch.ones(c.n_embd, 1)
    subspace = torch.linalg.qr(torch.cat([ones, torch.randn(c.n_embd, 2 * n)], dim=1)).Q[:, 1:].T  # (2 n, C)
    frequencies = torch.rand(n) * math.pi
    waves = set_positions(model, frequencies, subspace)
    tokens = transformer.wte.weight.normal_(std=TOKEN_STD)
    tokens -= tokens @ subspace.T @ subspace
    for block in transformer.h:
        block.attn.c_proj.weight.zero_()
    length = float(tokens.norm(dim=1).mean())
    share = float((waves[0].norm() * POSITION_RMS * math.sqrt(c.n_embd / n)) ** 2)
    position = math.sqrt(c.n_embd * share / (share + length**2))  # length of a position as the first block reads it
    sizes = [length / math.sqrt(size) * FARTHEST ** (head / max(1, c.n_head - 1)) for head in range(c.n_head)]
    set_heads(transformer.h[0], range(1, c.n_head + 1), sizes, SHARPNESS[0], position, subspace, frequencies, None)


def positions_of(model: GPT) -> tuple[torch.Tensor, torch.Tensor]:
    """(subspace (2 n, C) of the positions, frequencies (n,)) of a model that set_copying_heads has set."""
    size = model.config.n_embd // model.config.n_head
    keys = model.transformer.h[0].attn.c_attn.weight.view(3, model.config.n_head, size, -1)[1, 0, : size // 2 * 2]
    subspace = keys / keys.norm(dim=1, keepdim=True)
    first, second = (model.transformer.wpe.weight[:2] @ subspace.T).view(2, -1, 2)
    return subspace, (torch.atan2(second[:, 1], second[:, 0]) - torch.atan2(first[:, 1], first[:, 0])) % (2 * math.pi)


def without_positions(model: GPT, rows: torch.Tensor) -> torch.Tensor:
    """Rows (N, C) without what lies in the positions' subspace, and without their mean."""
    subspace, _ = positions_of(model)
    rows = rows - rows @ subspace.T @ subspace
    return rows - rows.mean(1, keepdim=True)


@torch.no_grad()
def copy_further(model: GPT, block: Block, length: float, generator: torch.Generator) -> None:
    """Make a later block's heads copy from n_head + 1, n_head + 1 + FURTHER_STRIDE, ... tokens back.

    What they copy is no single token: it holds the tokens before that one, too. length: mean length of the residual
    stream's rows there. Draws from `generator`.
    """
    n_head, n_embd = model.config.n_head, model.config.n_embd
    subspace, frequencies = positions_of(model)
    position = math.sqrt(n_embd) * float(model.transformer.wpe.weight[0].norm()) / length
    size = FURTHER_SIZE * length / math.sqrt(n_embd)  # of each head: together they have n_embd dimensions
    offsets = range(n_head + 1, further_reach(n_head) + 1, FURTHER_STRIDE)
    set_heads(block, offsets, [size] * n_head, SHARPNESS[1], position, subspace, frequencies, generator)


def set_heads(block, offsets, sizes, sharpness, position, subspace, frequencies, generator) -> None:
    """Make head h attend offsets[h] tokens back, with the logit `sharpness`, and copy with the factor sizes[h].

    position: length of the positions as the block reads them; subspace (2 n, C) and frequencies (n,): theirs.
    """
    C, n_head = subspace.size(1), len(sizes)
    query, key, value = block.attn.c_attn.weight.view(3, n_head, -1, C)  # each (nh, hs, C)
    gain = math.sqrt(sharpness * math.sqrt(C // n_head)) / position

    def random_map(rows: int) -> torch.Tensor:
        """(rows, C), orthonormal but for the positions and the mean, which it does not see."""
        drawn = torch.randn(C, rows, generator=generator).to(subspace.device)
        q = torch.linalg.qr(drawn)[0].T
        q = q - q @ subspace.T @ subspace
        return q - q.mean(1, keepdim=True)

    query.zero_()
    key.zero_()
    for head, offset in enumerate(offsets):
        query[head, : len(subspace)] = gain * rotation(-offset * frequencies) @ subspace
        key[head, : len(subspace)] = gain * subspace
        value[head] = sizes[head] * random_map(value.size(1))
    block.attn.c_proj.weight.copy_(random_map(C).T)
