"""The order of training: epochs of shuffled windows, resumed exactly and shared by ranks.

Epoch e cuts the text at a random offset into windows of T inputs and their T targets (the same, one token later). What
the grid leaves at both ends is covered by overlapping windows: every token but the first is a target at least once an
epoch, and no window wraps from the end to the beginning.

Replay: windows around tokens that the model got wrong are repeated in later batches.
"""

import numpy as np
import torch

from llm.configurator import UserError
from llm.runtime import seed_for
from llm.storage.progress import Progress
from llm.text.dataset import Split


def permuted(indices: np.ndarray, n: int, key: int) -> np.ndarray:
    """Where a pseudorandom permutation of 0..n-1 takes the indices.

    A permutation of a large corpus would not fit into memory; this one is computed for the indices that are needed. A
    balanced Feistel network over the next power of four, repeated until the value is below n (Black and Rogaway 2002,
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
    """(offset, number of windows) of one epoch.

    The windows start at 0 if offset > 0, then every T tokens from the offset on, then where a window ends with the last
    token unless the grid already does. For 30 tokens, T = 10 and an offset of 4: at 0, 4, 14 and 19.
    """
    last = n_tokens - T - 1  # start of the last possible window
    offset = seed_for(seed, epoch, 0) % min(T, last + 1)
    on_grid = (last - offset) // T + 1
    return offset, int(offset > 0) + on_grid + int((last - offset) % T > 0)


def window_start(index: np.ndarray, offset: int, n_tokens: int, T: int) -> np.ndarray:
    """The first token of windows number `index` of an epoch's grid."""
    return np.clip(offset + (index - int(offset > 0)) * T, 0, n_tokens - T - 1)


def split_windows(windows: torch.Tensor, length: int) -> torch.Tensor:
    """Windows (B, T) split into shorter ones, (B * (T // length), length); a remainder is dropped. length <= T."""
    return windows[:, : windows.size(1) // length * length].reshape(-1, length)


class Batches:
    """Endless training batches. Seed and epoch determine them, so `progress` is all that resuming needs.

    Each call of next() moves every rank past batch_size windows of block_size tokens per rank. Rank r takes the r-th of
    them, so that two ranks see in one call what one rank sees in two. At most the fraction `replay` of these windows
    are replayed instead of the epoch's next ones, the oldest first (see `schedule_replay`).
    """

    def __init__(
        self,
        split: Split,
        block_size: int,
        batch_size: int,
        *,
        seed: int,
        progress: Progress | None = None,
        replay: float = 0.0,
        rank: int = 0,
        world_size: int = 1,
    ):
        """progress: the run's, whose position and replay_starts are used and changed; None = a new run's."""
        if len(split) <= block_size:
            raise UserError(
                f"the training text has {len(split):,} tokens, block_size={block_size} needs at least "
                f"{block_size + 1:,}; type --block_size={max(1, len(split) - 1)} or less, or use a longer text"
            )
        self.split, self.T, self.B, self.seed = split, block_size, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.min_context = block_size // 5  # tokens before an error counts: with fewer, the text may be ambiguous
        self.progress, self.replay = progress or Progress(), replay
        self.starts = np.zeros(0, dtype=np.int64)  # first tokens of this rank's latest batch
        self.n_new = 0  # how many of them are not replayed; these come first

    @property
    def epochs(self) -> float:
        """Epochs done so far."""
        epoch, window = self.progress.position
        return epoch + window / epoch_grid(len(self.split), self.T, self.seed, epoch)[1]

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(x, y), each (B, T) int64: inputs and the tokens that follow them."""
        starts_of_ranks = [self._next_starts() for _ in range(self.world_size)]
        self.starts, self.n_new = starts_of_ranks[self.rank]
        tokens = self.split.windows(self.starts, self.T + 1)
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def _next_starts(self) -> tuple[np.ndarray, int]:
        """(first tokens of the next rank's B windows, how many of them are not replayed)."""
        n_replayed = int(self.replay * self.B)
        waiting = self.progress.replay_starts
        replayed, self.progress.replay_starts = waiting[:n_replayed], waiting[n_replayed:]
        n_new = needed = self.B - len(replayed)
        starts, (epoch, window) = [], self.progress.position
        while needed > 0:  # a batch may begin in one epoch and end in another
            offset, n_windows = epoch_grid(len(self.split), self.T, self.seed, epoch)
            indices = np.arange(window, min(window + needed, n_windows))
            shuffled = permuted(indices, n_windows, seed_for(self.seed, epoch, 1))
            starts.append(window_start(shuffled, offset, len(self.split), self.T))
            needed -= len(indices)
            window += len(indices)
            epoch, window = (epoch, window) if window < n_windows else (epoch + 1, 0)
        self.progress.position = [epoch, window]
        return np.concatenate([*starts, np.array(replayed, dtype=np.int64)]), n_new

    def first_errors(self, correct: torch.Tensor) -> torch.Tensor:
        """(B,) int64: the first wrong token of each window of the latest batch, as an index into the text; -1 = none.

        correct: (B, T) bool, about the targets. The first fifth of a window is ignored: it has too little context. The
        result stays on the device, so that nothing waits for it.
        """
        errors = ~correct
        errors[:, : self.min_context] = False
        starts = torch.from_numpy(self.starts).to(correct.device, non_blocking=True)
        return torch.where(errors.any(1), starts + 1 + errors.int().argmax(1), -1)

    def schedule_replay(self, tokens: list[int], step: int) -> None:
        """Schedule windows around these tokens of the text for replay.

        Where in its window a token stands depends on the step, so that it is learned with contexts of many lengths.

        All ranks must pass the same tokens. A token that a scheduled window already contains is skipped, and at most
        one epoch's windows are scheduled: beyond that, the epoch itself shows them as soon.
        """
        scheduled = self.progress.replay_starts
        for token in sorted(set(tokens)):
            if len(scheduled) >= len(self.split) // self.T:
                break
            if not any(start + self.min_context < token <= start + self.T for start in scheduled):
                before = self.min_context + seed_for(self.seed, step, token) % (self.T - self.min_context)
                scheduled.append(max(0, min(token - 1 - before, len(self.split) - self.T - 1)))

    def count_known(self, correct: torch.Tensor, prefix: int, suffix: int) -> tuple[torch.Tensor | int, int]:
        """(stretches of `suffix` tokens predicted without error, all stretches) in the latest batch's new windows.

        correct: (B, T) bool, about the targets. Each stretch has at least `prefix` tokens of context: an estimate of
        recall at no cost, of the model before this update. Replayed windows are left out: they are the hard ones.
        """
        n = (self.T - prefix + 1) // suffix
        if n < 1:
            return 0, 0
        stretches = correct[: self.n_new, prefix - 1 : prefix - 1 + n * suffix].reshape(-1, suffix)
        return stretches.all(1).sum(), len(stretches)  # on the device: nothing waits for it
