"""Cleaning and unwrapping a text."""

import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.text.gutenberg import strip_gutenberg
from llm.text.scan import clean_scan
from llm.text.unwrap import unwrap

PARAGRAPHS = [
    "The ferry left the north bank a little after six, and nobody on it spoke. There was a goat, two sacks of salt, "
    "a girl with a lantern that had gone out, and the ferryman, who had crossed so often that he no longer looked at "
    "the water but only at the sky above it, where he said the real river was.",
    "Halfway over, the rope began to hum. The girl had heard of this from her uncle, who heard it once and moved "
    "inland for good. She put down the lantern and held the goat by its collar, since somebody ought to be held.",
    '"It only sings when the moon pulls at it," said the ferryman, and then, because she did not seem to believe him, '
    "he sang the same note himself, quite softly, until the rope fell silent out of politeness.",
    "On the south bank a boy was waiting with a list. He wrote down the goat, the salt, the girl and the lantern, "
    "asked whether the lantern was to be entered as lit or unlit, and seemed to find the answer a great relief.",
]
BOOK = "\n\n".join(PARAGRAPHS) + "\n"
VERSE = """The heron stands where the river bends,
And counts the boats that pass;
He has no enemies, no friends,
No letters and no looking-glass.

The ferry comes, the ferry goes,
The rope hums in the rain;
And all the things a heron knows
He never tells again.
"""


def wrapped(width: int = 72) -> str:
    return "\n\n".join(textwrap.fill(p, width, break_on_hyphens=False) for p in PARAGRAPHS) + "\n"


def printed_width(word: str) -> float:
    """Width in a proportional font, in average letters."""
    return sum(0.5 if c in "iljtf.,'\"" else 1.4 if c in "mwMW" else 1.0 for c in word)


def typeset(paragraph: str, width: float = 62) -> list[str]:
    """Lines of equal width in a printed book, and so of different lengths in characters."""
    lines, used = [""], 0.0
    for word in paragraph.split():
        if used + printed_width(word) > width:
            lines, used = [*lines, ""], 0.0
        lines[-1] = f"{lines[-1]} {word}".strip()
        used += printed_width(word) + 0.7
    return lines


# ---------------------------------------------------------------------------------------------------------------------
# strip_gutenberg

HEADER = "The Project Gutenberg EBook of The Ferry, by Nobody\n\nThis eBook is for the use of anyone anywhere.\n\n"
LICENCE = "\n\nUpdated editions will replace the previous one.\n"


@pytest.mark.parametrize(
    "start",
    [
        "*** START OF THE PROJECT GUTENBERG EBOOK THE FERRY ***",
        "***START OF THIS PROJECT GUTENBERG EBOOK THE\nFERRY, AND OTHER TALES OF THE RIVER***",
        "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*",
    ],
)
@pytest.mark.parametrize(
    "end",
    [
        "*** END OF THE PROJECT GUTENBERG EBOOK THE FERRY ***",
        "End of the Project Gutenberg EBook of Ferry, by\nNobody\n\n*** END OF THIS PROJECT GUTENBERG EBOOK FERRY ***",
        "End of Project Gutenberg's The Ferry, by Nobody",
    ],
)
def test_removes_project_gutenbergs_header_and_licence(start, end):
    text, notes = strip_gutenberg(f"{HEADER}{start}\n\n\n{BOOK}\n\n{end}{LICENCE}")
    assert text == BOOK and len(notes) == 2


def test_a_text_without_header_and_licence_is_unchanged():
    text = BOOK + "\n*** THE END ***\n"
    assert strip_gutenberg(text) == (text, [])


# ---------------------------------------------------------------------------------------------------------------------
# clean_scan


def scanned(pages: list[str], mark: str = "{}") -> str:
    return "\n\n".join(f"{page}\n\n{mark.format(n)}" for n, page in enumerate(pages, 11)) + "\n"


