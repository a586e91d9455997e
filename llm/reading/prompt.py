"""A prompt as it was typed -> the tokens that the model learned.

A model that knows a book by heart knows it in the book's own tokens: with two line ends where a typist puts a space,
with typographic quotation marks, and in GPT-2's tokens with the space before each word. So a prompt that occurs in the
book, up to white space and what folding.py makes equal, is tokenised as printed there (docs/LOG.md, "Prompts tokenised
as in the book"). If it ends within a token of the book, it gets that token whole: the letters that were not typed yet
are the first of the continuation. The book is prepared once; after that, a prompt costs one pass over it at most.
"""

import functools
import re
import unicodedata
from collections.abc import Callable

from llm.reading.folding import Folded, fold
from llm.text.scripts import is_spaceless
from llm.text.tokenizer import Tokenizer

MAX_TRIES = 1_000  # occurrences of a long prompt within words that are passed over
LONG_PROMPT = 100  # characters
MAX_WORD = 1_000  # characters around the prompt that its first and last token may reach


class PromptIds(list[int]):
    """Token ids of a prompt, and how they differ from the typed text.

    rest: what the last token holds beyond it; the continuation begins with it. ends_in_space: whether a space was
    typed that the first new token has, too.
    """

    def __init__(self, ids: list[int], rest: str = "", *, ends_in_space: bool = False):
        super().__init__(ids)
        self.rest, self.ends_in_space = rest, ends_in_space


def as_typed(prompt: str, *, by_characters: bool) -> str:
    """The text to encode for a prompt that does not occur in the book.

    GPT-2's tokens begin with their space. A prompt that begins with a lower-case letter begins in mid-sentence, so it
    gets the space that stands before it there (docs/LOG.md, "Space before a lower-case prompt").
    """
    return f" {prompt}" if prompt[:1].islower() and not by_characters else prompt


def find_where(text: str, pattern: str, is_right: Callable[[int], bool]) -> int:
    """The first position of `pattern` in `text` that is right; -1 if there is none."""
    position, tries = text.find(pattern), 0
    while position >= 0 and not is_right(position):
        tries += 1
        if len(pattern) > LONG_PROMPT and tries == MAX_TRIES:
            return -1
        position = text.find(pattern, position + 1)
    return position


def in_word(character: str) -> bool:
    """Whether a character is a part of a word: a letter, a digit, "_", an accent, a vowel sign."""
    return bool(re.match(r"\w", character)) or unicodedata.category(character).startswith("M")


