"""OpenAI's completions API: what a request may ask for, and what is answered. No network here.

Reference: OpenAI's API reference, "Completions". Parameters that are not supported are refused by name, never ignored.
"""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from llm.reading.generate import Sampling
from llm.serving.engine import Job
from llm.text.tokenizer import Tokenizer

MAX_STOPS = 4  # OpenAI's limit
PARAMETERS = ("model", "prompt", "max_tokens", "temperature", "top_p", "n", "stop", "stream", "seed", "echo")
ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 500: "server_error"}


class Refused(Exception):
    """A request that is answered with an error, worded as OpenAI's API does."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict:
        """The answer's JSON."""
        error_type = ERROR_TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": error_type, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class CompletionRequest:
    """A checked request for completions; the defaults are OpenAI's."""

    prompts: list  # of texts, or of lists of ids
    max_tokens: int
    temperature: float
    top_p: float
    n: int  # samples of each prompt
    stop: list[str]
    stream: bool
    seed: int
    echo: bool


def parameter(
    body: dict, name: str, default, types: tuple, expected: str, is_valid: Callable[..., bool] = lambda value: True
):
    """A parameter's value, or the default if it is missing or null. Refused, by its name, if it is not as expected."""
    value = body.get(name)
    if value is None:
        return default
    # isinstance(True, int) holds, but True is no number here
    if not isinstance(value, types) or isinstance(value, bool) != (bool in types) or not is_valid(value):
        raise Refused(400, f"{name} is {json.dumps(value)[:80]}: expected {expected}", param=name)
    return value


def is_text(value) -> bool:
    """Whether a prompt is a text that is not empty."""
    return isinstance(value, str) and value != ""


def is_ids(value) -> bool:
    """Whether a prompt is a list of token ids that is not empty."""
    return isinstance(value, list) and value != [] and all(type(token) is int for token in value)


def parse_prompts(value) -> list:
    """The prompts in a request's `prompt`: a text, a list of texts, a list of ids, or a list of such lists."""
    if is_text(value) or is_ids(value):
        return [value]
    if isinstance(value, list) and value and (all(map(is_text, value)) or all(map(is_ids, value))):
        return value
    raise Refused(400, "prompt: expected a text that is not empty, a list of texts, or token ids", param="prompt")


def parse_stop(body: dict) -> list[str]:
    """The stop strings of a request."""
    stop = parameter(body, "stop", [], (str, list), "a text or a list of texts")
    if isinstance(stop, str):
        stop = [stop]
    if len(stop) > MAX_STOPS or not all(map(is_text, stop)):
        raise Refused(400, f"stop: expected at most {MAX_STOPS} texts that are not empty", param="stop")
    return stop


def parse_request(body, *, model: str, max_new_tokens: int, max_samples: int) -> CompletionRequest:
    """What a request's JSON asks for. Refused if that is not supported or beyond the limits.

    model: the name of the only one here; max_new_tokens: limit of max_tokens; max_samples: limit of n.
    """
    if not isinstance(body, dict):
        raise Refused(400, "the body: expected a JSON object")
    for name in body:
        if name not in PARAMETERS:
            raise Refused(400, f"{name} is not supported; these are: {', '.join(PARAMETERS)}", param=name)
    requested_model = parameter(body, "model", model, (str,), "a text")
    if requested_model != model:
        message = f"there is no model {requested_model!r} here, only {model!r}"
        raise Refused(404, message, param="model", code="model_not_found")
    stop, number = parse_stop(body), (int, float)
    up_to, n_up_to = f"a number from 0 to {max_new_tokens}", f"a number from 1 to {max_samples}"
    return CompletionRequest(
        prompts=parse_prompts(body.get("prompt")),
        max_tokens=parameter(body, "max_tokens", 16, (int,), up_to, lambda m: 0 <= m <= max_new_tokens),
        temperature=parameter(body, "temperature", 1.0, number, "a number from 0 to 2", lambda t: 0 <= t <= 2),
        top_p=parameter(body, "top_p", 1.0, number, "a number above 0, at most 1", lambda p: 0 < p <= 1),
        n=parameter(body, "n", 1, (int,), n_up_to, lambda n: 1 <= n <= max_samples),
        stop=stop,
        stream=parameter(body, "stream", False, (bool,), "true or false"),
        seed=parameter(body, "seed", secrets.randbits(63), (int,), "a number below 2**63", lambda s: 0 <= s < 2**63),
        echo=parameter(body, "echo", False, (bool,), "true or false"),
    )


