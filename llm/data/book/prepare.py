"""Write data/NAME/: one book or several as tokens, for `train.py config/train_prince.py --dataset=NAME`.

    python data/book/prepare.py my_book.epub --dataset=my_book
    python data/book/prepare.py https://example.org/a.txt --dataset=a
    python data/book/prepare.py first.epub second.txt --dataset=shelf
    python data/book/prepare.py chapters/ --dataset=my_book

A book is plain text in any encoding, Markdown, HTML, EPUB, DOCX, ODT, FB2 or PDF, also packed (gzip, zip, bzip2, xz); a
folder or a pattern of such files, an address, or standard input (-). It is learned exactly as it is, but Project
Gutenberg's header and licence are removed, and wrapped lines joined.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # this clone's package, installed or not
from llm.configurator import Fraction, UserError, Words, command, run_script
from llm.text.book import Book, move_chapters
from llm.text.control_characters import is_blank
from llm.text.dataset import data_folder, write_dataset
from llm.text.download import download, public_address
from llm.text.encodings import checked_encoding
from llm.text.gutenberg import strip_gutenberg
from llm.text.headings import find_chapters
from llm.text.inputs import read_inputs
from llm.text.names import checked_name, has_script
from llm.text.page_lines import strip_page_lines
from llm.text.scan import clean_scan
from llm.text.unwrap import join_wrapped
from llm.text.vocabulary import choose_tokenizer

SCRIPT = "data/book/prepare.py"
HEADER = 10_000  # characters in which Project Gutenberg names title and author
GUTENBERG_FACTS = {
    "author": r"^Author:[ \t]*(\S.*)()$",
    "title": r"^Title:[ \t]*(\S.*)$|^\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG E\w+ ([^*]+?)\s*\*\*\*",
}
FRAME = re.compile(r"^\*\*\*.*\*\*\*[ \t]*$", re.M)  # the lines around a book


@dataclass(frozen=True)
class Settings:
    # the text
    input: Words = ()  # files, folders, patterns, addresses (http://, https://), - for standard input
    dataset: str | None = None  # the name of the dataset, a folder in data/
    encoding: str | None = None  # of plain text and HTML, such as windows-1252 or gb18030; None = recognised
    unwrap: bool = True  # join wrapped lines into paragraphs
    footnotes: bool = True  # keep footnotes, at the end of their chapter, in formats that mark them
    # the dataset
    tokenizer: str = "auto"  # gpt2, book, characters; auto = gpt2, or the book's own if gpt2's needs too many tokens
    val_fraction: Fraction = 0.0  # fraction of each book, at its end, that is written to val.bin


def hint_for(source: str) -> str:
    """What to type for a book that has no valid name yet, with a name derived from the source's."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", Path(source).stem).strip("_")[:40].lower() or "my_book"
    if has_script(name):
        name = f"my_{name}"
    return f"type {command(SCRIPT, f'--input={source}', f'--dataset={name}')}"


def cleaned(book: Book, *, unwrap: bool) -> Book:
    """The book without Project Gutenberg's additions, its wrapped lines joined if it is plain text."""
    original = book.text
    book.text, notes = strip_gutenberg(book.text)
    if len(book.text) < len(original):
        for name, pattern in GUTENBERG_FACTS.items():
            if found := re.search(pattern, original[:HEADER], re.M):
                setattr(book, name, " ".join((found[1] or found[2]).split()))
    if book.plain:
        book.text, page_notes = strip_page_lines(book.text)
        notes += page_notes
    if "\f" in book.text:  # pages
        book.text, scan_notes = clean_scan(book.text)
        notes += scan_notes
    if unwrap and book.plain:
        unwrapped = join_wrapped(book.text, hard_breaks=book.hard_breaks)
        book.text = unwrapped.text
        if unwrapped.joined:
            notes.append(f"wrapped lines joined: {unwrapped.joined:,} (to leave them as they are: --unwrap=False)")
            notes += [f"  {before!r} -> {after!r}" for before, after in unwrapped.examples]
    book.notes += notes
    if is_blank(FRAME.sub("", book.text)):
        raise UserError(f"{book.source.get('file', 'this')} holds nothing but Project Gutenberg's header and licence")
    book.chapters = move_chapters(book.chapters, original, book.text)
    if not book.chapters and book.plain:
        book.chapters = find_chapters(book.text)
    if len(book.chapters) > 1 and book.chapters[0].title.casefold() == book.title.casefold():
        del book.chapters[0]  # the title page
    return book


def read_books(settings: Settings, *, otherwise: str) -> list[Book]:
    """The books that the settings name, cleaned; otherwise: the command for a file, if an address has no answer."""
    checked_encoding(settings.encoding)
    by_hand = f"save the book as a file and type {otherwise}"
    books = read_inputs(
        settings.input,
        fetch=lambda url: download(url, max_bytes=100_000_000, by_hand=by_hand, timeout=120),
        encoding=settings.encoding,
        footnotes=settings.footnotes,
    )
    return [cleaned(book, unwrap=settings.unwrap) for book in books]


def write_books(settings: Settings, name: str, books: list[Book], train_command: tuple[str, ...] | None) -> None:
    """Write the dataset `name` and print its summary; train_command: arguments of train.py to suggest, if any."""
    files = ", ".join(book.source["file"] for book in books)
    write_dataset(
        data_folder(name),
        books,
        choose_tokenizer("\n".join(book.text for book in books), settings.tokenizer),
        val_fraction=settings.val_fraction,
        source=books[0].source if len(books) == 1 else {"file": files},
        notes=[f"read {files}"],
        train_command=train_command,
    )


def main(settings: Settings) -> None:
    if not settings.input:
        example = command(SCRIPT, "--input=my_book.txt", "--dataset=my_book")
        raise UserError(f"there is no text to prepare: expected a file or an address; type {example}")
    name = checked_name(settings.dataset, hint_for(public_address(settings.input[0])))
    books = read_books(settings, otherwise=command(SCRIPT, "--input=my_book.txt", f"--dataset={name}"))
    write_books(settings, name, books, ("config/train_prince.py", f"--dataset={name}", f"--out_dir=out-{name}"))


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
