"""How long a run lasts and how fast it learns follow from the step and the length of the text alone."""

import pytest

from llm.training.schedule import Schedule, run_length, short_interval

SETTINGS = dict(max_iters=200, lr_decay_iters=100, warmup_iters=10, learning_rate=1.0, min_lr=0.1)


def test_the_cosine_schedule_is_nanogpts():
    rate = Schedule(**SETTINGS).rate
    assert [rate(0), rate(9)] == pytest.approx([1 / 11, 10 / 11])
    assert rate(10) == 1.0 and rate(55) == pytest.approx(0.55) and rate(100) == rate(199) == 0.1


def test_a_linear_decay_falls_by_the_same_amount_each_step():
    rate = Schedule(**SETTINGS, shape="linear").rate
    assert rate(10) == 1.0 and rate(55) == pytest.approx(0.55)
    assert rate(30) - rate(31) == pytest.approx(rate(80) - rate(81)) == pytest.approx(0.01)


def test_wsd_stays_at_the_peak_for_35_percent_and_then_falls_linearly():
    rate = Schedule(**SETTINGS, shape="wsd").rate
    assert {rate(step) for step in range(10, 36)} == {1.0}
    assert rate(36) < 1.0 and rate(67.5) == pytest.approx(0.55) and rate(100) == 0.1


def test_the_warm_up_may_last_longer_than_the_decay_and_may_end_with_it():
    rates = [Schedule(**SETTINGS | dict(warmup_iters=200)).rate(step) for step in range(150)]
    assert rates == sorted(rates) and rates[-1] < 1.0
    assert Schedule(**SETTINGS | dict(warmup_iters=100)).rate(100) == 0.1


def test_without_decay_the_rate_is_constant():
    schedule = Schedule(**SETTINGS, decay_lr=False)
    assert {schedule.rate(step) for step in (0, 50, 150)} == {1.0} and not schedule.is_low(150)


def test_the_rate_is_low_from_a_tenth_of_the_peak_on_but_not_in_the_warm_up():
    schedule = Schedule(**SETTINGS | dict(warmup_iters=20))
    assert not schedule.is_low(0) and schedule.rate(0) < 0.1
    assert not schedule.is_low(99) and schedule.is_low(100) and schedule.is_low(150)


@pytest.mark.parametrize(
    "n_tokens, given, expected",
    [
        (20000, dict(decay_epochs=16.0), (158, 79)),
        (42000, dict(decay_epochs=8.0), (392, 196)),  # twice as long, 2.4 times as many epochs
        (84000, dict(decay_epochs=8.0), (1232, 616)),  # four times as long: at most 3.75 times as many
        (5000, dict(decay_epochs=60.0), (148, 74)),  # a quarter as long: as many
        (500, dict(decay_epochs=10.0), (80, 40)),
        (20480, dict(lr_decay_iters=30), (60, 30)),
        (20480, dict(max_iters=70), (70, 70)),
        (20480, dict(max_iters=70, lr_decay_iters=90), (70, 90)),
    ],
)
def test_how_long_a_run_lasts_follows_from_the_text(n_tokens, given, expected):
    settings = dict(max_iters=None, lr_decay_iters=None, decay_epochs=12.0) | given
    assert run_length(n_tokens, 4096, **settings) == expected


@pytest.mark.parametrize(
    "given, first",
    [
        (dict(shape="linear", min_lr=1e-9), 4 + 87 + 16),  # 3 + 0.9 * 97 updates, then 15.4 of three epochs
        (dict(shape="linear"), 100 + 16),  # min_lr is a tenth
        (dict(decay_lr=False), 3 + 16),
    ],
)
def test_recall_is_checked_first_three_epochs_after_the_rate_has_become_low(given, first):
    schedule = Schedule(**SETTINGS | dict(warmup_iters=3) | given)
    assert schedule.first_check(21_000 / 4096) == first


def test_short_windows_are_rarer_in_longer_texts():
    assert [short_interval(n) for n in (500, 21_000, 42_000, 126_000)] == [4, 4, 16, 144]
