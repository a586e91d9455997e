"""The bytes of a dataset: write shards (every prepare.py), read windows of them (train.py, recall.py).

A dataset is a folder data/NAME/ with train.bin, perhaps val.bin, flat little-endian uint16 token ids exactly as
nanoGPT's, and meta.json, which says what they are. A large corpus may come as train_00000.bin, train_00001.bin, ...,
read as one sequence. Reading takes no more memory for a large corpus than for a small one.

Training goes through epochs of shuffled windows. Epoch e cuts the text at a random offset into windows of T inputs and
their T targets (the same, one token later), and covers what that grid leaves at both ends by overlapping windows:
every token but the first is a target at least once an epoch, and no window wraps from the end to the beginning.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from llm import configurator
from llm.configurator import UserError
from llm.corpus import Corpus
from llm.files import write_whole
from llm.runtime import Runtime, notice, seed_for
from llm.tokenizer import GPT2_DESCRIPTION, Tokenizer, from_description

FORMAT = 1
DATA = Path(__file__).parent / "data"
DTYPE = np.dtype("<u2")  # uint16: ids up to 65,535
IN_MEMORY = 64 * 2**20  # bytes: a split up to this size is read once and kept
VERIFIED = 2**30  # bytes: a shard up to this size is hashed before it is used


def data_folder(name: str) -> Path:
    """llm/data/NAME, wherever the current folder is."""
    return DATA / name


# ---------------------------------------------------------------------------------------------------------------------
# writing


def write_dataset(
    folder: Path,
    text: str,
    tokenizer: Tokenizer,
    *,
    val_fraction: float,
    source: dict,
    train_command: tuple[str, ...],
    read: list[str] | None = None,
) -> None:
    """Writes train.bin, val.bin (the last val_fraction of the characters; 0 = none), meta.json, and prints a summary.

    read: what to say first, of how the text was read.

    The text is one document and ends with the tokenizer's end-of-text id, where it has one. meta.json is written last:
    until then, a reader finds that the files do not belong together. UserError if a part holds no text to learn.
    """
    cut = int(len(text) * (1 - val_fraction)) if val_fraction else len(text)
    parts = {"train": text[:cut], "val": text[cut:]} if val_fraction else {"train": text}
    ids = {name: tokenizer.encode(part) for name, part in parts.items()}
    for name, part in ids.items():
        if len(part) < 2:
            raise UserError(
                f"the {name} part holds {len(part)} token(s) of the text's {len(text):,} characters: expected at least "
                "2; use a longer text, or --val_fraction=0"
            )
    if tokenizer.end_of_text is not None:
        ids[list(ids)[-1]].append(tokenizer.end_of_text)

    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.bin"):  # of an earlier preparation, such as a val.bin that is not wanted any more
        stale.unlink()
    shards = []
    for name, part in ids.items():
        data = np.array(part, dtype=DTYPE).tobytes()
        write_whole(folder / f"{name}.bin", data)
        shards.append(
            {
                "file": f"{name}.bin",
                "tokens": len(part),
                "characters": len(parts[name]),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        )
    meta = {
        "format": FORMAT,
        "tokenizer": tokenizer.description,
        "shards": shards,
        "ids": sorted(set().union(*ids.values())),
        "source": source,
    }
    meta["sha256"] = digest(meta)
    write_whole(folder / "meta.json", (json.dumps(meta, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))

    print("; ".join(read or []) + "\n" * bool(read) + f"{len(text):,} characters")
    for name, part in ids.items():
        print(f"{name}: {len(part):,} tokens, {len(set(part)):,} of them distinct")
    print(f"wrote {', '.join(shard['file'] for shard in shards)} and meta.json to {configurator.from_here(folder)}")
    if len(ids["train"]) <= 256:  # the book configs' block_size
        fits = len(ids["train"]) - 1
        print(f"this text is shorter than the usual context of 256 tokens, so train with one of {fits}")
        train_command = (*train_command, f"--block_size={fits}")
    print(f"next: {configurator.command('train.py', *train_command)}")


# ---------------------------------------------------------------------------------------------------------------------
# reading


class Split:
    """The tokens of one part ("train" or "val") of a dataset, as one sequence; len() is their number."""

    def __init__(self, folder: Path, shards: list[dict], vocab_size: int, ids: np.ndarray | None = None, lookup=None):
        """shards: entries of meta.json. ids: the tokens themselves, where they are in no file.

        lookup: (vocab_size,) int64, what to give in place of each id (corpus.Corpus.lookup); None = the id itself.
        """
        self.vocab_size, self.lookup = vocab_size, lookup
        self.paths = [folder / shard["file"] for shard in shards]
        self.ends = np.cumsum([shard["tokens"] for shard in shards])
        self.characters = sum(shard.get("characters", 0) for shard in shards)  # 0 = unknown
        self.sha256 = "+".join(shard["sha256"] for shard in shards) if "sha256" in shards[0] else None
        self._all = ids
        if ids is None and len(self) * DTYPE.itemsize <= IN_MEMORY:
            self._all = self.tokens(0, len(self))

    @classmethod
    def in_memory(cls, ids: list[int], vocab_size: int) -> "Split":
        """A split of ids that are in no file."""
        return cls(Path(), [{"file": "", "tokens": len(ids)}], vocab_size, np.array(ids, dtype=np.int64))

    def __len__(self) -> int:
        return int(self.ends[-1])

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Ids start..stop-1 as int64, read across shards. UserError for an id that the vocabulary lacks."""
        if self._all is not None:
            return self._all[start:stop]
        pieces = []
        for path, end, tokens in zip(self.paths, self.ends, np.diff(self.ends, prepend=0), strict=True):
            first = max(start, end - tokens)
            if first < min(stop, end):  # opened anew each time: a memory map that stays open grows with what was read
                at = int(first - (end - tokens))
                pieces.append(np.fromfile(path, DTYPE, count=int(min(stop, end) - first), offset=at * DTYPE.itemsize))
        ids = np.concatenate(pieces).astype(np.int64)
        if ids.max(initial=0) >= self.vocab_size:
            raise UserError(
                f"{self.paths[0].parent}: id {ids.max()} near token {start:,} is beyond the vocabulary of "
                f"{self.vocab_size}; prepare the dataset anew"
            )
        return ids if self.lookup is None else self.lookup[ids]

    def windows(self, starts: np.ndarray, length: int) -> torch.Tensor:
        """(len(starts), length) int64: the tokens from each start on."""
        return torch.from_numpy(np.stack([self.tokens(int(s), int(s) + length) for s in starts]))


