"""The books that a command line names: files, folders, patterns, addresses, standard input.

The files of a folder or a pattern are the chapters of one book, in natural order (chapter2 before chapter10), unless
one of them is a book of its own, such as an EPUB: then each is. So are several inputs, unless they are plain files of
one folder whose names differ only in their numbers, as a shell makes them of chapter*.txt.
"""

import glob
import hashlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from llm.configurator import UserError
from llm.text.book import Book
from llm.text.download import is_address, public_address
from llm.text.formats import is_chapter, is_readable, natural_key, of_chapters, read_book, read_bytes, source_of

STANDARD_INPUT, PIPE = "standard input", "pipe"
PATTERN = re.compile(r"[*?]|\[[^\]]+\]")
MAX_FILES = 5_000  # in a folder


@dataclass(frozen=True)
class File:
    """The content of one input; name: as the user knows it."""

    name: str
    data: bytes
    url: str | None = None


def read_inputs(
    words: tuple[str, ...], *, fetch: Callable[[str], bytes], encoding: str | None = None, footnotes: bool = True
) -> list[Book]:
    """The books that the words name, each with its `source`. UserError if one cannot be read.

    fetch: downloads an address. encoding, footnotes: see `formats.read_book`.
    """
    books = []
    for files, title in grouped(words, fetch):
        read = [
            (file.name, read_book(file.data, name=file.name, encoding=encoding, footnotes=footnotes)) for file in files
        ]
        if title is None:
            for file, (_, book) in zip(files, read, strict=True):
                book.source = source_of(file.name, file.data, file.url)
                book.title = book.title or name_of(file)
                books.append(book)
        else:
            book = of_chapters(read, title=title)
            sources = [source_of(file.name, file.data) for file in files]
            sha256 = hashlib.sha256("".join(source["sha256"] for source in sources).encode()).hexdigest()
            book.source = {"file": title, "sha256": sha256, "files": sources}
            book.notes.insert(0, f"one book of {len(files):,} files: {shown_names(files)}")
            books.append(book)
    return books


def name_of(file: File) -> str:
    """A title for a book without one: the name of its file."""
    path = urlsplit(file.url).path if file.url else file.name
    return Path(unquote(path)).name.partition(".")[0] or file.name


def shown_names(files: list[File]) -> str:
    """The first names of several files, and the last."""
    names = [Path(file.name).name for file in files]
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])}, ..., {names[-1]}"


def grouped(words: tuple[str, ...], fetch: Callable[[str], bytes]) -> list[tuple[list[File], str | None]]:
    """(files, title): title of the book whose chapters the files are, None if each is a book."""
    if len(words) > 1 and (title := series(words)) is not None:
        return [([read_file(word) for word in sorted(words, key=natural_key)], title)]
    groups: list[tuple[list[File], str | None]] = []
    for word in words:
        if is_address(word):
            groups.append(([File(public_address(word), fetch(word), word)], None))
            continue
        path = local_path(word)
        if path in ("-", "/dev/stdin"):
            groups.append(([File(STANDARD_INPUT, read_standard_input())], None))
        elif os.path.isdir(path):
            groups.append(of_folder(path))
        elif PATTERN.search(path) and not os.path.exists(path):
            names = [name for name in glob.glob(path, recursive=True) if os.path.isfile(name)]
            if not names:
                raise UserError(f"{word}: no file has such a name; expected a book, a folder or a pattern")
            groups.append(of_files(names, title=Path(path).parent.absolute().name))
        else:
            groups.append(([read_file(path)], None))
    return groups


def local_path(word: str) -> str:
    """The path of a file that a word names: ~ and file:// are understood."""
    if re.match(r"file:/", word, re.I):
        return url2pathname(urlsplit(word).path)
    return os.path.expanduser(word) if word.startswith("~") else word


def read_standard_input() -> bytes:
    """All of standard input. UserError if it is closed, or cannot be read."""
    try:
        return sys.stdin.buffer.read()
    except (OSError, AttributeError) as e:  # AttributeError: it is closed, and sys.stdin is None
        reason = getattr(e, "strerror", None) or "it is closed"
        raise UserError(f"{STANDARD_INPUT} cannot be read ({reason}): expected a book") from None


def read_file(path: str) -> File:
    """A file; one that the shell makes for <(...) has no name of its own."""
    is_pipe = re.fullmatch(r"/(?:dev|proc/\w+)/fd/\d+", path)
    return File(PIPE if is_pipe else path, read_bytes(Path(path)))


def of_folder(path: str) -> tuple[list[File], str | None]:
    """The readable files below a folder. UserError if there are none, or too many for a book."""
    names = [str(p) for p in Path(path).rglob("*") if p.is_file() and is_readable(str(p.relative_to(path)))]
    if not names:
        raise UserError(f"{path} is a folder without texts or books in it: expected a book, or a folder of chapters")
    if len(names) > MAX_FILES:
        raise UserError(f"{path} holds {len(names):,} files: expected a book, or a folder of chapters")
    return of_files(names, title=Path(path).absolute().name)


def of_files(names: list[str], *, title: str) -> tuple[list[File], str | None]:
    """Files in natural order, with the title of their book if they are its chapters."""
    files = [read_file(name) for name in sorted(names, key=natural_key)]
    return files, title if len(files) > 1 and all(is_chapter(name) for name in names) else None


def series(words: tuple[str, ...]) -> str | None:
    """The title of a book whose numbered chapters the words are; None if they are no such series."""
    paths = [Path(word) for word in words]
    patterns = {(path.parent, re.sub(r"\d+", "#", path.name)) for path in paths}
    if len(patterns) != 1 or not all(
        is_chapter(word) and re.search(r"\d", path.name) for word, path in zip(words, paths, strict=True)
    ):
        return None
    return re.sub(r"[\W_]*#.*", "", next(iter(patterns))[1]) or paths[0].absolute().parent.name
