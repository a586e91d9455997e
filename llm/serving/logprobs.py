"""Log-probabilities of tokens: float32 log-softmax of the model's logits over the ids that it may generate.

That is the model's own distribution, before temperature and top_p. An id that it never generates, because it does not
occur in the text that it learned, has UNDRAWABLE, as in OpenAI's API.
"""

import codecs
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from llm.reading.generate import Sample, Sampling
from llm.reading.reader import Reader
from llm.text.tokenizer import Tokenizer

UNDRAWABLE = -9999.0
CHUNK = 64  # positions of a prompt whose logits are computed together


@dataclass(frozen=True)
class Score:
    """A token, its log-probability, and the most likely tokens in its place."""

    token: int
    logprob: float | None  # None = the first token, which nothing precedes
    top: dict[int, float] | None  # the most likely tokens, and this one


def score(reader: Reader, logits: np.ndarray, token: int, n_top: int) -> Score:
    """The score of a token that follows where these logits (V') are computed."""
    shifted = logits - logits.max()
    logprobs = shifted - np.log(np.exp(shifted).sum())
    n_top = min(n_top, len(logprobs))
    best = np.argpartition(-logprobs, n_top - 1)[:n_top] if n_top else np.empty(0, dtype=int)
    best = best[np.argsort(-logprobs[best], kind="stable")].tolist()
    index = reader.index_of.get(token)
    logprob = UNDRAWABLE if index is None else float(logprobs[index])
    return Score(token, logprob, {reader.allowed[n]: float(logprobs[n]) for n in best} | {token: logprob})


@torch.inference_mode()
def prompt_scores(reader: Reader, ids: list[int], n_top: int) -> list[Score]:
    """The scores of a prompt's tokens, at most block_size of them."""
    hidden = reader.hidden(torch.tensor([ids], device=reader.device))[0]  # (T, C)
    scores = [Score(ids[0], None, None)]
    for start in range(0, len(ids) - 1, CHUNK):
        following = ids[start + 1 : start + 1 + CHUNK]
        logits = reader.head(hidden[start : start + len(following)]).float().cpu().numpy()
        scores += [score(reader, row, token, n_top) for row, token in zip(logits, following, strict=True)]
    return scores


class ScoredSample(Sample):
    """A sample that keeps the score of each token it draws."""

    def __init__(self, reader: Reader, prompt_ids: list[int], sampling: Sampling, seed: list[int], n_top: int):
        super().__init__(reader, prompt_ids, sampling, seed)
        self.n_top = n_top
        self.scores: list[Score] = []

    def draw(self, reader: Reader, logits: np.ndarray) -> int:
        token = super().draw(reader, logits)
        self.scores.append(score(reader, logits, token, self.n_top))
        return token


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token's text; of one that is no whole characters, its bytes in the form of OpenAI's API: "bytes:\\\\xe2"."""
    data = tokenizer.decode_bytes([token])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class LogprobsObject:
    """OpenAI's logprobs objects of one choice, made as its tokens come."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.entries: list[tuple[str, float | None, dict | None, int]] = []  # not yet taken, with the text's offset
        self.end = 0  # length of the text so far, in characters
        self.start_text(0)

    def start_text(self, offset: int) -> None:
        """The next token begins a text of its own, at this offset: the continuation after an echoed prompt."""
        self.decoder, self.end = codecs.getincrementaldecoder("utf-8")(errors="replace"), offset

    def add(self, scores: Iterable[Score]) -> None:
        """Add tokens with their scores."""
        for item in scores:
            top = item.top and {token_text(self.tokenizer, token): logprob for token, logprob in item.top.items()}
            self.entries.append((token_text(self.tokenizer, item.token), item.logprob, top, self.end))
            self.end += len(self.decoder.decode(self.tokenizer.decode_bytes([item.token])))

    def take(self, text_end: int | None) -> dict:
        """OpenAI's logprobs object of the tokens that begin before this offset in the text; None = of all."""
        n = sum(text_end is None or offset < text_end for *_, offset in self.entries)
        taken, self.entries = self.entries[:n], self.entries[n:]
        names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        return {name: [entry[k] for entry in taken] for k, name in enumerate(names)}
