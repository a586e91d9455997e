"""A few things of many, at equal distances."""

import numpy as np


def evenly_spaced_indices(total: int, n: int) -> np.ndarray:
    """n of the indices 0 to total - 1, from the first to the last at equal distances; all of them if they are no more.

    Takes memory for the n alone, however large the total is.
    """
    return np.arange(total) if total <= n else np.linspace(0, total - 1, n).round().astype(np.int64)


def evenly_spaced(rows: np.ndarray, n: int) -> np.ndarray:
    """n of the rows, from the first to the last at equal distances; all of them if they are no more."""
    return rows if len(rows) <= n else rows[evenly_spaced_indices(len(rows), n)]