class SearchableBook:
    """A book prepared for searching."""

    def __init__(self, book_text: str, *, by_characters: bool):
        """by_characters: the tokens are single characters, so a prompt may begin within a word."""
        self.text, self.by_characters = book_text, by_characters
        self.folded = Folded(book_text)

    def find(self, prompt: str) -> tuple[int, int] | None:
        """(start, end) of the prompt in the book's text; None if it does not occur. See as_in_book."""
        if not prompt.strip():
            return None
        if (found := self._find_as_typed(prompt)) is not None:
            return found
        starts_in_space = prompt[0].isspace()
        pattern = fold(prompt if self.by_characters else prompt.rstrip())
        if not pattern.strip():
            return None
        text, starts = self.folded.text, self.folded.starts

        def is_right(n: int) -> bool:
            """Whether a prompt may begin here, and neither end divides a character of the book."""
            if not (starts_in_space or self._begins_word(starts[n])):
                return False
            end = n + len(pattern)
            if end < len(text) and (starts[end] == starts[end - 1] or unicodedata.combining(text[end])):
                return False
            return not n or starts[n] != starts[n - 1]

        at = find_where(text, pattern, is_right)
        if at < 0:
            return None
        start, end = starts[at], self.folded.stops[at + len(pattern) - 1]
        if not self.by_characters and not starts_in_space and self.text[start - 1 : start] == " ":
            start -= 1
        return start, end

    def _find_as_typed(self, prompt: str) -> tuple[int, int] | None:
        """Where the typed spelling occurs, with the tokens that it has as a prompt."""
        typed = as_typed(prompt, by_characters=self.by_characters)
        if typed[-1].isspace() and not self.by_characters:  # which would be the next token's
            return None

        def is_right(n: int) -> bool:
            """Whether the word has no space before it to take along, and no accent is left behind."""
            if unicodedata.combining(self.text[n + len(typed) : n + len(typed) + 1] or " "):
                return False
            return typed[0].isspace() or self._begins_word(n) and self.text[n - 1 : n] != " "

        at = find_where(self.text, typed, is_right)
        return None if at < 0 else (at, at + len(typed))

    def _begins_word(self, n: int) -> bool:
        """Whether a prompt may begin at character n of the book: anywhere but within a word."""
        if self.by_characters or not n or is_spaceless(self.text[n]):
            return True
        return not (in_word(self.text[n - 1]) and in_word(self.text[n]))

    def encode(self, tokenizer: Tokenizer, start: int, end: int) -> tuple[list[int], str]:
        """(ids of the book's tokens that hold text[start:end], what the last one holds beyond it)."""
        left = start
        if not self.by_characters and is_spaceless(self.text[start : start + 1]):  # perhaps within a run of letters
            while left > max(0, start - MAX_WORD) and re.match(r"\w", self.text[left - 1]):
                left -= 1
        if not self.by_characters and re.match(
            r"[^\w\s]", self.text[left - 1 : left]
        ):  # a mark may share a token with it
            left -= 1
        right = next((m.start() for m in re.finditer(r"\s", self.text[end : end + MAX_WORD])), MAX_WORD) + end
        n_start, n_end = (len(self.text[left:n].encode("utf-8", "replace")) for n in (start, end))
        ids, n_bytes, held = [], 0, b""
        for i in tokenizer.encode(self.text[left:right]):
            if n_bytes >= n_end and is_whole(held[n_end:]):
                break
            token = tokenizer.decode_bytes([i])
            n_bytes, held = n_bytes + len(token), held + token
            if n_bytes > n_start:
                ids.append(i)
        return ids, held[n_end:].decode("utf-8", "replace")


def is_whole(data: bytes) -> bool:
    """Whether bytes end at the border of a character."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@functools.lru_cache(maxsize=32)
def searchable(book_text: str, by_characters: bool) -> SearchableBook:
    """The book prepared for searching; the last 32 are kept: a shelf's books, and all of them as one text."""
    return SearchableBook(book_text, by_characters=by_characters)


def as_in_book(prompt: str, book_text: str, *, by_characters: bool) -> str | None:
    """The prompt as printed in the book; None if it does not occur.

    If it is printed in several ways, the typed one is preferred, else the first. by_characters: the tokens are single
    characters, so a space at the end is a token of its own, and none belongs to the first word. GPT-2's tokens begin
    with their space: a prompt may begin anywhere but within a word, and even there in scripts that do not mark words.
    """
    found = searchable(book_text, by_characters).find(prompt)
    return None if found is None else book_text[slice(*found)]


def encode_prompt(tokenizer: Tokenizer, prompt: str, book_text: str = "") -> PromptIds:
    """Token ids of a prompt, as printed in the book if it occurs there. UserError for an unknown character."""
    by_characters = tokenizer.by_characters
    book = searchable(book_text, by_characters)
    found = book.find(prompt)
    if found is None:
        return PromptIds(tokenizer.encode(as_typed(prompt, by_characters=by_characters)))
    if by_characters:
        return PromptIds(tokenizer.encode(book_text[slice(*found)]))
    return PromptIds(*book.encode(tokenizer, *found), ends_in_space=prompt[-1] == " ")


def prompt_notice(prompt: str, book_text: str, *, by_characters: bool) -> str | None:
    """One line about a prompt that is read otherwise than a user may expect; None for all others."""
    printed = as_in_book(prompt, book_text, by_characters=by_characters)
    if printed and printed.split() != prompt.split():
        return f"the prompt is read as the book prints it: {' '.join(printed.split())}"
    if not printed and prompt.strip() and prompt[-1] in " \t" and not by_characters:
        return f"the prompt ends in a space, but GPT-2's tokens begin with theirs; type it without: {prompt.rstrip()}"
    return None
