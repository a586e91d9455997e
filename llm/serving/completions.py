"""OpenAI's completions API: what a request may ask for, and what is answered. No network here.

Reference: OpenAI's API reference, "Completions". What we cannot do is refused by name, never silently left out.
"""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from llm.reading.generate import Sampling
from llm.serving.engine import Job
from llm.text.tokenizer import Tokenizer

MAX_STOPS = 4  # OpenAI's limit


class Refused(Exception):
    """An answer other than 200, as OpenAI's API words it."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict:
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 500: "server_error"}
        kind = kinds.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Request:
    """A request for completions, checked; the defaults are OpenAI's."""

    prompts: list  # of texts, or of lists of ids
    max_tokens: int
    temperature: float
    top_p: float
    n: int
    stop: list[str]
    stream: bool
    seed: int
    echo: bool


def one_of(body: dict, name: str, default, kinds: tuple, expected: str, holds=lambda value: True):
    """A parameter's value, the default where it is missing or null. Refused, with its name, if it is another kind."""
    value = body.get(name)
    if value is None:
        return default
    # True is no number, although Python thinks so
    if not isinstance(value, kinds) or isinstance(value, bool) != (bool in kinds) or not holds(value):
        raise Refused(400, f"{name} is {json.dumps(value)[:80]}: expected {expected}", param=name)
    return value


def prompts_of(given) -> list:
    """The prompts: a text, a list of texts, a list of ids, or a list of such lists."""
    for several in ([given], given):
        if isinstance(several, list) and several and all(several):
            texts = all(isinstance(p, str) for p in several)
            if texts or all(isinstance(p, list) and all(type(i) is int for i in p) for p in several):
                return several
    raise Refused(400, "prompt: expected a text that is not empty, a list of texts, or token ids", param="prompt")


def checked(body, cfg, model: str) -> Request:
    """What a request's JSON asks for, within the limits of cfg (serve.Settings). Refused where that can't be done."""
    if not isinstance(body, dict):
        raise Refused(400, "the body: expected a JSON object")
    names = ("model", "prompt", "max_tokens", "temperature", "top_p", "n", "stop", "stream", "seed", "echo")
    for name in body:
        if name not in names:
            raise Refused(400, f"{name} is not supported; these are: {', '.join(names)}", param=name)
    wanted = one_of(body, "model", model, (str,), "a text")
    if wanted != model:
        raise Refused(404, f"there is no model {wanted!r} here, only {model!r}", param="model", code="model_not_found")
    stop = one_of(body, "stop", [], (str, list), "a text or a list of texts")
    stop = [stop] if isinstance(stop, str) else stop
    if len(stop) > MAX_STOPS or not all(isinstance(text, str) and text for text in stop):
        raise Refused(400, f"stop: expected at most {MAX_STOPS} texts that are not empty", param="stop")
    number, most = (int, float), cfg.max_new_tokens
    return Request(
        prompts=prompts_of(body.get("prompt")),
        max_tokens=one_of(body, "max_tokens", 16, (int,), f"a number from 0 to {most}", lambda m: 0 <= m <= most),
        temperature=one_of(body, "temperature", 1.0, number, "a number from 0 to 2", lambda t: 0 <= t <= 2),
        top_p=one_of(body, "top_p", 1.0, number, "a number above 0, at most 1", lambda p: 0 < p <= 1),
        n=one_of(body, "n", 1, (int,), f"a number from 1 to {cfg.queue}", lambda n: 1 <= n <= cfg.queue),
        stop=stop,
        stream=one_of(body, "stream", False, (bool,), "true or false"),
        seed=one_of(body, "seed", secrets.randbits(63), (int,), "a number below 2**63", lambda s: 0 <= s < 2**63),
        echo=one_of(body, "echo", False, (bool,), "true or false"),
    )


class Answer:
    """The samples of one request under way."""

    def __init__(self, model: str, asked: Request, prompts: list[list[int]], tokenizer: Tokenizer):
        """prompts: those of the request, as ids."""
        self.prompts = prompts
        self.id, self.model, self.created = f"cmpl-{secrets.token_hex(12)}", model, int(time.time())
        loop, self.arrived = asyncio.get_running_loop(), asyncio.Queue()
        sampling = Sampling(temperature=asked.temperature, top_p=asked.top_p)

        def deliver_to(index: int):
            def deliver(text: str, reason: str | None) -> None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                    loop.call_soon_threadsafe(self.arrived.put_nowait, (index, text, reason))

            return deliver

        self.echoes = []  # what each sample begins with
        self.jobs = []
        for prompt, ids in zip(asked.prompts, prompts, strict=True):
            for n in range(asked.n):
                deliver = deliver_to(len(self.jobs))
                self.jobs.append(Job(ids, asked.max_tokens, sampling, [asked.seed, n], asked.stop, deliver))
                text = prompt if isinstance(prompt, str) else tokenizer.decode(ids)
                self.echoes.append(text if asked.echo else "")

    async def pieces(self) -> AsyncIterator[tuple[int, str, str | None]]:
        """(sample, text, finish_reason) as they come. Whoever stops listening frees the samples' places."""
        left = len(self.jobs)
        try:
            for index, echo in enumerate(self.echoes):
                if echo:
                    yield index, echo, None
            while left:
                index, text, reason = await self.arrived.get()
                if reason == "error":
                    raise Refused(500, text)
                left -= reason is not None
                yield index, text, reason
        finally:
            for job in self.jobs:
                job.cancelled = True

    def object(self, choices: list[tuple[int, str, str | None]], **more) -> dict:
        """OpenAI's text_completion object."""
        choices = [{"text": t, "index": i, "logprobs": None, "finish_reason": reason} for i, t, reason in choices]
        head = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}
        return {**head, "choices": choices, **more}

    async def whole(self) -> dict:
        """The answer to a request that is not streamed."""
        texts, reasons = [""] * len(self.jobs), [None] * len(self.jobs)
        async for index, text, reason in self.pieces():
            texts[index] += text
            reasons[index] = reason
        drawn, read = sum(job.n_tokens for job in self.jobs), sum(map(len, self.prompts))
        usage = {"prompt_tokens": read, "completion_tokens": drawn, "total_tokens": read + drawn}
        return self.object(list(zip(range(len(texts)), texts, reasons, strict=True)), usage=usage)

    async def events(self) -> AsyncIterator[str]:
        """The answer to a request that is streamed: server-sent events."""
        try:
            async with contextlib.aclosing(self.pieces()) as pieces:
                async for piece in pieces:
                    yield f"data: {json.dumps(self.object([piece]))}\n\n"
        except Refused as e:
            yield f"data: {json.dumps(e.body())}\n\n"
        yield "data: [DONE]\n\n"
