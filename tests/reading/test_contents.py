"""A book's contents: parts, places, where tokens begin."""

import numpy as np
from conftest import STORY

from llm.reading.contents import MAX_PART, Contents, cut, readable
from llm.text import dataset, tokenizer
from llm.text.book import Book, Chapter


def contents_of(data, books):
    options = dict(val_fraction=0, source={}, train_command=None)
    dataset.write_dataset(data / "books", books, tokenizer.gpt2(), **options)
    prepared = dataset.Dataset("books")
    return Contents(prepared.train, prepared.tokenizer)


def test_parts_are_the_chapters_and_fill_the_text(data, capsys):
    start = STORY.index("Chapter 2.")
    books = [Book("One", "A", STORY[:6000], [Chapter("Chapter 2.", start)]), Book("Two", "B", STORY[6000:9000])]
    contents = contents_of(data, books)
    assert [(part.book, part.title) for part in contents.parts][:2] == [("One", "The beginning"), ("One", "Chapter 2.")]
    assert contents.text[contents.parts[1].start :].startswith("Chapter 2.")
    assert [part.end for part in contents.parts] == [*(part.start for part in contents.parts[1:]), len(contents.text)]
    assert contents.where(start + 10) == f"One, Chapter 2., {100 * (start + 10) / 9000:.0f} %"
    assert contents.title == "One, Two" and contents.author == "" and not contents.right_to_left()


def test_tokens_begin_where_their_text_does(data, capsys):
    text = "Grüße, “Käse” und 子曰：学而时习之。 " * 30
    contents = contents_of(data, [Book("B", "", text)])
    ids = contents.split.tokens(0, len(contents.split)).tolist()
    starts = contents.characters_of(np.arange(len(ids) - 1))
    for token in range(0, len(ids) - 1, 7):
        before = tokenizer.gpt2().decode_bytes(ids[:token]).decode("utf-8", "ignore")
        assert starts[token] == len(before)


def test_a_long_chapter_is_cut_at_the_end_of_a_paragraph():
    text = "A paragraph of some words.\n\n" * 4000
    pieces = cut(text, 0, len(text))
    assert all(0 < end - start <= MAX_PART for start, end in pieces) and pieces[-1][1] == len(text)
    assert all(text[end - 1] == "\n" for _, end in pieces)
    assert len(cut("x" * 100_000, 0, 100_000)) > 2  # one without an end


def test_a_files_name_is_made_readable():
    assert readable("brother_jacob") == "Brother Jacob" and readable("The Echo") == "The Echo"