class Answer:
    """The samples of one request, and the JSON that answers it. Made in the event loop."""

    def __init__(self, model: str, request: CompletionRequest, prompts: list[list[int]], tokenizer: Tokenizer):
        """model: its name; prompts: those of the request, as ids."""
        self.id, self.model, self.created = f"cmpl-{secrets.token_hex(12)}", model, int(time.time())
        self.n_prompt_tokens = sum(map(len, prompts))
        self.loop = asyncio.get_running_loop()
        self.deliveries: asyncio.Queue[tuple[int, str, str | None]] = asyncio.Queue()  # (sample, text, finish_reason)
        sampling = Sampling(temperature=request.temperature, top_p=request.top_p)
        self.echoes: list[str] = []  # what the text of each sample begins with
        self.jobs: list[Job] = []
        for prompt, ids in zip(request.prompts, prompts, strict=True):
            text = prompt if isinstance(prompt, str) else tokenizer.decode(ids)
            for n in range(request.n):
                deliver = self._deliver_to(len(self.jobs))
                self.jobs.append(Job(ids, request.max_tokens, sampling, [request.seed, n], request.stop, deliver))
                self.echoes.append(text if request.echo else "")

    def _deliver_to(self, index: int) -> Callable[[str, str | None], None]:
        """Job.deliver of sample `index`, which the engine's thread calls."""

        def deliver(text: str, finish_reason: str | None) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody listens any more
                self.loop.call_soon_threadsafe(self.deliveries.put_nowait, (index, text, finish_reason))

        return deliver

    async def pieces(self) -> AsyncIterator[tuple[int, str, str | None]]:
        """(sample, text, finish_reason) as they are drawn. Cancels the jobs when the caller stops iterating."""
        n_unfinished = len(self.jobs)
        try:
            for index, echo in enumerate(self.echoes):
                if echo:
                    yield index, echo, None
            while n_unfinished:
                index, text, finish_reason = await self.deliveries.get()
                if finish_reason == "error":
                    raise Refused(500, text)
                if finish_reason is not None:
                    n_unfinished -= 1
                yield index, text, finish_reason
        finally:
            for job in self.jobs:
                job.cancelled = True

    def completion(self, pieces: list[tuple[int, str, str | None]], **more) -> dict:
        """OpenAI's text_completion object with these pieces for choices."""
        choices = [
            {"text": text, "index": index, "logprobs": None, "finish_reason": finish_reason}
            for index, text, finish_reason in pieces
        ]
        head = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}
        return {**head, "choices": choices, **more}

    async def whole(self) -> dict:
        """The answer's JSON if the request is not streamed."""
        texts: list[str] = [""] * len(self.jobs)
        finish_reasons: list[str | None] = [None] * len(self.jobs)
        async for index, text, finish_reason in self.pieces():
            texts[index] += text
            finish_reasons[index] = finish_reason
        n_drawn = sum(job.n_tokens for job in self.jobs)
        usage = {
            "prompt_tokens": self.n_prompt_tokens,
            "completion_tokens": n_drawn,
            "total_tokens": self.n_prompt_tokens + n_drawn,
        }
        return self.completion(list(zip(range(len(texts)), texts, finish_reasons, strict=True)), usage=usage)

    async def events(self) -> AsyncIterator[str]:
        """The answer's server-sent events if the request is streamed."""
        try:
            async with contextlib.aclosing(self.pieces()) as pieces:
                async for piece in pieces:
                    yield f"data: {json.dumps(self.completion([piece]))}\n\n"
        except Refused as e:
            yield f"data: {json.dumps(e.body())}\n\n"
        yield "data: [DONE]\n\n"
