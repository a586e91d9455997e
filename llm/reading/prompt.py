"""A prompt as it was typed -> the tokens that the model learned.

A model that knows a book by heart knows it in the book's own tokens: with two line ends where a typist puts a space,
with typographic quotation marks, and in GPT-2's tokens with the space before each word. So a prompt that occurs in the
book, up to white space and quotation marks, is tokenised as printed there (docs/LOG.md, "Prompts tokenised as in the
book"). No words are added or removed. The book is prepared once; after that, a prompt costs one pass over it at most.
"""

import functools
import re
from array import array

from llm.text.tokenizer import Tokenizer

BOUNDARY = "\ud800"  # no character of any text: stands before each character that does not continue a word


def straighten(text: str) -> str:
    """The text with typographic quotation marks replaced by a keyboard's, character for character."""
    return text.translate(str.maketrans("\u2018\u2019\u201c\u201d", "''\"\""))


def as_typed(prompt: str, *, by_characters: bool) -> str:
    """The text to encode for a prompt that does not occur in the book.

    GPT-2's tokens begin with their space. A prompt that begins with a lower-case letter begins in mid-sentence, so it
    gets the space that stands before it there (docs/LOG.md, "Space before a lower-case prompt").
    """
    return f" {prompt}" if prompt[:1].islower() and not by_characters else prompt


def with_boundaries(text: str, before: str) -> str:
    """The text with BOUNDARY before each character that does not follow one of the class `before`.

    with_boundaries("it's so", r"\\w") == "|it'|s |so", with "|" for BOUNDARY
    """
    return re.sub(rf"(?<!{before})(?=.)", BOUNDARY, text, flags=re.DOTALL)


class SearchableBook:
    """A book prepared for searching, with white space and quotation marks made uniform."""

    def __init__(self, book_text: str, *, by_characters: bool):
        """by_characters: the tokens are single characters, so a prompt may begin within a word."""
        self.text, self.by_characters = book_text, by_characters
        self.word_starts = array("L", (match.start() for match in re.finditer(r"\S+", book_text)))
        self.uniform = re.sub(r"\s+", " ", straighten(book_text))
        self.exact = ""
        if not by_characters:
            self.uniform = with_boundaries(self.uniform, r"\w")
            self.exact = with_boundaries(book_text, r"[\w ]")  # where a word has no space before it to take along

    def find(self, prompt: str) -> str | None:
        """The prompt as printed in the book; None if it does not occur. See as_in_book."""
        words = straighten(prompt).split()
        if not words or BOUNDARY in prompt:
            return None
        if self._is_printed_as_typed(prompt):
            return as_typed(prompt, by_characters=self.by_characters)
        starts_in_space, ends_in_space = prompt[0].isspace(), prompt[-1].isspace() and self.by_characters
        pattern = " " * starts_in_space + " ".join(words) + " " * ends_in_space
        if not self.by_characters:
            pattern = with_boundaries(pattern, r"\w")[starts_in_space:]
        found = self.uniform.find(pattern)
        if found < 0:
            return None
        start = self._position(found + starts_in_space)
        end = self._position(found + len(pattern) - 1 - ends_in_space) + 1
        if starts_in_space:
            start = self._skip_space(start - 1, -1) + 1
        elif not self.by_characters and start and self.text[start - 1] == " ":
            start -= 1
        return self.text[start : self._skip_space(end, 1) if ends_in_space else end]

    def _is_printed_as_typed(self, prompt: str) -> bool:
        """Whether the typed spelling occurs, with the tokens that it has as a prompt."""
        typed = as_typed(prompt, by_characters=self.by_characters)
        if self.by_characters:
            return typed in self.text
        if typed[-1].isspace():  # which would be the next token's
            return False
        if typed[0].isspace():
            return typed in self.text
        return with_boundaries(typed, r"[\w ]") in self.exact

    def _position(self, index: int) -> int:
        """Where the character at uniform[index], or after the boundary there, stands in the book's text."""
        text, word_start = self.uniform, self.uniform.rfind(" ", 0, index + 1) + 1
        n_words = text.count(" ", 0, word_start) - text.startswith((" ", f"{BOUNDARY} "))
        return self.word_starts[n_words] + index - word_start - text.count(BOUNDARY, word_start, index)

    def _skip_space(self, position: int, step: int) -> int:
        """The first position from this one on, in steps of 1 or -1, that holds no white space."""
        while 0 <= position < len(self.text) and self.text[position].isspace():
            position += step
        return position


@functools.lru_cache(maxsize=2)
def searchable(book_text: str, by_characters: bool) -> SearchableBook:
    """The book prepared for searching; the last two books are kept."""
    return SearchableBook(book_text, by_characters=by_characters)


def as_in_book(prompt: str, book_text: str, *, by_characters: bool) -> str | None:
    """The prompt as printed in the book, up to white space and quotation marks; None if it does not occur.

    If it is printed in several ways, the typed one is preferred, else the first. by_characters: the tokens are single
    characters, so a space at the end is a token of its own, and none belongs to the first word. GPT-2's tokens begin
    with their space: a prompt may begin after any character that is no letter, digit or "_", never within a word.
    """
    return searchable(book_text, by_characters).find(prompt)


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
