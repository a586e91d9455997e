"""Choose the next token, and the next: sampling, the rule for a full context, drafts from the book.

What this module computes, in nanoGPT's form (ids: the prompt's tokens; tests/reading/test_generate.py compares both):

    @torch.no_grad()
    def generate(model, ids, max_new_tokens, sampling, allowed, random):
        prompt_length = len(ids)
        for _ in range(max_new_tokens):
            start = context_start(prompt_length, len(ids), model.config.block_size)
            logits, _ = model(torch.tensor([ids[start:]]))  # (1, 1, V): the whole context anew for each token
            index = choose(logits[0, -1, allowed].numpy(), sampling, random)  # only ids of the book are drawn
            ids.append(allowed[index])
            yield ids[-1]

The rest makes it fast. In float32 it changes no token; in bfloat16, a few through rounding:

- Cache. GPT-2's positions are learned, so a cached key belongs to its position, and a full context cannot slide by one
  token. Instead the older half is dropped: the newest block_size // 2 tokens are read again from position 0 on, and
  generation continues until the context is full again. `context_start` is that rule. A prompt longer than the context
  is cropped to its last block_size tokens.
- Batch. `next_tokens` advances several samples at once. A sample does not depend on the others: it has its own random
  generator and cache, attention is computed for each sample by itself, and products never have a single row
  (reader.BATCH_SIZES).
- Drafts. Reading 16 tokens takes about 1.5 times as long as reading one, and a model that knows a book mostly says
  what the book says. So the tokens that follow in the book are read together with each new token, and kept as far as
  the model draws the same: speculative decoding (Leviathan et al. 2022, arXiv 2211.17192) with drafts looked up in a
  text (He et al. 2023, arXiv 2311.08252). Each token is still drawn from the model's own logits (docs/LOG.md,
  "Speculative decoding from the book").

Not here: limits, stop strings and text (continuation.py), the network (reader.py).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llm.reading.reader import MAX_BATCH, MAX_DRAFT, KVCache, Reader
from llm.text.token_index import TokenIndex

MIN_MATCH, MAX_MATCH = 3, 32  # tokens: length of the run of last tokens that is looked up in the book


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn. Names, meanings and order are those of Hugging Face's generate."""

    temperature: float = 1.0  # divides the logits: below 1 safer, above 1 wilder; 0 = argmax, the rest does not matter
    top_k: int | None = None  # draw only among this many most likely tokens; None or 0 = all
    top_p: float = 1.0  # draw only among the most likely with this total probability (Holtzman 2019, arXiv 1904.09751)
    min_p: float = 0.0  # minimum probability, relative to the most likely token's (Nguyen 2024, arXiv 2407.01082)
    repetition_penalty: float = 1.0  # above 1: tokens that occurred become less likely (Keskar 2019, arXiv 1909.05858)


GREEDY = Sampling(temperature=0.0)


