"""Page numbers and running heads go; chapter numbers, lists and years that look like them stay."""

import time

import pytest
from test_unwrap import ENGLISH, fill, prose

from llm.text.page_lines import strip_page_lines
from llm.text.scan import clean_scan
from llm.text.unwrap import unwrap

BOOK = prose(*ENGLISH * 6, width=60)
PER_PAGE = 17  # lines; most pages end within a sentence


def pages(head: str = "", foot: str = "", *, gap: bool = False, feed: bool = False) -> str:
    """BOOK as pages from number 20 on; {} in head and foot is the number; gap: empty lines beside them."""
    lines, result = BOOK.split("\n"), []
    for number, n in enumerate(range(0, len(lines), PER_PAGE), 20):
        page = [head.format(number)] * bool(head) + [""] * (bool(head) and gap) + lines[n : n + PER_PAGE]
        page += [""] * (bool(foot) and gap) + [foot.format(number)] * bool(foot) + [""] * (bool(foot) and gap)
        result.append("\n".join(page))
    return ("\n\n\f" if feed else "\n").join(result)


@pytest.mark.parametrize("feed", [False, True])
@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize(
    "mark",
    [
        "THE THIRD ROPE   {}",
        "{}   The Third Rope",
        "THE THIRD ROPE {}",
        "THE THIRD ROPE",
        "{}",
        "- {} -",
        "[{}]",
        "Page {}",
    ],
)
@pytest.mark.parametrize("place", ["head", "foot"])
def test_lines_of_pages_are_removed_and_sentences_go_on(place, mark, gap, feed):
    """They stayed within sentences: 'fallen from a ladder and could THE THIRD ROPE   20 not light the stove'."""
    text, [note] = strip_page_lines(pages(**{place: mark}, gap=gap, feed=feed))
    assert unwrap(clean_scan(text)[0])[0].strip() == "\n\n".join(ENGLISH * 6)
    assert note.startswith("lines of pages removed (numbers, running heads): ")


LIST = (
    "He bought for his sister on the other side of the river\n\napples   1\npears   2\nplums   3\n\nand some onions.\n"
)


@pytest.mark.parametrize(
    "text",
    [
        LIST,
        LIST.replace("\n\n", "\n"),
        "I. The Ferry   1\nII. The Lantern   3\nIII. The Kettle   5\n",
        "In the years\n\n1901   the flood\n1902   the fire\n1903   the war\n\nnothing.\n",
        "\n".join(f"and the ferryman said that this was verse number\n{n}\nof the long song" for n in range(1, 9)),
        "\n\n".join(f"{n}\n\n{fill(p, 60)}" for n, p in enumerate(ENGLISH * 2, 1)),
        "\n\n".join(f"CHAPTER {n}\n\n{fill(p, 60)}" for n, p in enumerate(ENGLISH * 2, 1)),
        "\n".join(f"{name}\nI was going to tell you that the rope sang." for name in ["ORLA", "TOBIT"] * 5),
        BOOK,
    ],
)
def test_other_lines_with_numbers_are_unchanged(text):
    assert strip_page_lines(text) == (text, [])


@pytest.mark.parametrize("number", ["{}", "- {} -", "[{}]"])
@pytest.mark.parametrize("feed", ["\f", "\n\n\f", "\f\n\n"])
def test_numbers_of_chapters_beside_form_feeds_are_kept(number, feed):
    """They were all removed as page numbers, because form feeds and dashes stand beside those, too."""
    text = feed.join(f"{number.format(n)}\n\n{paragraph}" for n, paragraph in enumerate(ENGLISH * 2, 1))
    assert clean_scan(strip_page_lines(text)[0])[0].split() == text.split()


def test_large_texts_take_seconds():
    began = time.process_time()
    for text in ("7\n" * 100_000, "THE ROPE   7\n" * 40_000, "A" * 1_000_000, " " * 500_000, "\n\f\n" * 60_000):
        strip_page_lines(text)
    assert time.process_time() - began < 8
