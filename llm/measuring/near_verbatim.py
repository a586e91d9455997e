"""How much of a text does a long free generation hold, nearly word for word? nv-recall, longest block, edit similarity.

nv-recall (Ahmed et al. 2026, arXiv 2601.02671): words that the generation shares with the text, in order, form blocks.
Neighbouring blocks are joined where at most 2 words lie between them on either side, and the two gaps differ by at most
1 word (drift); blocks of fewer than 20 words are dropped. What is left is joined again at gap 10 and drift 3, and
blocks of fewer than 100 words are dropped. nv-recall is the number of words of the text in these blocks that match, by
the number of all its words.
"""

import difflib
from dataclasses import dataclass

from llm.measuring.models import Model
from llm.measuring.texts import Text
from llm.reading.cite import split_words

PASSES = ((2, 1, 20), (10, 3, 100))  # words: gap and drift up to which blocks are joined; fewer than that are dropped
SEED_WORDS = 6  # of the runs that are looked for first
MAX_PRODUCT = 4_000_000  # words times words: larger gaps between runs are not searched for single words


@dataclass(frozen=True)
class Block:
    """Words start..stop - 1 of the text, and where they are in the generation; `matched` of them are the same."""

    start: int
    stop: int
    other_start: int
    other_stop: int
    matched: int


def matching_blocks(words: list[str], others: list[str]) -> list[Block]:
    """Equal runs of words of both, in order (Ratcliff and Obershelp, difflib).

    Runs of at least SEED_WORDS words are found first; between them single words are matched where both sides are short.
    """
    a, b = ([tuple(w[n : n + SEED_WORDS]) for n in range(len(w) - SEED_WORDS + 1)] for w in (words, others))
    found = difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    runs = [(m.a, m.b, m.size + SEED_WORDS - 1) for m in found if m.size]
    blocks, at, other_at = [], 0, 0
    for start, other_start, size in [*runs, (len(words), len(others), 0)]:
        overlap = max(at - start, other_at - other_start, 0)  # two runs may share words
        if overlap >= size > 0:
            continue
        start, other_start, size = start + overlap, other_start + overlap, size - overlap
        if (start - at) * (other_start - other_at) <= MAX_PRODUCT:
            inner = difflib.SequenceMatcher(None, words[at:start], others[other_at:other_start], autojunk=False)
            blocks += [(at + m.a, other_at + m.b, m.size) for m in inner.get_matching_blocks() if m.size]
        blocks += [(start, other_start, size)] if size else []
        at, other_at = start + size, other_start + size
    return [Block(i, i + size, j, j + size, size) for i, j, size in blocks]


def joined(blocks: list[Block], gap: int, drift: int) -> list[Block]:
    """The blocks, neighbours joined where the gaps between them are short and alike."""
    found: list[Block] = []
    for block in blocks:
        if found:
            last = found[-1]
            gaps = block.start - last.stop, block.other_start - last.other_stop
            if max(gaps) <= gap and abs(gaps[0] - gaps[1]) <= drift:
                found[-1] = Block(
                    last.start, block.stop, last.other_start, block.other_stop, last.matched + block.matched
                )
                continue
        found.append(block)
    return found


def near_verbatim_blocks(words: list[str], others: list[str]) -> list[Block]:
    """The blocks that count for nv-recall."""
    blocks = matching_blocks(words, others)
    for gap, drift, n_words in PASSES:
        blocks = [block for block in joined(blocks, gap, drift) if block.matched >= n_words]
    return blocks


def edit_distance(a: list[str], b: list[str]) -> int:
    """Insertions, deletions and replacements of words that make b of a (Levenshtein 1966).

    Columns of the table are bit vectors in Python's long integers (Myers 1999; Hyyrö 2003): a step for each word of b.
    """
    if not a:
        return len(b)
    positions: dict[str, int] = {}
    for n, word in enumerate(a):
        positions[word] = positions.get(word, 0) | 1 << n
    every, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    plus, minus, distance = every, 0, len(a)
    for word in b:
        equal = positions.get(word, 0)
        vertical = equal | minus
        equal = (((equal & plus) + plus) ^ plus) | equal
        up, down = minus | ~(equal | plus) & every, plus & equal
        distance += bool(up & last) - bool(down & last)
        up, down = (up << 1 | 1) & every, down << 1 & every
        plus, minus = down | ~(vertical | up) & every, up & vertical
    return distance


def compare(words: list[str], others: list[str]) -> dict:
    """The figures of a generation: words of the text, and of the generation."""
    blocks, runs = near_verbatim_blocks(words, others), matching_blocks(words, others)
    longest = max(len(words), len(others))
    return {
        "words": len(words),
        "generated_words": len(others),
        "nv_recall": sum(block.matched for block in blocks) / len(words) if words else 0.0,
        "blocks": len(blocks),
        "longest_near_verbatim_words": max((block.stop - block.start for block in blocks), default=0),
        "longest_verbatim_words": max((run.matched for run in runs), default=0),
        "edit_similarity": 1 - edit_distance(words, others) / longest if longest else 1.0,
    }


def measure_generation(model: Model, text: Text, *, prefix: int, n_tokens: int | None) -> dict:
    """The figures of what greedy decoding adds to the text's first `prefix` tokens, beside the text after them.

    n_tokens: to generate; None = as many as the text has.
    """
    n = len(text.ids) - prefix
    n = n if n_tokens is None else min(n, n_tokens)
    generated = model.continuation(text.ids[:prefix].tolist(), n)
    expected = text.text[int(text.starts[prefix]) : int(text.starts[prefix + n])]
    return {"tokens": n, **compare(split_words(expected), split_words(model.decode(generated)))}
