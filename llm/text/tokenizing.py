"""Turn batches of documents into tokens, by several processes at once.

Each process is an interpreter of its own that loads the tokenizer alone, not torch. It gets one batch at a time on its
standard input and answers on its standard output. It ends when its input does, so none outlives a killed parent.
"""

import collections
import contextlib
import hashlib
import json
import pickle
import queue
import signal
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from llm.configurator import PACKAGE, UserError
from llm.text.tokenizer import GPT2, gpt2

DIGEST_BYTES = 16  # two different documents have the same digest with a probability of about 2**-128
PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from llm.text.tokenizing import serve; serve()"
AHEAD = 2  # batches that are read before a process asks for them


@dataclass(frozen=True)
class Batch:
    """Content of a corpus on its way to the tokenizer."""

    kind: str  # lines (of JSON), rows (of a table), texts (files), or piece (of one large text)
    names: list[str]  # of the files: one for each of the texts, else one
    items: list  # bytes of lines, of texts or of a piece; str or None of rows
    first_row: int = 0  # number of lines or rows of the file before this batch
    column: str = ""  # of lines: the key of the text
    digest: bytes = b""  # of a piece: of the whole document
    begins: bool = True  # a piece: whether it is the document's first
    ends: bool = True  # and whether it is the last
    first_byte: int = 0  # of a piece


@dataclass
class Tokens:
    """The tokens of a batch's documents (or of a piece of one), one after the other; empty documents are left out."""

    ids: bytes = b""  # little-endian uint16
    lengths: list[int] = field(default_factory=list)  # tokens of each document, its end-of-text included
    characters: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    n_empty: int = 0
    error: str = ""  # what is wrong with the batch; then the rest is of no use


class BadDocument(Exception):
    """A document that cannot be read; the message says where and why."""


def documents_of(batch: Batch) -> Iterator[str]:
    """The texts of a batch. BadDocument for one that is none."""
    if batch.kind == "lines":
        for n, line in enumerate(batch.items[0].split(b"\n"), batch.first_row + 1):
            line = line.removeprefix(b"\xef\xbb\xbf") if n == 1 else line
            if line.strip():
                yield text_of_line(line, batch.column, f"{batch.names[0]} line {n:,}")
    elif batch.kind == "rows":
        for n, text in enumerate(batch.items, batch.first_row + 1):
            if not isinstance(text, str | None):
                found = f"{batch.names[0]} row {n:,}: column {batch.column} holds {type(text).__name__}"
                raise BadDocument(f"{found}, expected text; type another --text_column")
            yield text or ""
    else:
        for name, data in zip(batch.names, batch.items, strict=True):
            try:
                text = data.decode("utf-8")
            except UnicodeDecodeError as e:
                at = batch.first_byte + e.start
                raise BadDocument(f"{name} is not UTF-8 at byte {at:,}; convert it, or leave it out") from None
            yield text.removeprefix("\ufeff") if batch.begins else text


def text_of_line(line: bytes, column: str, where: str) -> str:
    """The text in a line of JSON; "" for null. BadDocument if it has none."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError as e:
        raise BadDocument(f"{where} is no JSON: {e.msg} at character {e.pos + 1:,}") from None
    except (ValueError, RecursionError) as e:  # no UTF-8; too deep
        raise BadDocument(f"{where} is no JSON: {str(e)[:100]}") from None
    if not isinstance(value, dict):
        raise BadDocument(f"{where} holds {type(value).__name__}, expected an object with a text: {{{column!r}: ...}}")
    if column not in value:
        names = ", ".join(map(str, list(value)[:20])) or "none"
        hint = f"type for example --text_column={next(iter(value), 'text')}"
        raise BadDocument(f"{where} has no column {column}; it has: {names}; {hint}")
    text = value[column]
    if not isinstance(text, str | None):
        raise BadDocument(f"{where}: column {column} holds {type(text).__name__}, expected text")
    return text or ""


def tokens_of(batch: Batch, tokenizer: GPT2) -> Tokens:
    """The tokens of a batch."""
    found, parts = Tokens(), []
    try:
        for text in documents_of(batch):
            if not text and batch.kind != "piece":
                found.n_empty += 1
                continue
            ids = tokenizer.encode(text)
            if batch.ends:
                ids.append(tokenizer.end_of_text)
            # in half the time of numpy.array; tiktoken's encode_to_numpy takes four times as long as encode_ordinary
            parts.append(struct.pack(f"<{len(ids)}H", *ids))
            found.lengths.append(len(ids))
            found.characters.append(len(text))
            digest = batch.digest or hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=DIGEST_BYTES).digest()
            found.digests.append(digest)
    except BadDocument as e:
        return Tokens(error=str(e))
    found.ids = b"".join(parts)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# processes


def send(stream: BinaryIO, content: Any) -> None:
    pickle.dump(content, stream, protocol=pickle.HIGHEST_PROTOCOL)
    stream.flush()


def serve() -> None:
    """Answer the batches on standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    tokenizer = gpt2()
    while True:
        try:
            batch = pickle.load(sys.stdin.buffer)
            send(sys.stdout.buffer, tokens_of(batch, tokenizer))
        except (EOFError, BrokenPipeError):  # the parent has ended, or was killed
            return


class Tokenizers:
    """Processes that tokenise batches; a context that ends them."""

    def __init__(self, n: int):
        command = [sys.executable, "-c", PROGRAM, str(PACKAGE.parent)]
        self.idle: queue.SimpleQueue[subprocess.Popen] = queue.SimpleQueue()
        self.processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(n)]
        for process in self.processes:
            self.idle.put(process)
        self.threads = ThreadPoolExecutor(n)  # each waits for a process

    def _ask(self, batch: Batch) -> Tokens:
        process = self.idle.get()
        try:
            send(process.stdin, batch)
            return pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            reason = "a process that tokenises has ended, perhaps for lack of memory"
            raise UserError(f"{reason}; type the same again to go on") from None
        finally:
            self.idle.put(process)

    def tokenise(self, batches: Iterable[tuple]) -> Iterator[tuple[Any, ...]]:
        """For each (batch, ...), in order, (its tokens, ...). UserError for a document that cannot be read."""
        waiting: collections.deque = collections.deque()
        batches = iter(batches)
        while True:
            while len(waiting) < len(self.processes) + AHEAD and (following := next(batches, None)):
                batch, *rest = following
                waiting.append((self.threads.submit(self._ask, batch), rest))
            if not waiting:
                return
            future, rest = waiting.popleft()
            tokens = future.result()
            if tokens.error:
                raise UserError(tokens.error)
            yield (tokens, *rest)

    def __enter__(self) -> "Tokenizers":
        return self

    def __exit__(self, *_) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what is left in a buffer has no reader any more
                    stream.close()
        self.threads.shutdown(cancel_futures=True)
