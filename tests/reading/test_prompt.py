"""A prompt is tokenised as printed in the book."""

import pytest

from llm.reading.prompt import as_in_book, encode_prompt, prompt_notice
from llm.text import tokenizer

BOOK = "The pump dripped.\n\n“It’s dropped its aitch,” said Ibbet. A wall stood there;  the wall\nstood. The end"


@pytest.mark.parametrize(
    "prompt, printed",
    [
        ("The pump dripped.", "The pump dripped."),
        ("The pump ", "The pump"),  # GPT-2's tokens begin with their space
        ("pump dripped. \"It's dropped", " pump dripped.\n\n“It’s dropped"),
        ("\"It's dropped its ", "“It’s dropped its"),
        ("A wall stood", " A wall stood"),
        ("the wall stood", " the wall\nstood"),
        ("The", "The"),  # at a line's beginning and in mid-sentence: the typed spelling is preferred
        (" The", " The"),
        ("\n\n“It’s", "\n\n“It’s"),
        ("  The end", " The end"),
        ("stood ther", " stood ther"),  # the last word may be unfinished
        ("all stood", None),  # the first word must be whole
        ("A prompt of one's own", None),
        ("the pump", None),
        ("(.*", None),
        ("\n", None),
        ("", None),
    ],
)
def test_a_prompt_is_read_as_printed_in_the_book(prompt, printed):
    gpt2 = tokenizer.gpt2()
    assert as_in_book(prompt, BOOK, by_characters=False) == printed
    if printed is not None:
        assert encode_prompt(gpt2, prompt, BOOK) == gpt2.encode(printed)


@pytest.mark.parametrize(
    "prompt, printed", [("the wall stood", "the wall\nstood"), ("The pump ", "The pump "), ("x", None)]
)
def test_in_tokens_of_one_character_a_space_is_a_token_like_any_other(prompt, printed):
    assert as_in_book(prompt, BOOK, by_characters=True) == printed


def test_a_prompt_that_begins_in_mid_sentence_gets_the_space_before_it():
    gpt2 = tokenizer.gpt2()
    assert encode_prompt(gpt2, "the pump") == gpt2.encode(" the pump")
    for prompt in ("The lamp", " the lamp", '"the lamp', "7 lamps", ""):
        assert encode_prompt(gpt2, prompt) == encode_prompt(gpt2, prompt, BOOK) == gpt2.encode(prompt)
    assert encode_prompt(tokenizer.characters("ab"), "ab") == [0, 1]


@pytest.mark.parametrize(
    "prompt, message",
    [
        ("The pump dripped. “It’s", None),
        ("A prompt of one's own", None),
        ("\n", None),
        ("The pump ", None),
        ("It's dropped", "the prompt is read with the book's quotation marks: It’s dropped"),
        ("Not in there ", "ends in a space, but GPT-2's tokens begin with theirs; type it without: Not in there"),
    ],
)
def test_a_prompt_that_is_read_otherwise_than_typed_gets_a_notice(prompt, message):
    notice = prompt_notice(prompt, BOOK, by_characters=False)
    assert notice is None if message is None else notice.endswith(message)


def test_in_tokens_of_one_character_a_space_at_the_end_needs_no_notice():
    assert prompt_notice("Not in there ", BOOK, by_characters=True) is None
