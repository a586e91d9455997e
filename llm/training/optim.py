"""The optimizers and their parameter groups: AdamW and Muon.

AdamW has GPT-2's weight decay groups (matrices and tables decay, biases and layer norms do not), grouped and ordered as
in nanoGPT, so that its optimizer states load here. With optimizer = "muon", Muon takes the matrices of the blocks and
AdamW keeps the tables, biases and layer norms.
References: AdamW, Loshchilov and Hutter 2019, arXiv 1711.05101; Muon, Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon; its coefficients, Polar Express, Amsel et al. 2025, arXiv 2505.16932.
"""

import functools
from collections import defaultdict

import torch

from llm.network.sharding import change_whole

MUON_MOMENTUM = 0.85  # decay of the mean gradient
# Coefficients (a, b, c) of three odd polynomials a x + b x^3 + c x^5, each optimal for the singular values that the
# previous one leaves, instead of five equal steps: the first three triples of Polar Express, for values from 1e-3 on
POLAR_EXPRESS = ((8.2872, -23.5959, 17.3004), (4.1071, -2.9478, 0.5448), (3.9487, -2.9089, 0.5518))


def orthogonalise(g: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """U S' V^T for each g = U S V^T of a batch (N, m, n) with m <= n, with matrix products in `dtype` alone.

    S' is near 1: three steps map singular values from 0.03 to 1 times the norm to 0.5 to 1.9.
    """
    x = g.to(dtype)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # singular values of at most 1
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT  # (N, m, m)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is replaced by the nearest orthogonal matrix, for matrices (m, n).

    Unlike torch.optim.Muon, which takes one matrix after the other, all matrices of a shape are orthogonalised in one
    batch, and c_attn as the three matrices q, k, v that it holds. Sharded matrices are dealt out to the ranks.
    """

    def __init__(self, params, lr: float, momentum: float = MUON_MOMENTUM, dtype: torch.dtype = torch.bfloat16):
        """dtype: of the matrix products."""
        super().__init__(params, dict(lr=lr, momentum=momentum))
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure=None):
        assert closure is None
        for group in self.param_groups:
            directions = [self._direction(p, group["momentum"]) for p in group["params"]]
            change_whole(directions, functools.partial(orthogonalise_all, dtype=self.dtype))
            for p, direction in zip(group["params"], directions, strict=True):
                m, n = p.shape
                p.add_(direction, alpha=-group["lr"] * max(1.0, m / n_parts(m, n) / n) ** 0.5)

    def _direction(self, p: torch.nn.Parameter, momentum: float) -> torch.Tensor:
        """Nesterov momentum of a weight's gradient; brings the weight's state up to date."""
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        buffer = state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(buffer, momentum)


def n_parts(m: int, n: int) -> int:
    """Of how many matrices side by side a weight (m, n) consists: 3 for c_attn, else 1."""
    return 3 if m == 3 * n else 1


def orthogonalise_all(directions: list[torch.Tensor], dtype: torch.dtype) -> None:
    """Orthogonalise matrices (m, n) of several shapes in place: all of a shape in one batch, c_attn's q, k, v apart."""
    batches = defaultdict(list)  # (m, n), m <= n -> parts of directions
    for direction in directions:
        for d in direction.chunk(n_parts(*direction.shape)):
            d = d if len(d) <= d.size(1) else d.mT
            batches[d.shape].append(d)
    for batch in batches.values():
        for d, update in zip(batch, orthogonalise(torch.stack(batch), dtype), strict=True):
            d.copy_(update)


def parameter_groups(parameters: list[torch.nn.Parameter], weight_decay: float) -> list[dict]:
    """AdamW's groups: parameters of two or more dimensions decay, the others do not."""
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def has_fused_adamw(device: torch.device) -> bool:
    """Whether torch updates all parameters on this device in one kernel."""
    return device.type in ("cpu", "cuda", "mps")


def make_optimizers(
    model: torch.nn.Module,
    *,
    optimizer: str,
    learning_rate: float,
    muon_lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    dtype: torch.dtype = torch.bfloat16,
) -> list[torch.optim.Optimizer]:
    """AdamW over all parameters ("adamw"), or AdamW and, for the matrices of the blocks, Muon ("muon").

    Every parameter is in exactly one group, and each group keeps its peak rate as initial_lr. dtype: of Muon's matrix
    products (float16 is replaced by bfloat16, whose range they need).
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    in_blocks = [p for p in model.transformer.h.parameters() if p.requires_grad and p.dim() == 2]
    matrices = in_blocks if optimizer == "muon" else []
    of_muon = {id(p) for p in matrices}
    groups = parameter_groups([p for p in parameters if id(p) not in of_muon], weight_decay)
    optimizers = [torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=has_fused_adamw(parameters[0].device))]
    if matrices:
        muon_dtype = torch.bfloat16 if dtype == torch.float16 else dtype
        optimizers.append(Muon(matrices, lr=muon_lr, dtype=muon_dtype))
    grouped = [id(p) for o in optimizers for group in o.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(map(id, parameters)), "a parameter is in no group, or in two"
    for o in optimizers:
        for group in o.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def set_learning_rate(optimizers: list[torch.optim.Optimizer], fraction: float) -> None:
    """Set the rate of every group to this fraction of its peak."""
    for o in optimizers:
        for group in o.param_groups:
            group["lr"] = group["initial_lr"] * fraction
