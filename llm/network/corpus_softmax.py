"""The corpus softmax: train over the tokens that a book uses, exactly as over GPT-2's whole table.

A book uses some 4,000 of the 50,304 rows of the token table, and the softmax over the other rows is most of the
arithmetic. Here all rows whose tokens do not occur share one learned vector u. Their logits are all equal to h·u, so
together they count as a single logit, h·u + log(number of such rows): loss and gradients are exactly the full
softmax's, at a tenth of its cost.

Outside of this module tokens are always ids: `CompactGPT` maps ids to rows at its input and its loss, and `expanded()`
returns the ordinary GPT that is saved.
"""

import dataclasses
import math

import numpy as np
import torch

from llm.model import GPT, GPTConfig, NoInit, uninitialised
from llm.network.sharding import select_rows


class CompactGPT(GPT):
    """A GPT whose table has a row for each token of a corpus, and one more for all other tokens together.

    Takes and returns token ids. Logits have one column per row: those of the corpus in the order of their ids, then the
    shared one.
    """

    def __init__(self, config: GPTConfig, corpus_ids: list[int]):
        """config.vocab_size: rows of the full table; corpus_ids: the ids that occur, ascending."""
        self.n_other = config.vocab_size - len(corpus_ids)  # rows of the full table that share one vector
        n_rows = len(corpus_ids) + (self.n_other > 0)
        super().__init__(dataclasses.replace(config, vocab_size=n_rows))
        self.config = config
        # no buffers: they follow from the corpus ids, so they are not saved, and data-parallel ranks need not sync them
        self.lookup = torch.from_numpy(row_of_id(corpus_ids, config.vocab_size))
        self.row_ids = torch.from_numpy(np.array([*corpus_ids, -1][:n_rows]))  # no id belongs to the shared row

    def _apply(self, fn, recurse=True):
        """Called by to(device)."""
        self.lookup, self.row_ids = fn(self.lookup), fn(self.row_ids)
        return super()._apply(fn, recurse)

    def rows_of(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.where(ids < 0, ids, self.lookup[ids.clamp(min=0)])  # -1 marks a target that is left out

    def predicted_ids(self, logits: torch.Tensor) -> torch.Tensor:
        return self.row_ids[logits.argmax(-1)]

    def hidden(self, idx: torch.Tensor) -> torch.Tensor:
        return super().hidden(self.rows_of(idx))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.lm_head(hidden)
        if self.n_other:
            logits[..., -1] += math.log(self.n_other)
        return logits

    def forward(self, idx, targets=None, position_weights=None):
        targets = None if targets is None else self.rows_of(targets)
        return super().forward(idx, targets, position_weights)

    def expanded(self) -> GPT:
        """The GPT with the full table, where the rows of all other tokens are copies of u; shares all other weights."""
        model = uninitialised(self.config)
        return share_weights(model, self, select_rows(self.lm_head.weight.detach(), self.lookup))


def compact(model: GPT, corpus_ids: list[int]) -> CompactGPT:
    """The inverse of `expanded()`: shares all weights of `model` but the table."""
    with torch.device("meta"), NoInit():
        small = CompactGPT(model.config, corpus_ids)
    full, rows = model.lm_head.weight.detach(), list(corpus_ids)
    if small.n_other:  # any of the other rows: where `expanded` made them, they are all equal
        rows.append(int(np.setdiff1d(np.arange(model.config.vocab_size), corpus_ids)[0]))
    return share_weights(small, model, full[rows].clone())


def share_weights(new: GPT, model: GPT, table: torch.Tensor) -> GPT:
    """`new` with this table (rows, C), tied, and all other weights those of `model` themselves."""
    weights = {"lm_head.weight": table, "transformer.wte.weight": table}
    own = {name: p.detach() for name, p in model.named_parameters(remove_duplicate=False)}
    new.load_state_dict(own | weights, assign=True, strict=True)
    new.transformer.wte.weight = new.lm_head.weight = torch.nn.Parameter(table)
    return new.train(model.training)


def row_of_id(corpus_ids: list[int], vocab_size: int) -> np.ndarray:
    """(vocab_size,) int64: id -> row of the compact table. Corpus ids 0, 2, 5 of 6 -> 0, 3, 1, 3, 3, 2."""
    rows = np.full(vocab_size, len(corpus_ids), dtype=np.int64)
    rows[corpus_ids] = np.arange(len(corpus_ids))
    return rows
