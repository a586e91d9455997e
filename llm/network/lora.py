"""LoRA: the weights of a model stay as they are, and each matrix of its blocks learns a difference of low rank.

Hu et al. 2021, arXiv 2106.09685: W x + SCALE * B (A x), with A (rank, in) and B (out, rank). B begins as zeros, so the
model begins as it was. What is learned is a few megabytes, and the optimizer keeps nothing about the rest.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils import parametrize

from llm.model import GPT

SCALE = 2.0  # the paper's alpha / rank
MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


class LowRank(nn.Module):
    """A linear layer that stays, and the difference that it learns."""

    def __init__(self, linear: nn.Linear, rank: int):
        super().__init__()
        like = dict(device=linear.weight.device, dtype=linear.weight.dtype)
        self.linear = linear
        self.lora_A = nn.Parameter(torch.empty(rank, linear.in_features, **like))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank, **like))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # as the paper's code does

    def forward(self, x):
        return self.linear(x) + SCALE * F.linear(F.linear(x, self.lora_A), self.lora_B)

    @property
    def weight(self) -> torch.Tensor:
        """The matrix as it is now, with the difference added."""
        return self.linear.weight + SCALE * (self.lora_B @ self.lora_A)

    @property
    def bias(self) -> torch.Tensor | None:
        return self.linear.bias

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The linear layer with the difference added to its weights."""
        self.linear.weight.copy_(self.weight)
        return self.linear


class NewRows(nn.Module):
    """A table that stays, but for some rows."""

    def __init__(self, table: torch.Tensor, ids: list[int]):
        super().__init__()
        self.register_buffer("ids", torch.tensor(ids, device=table.device), persistent=False)
        self.lora_rows = nn.Parameter(table.detach()[ids].clone())  # (len(ids), C)

    def forward(self, table):
        return table.index_copy(0, self.ids, self.lora_rows.to(table.dtype))


def attach(model: GPT, rank: int, new_ids: list[int]) -> GPT:
    """The model itself, its parameters frozen and its blocks' matrices ready to learn.

    new_ids: tokens that it has never learned, whose rows of the table learn, too: a book's model (see corpus.py) has
    the same row for all of them.
    """
    model.requires_grad_(False)
    for block in model.transformer.h:
        for name in MATRICES:
            part, _, last = name.partition(".")
            setattr(getattr(block, part), last, LowRank(block.get_submodule(name), rank))
    if new_ids:
        rows = NewRows(model.lm_head.weight, new_ids)
        for tied in (model.transformer.wte, model.lm_head):
            parametrize.register_parametrization(tied, "weight", rows)
    return model


def merge(model: GPT) -> GPT:
    """The model itself with what was learned added to its weights: an ordinary GPT again."""
    for block in model.transformer.h:
        for name in MATRICES:
            part, _, last = name.partition(".")
            setattr(getattr(block, part), last, block.get_submodule(name).merged())
    if parametrize.is_parametrized(model.lm_head):
        for tied in (model.transformer.wte, model.lm_head):
            parametrize.remove_parametrizations(tied, "weight")
        model.transformer.wte.weight = model.lm_head.weight
    return model.requires_grad_(True)


def adapters(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of a state dict, what was learned by low rank; empty for a model without."""
    return {name: tensor for name, tensor in state.items() if name.rpartition(".")[2].startswith("lora_")}
