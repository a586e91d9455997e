"""Files, folders, patterns, addresses and standard input become books."""

import hashlib
import io
import os
from types import SimpleNamespace

import pytest
from books import PARAGRAPHS, epub, page

from llm.configurator import UserError
from llm.text.formats import natural_key
from llm.text.inputs import read_inputs

BOOK = "\n\n".join(PARAGRAPHS) + "\n"


def read(*words, fetch=None):
    return read_inputs(words, fetch=fetch)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with ten chapters in chapters/ and two books in shelf/."""
    monkeypatch.chdir(tmp_path)
    for name in ("chapters", "shelf", "empty"):
        (tmp_path / name).mkdir()
    for n in range(1, 11):
        (tmp_path / "chapters" / f"chapter{n}.txt").write_text(f"This is chapter {n}.\n", encoding="utf-8")
    (tmp_path / "chapters" / "notes.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "shelf" / "a.epub").write_bytes(epub({"a.xhtml": page("<p>The first book.</p>")}))
    (tmp_path / "shelf" / "b.txt").write_text(BOOK, encoding="utf-8")
    return tmp_path


CHAPTERS = "\n\n".join(f"This is chapter {n}." for n in range(1, 11)) + "\n"


def test_names_are_sorted_as_people_do():
    names = ["b1", "chapter10", "chapter2", "Chapter1", "02", "1", "10"]
    assert sorted(names, key=natural_key) == ["1", "02", "10", "b1", "Chapter1", "chapter2", "chapter10"]


@pytest.mark.parametrize("word", ["chapters", "chapters/", "chapters/*.txt", "chapters/chapter[0-9]*.txt"])
def test_a_folder_or_a_pattern_of_chapters_is_one_book_in_natural_order(here, word):
    [book] = read(word)
    assert (book.text, book.title) == (CHAPTERS, "chapters")
    assert [source["file"] for source in book.source["files"]][:2] == ["chapter1.txt", "chapter2.txt"]


def test_chapters_that_the_shell_lists_are_one_book_in_natural_order(here):
    [book] = read(*sorted(f"chapters/chapter{n}.txt" for n in range(1, 11)))
    assert (book.text, book.title) == (CHAPTERS, "chapter")


def test_several_inputs_are_several_books(here):
    books = read("shelf/b.txt", "shelf/a.epub")
    assert [(book.title, book.text) for book in books] == [("b", BOOK), ("The Ferry", "The first book.\n")]
    assert [book.source["file"] for book in books] == ["b.txt", "a.epub"]


def test_a_folder_with_an_epub_in_it_holds_several_books(here):
    assert [book.title for book in read("shelf")] == ["The Ferry", "b"]


def test_home_and_file_addresses_are_understood(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    (here / "my book.txt").write_text(BOOK, encoding="utf-8")
    for word in ("~/my book.txt", f"file://{here}/my%20book.txt", f"FILE:{here}/my%20book.txt"):
        assert read(word)[0].text == BOOK


@pytest.mark.parametrize("word", ["-", "/dev/stdin"])
def test_standard_input_is_read_once_and_its_sha256_is_that_of_what_was_read(monkeypatch, word):
    """It was read twice; the second time it was empty, and so was the text of the hash."""
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(BOOK.encode())))
    [book] = read(word)
    assert book.text == BOOK and book.source["sha256"] == hashlib.sha256(BOOK.encode()).hexdigest()


class Unreadable(io.RawIOBase):
    def readall(self):
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    "stdin, reason",
    [(None, "it is closed"), (SimpleNamespace(buffer=Unreadable()), "Input/output error")],
    ids=["closed", "broken"],
)
@pytest.mark.parametrize("word", ["-", "/dev/stdin"])
def test_standard_input_that_cannot_be_read_is_one_line(monkeypatch, word, stdin, reason):
    """prepare.py - <&- ended with a traceback."""
    monkeypatch.setattr("sys.stdin", stdin)
    with pytest.raises(UserError, match=f"standard input cannot be read .{reason}.: expected a book"):
        read(word)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_as_the_shell_makes_it_is_read_once(tmp_path):
    reading, writing = os.pipe()
    os.write(writing, BOOK.encode())
    os.close(writing)
    [book] = read(f"/dev/fd/{reading}")
    os.close(reading)
    assert book.text == BOOK and book.source["sha256"] == hashlib.sha256(BOOK.encode()).hexdigest()


def test_an_address_is_fetched_whole_and_remembered_without_its_secrets():
    fetched = []

    def fetch(url):
        fetched.append(url)
        return BOOK.encode()

    url = "https://ada:pass@example.org/books/a%20b.txt?token=secret"
    [book] = read(url, fetch=fetch)
    assert fetched == [url] and book.title == "a b"
    assert "secret" not in str(book.source) and "pass" not in str(book.source)
    assert book.source["url"] == "https://example.org/books/a%20b.txt"


@pytest.mark.parametrize(
    "word, words",
    [
        ("nowhere.txt", "nowhere.txt cannot be read"),
        ("empty", "empty is a folder without texts or books in it"),
        ("*.rtf", "no file has such a name"),
        ("a\0b", "cannot be read"),
        ("~nobody-of-this-name/a.txt", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_one_line(here, word, words):
    with pytest.raises(UserError, match=words):
        read(word)
