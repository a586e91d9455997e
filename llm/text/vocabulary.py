"""Learn a byte-pair encoding from a book, and choose the tokenizer that a book is learned with.

GPT-2's tokens are made for English. In other languages a book has two to ten times as many of them as it needs, and so
takes as many times longer to learn. A vocabulary from the book itself evens that out. Learning one needs Hugging Face's
tokenizers (extra books); using it does not.
"""

import json
import unicodedata
from collections.abc import Iterator

from llm.configurator import UserError, require
from llm.text.tokenizer import PATTERNS, BookTokens, Tokenizer, characters, gpt2

MAX_TOKENS_PER_CHARACTER = 0.5  # of GPT-2's encoding; above it, "auto" takes the book's own
CHARACTERS_PER_MERGE = 10  # one merge for so many characters of the book: at most 0.34 tokens a character
MIN_MERGES, MAX_MERGES = 256, 30_000
MIN_FREQUENCY = 2  # occurrences of a pair in the book
MAX_TOKEN_BYTES = 48  # so that a recurring sentence in a script without spaces is no single token
MAX_PIECE = 2_000  # characters that are learned from at once
SAMPLE = 200_000  # characters, from the middle of a book, that are enough to measure an encoding on
CHOICES = ("auto", "gpt2", "book", "characters")


def choose_tokenizer(text: str, name: str = "auto") -> Tokenizer:
    """The tokenizer that a setting names; auto: GPT-2's, or the book's own if GPT-2's needs too many tokens.

    UserError for an unknown name, or if the extra that is needed is not installed.
    """
    if name not in CHOICES:
        raise UserError(f"--tokenizer={name}: expected one of {', '.join(CHOICES)}")
    if name == "characters":
        return characters(text)
    if name == "book" or name == "auto" and tokens_per_character(gpt2(), text) > MAX_TOKENS_PER_CHARACTER:
        return learn_tokens(text)
    return gpt2()


def tokens_per_character(tokenizer: Tokenizer, text: str) -> float:
    """Tokens for a character of the text, measured in its middle."""
    middle = max(0, len(text) - SAMPLE) // 2
    sample = text[middle : middle + SAMPLE]
    return len(tokenizer.encode(sample)) / max(1, len(sample))


def learn_tokens(text: str) -> BookTokens:
    """A byte-pair encoding of the text's own most frequent pairs; its size follows from the text's length."""
    n_merges = min(max(len(text) // CHARACTERS_PER_MERGE, MIN_MERGES), MAX_MERGES)
    pattern = "marks" if has_marks(text) else "gpt2"
    return BookTokens(learn_merges(text, n_merges, pattern=pattern), pattern=pattern)


def has_marks(text: str) -> bool:
    """Whether words of the text hold combining marks, as in Hindi and Thai, or in accents written apart."""
    return any(unicodedata.category(c).startswith("M") for c in set(text))


def pieces(text: str) -> Iterator[str]:
    """The text in pieces of at most MAX_PIECE characters, divided before a space if there is one.

    The time to learn from a single word, such as a million letters without a space, is the square of its length.
    """
    start = 0
    while start < len(text):
        space = text.rfind(" ", start + 1, start + MAX_PIECE) if start + MAX_PIECE < len(text) else -1
        end = space if space > start else start + MAX_PIECE
        yield text[start:end]
        start = end


def learn_merges(text: str, n_merges: int, *, pattern: str) -> list[str]:
    """At most n_merges merges of the most frequent pairs, in the spelling of a merges file."""
    tokenizers = require("tokenizers", "books")
    learner = tokenizers.Tokenizer(tokenizers.models.BPE())
    learner.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERNS[pattern]), behavior="isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=256 + n_merges,
        min_frequency=MIN_FREQUENCY,
        max_token_length=MAX_TOKEN_BYTES,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator(pieces(text.encode("utf-8", "replace").decode("utf-8")), trainer)
    merges, tokens = [], set()
    for pair in json.loads(learner.to_str())["model"]["merges"]:
        if "".join(pair) not in tokens:  # two pairs may make the same token
            tokens.add("".join(pair))
            merges.append(" ".join(pair))
    return merges
