"""What stands in the book is found, with its place; what does not is not."""

import pytest
from conftest import STORY

from llm.reading.cite import MIN_WORDS, Book

BOOK = Book(
    """THE TALE

CHAPTER I

One two three four five six seven eight nine ten.
Eleven twelve thirteen.

CHAPTER II

A wall stood there, and the well behind it was dry as a bone in August.
One two three four five six seven eight, said the fox, and no more.
"""
)


def spans(text):
    return [(text[s.start : s.end], s.words, s.where()) for s in BOOK.spans(text)]


def test_a_span_is_found_where_it_stands():
    text = "He said: the well behind it was dry as a bone in April"
    assert spans(text) == [("the well behind it was dry as a bone in", 10, "CHAPTER II, line 10")]


def test_white_space_does_not_count_and_all_else_does():
    assert spans("the well\n  behind it\twas dry as a bone")[0][1] == 9
    assert spans("The well behind it was dry as a") == []
    assert spans("the well, behind it was dry as a") == []


def test_fewer_words_than_8_are_no_span():
    assert MIN_WORDS == 8
    assert spans("well behind it was dry as a") == [] and len(spans("well behind it was dry as a bone")) == 1


def test_of_several_places_the_one_that_agrees_longest_counts():
    assert spans("One two three four five six seven eight, said the fox, but")[0][1:] == (11, "CHAPTER II, line 11")
    assert spans("One two three four five six seven eight nine")[0][1:] == (9, "CHAPTER I, line 5")


def test_a_span_may_run_over_lines_and_chapters():
    (found,) = spans("nine ten. Eleven twelve thirteen. CHAPTER II A wall stood there, and")
    assert found[1:] == (12, "CHAPTER I, line 5")


def test_parts_of_words_are_no_words():
    assert spans("ne two three four five six seven eight") == []
    assert spans("One two three four five six seven eig") == []


def test_several_spans_and_what_is_between():
    text = "So: two three four five six seven eight nine no wall stood there, and the well behind it was"
    pieces = BOOK.cut(text)
    assert "".join(piece for piece, _ in pieces) == text
    assert [(piece, span is not None) for piece, span in pieces] == [
        ("So: ", False),
        ("two three four five six seven eight nine", True),
        (" no ", False),
        ("wall stood there, and the well behind it was", True),
    ]
    assert BOOK.cut("") == [] and BOOK.cut("no such words") == [("no such words", None)]


def test_a_whole_book_cites_itself():
    book = Book(STORY)
    (span,) = book.spans(STORY)
    assert span.words == len(STORY.split()) and span.line == next(
        n for n, line in enumerate(STORY.split("\n"), 1) if line.strip()
    )


@pytest.mark.parametrize("heading", ["Chapter the First", "IV", "XII. The Fox", "7", "THE GREEN DOOR", "Book 2: Away"])
def test_headings_name_their_chapter(heading):
    words = "a b c d e f g h"
    assert Book(f"before\n\n{heading}\n\n{words}").spans(words)[0].where() == f"{heading}, line 5"


@pytest.mark.parametrize("line", ["It was late.", "chapters are long", "I went, and so did he", "THE GREEN DOOR"])
def test_other_lines_do_not(line):
    before = "he saw\n" if line.isupper() else "\n"  # a heading stands alone
    assert Book(f"x\n{before}{line}\n\na b c d e f g h").spans("a b c d e f g h")[0].chapter == ""
