"""Write a corpus as shards, each written whole, so that a preparation that was killed goes on after the last one.

Shard number n of the train part and shard n of the val part are made of the same documents and end together. Then
progress.json says where the next ones begin, and seen.bin has the digests of all documents so far, if duplicates are
dropped. Both are removed when meta.json is written, at the end.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from llm.configurator import UserError
from llm.files import atomic_file, read_regular, remove_temporary_files, write_atomic
from llm.text.corpus_files import CorpusFile, Position
from llm.text.dataset import DTYPE, FORMAT, empty_folder, write_meta
from llm.text.tokenizer import GPT2_DESCRIPTION
from llm.text.tokenizing import DIGEST_BYTES, Tokens

PROGRESS, SEEN = "progress.json", "seen.bin"
PARTS = ("train", "val")


@dataclass(frozen=True)
class Choices:
    """What decides which tokens are written, beside the files."""

    text_column: str
    val_fraction: float
    drop_duplicates: bool
    shard_tokens: int


@dataclass
class State:
    """All of a preparation that must survive a kill: the content of progress.json."""

    position: Position = Position(0)  # where the next shard's documents begin
    consumed: str = ""  # of_files() of the files up to there
    n_shards: int = 0
    shards: list[dict] = field(default_factory=list)  # their entries in meta.json
    ids: list[int] = field(default_factory=list)  # that occur so far
    inside: str | None = None  # the part of a document that goes on in the next shard; "" = it is dropped
    documents: int = 0
    duplicates: int = 0
    empty: int = 0

    def tokens(self, part: str) -> int:
        """Tokens of a part in finished shards."""
        return sum(shard["tokens"] for shard in self.shards if shard["file"].startswith(part))


def of_files(files: list[CorpusFile]) -> str:
    """sha256 of the files' names, sizes and times."""
    return hashlib.sha256("\n".join(file.identity for file in files).encode("utf-8", "surrogatepass")).hexdigest()


