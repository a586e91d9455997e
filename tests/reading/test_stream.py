"""Text is shown as whole characters, and never what may yet be a stop string."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm.reading.stream import TextStream, begun
from llm.text.tokenizer import Characters, gpt2


def streamed(text, stop=(), encoder=None):
    """(pieces, stopped) of a text that comes token by token."""
    encoder = encoder or gpt2()
    stream, pieces = TextStream(encoder, stop), []
    for token in encoder.encode(text):
        pieces.append(stream.feed(token))
        if stream.stopped:
            break
    return [*pieces, stream.finish()], stream.stopped


def test_characters_that_several_tokens_make_up_come_whole():
    pieces, _ = streamed("né 🦊🌹 дом")
    assert "".join(pieces) == "né 🦊🌹 дом" and not any("\ufffd" in piece for piece in pieces)
    assert "" in pieces  # some tokens end within a character


def test_a_character_that_stays_incomplete_is_said_to_be():
    stream, fox = TextStream(gpt2()), gpt2().encode("🦊")
    assert [stream.feed(token) for token in fox[:-1]] == [""] * (len(fox) - 1)
    assert stream.finish() == "\ufffd"


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
    for encoder in (gpt2(), Characters("".join(sorted(set(text))))):
        pieces, stopped = streamed(text, stop, encoder)
        assert "".join(pieces) == (text if expected is None else expected)
        assert stopped == (expected is not None)


def test_only_what_may_become_a_stop_string_is_held_back():
    pieces, _ = streamed("a xy b", ["xyz"], Characters(" abxy"))
    assert pieces == ["a", " ", "", "", "xy ", "b", ""]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet="ab", max_size=12), st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3))
def test_the_text_is_that_before_the_first_stop_string_to_be_complete(text, stops):
    encoder = Characters("ab")
    pieces, stopped = streamed(text, stops, encoder)
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    first = min((end for end, _ in ends), default=None)
    expected = text if first is None else text[: min(start for end, start in ends if end == first)]
    assert "".join(pieces) == expected and stopped == (first is not None)


def test_begun_counts_how_much_of_a_stop_string_is_there():
    assert begun("abc", "cd") == 1 and begun("abcd", "cd") == 0 and begun("aa", "aaa") == 2 and begun("", "x") == 0
