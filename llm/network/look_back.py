"""Weights that look back from the first update on: what makes a book learned in minutes instead of half an hour.

What follows in a text is decided by the few tokens before. A GPT that begins as noise spends most of its time finding
out how to attend to them: its attention begins by averaging over everything. Here it begins with that skill, for any
text: positions are sinusoids, by which a key at a fixed distance can be told with one matrix product, and the heads of
the first block attend to 1, 2, ..., n_head tokens back. Those of the second attend to 2, 3, ..., n_head + 1 tokens back
and find what the first had gathered there: passages that are alike for some tokens are told apart by what went before.
So that the second block sees positions as clearly as the first, they have a plane of their own, to which the tokens and
what the blocks add begin at right angles. Everything is trained from there as usual; it is the same network, and only
the point that it sets out from differs. BENCHMARKS.md has what each part brings.

References: sinusoidal positions, Vaswani et al. 2017, arXiv 1706.03762, section 3.5; attention that begins structured,
Trockman and Kolter 2023, arXiv 2305.09828; previous-token heads, Olsson et al. 2022, arXiv 2209.11895.
"""

import math

import torch

from llm.model import GPT

TOKEN_STD = 0.06  # of the table; GPT-2's 0.02 lets the first updates drown what a token is
POSITION_RMS = 0.04  # of the positions: a third of what the first block reads, squared, is where a token stands
LOOKING = ((1, 20.0), (2, 11.0))  # how many tokens back a block's first head attends, and what it scores that token
# at; others are at around 0
PROJECTION = 2.0  # times GPT-2's standard deviation, for what is added to the residual stream


def rotation(angles: torch.Tensor) -> torch.Tensor:
    """(2 n, 2 n): turns the i-th pair of coordinates by angles[i], for angles (n,)."""
    cos, sin = angles.cos(), angles.sin()
    return torch.block_diag(*torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2))


@torch.no_grad()
def look_back(model: GPT) -> None:
    """Sets what the model begins with, in place; draws from torch's global generator.

    The position p is the vector of cos(w_i p), sin(w_i p) for n random frequencies w_i in (0, pi), in a random plane of
    2 n dimensions: as many as a head has, but at most half of all. A key keeps those coordinates, a query turns them
    back by the angles w_i d, so that their product, the sum of cos(w_i (p - q - d)) for the places p and q, is n at
    distance d and around 0 elsewhere.
    """
    c, transformer = model.config, model.transformer
    n = min(c.n_embd // c.n_head // 2, c.n_embd // 4)
    if n == 0:  # heads of one dimension cannot hold an angle
        return
    frequencies = torch.rand(n) * math.pi
    plane = torch.linalg.qr(torch.randn(c.n_embd, 2 * n)).Q.T  # (2 n, C), rows of length 1, at right angles
    angles = torch.arange(c.block_size)[:, None] * frequencies  # (block_size, n)
    waves = torch.stack([angles.cos(), angles.sin()], dim=2).flatten(1)  # (block_size, 2 n), rows of length sqrt(n)
    transformer.wpe.weight.copy_(POSITION_RMS * math.sqrt(c.n_embd / n) * waves @ plane)
    tokens = transformer.wte.weight.normal_(std=TOKEN_STD)
    tokens -= tokens @ plane.T @ plane
    for name, p in transformer.named_parameters():
        if name.endswith("c_proj.weight"):
            p.mul_(PROJECTION)

    x = tokens[torch.randint(len(tokens), (c.block_size,))][None] + transformer.wpe.weight  # (1, block_size, C)
    for (nearest, score), block in zip(LOOKING, transformer.h, strict=False):
        position = (block.ln_1(x) @ plane.T).norm(dim=-1).mean()  # how long it is in what the block reads
        gain = math.sqrt(score * math.sqrt(c.n_embd // c.n_head)) / position
        query, key, _ = block.attn.c_attn.weight.view(3, c.n_head, -1, c.n_embd)  # each (nh, hs, C)
        for head in range(c.n_head):
            query[head, : 2 * n] = gain * rotation(-(nearest + head) * frequencies) @ plane
            key[head, : 2 * n] = gain * plane
        for added in (block.attn.c_proj.weight, block.mlp.c_proj.weight):
            added -= plane.T @ (plane @ added)
        x = block(x)
