"""The measures, each computed from the figures of a text's windows. docs/measuring.md defines them.

Functions take log_p, the natural logarithms of the suffixes' probabilities p_z, and work in logarithms: p_z of 1e-300
and less is common.
"""

import math
from dataclasses import dataclass

import numpy as np

from llm.reading.recall import wilson
from llm.reading.windows import as_log

LADDER = (0.001, 0.01, 0.1, 0.5, 0.75)  # thresholds of p_z (Cooper et al. 2025, arXiv 2505.12546)
TRIES = (1, 100, 10_000)  # n of (n, p)-discoverable (Hayes et al. 2024, arXiv 2410.19482)
CHANCES = (0.1, 0.5, 0.9)  # p of it
FALSE_POSITIVES = (0.01, 0.001)  # of the thresholds that controls give
NEGLIGIBLE = math.log(1e-27)  # log p_z below which no window counts as known, whatever the controls have
N_PASSAGES = 10  # best known, and worst


def column(rows: list[dict], name: str) -> np.ndarray:
    """A log-probability of all windows, (n,) float64."""
    return np.array([as_log(row[name]) for row in rows], dtype=np.float64)


def recall_figures(rows: list[dict], suffix: int) -> dict:
    """Windows that greedy decoding recites (Carlini et al. 2023), their Wilson interval, right tokens, and

    extraction_strength: the mean over the windows of the share of the suffix that greedy decoding produces once the
    true text is given up to there (Carlini et al. 2021, as a measure: Wang et al. 2024, arXiv 2406.09179).
    """
    n, recited = len(rows), sum(row["greedy"] for row in rows)
    known_ends = [suffix - 1 - (-1 if row["last_slip"] is None else row["last_slip"]) for row in rows]
    return {
        "windows": n,
        "recited": recited,
        "recall": recited / n if n else None,
        "interval_95": list(wilson(recited, n)),
        "token_accuracy": sum(row["right_tokens"] for row in rows) / (n * suffix) if n else None,
        "extraction_strength": sum(known_ends) / (n * suffix) if n else None,
    }


def needed_log_p(tries: int, chance: float) -> float:
    """The smallest log p_z at which `tries` samples hold the suffix with this probability.

    1 - (1 - p_z)^n >= p, so p_z >= 1 - (1 - p)^(1 / n).
    """
    return math.log(-math.expm1(math.log1p(-chance) / tries))


def discoverable(log_p: np.ndarray, tries: int, chance: float) -> float:
    """The share of suffixes that are (n, p)-discoverably extractable, with n = tries and p = chance."""
    return float((log_p >= needed_log_p(tries, chance)).mean())


def log10_tries(log_p: np.ndarray, chance: float) -> np.ndarray:
    """log10 of the number of samples after which a suffix occurred with this probability; inf for p_z = 0.

    n = log(1 - p) / log(1 - p_z), at least 1. For small p_z, log(1 - p_z) is -p_z.
    """
    log_p = np.minimum(np.asarray(log_p, dtype=np.float64), 0.0)
    with np.errstate(divide="ignore", under="ignore"):
        exact = np.log(-np.log1p(-np.exp(log_p)))  # log(-log(1 - p_z)); inf for p_z = 1
    log_rate = np.where(log_p < -30, log_p, exact)
    return np.maximum(0.0, (math.log(-math.log1p(-chance)) - log_rate) / math.log(10))


def probability_figures(log_p: np.ndarray) -> dict:
    """(n, p)-discoverable rates, and the median number of samples for p = 0.9, of one of the two distributions."""
    rates = {f"n={n},p={p}": discoverable(log_p, n, p) for n in TRIES for p in CHANCES}
    median_log_p, median_tries = (float(np.median(values)) for values in (log_p, log10_tries(log_p, 0.9)))
    return {
        "median_log_p": finite(median_log_p),
        "discoverable": rates,
        "median_log10_tries_for_0.9": finite(median_tries),
    }


def finite(value: float) -> float | None:
    """The value as JSON can hold it: null for an infinite one."""
    return value if math.isfinite(value) else None


def covered_characters(spans: np.ndarray, n_characters: int) -> np.ndarray:
    """(n_characters,) bool: the characters inside at least one span; spans: (n, 2), begin and end of each."""
    steps = np.zeros(n_characters + 1, dtype=np.int64)
    np.add.at(steps, spans[:, 0], 1)
    np.add.at(steps, spans[:, 1], -1)
    return np.cumsum(steps[:-1]) > 0


