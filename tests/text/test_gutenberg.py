"""Project Gutenberg's additions are removed in every form, and nothing else."""

import itertools
import time

import pytest

from llm.text.gutenberg import strip_gutenberg

BOOK = "\n\n".join(
    [
        "The ferryman at Orlow kept three ropes, and he named each of them after\na river that he had never seen.",
        "One evening in the wet part of autumn a woman came down the path with a\nlantern and a sack of onions.",
        "Half way over the rope began to sing. It was a thin note, like a wet\nfinger on a glass, and it went on.",
    ]
    * 12
)
FRONT = (
    "The Project Gutenberg Etext of The Third Rope, by A. Nobody\n\nCopyright laws are changing all over the world, so "
    "check yours.\n\nPlease take a look at the important information in this header.\nWe encourage you to keep this "
    "file on your own disk.\n\n"
)
SMALL_PRINT = (
    "**The Legal Small Print**\n\n(Three Pages)\n\n***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\n"
    'Why is this "Small Print!" statement here? You know: lawyers.\n\n'
    "*END THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.02/11/02*END*"
)
START = "*** START OF THE PROJECT GUTENBERG EBOOK THE THIRD ROPE ***"
END = "*** END OF THE PROJECT GUTENBERG EBOOK THE THIRD ROPE ***"
LICENCE = "\n\nUpdated editions will replace the previous one. " + "Project Gutenberg-tm is a trademark. " * 300


@pytest.mark.parametrize(
    "start",
    [
        START,
        f"  {START}  ",
        "***START OF THIS PROJECT GUTENBERG EBOOK THE THIRD ROPE***",
        "*** START OF THE PROJECT GUTENBERG EBOOK THE THIRD ROPE, BEING THE\nHISTORY OF A FERRY ***",
        "*** START OF THE PROJECT GUTENBERG EBOOK THE * THIRD ROPE ***",
        "*** START DES PROJEKTS GUTENBERG-EBOOKS DAS DRITTE SEIL ***",
        "*** DÉBUT DU PROJET GUTENBERG LA TROISIÈME CORDE ***",
        f"{FRONT}{START}",
        f"{FRONT}{SMALL_PRINT}",
        FRONT,
        f"{FRONT}This header should be the first thing seen.\n\nTitle: The Third Rope\n\n\nProduced by a volunteer",
        f"{START}\n\n\n\nProduced by A. Nobody and the Online Team",
        f"{START}\n\n[Transcriber's note: old spelling\nhas been kept.]",
        f"{START}\n\nThis etext was produced by A. Nobody.\n\nTranscriber’s Note: old spelling.",
    ],
)
@pytest.mark.parametrize(
    "end",
    [
        END,
        f"  {END}  \nlicence",
        f"{END}{LICENCE}",
        f"End of the Project Gutenberg EBook of The Third Rope, by A. Nobody\n\n{END}{LICENCE}",
        "End of Project Gutenberg's The Third Rope, by A. Nobody",
        "End of The Project Gutenberg's Etext of The Third Rope",
        "Ende dieses Projekt Gutenberg Etextes Das dritte Seil, von A. Nobody",
        "Slut på Project Gutenberg-boken Det tredje repet",
        "The End of the Project Gutenberg Etext of The Third Rope",
        "Fin du Projet Gutenberg de La troisième corde,\npar A. Nobody",
        "*** ENDE DES PROJEKTS GUTENBERG-EBOOKS DAS DRITTE SEIL ***\n\nLizenz",
        f"{END}\n\nThis file should be named rope10.txt or rope10.zip\n\n{SMALL_PRINT}",
        f"End of the Project Gutenberg Etext of The Third Rope\n\n{SMALL_PRINT}\n\n[Portions may be reprinted]",
        SMALL_PRINT,
    ],
)
def test_the_book_is_what_stands_between_header_and_licence(start, end):
    text, notes = strip_gutenberg(f"{start}\n\n\n{BOOK}\n\n\n{end}\n")
    assert text == BOOK + "\n" and notes[:2] == [
        "Project Gutenberg's header removed",
        "Project Gutenberg's licence removed",
    ]


def test_licences_between_several_books_are_removed():
    one = f"{FRONT}{START}\n\n{BOOK}\n\n{END}{LICENCE}\n\n"
    assert strip_gutenberg(one * 3)[0] == "\n\n\n".join([BOOK] * 3) + "\n"
    old = f"{FRONT}{SMALL_PRINT}\n\n{BOOK}\n\nEnd of the Project Gutenberg Etext of The Third Rope\n\n"
    assert strip_gutenberg(old * 3)[0] == "\n\n\n".join([BOOK] * 3) + "\n"


def test_books_with_old_and_new_frames_in_one_file_are_all_kept():
    """A book whose header has no START line was removed as a part of the licence before it, or kept its header."""
    end = "End of the Project Gutenberg Etext of X"
    forms = [
        f"{FRONT}Title: X\n\nProduced by a volunteer\n\n\n{BOOK}\n\n{end}\n\n{SMALL_PRINT}",
        f"{FRONT}{SMALL_PRINT}\n\n{BOOK}\n\n{end}",
        f"{FRONT}{START}\n\n{BOOK}\n\n{END}{LICENCE}",
        f"{START}\n\n{BOOK}\n\n{END}",
    ]
    for n in (2, 3):
        for several in itertools.product(forms, repeat=n):
            text, _ = strip_gutenberg("\n\n".join(several) + "\n")
            assert text == "\n\n\n".join([BOOK] * n) + "\n"


