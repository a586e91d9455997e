"""What changes the weights: parameter groups, AdamW, Muon, and the learning rate as a pure function of the step.

AdamW has GPT-2's decay groups (matrices and tables decay, biases and layer norms do not), grouped and ordered as
nanoGPT does, so that its optimizer states load here. With optimizer = "muon" the matrices of the blocks go to Muon, and
AdamW keeps the tables, biases and layer norms.
References: AdamW, Loshchilov and Hutter 2019, arXiv 1711.05101; cosine schedule, arXiv 1608.03983; Muon, Jordan et al.
2024, https://kellerjordan.github.io/posts/muon; its coefficients, Polar Express, Amsel et al. 2025, arXiv 2505.16932.
"""

import math
from collections import defaultdict

import torch


def learning_rate_at(
    step: int,
    *,
    learning_rate: float,
    min_lr: float,
    warmup_iters: int,
    lr_decay_iters: int,
    decay_lr: bool,
    shape: str = "cosine",
    hold: float = 0.0,
) -> float:
    """The rate of update number `step` (from 0): linear warm-up, then half a cosine down to min_lr, as in nanoGPT.

    shape: "cosine" or "linear". hold: the share of lr_decay_iters before which the rate does not fall.
    """
    if not decay_lr:
        return learning_rate
    if step < warmup_iters:
        return learning_rate * (step + 1) / (warmup_iters + 1)
    if step >= lr_decay_iters:
        return min_lr
    begin = max(warmup_iters, hold * lr_decay_iters)
    progress = max(0.0, (step - begin) / (lr_decay_iters - begin))
    share = 0.5 * (1.0 + math.cos(math.pi * progress)) if shape == "cosine" else 1.0 - progress
    return min_lr + share * (learning_rate - min_lr)


# Three steps of different odd polynomials a x + b x^3 + c x^5, each the best for the singular values that the one
# before leaves, instead of five equal ones: the first three triples of Polar Express, for singular values from 1e-3
POLAR_EXPRESS = ((8.2872, -23.5959, 17.3004), (4.1071, -2.9478, 0.5448), (3.9487, -2.9089, 0.5518))


def orthogonalise(g: torch.Tensor) -> torch.Tensor:
    """U S' V^T for each g = U S V^T of a batch (N, m, n) with m <= n, in bfloat16 and matrix products alone.

    S' is near 1: three steps bring singular values from 0.03 to 1 times the norm into 0.5 to 1.9.
    """
    x = g.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # singular values of at most 1
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT  # (N, m, m)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is replaced by the nearest orthogonal matrix, for matrices (m, n).

    torch.optim.Muon does this for one matrix after the other; here those of a shape go through together, and c_attn
    goes as the three matrices q, k, v that it is.
    """

    def __init__(self, params, lr: float, momentum: float):
        super().__init__(params, dict(lr=lr, momentum=momentum))

    @torch.no_grad()
    def step(self, closure=None):
        assert closure is None
        for group in self.param_groups:
            batches = defaultdict(list)  # (m, n) -> [(part of a weight, its direction)], all with m <= n
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                buffer = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                direction = p.grad.lerp(buffer, group["momentum"])  # Nesterov's
                m, n = p.shape
                parts = m // n if m == 3 * n else 1
                for w, d in zip(p.chunk(parts), direction.chunk(parts), strict=True):
                    w, d = (w, d) if len(w) <= w.size(1) else (w.mT, d.mT)
                    batches[w.shape].append((w, d, max(1.0, p.size(0) / parts / n) ** 0.5))
            for batch in batches.values():
                updates = orthogonalise(torch.stack([d for _, d, _ in batch]))
                for (w, _, scale), update in zip(batch, updates, strict=True):
                    w.add_(update, alpha=-group["lr"] * scale)


def parameter_groups(parameters: list[torch.nn.Parameter], weight_decay: float) -> list[dict]:
    """AdamW's groups: those of two or more dimensions decay, the others do not."""
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def make_optimizers(
    model: torch.nn.Module,
    *,
    optimizer: str,
    learning_rate: float,
    muon_lr: float,
    muon_momentum: float,
    weight_decay: float,
    betas: tuple[float, float],
) -> list[torch.optim.Optimizer]:
    """AdamW over all parameters ("adamw"), or AdamW and, for the matrices of the blocks, Muon ("muon").

    Every parameter is in exactly one group, and each group keeps its highest rate as initial_lr.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    in_blocks = [p for p in model.transformer.h.parameters() if p.requires_grad and p.dim() == 2]
    matrices = in_blocks if optimizer == "muon" else []
    of_muon = {id(p) for p in matrices}
    fused = parameters[0].device.type in ("cpu", "cuda", "mps")
    groups = parameter_groups([p for p in parameters if id(p) not in of_muon], weight_decay)
    optimizers = [torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=fused)]
    if matrices:
        optimizers.append(Muon(matrices, lr=muon_lr, momentum=muon_momentum))
    grouped = [id(p) for o in optimizers for group in o.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(map(id, parameters)), "a parameter is in no group, or in two"
    for o in optimizers:
        for group in o.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def set_learning_rate(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    """Sets the rate of every group to a share of its highest."""
    for o in optimizers:
        for group in o.param_groups:
            group["lr"] = group["initial_lr"] * share