PAGES = [
    "The ferry left the north bank a little after\nsix, and nobody on it",
    "spoke. There was a goat.\n\nHalfway over, the rope began to hum.",
    "The girl had heard of this from her uncle,",
    "who heard it once and moved inland for good.",
]


@pytest.mark.parametrize("mark", ["{}", "- {} -", "[{}]", "  — {} —  "])
def test_removes_page_numbers_and_joins_sentences_across_pages(mark):
    text, notes = clean_scan(scanned(PAGES, mark))
    assert text.split() == " ".join(PAGES).split()
    assert "nobody on it\nspoke." in text and "to hum.\n\nThe girl" in text and "uncle,\nwho" in text
    assert "page numbers removed: 4" in notes


def test_removes_form_feeds_and_the_numbers_beside_them():
    text, notes = clean_scan("One page.\n1\n\f2\nAnother page, which goes\n\n3\n\fon here.\n")
    assert text == "One page.\n\nAnother page, which goes\non here.\n"
    assert notes == ["form feeds removed: 2", "page numbers removed: 3"]


def test_a_year_alone_on_a_line_is_kept():
    assert "\n1943\n" in clean_scan(scanned([*PAGES, "THE FERRY\n\n1943\n\nFor my uncle."]))[0]


def test_chapter_numbers_are_kept():
    text = "\n\n".join(f"{n}\n\n{paragraph}" for n, paragraph in enumerate(PARAGRAPHS, 1))
    assert clean_scan(text) == (text, [])


def test_a_chapter_number_among_page_numbers_is_kept():
    pages = [*PAGES, "Nothing else was said.\n\n\n4\n\nOn the south bank a boy was", "waiting with a list."]
    assert "\n4\n\nOn the south" in clean_scan(scanned(pages))[0]


def test_a_number_inside_a_paragraph_is_kept():
    text = "They counted\n12\nand then\n13\nand then\n14\nherons.\n"
    assert clean_scan(text) == (text, [])


def test_trailing_spaces_and_long_gaps_are_removed():
    text, notes = clean_scan("One. \nTwo.\t\n\n\n\n\nThree.\n")
    assert (text, notes) == ("One.\nTwo.\n\n\nThree.\n", ["trailing spaces removed: 2", "long gaps removed: 1"])


@settings(max_examples=300, deadline=None, database=None)
@given(st.lists(st.sampled_from(["12", "- 3 -", "[4]", "5", "6", "IV", "a b", "Ä.", " ", "\f", "\n", "\n\n", "1943"])))
def test_clean_scan_keeps_every_letter(parts):
    text = "\n".join(parts)
    assert [c for c in clean_scan(text)[0] if c.isalpha()] == [c for c in text if c.isalpha()]


# ---------------------------------------------------------------------------------------------------------------------
# unwrap


@pytest.mark.parametrize("width", [45, 60, 72, 79])
def test_joins_wrapped_lines_into_the_original_paragraphs(width):
    assert unwrap(wrapped(width))[0] == BOOK


def test_the_note_counts_the_joined_lines():
    assert unwrap(wrapped())[1] == [f"wrapped lines joined: {wrapped().count(chr(10)) - BOOK.count(chr(10))}"]


def test_joins_the_ragged_lines_of_a_printed_page():
    scan = "\n\n".join(" \n".join(typeset(paragraph)) for paragraph in PARAGRAPHS) + "\n"
    assert len({len(line) for line in scan.split("\n")}) > 8, "not ragged"
    assert unwrap(scan)[0] == BOOK


def test_paragraphs_on_one_line_each_are_unchanged():
    for text in (BOOK, BOOK.replace("\n\n", "\n")):
        assert unwrap(text) == (text, [])


def test_verse_is_unchanged():
    assert unwrap(VERSE) == (VERSE, [])


def test_verse_without_capitals_is_unchanged():
    assert unwrap(VERSE.lower()) == (VERSE.lower(), [])


