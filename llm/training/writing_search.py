"""How far a step of writing goes: a search on a sample of the rows.

Up to a factor for each row, logits are linear in the step, so the loss anywhere along it costs no matrix product.
"""

import math

import torch
import torch.nn.functional as F

from llm.runtime import Runtime


def with_others(logits: torch.Tensor, n_other: int) -> torch.Tensor:
    """Logits (N, V), in place: the last row of a compact table stands for n_other tokens; 0 = the table is whole."""
    if n_other:
        logits[:, -1] += math.log(n_other)
    return logits


def choose_rows(
    doubt: torch.Tensor, w: torch.Tensor, moved: torch.Tensor, size: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """(indices (size,) of rows, ascending, their importance (size,)): a third is those in most doubt.

    The others are drawn by doubt (N,), weight w (N,) and by how far the step moves them (N,), 0 where that was not
    asked. The sum of importance times anything estimates the sum of w times that over all rows.
    """
    moved = moved * w
    q = (doubt / doubt.sum() + w / w.sum() + moved / moved.sum().clamp(min=1e-30)) / 3
    top = doubt.topk(size // 3).indices
    q[top] = 0.0
    q /= q.sum().clamp(min=1e-30)
    drawn = torch.multinomial(q.cpu(), size - len(top), replacement=True, generator=generator).to(q.device)
    indices = torch.cat([top, drawn])
    importance = torch.cat([w[top], w[drawn] / q[drawn] / max(1, len(drawn))])
    order = indices.argsort()
    return indices[order], importance[order]


class Sample:
    """Rows of the text and the directions of a step: the loss anywhere along them, for the price of adding logits."""

    def __init__(
        self,
        parts: list[torch.Tensor],
        y: torch.Tensor,
        importance: torch.Tensor,
        *,
        table: torch.Tensor,
        n_other: int,
        rt: Runtime,
    ):
        """parts: z, the step, and the step before if there is one, each (N, C); y: (N,) rows of the table.

        importance: (N,), so that the sum of importance times loss, over all ranks, is the loss of all rows. table:
        (V, C), in the dtype of products; n_other: tokens that share its last row.
        """
        self.y, self.importance, self.d, self.n_other, self.rt = y, importance, parts[1], n_other, rt
        self.parts = [part - part.mean(1, keepdim=True) for part in parts]
        self.logits = [F.linear(part.to(table.dtype), table).float() for part in self.parts]

    def loss(self, size: float, momentum: float, gain: float) -> float:
        """Weighted mean loss of z + size * step + momentum * last step, in nats."""
        z, logits = (torch.add(own[0], own[1], alpha=size) for own in (self.parts, self.logits))
        if momentum:
            z.add_(self.parts[2], alpha=momentum)
            logits.add_(self.logits[2], alpha=momentum)
        logits *= (gain / (z.square().mean(1) + 1e-5).sqrt())[:, None]
        losses = F.cross_entropy(with_others(logits, self.n_other), self.y, reduction="none")
        return self.rt.sum(float((losses * self.importance).sum()))[0]

    def search(self, gain: float) -> tuple[float, float, float, float]:
        """(loss, size, momentum, gain), the best that a search of one coordinate after the other finds."""
        best = (self.loss(0.0, 0.0, gain), 0.0, 0.0, gain)

        def attempt(size, momentum, gain):
            nonlocal best
            best = min(best, (self.loss(size, momentum, gain), size, momentum, gain))

        for size in (0.3, 1.0, 3.0, 10.0, 30.0, 100.0):
            attempt(size, 0.0, best[3])
        for factor in (0.6, 1.7):
            attempt(best[1] * factor, 0.0, best[3])
        for factor in (0.75, 1.33):
            attempt(best[1], 0.0, best[3] * factor)
        if len(self.parts) > 2:
            for momentum in (0.3, 1.0):
                attempt(best[1], momentum, best[3])
        for factor in (0.8, 1.25):
            attempt(best[1] * factor, best[2], best[3])
        return best
