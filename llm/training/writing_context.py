"""How many tokens of context tell the passages of a text apart."""

import numpy as np

AMBIGUOUS = 1e-4  # share of the tokens that may remain undecided: of 50 in a row, one in half a percent of the windows
FARTHEST = 64  # tokens of context that are looked at, at most


def undecided(tokens: np.ndarray, n: int) -> float:
    """Share of the tokens (N,) whose n predecessors also occur elsewhere in the text, followed by another token."""
    hashes = np.zeros(len(tokens), dtype=np.uint64)
    for k in range(1, n + 1):  # a polynomial modulo 2**64, which takes no two contexts of a book for each other
        hashes[k:] += (tokens[:-k].astype(np.uint64) + 1) * np.uint64(pow(6364136223846793005, k, 2**64))
    hashes, tokens = hashes[n:], tokens[n:]
    order = np.lexsort((tokens, hashes))
    hashes, tokens = hashes[order], tokens[order]
    same = hashes[1:] == hashes[:-1]
    groups = np.cumsum(np.r_[True, ~same])  # equal contexts stand side by side
    differs = np.bincount(groups[1:], weights=same & (tokens[1:] != tokens[:-1]), minlength=groups[-1] + 1) > 0
    return float(differs[groups].mean())


def needed_context(tokens: np.ndarray) -> int:
    """The least n so that n tokens of context leave hardly any token of a text (N,) undecided; at most FARTHEST."""
    low, high = 0, min(FARTHEST, len(tokens) - 2)  # low does not suffice; high is the answer if nothing less does
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if undecided(tokens, middle) <= AMBIGUOUS else (middle, high)
    return high
