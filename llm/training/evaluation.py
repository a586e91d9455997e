"""The loss of a model on a fixed sample of a text, and whether training is still numerically sound."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from llm.configurator import UserError
from llm.model import GPT
from llm.network.sharding import own_part
from llm.runtime import Runtime
from llm.text.dataset import Split
from llm.text.spacing import evenly_spaced_indices

MIN_SCALE = 2**-10  # of float16's gradient scaler, which begins at 2**16 and is halved by each update that it skips


@torch.no_grad()  # not inference_mode: the weights that a sharded model gathers here are trained later
def evaluate_loss(model: GPT, split: Split, rt: Runtime, *, batch_size: int, eval_iters: int | None) -> float:
    """Mean loss in nats per token over eval_iters fixed batches of a split (None = all of it), over all ranks.

    All ranks call the model equally often, because a sharded one gathers its weights from all of them.
    """
    model.eval()
    total = count = 0.0
    for x, y in evaluation_batches(split, model.config.block_size, batch_size, eval_iters, rt):
        with rt.autocast():
            loss = model(rt.to_device(x), rt.to_device(y))[1]
        if n_targets := int((y != -1).sum()):  # the loss of none is NaN
            total, count = total + loss.item() * n_targets, count + n_targets
    total, count = rt.sum(total, count)
    return total / count


def evaluation_batches(
    split: Split, block_size: int, batch_size: int, count: int | None, rt: Runtime
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """This rank's share of `count` fixed batches (None = the whole split, each token a target once).

    There is no randomness in them. Targets that an earlier window contained already are -1, which the loss ignores; so
    are all those of a batch that only makes this rank's share as long as the others'.
    """
    T = min(block_size, len(split) - 1)
    n_windows = -(-(len(split) - 1) // T)
    starts = T * evenly_spaced_indices(n_windows, n_windows if count is None else count * batch_size)
    batches = np.split(starts, range(batch_size, len(starts), batch_size))
    for number in range(rt.rank, -(-len(batches) // rt.world_size) * rt.world_size, rt.world_size):
        batch = batches[min(number, len(batches) - 1)]
        begin = np.minimum(batch, len(split) - T - 1)  # the last window overlaps the one before it
        tokens = split.windows(begin, T + 1)
        y = tokens[:, 1:].clone()
        for row, overlap in enumerate(batch - begin):
            y[row, : int(overlap) if number < len(batches) else T] = -1
        yield tokens[:, :-1].contiguous(), y


class FiniteCheck:
    """Finds the first update whose loss or gradient was not finite, without waiting for the device at each update."""

    def __init__(self, rt: Runtime, scaler: torch.amp.GradScaler, out_dir: Path, *, skipped: int):
        """skipped: updates that float16's scaler has skipped so far (their overflow is no error)."""
        self.rt, self.scaler, self.out_dir = rt, scaler, out_dir
        self.skipped = torch.tensor(skipped, device=rt.device)
        self.first_bad_step = torch.tensor(-1, device=rt.device)  # -1 = none

    def note(self, step: int, loss: torch.Tensor, grad_norm: torch.Tensor) -> None:
        """Take note of an update's loss and gradient norm (scalars on the device)."""
        overflow = ~grad_norm.isfinite()
        self.skipped += overflow & self.scaler.is_enabled()
        bad = ~loss.isfinite() | (overflow & (not self.scaler.is_enabled()))
        self.first_bad_step = torch.where((self.first_bad_step < 0) & bad, step, self.first_bad_step)

    def check_updates(self, step: int) -> None:
        """UserError if an update since the last check was not finite: then nothing may be saved any more."""
        if (bad_step := self.rt.max(int(self.first_bad_step))) >= 0:
            raise self._error("the loss or the gradient is not a finite number", bad_step)
        if self.scaler.is_enabled() and self.scaler.get_scale() < MIN_SCALE:
            raise self._error("the gradient is too large for float16, however it is scaled", step)

    def check_weights(self, step: int, model: GPT, val_loss: float | None) -> None:
        """UserError if a weight or the loss is not finite, before a good checkpoint is replaced by a broken one."""
        finite = all(bool(own_part(p.detach()).isfinite().all()) for p in model.parameters())
        if not (self.rt.max(int(not finite)) == 0 and math.isfinite(val_loss or 0.0)):
            raise self._error("a weight is not a finite number", step)

    def _error(self, problem: str, step: int) -> UserError:
        return UserError(
            f"{problem} at step {step:,}: the last checkpoint in {self.out_dir} is from before; lower learning_rate, "
            "raise warmup_iters, or use --dtype=float32"
        )
