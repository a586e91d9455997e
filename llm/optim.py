"""What changes the weights: parameter groups, the optimizer, and the learning rate as a pure function of the step.

AdamW with GPT-2's decay groups (matrices and tables decay, biases and layer norms do not), grouped and ordered as
nanoGPT does, so that its optimizer states load here and ours load there.
References: AdamW, Loshchilov and Hutter 2019, arXiv 1711.05101; cosine schedule, arXiv 1608.03983.
"""

import math

import torch


def learning_rate_at(
    step: int, *, learning_rate: float, min_lr: float, warmup_iters: int, lr_decay_iters: int, decay_lr: bool
) -> float:
    """The rate of update number `step` (from 0): linear warm-up, then half a cosine down to min_lr, as in nanoGPT."""
    if not decay_lr:
        return learning_rate
    if step < warmup_iters:
        return learning_rate * (step + 1) / (warmup_iters + 1)
    if step >= lr_decay_iters:
        return min_lr
    progress = (step - warmup_iters) / (lr_decay_iters - warmup_iters)
    return min_lr + 0.5 * (1.0 + math.cos(math.pi * progress)) * (learning_rate - min_lr)


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Every parameter in exactly one group: those of two or more dimensions decay, the others do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(map(id, parameters)), "a parameter is in no group, or in two"
    return groups


def make_optimizer(
    model: torch.nn.Module, *, learning_rate: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    """AdamW over all parameters: one fused update where torch has one for the device (CPU, CUDA, MPS)."""
    fused = next(model.parameters()).device.type in ("cpu", "cuda", "mps")
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=learning_rate, betas=betas, fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
