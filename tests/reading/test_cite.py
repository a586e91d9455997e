"""Spans of a text that occur in the book are found with chapter and line, and nothing else is."""

import pytest
from conftest import STORY

from llm.reading.cite import MIN_WORDS, BookIndex

BOOK = BookIndex(
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


def test_a_span_is_found_with_its_chapter_and_line():
    text = "He said: the well behind it was dry as a bone in April"
    assert spans(text) == [("the well behind it was dry as a bone in", 10, "CHAPTER II, line 10")]


def test_white_space_is_ignored_and_everything_else_must_match():
    assert spans("the well\n  behind it\twas dry as a bone")[0][1] == 9
    assert spans("The well behind it was dry as a") == []
    assert spans("the well, behind it was dry as a") == []


def test_fewer_than_8_words_are_no_span():
    assert MIN_WORDS == 8
    assert spans("well behind it was dry as a") == [] and len(spans("well behind it was dry as a bone")) == 1


def test_of_several_occurrences_the_longest_match_counts():
    assert spans("One two three four five six seven eight, said the fox, but")[0][1:] == (11, "CHAPTER II, line 11")
    assert spans("One two three four five six seven eight nine")[0][1:] == (9, "CHAPTER I, line 5")


def test_a_span_may_run_across_lines_and_chapters():
    (found,) = spans("nine ten. Eleven twelve thirteen. CHAPTER II A wall stood there, and")
    assert found[1:] == (12, "CHAPTER I, line 5")


def test_parts_of_words_do_not_match():
    assert spans("ne two three four five six seven eight") == []
    assert spans("One two three four five six seven eig") == []


def test_the_pieces_are_the_spans_and_the_text_between_them():
    text = "So: two three four five six seven eight nine no wall stood there, and the well behind it was"
    pieces = BOOK.pieces(text)
    assert "".join(piece for piece, _ in pieces) == text
    assert [(piece, span is not None) for piece, span in pieces] == [
        ("So: ", False),
        ("two three four five six seven eight nine", True),
        (" no ", False),
        ("wall stood there, and the well behind it was", True),
    ]
    assert BOOK.pieces("") == [] and BOOK.pieces("no such words") == [("no such words", None)]


def test_a_whole_book_cites_itself():
    (span,) = BookIndex(STORY).spans(STORY)
    first_line = next(n for n, line in enumerate(STORY.split("\n"), 1) if line.strip())
    assert span.words == len(STORY.split()) and span.line == first_line


@pytest.mark.parametrize("heading", ["Chapter the First", "IV", "XII. The Fox", "7", "THE GREEN DOOR", "Book 2: Away"])
def test_a_heading_names_the_chapter(heading):
    words = "a b c d e f g h"
    assert BookIndex(f"before\n\n{heading}\n\n{words}").spans(words)[0].where() == f"{heading}, line 5"


@pytest.mark.parametrize("line", ["It was late.", "chapters are long", "I went, and so did he", "THE GREEN DOOR"])
def test_other_lines_name_no_chapter(line):
    before = "he saw\n" if line.isupper() else "\n"  # a heading stands alone
    assert BookIndex(f"x\n{before}{line}\n\na b c d e f g h").spans("a b c d e f g h")[0].chapter == ""
