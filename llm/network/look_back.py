"""Look-back weights: heads that attend to the last tokens from the first update on.

What follows in a text is decided by the few tokens before it. A GPT with random weights spends most of its training on
finding out how to attend to them, because its attention begins by averaging over everything. Here it begins with that
skill, for any text. Positions are sinusoids, so one matrix product recognises the key at a fixed distance. The heads of
the first block attend 1, 2, ..., n_head tokens back. Those of the second block attend 2, 3, ..., n_head + 1 tokens back
and read what the first block has gathered there, which tells passages apart that are alike for some tokens. Positions
have a subspace of their own, orthogonal to token vectors and to the blocks' output, so that the second block sees them
as clearly as the first. The network stays the same and is trained as usual: only the initial weights differ.
docs/LOG.md, "Heads that look back from the first update", has what each part brings.

References: sinusoidal positions, Vaswani et al. 2017, arXiv 1706.03762, section 3.5; structured initial attention,
Trockman and Kolter 2023, arXiv 2305.09828; previous-token heads, Olsson et al. 2022, arXiv 2209.11895.
"""

import math

import torch

from llm.model import GPT

TOKEN_STD = 0.06  # of the table; with GPT-2's 0.02 the first updates would swamp the token vectors
POSITION_RMS = 0.04  # of the positions: they make up a third of the squared norm that the first block reads
HEADS = ((1, 20.0), (2, 11.0))  # (offset, logit) of each block: head h attends h + offset back; others score about 0
PROJECTION_GAIN = 2.0  # times GPT-2's standard deviation, for projections into the residual stream


def rotation(angles: torch.Tensor) -> torch.Tensor:
    """(2 n, 2 n) matrix that rotates the i-th pair of coordinates by angles[i]; angles (n,)."""
    cos, sin = angles.cos(), angles.sin()
    return torch.block_diag(*torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2))


@torch.no_grad()
def set_positions(model: GPT, frequencies: torch.Tensor, subspace: torch.Tensor) -> torch.Tensor:
    """Make position p the vector of cos(w_i p), sin(w_i p) in a subspace, scaled; returns it unscaled.

    frequencies w (n,); subspace (2 n, C), orthonormal rows; returns (block_size, 2 n), rows of length sqrt(n).
    """
    c = model.config
    angles = torch.arange(c.block_size)[:, None] * frequencies  # (block_size, n)
    waves = torch.stack([angles.cos(), angles.sin()], dim=2).flatten(1)
    model.transformer.wpe.weight.copy_(POSITION_RMS * math.sqrt(c.n_embd / len(frequencies)) * waves @ subspace)
    return waves


@torch.no_grad()
def set_look_back_weights(model: GPT) -> None:
    """Set a model's initial weights, in place; draws from torch's global generator.

    Position p is the vector of cos(w_i p), sin(w_i p) for n random frequencies w_i in (0, pi), in a random subspace of
    2 n dimensions: as many as a head has, but at most half of all. A key copies those coordinates, and a query rotates
    them back by the angles w_i d. Their product, the sum of cos(w_i (p - q - d)) for positions p and q, is then n at
    distance d and about 0 elsewhere.
    """
    c, transformer = model.config, model.transformer
    n = min(c.n_embd // c.n_head // 2, c.n_embd // 4)
    if n == 0:  # heads of one dimension cannot hold an angle
        return
    frequencies = torch.rand(n) * math.pi
    subspace = torch.linalg.qr(torch.randn(c.n_embd, 2 * n)).Q.T  # (2 n, C), orthonormal rows
    set_positions(model, frequencies, subspace)
    tokens = transformer.wte.weight.normal_(std=TOKEN_STD)
    tokens -= tokens @ subspace.T @ subspace
    for name, p in transformer.named_parameters():
        if name.endswith("c_proj.weight"):
            p.mul_(PROJECTION_GAIN)

    x = tokens[torch.randint(len(tokens), (c.block_size,))][None] + transformer.wpe.weight  # (1, block_size, C)
    for (offset, logit), block in zip(HEADS, transformer.h, strict=False):
        position = (block.ln_1(x) @ subspace.T).norm(dim=-1).mean()  # mean length of positions as the block reads them
        gain = math.sqrt(logit * math.sqrt(c.n_embd // c.n_head)) / position
        query, key, _ = block.attn.c_attn.weight.view(3, c.n_head, -1, c.n_embd)  # each (nh, hs, C)
        for head in range(c.n_head):
            query[head, : 2 * n] = gain * rotation(-(offset + head) * frequencies) @ subspace
            key[head, : 2 * n] = gain * subspace
        for projection in (block.attn.c_proj.weight, block.mlp.c_proj.weight):  # orthogonal to the positions
            projection -= subspace.T @ (subspace @ projection)
        x = block(x)
