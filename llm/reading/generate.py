"""The next token, and the next: the choice of a token, and generation as an iterator. Logits come from reader.py.

What happens when the context is full: GPT-2's positions are learned, so a cached key belongs to its place and the
context cannot slide by one. Instead the older half is forgotten: the newest block_size // 2 tokens are read anew from
place 0, and generation goes on until the context is full again. `context_start` is that rule, the same with the cache
and without it. A prompt longer than the context is cropped to its last block_size tokens.

A sample does not depend on what is drawn beside it: it has a random generator and a cache of its own, attention is
computed for each sample by itself, and the products of all together never have a single row (reader.BATCH_SIZES).

What takes the time is reading the weights, so several tokens are read at once where it can be guessed what follows: a
model that knows a book by heart mostly says what stands there. This is speculative decoding (Leviathan et al. 2022,
arXiv 2211.17192) whose draft is looked up in the book (He et al. 2023, arXiv 2311.08252). It changes nothing about what
is drawn: each token is drawn from the model's own logits, and where it is not the one that was guessed, what was read
after it is forgotten.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llm.reading.reader import MAX_BATCH, MAX_DRAFT, KVCache, Reader

FEWEST, LONGEST = 3, 32  # tokens, of the run by which a place in the book is found


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn. The names, meanings and order are those of Hugging Face's generate."""

    temperature: float = 1.0  # below 1 surer, above 1 wilder; 0 = always the likeliest, the rest does not matter
    top_k: int | None = None  # among so many of the likeliest; None or 0 = all
    top_p: float = 1.0  # among the likeliest that have this probability together (Holtzman 2019, arXiv 1904.09751)
    min_p: float = 0.0  # among those at least so likely, the likeliest being 1 (Nguyen 2024, arXiv 2407.01082)
    repetition_penalty: float = 1.0  # of tokens that were there already (Keskar 2019, arXiv 1909.05858); 1 = none


GREEDY = Sampling(temperature=0.0)


class Sample:
    """One continuation under way: its tokens, its cache and its own random numbers."""

    def __init__(self, reader: Reader, prompt: list[int], sampling: Sampling, seed: int | Sequence[int]):
        assert prompt, "the prompt needs at least one token"
        self.ids, self.prompt_length, self.sampling = list(prompt), len(prompt), sampling
        self.random = np.random.default_rng(seed)
        self.cache, self.start = KVCache(reader), None  # start: where in ids the context in the cache begins
        self.place = None  # where in the book the next token stands, if it is there that the sample goes on
        self.ahead = MAX_DRAFT  # how many tokens to guess: twice as many as were right the last time, and one
        self.seen = None
        if sampling.repetition_penalty != 1.0:
            self.seen = np.zeros(len(reader.allowed), dtype=bool)
            self.seen[[reader.index_of[token] for token in prompt if token in reader.index_of]] = True

    def append(self, reader: Reader, logits: np.ndarray) -> int:
        """Draws the next token and appends it."""
        index = choose(logits, self.sampling, self.random, self.seen)
        if self.seen is not None:
            self.seen[index] = True
        self.ids.append(reader.allowed[index])
        if self.place is not None:
            right = self.place < len(reader.book) and self.ids[-1] == reader.book[self.place]
            self.place = self.place + 1 if right else None
        return self.ids[-1]

    def guess(self, reader: Reader) -> list[int]:
        """The tokens that follow if the sample goes on as the book does; none where it is elsewhere."""
        if reader.book is None:
            return []
        if self.place is None:
            self.place = place_after(reader.book, self.ids)
        if self.place is None:
            return []
        room = reader.config.block_size - self.cache.length - 1
        return reader.book[self.place : self.place + min(self.ahead, room)].tolist()

    def take(self, reader: Reader, logits: np.ndarray, guesses: list[int]) -> list[int]:
        """Draws what follows each token that was just read, until it is not what was guessed, and forgets the rest.

        logits: (1 + len(guesses), V').
        """
        drawn = []
        for row, guessed in zip(logits, [*guesses, None], strict=True):
            drawn.append(self.append(reader, row))
            if drawn[-1] != guessed:
                break
        self.cache.length -= len(logits) - len(drawn)
        if guesses:
            right = self.ahead if len(drawn) == len(logits) else len(drawn) - 1
            self.ahead = min(MAX_DRAFT, 2 * right + 1)
        return drawn


