"""Text <-> token ids: GPT-2's byte-pair encoding from the merges in vocab.bpe, or one id per character.

    >>> gpt2().encode("Then the little prince said")
    [6423, 262, 1310, 19716, 531]

Both classes have encode, decode, decode_bytes, vocab_size, by_characters, end_of_text (None = no such token) and
description, the plain data in meta.json and in checkpoints from which `from_description` makes the same tokenizer.
Nothing is downloaded. There are no special tokens: `<|endoftext|>` inside a book is plain text, and only dataset.py
appends the id.
"""

import functools
import hashlib
from pathlib import Path

import tiktoken

from llm.configurator import UserError

MERGES = Path(__file__).parent / "vocab.bpe"
MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"  # tiktoken expects the same hash
# splits a text into words before merging (openai/gpt-2, src/encoder.py; this is tiktoken's equivalent, faster form)
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
END_OF_TEXT = 50256
GPT2_DESCRIPTION = {"kind": "gpt2", "merges_sha256": MERGES_SHA256}


def characters_of_bytes() -> dict[str, int]:
    """Character in a merges file -> the byte that it stands for; 256 entries in the order of GPT-2's ids.

    A printable Latin-1 byte stands for itself; the others are chr(256), chr(257), ... in the order of their values.
    """
    printable = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    others = [b for b in range(256) if b not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


def merge_ranks(merges: str) -> dict[bytes, int]:
    """Token bytes -> id: the 256 single bytes first, then the merges in the file's order."""
    byte_of = characters_of_bytes()
    ranks = {bytes([b]): rank for rank, b in enumerate(byte_of.values())}
    for line in merges.splitlines()[1:]:  # the first line names the version
        if line:
            ranks[bytes(byte_of[c] for c in line if c != " ")] = len(ranks)
    return ranks


def printable_tokens(merges: str) -> list[str]:
    """All tokens in the spelling of the merges file, in the order of their ids; the last one ends a document."""
    return [
        *characters_of_bytes(),
        *(line.replace(" ", "") for line in merges.splitlines()[1:] if line),
        "<|endoftext|>",
    ]


class GPT2:
    """GPT-2's encoding: 50,257 ids, the last of which ends a document."""

    by_characters = False
    vocab_size = END_OF_TEXT + 1
    end_of_text: int | None = END_OF_TEXT
    description = GPT2_DESCRIPTION

    def __init__(self):
        data = MERGES.read_bytes()
        if hashlib.sha256(data).hexdigest() != MERGES_SHA256:
            raise UserError(f"{MERGES} is not GPT-2's merges file (wrong sha256); type: git checkout {MERGES}")
        self._encoding = tiktoken.Encoding(
            "gpt2",
            pat_str=PATTERN,
            mergeable_ranks=merge_ranks(data.decode("utf-8")),
            special_tokens={"<|endoftext|>": END_OF_TEXT},
            explicit_n_vocab=self.vocab_size,
        )

    def encode(self, text: str) -> list[int]:
        """Ids of a text of any length. decode(encode(text)) == text, except that lone surrogates become U+FFFD."""
        return self._encoding.encode_ordinary(text)

    def decode_bytes(self, ids: list[int]) -> bytes:
        """UTF-8 bytes of the ids; one id may be only a part of a character."""
        return self._encoding.decode_bytes(ids)

    def decode(self, ids: list[int]) -> str:
        """Text of the ids; incomplete characters become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")


class Characters:
    """One id per distinct character of a corpus, in code point order (nanoGPT's character-level datasets)."""

    by_characters = True
    end_of_text: int | None = None

    def __init__(self, characters: str):
        self.characters = characters
        self.vocab_size = len(characters)
        self.description = {"kind": "characters", "characters": characters}
        self._id_of = {c: i for i, c in enumerate(characters)}

    def encode(self, text: str) -> list[int]:
        """Ids of a text. UserError for a character that the corpus lacks, with its position."""
        try:
            return [self._id_of[c] for c in text]
        except KeyError as e:
            unknown = e.args[0]
            raise UserError(
                f"the character {unknown!r} at position {text.index(unknown)} does not occur in the corpus that this "
                f"model was trained on; it knows these {self.vocab_size}: {self.characters!r}"
            ) from None

    def decode(self, ids: list[int]) -> str:
        """Text of the ids."""
        return "".join(self.characters[i] for i in ids)

    def decode_bytes(self, ids: list[int]) -> bytes:
        """UTF-8 bytes of the ids."""
        # "replace": a checkpoint may name a lone surrogate as a character
        return self.decode(ids).encode("utf-8", errors="replace")


Tokenizer = GPT2 | Characters


@functools.cache
def gpt2() -> GPT2:
    """GPT-2's tokenizer, created once per process (about 0.1 s)."""
    return GPT2()


def characters(text: str) -> Characters:
    """The character-level tokenizer of a corpus: its vocabulary is the text's distinct characters."""
    return Characters("".join(sorted(set(text))))


def from_description(description: dict, where: Path | str) -> Tokenizer:
    """The tokenizer described in the file `where`, a meta.json or a checkpoint. UserError for an unknown kind."""
    if description == GPT2_DESCRIPTION:
        return gpt2()
    if description.get("kind") == "characters" and isinstance(description.get("characters"), str):
        return Characters(description["characters"])
    kind = f"{description.get('kind')!r:.50}"
    raise UserError(f"{where} is encoded by {kind}: expected gpt2 or characters; a newer llm may know it")
