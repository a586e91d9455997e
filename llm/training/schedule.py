"""How long a run lasts, and its learning rate: pure functions of the step.

References: cosine schedule, Loshchilov and Hutter 2017, arXiv 1608.03983; warm-up, stable, decay ("wsd"), Hu et al.
2024, arXiv 2404.06395.
"""

import bisect
import math
from dataclasses import dataclass

BASE_TOKENS = 21_000  # texts up to this length take decay_epochs
MAX_FACTOR = 3.75  # longer texts take at most so many times decay_epochs
MIN_DECAY_ITERS = 40  # updates until the end of the decay, however short the text is
STABLE = 0.35  # of "wsd": fraction of lr_decay_iters spent at the peak rate before the decay


@dataclass(frozen=True)
class Schedule:
    """Length and learning rate of a run, in updates; all numbers are known."""

    max_iters: int
    lr_decay_iters: int
    warmup_iters: int
    learning_rate: float
    min_lr: float
    shape: str = "cosine"  # cosine, linear or wsd
    decay_lr: bool = True  # False: constant

    def rate(self, step: int) -> float:
        """Learning rate of update number `step` (from 0): linear warm-up, then the decay to min_lr, as in nanoGPT."""
        if not self.decay_lr:
            return self.learning_rate
        if step < self.warmup_iters:
            return self.learning_rate * (step + 1) / (self.warmup_iters + 1)
        if step >= self.lr_decay_iters:
            return self.min_lr
        stable = STABLE if self.shape == "wsd" else 0.0
        begin = max(self.warmup_iters, stable * self.lr_decay_iters)
        progress = max(0.0, (step - begin) / (self.lr_decay_iters - begin))
        remaining = 0.5 * (1.0 + math.cos(math.pi * progress)) if self.shape == "cosine" else 1.0 - progress
        return self.min_lr + remaining * (self.learning_rate - self.min_lr)

    def is_low(self, step: int) -> bool:
        """Whether the rate is a tenth of the peak or less: then recall is checked and errors are replayed."""
        return step >= self.warmup_iters and self.rate(step) <= self.learning_rate / 10

    def first_check(self, epoch_iters: float) -> int:
        """Number of updates after which recall is checked first: three epochs after the rate has become low.

        Earlier checks mostly fail, and one costs as much as three updates; three more epochs also make long samples
        stable (docs/LOG.md, "First check three epochs after the rate is low"). epoch_iters: updates per epoch.
        """
        low = self.warmup_iters
        if self.decay_lr:
            steps = range(self.warmup_iters, self.lr_decay_iters)  # in which the rate only falls
            low += bisect.bisect_left(steps, True, key=self.is_low)
        return low + math.ceil(3 * epoch_iters)


def run_length(
    n_tokens: int, tokens_per_iter: int, *, max_iters: int | None, lr_decay_iters: int | None, decay_epochs: float
) -> tuple[int, int]:
    """(max_iters, lr_decay_iters); what is None follows from the length of the text.

    A longer text needs more epochs, because more of its passages are alike: by the power 1.25 of its length, up to a
    limit (docs/LOG.md, "Longer books").
    """
    if max_iters is not None:
        return max_iters, max_iters if lr_decay_iters is None else lr_decay_iters
    if lr_decay_iters is None:
        epochs = decay_epochs * min(max(1.0, n_tokens / BASE_TOKENS) ** 1.25, MAX_FACTOR)
        lr_decay_iters = max(MIN_DECAY_ITERS, math.ceil(epochs * n_tokens / tokens_per_iter))
    return 2 * lr_decay_iters, lr_decay_iters


def short_interval(n_tokens: int) -> int:
    """Every so many updates one has short windows; fewer in longer texts, which have more passages to tell apart."""
    return round(4 * max(1.0, n_tokens / BASE_TOKENS) ** 2)
