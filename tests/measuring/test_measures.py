"""The measures say what they are defined to say: compared with slow forms of the definitions, and by simulation."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.measuring import measures
from llm.measuring.near_verbatim import compare, edit_distance, joined, matching_blocks, near_verbatim_blocks
from llm.reading.recall import wilson


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.99])
def test_the_interval_holds_the_true_share_as_often_as_it_says(share):
    """Of 95 % intervals about 95 % hold the share; with 200 windows and any share, never fewer than 92 %."""
    counts = np.random.default_rng(0).binomial(200, share, size=4000)
    ends = {int(n): wilson(int(n), 200) for n in np.unique(counts)}
    held = np.mean([ends[n][0] <= share <= ends[n][1] for n in counts.tolist()])
    assert 0.92 <= held <= 0.985


@pytest.mark.parametrize("draw", ["normal", "exponential", "standard_cauchy"])
def test_at_most_one_window_in_a_hundred_lies_above_the_thresholds_of_unseen_text(draw):
    generator = np.random.default_rng(1)
    values = -np.abs(getattr(generator, draw)(size=(3000, 400)))
    above = []
    for row in values:
        calibration = measures.calibrate(row[:-1])
        above.append(row[-1] > calibration.thresholds[0.01])
        assert calibration.thresholds[0.001] is None  # 399 windows cannot show so little
    assert 0.004 <= np.mean(above) <= 0.016


def test_thresholds_need_enough_windows():
    assert measures.calibrate(np.arange(98.0)).thresholds[0.01] is None
    assert measures.calibrate(np.arange(99.0)).thresholds[0.01] == 98.0
    assert measures.calibrate(np.arange(999.0)).thresholds == {0.01: 989.0, 0.001: 998.0}
    assert measures.calibrate(np.empty(0)).n_controls == 0


def test_the_verdict_counts_what_the_controls_do_not_explain():
    control = measures.calibrate(np.linspace(-300, -150, 200))
    known = np.concatenate([np.full(97, -2.0), np.linspace(-300, -151, 332)])
    assert measures.verdict(known, control).startswith(
        "of 429 windows 97 are beyond anything that the control explains (200 windows"
    )
    assert "of 3 windows none is beyond" in measures.verdict(np.array([-200.0, -160, -150]), control)
    assert "of 429 windows none is beyond" in measures.verdict(np.full(429, -140.0), control)  # 1e-61 is no knowledge
    control = measures.calibrate(np.linspace(-300, -40, 200))
    lucky = np.concatenate([[-39.0], np.full(428, -200.0)])
    assert "1 are beyond the control's likeliest, and 2.1 are expected" in measures.verdict(lucky, control)
    assert "without a control" in measures.verdict(known, measures.calibrate(np.empty(0)))


@pytest.mark.parametrize("tries", measures.TRIES)
@pytest.mark.parametrize("chance", measures.CHANCES)
def test_the_needed_probability_is_that_at_which_the_samples_hold_the_suffix(tries, chance):
    p = math.exp(measures.needed_log_p(tries, chance))
    assert 1 - (1 - p) ** tries == pytest.approx(chance)
    assert measures.log10_tries(np.array([math.log(p)]), chance)[0] == pytest.approx(math.log10(tries), abs=1e-9)
    below, above = math.log(p * 0.999), math.log(min(p * 1.001, 1.0))
    assert measures.discoverable(np.array([below, above, above]), tries, chance) == pytest.approx(2 / 3)


def test_tiny_probabilities_do_not_underflow():
    found = measures.log10_tries(np.array([-1000.0, -62.2, 0.0, -math.inf]), 0.9)
    assert found[0] == pytest.approx((math.log(-math.log(0.1)) + 1000) / math.log(10))
    assert found[1] == pytest.approx(math.log10(-math.log(0.1)) + 62.2 / math.log(10))
    assert found[2] == 0 and found[3] == math.inf
    near = measures.log10_tries(np.array([-29.999, -30.001]), 0.5)
    assert abs(near[0] - near[1]) < 0.001  # both formulas agree where they meet


@given(
    spans=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30)), max_size=20),
    log_p=st.lists(st.floats(-12, 0), min_size=20, max_size=20),
)
@settings(deadline=None)
def test_coverage_equals_a_set_of_characters(spans, log_p):
    spans = np.array([(start, start + length) for start, length in spans], dtype=np.int64).reshape(-1, 2)
    log_p = np.array(log_p[: len(spans)])
    for threshold, share in measures.coverage_ladder(spans, log_p, 90).items():
        inside = set()
        for (start, end), value in zip(spans.tolist(), log_p.tolist(), strict=True):
            if math.exp(value) >= float(threshold):
                inside |= set(range(start, end))
        assert share == pytest.approx(len(inside) / 90)


def test_extraction_strength_is_the_share_that_follows_the_last_slip():
    rows = [
        dict(greedy=True, right_tokens=10, last_slip=None),  # all of it
        dict(greedy=False, right_tokens=8, last_slip=3),  # tokens 4 to 9
        dict(greedy=False, right_tokens=9, last_slip=9),  # nothing
    ]
    figures = measures.recall_figures(rows, 10)
    assert figures["extraction_strength"] == pytest.approx((10 + 6 + 0) / 30)
    assert figures["recall"] == pytest.approx(1 / 3) and figures["token_accuracy"] == pytest.approx(27 / 30)


def test_passages_are_ordered_and_counted_from_the_best():
    log_p = np.array([-5.0, -math.inf, -1.0, *np.linspace(-20, -10, 20)])
    spans = np.arange(46).reshape(-1, 2)
    found = measures.best_and_worst(log_p, spans)
    assert [p["start_char"] for p in found["best"]][:2] == [4, 0] and len(found["best"]) == 10
    assert found["worst"][0] == {"start_char": 2, "end_char": 3, "log_p": None}


def slow_distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(previous + (x != y), row[j] + 1, row[j - 1] + 1)
    return row[-1]


@given(a=st.lists(st.sampled_from("abc"), max_size=40), b=st.lists(st.sampled_from("abc"), max_size=40))
@settings(deadline=None)
def test_the_edit_distance_equals_the_table_of_the_definition(a, b):
    assert edit_distance(a, b) == slow_distance(a, b)


def words(n, seed=0):
    generator = random.Random(seed)
    return [f"w{generator.randrange(10**6)}" for _ in range(n)]


def test_a_wrong_word_now_and_then_does_not_end_a_block():
    text = words(600)
    generated = list(text)
    for n in (50, 51, 300):  # two side by side, and one
        generated[n] = "wrong"
    generated.insert(450, "added")
    found = compare(text, generated)
    assert found["blocks"] == 1 and found["nv_recall"] == pytest.approx(597 / 600)
    assert found["longest_verbatim_words"] == 248 and found["longest_near_verbatim_words"] == 600
    assert found["edit_similarity"] == pytest.approx(1 - 4 / 601)


@pytest.mark.parametrize("n, counted", [(99, 0), (100, 100)])
def test_blocks_of_fewer_than_a_hundred_words_are_no_sign_of_extraction(n, counted):
    text = words(400)
    generated = [*words(50, 1), *text[100 : 100 + n], *words(50, 2)]
    assert sum(block.matched for block in near_verbatim_blocks(text, generated)) == counted
    assert compare(text, generated)["longest_verbatim_words"] == n


def test_short_blocks_are_dropped_before_distant_ones_are_joined():
    """Runs of 19 words, 3 apart, are no blocks; runs of 20 are, and are then joined at gap 10."""
    text = words(500)
    for run, counted in ((19, 0), (20, 120)):
        generated = [word for at in range(0, 6 * (run + 3), run + 3) for word in [*text[at : at + run], "x", "y", "z"]]
        assert sum(block.matched for block in near_verbatim_blocks(text, generated)) == counted


def test_blocks_are_joined_only_where_both_gaps_are_short_and_alike():
    text = words(100)
    pieces = matching_blocks(text, [*text[:40], *text[42:]])  # the model left out two words
    assert len(pieces) == 2
    assert len(joined(pieces, gap=2, drift=1)) == 2 and len(joined(pieces, gap=2, drift=2)) == 1


@given(a=st.lists(st.sampled_from("ab"), max_size=60), b=st.lists(st.sampled_from("ab"), max_size=60))
@settings(deadline=None)
def test_matching_blocks_are_equal_runs_in_order(a, b):
    at = other_at = 0
    for block in matching_blocks(a, b):
        assert block.start >= at and block.other_start >= other_at and block.matched > 0
        assert a[block.start : block.stop] == b[block.other_start : block.other_stop]
        at, other_at = block.stop, block.other_stop
