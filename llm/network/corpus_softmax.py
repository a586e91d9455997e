"""The corpus softmax: training over the tokens that a book uses, exactly as over GPT-2's whole table.

A book uses some 4,000 of the 50,304 rows of the table, and the softmax over the others is most of the arithmetic. Here
all rows that do not occur share one learned vector u. Their logits are then all equal to h·u, and together they count
as a single one, h·u + log(number of such rows), so that loss and gradients are the full softmax's at a tenth of its
cost. While it trains, the model has a table of n + 1 rows: those of the corpus in the order of their ids, then u.
`expand` writes the full table, `compact` takes it back: what is saved is an ordinary GPT-2.
"""

import dataclasses

import numpy as np
import torch

from llm.model import GPT, uninitialised


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Which rows of a table of vocab_size rows occur: ids, ascending."""

    ids: tuple[int, ...]
    vocab_size: int

    @property
    def others(self) -> int:
        """Rows that do not occur, and share one vector."""
        return self.vocab_size - len(self.ids)

    @property
    def rows(self) -> int:
        """Rows of the compact table: one for each id that occurs, and one for all others if there are any."""
        return len(self.ids) + (self.others > 0)

    def lookup(self) -> np.ndarray:
        """(vocab_size,) int64: id -> row of the compact table. [0, 2, 5] of 6 -> 0, 3, 1, 3, 3, 2"""
        rows = np.full(self.vocab_size, len(self.ids), dtype=np.int64)
        rows[list(self.ids)] = np.arange(len(self.ids))
        return rows


def compact(model: GPT, corpus: Corpus) -> GPT:
    """The model with a compact table; its other weights are those of `model` themselves. `expand` is the inverse."""
    full = model.lm_head.weight.detach()
    ids = list(corpus.ids)
    if corpus.others:  # any row that does not occur: where `expand` made them, they are all alike
        ids.append(int(np.setdiff1d(np.arange(corpus.vocab_size), corpus.ids)[0]))
    return with_table(model, full[ids].clone(), others=corpus.others)


def expand(model: GPT, corpus: Corpus) -> GPT:
    """The model with the full table, in which the rows that do not occur are copies of u."""
    table = model.lm_head.weight.detach()
    lookup = torch.from_numpy(corpus.lookup()).to(table.device)
    return with_table(model, table[lookup], others=0)


def with_table(model: GPT, table: torch.Tensor, *, others: int) -> GPT:
    """A GPT with this table (rows, C), tied, that shares all other weights with `model`."""
    new = uninitialised(dataclasses.replace(model.config, vocab_size=len(table)), others=others)
    new.load_state_dict(
        model.state_dict() | {"lm_head.weight": table, "transformer.wte.weight": table}, assign=True, strict=True
    )
    new.transformer.wte.weight = new.lm_head.weight = torch.nn.Parameter(table)
    return new.train(model.training)
