"""A prompt as it was typed -> the tokens that the model learned.

A model that knows a book by heart knows it in the book's own tokens: with two line ends where a typist puts a space,
with typographic quotation marks, and in GPT-2's tokens with the space before each word. So a prompt that occurs in the
book, up to white space and quotation marks, is tokenised as printed there (docs/LOG.md, "Prompts tokenised as in the
book"). No words are added or removed.
"""

import re

from llm.text.tokenizer import Tokenizer


def straighten(text: str) -> str:
    """The text with typographic quotation marks replaced by a keyboard's, character for character."""
    return text.translate(str.maketrans("\u2018\u2019\u201c\u201d", "''\"\""))


def as_typed(prompt: str, *, by_characters: bool) -> str:
    """The text to encode for a prompt that does not occur in the book.

    GPT-2's tokens begin with their space. A prompt that begins with a lower-case letter begins in mid-sentence, so it
    gets the space that stands before it there (docs/LOG.md, "Space before a lower-case prompt").
    """
    return f" {prompt}" if prompt[:1].islower() and not by_characters else prompt


def as_in_book(prompt: str, book_text: str, *, by_characters: bool) -> str | None:
    """The prompt as printed in the book, up to white space and quotation marks; None if it does not occur.

    If it is printed in several ways, the typed one is preferred, else the first. by_characters: the tokens are single
    characters, so a space at the end is a token of its own, and none belongs to the first word.
    """
    words = [re.escape(straighten(word)) for word in prompt.split()]
    if not words:
        return None
    word_start = "" if by_characters else r"(?: |(?<!\w))"  # GPT-2's: with the space before it, never within a word
    leading = r"\s+" if prompt[0].isspace() else word_start
    trailing = r"\s+" if by_characters and prompt[-1].isspace() else ""
    pattern = leading + r"\s+".join(words) + trailing
    printed = [book_text[match.start() : match.end()] for match in re.finditer(pattern, straighten(book_text))]
    typed = as_typed(prompt, by_characters=by_characters)
    return typed if typed in printed else next(iter(printed), None)


def encode_prompt(tokenizer: Tokenizer, prompt: str, book_text: str = "") -> list[int]:
    """Token ids of a prompt, as printed in the book if it occurs there. UserError for an unknown character."""
    by_characters = tokenizer.by_characters
    printed = as_in_book(prompt, book_text, by_characters=by_characters)
    return tokenizer.encode(as_typed(prompt, by_characters=by_characters) if printed is None else printed)


def prompt_notice(prompt: str, book_text: str, *, by_characters: bool) -> str | None:
    """One line about a prompt that is read otherwise than a user may expect; None for all others."""
    printed = as_in_book(prompt, book_text, by_characters=by_characters)
    if printed and printed.split() != prompt.split():
        return f"the prompt is read with the book's quotation marks: {' '.join(printed.split())}"
    if not printed and prompt.strip() and prompt[-1] in " \t" and not by_characters:
        return f"the prompt ends in a space, but GPT-2's tokens begin with theirs; type it without: {prompt.rstrip()}"
    return None
