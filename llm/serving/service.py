"""One model behind the requests: it reads prompts, queues samples and finds citations. No network here."""

import asyncio
import concurrent.futures
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm.configurator import UserError
from llm.reading.cite import BookIndex, split_words
from llm.reading.contents import Contents
from llm.reading.load import LoadedModel
from llm.reading.prompt import as_in_book, encode_prompt, searchable
from llm.reading.shelf import ShelvedBook, encode_in_book
from llm.serving.completions import Answer
from llm.serving.engine import Engine, QueueFull
from llm.serving.parameters import CompletionRequest, Refused, parse_chat, parse_completion
from llm.serving.room import Room, compare, serve_command, without_book
from llm.serving.watching import training_progress

MAX_CITE_CHARACTERS = 32  # for each token that a prompt and its continuation may have


class BackgroundThread:
    """Runs functions one after another in a thread of its own, away from the event loop."""

    def __init__(self, max_waiting: int):
        self.executor, self.n_waiting, self.max_waiting = concurrent.futures.ThreadPoolExecutor(1), 0, max_waiting

    async def run(self, function: Callable, *args) -> Any:
        """The function's result. Refused with status 429 if too many wait."""
        if self.n_waiting >= self.max_waiting:
            raise queue_full()
        self.n_waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self.executor, function, *args)
        future.add_done_callback(self._done)
        return await future

    def _done(self, future: asyncio.Future) -> None:
        self.n_waiting -= 1

    def close(self) -> None:
        """Drop what waits."""
        self.executor.shutdown(wait=False, cancel_futures=True)


class Before:
    """The model before it learned the book, loaded when somebody asks for it."""

    def __init__(self, load: Callable[[], "Service"]):
        self.load, self.loading = load, asyncio.Lock()
        self.loaded: Service | None = None

    async def service(self) -> "Service":
        """The service of that model. Refused if it cannot be loaded."""
        async with self.loading:
            if self.loaded is None:
                try:
                    self.loaded = await asyncio.to_thread(self.load)
                except UserError as e:
                    raise Refused(409, str(e)) from None
            return self.loaded

    def engines(self) -> list[Engine]:
        return [self.loaded.engine] if self.loaded else []

    def close(self) -> None:
        if self.loaded:
            self.loaded.close()


def queue_full() -> Refused:
    return Refused(429, "too many requests are waiting; try again in a moment", code="queue_full")


