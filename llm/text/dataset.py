"""A dataset on disk: written by every prepare.py, read by train.py, recall.py and others.

A dataset is a folder data/NAME/ with train.bin, optionally val.bin, and meta.json, which describes them. The .bin files
are shards: flat little-endian uint16 token ids, exactly as nanoGPT's. A large corpus may have several (train_00000.bin,
train_00001.bin, ...), which are read as one sequence, with no more memory than a small one needs.
"""

import contextlib
import hashlib
import json
import re
import weakref
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from llm.configurator import IN_CLONE, UserError, command, from_here
from llm.files import open_regular, read_regular, write_atomic
from llm.runtime import notice
from llm.text.book import Book
from llm.text.documents import Document, are_documents, document_entry, documents_of
from llm.text.names import BUNDLED, has_script, is_name
from llm.text.summary import print_next_command, print_summary
from llm.text.tokenizer import GPT2_DESCRIPTION, Tokenizer, from_description

FORMAT = 1
DATA = BUNDLED if IN_CLONE else Path("data")  # of all datasets; installed by pip, it is below the current folder
DTYPE = np.dtype("<u2")  # uint16: ids up to 65,535
IN_MEMORY = 8 * 2**20  # bytes: a split up to this size is read once and kept
MAX_HASHED = 2**30  # bytes: the shards of a larger dataset are checked by their size alone


def data_folder(name: str) -> Path:
    """The folder of a dataset: llm/data/NAME in a clone, data/NAME below the current folder otherwise."""
    if not is_name(name):  # a stranger's checkpoint states one, and must not lead to other folders
        raise UserError(f"dataset={name[:80]}: expected at most 64 letters, digits, _ and -, not beginning with -")
    return DATA / name


# ---------------------------------------------------------------------------------------------------------------------
# writing


def write_dataset(
    folder: Path,
    books: list[Book] | str,
    tokenizer: Tokenizer,
    *,
    val_fraction: float,
    source: dict,
    train_command: tuple[str, ...] | None,
    notes: list[str] | None = None,
) -> None:
    """Write train.bin, val.bin (the last val_fraction of each book's characters; 0 = none) and meta.json.

    books: the documents, or a text, which is one without a title. notes: short phrases about how the text was read,
    printed before a summary of the books. train_command: arguments of train.py to suggest, if any.

    Each document ends with the tokenizer's end-of-text id, if there is one. meta.json is written last: until then its
    checksums do not fit the shards. UserError if a part has fewer than 2 tokens.
    """
    titled = not isinstance(books, str)
    books = [Book("", "", books)] if isinstance(books, str) else books
    n_train = [int(len(book.text) * (1 - val_fraction)) if val_fraction else len(book.text) for book in books]
    parts = {"train": [book.text[:n] for book, n in zip(books, n_train, strict=True)]}
    if val_fraction:
        parts["val"] = [book.text[n:] for book, n in zip(books, n_train, strict=True)]
    ids = {name: [tokenizer.encode(text) for text in texts] for name, texts in parts.items()}
    characters = {name: sum(map(len, texts)) for name, texts in parts.items()}
    for name, documents in ids.items():
        if (n_tokens := sum(map(len, documents))) < 2:
            raise UserError(
                f"the {name} part holds {n_tokens} token(s) of the text's {sum(characters.values()):,} characters: "
                "expected at least 2; use a longer text, or --val_fraction=0"
            )
    if tokenizer.end_of_text is not None:
        for documents in ids.values():
            for document in documents[:-1]:
                document.append(tokenizer.end_of_text)
        ids["val" if val_fraction else "train"][-1].append(tokenizer.end_of_text)
    entries, start = [], 0
    for book, document, n in zip(books, ids["train"], n_train, strict=True):
        entries.append(document_entry(book, document, start=start, characters=n, tokenizer=tokenizer))
        start += len(document)

    empty_folder(folder)
    flat = {name: list(chain.from_iterable(documents)) for name, documents in ids.items()}
    shards = [write_shard(folder / f"{name}.bin", flat[name], characters=characters[name]) for name in flat]
    meta = {
        "format": FORMAT,
        "tokenizer": tokenizer.description,
        "shards": shards,
        "ids": sorted(set().union(*flat.values())),
        "source": source,
        "documents": entries,
    }
    write_meta(folder, meta)
    print_summary(folder, books if titled else [], notes or [], flat, characters)
    if train_command:
        print_next_command(train_command, n_tokens=len(flat["train"]))


