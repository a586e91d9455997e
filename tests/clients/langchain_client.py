"""Drive a running server with langchain-openai: python tests/clients/langchain_client.py http://127.0.0.1:8000 [KEY]"""

import asyncio
import importlib.metadata
import sys

import openai
from langchain_openai import ChatOpenAI, OpenAI

PROMPT = "The echo had been ill"


def completions(options: dict) -> str:
    """The text model with its defaults: one text, a stream, a batch, several samples."""
    model = OpenAI(**options)
    text = model.invoke(PROMPT)
    assert text and "".join(model.stream(PROMPT)) == text
    assert model.batch([PROMPT, "A wall"])[0] == text
    assert len(OpenAI(**options, n=2, best_of=2).generate([PROMPT]).generations[0]) == 2
    penalties = OpenAI(**options, frequency_penalty=0, presence_penalty=0, logit_bias=None, logprobs=2, top_p=1)
    assert penalties.generate([PROMPT]).generations[0][0].generation_info["logprobs"]["tokens"]
    return text


def chats(options: dict, text: str) -> None:
    """The chat model with its defaults: one message, a stream with usage, a batch, the asynchronous form."""
    model = ChatOpenAI(**options, stream_usage=True)
    answer = model.invoke([("system", "Be brief."), ("human", PROMPT)])
    assert answer.content == text and answer.usage_metadata["output_tokens"] == options["max_tokens"]
    pieces = list(model.stream(PROMPT))
    assert "".join(piece.content for piece in pieces) == text
    assert sum((piece.usage_metadata or {}).get("output_tokens", 0) for piece in pieces) == options["max_tokens"]
    assert model.batch([PROMPT, "A wall"])[0].content == text
    assert asyncio.run(model.ainvoke(PROMPT)).content == text


def main(url: str, key: str = "none") -> None:
    model = openai.OpenAI(base_url=f"{url}/v1", api_key=key).models.list().data[0].id
    options = dict(base_url=f"{url}/v1", api_key=key, model=model, temperature=0, max_tokens=20)
    chats(options, completions(options))
    print(f"langchain-openai {importlib.metadata.version('langchain-openai')}: ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
