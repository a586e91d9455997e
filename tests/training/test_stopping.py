"""Whether and why training stops."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llm.runtime import Runtime
from llm.storage.progress import Progress
from llm.training.interrupt import Interrupt
from llm.training.stopping import N_CHECKS, StopRule

ALONE = Runtime(torch.device("cpu"), torch.float32, compile=False)
ERRORS = np.zeros((3, 100), dtype=bool)


class Target:
    """A TargetCheck that is reached from update number `reached_at` on; notes the updates after which it is asked."""

    goal, max_failed = "0.99", 2

    def __init__(self, progress: Progress, reached_at: int):
        self.progress, self.reached_at, self.checks = progress, reached_at, []

    def errors_if_reached(self, model):
        self.checks.append(self.progress.iter_num)
        return ERRORS if self.progress.iter_num >= self.reached_at else None


def stop_rule(progress=None, *, reached_at=None, **changes):
    """A StopRule for 320 updates, so one check in 10; first after 105."""
    progress = progress or Progress()
    settings = dict(max_iters=10 * N_CHECKS, first_check=105, target_loss=None, patience=None) | changes
    target = None if reached_at is None else Target(progress, reached_at)
    return StopRule(progress, Interrupt(), ALONE, target=target, **settings)


def train(stop, evaluate_val=None):
    """The loop of train.py without its updates; the number of updates that it would make."""
    while True:
        stop.check_recall(None, evaluate_val)
        if stop.last_step:
            return stop.progress.iter_num
        stop.progress.iter_num += 1


def test_without_a_target_training_stops_at_max_iters():
    stop = stop_rule()
    assert stop.expected_iters() == 320
    assert train(stop) == 320 and stop.progress.stop_reason == "" and stop.errors is None


def test_the_target_is_checked_at_intervals_from_the_first_check_on_and_at_the_end():
    stop = stop_rule(reached_at=1000)
    assert train(stop) == 320 and stop.errors is None
    assert stop.target.checks == [*range(105, 320, 10), 320]


def test_a_short_run_is_checked_after_each_update():
    stop = stop_rule(reached_at=1000, max_iters=10, first_check=7)
    assert train(stop) == 10 and stop.target.checks == [7, 8, 9, 10]


def test_training_stops_at_the_first_check_that_reaches_the_target():
    stop = stop_rule(reached_at=120)
    assert train(stop) == 125 and stop.errors is ERRORS
    assert stop.progress.stop_reason == "recall@50/50 has reached 0.99" and stop.target.checks == [105, 115, 125]


def test_checks_are_four_times_as_rare_while_more_windows_wait_for_replay_than_may_fail():
    progress = Progress(replay_starts=[1, 2, 3])  # at most 2 windows may fail
    stop = stop_rule(progress, reached_at=1000)
    train(stop)
    assert stop.target.checks == [*range(105, 320, 40), 320]
    progress.iter_num, progress.replay_starts = 0, [1, 2]
    stop = stop_rule(progress, reached_at=1000)
    train(stop)
    assert stop.target.checks == [*range(105, 320, 10), 320]


@pytest.mark.parametrize(
    "iter_num, expected",
    [(0, 105), (104, 105), (105, 115), (114, 115), (115, 125), (311, 315), (315, 320), (319, 320), (320, 320)],
)
def test_the_run_is_expected_to_end_at_the_next_check_of_the_target(iter_num, expected):
    """After update number iter_num, counted from 0, iter_num + 1 updates are made."""
    assert stop_rule(Progress(iter_num=iter_num), reached_at=1000).expected_iters() == expected


def test_a_first_check_beyond_the_end_is_not_expected():
    assert stop_rule(reached_at=1000, first_check=400).expected_iters() == 320


def test_training_stops_at_the_target_loss():
    stop = stop_rule(target_loss=2.0)
    stop.check_val_loss(2.1)
    assert not stop.last_step
    stop.check_val_loss(2.0)
    assert stop.last_step and stop.progress.stop_reason == "val_loss has reached 2.0"


def test_training_stops_when_patience_ends():
    stop = stop_rule(patience=3)
    stop.progress.evals_without_gain = 2
    stop.check_val_loss(2.0)
    assert not stop.last_step
    stop.progress.evals_without_gain = 3
    stop.check_val_loss(2.0)
    assert stop.last_step and stop.progress.stop_reason == "val_loss has not improved in 3 evaluations"


def test_without_target_loss_and_patience_val_loss_stops_nothing():
    stop = stop_rule(Progress(evals_without_gain=100))
    stop.check_val_loss(0.0)
    assert not stop.last_step


def test_the_first_reason_to_stop_stays():
    stop = stop_rule(Progress(iter_num=105), reached_at=0, target_loss=2.0)
    stop.check_recall(None, None)
    stop.check_val_loss(1.0)
    assert stop.progress.stop_reason == "recall@50/50 has reached 0.99"


def test_a_resumed_run_that_had_reached_its_target_stays_ended():
    progress = Progress(iter_num=125, stop_reason="recall@50/50 has reached 0.99")
    stop = stop_rule(progress, reached_at=120)
    assert train(stop) == 125 and stop.errors is ERRORS and stop.target.checks == [125]


def test_a_resumed_run_that_had_ended_goes_on_if_the_target_is_higher_now():
    progress = Progress(iter_num=125, stop_reason="recall@50/50 has reached 0.9")
    stop = stop_rule(progress, reached_at=150)
    assert train(stop) == 155 and progress.stop_reason == "recall@50/50 has reached 0.99"


def test_a_resumed_run_that_had_ended_goes_on_without_a_target():
    progress = Progress(iter_num=125, stop_reason="recall@50/50 has reached 0.99")
    stop = stop_rule(progress)
    assert train(stop) == 320 and progress.stop_reason == ""


@pytest.mark.parametrize(
    "settings, val_loss, stays_ended",
    [
        (dict(target_loss=2.0), 1.9, True),
        (dict(target_loss=1.5), 1.9, False),
        (dict(patience=3), 1.9, True),
        (dict(patience=4), 1.9, False),
        (dict(), 1.9, False),
    ],
)
def test_a_resumed_run_that_had_ended_by_its_val_loss_is_measured_again(settings, val_loss, stays_ended):
    progress = Progress(iter_num=60, evals_without_gain=3, stop_reason="val_loss has ...")
    stop, measured = stop_rule(progress, **settings), []
    stop.check_recall(None, lambda: measured.append(60) or val_loss)
    assert stop.last_step == bool(progress.stop_reason) == stays_ended and measured == [60]


def test_a_signal_to_any_rank_ends_the_run():
    stop = stop_rule()
    assert not stop.interrupted() and not stop.last_step
    stop.interrupt.signal = 15
    assert stop.interrupted() and not stop.last_step
    others_signal = SimpleNamespace(max=lambda number: max(number, 2))
    stop = StopRule(
        Progress(), Interrupt(), others_signal, max_iters=9, target=None, first_check=1, target_loss=None, patience=None
    )
    assert stop.interrupted()
