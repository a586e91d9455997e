"""How long to train: by the length of the text, or until it is learned. `cfg` is train.Settings.

What is known by heart, recall.TargetCheck asks.
"""

import bisect
import dataclasses
import math

USUAL = 21_000  # tokens: texts up to this length take decay_epochs
MOST_TIMES = 3.75  # decay_epochs, for longer ones
FEWEST = 40  # updates until the decay's end, however short the text is


def schedule(cfg, n_tokens: int, tokens_per_iter: int):
    """The settings with max_iters and lr_decay_iters as numbers: where they are None, they follow from the text.

    A longer text needs more epochs, because more of its passages are alike: by the power 1.25 of its length, up to a
    limit (BENCHMARKS.md, "Other books").
    """
    max_iters, decay = cfg.max_iters, cfg.lr_decay_iters
    if max_iters is None:
        epochs = cfg.decay_epochs * min(max(1.0, n_tokens / USUAL) ** 1.25, MOST_TIMES)
        decay = max(FEWEST, math.ceil(epochs * n_tokens / tokens_per_iter)) if decay is None else decay
        max_iters = 2 * decay
    return dataclasses.replace(cfg, max_iters=max_iters, lr_decay_iters=max_iters if decay is None else decay)


def short_every(n_tokens: int) -> int:
    """One of so many updates has short windows; fewer in longer texts, which have more passages to tell apart."""
    return round(4 * max(1.0, n_tokens / USUAL) ** 2)


def first_check(cfg, rate, n_tokens: int, tokens_per_iter: int) -> int:
    """The update after which recall is asked for the first time: three epochs after the rate has fallen to a tenth.

    Before that a check may fail, and one that fails narrowly costs as much as three updates; and what has just been
    learned gets lost again in a long sample (BENCHMARKS.md, "Short prompts"). cfg: as `schedule` made it; rate: from
    the number of an update to its learning rate.
    """
    low = cfg.warmup_iters
    if cfg.decay_lr:
        steps = range(cfg.warmup_iters, cfg.lr_decay_iters)  # in which it only falls
        low += bisect.bisect_left(steps, True, key=lambda step: rate(step) <= cfg.learning_rate / 10)
    return low + math.ceil(3 * n_tokens / tokens_per_iter)


def val_loss_says(cfg, val_loss: float, stale: int) -> str:
    """Why training ends early; empty where it does not. stale: evaluations since val_loss was at its best."""
    if cfg.target_loss and val_loss <= cfg.target_loss:
        return f"val_loss has reached {cfg.target_loss}"
    return f"val_loss has not improved in {stale} evaluations" if cfg.patience and stale >= cfg.patience else ""


def longer(given, scheduled) -> str:
    """The setting that makes a run half as long again; scheduled: what `schedule` made of the given settings."""
    name = "lr_decay_iters" if given.max_iters is None else "max_iters"
    return f"--{name}={max(1, math.ceil(getattr(scheduled, name) * 1.5))}"