class Service:
    """A model with its engine, its book if that is at hand, and the limits of a request."""

    def __init__(
        self,
        name: str,
        model: LoadedModel,
        *,
        max_prompt_tokens: int,
        max_new_tokens: int,
        max_waiting: int,
        out_dir: Path | None = None,
        before: Before | None = None,
        of_same_book: "Service | None" = None,
    ):
        """name: of the model, for clients; max_waiting: samples in the queue, and in one request.

        out_dir: whose metrics.jsonl shows how it learned; before: the model before it learned, if there is one;
        of_same_book: a service whose index of the book is used.
        """
        self.name, self.created = name, int(time.time())
        self.max_prompt_tokens, self.max_new_tokens, self.max_waiting = max_prompt_tokens, max_new_tokens, max_waiting
        self.model, self.tokenizer, self.book_text = model, model.tokenizer, model.book_text
        self.block_size, self.out_dir, self.before = model.reader.config.block_size, out_dir, before
        if of_same_book:
            self.book_index, self.room = of_same_book.book_index, None
        else:
            self.book_index = BookIndex(model.book_text, model.sections) if model.book_text else None
            self.room = Room(Contents(model.split, model.tokenizer, model.books), name) if model.split else None
        searchable(model.book_text, model.tokenizer.by_characters)  # now, not at the first request
        self.engine = Engine(model.reader, model.tokenizer, max_waiting=max_waiting)
        self.encoding, self.citing = BackgroundThread(max_waiting), BackgroundThread(max_waiting)

    def overview(self) -> dict:
        """The book's title and contents, and what can be asked about it; without the book, `reason` says why."""
        here = {"watching": False, "before": self.before is not None, "reason": self.model.missing_book}
        here |= {"command": serve_command(self.out_dir)}
        titles = [book.title for book in self.model.books]
        return (self.room.overview if self.room else without_book(self.name, titles)) | here

    async def windows(self, room: Room) -> dict:
        """The map of the book."""
        return room.windows.answer()

    async def progress(self) -> dict:
        """How it has learned."""
        return (await self.citing.run(training_progress, self.out_dir)) | {"watching": False}

    def jobs(self) -> tuple[int, int]:
        """How many samples run and wait."""
        engines = [self.engine, *(self.before.engines() if self.before else [])]
        return sum(len(engine.running) for engine in engines), sum(len(engine.waiting) for engine in engines)

    def is_idle(self) -> bool:
        """Whether nothing is being drawn for anybody."""
        return all(engine.is_idle() for engine in [self.engine, *(self.before.engines() if self.before else [])])

    def parse(self, body, *, chat: bool = False) -> CompletionRequest:
        """What a request's JSON asks for. Refused if that is not supported or beyond the limits."""
        limits = dict(max_prompt_tokens=self.max_prompt_tokens, max_new_tokens=self.max_new_tokens)
        return (parse_chat if chat else parse_completion)(body, model=self.name, max_samples=self.max_waiting, **limits)

    def encode(
        self, prompt: str | list[int], book: ShelvedBook | None = None, *, whole_tokens: bool = True
    ) -> list[int]:
        """The ids of a prompt. Refused if it is too long, or has a character or an id that the model lacks.

        book: that is to be continued, of several; a prompt that it does not have is encoded as typed. whole_tokens: a
        prompt that ends within a token of the book gets that token, whose other letters are shown after it.
        """
        if isinstance(prompt, str):
            try:
                ids = encode_prompt(self.tokenizer, prompt)
            except UserError as e:
                raise Refused(400, str(e), param="prompt") from None
        else:
            ids = prompt
            if min(ids) < 0 or max(ids) >= self.tokenizer.vocab_size:
                raise Refused(400, f"prompt: ids are from 0 to {self.tokenizer.vocab_size - 1}", param="prompt")
        if len(ids) > self.max_prompt_tokens:
            message = f"prompt has {len(ids):,} tokens: at most {self.max_prompt_tokens:,} are allowed here"
            raise Refused(400, message, param="prompt", code="context_length_exceeded")
        if book:
            return encode_in_book(self.tokenizer, prompt, book, length=self.block_size // 2) or ids
        return self._as_in_book(prompt, ids, whole_tokens) if isinstance(prompt, str) else ids

    def _as_in_book(self, prompt: str, ids: list[int], whole_tokens: bool) -> list[int]:
        """The ids of a prompt as printed in the book; if it is longer than the context, only the end is looked up.

        ids: of the prompt as typed.
        """
        if whole_tokens and len(ids) <= self.block_size:
            return encode_prompt(self.tokenizer, prompt, self.book_text)
        by_characters, n_before = self.tokenizer.by_characters, 0
        if len(ids) > self.block_size:
            n_before = len(ids) - self.block_size
            while (
                not by_characters
                and n_before < len(ids)
                and not self.tokenizer.decode_bytes(ids[n_before:][:1])[:1].isspace()
            ):
                n_before += 1  # to the beginning of a word
            prompt = self.tokenizer.decode(ids[n_before:])
        printed = as_in_book(prompt, self.book_text, by_characters=by_characters)
        return ids if printed is None else ids[:n_before] + self.tokenizer.encode(printed)

    def _encode_all(self, request: CompletionRequest) -> list[list[int]]:
        """The ids of all prompts of a request."""
        try:
            book = None if request.book is None else self.model.book(request.book)
        except UserError as e:
            raise Refused(400, str(e), param="book") from None
        prompts = [self.encode(prompt, book, whole_tokens=request.logprobs is None) for prompt in request.prompts]
        longest = max(map(len, prompts))
        if request.echo and request.logprobs is not None and longest > self.block_size:
            message = f"logprobs of a prompt of {longest:,} tokens: the model's context has {self.block_size:,}"
            raise Refused(400, message, param="prompt", code="context_length_exceeded")
        return prompts

    async def start(self, request: CompletionRequest) -> Answer:
        """Queue the samples of a request. Refused with status 429 if the queue is full."""
        if not self.engine.has_room(request.n_samples):
            raise queue_full()
        prompts = await self.encoding.run(self._encode_all, request)
        answer = Answer(self.name, request, prompts, self.tokenizer)
        try:
            self.engine.submit(answer.jobs)
        except QueueFull:
            raise queue_full() from None
        return answer

    async def cite(self, text: str) -> dict:
        """{"book": whether it is at hand, "pieces": the text, its spans with words and place, "words": in all}."""
        self._check_length(text)
        if self.book_index is None:
            return {"book": False, "pieces": [{"text": text}]}
        return await self.citing.run(self._cite, text)

    async def compare(self, text: str, first: int = 0) -> dict:
        """The text in pieces, recited or invented, with the book's wording. See room.compare."""
        self._check_length(text)
        if self.book_index is None or self.room is None:
            return {"pieces": [{"text": text}], "recited": None, "words": len(split_words(text[first:]))}
        return await self.citing.run(compare, self.book_index, self.room.contents, text, first)

    def _check_length(self, text: str) -> None:
        """Refused if a text is longer than a prompt and its continuation may be."""
        limit = MAX_CITE_CHARACTERS * (self.max_prompt_tokens + self.max_new_tokens)
        if len(text) > limit:
            raise Refused(400, f"text has {len(text):,} characters: at most {limit:,} are allowed here", param="text")

    def _cite(self, text: str) -> dict:
        """The answer of `cite`."""
        pieces = []
        for piece, span in self.book_index.pieces(text):
            pieces.append({"text": piece})
            if span:
                pieces[-1] |= {"words": span.words, "where": span.where()}
        return {"book": True, "pieces": pieces, "words": len(split_words(text))}

    def close(self) -> None:
        """Cancel what nobody waits for any longer, and end the threads."""
        if self.room:
            self.room.close()
        if self.before:
            self.before.close()
        for thread in (self.encoding, self.citing):
            thread.close()
        self.engine.cancel_all()
        self.engine.close()
