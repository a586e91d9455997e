"""The books that a model was trained on: choose one by its title, and continue a prompt as that book does.

A model of several books may know the words of a prompt from more than one. So a prompt that is meant for one book is
looked up in that book alone, and what stands before it there is given to the model, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from llm.configurator import UserError
from llm.reading.folding import fold
from llm.reading.prompt import PromptIds, is_whole, searchable
from llm.text.documents import Document, book_names, token_ends
from llm.text.tokenizer import Tokenizer

OPENING = 16  # tokens: as many are given of a book's beginning, where nothing stands before the prompt
MAX_LISTED = 20  # titles in an error line


@dataclass(frozen=True)
class ShelvedBook:
    """A book among those that a model was trained on."""

    title: str  # no other book of the model has it
    text: str
    start: int  # index in shelf_ids of its first token
    n_tokens: int  # without its end-of-text
    shelf_ids: np.ndarray = field(repr=False)  # the tokens of all books


def shelved(ids: np.ndarray, documents: list[Document], tokenizer: Tokenizer) -> list[ShelvedBook]:
    """The books that a dataset's ids hold."""
    books = []
    for document, title in zip(documents, book_names(documents), strict=True):
        inside = ids[document.start : document.stop]
        ends = tokenizer.end_of_text is not None and len(inside) and inside[-1] == tokenizer.end_of_text
        inside = inside[: len(inside) - bool(ends)]
        books.append(ShelvedBook(title, tokenizer.decode(inside.tolist()), document.start, len(inside), ids))
    return books


def choose_book(books: Sequence[ShelvedBook], typed: str) -> ShelvedBook:
    """The book with this title, or the only one with these words in its title; case does not matter.

    UserError, with the titles, if there is none, or more than one.
    """
    wanted = fold(" ".join(typed.split())).casefold()
    titles = [fold(book.title).casefold() for book in books]
    for found in (
        [book for book, title in zip(books, titles, strict=True) if title == wanted],
        [book for book, title in zip(books, titles, strict=True) if wanted in title],
    ):
        if len(found) == 1:
            return found[0]
    n = len(found)
    reason = f"{n} books of this model have that in their titles" if n else "no book of this model has that title"
    listed = [f'"{book.title}"' for book in found or books]
    more = f", and {len(listed) - MAX_LISTED} more" if len(listed) > MAX_LISTED else ""
    raise UserError(f"book={typed}: {reason}; type one of these titles: {', '.join(listed[:MAX_LISTED])}{more}")


def encode_in_book(tokenizer: Tokenizer, prompt: str, book: ShelvedBook, *, length: int) -> PromptIds | None:
    """Token ids of a prompt as the book has them, after those that stand before it there; None if it has no such words.

    length: tokens in all, unless the prompt has more. An empty prompt is the book's beginning: the first OPENING tokens
    are given to the model, and shown as the first of the continuation. So are the tokens after a prompt at the very
    beginning of all books.
    """
    found = searchable(book.text, tokenizer.by_characters).find(prompt) if prompt else (0, 0)
    if found is None:
        return None
    inside, opening = book.shelf_ids[book.start : book.start + book.n_tokens].tolist(), min(OPENING, length)
    ends = token_ends(inside, tokenizer)
    n_start, n_end = (len(book.text[:n].encode("utf-8", "replace")) for n in found)
    first = int(np.searchsorted(ends, n_start, side="right"))  # the token that holds the prompt's first byte
    stop = int(np.searchsorted(ends, n_end)) + 1 if prompt else 0
    before = min(book.start + first, max(0, length - (stop - first)))
    stop = min(max(stop, first + opening - before if prompt else opening), len(inside))

    def beyond_prompt(stop: int) -> bytes:
        """What the tokens up to this one hold after the prompt."""
        return tokenizer.decode_bytes(inside[first:stop])[n_end - int(ends[first - 1] if first else 0) :]

    while stop < len(inside) and not is_whole(beyond_prompt(stop)):
        stop += 1
    context = book.shelf_ids[book.start + first - before : book.start + first].tolist()
    rest = beyond_prompt(stop).decode("utf-8", "replace")
    ends_in_space = prompt[-1:] == " " and not tokenizer.by_characters
    return PromptIds(context + inside[first:stop], rest, ends_in_space=ends_in_space)
