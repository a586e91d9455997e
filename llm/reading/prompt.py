"""A prompt as somebody typed it -> the tokens that the model learned.

What a model knows by heart, it knows in the book's own tokens: with a paragraph's end where a typist puts a space, with
the book's quotation marks, and in GPT-2's case with the space that a word begins with. So a prompt that the book has is
read as it stands there. Which words it has is what was typed: nothing is added to it.
"""

import re

from llm.text.tokenizer import Tokenizer


def straighten(text: str) -> str:
    """The text with typographic quotes replaced by those of a keyboard, character for character."""
    return text.translate(str.maketrans("\u2018\u2019\u201c\u201d", "''\"\""))


def as_typed(prompt: str, *, by_characters: bool) -> str:
    """What to encode of a prompt that is in no book. GPT-2's tokens begin with their space: a prompt that begins with a
    small letter stands in mid-sentence, so it gets the space that is before it there."""
    return f" {prompt}" if prompt[:1].islower() and not by_characters else prompt


def as_in_book(prompt: str, book: str, *, by_characters: bool) -> str | None:
    """The prompt as it stands in the book, up to white space and quotation marks; None where it does not.

    Of several ways as it was typed, or else the first. by_characters: the model's tokens are characters, so that a
    space at the end is one, and none belongs to the word after it.
    """
    words = [re.escape(straighten(word)) for word in prompt.split()]
    if not words:
        return None
    before = r"\s+" if prompt[0].isspace() else "" if by_characters else r"(?: |(?<!\w))"
    after = r"\s+" if by_characters and prompt[-1].isspace() else ""
    pattern = before + r"\s+".join(words) + after
    found = [book[match.start() : match.end()] for match in re.finditer(pattern, straighten(book))]
    typed = as_typed(prompt, by_characters=by_characters)
    return typed if typed in found else next(iter(found), None)


def encode_prompt(tokenizer: Tokenizer, prompt: str, book: str = "") -> list[int]:
    """Ids of a prompt, as it stands in the book if it does. UserError for characters that the tokenizer lacks."""
    by_characters = tokenizer.end_of_text is None
    found = as_in_book(prompt, book, by_characters=by_characters)
    return tokenizer.encode(as_typed(prompt, by_characters=by_characters) if found is None else found)


def prompt_notice(prompt: str, book: str, *, by_characters: bool) -> str | None:
    """What a person should know of how the prompt is read; None = nothing."""
    found = as_in_book(prompt, book, by_characters=by_characters)
    if found and found.split() != prompt.split():
        return f"the prompt is read with the book's quotation marks: {' '.join(found.split())}"
    if not found and prompt.strip() and prompt[-1] in " \t" and not by_characters:
        return f"the prompt ends in a space, but GPT-2's tokens begin with theirs; type it without: {prompt.rstrip()}"
    return None
