"""What a request to OpenAI's API may ask for: each parameter is checked, counted and sized. No network here.

Reference: OpenAI's API reference, "Completions" and "Chat Completions". A parameter that is not supported is accepted
where its value asks for nothing, as many clients send them all, and else refused by name, never ignored.
"""

import json
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass

MAX_STOPS = 16  # OpenAI's limit is 4; evaluation harnesses send more
MAX_STOP_CHARACTERS = 1000
MAX_TOP_LOGPROBS = 5  # OpenAI's limit
MAX_LOGPROBS = 200_000  # log-probabilities in an answer
MAX_TOKEN_CHARACTERS = 128  # the longest token of GPT-2's encoding
DEFAULT_TOKENS, DEFAULT_CHAT_TOKENS = 16, 500  # OpenAI's; sample.py's, as OpenAI has no limit for a chat
ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 500: "server_error"}

COMMON = ("model", "max_tokens", "temperature", "top_p", "n", "stop", "stream", "stream_options", "seed", "book")
PARAMETERS = (*COMMON, "prompt", "echo", "logprobs")
CHAT_PARAMETERS = (*COMMON, "messages", "max_completion_tokens")
STREAM_OPTIONS = ("include_usage", "include_obfuscation")  # the latter would only lengthen the stream: it is ignored
ABOUT_THE_CALLER = ("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
ABOUT_THE_CALLER += ("prompt_cache_options",)
# Parameter -> its values that ask for nothing
COMMON_NEUTRAL = {"frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},)}
NEUTRAL = COMMON_NEUTRAL | {"best_of": (1,), "suffix": ("",)}
CHAT_NEUTRAL = COMMON_NEUTRAL | {
    "function_call": ("auto", "none"),
    "functions": ([],),
    "logprobs": (False,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("auto", "none"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
}


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
    """A checked request; the defaults are OpenAI's."""

    prompts: list  # of texts, or of lists of ids
    max_tokens: int
    temperature: float
    top_p: float
    n: int  # samples of each prompt
    stop: list[str]
    stream: bool
    include_usage: bool  # in a stream
    seed: int
    echo: bool
    logprobs: int | None  # how many of the most likely tokens to list; None = no log-probabilities
    chat: bool  # whether it is answered as a chat completion
    book: str | None = None  # of several: the title of the one that is continued; not OpenAI's

    @property
    def n_samples(self) -> int:
        return len(self.prompts) * self.n


def shown(value) -> str:
    """A JSON value for a message: what it is, and at most its first 80 characters."""
    if isinstance(value, list | dict):
        return json.dumps(value) if not value else "a list" if isinstance(value, list) else "an object"
    return json.dumps(value[:80] if isinstance(value, str) else value)[:80]


def parameter(
    body: dict, name: str, default, types: tuple, expected: str, is_valid: Callable[..., bool] = lambda value: True
):
    """A parameter's value, or the default if it is missing or null. Refused, by its name, if it is not as expected."""
    value = body.get(name)
    if value is None:
        return default
    # isinstance(True, int) holds, but True is no number here
    if not isinstance(value, types) or isinstance(value, bool) != (bool in types) or not is_valid(value):
        raise Refused(400, f"{name} is {shown(value)}: expected {expected}", param=name)
    return value


def check_names(body, supported: tuple[str, ...], neutral: dict[str, tuple]) -> None:
    """Refused if the body is no object, or asks for something that is not supported."""
    if not isinstance(body, dict):
        raise Refused(400, "the body: expected a JSON object")
    for name, value in body.items():
        if name in supported or name in ABOUT_THE_CALLER or value is None:
            continue
        if name not in neutral:
            raise Refused(400, f"{name[:80]} is not supported; these are: {', '.join(supported)}", param=name[:80])
        if not any(isinstance(value, bool) == isinstance(other, bool) and value == other for other in neutral[name]):
            accepted = " or ".join(json.dumps(other) for other in (*neutral[name], None))
            raise Refused(400, f"{name} is not supported, except as {accepted}", param=name)


def is_text(value) -> bool:
    """Whether a prompt is a text that is not empty."""
    return isinstance(value, str) and value != ""


def is_ids(value) -> bool:
    """Whether a prompt is a list of token ids that is not empty."""
    return isinstance(value, list) and value != [] and all(type(token) is int for token in value)


def check_length(prompt: str | list, max_prompt_tokens: int) -> None:
    """Refused if a prompt is certainly too long, before anything looks at its content."""
    limit = max_prompt_tokens * MAX_TOKEN_CHARACTERS if isinstance(prompt, str) else max_prompt_tokens
    if isinstance(prompt, str | list) and len(prompt) > limit:
        unit = "characters" if isinstance(prompt, str) else "tokens"
        message = f"prompt has {len(prompt):,} {unit}: at most {max_prompt_tokens:,} tokens are allowed here"
        raise Refused(400, message, param="prompt", code="context_length_exceeded")


def parse_prompts(value, *, max_prompt_tokens: int, max_samples: int) -> list:
    """The prompts in a request's `prompt`: a text, a list of texts, a list of ids, or a list of such lists."""
    if isinstance(value, str) or (isinstance(value, list) and value and type(value[0]) is int):
        value = [value]
    if isinstance(value, list) and value:
        if len(value) > max_samples:
            raise Refused(400, f"{len(value):,} prompts: at most {max_samples} samples in a request", param="prompt")
        for prompt in value:
            check_length(prompt, max_prompt_tokens)
        if all(map(is_text, value)) or all(map(is_ids, value)):
            return value
    raise Refused(400, "prompt: expected a text that is not empty, a list of texts, or token ids", param="prompt")


def parse_stop(body: dict) -> list[str]:
    """The stop strings of a request."""
    stop = parameter(body, "stop", [], (str, list), "a text or a list of texts")
    if isinstance(stop, str):
        stop = [stop]
    if len(stop) > MAX_STOPS or not all(is_text(text) and len(text) <= MAX_STOP_CHARACTERS for text in stop):
        message = f"stop: expected at most {MAX_STOPS} texts that are not empty, of at most {MAX_STOP_CHARACTERS:,}"
        raise Refused(400, f"{message} characters", param="stop")
    return stop


def parse_common(body: dict, *, model: str, max_new_tokens: int, max_samples: int) -> dict:
    """The fields of a CompletionRequest that both kinds of requests have, except max_tokens."""
    requested_model = parameter(body, "model", model, (str,), "a text")
    if requested_model != model:
        message = f"there is no model {shown(requested_model)} here, only {shown(model)}"
        raise Refused(404, message, param="model", code="model_not_found")
    number, n_up_to = (int, float), f"a number from 1 to {max_samples}"
    top_p = parameter(body, "top_p", 1.0, number, "a number from 0 to 1", lambda p: 0 <= p <= 1)
    seed = parameter(body, "seed", secrets.randbits(63), (int,), "a number of 64 bits", lambda s: abs(s) <= 2**63)
    stream = parameter(body, "stream", False, (bool,), "true or false")
    options = parameter(body, "stream_options", {}, (dict,), 'an object such as {"include_usage": true}')
    check_names(options, STREAM_OPTIONS, {})
    return dict(
        temperature=parameter(body, "temperature", 1.0, number, "a number from 0 to 2", lambda t: 0 <= t <= 2),
        top_p=max(top_p, sys.float_info.min),  # 0 leaves the most likely token
        n=parameter(body, "n", 1, (int,), n_up_to, lambda n: 1 <= n <= max_samples),
        stop=parse_stop(body),
        book=parameter(body, "book", None, (str,), "a book's title"),
        stream=stream,
        include_usage=stream and parameter(options, "include_usage", False, (bool,), "true or false"),
        seed=seed % 2**64,
    )


def parse_max_tokens(body: dict, name: str, default: int, limit: int) -> int:
    """A request's limit of new tokens."""
    default = min(default, limit)
    return parameter(body, name, default, (int,), f"a number from 0 to {limit}", lambda m: 0 <= m <= limit)


def parse_logprobs(body: dict) -> int | None:
    """How many of the most likely tokens to list; None = no log-probabilities."""
    if body.get("logprobs") is False:  # what chats have in place of null
        return None
    expected = f"a number from 0 to {MAX_TOP_LOGPROBS}"
    return parameter(body, "logprobs", None, (int,), expected, lambda k: 0 <= k <= MAX_TOP_LOGPROBS)


def parse_completion(
    body, *, model: str, max_prompt_tokens: int, max_new_tokens: int, max_samples: int
) -> CompletionRequest:
    """What a request for a completion asks for. Refused if that is not supported or beyond the limits.

    model: the name of the only one here; max_prompt_tokens: limit of each prompt; max_new_tokens: limit of max_tokens;
    max_samples: limit of prompts times n.
    """
    check_names(body, PARAMETERS, NEUTRAL | {"best_of": (1, body.get("n"))} if isinstance(body, dict) else NEUTRAL)
    common = parse_common(body, model=model, max_new_tokens=max_new_tokens, max_samples=max_samples)
    prompt = body.get("prompt")
    from_beginning = common["book"] is not None and prompt in (None, "")
    limits = dict(max_prompt_tokens=max_prompt_tokens, max_samples=max_samples)
    request = CompletionRequest(
        prompts=[""] if from_beginning else parse_prompts(prompt, **limits),
        max_tokens=parse_max_tokens(body, "max_tokens", DEFAULT_TOKENS, max_new_tokens),
        echo=parameter(body, "echo", False, (bool,), "true or false"),
        logprobs=parse_logprobs(body),
        chat=False,
        **common,
    )
    if request.book is not None and (request.logprobs is not None or not isinstance(request.prompts[0], str)):
        raise Refused(400, "book is not supported together with logprobs or token ids", param="book")
    if request.n_samples > max_samples:
        message = f"{len(request.prompts)} prompts times n={request.n}: at most {max_samples} samples in a request"
        raise Refused(400, message, param="n")
    n_logprobs = request.n_samples * request.max_tokens * (1 + (request.logprobs or 0))
    if request.logprobs is not None and n_logprobs > MAX_LOGPROBS:
        message = f"logprobs of {n_logprobs:,} tokens: at most {MAX_LOGPROBS:,} in a request; ask for fewer tokens"
        raise Refused(400, message, param="logprobs")
    return request


def last_user_message(messages) -> str:
    """The text of the last message with the role user, which is continued; the others are not read by the model."""
    expected = "messages: expected a list of messages, one of them with the role user and a text that is not empty"
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise Refused(400, expected, param="messages")
    content = next((m.get("content") for m in reversed(messages) if m.get("role") == "user"), None)
    if isinstance(content, list):  # of parts
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise Refused(400, "messages: expected texts; this model reads nothing else", param="messages")
        content = "".join(part["text"] for part in content)
    if not is_text(content):
        raise Refused(400, expected, param="messages")
    return content


def parse_chat(body, *, model: str, max_prompt_tokens: int, max_new_tokens: int, max_samples: int) -> CompletionRequest:
    """What a request for a chat completion asks for. Refused as by parse_completion."""
    check_names(body, CHAT_PARAMETERS, CHAT_NEUTRAL)
    common = parse_common(body, model=model, max_new_tokens=max_new_tokens, max_samples=max_samples)
    name = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
    prompt = last_user_message(body.get("messages"))
    check_length(prompt, max_prompt_tokens)
    max_tokens = parse_max_tokens(body, name, DEFAULT_CHAT_TOKENS, max_new_tokens)
    return CompletionRequest([prompt], max_tokens, echo=False, logprobs=None, chat=True, **common)
