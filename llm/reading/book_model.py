"""The model in a notebook: llm.load("out-prince") returns a BookModel.

model = llm.load("out-prince")
model.continue_("Among the many fatalities attending", max_new_tokens=60)
model.recall()
"""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llm import runtime
from llm.configurator import UserError
from llm.reading.cite import BookIndex, Span
from llm.reading.contents import Contents
from llm.reading.continuation import Continuation, step
from llm.reading.generate import Sampling, allowed_ids
from llm.reading.greedy import greedy_errors
from llm.reading.load import LoadedModel, load_reader
from llm.reading.prompt import encode_prompt
from llm.reading.recall import PREFIX, SUFFIX, Recall, recall_obstacle, split_starts, window_spans
from llm.reading.shelf import encode_in_book
from llm.storage.pretrained import load_model


@dataclass(frozen=True)
class Window:
    """What the model knows of a window: given its first 50 tokens, how it recites the next 50."""

    start: int  # character of the text at which the window begins
    where: str  # "CHAPTER II, 34 %"
    known: bool  # whether it recites all 50
    first_slip: int | None  # index of the first wrong one; None = none


class BookModel:
    """A trained model and its book."""

    def __init__(
        self, out_dir: str | Path, checkpoint_name: str = "ckpt.pt", *, device: str = "auto", dtype: str = "auto"
    ):
        """UserError, in one line, if the checkpoint cannot be loaded."""
        self.settings = runtime.Settings(device=device, dtype=dtype)
        self.out_dir, self.checkpoint_name = str(out_dir), checkpoint_name
        with contextlib.redirect_stderr(io.StringIO()):  # the line that scripts print
            rt = runtime.start(self.settings, use="sample")
            self.model: LoadedModel = load_reader(self.out_dir, checkpoint_name, rt=rt, seed=self.settings.seed)
        self._contents: Contents | None = None
        self._index: BookIndex | None = None
        self._windows: list[Window] | None = None
        self._recall: Recall | None = None

    def __repr__(self) -> str:
        title = f"of {self.contents.title}, " if self.text and self.contents.title else ""
        return f"<BookModel {title}{self.model.name}>"

    @property
    def text(self) -> str:
        """The book's text; "" if it is not on this machine."""
        return self.model.book_text

    @property
    def contents(self) -> Contents:
        """Title, author, chapters and places of the book. UserError if it is not at hand."""
        if self.model.split is None:
            raise UserError(f"the text that {self.model.name} was trained on is missing: {self.model.missing_book}")
        if self._contents is None:
            self._contents = Contents(self.model.split, self.model.tokenizer, self.model.books)
        return self._contents

    def continue_(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 200,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        seed: int = 1337,
        stop: str | None = None,
        book: str | None = None,
        stream: bool = False,
    ) -> str | Iterator[str]:
        """What follows the prompt, without it: a string, or with stream=True an iterator of its pieces.

        temperature 0 = always the likeliest token; book: of several, the title of the one that is continued.
        """
        tokenizer, ids = self.model.tokenizer, None
        if book is not None:
            shelved, half = self.model.book(book), self.model.reader.config.block_size // 2
            ids = encode_in_book(tokenizer, prompt, shelved, length=half)
        ids = ids or encode_prompt(tokenizer, prompt, self.text)
        if not ids:
            raise UserError("the prompt is empty: the model needs at least one token")
        continuation = Continuation(
            self.model.reader,
            tokenizer,
            ids,
            max_new_tokens=max_new_tokens,
            sampling=Sampling(temperature=temperature, top_k=top_k, top_p=top_p),
            seed=[seed, 0],
            stop=[stop] if stop else [],
        )
        pieces = self._pieces(continuation)
        return pieces if stream else "".join(pieces)

    def _pieces(self, continuation: Continuation) -> Iterator[str]:
        while continuation.finish_reason is None:
            if new_text := step(self.model.reader, [continuation])[0]:
                yield new_text

    def cite(self, text: str) -> list[tuple[str, Span | None]]:
        """The text in pieces: (piece, its place in the book), or (piece, None) for what does not stand there.

        Only spans of 8 words or more count.
        """
        if self._index is None:
            self._index = BookIndex(self.contents.text, self.model.sections)
        return self._index.pieces(text)

    def recall(self) -> Recall:
        """recall@50/50 of the whole book: the share of its windows that are recited exactly."""
        self.known()
        return self._recall

    def known(self) -> list[Window]:
        """What is known of each window. Measured once, in float32 on CPUs, as recall.py does."""
        if self._windows is None:
            contents, split = self.contents, self.model.split
            model, tokenizer, info = load_model(self.out_dir, self.checkpoint_name, self.model.reader.device)
            if reason := recall_obstacle(model.config.block_size, len(split)):
                raise UserError(reason)
            rt = runtime.start(self.settings, use="measure")
            starts = split_starts(split)
            allowed = allowed_ids(info.corpus_ids, tokenizer.vocab_size)
            errors = greedy_errors(model, split, window_spans(starts), allowed=allowed, rt=rt)
            self._recall = Recall.from_errors(errors)
            wrong = errors[:, PREFIX : PREFIX + SUFFIX]
            slips = np.where(wrong.any(1), wrong.argmax(1), -1).tolist()
            characters = contents.characters_of(starts).tolist()
            self._windows = [
                Window(at, contents.where(at), slip < 0, None if slip < 0 else slip)
                for at, slip in zip(characters, slips, strict=True)
            ]
        return self._windows