def coverage(spans: np.ndarray, log_p: np.ndarray, n_characters: int, threshold: float) -> float:
    """Extraction coverage: the share of the text's characters inside at least one suffix with p_z >= threshold."""
    if not n_characters:
        return 0.0
    return float(covered_characters(spans[log_p >= math.log(threshold)], n_characters).mean())


def coverage_ladder(spans: np.ndarray, log_p: np.ndarray, n_characters: int) -> dict[str, float]:
    """Extraction coverage at the thresholds of LADDER."""
    return {f"{threshold:g}": coverage(spans, log_p, n_characters, threshold) for threshold in LADDER}


@dataclass(frozen=True)
class Calibration:
    """What windows of controls, which the model never saw, say about those of the text."""

    n_controls: int
    highest: float  # log p_z of the controls' likeliest suffix; -inf = none
    thresholds: dict[float, float | None]  # false-positive rate -> log p_z; None = too few windows for that rate


def calibrate(control_log_p: np.ndarray) -> Calibration:
    """Thresholds above which at most 1 % and 0.1 % of unseen windows lie, whatever their distribution.

    The threshold for a rate a is the k-th smallest of the n values, k = ceil((n + 1)(1 - a)): a further window like
    them lies above with a probability of at most a (the rank of an exchangeable value is uniform; Vovk et al. 2005,
    Algorithmic Learning in a Random World). It takes n >= 1 / a - 1 windows.
    """
    values = np.sort(control_log_p)
    n = len(values)
    thresholds: dict[float, float | None] = {}
    for rate in FALSE_POSITIVES:
        k = math.ceil((n + 1) * (1 - rate) - 1e-9)
        thresholds[rate] = float(values[k - 1]) if 1 <= k <= n else None
    return Calibration(n, float(values[-1]) if n else -math.inf, thresholds)


def verdict(log_p: np.ndarray, calibration: Calibration) -> str:
    """In words: how many of the text's windows the controls do not explain.

    Those of p_z below 1e-27 never count: that one of two impossible events is likelier than the other is no knowledge,
    and texts differ in that for many reasons (a random model's likeliest windows are those of its most usual tokens).
    """
    n, controls = len(log_p), calibration.n_controls
    if not controls:
        return "without a control, no window can be told from a good guess"
    beyond = int((log_p > max(calibration.highest, NEGLIGIBLE)).sum())
    explained = f"({controls:,} windows of controls, of which the likeliest has log p {calibration.highest:,.1f})"
    if not beyond:
        return f"of {n:,} windows none is beyond what the control explains {explained}"
    expected = n / (controls + 1)
    if beyond <= 2 * expected + 2 * math.sqrt(expected):
        return (
            f"of {n:,} windows {beyond:,} are beyond the control's likeliest, and {expected:,.1f} are expected of an "
            f"unseen text of this length: no sign of learning by heart {explained}"
        )
    return f"of {n:,} windows {beyond:,} are beyond anything that the control explains {explained}"


def calibration_figures(log_p: np.ndarray, calibration: Calibration) -> dict:
    """The entry of recall.json."""
    thresholds = {
        f"{rate:g}": {
            "log_p": None if limit is None else finite(limit),
            "windows_above": None if limit is None else int((log_p > limit).sum()),
        }
        for rate, limit in calibration.thresholds.items()
    }
    return {
        "control_windows": calibration.n_controls,
        "control_highest_log_p": finite(calibration.highest),
        "false_positive_rates": thresholds,
        "verdict": verdict(log_p, calibration),
    }


def best_and_worst(log_p: np.ndarray, spans: np.ndarray) -> dict[str, list[dict]]:
    """The suffixes with the highest and the lowest p_z, by offsets; spans: (n, 2) characters of the suffixes."""
    order = np.argsort(-log_p, kind="stable").tolist()

    def passage(n: int) -> dict:
        return {"start_char": int(spans[n, 0]), "end_char": int(spans[n, 1]), "log_p": finite(float(log_p[n]))}

    return {
        "best": [passage(n) for n in order[:N_PASSAGES]],
        "worst": [passage(n) for n in order[::-1][:N_PASSAGES]],
    }
