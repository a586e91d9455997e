"""Spans of a text that occur in the book are found with chapter and line, and nothing else is."""

import random
import time

import pytest
from conftest import STORY

from llm.reading.cite import MIN_WORDS, BookIndex, Section
from llm.text.headings import find_chapters

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


@pytest.mark.parametrize(
    "heading",
    ["Chapter the First", "Book 2: Away", "Zweites Kapitel", "Глава вторая", "第二章", "Chapitre IV", "Capítulo 3"],
)
def test_a_heading_names_the_chapter(heading):
    words = "a b c d e f g h"
    assert BookIndex(f"before\n\n{heading}\n\n{words}").spans(words)[0].where() == f"{heading}, line 5"


@pytest.mark.parametrize(
    "headings", [("I", "II"), ("1", "2"), ("I. The Fox", "II. The Rope"), ("THE FOX", "ROPES", "A KEY")]
)
def test_numbers_in_sequence_and_titles_in_capitals_name_chapters(headings):
    text = "".join(f"{heading}\n\nsome words for {heading}\n\n" for heading in headings) + "a b c d e f g h"
    assert BookIndex(text).spans("a b c d e f g h")[0].chapter == headings[-1]


@pytest.mark.parametrize(
    "line",
    [
        "It was late.",
        "chapters are long",
        "I went, and so did he",
        "THE GREEN DOOR",
        "Act now, he thought, and not tomorrow.",
    ]
    + ["Part of her wanted to go home again.", "Book in hand, she left.", "XIV", "1943"],
)
def test_other_lines_name_no_chapter(line):
    before = "he saw\n" if line.isupper() else "\n"  # a heading stands alone
    assert BookIndex(f"x\n{before}{line}\n\na b c d e f g h").spans("a b c d e f g h")[0].chapter == ""


@pytest.mark.parametrize(
    "headings",
    [
        ("Kapitel eins", "Kapitel zwei"),
        ("Första kapitlet", "Andra kapitlet"),
        ("Kapitola první", "Kapitola druhá"),
        ("Κεφάλαιο Α΄", "Κεφάλαιο Β΄"),
        ("פרק א", "פרק ב"),
        ("पहला अध्याय", "दूसरा अध्याय"),
        ("Chương 1", "Chương 2"),
        ("Глава двадцать первая", "Глава двадцать вторая"),
        ("Chapter 1 The Ferry", "Chapter 2 The Rope"),
        ("一", "二", "三"),
        ("一、钟楼", "二、水井", "三、钥匙"),
        ("その一", "その二"),
        ("1장", "2장"),
        ("제 일 장", "제 이 장"),
        ("第壹章", "第贰章"),
        ("ตอนที่ 1", "ตอนที่ 2"),
        ("Hồi thứ nhất", "Hồi thứ hai"),
        ("Поглавље 1", "Поглавље 2"),
        ("Ch. 1", "Ch. 2"),
        ("Capitolo primo", "Capitolo secondo", "Capitolo terzo"),
    ],
)
def test_headings_of_other_languages_are_known_by_their_common_keyword_or_sequence(headings):
    text = "\n\n".join(f"{heading}\n\nHe came, and she left." for heading in headings)
    assert [chapter.title for chapter in find_chapters(text)] == [*headings]


@pytest.mark.parametrize(
    "line",
    [
        "一",
        "Part V. was wrong.",
        "Partie de chasse",
        "第二天早上，他走了。",
        "First act: she sang",
        "Akt der Liebe",
        "Teil seiner Seele",
    ],
)
def test_one_short_line_that_looks_like_a_number_is_no_chapter(line):
    assert find_chapters(f"He came.\n\n{line}\n\nHe left.\n") == []


def test_a_sentence_beside_numbered_chapters_is_none():
    """ "The head of the family was silent" begins with the word for chapter."""
    lines = ["Глава 1", "Глава семьи молчал", "Глава 2"]
    text = "\n\n".join(f"{line}\n\nОн пришёл, и она ушла." for line in lines)
    assert [chapter.title for chapter in find_chapters(text)] == ["Глава 1", "Глава 2"]


CHINESE = "老渡船夫有三根绳子，他给每根绳子都起了一个名字，都是他从来没有见过的河流的名字。\n水浅的时候他拉第一根。\n"


def test_a_text_without_spaces_is_cited_by_characters():
    """A recitation word for word was "0 of 1 words": a whole paragraph was one word."""
    (span,) = BookIndex(CHINESE).spans(CHINESE)
    assert (span.start, span.end, span.words) == (0, len(CHINESE) - 1, len("".join(CHINESE.split())))
    text = "从前" + CHINESE[10:40] + "吗？"
    (span,) = BookIndex(CHINESE).spans(text)
    assert text[span.start : span.end] == CHINESE[10:40] and span.line == 1


def test_fewer_than_16_characters_without_spaces_are_no_span():
    assert BookIndex(CHINESE).spans(CHINESE[:15]) == [] and len(BookIndex(CHINESE).spans(CHINESE[:16])) == 1


def test_the_book_and_chapter_of_meta_json_are_named():
    text = "a b c d e f g h\n\nz\n\ni j k l m n o p\n\nq r s t u v w x\n"
    second = text.index("i j")
    sections = [Section(0, "One"), Section(second, "Two"), Section(text.index("q r"), "Two", "The Rope")]
    spans = BookIndex(text, sections).spans("a b c d e f g h, i j k l m n o p, q r s t u v w x.")
    assert [s.where() for s in BookIndex(text, sections).spans("i j k l m n o p")] == ["Two, line 1"]
    assert [s.where() for s in BookIndex(text, sections).spans("q r s t u v w x")] == ["Two, The Rope, line 3"]
    assert spans == []  # a comma belongs to its word


def by_search(book, text):
    """[(start, number of words, index in the book)] of the spans, found by comparing with all of the book's words."""
    words, found, n = text.split(), [], 0
    while n <= len(words) - MIN_WORDS:
        best, where = 0, 0
        for first in range(len(book)):
            length = 0
            while n + length < len(words) and book[first + length : first + length + 1] == [words[n + length]]:
                length += 1
            if length > best:
                best, where = length, first
        if best >= MIN_WORDS:
            found.append((n, best, where))
        n += best if best >= MIN_WORDS else 1
    return found


def test_the_longest_match_is_found_in_books_that_repeat_themselves():
    chance, n_found = random.Random(2), 0
    for _ in range(300):
        letters = chance.choice(["ab", "abc", "abcdef"])
        book = [chance.choice(letters) for _ in range(chance.randrange(0, 90))]
        words = [chance.choice(letters + "z") for _ in range(40)] + book[10:50] + ["z"] + book[5:30]
        index, text = BookIndex("\n".join(book)), " ".join(words)
        expected = [(2 * n, length, f"line {where + 1:,}") for n, length, where in by_search(book, text)]
        assert [(span.start, span.words, span.where()) for span in index.spans(text)] == expected
        n_found += len(expected)
    assert n_found > 300


def test_a_text_takes_time_in_proportion_to_its_length():
    """120,000 words took 67 s; a book of one sentence again and again must not be slow either."""
    sentence = "All work and no play makes Jack a dull boy\n"
    for book, text in ((STORY, "ab " * 60_000), (STORY, STORY * 5), (sentence * 3000, sentence * 3000)):
        index = BookIndex(book)
        began = time.perf_counter()
        index.spans(text)
        assert time.perf_counter() - began < 3