def empty_folder(folder: Path) -> None:
    """Make a dataset's folder, and remove the shards of an earlier preparation. UserError if that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old_shard in folder.glob("*.bin"):  # a val.bin may not be wanted now
            old_shard.unlink()
    except (FileExistsError, NotADirectoryError):
        raise UserError(
            f"{from_here(folder)} is a file, expected a folder; move it away, or type another name"
        ) from None
    except OSError as e:
        raise UserError(f"cannot write to {from_here(folder)}: {e.strerror}") from None


def write_meta(folder: Path, meta: dict) -> dict:
    """Write meta.json and return its content, the checksum included."""
    meta["sha256"] = digest(meta)
    write_atomic(folder / "meta.json", (json.dumps(meta, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))
    return meta


def write_shard(path: Path, ids: list[int], *, characters: int) -> dict:
    """Write the ids to a file and return its entry in meta.json; characters: of their text."""
    data = np.array(ids, dtype=DTYPE).tobytes()
    write_atomic(path, data)
    sha256 = hashlib.sha256(data).hexdigest()
    return {"file": path.name, "tokens": len(ids), "characters": characters, "sha256": sha256}


# ---------------------------------------------------------------------------------------------------------------------
# reading


class Split:
    """The token ids of one part ("train" or "val") of a dataset, as one sequence; len() is their number.

    Parts of up to IN_MEMORY bytes are read once. Files of larger ones stay open: preparing anew does not change them.
    """

    def __init__(
        self,
        files: list[tuple[Path, int]],
        vocab_size: int,
        *,
        ids: np.ndarray | None = None,
        characters: int = 0,
        sha256: str | None = None,
        documents: list[Document] | None = None,
    ):
        """files: (path, number of tokens) of each shard; ids: the tokens, if in no file; the rest describes them."""
        self.vocab_size, self.characters, self.sha256 = vocab_size, characters, sha256
        self.ends = np.cumsum([n_tokens for _, n_tokens in files])
        self._ids, stack = ids, contextlib.ExitStack()
        self._files = [stack.enter_context(open(path, "rb")) for path, _ in files]  # noqa: SIM115
        weakref.finalize(self, stack.close)
        if ids is None and len(self) * DTYPE.itemsize <= IN_MEMORY:
            self._ids = self.tokens(0, len(self)).astype(np.uint16)
            stack.close()
        self.documents = documents or documents_of({}, len(self))

    @classmethod
    def from_shards(
        cls, folder: Path, shards: list[dict], vocab_size: int, documents: list[Document] | None = None
    ) -> "Split":
        """A split of files; shards: their entries in meta.json."""
        return cls(
            [(folder / shard["file"], shard["tokens"]) for shard in shards],
            vocab_size,
            characters=sum(shard.get("characters", 0) for shard in shards),
            sha256="+".join(shard["sha256"] for shard in shards) if "sha256" in shards[0] else None,
            documents=documents,
        )

    @classmethod
    def in_memory(cls, ids: list[int], vocab_size: int) -> "Split":
        """A split of ids that are in no file."""
        return cls([], vocab_size, ids=np.array(ids, dtype=np.int64))

    def __len__(self) -> int:
        return int(self.ends[-1]) if self._ids is None else len(self._ids)

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Ids start..stop-1 as int64, read across shards. UserError for an id that the vocabulary lacks."""
        if self._ids is not None:
            return self._ids[start:stop].astype(np.int64)
        pieces, at, number = [], start, int(np.searchsorted(self.ends, start, side="right"))
        while at < stop and number < len(self._files):  # a memory map that stays open would hold all that was read
            first, end = int(self.ends[number - 1]) if number else 0, min(stop, int(self.ends[number]))
            self._files[number].seek((at - first) * DTYPE.itemsize)
            pieces.append(np.frombuffer(self._files[number].read((end - at) * DTYPE.itemsize), DTYPE))
            at, number = end, number + 1
        ids = np.concatenate([*pieces, np.zeros(0, DTYPE)]).astype(np.int64)
        if ids.max(initial=0) >= self.vocab_size:
            problem = f"id {ids.max()} near token {start:,} is beyond the vocabulary of {self.vocab_size}"
            raise UserError(f"{Path(self._files[0].name).parent}: {problem}; prepare the dataset anew")
        return ids

    def windows(self, starts: np.ndarray, length: int) -> torch.Tensor:
        """(len(starts), length) int64: `length` token ids from each start on."""
        return torch.from_numpy(np.stack([self.tokens(int(s), int(s) + length) for s in starts]))


class Dataset:
    """A prepared dataset: train, val (None if nothing was held out), tokenizer and corpus_ids."""

    def __init__(self, name: str):
        """UserError if data/NAME/ is not prepared, or damaged."""
        self.name, self.folder = name, data_folder(name)
        meta = read_meta(self.folder)
        self.tokenizer_description: dict = meta["tokenizer"]
        self.corpus_ids: list[int] | None = meta["ids"]  # those that occur in train or val; None = unknown
        self.tokenizer = from_description(self.tokenizer_description, self.folder / "meta.json")
        self.vocab_size = self.tokenizer.table_size
        if self.corpus_ids and self.corpus_ids[-1] >= self.tokenizer.vocab_size:
            raise UserError(f"{self.folder}/meta.json is damaged; prepare the dataset anew: {prepare_hint(name)}")
        shards = {"train": [], "val": []}
        n_bytes = sum(shard["tokens"] for shard in meta["shards"]) * DTYPE.itemsize
        for shard in meta["shards"]:
            check_shard(self.folder / shard["file"], shard, hashed=n_bytes <= MAX_HASHED)
            shards["val" if shard["file"].startswith("val") else "train"].append(shard)
        documents = documents_of(meta, sum(shard["tokens"] for shard in shards["train"]))
        self.train = Split.from_shards(self.folder, shards["train"], self.vocab_size, documents)
        self.val = Split.from_shards(self.folder, shards["val"], self.vocab_size) if shards["val"] else None


