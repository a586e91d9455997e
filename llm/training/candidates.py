"""The tokens that a step of writing compares the right one with: all, or the frequent ones and a share of the others.

Sampled softmax: a token that is compared in one of n steps counts n times there (Jean et al. 2015, arXiv 1412.2007).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

FREQUENT = 0.06  # share of the tokens, the most frequent ones, that every step compares
TURNS = 8  # the others are compared in one of so many steps
MULTIPLE = 64  # of rows: GPUs multiply other matrices at a fraction of their speed


@dataclass(frozen=True)
class Candidates:
    """Rows of a token table (V, C): one that is replaced by the right token, the frequent, the rare, and zeros."""

    table: torch.Tensor  # (V', C), in the dtype of products
    rows: torch.Tensor  # (V,) where each row of the whole table is in it; 0 = nowhere
    whole: torch.Tensor  # (V, C) float32
    n_other: int  # tokens that row 1 stands for, if it stands for the tokens that do not occur in the text; else 0
    first_rare: int  # rows from here on count `times` times
    times: int
    n: int  # rows from here on are zeros, and count for nothing

    @property
    def complete(self) -> bool:
        """Whether all tokens are compared."""
        return self.times == 1

    def probabilities(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """z (N, C), normalised; y (N,) rows of the whole table -> (N, V') in dtype, probability of each other token.

        That of y is 0, so the sum of a row is 1 - p(y), exact also where p(y) is about 1.
        """
        logits = F.linear(z.to(self.table.dtype), self.table)
        if self.n_other:
            logits[:, 1] += math.log(self.n_other)
        if self.times > 1:
            logits[:, self.first_rare :] += math.log(self.times)
        logits[:, self.n :] = -math.inf
        logits.scatter_(1, self.rows[y][:, None], -math.inf)
        logits[:, 0] = (z * self.whole[y]).sum(1)
        others = logits.softmax(-1)
        others[:, 0] = 0.0
        return others


class TokenTable:
    """A token table (V, C) and how often each of its tokens is asked for."""

    def __init__(self, table: torch.Tensor, counts: torch.Tensor, *, n_other: int, dtype: torch.dtype):
        """counts: (V,); n_other: tokens that share the last row, which is always compared; dtype: of products."""
        self.whole, self.n_other = table, n_other
        self.in_dtype = table.to(dtype)
        order = counts[: len(table) - (n_other > 0)].argsort(descending=True, stable=True)
        self.order = torch.cat([order.new_full((1,), len(table) - 1), order]) if n_other else order

    def candidates(self, step: int, *, everything: bool) -> Candidates:
        """Those of a step, counted from 0; everything: all tokens."""
        n_frequent = len(self.order) if everything else math.ceil(FREQUENT * len(self.order))
        rare = self.order[n_frequent:][step % TURNS :: TURNS]
        chosen = torch.cat([self.order[:n_frequent], rare])
        n, rows = 1 + len(chosen), torch.zeros_like(self.order)
        rows[chosen] = torch.arange(1, n, device=rows.device)
        table = self.in_dtype.new_zeros(-(-n // MULTIPLE) * MULTIPLE, self.whole.size(1))
        table[1:n] = self.in_dtype[chosen]
        times = TURNS if len(rare) else 1
        return Candidates(table, rows, self.whole, self.n_other, 1 + n_frequent, times, n)
