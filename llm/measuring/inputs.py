"""The texts of a measurement: a dataset's, a file's in any format, and the controls."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llm.configurator import UserError
from llm.measuring.models import Model
from llm.measuring.texts import Text
from llm.reading.character_recall import character_starts
from llm.reading.cite import Section
from llm.reading.load import book_sections
from llm.reading.recall import CONTROL_TEXT
from llm.reading.shelf import shelved
from llm.runtime import notice
from llm.text.book import Book
from llm.text.dataset import Split
from llm.text.headings import find_chapters
from llm.text.inputs import read_inputs
from llm.text.names import BUNDLED
from llm.text.tokenizer import Tokenizer

SHARED = 200  # characters
BUNDLED_CONTROLS = (CONTROL_TEXT, BUNDLED / "tale" / "tale.txt")


def of_split(name: str, split: Split, tokenizer: Tokenizer) -> Text:
    """The text of a dataset, in the tokens that a model is trained on."""
    ids = split.tokens(0, len(split)).astype(np.int64)
    books = shelved(ids, split.documents, tokenizer)
    text = "".join(book.text for book in books)
    sections = book_sections(books, split.documents)
    if sections is None and len(books) == 1:
        sections = chapters_of(text, "", 0)
    documents = [(document.start, document.stop) for document in split.documents]
    return Text(name, text, ids, character_starts(ids, tokenizer), documents, sections or [])


def chapters_of(text: str, book: str, start: int) -> list[Section]:
    """The chapters that are found in a text; start: where it begins in the text of all books."""
    return [Section(start + chapter.start, book, chapter.title) for chapter in find_chapters(text)]


def of_file(path: str, model: Model) -> Text:
    """The text of a file, a folder of chapters or a pattern, in any format that prepare.py reads, exactly as it is."""
    return of_books(path, read_inputs((path,), fetch=refuse_address), model)


def refuse_address(url: str) -> bytes:
    raise UserError(f"{url}: expected a file; download the text first")


def of_books(name: str, books: Sequence[Book], model: Model) -> Text:
    """The text of several books: each is a document, tokenised by itself."""
    text, ids, starts, documents, sections = "", [], [np.zeros(1, dtype=np.int64)], [], []
    for book in books:
        title = book.title if len(books) > 1 else ""
        chapters = [Section(len(text) + chapter.start, title, chapter.title) for chapter in book.chapters]
        sections += [Section(len(text), title)] if title else []
        sections += chapters or chapters_of(book.text, title, len(text))
        book_ids, book_starts = model.encode(book.text)
        first = sum(map(len, ids))
        documents.append((first, first + len(book_ids)))
        starts.append(len(text) + book_starts[1:])
        ids.append(book_ids)
        text += book.text
    return Text(name, text, np.concatenate(ids), np.concatenate(starts), documents, sections)


def controls_of(
    paths: Sequence[str], text: Text, model: Model, held_out: Text | None = None, *, min_tokens: int
) -> list[Text]:
    """Texts that the model never saw: those of the paths; without any, the held-out part and the bundled texts.

    The bundled tale is none for a model that may have learned it: where the measured text is a part of it, or holds it.
    Without paths, texts of fewer than min_tokens tokens are left out.
    """
    if paths:
        return [of_file(path, model) for path in paths]
    found, words = [held_out] if held_out else [], " ".join(text.text.split())
    for path in BUNDLED_CONTROLS:
        content = Path(path).read_text(encoding="utf-8")
        if share_words(words, " ".join(content.split())):
            continue
        try:
            found.append(Text.encoded(f"the bundled {path.name}", content, model.encode))
        except UserError as e:
            notice(f"no control: {path.name} cannot be encoded ({e})")
    return [control for control in found if len(control.ids) >= min_tokens]


def share_words(a: str, b: str) -> bool:
    """Whether the middle of one text stands in the other."""
    middles = [text[len(text) // 2 :][:SHARED] for text in (a, b)]
    return middles[0] in b or middles[1] in a
