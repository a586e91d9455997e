"""LoRA: freeze a model, and train a low-rank difference to each matrix of its blocks.

Hu et al. 2021, arXiv 2106.09685: W x + SCALE * B (A x), with A (rank, in) and B (out, rank). B starts as zeros, so that
the model starts unchanged. A checkpoint holds only the few megabytes that are trained, and the optimizer keeps no state
for the frozen weights.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils import parametrize

from llm.model import GPT, Block

SCALE = 2.0  # the paper's alpha / rank
MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


class LowRank(nn.Module):
    """A frozen linear layer plus a trained difference of low rank."""

    def __init__(self, linear: nn.Linear, rank: int):
        super().__init__()
        factory_kwargs = dict(device=linear.weight.device, dtype=linear.weight.dtype)
        self.linear = linear
        self.lora_A = nn.Parameter(torch.empty(rank, linear.in_features, **factory_kwargs))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank, **factory_kwargs))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # as in the paper's code

    def forward(self, x):
        return self.linear(x) + SCALE * F.linear(F.linear(x, self.lora_A), self.lora_B)

    @property
    def weight(self) -> torch.Tensor:
        """The frozen matrix plus the difference, (out, in)."""
        return self.linear.weight + SCALE * (self.lora_B @ self.lora_A)

    @property
    def bias(self) -> torch.Tensor | None:
        return self.linear.bias

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The linear layer itself, with the difference added to its weight in place."""
        self.linear.weight.copy_(self.weight)
        return self.linear


class NewRows(nn.Module):
    """A parametrization of the frozen token table: the rows of some ids are trained."""

    def __init__(self, table: torch.Tensor, ids: list[int]):
        super().__init__()
        self.register_buffer("ids", torch.tensor(ids, device=table.device), persistent=False)
        self.lora_rows = nn.Parameter(table.detach()[ids].clone())  # (len(ids), C)

    def forward(self, table):
        return table.index_copy(0, self.ids, self.lora_rows.to(table.dtype))


def replace_linear(block: Block, name: str, layer: nn.Module) -> None:
    """Put `layer` in the place of one of the block's MATRICES."""
    parent, _, attribute = name.partition(".")
    setattr(block.get_submodule(parent), attribute, layer)


def attach(model: GPT, rank: int, new_ids: list[int]) -> GPT:
    """Freeze the model and add a trained difference of this rank to its blocks' matrices, in place.

    new_ids: tokens that do not occur in the text that the model was trained on. Their rows of the token table are
    trained, too: in a model trained with the corpus softmax (network/corpus_softmax.py) all these rows are equal.
    """
    model.requires_grad_(False)
    for block in model.transformer.h:
        for name in MATRICES:
            replace_linear(block, name, LowRank(block.get_submodule(name), rank))
    if new_ids:
        rows = NewRows(model.lm_head.weight, new_ids)
        for tied in (model.transformer.wte, model.lm_head):
            parametrize.register_parametrization(tied, "weight", rows)
    return model


def shapes(model: GPT, rank: int, new_ids: list[int]) -> dict[str, tuple[int, int]]:
    """The names and shapes of what `attach` trains, before it takes any memory."""
    found = {}
    for n, block in enumerate(model.transformer.h):
        for name in MATRICES:
            n_out, n_in = block.get_submodule(name).weight.shape
            found[f"transformer.h.{n}.{name}.lora_A"] = (rank, n_in)
            found[f"transformer.h.{n}.{name}.lora_B"] = (n_out, rank)
    if new_ids:
        for tied in ("transformer.wte", "lm_head"):
            found[f"{tied}.parametrizations.weight.0.lora_rows"] = (len(new_ids), model.config.n_embd)
    return found


def merge(model: GPT) -> GPT:
    """Add what was trained to the model's own weights, in place: it is an ordinary GPT again."""
    for block in model.transformer.h:
        for name in MATRICES:
            replace_linear(block, name, block.get_submodule(name).merged())
    if parametrize.is_parametrized(model.lm_head):
        for tied in (model.transformer.wte, model.lm_head):
            parametrize.remove_parametrizations(tied, "weight")
        model.transformer.wte.weight = model.lm_head.weight
    return model.requires_grad_(True)


def adapters(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a state dict that LoRA trained; empty for a model without LoRA."""
    return {name: tensor for name, tensor in state_dict.items() if name.rpartition(".")[2].startswith("lora_")}