class Sample:
    """The state of one sample: its tokens, its KV cache, its random generator, its position in the book."""

    def __init__(self, reader: Reader, prompt_ids: list[int], sampling: Sampling, seed: int | Sequence[int]):
        assert prompt_ids, "the prompt needs at least one token"
        self.ids, self.prompt_length, self.sampling = list(prompt_ids), len(prompt_ids), sampling
        self.random = np.random.default_rng(seed)
        self.cache = KVCache(reader)
        self.cache_start: int | None = None  # index in ids of the first token in the cache; None = nothing read yet
        self.book_position: int | None = None  # index in the book of the next token; None = not in the book
        self.draft_length = MAX_DRAFT  # of the next draft: 2 * accepted + 1, at most MAX_DRAFT
        self.seen_mask = None  # (V',) bool: which allowed ids occurred; only kept for a repetition penalty
        if sampling.repetition_penalty != 1.0:
            self.seen_mask = np.zeros(len(reader.allowed), dtype=bool)
            self.seen_mask[[reader.index_of[token] for token in prompt_ids if token in reader.index_of]] = True

    @property
    def n_drawn(self) -> int:
        """Number of tokens after the prompt."""
        return len(self.ids) - self.prompt_length

    def draw(self, reader: Reader, logits: np.ndarray) -> int:
        """Draw the next token from its logits (V'), append it, and return it."""
        index = choose(logits, self.sampling, self.random, self.seen_mask)
        if self.seen_mask is not None:
            self.seen_mask[index] = True
        token = reader.allowed[index]
        self.ids.append(token)
        if self.book_position is not None:
            follows = self.book_position < len(reader.book_ids) and token == reader.book_ids[self.book_position]
            self.book_position = self.book_position + 1 if follows else None
        return token

    def draft(self, reader: Reader) -> list[int]:
        """The tokens that the book has next, as many as fit; [] if the sample's last tokens are not in the book."""
        if reader.book_ids is None:
            return []
        if self.book_position is None:
            self.book_position = position_in_book(reader.book_ids, self.ids)
        if self.book_position is None:
            return []
        room = reader.config.block_size - self.cache.length - 1
        length = min(self.draft_length, room)
        return reader.book_ids[self.book_position : self.book_position + length].tolist()

    def verify(self, reader: Reader, logits: np.ndarray, draft: list[int]) -> list[int]:
        """Draw a token after each token just read, up to the first that differs from the draft; drop the rest.

        logits: (1 + len(draft), V'). Returns the drawn tokens.
        """
        drawn = []
        for row, draft_token in zip(logits, [*draft, None], strict=True):
            drawn.append(self.draw(reader, row))
            if drawn[-1] != draft_token:
                break
        self.cache.length -= len(logits) - len(drawn)
        if draft:
            accepted = self.draft_length if len(drawn) == len(logits) else len(drawn) - 1
            self.draft_length = min(MAX_DRAFT, 2 * accepted + 1)
        return drawn


def next_tokens(reader: Reader, samples: list[Sample]) -> list[list[int]]:
    """Draw and append at least one next token of each sample, more where a draft is accepted; return them."""
    drawn: list[list[int]] = [[] for _ in samples]
    to_decode = []  # indices of the samples whose context continues
    prefilled: dict[tuple[int, ...], tuple[np.ndarray, KVCache]] = {}
    for n, sample in enumerate(samples):
        start = context_start(sample.prompt_length, len(sample.ids), reader.config.block_size)
        if start == sample.cache_start:
            to_decode.append(n)
            continue
        sample.cache_start, context = start, tuple(sample.ids[start:])
        if context in prefilled:  # several samples of one prompt: it is read once
            logits, cache = prefilled[context]
            sample.cache.copy_from(cache)
        else:
            logits = reader.prefill(list(context), sample.cache)
            prefilled[context] = logits, sample.cache
        drawn[n].append(sample.draw(reader, logits))
    for k in range(0, len(to_decode), MAX_BATCH):
        batch = to_decode[k : k + MAX_BATCH]
        drafts = [samples[n].draft(reader) for n in batch]
        tokens = [[samples[n].ids[-1], *draft] for n, draft in zip(batch, drafts, strict=True)]
        logits_of_each = reader.decode(tokens, [samples[n].cache for n in batch])
        for n, logits, draft in zip(batch, logits_of_each, drafts, strict=True):
            drawn[n] += samples[n].verify(reader, logits, draft)
    return drawn


def position_in_book(book_ids: np.ndarray | TokenIndex, ids: list[int]) -> int | None:
    """Index in the book just after the longest run of last tokens of `ids` that occurs there; None if below MIN_MATCH.

    Runs longer than MAX_MATCH count as MAX_MATCH; of several occurrences, the first.
    """
    if isinstance(book_ids, TokenIndex):
        return book_ids.position_after(ids, min_match=MIN_MATCH, max_match=MAX_MATCH)
    positions = np.flatnonzero(book_ids == ids[-1]) + 1
    for length in range(2, min(len(ids), MAX_MATCH) + 1):
        longer = positions[(positions >= length) & (book_ids[positions - length] == ids[-length])]
        if len(longer) == 0:
            return int(positions[0]) if length > MIN_MATCH and len(positions) else None
        positions = longer
    return int(positions[0]) if len(ids) >= MIN_MATCH and len(positions) else None


