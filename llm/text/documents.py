"""The documents of a dataset: which books it holds, and where each of them and its chapters begin.

They stand in meta.json under "documents"; datasets of before November 2026 have none, and hold one document without a
title. Positions count tokens of train.bin; what is held out in val.bin is not described.
"""

from dataclasses import dataclass

import numpy as np

from llm.text.book import Book
from llm.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class ChapterStart:
    """Where a chapter begins: token of train.bin, and character of its document's text."""

    title: str
    token: int
    character: int


@dataclass(frozen=True)
class Document:
    """A book in a dataset: tokens start to stop - 1 of train.bin, of which the last one ends the document."""

    title: str  # "" = unknown
    author: str
    start: int
    stop: int
    chapters: tuple[ChapterStart, ...] = ()


def document_entry(book: Book, ids: list[int], *, start: int, characters: int, tokenizer: Tokenizer) -> dict:
    """The entry of a book in meta.json; ids: of its first `characters` characters, and perhaps an end-of-text.

    start: index of its first token.
    """
    inside = [chapter for chapter in book.chapters if chapter.start < characters]
    tokens = token_indices(book.text, [chapter.start for chapter in inside], ids, tokenizer)
    chapters = [
        {"title": chapter.title, "token": start + token, "character": chapter.start}
        for chapter, token in zip(inside, tokens, strict=True)
    ]
    entry = {"title": book.title, "author": book.author, "start": start, "tokens": len(ids), "characters": characters}
    return entry | {"chapters": chapters} | ({"source": book.source} if book.source else {})


def token_ends(ids: list[int], tokenizer: Tokenizer) -> np.ndarray:
    """Where each token ends in the text, in bytes of UTF-8; an end-of-text has none."""
    lengths = {i: len(tokenizer.decode_bytes([i])) for i in set(ids) - {tokenizer.end_of_text}}
    return np.cumsum([lengths.get(i, 0) for i in ids])


def token_indices(text: str, positions: list[int], ids: list[int], tokenizer: Tokenizer) -> list[int]:
    """The index of the token that holds each character position; positions: in increasing order."""
    ends = token_ends(ids, tokenizer)
    offsets, n_bytes, last = [], 0, 0
    for position in positions:
        n_bytes += len(text[last:position].encode("utf-8", "replace"))
        offsets.append(n_bytes)
        last = position
    return np.searchsorted(ends, offsets, side="right").tolist()


def documents_of(meta: dict, n_tokens: int) -> list[Document]:
    """The documents that meta.json describes; n_tokens: in train.bin."""
    entries = meta.get("documents") or [{"title": "", "author": "", "start": 0, "tokens": n_tokens, "chapters": []}]
    return [
        Document(
            entry["title"],
            entry["author"],
            entry["start"],
            entry["start"] + entry["tokens"],
            tuple(ChapterStart(c["title"], c["token"], c["character"]) for c in entry["chapters"]),
        )
        for entry in entries
    ]


def book_names(documents: list[Document]) -> list[str]:
    """What each book is called where several stand beside each other: its title, with a number if that is not enough.

    ["Poems", "", "Poems"] -> ["Poems", "book 2", "Poems (3)"]
    """
    names: list[str] = []
    for number, document in enumerate(documents, 1):
        title = " ".join(document.title.split()) or f"book {number}"
        names.append(f"{title} ({number})" if title in names else title)
    return names


def are_documents(entries: object, n_tokens: int) -> bool:
    """Whether the entries of meta.json are valid: one document after the other fills n_tokens tokens."""
    if not isinstance(entries, list):
        return False
    position = 0
    for entry in entries:
        end = entry["start"] + entry["tokens"]
        places = [entry["start"], *(chapter["token"] for chapter in entry["chapters"]), end]
        characters = [chapter["character"] for chapter in entry["chapters"]]
        texts = [entry["title"], entry["author"], *(chapter["title"] for chapter in entry["chapters"])]
        if not all(type(n) is int and n >= 0 for n in [*places, *characters, entry["tokens"]]):
            return False
        if entry["start"] != position or places != sorted(places) or not all(isinstance(t, str) for t in texts):
            return False
        position = end
    return position == n_tokens or not entries
