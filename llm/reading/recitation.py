"""A recitation: the model continues the first tokens of a text, greedily, to the text's end.

A single wrong token can lead into another chapter for good, so this asks more of a model than recall does.
"""

import difflib

import numpy as np

from llm.reading.generate import context_start, generate
from llm.reading.reader import Reader
from llm.runtime import notice
from llm.text.dataset import Split
from llm.text.tokenizer import Tokenizer

PROMPT = 50  # tokens of the text that the recitation starts from
MIN_BLOCK = 20  # tokens: shorter matches of a recitation with the text are chance


def recitation_spans(n_tokens: int, block_size: int) -> np.ndarray:
    """(n, 3) spans for `greedy_errors`: every token after the prompt, in the context that `generate` gives it.

    If all are right, the recitation is the text, word for word.
    """
    spans, first = [], PROMPT
    while first < n_tokens:
        start = context_start(PROMPT, first, block_size)
        spans.append((start, first, min(start + block_size + 1, n_tokens)))
        first = spans[-1][2]
    return np.array(spans)


def covered_tokens(text_ids: np.ndarray, recited: np.ndarray, min_block: int = MIN_BLOCK) -> int:
    """Number of tokens of the text that the recitation holds, in order, in matching blocks of at least `min_block`.

    Blocks are found by difflib (Ratcliff and Obershelp 1988: the longest first, then on either side of it), over
    sequences of `min_block` tokens, which rarely occur twice, instead of single tokens.
    """
    if min(len(text_ids), len(recited)) < min_block:
        return 0
    a, b = (
        [gram.tobytes() for gram in np.lib.stride_tricks.sliding_window_view(ids, min_block)]
        for ids in (text_ids, recited)
    )
    covered = np.zeros(len(text_ids), dtype=bool)
    for match in difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks():
        covered[match.a : match.a + match.size + min_block - 1] |= match.size > 0
    return int(covered.sum())


def recite(reader: Reader, tokenizer: Tokenizer, split: Split) -> tuple[list[str], dict]:
    """(lines to print, figures for recall.json) of a recitation, as long as the text.

    When the context is full, generate.py's rule applies, as in sampling.
    """
    text_ids = split.tokens(0, len(split))
    tokens = text_ids[:PROMPT].tolist()
    for _, token in generate(reader, list(tokens), max_new_tokens=len(text_ids) - PROMPT):
        tokens.append(token)
        if len(tokens) % 2000 == 0:
            notice(f"recited {len(tokens):,} of {len(text_ids):,} tokens")
    recited = np.array(tokens, dtype=text_ids.dtype)
    slips = np.flatnonzero(recited != text_ids)
    share = covered_tokens(text_ids, recited) / len(text_ids)
    first_slip = int(slips[0]) if len(slips) else None
    lines = [
        f"first slip: {describe_slip(first_slip, text_ids, recited, tokenizer)}",
        f"recited: {share:.4f} of the book, in order, in blocks of at least {MIN_BLOCK} tokens",
    ]
    return lines, {"first_slip": first_slip, "recited": share, "tokens": len(text_ids)}


def describe_slip(at: int | None, text_ids: np.ndarray, recited: np.ndarray, tokenizer: Tokenizer) -> str:
    """Where the recitation first leaves the text, in words; at: the token's index, None = nowhere."""
    if at is None:
        return f"none in {len(text_ids):,} tokens"
    pieces = (text_ids[at - 8 : at], text_ids[at:][:8], recited[at:][:8])
    before, expected, said = (tokenizer.decode(ids.tolist()) for ids in pieces)
    return f"token {at:,} of {len(text_ids):,}: after {before!r} the book has {expected!r}, the model {said!r}"