def is_prepared(folder: Path, files: list[CorpusFile], choices: Choices) -> bool:
    """Whether the folder holds the corpus of these files, with these choices."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        meta = json.loads(read_regular(folder / "meta.json"))
        made_of = meta["source"]["listing_sha256"], meta["source"]["choices"]
        return made_of == (of_files(files), dataclasses.asdict(choices)) and are_whole(folder, meta["shards"])
    return False


def are_whole(folder: Path, shards: list[dict]) -> bool:
    """Whether the shards have the sizes that their entries say. OSError if one is missing."""
    return all((folder / shard["file"]).stat().st_size == shard["tokens"] * DTYPE.itemsize for shard in shards)


class CorpusWriter:
    """Writes the documents of a corpus, which come in order, as a dataset."""

    def __init__(self, folder: Path, files: list[CorpusFile], choices: Choices):
        """Goes on from the folder's progress.json if that is of the same files and choices, else begins anew."""
        self.folder, self.files, self.choices = folder, files, choices
        self.state, self.notice = self._read_state()
        self.seen: set[bytes] = set()
        remove_temporary_files(folder, "*")  # of a process that was killed
        if self.state.position != Position(0):
            self._keep_finished()
        else:
            empty_folder(folder)
            for name in ("meta.json", PROGRESS):
                (folder / name).unlink(missing_ok=True)
        self._occurs = np.zeros(2**16, dtype=bool)
        self._occurs[self.state.ids] = True
        self._new: list[bytes] = []  # digests of documents since the last shard
        self._begin_shard()

    def _read_state(self) -> tuple[State, str]:
        """(the state to go on from, a line for the user; "" = nothing to say)."""
        if not (self.folder / PROGRESS).exists():
            return State(), ""
        try:
            content = json.loads(read_regular(self.folder / PROGRESS))
            if content.pop("choices") != dataclasses.asdict(self.choices):
                return State(), "an unfinished preparation with other settings is dropped: beginning anew"
            state = State(**content | {"position": Position(*content["position"])})
            if state.consumed != of_files(self.files[: state.position.file + 1]):
                return State(), "the files have changed since an unfinished preparation: beginning anew"
            n_seen = state.documents if self.choices.drop_duplicates else 0
            seen_missing = n_seen and (self.folder / SEEN).stat().st_size < n_seen * DIGEST_BYTES
            if seen_missing or not are_whole(self.folder, state.shards):
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError):
            return State(), "an unfinished preparation is damaged: beginning anew"
        return state, f"going on after {state.n_shards:,} shards, {state.tokens('train'):,} tokens"

    def _keep_finished(self) -> None:
        """Remove shards that a killed process has not noted, and read the digests."""
        finished = {shard["file"] for shard in self.state.shards}
        for path in self.folder.glob("*.bin"):
            if path.name not in finished | {SEEN}:
                path.unlink()
        if self.choices.drop_duplicates and self.state.documents:
            with open(self.folder / SEEN, "r+b") as f:
                f.truncate(self.state.documents * DIGEST_BYTES)
                data = f.read()
            self.seen = {data[n : n + DIGEST_BYTES] for n in range(0, len(data), DIGEST_BYTES)}

    def _begin_shard(self) -> None:
        self._stack = contextlib.ExitStack()
        self._open: dict[str, OpenShard] = {}
        self._n_read = 0  # tokens of documents since the shard began, those of dropped ones included

    def _part(self, digest: bytes) -> str:
        """The part that a new document belongs to; "" if it is a duplicate."""
        if self.choices.drop_duplicates:
            if digest in self.seen:
                self.state.duplicates += 1
                return ""
            self.seen.add(digest)
            self._new.append(digest)
        self.state.documents += 1
        return "val" if int.from_bytes(digest[:8], "big") < self.choices.val_fraction * 2**64 else "train"

    def add(self, tokens: Tokens, *, begins: bool, ends: bool, after: Position) -> None:
        """Write the tokens of a batch. The shards of both parts are finished if enough tokens have been read for them.

        begins, ends: False for a piece of a document that is not its first, or not its last; after: the batch.
        """
        self.state.empty += tokens.n_empty
        if begins:
            parts = [self._part(digest) for digest in tokens.digests]
        else:
            parts = [self.state.inside] * len(tokens.lengths)
        self.state.inside = None if ends else parts[-1]
        ids = np.frombuffer(tokens.ids, DTYPE)
        for part in PARTS:
            chosen = [p == part for p in parts]
            if any(chosen):
                kept = ids if all(chosen) else ids[np.repeat(chosen, tokens.lengths)]
                self._occurs[kept] = True
                characters = sum(n for n, c in zip(tokens.characters, chosen, strict=True) if c)
                self._shard(part).write(kept, characters)
        self.state.position = after
        self._n_read += len(ids)
        if self._n_read >= self.choices.shard_tokens:
            self._finish_shard()

    def _shard(self, part: str) -> "OpenShard":
        if part not in self._open:
            path = self.folder / f"{part}_{self.state.n_shards:05}.bin"
            self._open[part] = OpenShard(path, self._stack)
        return self._open[part]

    def _finish_shard(self) -> None:
        """Rename the open shards to what they are, then say so in progress.json."""
        self._stack.close()
        self.state.shards += [self._open[part].entry() for part in PARTS if part in self._open]
        self.state.n_shards += bool(self._open)  # none if all documents were duplicates
        self.state.ids = np.flatnonzero(self._occurs).tolist()
        self.state.consumed = of_files(self.files[: self.state.position.file + 1])
        try:
            if self.choices.drop_duplicates:
                with open(self.folder / SEEN, "ab") as f:
                    f.write(b"".join(self._new))
                    f.flush()
                    os.fsync(f.fileno())
        except OSError as e:
            raise UserError(f"cannot write {self.folder / SEEN}: {e.strerror}") from None
        self._new = []
        content = dataclasses.asdict(self.state) | {"choices": dataclasses.asdict(self.choices)}
        write_atomic(self.folder / PROGRESS, json.dumps(content).encode())
        self._begin_shard()

    def tokens(self, part: str) -> int:
        """Tokens of a part so far."""
        return self.state.tokens(part) + (self._open[part].tokens if part in self._open else 0)

    def finish(self) -> dict:
        """Finish the last shard and write meta.json, which is returned. UserError for too small a corpus."""
        if self._n_read:
            self._finish_shard()
        if self.state.tokens("train") < 2:
            raise UserError(
                f"the train part holds {self.state.tokens('train')} token(s) of {self.state.documents:,} documents: "
                "expected at least 2; use more text, or a smaller --val_fraction"
            )
        source = {
            "files": len(self.files),
            "bytes": sum(file.size for file in self.files),
            "listing_sha256": of_files(self.files),
            "choices": dataclasses.asdict(self.choices),
            "documents": self.state.documents,
            "duplicates_dropped": self.state.duplicates,
            "empty_dropped": self.state.empty,
        }
        shards = sorted(self.state.shards, key=lambda shard: shard["file"])
        meta = {"format": FORMAT, "tokenizer": GPT2_DESCRIPTION, "shards": shards, "ids": self.state.ids}
        meta = write_meta(self.folder, meta | {"source": source})
        for name in (PROGRESS, SEEN):
            (self.folder / name).unlink(missing_ok=True)
        return meta

    def __enter__(self) -> "CorpusWriter":
        return self

    def __exit__(self, *error) -> bool | None:
        return self._stack.__exit__(*error)  # after an error, the open shards' temporary files are removed


class OpenShard:
    """A shard that is being written beside its final name."""

    def __init__(self, path: Path, stack: contextlib.ExitStack):
        """stack: closing it gives the file its name."""
        self.path, self.tokens, self.characters = path, 0, 0
        self._sha = hashlib.sha256()
        self._file = stack.enter_context(atomic_file(path))

    def write(self, ids: np.ndarray, characters: int) -> None:
        data = ids.tobytes()
        self._file.write(data)
        self._sha.update(data)
        self.tokens, self.characters = self.tokens + len(ids), self.characters + characters

    def entry(self) -> dict:
        """Its entry in meta.json."""
        sizes = {"tokens": self.tokens, "characters": self.characters}
        return {"file": self.path.name, **sizes, "sha256": self._sha.hexdigest()}
