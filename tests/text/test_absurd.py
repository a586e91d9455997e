"""Files made to be slow: what repeats in them for ever is read in time that is linear in its length."""

import time

import pytest
from books import epub, page

from llm.data.book.prepare import cleaned
from llm.text.formats import read_book

FERRY = "The ferry left the north bank a little after six, and nobody on it spoke.\n\n"
NAVIGATION = '<item id="n" href="nav.xhtml" properties="nav" media-type="application/xhtml+xml"/>'


def html(repeated: str) -> bytes:
    return f"<html><body><p>{FERRY}</p>{repeated * (100_000 // len(repeated))}b</body></html>".encode()


def navigation(repeated: str) -> bytes:
    nav = f"<html><body>{repeated * (100_000 // len(repeated))}</body></html>"
    return epub({"a.xhtml": page(f"<p>{FERRY}</p>")}, extra={"OEBPS/nav.xhtml": nav}, opf=NAVIGATION)


FILES = {
    "a form feed and spaces": f"{FERRY}\f{' ' * 50_000}y\n".encode(),
    "spaces in a heading": f"{FERRY}# a{' ' * 50_000}b\n".encode(),
    "marks in a heading": f"{FERRY}# {'*a ' * 20_000}b\n".encode(),
    "spaces in front matter": f"---\ntitle: a{' ' * 50_000}b\n---\n\n{FERRY}".encode(),
    "spaces in a page": html(" "),
    "unclosed data in a page": html("<![CDATA["),
    "unclosed data in FB2": b"<?xml version='1.0'?><FictionBook><body>" + FERRY.encode() + b"<binary>" * 12_000,
    "unclosed navigation": navigation("<nav>"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_made_to_be_slow_takes_a_second(name):
    """50,000 spaces after a form feed took a minute, 800 in a heading two seconds, 1,600 sixteen."""
    began = time.process_time()
    assert "The ferry" in cleaned(read_book(FILES[name], name="x"), unwrap=True).text
    assert time.process_time() - began < 2


def test_headings_and_front_matter_are_read_as_before():
    front = '---\ntitle: "The Ferry: A Tale"\nauthor : A. Nobody\nlang: en\n---\n\n'
    book = read_book(f"{front}# One ##\n\nText.\n\n## *Two* # #\n\nText.\n".encode(), name="x")
    assert (book.title, book.author) == ("The Ferry: A Tale", "A. Nobody")
    assert [chapter.title for chapter in book.chapters] == ["One", "Two #"]
