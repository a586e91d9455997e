"""Copying heads: attention that copies the last tokens into the residual stream, exactly and for any text.

The heads of the first block copy the tokens 1, 2, ..., NEAR back, each through a random projection and nearer ones with
more weight. So before the first MLP, the residual stream holds the token itself and a fingerprint of the NEAR tokens
before it: what a prompt of eight tokens has. One or two later blocks copy what stands further back, which tells
passages apart that are alike for longer; all other blocks' attention is silent. training/writing.py writes a text into
such a model.

Positions are as in network/look_back.py, but orthogonal to the mean that a layer norm subtracts, too, and everything
else is orthogonal to both: what is copied does not depend on where a window begins. Their frequencies are spread nearly
evenly, so that a head whose token lies before the window's beginning scores all others alike and copies their mean.
"""

import math

import torch

from llm.model import GPT, GPTConfig
from llm.network.look_back import POSITION_RMS, TOKEN_STD, rotation, set_positions

SHARPNESS = (20.0, 40.0)  # logit of the token that a head copies, in the first and in the later blocks
NEAR = 7  # tokens that the first block's heads look back, at most
DEEP = 8  # blocks from which on two later blocks copy, not one
FARTHEST = (0.1, 0.3)  # weight of the farthest token that the first block copies, the nearest's is 1: below DEEP, above
FURTHER = ((2 / 3,), (5 / 9, 4 / 5))  # share of the blocks that come before those that copy more: below DEEP, above
LATER_SIZES = (0.1, 0.14)  # what a later block adds, relative to the residual stream: below DEEP, and from it on
SPREAD = 0.4  # of the steps between the frequencies of the positions, how much of each is random
FURTHER_STRIDE = 3  # tokens between those that the last of these blocks copies, at most
NO_LIMIT = 10**9  # tokens: as far back as the heads can reach


def copying_obstacle(config: GPTConfig) -> str:
    """Why a model of this shape cannot have copying heads; "" if it can."""
    if config.n_layer < 3:
        return f"n_layer={config.n_layer}, expected at least 3"
    if config.n_embd // config.n_head < 16:
        return f"heads of {config.n_embd // config.n_head} dimensions, expected at least 16"
    needed = 2 * context_length(config.n_layer, config.n_head)
    if config.block_size < needed:
        return f"block_size={config.block_size}, expected at least {needed}"
    return ""


def near_offsets(n_head: int) -> list[int]:
    """How many tokens back each head of the first block copies from: 1, 2, ..., NEAR, some of them twice."""
    near = min(NEAR, n_head)
    return [1 + head * near // n_head for head in range(n_head)]


def later_offsets(n_layer: int, n_head: int, reach: int = NO_LIMIT) -> dict[int, list[int]]:
    """For each later block that copies, from 0: how many tokens back each of its heads copies from.

    reach: how far back they need to look. The nearer, the fewer tokens a prompt needs until all heads find theirs.
    """
    first, offsets = near_offsets(n_head)[-1] + 1, {}
    *middle, last = [int(share * n_layer) for share in FURTHER[n_layer >= DEEP]]
    for block in middle:
        offsets[block] = list(range(first, first + n_head))
        first += n_head
    if not middle or reach >= first:
        stride = min(FURTHER_STRIDE, max(1, math.ceil((reach - first + 1) / n_head)))
        offsets[min(n_layer - 2, last)] = list(range(first, first + n_head * stride, stride))
    return offsets


def context_length(n_layer: int, n_head: int, reach: int = NO_LIMIT) -> int:
    """How many tokens what a row holds depends on: itself, and what the first block has copied before the farthest."""
    farthest = max(max(offsets) for offsets in later_offsets(n_layer, n_head, reach).values())
    return farthest + near_offsets(n_head)[-1] + 1


@torch.no_grad()
def set_copying_heads(model: GPT, generator: torch.Generator) -> None:
    """Set a model's embeddings and attention, in place; draws from `generator`, on the CPU. See copying_obstacle."""
    c, transformer = model.config, model.transformer
    size = c.n_embd // c.n_head
    n = size // 2
    drawn = torch.randn(c.n_embd, 2 * n, generator=generator)
    subspace = torch.linalg.qr(torch.cat([torch.ones(c.n_embd, 1), drawn], dim=1)).Q[:, 1:].T  # (2 n, C)
    frequencies = (torch.arange(n) + 0.5 + SPREAD * (torch.rand(n, generator=generator) - 0.5)) * math.pi / n
    waves = set_positions(model, frequencies, subspace)
    tokens = TOKEN_STD * torch.randn(transformer.wte.weight.shape, generator=generator)
    tokens -= tokens @ subspace.T @ subspace
    transformer.wte.weight.copy_(tokens)
    for block in transformer.h:
        block.attn.c_proj.weight.zero_()
    length = float(tokens.norm(dim=1).mean())
    share = float((waves[0].norm() * POSITION_RMS * math.sqrt(c.n_embd / n)) ** 2)
    position = math.sqrt(c.n_embd * share / (share + length**2))  # length of a position as the first block reads it
    offsets = near_offsets(c.n_head)
    farthest = max(1, offsets[-1] - 1)
    decay = FARTHEST[c.n_layer >= DEEP] ** (1 / farthest)
    sizes = [length / math.sqrt(size * offsets.count(offset)) * decay ** (offset - 1) for offset in offsets]
    set_heads(transformer.h[0], offsets, sizes, SHARPNESS[0], position, subspace, frequencies, generator)


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
def copy_further(model: GPT, n: int, offsets: list[int], length: float, generator: torch.Generator) -> None:
    """Make the heads of block n, from 0, copy what stands these many tokens back; see later_offsets.

    What they copy is no single token: it holds the tokens before that one, too. length: mean length of the residual
    stream's rows there. Draws from `generator`.
    """
    n_layer, n_head, n_embd = model.config.n_layer, model.config.n_head, model.config.n_embd
    subspace, frequencies = positions_of(model)
    position = math.sqrt(n_embd) * float(model.transformer.wpe.weight[0].norm()) / length
    size = LATER_SIZES[n_layer >= DEEP] * length / math.sqrt(n_embd)  # of a head; all have n_embd dimensions together
    block = model.transformer.h[n]
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
