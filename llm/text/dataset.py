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
from pathlib import Path

import numpy as np
import torch

from llm import configurator
from llm.configurator import PACKAGE, UserError
from llm.files import write_atomic
from llm.network.corpus_softmax import Corpus
from llm.runtime import notice
from llm.text.tokenizer import GPT2_DESCRIPTION, Tokenizer, from_description

FORMAT = 1
DATA = PACKAGE / "data"
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
        write_atomic(folder / f"{name}.bin", data)
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
    write_atomic(folder / "meta.json", (json.dumps(meta, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))

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
