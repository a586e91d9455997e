"""The order of training."""

import numpy as np
import torch

from llm.configurator import UserError
from llm.runtime import seed_for
from llm.text.dataset import Split


def permuted(indices: np.ndarray, n: int, key: int) -> np.ndarray:
    """Where a pseudorandom permutation of 0..n-1 takes the indices; needs no memory of size n.

    A balanced Feistel network over the next power of four, walked until the value is below n (Black and Rogaway 2002,
    "Ciphers with arbitrary finite domains", the cycle-walking cipher).
    """
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    round_keys = np.random.SeedSequence(key).generate_state(8, np.uint64)
    values = np.asarray(indices, dtype=np.uint64).copy()
    outside = np.ones(len(values), dtype=bool)
    while outside.any():
        left, right = values[outside] >> half, values[outside] & mask
        for round_key in round_keys:
            mixed = (right ^ round_key) * np.uint64(0x9E3779B97F4A7C15)  # odd, so a bijection modulo 2**64
            mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ ((mixed >> np.uint64(40)) & mask)
        values[outside] = (left << half) | right
        outside = values >= np.uint64(n)
    return values.astype(np.int64)


def epoch_grid(n_tokens: int, T: int, seed: int, epoch: int) -> tuple[int, int]:
    """(offset, number of windows) of one epoch: a window at 0 if offset > 0, then one every T tokens from the offset
    on, then one that ends with the last token unless the grid already does."""
    last = n_tokens - T - 1  # where the last possible window begins
    offset = seed_for(seed, epoch, 0) % min(T, last + 1)
    on_grid = (last - offset) // T + 1
    return offset, int(offset > 0) + on_grid + int((last - offset) % T > 0)


def window_start(index: np.ndarray, offset: int, n_tokens: int, T: int) -> np.ndarray:
    """Where windows number `index` of an epoch's grid begin."""
    return np.clip(offset + (index - int(offset > 0)) * T, 0, n_tokens - T - 1)


def cut(windows: torch.Tensor, length: int) -> torch.Tensor:
    """Windows (B, T) cut into shorter ones: (B * (T // length), length). A rest is left out; length <= T."""
    return windows[:, : windows.size(1) // length * length].reshape(-1, length)


class Batches:
    """Endless training batches. All randomness is a function of seed, epoch and step: `place` and `again` resume it.

    Each call of next() moves every rank past batch_size windows of block_size tokens per rank; rank r takes the r-th of
    them, so that two ranks see in one call what one rank sees in two. Up to `replay` of these windows are not the next
    ones of the epoch, but show again what was wrong when it was last seen, the oldest first: see `show_again`.
    """

    def __init__(
        self,
        split: Split,
        block_size: int,
        batch_size: int,
        *,
        seed: int,
        place: tuple[int, int] | None = None,
        again: list[int] | None = None,
        replay: float = 0.0,
        rank: int = 0,
        world_size: int = 1,
    ):
        if len(split) <= block_size:
            raise UserError(
                f"the training text has {len(split):,} tokens, block_size={block_size} needs at least "
                f"{block_size + 1:,}; type --block_size={max(1, len(split) - 1)} or less, or use a longer text"
            )
        self.split, self.T, self.B, self.seed = split, block_size, batch_size, seed
        self.rank, self.world_size, self.opening = rank, world_size, block_size // 5
        self.place = tuple(place or (0, 0))  # (epoch, window) where the next batch begins
        self.again, self.replay = list(again or []), replay  # where windows begin that are shown again

    @property
    def epochs(self) -> float:
        """Epochs gone through."""
        epoch, window = self.place
        return epoch + window / epoch_grid(len(self.split), self.T, self.seed, epoch)[1]

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(x, y), each (B, T) int64: inputs and the tokens that follow them."""
        batches = [self._starts_of_one() for _ in range(self.world_size)]
        self._starts = batches[self.rank]
        tokens = self.split.windows(self._starts, self.T + 1)
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def _starts_of_one(self) -> np.ndarray:
        """Where the next rank's B windows begin."""
        share = int(self.replay * self.B)
        again, self.again = self.again[:share], self.again[share:]
        starts, needed, (epoch, window) = [], self.B - len(again), self.place
        while needed > 0:  # a batch may begin in one epoch and end in another
            offset, n_windows = epoch_grid(len(self.split), self.T, self.seed, epoch)
            taken = np.arange(window, min(window + needed, n_windows))
            order = permuted(taken, n_windows, seed_for(self.seed, epoch, 1))
            starts.append(window_start(order, offset, len(self.split), self.T))
            needed -= len(taken)
            epoch, window = (epoch, window + len(taken)) if window + len(taken) < n_windows else (epoch + 1, 0)
        self.place = (epoch, window)
        return np.concatenate([*starts, np.array(again, dtype=np.int64)])

    def first_wrong(self, right: torch.Tensor) -> list[int]:
        """Where in the text the first wrong token of each window stands: right (B, T) is about the targets of the batch
        that was handed out last. The first fifth of a window, where little could be known, is left out."""
        wrong = ~right
        wrong[:, : self.opening] = False
        rows = wrong.any(1).nonzero()[:, 0]
        return (torch.from_numpy(self._starts)[rows.cpu()] + 1 + wrong[rows].int().argmax(1).cpu()).tolist()

    def show_again(self, tokens: list[int], step: int) -> None:
        """Notes windows around these tokens of the text, at a place that depends on the step, to be shown again.

        All ranks must say the same. A token that a window noted already will show is not noted twice, and never more
        than an epoch's windows are noted: then the epoch itself shows them as soon.
        """
        for token in sorted(set(tokens)):
            if len(self.again) >= len(self.split) // self.T:
                break
            if not any(start + self.opening < token <= start + self.T for start in self.again):
                place = self.opening + seed_for(self.seed, step, token) % (self.T - self.opening)
                self.again.append(max(0, min(token - 1 - place, len(self.split) - self.T - 1)))
