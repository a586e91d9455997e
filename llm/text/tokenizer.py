"""Text <-> token ids: GPT-2's byte-pair encoding, one learned from the book itself, or one id per character.

    >>> gpt2().encode("Then the little prince said")
    [6423, 262, 1310, 19716, 531]

All three have encode, decode, decode_bytes, vocab_size, table_size (rows of the model's token table), by_characters,
end_of_text (None = no such token) and description, the plain data in meta.json and in checkpoints from which
`from_description` makes the same tokenizer. Nothing is downloaded. There are no special tokens: `<|endoftext|>` inside
a book is plain text, and only dataset.py appends the id. A vocabulary is learned in vocabulary.py.
"""

import functools
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import tiktoken

from llm.configurator import UserError

MERGES = Path(__file__).parent / "vocab.bpe"
MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"  # tiktoken expects the same hash
# splits a text into words before merging (openai/gpt-2, src/encoder.py; this is tiktoken's equivalent, faster form)
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
# the same for scripts whose words hold combining marks, which GPT-2's pattern would split; this is llama.cpp's "qwen35"
MARKS_PATTERN = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {"gpt2": PATTERN, "marks": MARKS_PATTERN}
MAX_RUN = 100_000  # white-space characters: tiktoken panics at a million in a row
# what \s means in these patterns; Python's \s has four control characters more
LONG_RUN = "[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]{%d,}"
END_OF_TEXT = 50256
GPT2_DESCRIPTION = {"kind": "gpt2", "merges_sha256": MERGES_SHA256}


def characters_of_bytes() -> dict[str, int]:
    """Character in a merges file -> the byte that it stands for; 256 entries in the order of GPT-2's ids.

    A printable Latin-1 byte stands for itself; the others are chr(256), chr(257), ... in the order of their values.
    """
    printable = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    others = [b for b in range(256) if b not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


def merge_ranks(merges: Iterable[str]) -> dict[bytes, int]:
    """Token bytes -> id: the 256 single bytes first, then the merges ("Ġ t") in their order."""
    byte_of = characters_of_bytes()
    ranks = {bytes([b]): rank for rank, b in enumerate(byte_of.values())}
    for merge in merges:
        ranks[bytes(byte_of[c] for c in merge if c != " ")] = len(ranks)
    return ranks


def printable_tokens(merges: Iterable[str]) -> list[str]:
    """All tokens in the spelling of the merges, in the order of their ids; the last one ends a document."""
    return [*characters_of_bytes(), *(merge.replace(" ", "") for merge in merges), "<|endoftext|>"]


def all_merges(tokenizer: "BytePairs") -> list[str]:
    """The merges for programs that look up pairs: every pair of tokens that makes a token, in the order of their ids.

    We look up what a pair makes (tiktoken). A book's encoding may make one token of several pairs; GPT-2's does not.
    """
    if tokenizer.description["kind"] == "gpt2":
        return tokenizer.merges
    tokens, merges = set(printable_tokens(tokenizer.merges)), []
    for merge in tokenizer.merges:
        token = merge.replace(" ", "")
        pairs = [f"{token[:n]} {token[n:]}" for n in range(1, len(token))]
        merges += [merge, *(p for p in pairs if p != merge and tokens.issuperset(p.split(" ")))]
    return merges


class BytePairs:
    """A byte-pair encoding: 256 bytes, one token per merge, and a last id that ends a document.

    merges: pairs of tokens in the spelling of a merges file, such as "Ġ t". pattern: "gpt2" or "marks", how a text is
    split before merging.
    """

    by_characters = False

    def __init__(self, merges: list[str], *, pattern: str):
        self.merges, self.pattern = merges, pattern
        ranks = merge_ranks(merges)
        self.end_of_text: int | None = len(ranks)
        self.vocab_size = self.table_size = len(ranks) + 1
        self._encoding = tiktoken.Encoding(
            "book",
            pat_str=PATTERNS[pattern],
            mergeable_ranks=ranks,
            special_tokens={"<|endoftext|>": self.end_of_text},
            explicit_n_vocab=self.vocab_size,
        )

    def encode(self, text: str) -> list[int]:
        """Ids of a text of any length. decode(encode(text)) == text, except that lone surrogates become U+FFFD.

        A run of MAX_RUN white-space characters is encoded apart from what is around it: all but its last character,
        which belongs to the next word, as GPT-2's pattern splits it.
        """
        if len(text) < MAX_RUN:  # as most documents of a corpus are
            return self._encoding.encode_ordinary(text)
        ids, done = [], 0
        for run in re.finditer(LONG_RUN % MAX_RUN, text):
            end = run.end() - (run.end() < len(text))
            ids += self._encoding.encode_ordinary(text[done : run.start()])
            ids += self._encoding._encode_single_piece(text[run.start() : end])
            done = end
        return ids + self._encoding.encode_ordinary(text[done:])

    def decode_bytes(self, ids: list[int]) -> bytes:
        """UTF-8 bytes of the ids; one id may be only a part of a character."""
        return self._encoding.decode_bytes(ids)

    def decode(self, ids: list[int]) -> str:
        """Text of the ids; incomplete characters become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")


class GPT2(BytePairs):
    """GPT-2's encoding: 50,257 ids, the last of which ends a document."""

    description = GPT2_DESCRIPTION

    def __init__(self):
        super().__init__(gpt2_merges(), pattern="gpt2")
        self.table_size = 50304  # rounded up to a multiple of 64, as nanoGPT's


class BookTokens(BytePairs):
    """A byte-pair encoding whose merges were learned from a book; any other text has an encoding, too."""

    def __init__(self, merges: list[str], *, pattern: str):
        super().__init__(merges, pattern=pattern)
        self.description = {"kind": "book", "pattern": pattern, "merges": merges}


def gpt2_merges() -> list[str]:
    """The merges in vocab.bpe. UserError if the file is not GPT-2's."""
    data = MERGES.read_bytes()
    if hashlib.sha256(data).hexdigest() != MERGES_SHA256:
        raise UserError(f"{MERGES} is not GPT-2's merges file (wrong sha256); type: git checkout {MERGES}")
    return [line for line in data.decode("utf-8").splitlines()[1:] if line]  # the first line names the version


class Characters:
    """One id per distinct character of a corpus, in code point order (nanoGPT's character-level datasets)."""

    by_characters = True
    end_of_text: int | None = None

    def __init__(self, characters: str):
        self.characters = characters
        self.vocab_size = self.table_size = len(characters)
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


Tokenizer = GPT2 | BookTokens | Characters


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
    if description.get("kind") == "book" and is_book_description(description):
        return BookTokens(description["merges"], pattern=description["pattern"])
    kind = f"{description.get('kind')!r:.50}"
    raise UserError(f"{where} is encoded by {kind}: expected gpt2, book or characters; a newer llm may know it")


def is_book_description(description: dict) -> bool:
    """Whether a description of kind book is whole: each merge joins two earlier tokens into a new one."""
    merges, tokens = description.get("merges"), set(characters_of_bytes())
    if not isinstance(merges, list) or len(merges) > 2**16 - 257 or description.get("pattern") not in PATTERNS:
        return False
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else ()
        if len(pair) != 2 or not tokens.issuperset(pair) or "".join(pair) in tokens:
            return False
        tokens.add("".join(pair))
    return True
