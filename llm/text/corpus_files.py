"""The files of a corpus, and their content in batches of about a megabyte, read as a stream.

Files are told apart by their names: .jsonl and .ndjson have a JSON object with a text on each line, .parquet has a
column of texts, and .txt, .text and .md are one document each. All but parquet may be packed, as .gz or .zst.

What a batch holds follows from the position at which it begins, and from nothing else: a preparation that goes on from
a position cuts the same batches as one that was never interrupted.
"""

import contextlib
import glob
import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from llm.configurator import UserError, require
from llm.text.tokenizing import DIGEST_BYTES, Batch

LINES, ROWS, TEXTS = (".jsonl", ".ndjson"), (".parquet",), (".txt", ".text", ".md")
PACKED = (".gz", ".zst")
KINDS = "expected .jsonl, .ndjson, .txt, .text or .md, each also with .gz or .zst, or .parquet"
BATCH_BYTES = 2**20  # of lines, or of small files
MAX_LINE_BYTES = 2**30
MAX_WHOLE_BYTES = 4 * 2**20  # a larger text is divided into pieces
TAIL_BYTES = 2**16  # at the end of a piece, in which a place to divide it is looked for
PACKED_BYTES = 2**17  # of a .zst file that are unpacked at once
MAX_ROWS = 10_000  # of a parquet file in a batch
BETWEEN_WORDS = re.compile(r"\S(?= \S)")


class Position(NamedTuple):
    """Where a batch begins: file number, bytes of its unpacked content before it, lines or rows before it."""

    file: int
    offset: int = 0
    row: int = 0


@dataclass(frozen=True)
class CorpusFile:
    """A file of a corpus; kind: LINES, ROWS or TEXTS."""

    path: str
    size: int  # bytes
    mtime_ns: int  # when it was last changed
    kind: tuple[str, ...]

    @property
    def identity(self) -> str:
        """What tells whether it is still the same file."""
        return f"{self.path}\0{self.size}\0{self.mtime_ns}"


def kind_of(path: str) -> tuple[str, ...] | None:
    """LINES, ROWS or TEXTS; None for a file that is not read."""
    stem, suffix = os.path.splitext(path.lower())
    if suffix in ROWS:
        return ROWS
    suffix = os.path.splitext(stem)[1] if suffix in PACKED else suffix
    return next((kind for kind in (LINES, TEXTS) if suffix in kind), None)