class Dataset:
    """A prepared dataset: train, val (None where nothing was held out), tokenizer description and corpus ids."""

    def __init__(self, name: str, *, corpus_rows: bool = False, verify: bool = False):
        """corpus_rows: tokens are rows of the compact table (corpus.py), not ids, if meta.json says which occur.

        verify: hash shards of any size.
        """
        self.name, self.folder = name, data_folder(name)
        meta = read_meta(self.folder)
        self.tokenizer_description: dict = meta["tokenizer"]
        self.ids: list[int] | None = meta["ids"]  # those that occur in train or val; None = unknown
        self.encoder = from_description(self.tokenizer_description, self.folder / "meta.json")
        # GPT-2's 50,257 are rounded up to a multiple of 64: nanoGPT's table
        self.vocab_size = 50304 if self.encoder.end_of_text else self.encoder.vocab_size
        if self.ids and self.ids[-1] >= self.encoder.vocab_size:
            raise UserError(f"{self.folder}/meta.json is damaged; prepare the dataset anew: {prepare_hint(name)}")
        splits = {"train": [], "val": []}
        for shard in meta["shards"]:
            check_shard(self.folder / shard["file"], shard, verify=verify)
            splits["val" if shard["file"].startswith("val") else "train"].append(shard)
        self.corpus = Corpus(tuple(self.ids), self.vocab_size) if corpus_rows and self.ids else None
        options = dict(vocab_size=self.vocab_size, lookup=self.corpus.lookup() if self.corpus else None)
        self.train = Split(self.folder, splits["train"], **options)
        self.val = Split(self.folder, splits["val"], **options) if splits["val"] else None


def prepare_hint(name: str) -> str:
    """What to type to get dataset `name`."""
    if (data_folder(name) / "prepare.py").exists():
        return configurator.command(f"data/{name}/prepare.py")
    return configurator.command("data/book/prepare.py", "--input=YOUR_TEXT.txt", f"--dataset={name}")