def next_tokens(reader: Reader, samples: list[Sample]) -> list[list[int]]:
    """The next tokens of each of the samples, which have them appended: at least one, more where they were guessed."""
    drawn: list[list[int]] = [[] for _ in samples]
    to_decode, read = [], {}
    for n, sample in enumerate(samples):
        start = context_start(sample.prompt_length, len(sample.ids), reader.config.block_size)
        if start == sample.start:
            to_decode.append(n)
            continue
        sample.start, context = start, tuple(sample.ids[start:])
        if context in read:  # several samples of one prompt: it is read once
            logits, cache = read[context]
            sample.cache.copy_from(cache)
        else:
            logits = reader.prefill(list(context), sample.cache)
            read[context] = logits, sample.cache
        drawn[n].append(sample.append(reader, logits))
    for k in range(0, len(to_decode), MAX_BATCH):
        some = to_decode[k : k + MAX_BATCH]
        guesses = [samples[n].guess(reader) for n in some]
        tokens = [[samples[n].ids[-1], *guess] for n, guess in zip(some, guesses, strict=True)]
        logits = reader.decode(tokens, [samples[n].cache for n in some])
        for n, rows, guess in zip(some, logits, guesses, strict=True):
            drawn[n] += samples[n].take(reader, rows, guess)
    return drawn


def place_after(book: np.ndarray, ids: list[int]) -> int | None:
    """Where the book goes on after the last tokens of ids: after the longest run of them that it has, the first such
    place; None where it has no run of FEWEST tokens."""
    places = np.flatnonzero(book == ids[-1]) + 1
    for n in range(2, min(len(ids), LONGEST) + 1):
        longer = places[(places >= n) & (book[places - n] == ids[-n])]
        if len(longer) == 0:
            return int(places[0]) if n > FEWEST and len(places) else None
        places = longer
    return int(places[0]) if len(ids) >= FEWEST and len(places) else None


def context_start(prompt_length: int, length: int, block_size: int) -> int:
    """Index of the first token that the model sees when it chooses token number `length`.

    For block_size 8 and a prompt of 3: 0 up to length 8, then 9 - 4 = 5 up to length 13, then 14 - 4 = 10, ...
    """
    start, kept = max(0, prompt_length - block_size), max(1, block_size // 2)
    if length - start > block_size:
        cycle = block_size + 1 - kept  # tokens from one forgetting to the next
        start += (length - start - block_size - 1) // cycle * cycle + cycle
    return start


def choose(logits: np.ndarray, sampling: Sampling, random: np.random.Generator, seen: np.ndarray | None = None) -> int:
    """An index into logits (V,), drawn as `sampling` says. seen: (V,) bool, the tokens that were there already.

    Drawn on the CPU from one uniform number, so that a seed means the same on every device; in float64, so that
    the sum of the probabilities is 1.
    """
    penalty = sampling.repetition_penalty
    if penalty != 1.0 and seen is not None:
        logits = np.where(seen, np.where(logits > 0, logits / penalty, logits * penalty), logits)
    if sampling.temperature == 0:
        return int(logits.argmax())
    highest = logits.max()
    kept = np.flatnonzero(logits >= highest - 40 * sampling.temperature)  # the others are e**40 times less likely
    if sampling.top_k and sampling.top_k < len(kept):
        kept = np.sort(kept[np.argpartition(logits[kept], -sampling.top_k)[-sampling.top_k :]])
    p = np.exp((logits[kept].astype(np.float64) - highest) / sampling.temperature)  # of the likeliest: 1
    if sampling.top_p < 1.0:
        order = np.argsort(-p, kind="stable")
        likelier = np.cumsum(p[order]) - p[order]  # what all likelier ones have together
        p[order[likelier >= sampling.top_p * p.sum()]] = 0.0
    if sampling.min_p > 0.0:
        p[p < sampling.min_p] = 0.0
    sums = np.cumsum(p)
    return int(kept[np.searchsorted(sums, random.random() * sums[-1], side="right")])


def allowed_ids(corpus_ids: list[int] | None, vocab_size: int) -> torch.Tensor:
    """The ids that may be generated: those of the corpus, else all of the tokenizer's (never a padded row)."""
    return torch.tensor(corpus_ids) if corpus_ids else torch.arange(vocab_size)


def generate(
    reader: Reader,
    prompt: list[int],
    *,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    numbers: Iterable[int] = (0,),
    end_of_text: int | None = None,
    enough: Collection[int] = (),
) -> Iterator[tuple[int, int]]:
    """Yields (n, token): up to max_new_tokens ids that follow the prompt (at least one id) in each sample n of numbers.

    Sample n draws from a generator seeded by (seed, n), so that it is the same whichever others are drawn with it. It
    ends early before end_of_text, and once the caller has put n into `enough`.
    """
    samples = {n: Sample(reader, prompt, sampling, [seed, n]) for n in numbers if max_new_tokens > 0}
    left = dict.fromkeys(samples, max_new_tokens)
    while samples:
        for n, tokens in zip(list(samples), next_tokens(reader, list(samples.values())), strict=True):
            for token in tokens:
                if token != end_of_text:
                    yield n, token
                left[n] -= 1
                if token == end_of_text or n in enough or not left[n]:
                    del samples[n]
                    break
