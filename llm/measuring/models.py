"""The models that are measured: ours here, Hugging Face's in hugging_face.py, both with the same attributes.

name        for messages and recall.json
context     tokens that it reads at once
beginning   tokens that its texts begin with (a tokenizer's beginning-of-text); [] = none
n_columns   columns of its logits; n_shared: see `suffix_scores`; drawable: see there, too
quick_dtype a dtype in which its products are faster than in its own; None = there is none
describe()  what determines the figures, for the header of windows.jsonl
encode(text) -> (ids (n,), starts (n + 1,)): where each token begins, in characters, and where the last one ends
decode(ids) -> text
logits(x (B, T), n_last, dtype) -> (B, n_last, n_columns): predictions after the last n_last positions, with products
    in this dtype; None = the model's own
columns_of(ids): the column of each id
continuation(ids, n) -> the n tokens that greedy decoding adds
"""

from functools import partial
from typing import Protocol

import numpy as np
import torch

from llm.configurator import UserError
from llm.model import GPT
from llm.reading.character_recall import character_starts
from llm.reading.generate import allowed_ids, generate
from llm.reading.reader import Reader
from llm.runtime import Runtime
from llm.storage import checkpoint
from llm.storage.pretrained import ModelInfo
from llm.text.tokenizer import Tokenizer


class Model(Protocol):
    """A causal language model with its tokenizer."""

    name: str
    context: int
    device: torch.device
    beginning: list[int]
    n_columns: int
    n_shared: int
    drawable: int | None
    quick_dtype: torch.dtype | None

    def describe(self) -> dict: ...

    def encode(self, text: str) -> tuple[np.ndarray, np.ndarray]: ...

    def decode(self, ids: list[int]) -> str: ...

    def logits(self, x: torch.Tensor, n_last: int, dtype: torch.dtype | None) -> torch.Tensor: ...

    def columns_of(self, ids: torch.Tensor) -> torch.Tensor: ...

    def continuation(self, ids: list[int], n: int) -> list[int]: ...


class OwnModel:
    """A checkpoint of ours. Its softmax is that over all ids of its tokenizer, as Hugging Face's is over its table.

    In a model that learned a book from scratch, all ids that do not occur in the book have the same row of the table
    (network/corpus_softmax.py), and so the same logit: it is computed once. Greedy decoding never chooses one of them.
    """

    beginning: list[int] = []

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        info: ModelInfo,
        rt: Runtime,
        book_ids: np.ndarray | None,
        quick_dtype: torch.dtype | None = None,
    ):
        """book_ids: what its continuations are drafted from, which changes only their speed; None = no drafts."""
        self.name, self.context, self.device = str(info.path), model.config.block_size, rt.device
        self.tokenizer, self.info, self.dtype, self.quick_dtype = tokenizer, info, rt.dtype, quick_dtype
        self.sha256 = checkpoint.digest(model.state_dict())
        allowed = allowed_ids(info.corpus_ids, tokenizer.vocab_size)
        self.make_generator = partial(Reader, model, allowed, rt.dtype, book_ids=book_ids)
        ids, self.n_shared = distinct_ids(model, allowed, tokenizer.vocab_size)
        self.make_reader = partial(Reader, model, ids)
        self.readers = {rt.dtype: self.make_reader(rt.dtype)}
        self.n_columns, self.drawable = len(ids), len(allowed) if len(allowed) < len(ids) else None
        columns = torch.full((tokenizer.vocab_size,), len(ids) - 1)
        columns[ids] = torch.arange(len(ids))
        self.columns = columns.to(rt.device)

    def describe(self) -> dict:
        return {
            "checkpoint": self.info.path.name,
            "step": self.info.iter_num,
            "model_sha256": self.sha256,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        ids = np.array(self.tokenizer.encode(text), dtype=np.int64)
        return ids, character_starts(ids, self.tokenizer)

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)

    def logits(self, x: torch.Tensor, n_last: int, dtype: torch.dtype | None) -> torch.Tensor:
        dtype = dtype or self.dtype
        if dtype not in self.readers:  # the weights once more, in fewer bytes
            self.readers[dtype] = self.make_reader(dtype, head_dtype=dtype)
        return self.readers[dtype].head(self.readers[dtype].hidden(x)[:, -n_last:])

    def columns_of(self, ids: torch.Tensor) -> torch.Tensor:
        return self.columns[ids]

    def continuation(self, ids: list[int], n: int) -> list[int]:
        return [token for _, token in generate(self.make_generator(), list(ids), max_new_tokens=n)]


def distinct_ids(model: GPT, allowed: torch.Tensor, vocab_size: int) -> tuple[torch.Tensor, int]:
    """(the ids whose logits are computed, how many ids the last of them stands for).

    Those of `allowed` come first. If all others have one row in common, one of them stands for all.
    """
    others = torch.ones(vocab_size, dtype=torch.bool)
    others[allowed] = False
    others = others.nonzero()[:, 0]
    if not len(others):
        return allowed, 1
    rows = model.lm_head.weight.detach()[others.to(model.lm_head.weight.device)]
    if bool((rows == rows[0]).all()):
        return torch.cat([allowed, others[:1]]), len(others)
    return torch.cat([allowed, others]), 1


def check_context(model: Model, prefix: int, suffix: int) -> None:
    """UserError if the model cannot read a window; the last token is predicted, never read."""
    needed = len(model.beginning) + prefix + suffix - 1
    if model.context < needed:
        raise UserError(
            f"recall@{prefix}/{suffix} needs a context of {needed} tokens, {model.name} reads {model.context}: type a "
            "smaller --prefix or --suffix"
        )