def read_meta(folder: Path) -> dict:
    """The folder's meta.json; for nanoGPT's GPT-2-encoded datasets, which have none, what it would say."""
    name, path = folder.name, folder / "meta.json"
    if not path.exists():
        files = sorted(folder.glob("train*.bin")) + sorted(folder.glob("val*.bin"))
        if not files or not files[0].name.startswith("train"):
            prepared = sorted(p.parent.name for p in DATA.glob("*/meta.json"))
            have = f"prepared: {', '.join(prepared)}" if prepared else "none is prepared yet"
            raise UserError(f"dataset {name} is not prepared in {folder} ({have}); type: {prepare_hint(name)}")
        if (folder / "meta.pkl").exists():
            raise UserError(
                f"{folder} holds nanoGPT's meta.pkl, a pickle, which is never read here, and no meta.json; "
                f"prepare it anew: {prepare_hint(name)}"
            )
        notice(f"{folder} has no meta.json: taken for GPT-2's encoding, as nanoGPT does")
        shards = [{"file": f.name, "tokens": f.stat().st_size // DTYPE.itemsize} for f in files]
        return {"format": FORMAT, "tokenizer": GPT2_DESCRIPTION, "shards": shards, "ids": None}
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        version = meta["format"]
        assert type(version) is int and (version > FORMAT or is_meta(meta))
        assert meta.pop("sha256", None) in (None, digest(meta))  # the first datasets have none
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError):
        raise UserError(f"{path} is damaged; prepare the dataset anew: {prepare_hint(name)}") from None
    if version > FORMAT:
        raise UserError(f"{path} has format {version}, this llm reads up to {FORMAT}: update llm, or prepare it anew")
    return meta


def digest(meta: dict) -> str:
    """sha256 of what meta.json says."""
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def is_meta(meta: dict) -> bool:
    """Whether meta.json says what the reader needs, whatever made it: files of this folder, sizes, ids."""
    ids, shards = meta["ids"], meta["shards"]
    files = [shard["file"] for shard in shards]
    return (
        isinstance(meta["tokenizer"], dict)
        and all(re.fullmatch(r"(train|val)(_\d+)?\.bin", file) for file in files)
        and len(set(files)) == len(files)
        and any(file.startswith("train") for file in files)
        and all(type(n) is int and 0 < n < 2**48 for shard in shards for n in (shard["tokens"],))
        and all(type(shard.get("characters", 0)) is int and shard.get("characters", 0) >= 0 for shard in shards)
        and all(isinstance(shard.get("sha256", ""), str) for shard in shards)
        and len({"sha256" in shard for shard in shards}) == 1
        and (ids is None or (all(type(i) is int and 0 <= i < 2**16 for i in ids) and sorted(set(ids)) == ids))
    )


def check_shard(path: Path, shard: dict, *, verify: bool) -> None:
    """UserError unless the file has the size and, up to 1 GiB or to verify, the sha256 that meta.json states."""
    again = f"prepare the dataset anew: {prepare_hint(path.parent.name)}"
    try:
        size = path.stat().st_size
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}; {again}") from None
    if size != shard["tokens"] * DTYPE.itemsize:
        expected = f"{shard['tokens'] * DTYPE.itemsize:,} ({shard['tokens']:,} tokens)"
        raise UserError(f"{path} has {size:,} bytes, expected {expected}; {again}")
    if "sha256" in shard and (verify or size <= VERIFIED):
        with open(path, "rb") as f:
            if hashlib.file_digest(f, "sha256").hexdigest() != shard["sha256"]:
                raise UserError(f"{path} was changed or damaged (its sha256 is not the one in meta.json); {again}")


# ---------------------------------------------------------------------------------------------------------------------
# the order of training


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


def evaluation_batches(
    split: Split, block_size: int, batch_size: int, count: int | None, runtime: Runtime
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """This rank's share of `count` fixed batches (None = the whole split, each token a target once).

    There is no randomness in them. Targets that an earlier window had already are -1, which the loss leaves out.
    """
    T = min(block_size, len(split) - 1)
    starts = np.arange(0, len(split) - 1, T)
    if count is not None and count * batch_size < len(starts):
        starts = starts[np.linspace(0, len(starts) - 1, count * batch_size).round().astype(np.int64)]
    batches = np.split(starts, range(batch_size, len(starts), batch_size))
    for some in batches[runtime.rank :: runtime.world_size]:
        begin = np.minimum(some, len(split) - T - 1)  # the last window overlaps the one before it
        tokens = split.windows(begin, T + 1)
        y = tokens[:, 1:].clone()
        for row, overlap in enumerate(some - begin):
            y[row, : int(overlap)] = -1
        yield tokens[:, :-1].contiguous(), y