@pytest.mark.parametrize(
    "own",
    ["The Project Gutenberg of her youth was a shed by the river.", "End of Project Gutenberg's first winter"],
)
def test_an_own_first_or_last_paragraph_that_names_project_gutenberg_is_kept(own):
    for text in (f"{own}\n\n{BOOK}\n", f"{BOOK}\n\n{own}\n"):
        assert strip_gutenberg(text) == (text, [])


def test_inserted_licences_and_marks_of_illustrations_are_removed():
    insert = (
        "<<THIS ELECTRONIC VERSION OF THE THIRD ROPE IS COPYRIGHT 1990 BY\nSOMEBODY AND IS PROVIDED BY PROJECT "
        "GUTENBERG ETEXT WITH PERMISSION.>>"
    )
    paragraphs = BOOK.split("\n\n")
    with_marks = "\n\n".join([*paragraphs[:9], insert, "[Illustration]", *paragraphs[9:]])
    text, notes = strip_gutenberg(f"{START}\n\n[Illustration]\n\n{with_marks}\n\n{END}\n")
    assert text == BOOK + "\n"
    assert notes[2:] == ["inserted licences removed: 1", "illustration marks removed: 2"]
    assert strip_gutenberg(with_marks) == (with_marks, [])  # without a frame it may be the author's


NOTES = "Transcriber's Notes:\n\nSpelling was kept.\n\nA missing word on p. 12 was left out."


def test_notes_of_several_paragraphs_and_their_heading_are_removed():
    """The heading alone was, so that its text stood there as the book's."""
    framed = f"{START}\n\n\nE-text prepared by Nobody\n\n\n\n{NOTES}\n\n\n\n{BOOK}\n\n\n\n{NOTES}\n\n\n{END}\n"
    text, notes = strip_gutenberg(framed)
    assert text == BOOK + "\n"
    assert notes[2:] == ["lines of credits removed: 1", "transcriber's notes removed: 2"]
    chapter = "CHAPTER I\n\n\n"  # a gap of two empty lines follows the heading of a chapter, too
    near = f"{START}\n\n{NOTES}\n\n{chapter}{BOOK}\n\n{END}\n"
    assert strip_gutenberg(near)[0] == f"A missing word on p. 12 was left out.\n\n{chapter}{BOOK}\n"


def test_a_mark_of_an_illustration_may_take_several_lines_and_a_caption_stays():
    inside = f"{BOOK}\n\n[Illustration:\n\n]\n\n{BOOK}\n\n[Illustration: The rope.]\n\n{BOOK}"
    text = strip_gutenberg(f"{START}\n\n{inside}\n\n{END}\n")[0]
    assert text == inside.replace("[Illustration:\n\n]\n\n", "") + "\n"


def test_canadas_and_australias_frames_are_removed():
    canada = "* A Distributed Proofreaders Canada eBook *\n\nThis eBook is made available at no cost.\n\n"
    assert strip_gutenberg(f"{canada}{BOOK}\n\n[End of The Third Rope, by A. Nobody]\n")[0] == BOOK + "\n"
    contact = "To contact Project Gutenberg of Australia go to http://gutenberg.net.au\n\n"
    australia = f"Project Gutenberg Australia\n\nTitle: The Third Rope\n\n{contact}-----\n\n"
    end = "This site is full of FREE ebooks - Project Gutenberg Australia"
    assert strip_gutenberg(f"{australia}{BOOK}\n\n{end}\n")[0] == BOOK + "\n"


@pytest.mark.parametrize(
    "own",
    [
        "It was in the year of the\nend of Project Gutenberg's first winter, and nobody\nhad read a book.",
        "The Project Gutenberg library was closed.",
        "The end of Project Gutenberg was near, she thought, and closed the lid.",
        "She typed: *** START OF THE PROJECT GUTENBERG EBOOK ***, and waited.",
        "[Transcriber's note: this is part of my novel.]",
        "Produced by hand, the bread was better.",
        "*** THE END ***",
    ],
)
def test_a_text_that_mentions_project_gutenberg_is_unchanged(own):
    for text in (f"{BOOK}\n\n{own}\n\n{BOOK}\n", f"A title\n\n{own}\n\n{BOOK}\n", f"{BOOK}\n\n{own}\n"):
        assert strip_gutenberg(text) == (text, [])


def test_a_text_of_which_too_little_would_remain_is_left_with_a_note():
    text = f"A page.\n\n{END}\n\n" + BOOK.replace("rope", "cord")
    stripped, notes = strip_gutenberg(text)
    assert BOOK.replace("rope", "cord") in stripped
    text = f"{BOOK}\n\n{START}\n\nA page.\n"
    assert BOOK in strip_gutenberg(text)[0]


def test_a_short_poem_with_the_whole_licence_is_the_poem():
    poem = "The heron stands where the river bends,\nAnd counts the boats that pass.\n"
    assert strip_gutenberg(f"{FRONT}{START}\n\n{poem}\n\n{END}{LICENCE}")[0] == poem


def test_a_text_that_holds_nothing_else_is_left_with_a_note():
    text = f"{FRONT}{START}\n\n{END}{LICENCE}"
    stripped, notes = strip_gutenberg(text)
    assert stripped == text and "left" in notes[0]


@pytest.mark.parametrize(
    "filling",
    ["\n" * 1_100_000, " " * 1_100_000, "*** " * 250_000, "***\n" * 100_000, f"{BOOK}\n\n" * 2_000, "a" * 3_000_000],
)
def test_large_and_absurd_texts_take_seconds(filling):
    began = time.perf_counter()
    strip_gutenberg(filling)
    strip_gutenberg(f"{START}\n\n{filling}\n\n{END}\n")
    assert time.perf_counter() - began < 20