def context_start(prompt_length: int, length: int, block_size: int) -> int:
    """Index of the first token that the model sees when it chooses token number `length`.

    For block_size 8 and a prompt of 3: 0 up to length 8, then 9 - 4 = 5 up to length 13, then 14 - 4 = 10, ...
    """
    start, kept = max(0, prompt_length - block_size), max(1, block_size // 2)
    if length - start > block_size:
        cycle = block_size + 1 - kept  # tokens from one drop of the older half to the next
        start += (length - start - block_size - 1) // cycle * cycle + cycle
    return start


def choose(
    logits: np.ndarray, sampling: Sampling, random: np.random.Generator, seen_mask: np.ndarray | None = None
) -> int:
    """An index into logits (V',), drawn as `sampling` says.

    seen_mask: (V',) bool, which tokens occurred before; for the repetition penalty. Drawn on the CPU from one uniform
    number, so that a seed means the same on every device, and in float64, whose rounding does not show in the sums.
    """
    penalty = sampling.repetition_penalty
    if penalty != 1.0 and seen_mask is not None:
        logits = np.where(seen_mask, np.where(logits > 0, logits / penalty, logits * penalty), logits)
    if sampling.temperature == 0:
        return int(logits.argmax())
    highest = logits.max()
    kept = np.flatnonzero(logits >= highest - 40 * sampling.temperature)  # the others are e**40 times less likely
    if sampling.top_k and sampling.top_k < len(kept):
        kept = np.sort(kept[np.argpartition(logits[kept], -sampling.top_k)[-sampling.top_k :]])
    p = np.exp((logits[kept].astype(np.float64) - highest) / sampling.temperature)  # relative to the most likely's
    if sampling.top_p < 1.0:
        order = np.argsort(-p, kind="stable")
        mass_before = np.cumsum(p[order]) - p[order]  # total of all more likely tokens
        p[order[mass_before >= sampling.top_p * p.sum()]] = 0.0
    if sampling.min_p > 0.0:
        p[p < sampling.min_p] = 0.0
    cumulative = np.cumsum(p)
    return int(kept[np.searchsorted(cumulative, random.random() * cumulative[-1], side="right")])


def allowed_ids(corpus_ids: list[int] | None, vocab_size: int) -> torch.Tensor:
    """The ids that may be generated: those of the corpus, else all of the tokenizer's (never a padding row)."""
    return torch.tensor(corpus_ids) if corpus_ids else torch.arange(vocab_size)


def generate(
    reader: Reader,
    prompt_ids: list[int],
    *,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    numbers: Iterable[int] = (0,),
) -> Iterator[tuple[int, int]]:
    """Yield (n, token) for max_new_tokens tokens after the prompt, in each sample n of `numbers`.

    Sample n draws from a generator seeded by (seed, n), so it is the same whichever others are drawn beside it. Tokens
    alone: for stop strings, the end of the text, and text, see continuation.py.
    """
    samples = {n: Sample(reader, prompt_ids, sampling, [seed, n]) for n in numbers if max_new_tokens > 0}
    while samples:
        for (n, sample), tokens in zip(samples.items(), next_tokens(reader, list(samples.values())), strict=True):
            excess = max(0, sample.n_drawn - max_new_tokens)  # of an accepted draft, beyond the limit
            for token in tokens[: len(tokens) - excess]:
                yield n, token
        samples = {n: sample for n, sample in samples.items() if sample.n_drawn < max_new_tokens}
