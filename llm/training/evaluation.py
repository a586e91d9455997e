"""A run's loss, and what to say when it breaks down. `cfg` is train.Settings."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from llm.configurator import UserError
from llm.model import GPT
from llm.runtime import Runtime
from llm.text.dataset import Split


@torch.inference_mode()
def evaluate_loss(model: GPT, split: Split, cfg, rt: Runtime) -> float:
    """Mean loss in nats a token over fixed batches of a split, all ranks together."""
    model.eval()
    total = count = 0.0
    for x, y in evaluation_batches(split, model.config.block_size, cfg.batch_size, cfg.eval_iters, rt):
        with rt.autocast():
            loss = model(rt.to_device(x), rt.to_device(y))[1]
        targets = int((y != -1).sum())
        total, count = total + loss.item() * targets, count + targets
    total, count = rt.sum(total, count)
    return total / count


def not_finite(what: str, iter_num: int, out_dir: Path) -> UserError:
    """The error for training that has broken down."""
    return UserError(
        f"{what} at step {iter_num:,}: the last checkpoint in {out_dir} is from before; lower learning_rate, raise "
        "warmup_iters, or use --dtype=float32"
    )


def evaluation_batches(
    split: Split, block_size: int, batch_size: int, count: int | None, rt: Runtime
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """This rank's share of `count` fixed batches (None = the whole split, each token a target once).

    There is no randomness in them. Targets that an earlier window had already are -1, which the loss leaves out.
    """
    T = min(block_size, len(split) - 1)
    starts = np.arange(0, len(split) - 1, T)
    if count is not None and count * batch_size < len(starts):
        starts = starts[np.linspace(0, len(starts) - 1, count * batch_size).round().astype(np.int64)]
    batches = np.split(starts, range(batch_size, len(starts), batch_size))
    for some in batches[rt.rank :: rt.world_size]:
        begin = np.minimum(some, len(split) - T - 1)  # the last window overlaps the one before it
        tokens = split.windows(begin, T + 1)
        y = tokens[:, 1:].clone()
        for row, overlap in enumerate(some - begin):
            y[row, : int(overlap)] = -1
        yield tokens[:, :-1].contiguous(), y
