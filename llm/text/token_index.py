"""An index of a large text's tokens on disk: where does this run of tokens occur?

The positions of the text in the order of the ORDER tokens that follow each of them: the beginning of a suffix array
(Manber and Myers 1990), cut off after ORDER tokens. A run of at most ORDER tokens is found by bisection, and its
occurrences stand beside each other. 4 bytes a token (8 above 4 billion tokens).

It is built with flat memory: positions are distributed to buckets by the first tokens that follow them, and each bucket
is sorted by itself. index.bin is then memory-mapped: a look-up reads a few dozen numbers of it, and of the text.
"""

import bisect
import contextlib
import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from llm.configurator import UserError
from llm.files import atomic_file, read_regular, write_atomic
from llm.text.dataset import Split

FORMAT = 1
INDEX, DESCRIPTION, BUCKETS = "index.bin", "index.json", ".buckets"
ORDER = 8  # tokens that the positions are sorted by
CHUNK = 2**20  # tokens of the text that are read at once
BUCKET_TOKENS = 2**22  # positions in a bucket, about
MAX_BUCKETS = 256  # files that are open at once
SAMPLE_PER_BUCKET = 4096  # positions from which the borders of the buckets are found
MAX_OCCURRENCES = 4096  # of a run that are compared further
STEP = 16  # tokens that are compared at once


def text_identity(split: Split) -> str:
    """What tells whether an index belongs to this text."""
    return hashlib.sha256(f"{len(split)} {split.sha256}".encode()).hexdigest()


def position_dtype(n_tokens: int) -> np.dtype:
    return np.dtype("<u4" if n_tokens < 2**32 else "<u8")


def has_index(folder: Path, split: Split) -> bool:
    """Whether a dataset's folder holds the index of this text."""
    try:
        found = json.loads(read_regular(folder / DESCRIPTION))
        size = (folder / INDEX).stat().st_size
    except (OSError, ValueError):
        return False
    expected = {"format": FORMAT, "order": ORDER, "text": text_identity(split)}
    n_positions = max(0, len(split) - ORDER + 1)
    return found == expected and size == n_positions * position_dtype(len(split)).itemsize


# ---------------------------------------------------------------------------------------------------------------------
# building


def keys_of(tokens: np.ndarray) -> np.ndarray:
    """(n - 3,) uint64: for each position the 4 tokens from there on, the first one in the highest bits."""
    parts = tokens.astype(np.uint64)
    n = len(parts) - 3
    shifts = np.array([48, 32, 16, 0], dtype=np.uint64)
    return sum((parts[k : k + n] << shifts[k] for k in range(1, 4)), start=parts[:n] << shifts[0])


def chunks(split: Split) -> Iterator[tuple[int, np.ndarray]]:
    """(first position, keys of the positions from there on that have ORDER tokens) of the text in pieces."""
    n_positions = len(split) - ORDER + 1
    for first in range(0, n_positions, CHUNK):
        stop = min(first + CHUNK, n_positions)
        yield first, keys_of(split.tokens(first, stop + 3))


def bucket_borders(split: Split, n_buckets: int) -> np.ndarray:
    """(n_buckets - 1,) the smallest key of each bucket but the first, so that all have about as many positions."""
    n_sampled = min(len(split) - ORDER, n_buckets * SAMPLE_PER_BUCKET)
    starts = np.random.default_rng(0).integers(len(split) - ORDER, size=n_sampled)
    sample = np.sort(np.concatenate([keys_of(split.tokens(s, s + 4)) for s in np.sort(starts).tolist()]))
    return sample[np.arange(1, n_buckets) * len(sample) // n_buckets]


def gathered(split: Split, positions: np.ndarray) -> np.ndarray:
    """(n, ORDER) uint16: the tokens from each position on; positions: ascending."""
    found = np.empty((len(positions), ORDER), dtype=np.uint16)
    columns = np.arange(ORDER)
    first = 0
    while first < len(positions):  # as many as lie within one chunk of the text
        begin = int(positions[first])
        last = int(np.searchsorted(positions, begin + CHUNK))
        tokens = split.tokens(begin, min(begin + CHUNK + ORDER, len(split))).astype(np.uint16)
        found[first:last] = tokens[(positions[first:last] - begin)[:, None] + columns]
        first = last
    return found


def sorted_bucket(split: Split, positions: np.ndarray) -> np.ndarray:
    """The positions in the order of the tokens that follow, those with the same ones ascending."""
    tokens = gathered(split, positions.astype(np.int64))
    big_endian = tokens.astype(">u2").view(">u8").astype(np.uint64)  # (n, 2): numbers in the order of the tokens
    return positions[np.lexsort((big_endian[:, 1], big_endian[:, 0]))]


def build_index(folder: Path, split: Split, report: Callable[[str], None]) -> None:
    """Make the index of a text in its dataset's folder; report: called with a line about what is done now and then.

    UserError if the disk is too small.
    """
    dtype, n_positions = position_dtype(len(split)), max(0, len(split) - ORDER + 1)
    n_bytes, began = n_positions * dtype.itemsize, time.monotonic()
    free, temporary = shutil.disk_usage(folder).free, folder / BUCKETS
    shutil.rmtree(temporary, ignore_errors=True)  # of a build that was killed
    if free < 2 * n_bytes:
        raise UserError(f"the index takes {2 * n_bytes / 1e9:.1f} GB while it is made; {free / 1e9:.1f} GB are free")
    n_buckets = min(MAX_BUCKETS, math.ceil(n_positions / BUCKET_TOKENS))
    try:
        temporary.mkdir()
        report(f"making the index of {len(split):,} tokens: {n_bytes / 1e9:.2f} GB")
        files = distribute(split, temporary, n_buckets, dtype)
        report(f"{len(files):,} buckets are filled after {time.monotonic() - began:.0f} s; sorting each")
        with atomic_file(folder / INDEX) as f:
            for path in files:
                f.write(sorted_bucket(split, np.fromfile(path, dtype)).tobytes())
                path.unlink()
    except OSError as e:
        raise UserError(f"cannot write the index to {folder}: {e.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    content = {"format": FORMAT, "order": ORDER, "text": text_identity(split)}
    write_atomic(folder / DESCRIPTION, (json.dumps(content) + "\n").encode())
    report(f"made the index in {time.monotonic() - began:.0f} s")


def distribute(split: Split, folder: Path, n_buckets: int, dtype: np.dtype) -> list[Path]:
    """The files of the buckets, each with its positions, ascending."""
    if not n_buckets:  # a text of less than ORDER tokens
        return []
    borders = bucket_borders(split, n_buckets)
    paths = [folder / f"{n}.bin" for n in range(n_buckets)]
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(path, "wb")) for path in paths]
        for first, keys in chunks(split):
            numbers = np.searchsorted(borders, keys, side="right").astype(np.uint16)
            order = np.argsort(numbers, kind="stable")
            ends = np.cumsum(np.bincount(numbers, minlength=n_buckets))
            positions = (order + first).astype(dtype)
            for file, piece in zip(files, np.split(positions, ends[:-1]), strict=True):
                file.write(piece.tobytes())
    return paths


