"""Load a trained model for sampling, with the book it was trained on if that is still at hand."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llm.configurator import UserError, command
from llm.reading.cite import Section
from llm.reading.generate import allowed_ids
from llm.reading.reader import Reader
from llm.reading.shelf import ShelvedBook, choose_book, shelved
from llm.runtime import Runtime, notice
from llm.storage.pretrained import load_base, load_model
from llm.text import dataset
from llm.text.documents import Document
from llm.text.token_index import TokenIndex, has_index
from llm.text.tokenizer import Tokenizer, from_description

MAX_SEARCH_TOKENS = 2_000_000  # texts up to this size are held in memory; larger ones are looked up in an index


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for sampling."""

    name: str  # for messages: the checkpoint's path, or what init_from names
    reader: Reader
    tokenizer: Tokenizer
    book_text: str  # that the model was trained on; "" = not at hand
    missing_book: str  # why book_text is "", in one line; "" = it is at hand
    sections: list[Section] | None = None  # of book_text: books and chapters; None = unknown
    books: Sequence[ShelvedBook] = ()  # whose texts book_text holds, one after the other
    split: dataset.Split | None = None  # the same as tokens; None = not at hand
    index: TokenIndex | None = None  # of a text that is too large to be at hand; None = it has none

    def book(self, title: str) -> ShelvedBook:
        """The book with this title. UserError if there is none, or the text is not at hand."""
        if not self.books:
            raise UserError(
                f"book={title} needs the text that {self.name} was trained on: {self.missing_book}; or leave out --book"
            )
        return choose_book(self.books, title)


def find_book_ids(dataset_name: str, text_sha256: str | None) -> tuple[np.ndarray | None, str]:
    """(ids of the text that a model was trained on, ""), or (None, why they cannot be used)."""
    split, reason = find_book(dataset_name, text_sha256)
    return (None if split is None else split.tokens(0, len(split))), reason


def find_book(dataset_name: str, text_sha256: str | None) -> tuple[dataset.Split | None, str]:
    """As `find_text`, but only a text that can be held in memory."""
    split, reason = find_text(dataset_name, text_sha256)
    if split is not None and len(split) > MAX_SEARCH_TOKENS:
        return None, too_large(dataset_name, split)
    return split, reason


def too_large(dataset_name: str, text: dataset.Split) -> str:
    return f"dataset {dataset_name} has {len(text):,} tokens, at most {MAX_SEARCH_TOKENS:,} are searched as a book"


def find_text(dataset_name: str, text_sha256: str | None) -> tuple[dataset.Split | None, str]:
    """(the text that a model was trained on, ""), or (None, why it cannot be used).

    text_sha256: of that text's shards, as the checkpoint states it; None = unknown.
    """
    try:
        split = dataset.Dataset(dataset_name).train
    except UserError as e:
        return None, str(e)
    if text_sha256 is None or split.sha256 != text_sha256:
        if text_sha256 is None:
            return None, f"the checkpoint does not say whether the text of dataset {dataset_name} is its own"
        hint = dataset.prepare_hint(dataset_name)
        return None, f"dataset {dataset_name} holds another text than the model's now; prepare that one again: {hint}"
    return split, ""


def index_of(dataset_name: str, text: dataset.Split) -> tuple[TokenIndex | None, str]:
    """(the index of a text that is too large for a book, if it has one; why such a text is no book)."""
    reason, folder = too_large(dataset_name, text), dataset.data_folder(dataset_name)
    if has_index(folder, text):
        return TokenIndex(folder, text), reason
    hint = command("data/corpus/prepare.py", f"--dataset={dataset_name}", "--index=True")
    return None, f"{reason}; an index would serve instead, type {hint}"


def book_sections(books: list[ShelvedBook], documents: list[Document]) -> list[Section] | None:
    """Where the books and their chapters begin in the text of all books; None if meta.json names none."""
    start, sections = 0, []
    for book, document in zip(books, documents, strict=True):
        title = book.title if len(books) > 1 else ""
        if title:
            sections.append(Section(start, title))
        sections += [Section(start + chapter.character, title, chapter.title) for chapter in document.chapters]
        start += len(book.text)
    return sections or None


def load_reader(out_dir: str, checkpoint_name: str, *, rt: Runtime, seed: int) -> LoadedModel:
    """The model of a checkpoint, ready for sampling; prints which it is, and whether its book is missing.

    The weights are copied out of the file, which may then be overwritten while they are used. seed: for that line only.
    """
    model, tokenizer, info = load_model(out_dir, checkpoint_name, rt.device)
    for parameter in model.parameters():  # tied ones are listed once, and stay tied
        parameter.data = parameter.data.clone()
    notice(f"{info.path}: step {info.iter_num:,}, dataset {info.dataset}; {rt.describe()}; seed {seed}")
    split, missing_book = find_text(info.dataset, info.text_sha256)
    index = None
    if split is not None and len(split) > MAX_SEARCH_TOKENS:
        index, missing_book = index_of(info.dataset, split)
        split = None
    book_ids, books, sections = index, [], None
    if split is not None:
        book_ids = split.tokens(0, len(split))
        books = shelved(book_ids, split.documents, tokenizer)
        sections = book_sections(books, split.documents)
    elif index is not None:
        notice(f"drafts and citations are from the index of dataset {info.dataset}, {len(index):,} tokens")
    else:
        notice(f"without its book, prompts are tokenised as typed and sampling is slower: {missing_book}")
    reader = Reader(model, allowed_ids(info.corpus_ids, tokenizer.vocab_size), rt.dtype, book_ids=book_ids)
    book_text = "".join(book.text for book in books)
    return LoadedModel(str(info.path), reader, tokenizer, book_text, missing_book, sections, books, split, index)


def load_base_reader(init_from: str, *, rt: Runtime, seed: int) -> LoadedModel:
    """The model that `init_from` names (pretrained.load_base), ready for sampling, without a book; prints which it is.

    seed: for that line only.
    """
    base = load_base(init_from)
    tokenizer = from_description(base.tokenizer_description, init_from)
    notice(f"{init_from}; {rt.describe()}; seed {seed}")
    allowed = allowed_ids(base.corpus_ids, tokenizer.vocab_size)
    reader = Reader(base.model.to(rt.device).eval(), allowed, rt.dtype)
    missing_book = f"init_from={init_from} does not say which text that model was trained on"
    return LoadedModel(init_from, reader, tokenizer, "", missing_book)
