"""Text is shown in whole characters, and never a part of a stop string."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm.reading.stream import TextStream, overlap
from llm.text.tokenizer import Characters, gpt2


def stream_text(text, stop=(), tokenizer=None):
    """(pieces, stopped) of a text that arrives token by token."""
    tokenizer = tokenizer or gpt2()
    stream, pieces = TextStream(tokenizer, stop), []
    for token in tokenizer.encode(text):
        pieces.append(stream.feed(token))
        if stream.stopped:
            break
    return [*pieces, stream.finish()], stream.stopped


def test_characters_of_several_tokens_are_shown_whole():
    pieces, _ = stream_text("né 🦊🌹 дом")
    assert "".join(pieces) == "né 🦊🌹 дом" and not any("\ufffd" in piece for piece in pieces)
    assert "" in pieces  # some tokens end within a character


def test_an_incomplete_character_at_the_end_is_left_out():
    stream, fox = TextStream(gpt2()), gpt2().encode("🦊")
    assert [stream.feed(token) for token in fox[:-1]] == [""] * (len(fox) - 1)
    assert stream.finish() == ""


@pytest.mark.parametrize(
    "text, stop, expected",
    [
        ("Once upon a time", ["upon"], "Once "),
        ("Once upon a time", ["n a t"], "Once upo"),  # across tokens
        ("Once upon a time", ["time", "a"], "Once upon "),
        ("Once upon a time", ["timely"], None),
        ("aaab", ["aab"], "a"),
        ("The end.\n\nMore", ["\n\n"], "The end."),
        ("ab", ["abc", "b"], "a"),
    ],
)
def test_a_stop_string_ends_the_text_before_it(text, stop, expected):
    for tokenizer in (gpt2(), Characters("".join(sorted(set(text))))):
        pieces, stopped = stream_text(text, stop, tokenizer)
        assert "".join(pieces) == (text if expected is None else expected)
        assert stopped == (expected is not None)


def test_only_text_that_may_become_a_stop_string_is_held_back():
    pieces, _ = stream_text("a xy b", ["xyz"], Characters(" abxy"))
    assert pieces == ["a", " ", "", "", "xy ", "b", ""]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet="ab", max_size=12), st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_stop_string_that_is_complete_first(text, stops):
    pieces, stopped = stream_text(text, stops, Characters("ab"))
    found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]  # (end, start) of each
    expected = text[: min(found)[1]] if found else text
    assert "".join(pieces) == expected and stopped == bool(found)


def test_overlap_counts_how_much_of_a_stop_string_is_there():
    assert overlap("abc", "cd") == 1 and overlap("abcd", "cd") == 0
    assert overlap("aa", "aaa") == 2 and overlap("", "x") == 0
