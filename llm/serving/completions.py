"""Answers in the form of OpenAI's API: completions and chat completions, whole and streamed. No network here."""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable

from llm.reading.generate import Sampling
from llm.serving.engine import Job
from llm.serving.logprobs import LogprobsObject
from llm.serving.parameters import CompletionRequest, Refused
from llm.text.tokenizer import Tokenizer

Piece = tuple[int, str, str | None]  # (sample, text, finish_reason)


class Answer:
    """The samples of one request, and the JSON that answers it. Made in the event loop."""

    def __init__(self, model: str, request: CompletionRequest, prompts: list[list[int]], tokenizer: Tokenizer):
        """model: its name; prompts: those of the request, as ids."""
        self.request, self.model, self.created = request, model, int(time.time())
        self.id = f"{'chatcmpl' if request.chat else 'cmpl'}-{secrets.token_hex(12)}"
        self.n_prompt_tokens = sum(map(len, prompts))
        self.loop = asyncio.get_running_loop()
        self.deliveries: asyncio.Queue[Piece] = asyncio.Queue()
        self.echoes: list[str] = []  # what the text of each sample begins with
        self.jobs: list[Job] = []
        self.logprobs = [LogprobsObject(tokenizer) for _ in range(request.n_samples)]
        self.n_scores = [0] * request.n_samples  # of each sample, that `logprobs` has got
        for prompt, ids in zip(request.prompts, prompts, strict=True):
            # with logprobs the text is that of the tokens, so that both agree
            text = prompt if isinstance(prompt, str) and request.logprobs is None else tokenizer.decode(ids)
            for n in range(request.n):
                self.jobs.append(self._job(ids, n))
                self.echoes.append(text if request.echo else "")

    def _job(self, ids: list[int], n: int) -> Job:
        """Sample n of a prompt."""
        request = self.request
        return Job(
            prompt_ids=ids,
            max_new_tokens=request.max_tokens,
            sampling=Sampling(temperature=request.temperature, top_p=request.top_p),
            seed=[request.seed, n],
            stop=request.stop,
            deliver=self._deliver_to(len(self.jobs)),
            n_top=request.logprobs,
            scores_prompt=request.echo and request.logprobs is not None,
        )

    def _deliver_to(self, index: int) -> Callable[[str, str | None], None]:
        """Job.deliver of sample `index`, which the engine's thread calls."""

        def deliver(text: str, finish_reason: str | None) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody listens any more
                self.loop.call_soon_threadsafe(self.deliveries.put_nowait, (index, text, finish_reason))

        return deliver

    async def pieces(self) -> AsyncIterator[Piece]:
        """(sample, text, finish_reason) as they are drawn. Cancels the jobs when the caller stops iterating."""
        n_unfinished, echoes = len(self.jobs), list(self.echoes)
        try:
            while n_unfinished:
                index, text, finish_reason = await self.deliveries.get()
                if finish_reason == "error":
                    raise Refused(500, text)
                if finish_reason is not None:
                    n_unfinished -= 1
                yield index, echoes[index] + text, finish_reason
                echoes[index] = ""
        finally:
            for job in self.jobs:
                job.cancelled = True

    def _logprobs(self, index: int, shown: int, finish_reason: str | None) -> dict | None:
        """The logprobs object of a sample's next piece. shown: length of the sample's text with this piece."""
        if self.request.logprobs is None:
            return None
        job, made = self.jobs[index], self.logprobs[index]
        if self.n_scores[index] == 0 and job.prompt_scores:
            made.add(job.prompt_scores)
            made.start_text(len(self.echoes[index]))
            job.prompt_scores = []
        scores = job.scores[self.n_scores[index] : job.n_scores]
        self.n_scores[index] += len(scores)
        made.add(scores)
        ended_by_stop = finish_reason == "stop" and not job.ended_document
        return made.take(None if finish_reason is not None and not ended_by_stop else shown)

    def usage(self) -> dict:
        """OpenAI's usage object."""
        n_drawn = sum(job.n_tokens for job in self.jobs)
        total = self.n_prompt_tokens + n_drawn
        return {"prompt_tokens": self.n_prompt_tokens, "completion_tokens": n_drawn, "total_tokens": total}

    def _object(self, choices: list[dict], *, chunk: bool, **more) -> dict:
        """OpenAI's object with these choices, which stand last in it. chunk: of a stream."""
        kind = "text_completion" if not self.request.chat else "chat.completion" + ".chunk" * chunk
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**head, **more, "choices": choices}

    async def whole(self) -> bytes:
        """The answer's JSON if the request is not streamed."""
        texts: list[list[str]] = [[] for _ in self.jobs]
        finish_reasons: list[str | None] = [None] * len(self.jobs)
        async for index, text, finish_reason in self.pieces():
            texts[index].append(text)
            finish_reasons[index] = finish_reason
        return await asyncio.to_thread(self._whole_json, ["".join(pieces) for pieces in texts], finish_reasons)

    def _whole_json(self, texts: list[str], finish_reasons: list[str | None]) -> bytes:
        """The answer's JSON, encoded choice by choice: the encoder keeps all other threads waiting."""
        choices = []
        for index, (text, finish_reason) in enumerate(zip(texts, finish_reasons, strict=True)):
            choice = {"index": index, "finish_reason": finish_reason}
            if self.request.chat:
                choice |= {"message": {"role": "assistant", "content": text, "refusal": None}, "logprobs": None}
            else:
                choice |= {"text": text, "logprobs": self._logprobs(index, len(text), finish_reason)}
            choices.append(json.dumps(choice))
        head = json.dumps(self._object([], chunk=False, usage=self.usage()))
        return f"{head.removesuffix(']}')}{', '.join(choices)}]}}".encode()

    def _chunks(self, index: int, text: str, finish_reason: str | None, length: int) -> list[dict]:
        """The choices, each for an event of its own, that stream a piece; length: of the text with this piece."""
        if not self.request.chat:
            logprobs = self._logprobs(index, length, finish_reason)
            return [{"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish_reason}]
        parts = [({"content": text}, None)] if text else []
        if length == len(text):  # the first piece
            parts.insert(0, ({"role": "assistant", "content": ""}, None))
        if finish_reason is not None:
            parts.append(({}, finish_reason))
        return [{"index": index, "delta": delta, "logprobs": None, "finish_reason": end} for delta, end in parts]

    async def events(self) -> AsyncIterator[str]:
        """The answer's server-sent events if the request is streamed."""
        lengths, more = [0] * len(self.jobs), {"usage": None} if self.request.include_usage else {}
        try:
            async with contextlib.aclosing(self.pieces()) as pieces:
                async for index, text, finish_reason in pieces:
                    lengths[index] += len(text)
                    for choice in self._chunks(index, text, finish_reason, lengths[index]):
                        yield event(self._object([choice], chunk=True, **more))
            if self.request.include_usage:
                yield event(self._object([], chunk=True, usage=self.usage()))
        except Refused as e:
            yield event(e.body())
        yield "data: [DONE]\n\n"


def event(data: dict) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(data)}\n\n"
