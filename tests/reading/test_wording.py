"""What a text invents, word by word, and what the book has in its place."""

from llm.reading.cite import BookIndex
from llm.reading.wording import MAX_SHOWN, pieces_with_wording

TEXT = " ".join(f"w{n}" for n in range(400))
BOOK = BookIndex(TEXT)


def words(first, stop):
    return " ".join(f"w{n}" for n in range(first, stop))


def shown(text, index=BOOK):
    """The pieces in short: (text, number of the book's word or None, wording)."""
    pieces = pieces_with_wording(index, text)
    assert "".join(piece.text for piece in pieces) == text
    numbers = [None if p.at is None else len(index.text[: p.at].split()) for p in pieces]
    short = [(p.text.strip(), n, p.wording) for p, n in zip(pieces, numbers, strict=True)]
    return [one for one in short if one[0] or one[2]]


def test_a_recitation_is_one_piece():
    assert shown(words(10, 40)) == [(words(10, 40), 10, None)]


def test_a_wrong_word_stands_beside_the_books():
    text = f"{words(10, 30)} wrong {words(31, 50)}"
    assert shown(text) == [(words(10, 30), 10, None), ("wrong", None, "w30"), (words(31, 50), 31, None)]


def test_words_between_two_slips_are_recited_although_they_are_few():
    text = f"{words(10, 30)} wrong {words(31, 35)} again {words(36, 60)}"
    assert [(piece, wording) for piece, _, wording in shown(text)] == [
        (words(10, 30), None),
        ("wrong", "w30"),
        (words(31, 35), None),
        ("again", "w35"),
        (words(36, 60), None),
    ]


def test_words_that_are_left_out_are_named():
    pieces = shown(f"{words(10, 30)} {words(33, 60)}")
    assert ("", None, words(30, 33)) in pieces and len(pieces) == 3


def test_where_another_passage_begins_the_book_goes_on_otherwise():
    pieces = shown(f"{words(10, 30)} {words(300, 330)}")
    assert ("", None, words(30, 30 + MAX_SHOWN)) in pieces and pieces[-1][1] == 300


def test_after_the_last_recited_word_the_book_says_as_many_words():
    (_, invented) = shown(f"{words(10, 30)} something else entirely follows")
    assert invented == ("something else entirely follows", None, words(30, 34))


def test_a_word_that_was_cut_off_at_the_end_is_no_invention():
    assert [(piece, at) for piece, at, _ in shown(f"{words(100, 130)} w1")] == [(words(100, 130), 100), ("w1", 130)]
    assert shown(f"{words(100, 130)} v1")[1] == ("v1", None, words(130, 133))


def test_an_invention_alone_has_no_wording():
    assert shown("nothing of this is in the book") == [("nothing of this is in the book", None, None)]
    assert shown("") == []


def test_a_long_invention_is_not_compared_word_by_word():
    text = f"{words(10, 30)} {'x ' * 500}".strip()
    assert shown(text)[1][2] == words(30, 30 + MAX_SHOWN)
