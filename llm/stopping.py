"""How long to train: by the length of the text, or until it is learned. `cfg` is train.Settings.

What is known by heart, recall.Exam asks.
"""

import dataclasses
import math

USUAL = 20_000  # tokens of the text that decay_epochs is about


def schedule(cfg, n_tokens: int, tokens_per_iter: int):
    """The settings with max_iters and lr_decay_iters as numbers: where they are None, they follow from the text.

    A longer text needs more epochs, because more of its passages are alike: with the cube root of its length, as far as
    we have measured (BENCHMARKS.md).
    """
    max_iters, decay = cfg.max_iters, cfg.lr_decay_iters
    if max_iters is None:
        epochs = cfg.decay_epochs * (n_tokens / USUAL) ** (1 / 3)
        decay = math.ceil(epochs * n_tokens / tokens_per_iter) if decay is None else decay
        max_iters = 2 * decay
    return dataclasses.replace(cfg, max_iters=max_iters, lr_decay_iters=max_iters if decay is None else decay)


def val_loss_says(cfg, best_val_loss: float, stale: int) -> str:
    """Why training ends early: the lowest val_loss so far, and the evaluations since. Empty where it does not."""
    if cfg.target_loss and best_val_loss <= cfg.target_loss:
        return f"val_loss has reached {cfg.target_loss}"
    return f"val_loss has not improved in {stale} evaluations" if cfg.patience and stale >= cfg.patience else ""


def longer(cfg) -> str:
    """The setting that makes a run half as long again."""
    if cfg.max_iters is not None:
        return f"--max_iters={max(1, math.ceil(cfg.max_iters * 1.5))}"
    if cfg.lr_decay_iters is not None:
        return f"--lr_decay_iters={max(1, math.ceil(cfg.lr_decay_iters * 1.5))}"
    return f"--decay_epochs={cfg.decay_epochs * 1.5:g}"
