"""The rows that a text is written for: windows of it, on their way through the network.

Every token is a target once with its whole context; a sample of the tokens, once more with as few tokens of context as
a short prompt has.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from llm.model import GPT
from llm.runtime import Runtime

SHORT_PROMPT = 8  # tokens
SHORT_WEIGHT = 0.3  # of tokens in windows as short as the prompts that people type
SHORT_PARTS = 8  # one of so many tokens is a target once more, in a window as short as a prompt
CERTAIN = 1e-5  # probability of all other tokens below which a row is looked at in some steps only
CERTAIN_TURNS = 4  # in one of so many
IN_DOUBT = 0.1  # doubt from which on a row is as important for the matrix as any
SURE_SHARE = 0.3  # importance of the rows that are hardly in doubt
CHUNK, GPU_CHUNK = 4096, 32_768  # rows at a time


@dataclass
class Chunk:
    """Some windows of the text."""

    x: torch.Tensor  # (B, T, C), the residual stream
    keep: torch.Tensor  # (B, T) bool: the rows that count
    y: torch.Tensor  # (N,) rows of the token table: what follows each kept row
    w: torch.Tensor  # (N,) weights
    at: torch.Tensor  # (N,) which token of the text follows each kept row, on the CPU
    rest: torch.Tensor  # (N,) probability of all other tokens than y, when it was last computed

    @property
    def rows(self) -> torch.Tensor:
        """(N, C), the kept rows of x."""
        return self.x[self.keep]

    def some_rows(self, indices: torch.Tensor) -> torch.Tensor:
        """(n, C), those of the kept rows that have these indices (n,)."""
        return self.x.flatten(0, 1)[self.keep.flatten().nonzero()[indices, 0]]

    def due(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(indices (n,) of the kept rows that a step looks at, how often each of these is looked at (n,), at most 1).

        Rows whose token was certain take turns.
        """
        certain = self.rest < CERTAIN
        turn = (torch.arange(len(certain), device=certain.device) + step) % CERTAIN_TURNS == 0
        indices = (~certain | turn).nonzero()[:, 0]
        return indices, 1.0 - (1 - 1 / CERTAIN_TURNS) * certain[indices]


def chunks_of(model: GPT, tokens: torch.Tensor, rt: Runtime, seed: int, context: int) -> list[Chunk]:
    """This rank's windows of the text, as they are before the first block.

    Long windows hold every token once with its whole context; short ones hold a sample of the tokens with as few
    tokens of context as a short prompt has. context: how many tokens a row depends on.
    """
    rows, T, generator = model.rows_of(tokens.to(rt.device)), model.config.block_size, torch.Generator()
    generator.manual_seed(seed)
    overlap = min(context, T // 2)
    starts = torch.cat([torch.arange(0, len(rows) - T - 1, T - overlap), torch.tensor([len(rows) - T - 1])])
    weights = torch.ones(len(starts), T)
    weights[1:, :overlap] = 0.0
    weights[-1, : T - int(starts[-1] - starts[-2]) if len(starts) > 1 else 0] = 0.0  # in the window before it
    weights[0, :3] = 0.02  # almost no context
    windows = [(starts, weights)]
    n_short = len(rows) // (SHORT_PARTS * (overlap - SHORT_PROMPT + 1)) if overlap > SHORT_PROMPT else 0
    weights = torch.full((n_short, overlap), SHORT_WEIGHT)
    weights[:, : SHORT_PROMPT - 1] = 0.0
    windows.append((torch.randint(len(rows) - overlap - 1, (n_short,), generator=generator), weights))
    chunks = []
    for starts, weights in windows:
        length = weights.size(1)
        at = (starts[:, None] + torch.arange(length + 1))[rt.rank :: rt.world_size]
        weights = weights[rt.rank :: rt.world_size]
        targets, weights, positions = rows[at[:, 1:]], weights.to(rt.device), at[:, 1:]
        x = F.embedding(rows[at[:, :-1]], model.lm_head.weight)  # all windows in one piece: freed as a whole
        x += model.transformer.wpe.weight[:length]
        n = max(1, (CHUNK if rt.device.type == "cpu" else GPU_CHUNK) // length)
        for part, y, w, p in zip(x.split(n), targets.split(n), weights.split(n), positions.split(n), strict=True):
            chunks.append(Chunk(part, w > 0, y[w > 0], w[w > 0], p[(w > 0).cpu()], torch.ones_like(w[w > 0])))
    return chunks


def counts_of(chunks: list[Chunk], n_rows: int) -> torch.Tensor:
    """(V,) how often each row of the token table is a target."""
    return sum(torch.bincount(chunk.y, minlength=n_rows) for chunk in chunks)


def some(rows: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """rows[indices], without a copy if these are all rows."""
    return rows if len(indices) == len(rows) else rows[indices]


def rows_at(chunks: list[Chunk], indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(x (n, C), y (n,)) of the kept rows of all chunks that have these indices (n,), in ascending order."""
    x, y, offset = [], [], 0
    for chunk in chunks:
        here = indices[(indices >= offset) & (indices < offset + len(chunk.y))] - offset
        x.append(chunk.some_rows(here))
        y.append(chunk.y[here])
        offset += len(chunk.y)
    return torch.cat(x), torch.cat(y)


def matrix_rows(
    d: torch.Tensor, often: torch.Tensor, expected: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """(indices (n,) of rows that stand for all in a sum, their weights (n,)), drawn by doubt d (N,).

    often: (N,) how often each row is looked at, at most 1. expected: how many rows are drawn on average; fewer where no
    more are looked at.
    """
    chance = (d / IN_DOUBT).clamp(SURE_SHARE, 1.0)
    chance = (chance * expected / (chance / often).sum()).minimum(often)
    drawn = (torch.rand(len(d), generator=generator).to(d.device) < chance / often).nonzero()[:, 0]
    return drawn, (d / chance)[drawn]