def prepare_hint(name: str) -> str:
    """The command that prepares dataset `name`."""
    if has_script(name):
        return command(f"data/{name}/prepare.py")
    return command("data/book/prepare.py", "--input=YOUR_TEXT.txt", f"--dataset={name}")


def read_meta(folder: Path) -> dict:
    """The contents of meta.json; nanoGPT's GPT-2-encoded datasets have none and get an equivalent dict.

    UserError if the dataset is not prepared, or meta.json is damaged or of a newer format.
    """
    name, path = folder.name, folder / "meta.json"
    if not path.exists():
        files = sorted(folder.glob("train*.bin")) + sorted(folder.glob("val*.bin"))
        if not files or not files[0].name.startswith("train"):
            prepared = sorted(p.parent.name for p in DATA.glob("*/meta.json"))
            listed = f"prepared: {', '.join(prepared)}" if prepared else "none is prepared yet"
            raise UserError(f"dataset {name} is not prepared in {folder} ({listed}); type: {prepare_hint(name)}")
        if (folder / "meta.pkl").exists():
            raise UserError(
                f"{folder} holds nanoGPT's meta.pkl, a pickle, which is never read here, and no meta.json; "
                f"prepare it anew: {prepare_hint(name)}"
            )
        notice(f"{folder} has no meta.json: taken for GPT-2's encoding, as nanoGPT does")
        shards = [{"file": f.name, "tokens": f.stat().st_size // DTYPE.itemsize} for f in files]
        return {"format": FORMAT, "tokenizer": GPT2_DESCRIPTION, "shards": shards, "ids": None}
    try:
        meta = json.loads(read_regular(path).decode("utf-8"))
        version = meta["format"]
        if type(version) is not int or not (version > FORMAT or is_meta(meta)):
            raise ValueError
        if meta.pop("sha256", None) not in (None, digest(meta)):  # the first versions wrote none
            raise ValueError
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path} is damaged; prepare the dataset anew: {prepare_hint(name)}") from None
    if version > FORMAT:
        raise UserError(f"{path} has format {version}, this llm reads up to {FORMAT}: update llm, or prepare it anew")
    return meta


def digest(meta: dict) -> str:
    """sha256 of the contents of meta.json."""
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def is_meta(meta: dict) -> bool:
    """Whether meta.json has all that is read from it, with valid values; files must be in the dataset's own folder."""
    ids, shards = meta["ids"], meta["shards"]
    files = [shard["file"] for shard in shards]
    return (
        isinstance(meta["tokenizer"], dict)
        and isinstance(meta.get("source", {}), dict)
        and all(re.fullmatch(r"(train|val)(_\d+)?\.bin", file) for file in files)
        and len(set(files)) == len(files)
        and any(file.startswith("train") for file in files)
        and all(type(shard["tokens"]) is int and 0 < shard["tokens"] < 2**48 for shard in shards)
        and all(type(shard.get("characters", 0)) is int and 0 <= shard.get("characters", 0) < 2**48 for shard in shards)
        and all(isinstance(shard.get("sha256", ""), str) for shard in shards)
        and len({"sha256" in shard for shard in shards}) == 1  # all have one, or none
        and are_documents(meta.get("documents", []), sum(s["tokens"] for s in shards if s["file"].startswith("train")))
        and (ids is None or (all(type(i) is int and 0 <= i < 2**16 for i in ids) and sorted(set(ids)) == ids))
    )


def check_shard(path: Path, shard: dict, *, hashed: bool) -> None:
    """UserError unless a file has the size and, if `hashed`, the sha256 of its entry."""
    remedy = f"prepare the dataset anew: {prepare_hint(path.parent.name)}"
    try:
        size = path.stat().st_size
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}; {remedy}") from None
    if size != shard["tokens"] * DTYPE.itemsize:
        expected = f"{shard['tokens'] * DTYPE.itemsize:,} ({shard['tokens']:,} tokens)"
        raise UserError(f"{path} has {size:,} bytes, expected {expected}; {remedy}")
    if "sha256" in shard and hashed:
        with open_regular(path) as f:
            if hashlib.file_digest(f, "sha256").hexdigest() != shard["sha256"]:
                raise UserError(f"{path} was changed or damaged (its sha256 is not the one in meta.json); {remedy}")
