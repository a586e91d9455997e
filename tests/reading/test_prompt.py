"""A prompt is tokenised as printed in the book."""

import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.reading.folding import fold
from llm.reading.prompt import as_in_book, encode_prompt, prompt_notice
from llm.text import tokenizer
from llm.text.vocabulary import learn_tokens

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
        ids = encode_prompt(gpt2, prompt, BOOK)
        assert gpt2.decode(ids) == printed + ids.rest and (ids.rest == "" or prompt == "stood ther")
        assert ids.rest or ids == gpt2.encode(printed)


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
        ("It's dropped", "the prompt is read as the book prints it: It’s dropped"),
        ("Not in there ", "ends in a space, but GPT-2's tokens begin with theirs; type it without: Not in there"),
    ],
)
def test_a_prompt_that_is_read_otherwise_than_typed_gets_a_notice(prompt, message):
    notice = prompt_notice(prompt, BOOK, by_characters=False)
    assert notice is None if message is None else notice.endswith(message)


def test_in_tokens_of_one_character_a_space_at_the_end_needs_no_notice():
    assert prompt_notice("Not in there ", BOOK, by_characters=True) is None


MULTILINGUAL = (
    "„Wer zählt, der wacht“, pflegte der Müller zu sagen.\n\n« Pourquoi la gardez-vous ? » demanda la fille — elle "
    "riait…\n\nThe ﬁrst ﬂood came in the wet part of autumn, a wo\u00adman said; it was well\u2011known.\n\n"
    "Ｆｕｌｌ width, cafe\u0301 and café.\n\n老渡船夫有三根绳子，他给每根绳子都起了一个名字。水浅的时候他拉第一根。\n"
)


@pytest.mark.parametrize(
    "prompt, printed",
    [
        ('"Wer zählt, der wacht"', "„Wer zählt, der wacht“"),
        ("'Wer za\u0308hlt, der wacht'", "„Wer zählt, der wacht“"),
        ("»Wer zählt", "„Wer zählt"),
        ('"Pourquoi la gardez-vous?" demanda', "« Pourquoi la gardez-vous ? » demanda"),
        ("Pourquoi la gardez-vous \u200b?", " Pourquoi la gardez-vous ?"),
        ("gardez-vous ？ demanda", None),
        ("gardez-vous ？", " gardez-vous ?"),
        ("demanda la fille - elle riait...", " demanda la fille — elle riait…"),
        ("demanda la fille -- elle", " demanda la fille — elle"),
        ("demanda la fille\u2014elle", " demanda la fille — elle"),
        ("The first flood", "The ﬁrst ﬂood"),
        ("a woman said", " a wo\u00adman said"),
        ("it was well-known.", " it was well\u2011known."),
        ("Full width", "Ｆｕｌｌ width"),
        ("ｗｉｄｔｈ, café and", " width, cafe\u0301 and"),
        ("width, cafe\u0301 and cafe\u0301.", " width, cafe\u0301 and café."),
        ("wet\u200b part", " wet part"),
        ("wet\u00a0part", " wet part"),
        ("三根绳子，他", "三根绳子，他"),
        ("三根绳子,他", "三根绳子，他"),
        ("船夫有", "船夫有"),
        ("- elle riait", " — elle riait"),
        (", pflegte der", ", pflegte der"),
        ("»,  pflegte", "“, pflegte"),
        ("，他给每根", "，他给每根"),
        ("width, cafe", None),  # its last letter has an accent
        ("ill he", None),
        ("riait!", None),
    ],
)
def test_a_prompt_is_found_however_its_marks_are_typed(prompt, printed):
    assert as_in_book(prompt, MULTILINGUAL, by_characters=False) == printed


@pytest.mark.parametrize(
    "prompt, rest",
    [
        ("wet part of aut", "umn"),
        ("wet part of autumn", ""),
        ("the wet part of ", ""),
        ("Wer zä", ""),
        ("a wo\u00adman sa", "id"),
    ],
)
def test_a_prompt_that_ends_within_a_token_gets_it_whole(prompt, rest):
    gpt2 = tokenizer.gpt2()
    ids = encode_prompt(gpt2, prompt, MULTILINGUAL)
    start = MULTILINGUAL.index(prompt.strip())
    assert gpt2.decode(ids).lstrip() == prompt.strip() + ids.rest
    assert MULTILINGUAL[start:].startswith(prompt.strip() + ids.rest) and ids.rest == rest
    assert ids.ends_in_space == prompt.endswith(" ")


def test_in_a_learned_vocabulary_a_prompt_may_begin_and_end_anywhere_in_chinese():
    pytest.importorskip("tokenizers")
    text = MULTILINGUAL * 20
    learned = learn_tokens(text)
    book_ids = learned.encode(text)
    for start in range(text.index("老"), text.index("老") + 20):
        for end in range(start + 2, text.index("老") + 24):
            ids = encode_prompt(learned, text[start:end], text)
            assert text[start:end] + ids.rest in learned.decode(ids)
            assert any(book_ids[n : n + len(ids)] == list(ids) for n in range(len(book_ids)))


@pytest.mark.parametrize("prompt", ["", " ", "\u200b", "\u00ad \u200b", "…", "-", "«", "\n\n", "\ud800", "a" * 50_000])
def test_absurd_prompts_have_an_encoding(prompt):
    encode_prompt(tokenizer.gpt2(), prompt, MULTILINGUAL)
    encode_prompt(tokenizer.gpt2(), prompt, "")


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.sampled_from("aé\u0301ﬁ“”'«»—–- …\n\u00ad?!字。"), max_size=30), st.integers(0, 30), st.integers(1, 30)
)
def test_whatever_stands_in_the_book_is_found_there(text, start, length):
    prompt = text[start : start + length]
    found = as_in_book(prompt, text, by_characters=True)
    assert found is None or fold(found).strip() == fold(prompt).strip()
    assert (
        found is not None
        or not prompt.strip()
        or not fold(prompt).strip()
        or unicodedata.combining(text[start + length])
    )


@pytest.mark.parametrize("text", ["a" * 1_000_000, "a " * 500_000, "'" * 1_000_000, "- " * 500_000])
def test_long_prompts_take_seconds(text):
    began = time.perf_counter()
    for prompt in (text[:300_000], "b" + text[:300_000], text[:300_000] + "b", "a" * 50):
        as_in_book(prompt, text, by_characters=False)
    assert time.perf_counter() - began < 20