# ---------------------------------------------------------------------------------------------------------------------
# looking up


class TokenIndex:
    """A large text in which runs of tokens are looked up; len() and [] are those of its tokens."""

    def __init__(self, folder: Path, split: Split):
        """The folder must have the index of this text: see has_index."""
        self.split = split
        self.positions = np.zeros(0, np.int64)
        if len(split) >= ORDER:
            mapped = np.memmap(folder / INDEX, position_dtype(len(split)), mode="r")
            self.positions = mapped.view(np.ndarray)  # whose items are read in a fifth of the time

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int | slice) -> int | np.ndarray:
        """A token, or those of a slice without a step."""
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            return self.split.tokens(start, stop)
        return int(self.split.tokens(index, index + 1)[0])

    def occurrences(self, ids: list[int]) -> range:
        """Where in `positions` the occurrences of a run of at most ORDER tokens stand; those at the very end count not.

        Empty for a run that does not occur.
        """
        wanted, n = tuple(ids), len(ids)

        def run_at(rank: int) -> tuple[int, ...]:
            position = int(self.positions[rank])
            return tuple(self.split.tokens(position, position + n).tolist())

        begin = bisect.bisect_left(range(len(self.positions)), wanted, key=run_at)
        end = bisect.bisect_right(range(len(self.positions)), wanted, begin, key=run_at)
        return range(begin, end)

    def position_after(self, ids: list[int], *, min_match: int, max_match: int) -> int | None:
        """The position after an occurrence of the longest run of last tokens of `ids`; None if below min_match.

        Runs longer than max_match count as max_match. Of very many occurrences, the first ones alone are compared.
        """
        for length in range(min(ORDER, len(ids)), min_match - 1, -1):
            if found := self.occurrences(ids[-length:]):
                positions = np.sort(self.positions[found.start : found.stop][:MAX_OCCURRENCES]).astype(np.int64)
                limit = (
                    min(len(ids), max_match) - length if length == ORDER else 0
                )  # else a longer run has no occurrence
                return self._longest_before(ids[: len(ids) - length], positions, limit) + length
        return None

    def _longest_before(self, ids: list[int], positions: np.ndarray, limit: int) -> int:
        """The first of the positions, ascending, with the longest run of last `ids` before it, of at most `limit`."""
        wanted = ids[len(ids) - limit :][::-1]
        best, best_shared = int(positions[0]), 0
        for position in positions.tolist() if limit else ():
            before = self.split.tokens(max(0, position - limit), position)[::-1].tolist()
            shared = n_shared(before, wanted)
            if shared > best_shared:
                best, best_shared = position, shared
            if best_shared == limit:
                break
        return best

    def longest_match(self, ids: list[int]) -> tuple[int, int]:
        """(length, position) of the longest run of first tokens of `ids` that occurs; (0, 0) if below ORDER tokens."""
        found = self.occurrences(ids[:ORDER]) if len(ids) >= ORDER else range(0)
        best, at = 0, 0
        for position in self.positions[found.start : found.stop][:MAX_OCCURRENCES]:
            length = ORDER
            while length < len(ids):
                first = int(position) + length
                step = n_shared(self.split.tokens(first, first + STEP).tolist(), ids[length : length + STEP])
                length += step
                if step < STEP:
                    break
            if length > best:
                best, at = length, int(position)
        return best, at


def n_shared(a: list[int], b: list[int]) -> int:
    """How many first items two lists have in common."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
