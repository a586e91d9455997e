"""Markup is split as browsers do, whatever never closes in it."""

import time

import pytest

from llm.text.html import html_book
from llm.text.tags import End, Start, markup_events


@pytest.mark.parametrize(
    "markup, events",
    [
        ("<p class=a>x &amp; y<br/></p>", [Start("p", {"class": "a"}), "x & y", Start("br", {}, True), End("p")]),
        ("<A HREF='a>b' c d=\"e\">x</A >", [Start("a", {"href": "a>b", "c": "", "d": "e"}), "x", End("a")]),
        ('<a b="1"c=2 b="3" d=e/>', [Start("a", {"b": "1", "c": "2", "d": "e/"}, True)]),
        ("a < b <3 & c", ["a < b <3 & c"]),
        ("a<!-- x > y --->b<!-->c<!DOCTYPE html>d<?pi x?>e</ f>g", ["a", "b", "c", "d", "e", "g"]),
        ("<script>a<b>'</p>'</script >c", [Start("script", {}), "a<b>'</p>'", End("script"), "c"]),
        ("<title>a <b> &amp; c</title>d", [Start("title", {}), "a <b> & c", End("title"), "d"]),
        # what never closes
        ("a <b", ["a <b"]),
        ("a<!-- b", ["a<!-- b"]),
        ("a<!-- b>c", ["a", "c"]),
        ("a<b c='d>e", ["a", Start("b", {"c": "d"}), "e"]),
        ("<a b='\"><c d=\">e'>f", [Start("a", {"b": '"><c d=">e'}), "f"]),
        ("<title>a", [Start("title", {}), "", End("title"), "a"]),
        ("<script>a", [Start("script", {}), "a", End("script")]),
        ("&#" + "1" * 5_000 + ";&#x110000;&#38;&eacute", ["\ufffd\ufffd&é"]),
    ],
)
def test_a_page_is_split_into_tags_and_text(markup, events):
    assert list(markup_events(markup)) == events


BEGINNINGS = ["<a ", '<a b="', "<!--", "<!", "</", "<title>", "<div>x", "<td>", "<li>x", "<a b='x\" ", "<title>x</b>"]
BEGINNINGS += ['<a c="x" d=\'', "<p><b>", "<a epub:type=noteref>1", "<![CDATA[", "</div>", "<header>", "<pre> x\n\n"]


@pytest.mark.parametrize("end", ["", "'>"])
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_what_never_closes_takes_time_in_proportion_to_its_length(beginning, end):
    """Each beginning was searched to the end of the page: 100 KB of them took a minute."""
    began = time.process_time()
    book = html_book(f"<html><body><p>The ferry left.</p>{beginning * (40_000 // len(beginning))}{end}")
    assert time.process_time() - began < 3
    assert book.text.startswith("The ferry left.")


def test_a_page_with_more_open_elements_than_are_remembered_keeps_its_text():
    words = [f"word{n}" for n in range(2_000)]
    assert html_book("<html>" + "".join(f"<div>{word}" for word in words)).text.split() == words
    nested = "<html>" + "<b>" * 2_000 + "bold" + "</b>" * 2_000 + "<nav>x</nav><p>plain"
    assert html_book(nested).text == "bold\n\nplain\n"
