"""Drive a running server with the package openai: python tests/clients/openai_client.py http://127.0.0.1:8000 [KEY]"""

import asyncio
import sys

import openai

PROMPT = "The echo had been ill"
NEUTRAL = dict(frequency_penalty=0, presence_penalty=0, logit_bias={}, user="me", n=1)


def completions(client: openai.OpenAI, model: str) -> None:
    """Plain, streamed, with usage, logprobs, echo, stop strings, ids, and all neutral values that the package sends."""
    options = dict(model=model, prompt=PROMPT, max_tokens=20, seed=1)
    plain = client.completions.create(**options, **NEUTRAL, best_of=1, suffix=None, logprobs=None, stream_options=None)
    pieces = list(client.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].text for piece in pieces[:-1]) == plain.choices[0].text
    assert pieces[-1].usage == plain.usage and plain.usage.completion_tokens == 20
    scored = client.completions.create(**options | dict(max_tokens=0), echo=True, logprobs=3)
    assert "".join(scored.choices[0].logprobs.tokens) == scored.choices[0].text == PROMPT
    ids = client.completions.create(**options | dict(prompt=[[464, 9809], [32]]), n=2, stop=["\n", "the"])
    assert [choice.index for choice in ids.choices] == [0, 1, 2, 3]


def chats(client: openai.OpenAI, model: str) -> None:
    """Plain and streamed, also with the package's own helper for streams."""
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": PROMPT}]
    options = dict(model=model, messages=messages, max_completion_tokens=20, seed=1)
    neutral = NEUTRAL | dict(
        logprobs=False, tools=[], tool_choice="none", response_format={"type": "text"}, store=False
    )
    plain = client.chat.completions.create(**options, **neutral, parallel_tool_calls=True, service_tier="auto")
    content = plain.choices[0].message.content
    assert content == client.completions.create(model=model, prompt=PROMPT, max_tokens=20, seed=1).choices[0].text
    pieces = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces[:-1]) == content
    assert pieces[-1].usage == plain.usage
    with client.chat.completions.stream(**options) as stream:
        assert "".join(part.delta for part in stream if part.type == "content.delta") == content


async def many(url: str, key: str, model: str) -> None:
    """50 requests at once, repeated by the package where the queue is full."""
    async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=10) as client:
        create = client.completions.create
        answers = await asyncio.gather(*[create(model=model, prompt=PROMPT, seed=n % 5) for n in range(50)])
    assert len({answer.choices[0].text for answer in answers}) == 5


def mistakes(client: openai.OpenAI, model: str) -> None:
    """The package's own exceptions."""
    for error, options in (
        (openai.NotFoundError, dict(model="gpt-4", prompt="a")),
        (openai.BadRequestError, dict(model=model, prompt="a", presence_penalty=1)),
        (openai.BadRequestError, dict(model=model, prompt="")),
    ):
        try:
            client.completions.create(**options)
        except error as e:
            assert e.param
        else:
            raise AssertionError(f"no {error.__name__}")


def main(url: str, key: str = "none") -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key) as client:
        model = client.models.list().data[0].id
        assert client.models.retrieve(model).id == model
        completions(client, model)
        chats(client, model)
        mistakes(client, model)
    asyncio.run(many(f"{url}/v1", key, model))
    print(f"openai {openai.__version__}: ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