def test_a_play_in_verse_is_unchanged():
    play = f"FERRYMAN:\n{VERSE}\nGIRL:\n{VERSE}"
    assert unwrap(play) == (play, [])


def test_verse_headings_and_short_lines_inside_a_wrapped_book_are_unchanged():
    letter = "The Ferry House,\nSouth Bank,\nthe third of May.\n\nDear uncle,\n\nthe goat is well.\n"
    items = "1. a goat\n2. two sacks of salt, of which one had already been opened by the\n3. ferryman\n"
    other = f"CHAPTER II\nThe Rope\n\n{VERSE}\n{letter}\n{items}"
    assert unwrap(f"{wrapped()}\n{other}\n{wrapped()}")[0] == f"{BOOK}\n{other}\n{BOOK}"


def test_a_table_of_contents_is_unchanged():
    contents = "\n".join(f"{title} ".ljust(68, ".") + f" {n:3}" for n, title in enumerate(["rope", "list", "salt"]))
    assert unwrap(f"{contents}\n\n{wrapped()}")[0] == f"{contents}\n\n{BOOK}"


def test_an_indented_line_begins_a_paragraph():
    indented = [textwrap.fill(p, 72, initial_indent="   ", break_on_hyphens=False) for p in PARAGRAPHS]
    assert unwrap("\n".join(indented))[0] == "\n".join("   " + p for p in PARAGRAPHS)


def test_dialogue_without_blank_lines_is_not_joined():
    talk = '"Is it far?" asked the girl.\n"It is as far as it is wide," said the ferryman.\n"And back?"\n'
    assert unwrap(f"{wrapped()}\n{talk}")[0] == f"{BOOK}\n{talk}"


def test_a_line_that_an_editor_shortened_is_joined_too():
    assert "nobody on it spoke. There was a goat, two\n" in wrapped(50), "the change below is not in the middle"
    shortened = wrapped(50).replace("There was a goat, two\n", "A goat, two\n")
    assert unwrap(shortened)[0] == BOOK.replace("There was a goat, two", "A goat, two")


def hyphenated(first: str, second: str, elsewhere: str = "") -> str:
    """The paragraph unwrapped from lines of which one ends with `first` and the next begins with `second`."""
    lines = wrapped().split("\n")
    lines[1] = lines[1][: 71 - len(first)] + " " + first
    return unwrap("\n".join([*lines[:2], second + " " + lines[2], *lines[3:], elsewhere]))[0].split("\n")[0]


def test_a_hyphen_is_removed_if_the_text_has_the_whole_word_elsewhere():
    assert " lantern the " not in BOOK and " something " in hyphenated("some-", "thing", "Something else.")


def test_a_hyphen_is_kept_if_the_text_never_has_the_whole_word():
    assert " lantern-light " in hyphenated("lantern-", "light")


def test_a_dash_gets_no_space():
    assert " rope--which " in hyphenated("rope--", "which") and " rope—which " in hyphenated("rope—", "which")


def test_a_dash_between_spaces_keeps_them():
    assert " rope -- which " in hyphenated("rope --", "which")


@settings(max_examples=300, deadline=None, database=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(["", "", "  indented line", "1. item", "some-", "THE END", "word--", "a\tb"]),
            st.sampled_from(VERSE.split("\n")),
            st.text(st.sampled_from("ab  -.A"), max_size=90),
            st.sampled_from(wrapped(60).split("\n")),
        ),
        max_size=40,
    )
)
def test_unwrap_keeps_all_but_line_ends_and_hyphens_and_is_idempotent(lines):
    text = "\n".join(lines)
    once = unwrap(text)[0]
    assert "".join(once.split()).replace("-", "") == "".join(text.split()).replace("-", "")
    assert unwrap(once)[0] == once


@settings(max_examples=50, deadline=None, database=None)
@given(st.integers(42, 100))
def test_unwrap_restores_the_book_at_any_width(width):
    assert unwrap(wrapped(width)) == (BOOK, unwrap(wrapped(width))[1])
