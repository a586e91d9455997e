"""A run's loss, and what to say when it breaks down. `cfg` is train.Settings."""

from pathlib import Path

import torch

from llm.configurator import UserError
from llm.dataset import Split, evaluation_batches
from llm.model import GPT
from llm.runtime import Runtime


@torch.inference_mode()
def evaluate_loss(model: GPT, split: Split, cfg, on: Runtime) -> float:
    """Mean loss in nats a token over fixed batches of a split, all ranks together."""
    model.eval()
    total = count = 0.0
    for x, y in evaluation_batches(split, model.config.block_size, cfg.batch_size, cfg.eval_iters, on):
        with on.autocast():
            loss = model(on.to_device(x), on.to_device(y))[1]
        targets = int((y != -1).sum())
        total, count = total + loss.item() * targets, count + targets
    total, count = on.sum(total, count)
    return total / count


def not_finite(what: str, iter_num: int, out_dir: Path) -> UserError:
    """The error for training that has broken down."""
    return UserError(
        f"{what} at step {iter_num:,}: the last checkpoint in {out_dir} is from before; lower learning_rate, raise "
        "warmup_iters, or use --dtype=float32"
    )
