"""Whether and why training stops. Nothing else decides that."""

import math
from collections.abc import Callable

import numpy as np

from llm.model import GPT
from llm.reading.recall import PREFIX, SUFFIX
from llm.runtime import Runtime
from llm.storage.progress import Progress
from llm.training.interrupt import Interrupt
from llm.training.target import TargetCheck

N_CHECKS = 32  # checks of target_recall that a full-length run would make


class StopRule:
    """Stops a run at max_iters, at target_recall, at target_loss, when patience ends, or on a signal.

    The reason is kept in progress.stop_reason ("" = max_iters, or not yet), so that a run that has ended stays ended
    when it is resumed with the same settings.
    """

    def __init__(
        self,
        progress: Progress,
        interrupt: Interrupt,
        rt: Runtime,
        *,
        max_iters: int,
        target: TargetCheck | None,
        first_check: int,
        target_loss: float | None,
        patience: int | None,
    ):
        """target: None = no target_recall; first_check: the number of updates after which it is checked first."""
        self.progress, self.interrupt, self.rt = progress, interrupt, rt
        self.max_iters, self.target, self.first_check = max_iters, target, first_check
        self.target_loss, self.patience = target_loss, patience
        self.check_interval = max(1, max_iters // N_CHECKS)  # updates
        self.errors: np.ndarray | None = None  # in every window of the text, once target_recall is reached
        self.given_up = ""  # why the run ends although its target is not reached

    @property
    def last_step(self) -> bool:
        """Whether no update follows (unless a signal ends the run before)."""
        return self.progress.iter_num >= self.max_iters or bool(self.progress.stop_reason)

    def interrupted(self) -> bool:
        """Whether a signal has asked any rank to end."""
        return self.rt.max(self.interrupt.signal) > 0

    def expected_iters(self) -> int:
        """The update at which the run will probably end: the next check of target_recall, else max_iters."""
        if self.target is None:
            return self.max_iters
        updates_since = max(0, self.progress.iter_num + 1 - self.first_check)
        n_intervals = math.ceil(updates_since / self.check_interval)
        return min(self.max_iters, self.first_check + n_intervals * self.check_interval)

    def check_recall(self, model: GPT, evaluate_val: Callable[[], float] | None) -> None:
        """Stop if target_recall is reached; checked every so often once the learning rate is low.

        While more windows wait for replay than may fail, checks are four times as rare: they would fail.
        evaluate_val: val_loss of the model now, None = nothing is held out.
        """
        if self.given_up:
            self.progress.stop_reason = self.given_up
            return
        if self.target and self.errors is None and self._check_is_due():
            self.errors = self.target.errors_if_reached(model)
        if self.errors is not None:
            self.progress.stop_reason = f"recall@{PREFIX}/{SUFFIX} has reached {self.target.goal}"
        elif self.progress.stop_reason:  # a resumed run that had ended: is that so with today's settings?
            self.progress.stop_reason = ""
            if evaluate_val:
                self.check_val_loss(evaluate_val())

    def target_reached(self, model: GPT) -> bool:
        """Check target_recall now; what it finds counts at the next check_recall."""
        self.errors = self.target.errors_if_reached(model)
        return self.errors is not None

    def _check_is_due(self) -> bool:
        if self.last_step:
            return True
        interval = self.check_interval * (4 if len(self.progress.replay_starts) > self.target.max_failed else 1)
        updates = self.progress.iter_num - self.first_check
        return updates >= 0 and updates % interval == 0

    def check_val_loss(self, val_loss: float) -> None:
        """Stop if val_loss has reached target_loss, or has not improved for `patience` evaluations."""
        evals_without_gain = self.progress.evals_without_gain
        if self.progress.stop_reason:
            return
        if self.target_loss and val_loss <= self.target_loss:
            self.progress.stop_reason = f"val_loss has reached {self.target_loss}"
        elif self.patience and evals_without_gain >= self.patience:
            self.progress.stop_reason = f"val_loss has not improved in {evals_without_gain} evaluations"