def find_files(words: tuple[str, ...], list_file: str | None) -> list[CorpusFile]:
    """The files that the words name (files, folders, patterns), and those in list_file, one a line; in this order.

    The files of a folder or a pattern are sorted by name. UserError if there are none, or one cannot be read.
    """
    if list_file:
        try:
            lines = Path(list_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as e:
            reason = getattr(e, "strerror", None) or "it is not UTF-8"
            raise UserError(f"--list={list_file} cannot be read: {reason}; expected a file of names") from None
        words = (*words, *(line.strip() for line in lines if line.strip()))
    found = []
    for word in map(os.path.expanduser, words):
        if os.path.isdir(word):
            paths = [str(p) for p in Path(word).rglob("*") if p.is_file() and not is_hidden(p, word)]
            paths = sorted(path for path in paths if kind_of(path))
            if not paths:
                raise UserError(f"{word} is a folder without files that are read here; {KINDS}")
        else:
            paths = [word] if os.path.exists(word) else sorted(filter(os.path.isfile, glob.glob(word, recursive=True)))
            if not paths:
                raise UserError(f"{word}: no such file; expected a file, a folder or a pattern")
        found += [described(path) for path in paths]
    return found


def is_hidden(path: Path, folder: str) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def described(path: str) -> CorpusFile:
    """The file at a path. UserError if it is of no kind that is read here."""
    kind = kind_of(path)
    if kind is None:
        raise UserError(f"{path}: unknown kind of file; {KINDS}")
    status = os.stat(path)
    return CorpusFile(path, status.st_size, status.st_mtime_ns, kind)


# ---------------------------------------------------------------------------------------------------------------------
# reading


@contextlib.contextmanager
def unpacked(file: CorpusFile) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """(a stream of the file's unpacked content, the file itself). UserError if it cannot be read."""
    try:
        with open(file.path, "rb") as packed:
            if file.path.lower().endswith(".gz"):
                with gzip.open(packed) as stream:
                    yield stream, packed
            elif file.path.lower().endswith(".zst"):
                yield Zstandard(packed, file.path), packed
            else:
                yield packed, packed
    except (OSError, EOFError, zlib.error) as e:  # gzip's own error is an OSError
        raise UserError(f"{file.path} cannot be read: {getattr(e, 'strerror', None) or e}") from None
    except Exception as e:
        if type(e).__module__.partition(".")[0] in ("zstandard", "zstd"):
            raise UserError(f"{file.path} is damaged: it cannot be unpacked completely ({e})") from None
        raise


class Zstandard:
    """The content of a .zst file, of one frame or several; zstandard's own stream takes one that is cut for whole."""

    def __init__(self, packed: BinaryIO, path: str):
        self.packed, self.path = packed, path
        self.decompressor = require("zstandard", "corpora").ZstdDecompressor()
        self.frame, self.rest, self.ready = None, b"", b""

    def read(self, n: int) -> bytes:
        """The next n bytes, fewer only at the end. UserError if the file is cut short."""
        while len(self.ready) < n and (data := self.rest or self.packed.read(PACKED_BYTES)):
            self.rest, self.frame = b"", self.frame or self.decompressor.decompressobj()
            self.ready += self.frame.decompress(data)
            if self.frame.eof:
                self.rest, self.frame = self.frame.unused_data, None
        if len(self.ready) < n and self.frame is not None:
            raise UserError(f"{self.path} is cut short: it cannot be unpacked completely")
        found, self.ready = self.ready[:n], self.ready[n:]
        return found


def read_fully(stream: BinaryIO, n: int) -> bytes:
    """The next n bytes, fewer only at the end."""
    pieces = []
    while n > 0 and (piece := stream.read(n)):
        pieces.append(piece)
        n -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def skip(stream: BinaryIO, packed: BinaryIO, n: int) -> None:
    """Move n bytes of content forward."""
    if stream is packed:
        stream.seek(n)
    while stream is not packed and n > 0 and (piece := stream.read(min(n, BATCH_BYTES))):
        n -= len(piece)


def batches(files: list[CorpusFile], column: str, start: Position) -> Iterator[tuple[Batch, Position, int]]:
    """(batch, the position after it, bytes of that file read so far) of the files from a position on.

    column: of the JSON objects and the parquet files, the one that has the text.
    """
    at = start
    while at.file < len(files):
        file = files[at.file]
        if file.kind is LINES:
            yield from line_batches(file, column, at)
        elif file.kind is ROWS:
            yield from row_batches(file, column, at)
        elif at.offset:
            yield from piece_batches(file, at)
        else:
            names, texts = small_texts(files, at.file)
            if texts:
                at = Position(at.file + len(texts))
                yield Batch("texts", names, texts), at, files[at.file - 1].size
                continue
            yield from piece_batches(file, at)
        at = Position(at.file + 1)


def line_batches(file: CorpusFile, column: str, start: Position) -> Iterator[tuple[Batch, Position, int]]:
    """The batches of a file of JSON lines."""
    with unpacked(file) as (stream, packed):
        skip(stream, packed, start.offset)
        offset, row, rest = start.offset, start.row, b""
        while True:
            block = rest + read_fully(stream, BATCH_BYTES - len(rest))
            ended = len(block) < BATCH_BYTES
            while not ended and b"\n" not in block:
                if len(block) > MAX_LINE_BYTES:
                    raise UserError(f"{file.path} line {row + 1:,}: longer than {MAX_LINE_BYTES // 2**30} GiB")
                more = read_fully(stream, len(block))
                block, ended = block + more, not more
            end = len(block) if ended else block.rfind(b"\n") + 1
            lines, rest = block[:end], block[end:]
            if lines:
                batch = Batch("lines", [file.path], [lines], first_row=row, column=column)
                offset, row = offset + end, row + lines.count(b"\n")
                yield batch, Position(start.file, offset, row), packed.tell()
            if ended:
                return


def row_batches(file: CorpusFile, column: str, start: Position) -> Iterator[tuple[Batch, Position, int]]:
    """The batches of a parquet file: rows of one size, a multiple of which is where each begins."""
    parquet = require("pyarrow.parquet", "corpora")
    arrow_error = require("pyarrow", "corpora").ArrowException
    try:
        with parquet.ParquetFile(file.path) as table:
            names = table.schema_arrow.names
            if column not in names:
                listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
                hint = f"--text_column={names[0] if names else 'text'}"
                raise UserError(f"{file.path} has no column {column}; it has: {listed}; type for example {hint}")
            n_rows, size = table.metadata.num_rows, batch_rows(table.metadata, column)
            before = 0  # rows before the row group
            for group in range(table.num_row_groups):
                if before + table.metadata.row_group(group).num_rows > start.row:
                    break
                before += table.metadata.row_group(group).num_rows
            else:
                return
            groups, rows, row = range(group, table.num_row_groups), [], start.row
            skipped = start.row - before
            for read in table.iter_batches(batch_size=size, row_groups=groups, columns=[column], use_threads=False):
                rows += read.column(0).to_pylist()
                rows, skipped = rows[skipped:], max(0, skipped - len(rows))
                while len(rows) >= size or row + len(rows) == n_rows and rows:
                    batch = Batch("rows", [file.path], rows[:size], first_row=row, column=column)
                    row, rows = row + len(batch.items), rows[size:]
                    yield batch, Position(start.file, 0, row), file.size * row // n_rows
    except (OSError, arrow_error) as e:
        raise UserError(f"{file.path} cannot be read: {str(e).splitlines()[0][:200]}") from None


def batch_rows(metadata, column: str) -> int:
    """Rows of a parquet file that hold about BATCH_BYTES of the column's texts."""
    n_bytes = 0
    for group in range(metadata.num_row_groups):
        parts = metadata.row_group(group)
        for n in range(parts.num_columns):
            if parts.column(n).path_in_schema == column:
                n_bytes += parts.column(n).total_uncompressed_size
    return min(MAX_ROWS, max(1, BATCH_BYTES * metadata.num_rows // max(1, n_bytes)))


def small_texts(files: list[CorpusFile], first: int) -> tuple[list[str], list[bytes]]:
    """(names, contents) of files from number `first` on, up to about BATCH_BYTES; none if the first one is large."""
    names, texts, n_bytes = [], [], 0
    while first + len(texts) < len(files) and n_bytes < BATCH_BYTES:
        file = files[first + len(texts)]
        if file.kind is not TEXTS:
            break
        with unpacked(file) as (stream, _):
            text = read_fully(stream, MAX_WHOLE_BYTES + 1)
        if len(text) > MAX_WHOLE_BYTES:
            break
        names.append(file.path)
        texts.append(text)
        n_bytes += len(text)
    return names, texts


def piece_batches(file: CorpusFile, start: Position) -> Iterator[tuple[Batch, Position, int]]:
    """The batches of a text that is too large for one: pieces that have the same tokens as the whole."""
    sha = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with unpacked(file) as (stream, _):
        while block := stream.read(BATCH_BYTES):
            sha.update(block)
    with unpacked(file) as (stream, packed):
        skip(stream, packed, start.offset)
        offset, rest, ended = start.offset, b"", False
        while not ended:
            block = rest + read_fully(stream, BATCH_BYTES + 1 - len(rest))
            ended = len(block) <= BATCH_BYTES
            end = len(block) if ended else place_to_divide(block)
            piece, rest = block[:end], block[end:]
            batch = Batch(
                "piece", [file.path], [piece], digest=sha.digest(), begins=offset == 0, ends=ended, first_byte=offset
            )
            offset += end
            yield batch, Position(start.file + 1) if ended else Position(start.file, offset), packed.tell()


def place_to_divide(block: bytes) -> int:
    """Where UTF-8 text can be divided so that its GPT-2 tokens stay the same: before the last lone space in its tail.

    GPT-2's pattern always splits a word from a single space before the next one. In a text without such a place it is
    divided at its last whole character.
    """
    tail = block[-TAIL_BYTES:]
    tail = tail[next((n for n in range(min(4, len(tail))) if tail[n] & 0xC0 != 0x80), 0) :]
    text = tail.decode("utf-8", "ignore")
    if places := [match.end() for match in BETWEEN_WORDS.finditer(text)]:
        return len(block) - len(tail) + len(text[: places[-1]].encode("utf-8"))
    for n in range(1, min(5, len(block))):
        first = block[-n]
        if first & 0xC0 != 0x80:  # the first byte of the last character, which says how many it has
            complete = first < 0x80 or n == 2 + (first >= 0xE0) + (first >= 0xF0)
            return len(block) - (0 if complete else n)
    return len(block)
