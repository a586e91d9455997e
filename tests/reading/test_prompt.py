"""A prompt is tokenised as printed in the book."""

import random
import re
import time

import pytest
from conftest import STORY

from llm.reading.prompt import as_in_book, as_typed, encode_prompt, prompt_notice, straighten
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


def by_regular_expression(prompt, book_text, *, by_characters):
    """as_in_book as it was defined before the book was prepared: one search for a pattern."""
    words = [re.escape(straighten(word)) for word in prompt.split()]
    if not words:
        return None
    leading = r"\s+" if prompt[0].isspace() else "" if by_characters else r"(?: |(?<!\w))"
    trailing = r"\s+" if by_characters and prompt[-1].isspace() else ""
    pattern = leading + r"\s+".join(words) + trailing
    printed = [book_text[m.start() : m.end()] for m in re.finditer(pattern, straighten(book_text))]
    typed = as_typed(prompt, by_characters=by_characters)
    return typed if typed in printed else next(iter(printed), None)


@pytest.mark.parametrize("by_characters", [True, False])
def test_the_prepared_book_finds_what_the_pattern_finds(by_characters):
    """Except that the typed spelling also counts where the pattern took more white space around it."""
    chance, n_found = random.Random(1), 0
    for _ in range(1500):
        book = "".join(chance.choice("aaB’'“_9 \n\t.") for _ in range(chance.randrange(0, 40)))
        start = chance.randrange(len(book) + 1)
        prompt = book[start : start + chance.randrange(1, 8)]
        prompt = straighten(prompt) if chance.random() < 0.5 else prompt
        prompt = " ".join(prompt.split()) if chance.random() < 0.5 else prompt
        found = as_in_book(prompt, book, by_characters=by_characters)
        expected = by_regular_expression(prompt, book, by_characters=by_characters)
        n_found += found is not None
        typed = as_typed(prompt, by_characters=by_characters)
        assert found == expected or (expected is not None and found == typed and typed in book), (book, prompt)
    assert n_found > 500


@pytest.mark.parametrize("prompt", ["ab " * 100_000, "a" * 300_000, "the echo " * 30_000, STORY[:2000] * 100])
def test_a_long_prompt_takes_one_pass_over_the_book(prompt):
    """240,000 words took 6 s; each prompt made a regular expression of its own."""
    as_in_book("The", STORY, by_characters=False)
    began = time.perf_counter()
    as_in_book(prompt, STORY, by_characters=False)
    assert time.perf_counter() - began < 1
