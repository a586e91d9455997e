"""Chats: the last user message is continued, in the form of OpenAI's chat completions."""

import openai
import pytest

PROMPT = "The echo had been ill"
QUESTION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}]


@pytest.fixture(scope="module")
def client(start_server):
    url = f"http://127.0.0.1:{start_server()[1]}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def chat(client, messages=QUESTION, **options):
    """OpenAI's client's answer to a chat, of 20 tokens with seed 1."""
    return client.chat.completions.create(**dict(model="out", messages=messages, max_tokens=20, seed=1) | options)


def completion(client, **options):
    """The text of the completion of PROMPT with the same options."""
    return client.completions.create(**dict(model="out", prompt=PROMPT, max_tokens=20, seed=1) | options)


def test_the_last_user_message_is_continued(client):
    answer, expected = chat(client, n=2), completion(client, n=2)
    assert [choice.message.content for choice in answer.choices] == [choice.text for choice in expected.choices]
    assert answer.choices[0].message.role == "assistant" and answer.choices[0].finish_reason == "length"
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-") and answer.usage == expected.usage


def test_a_stream_has_the_same_text_in_pieces(client):
    *pieces, last = chat(client, stream=True, stream_options={"include_usage": True})
    assert last.usage == chat(client).usage and last.choices == []
    deltas = [piece.choices[0].delta for piece in pieces]
    assert deltas[0].role == "assistant" and all(delta.role is None for delta in deltas[1:])
    assert "".join(delta.content or "" for delta in deltas) == chat(client).choices[0].message.content
    assert [piece.choices[0].finish_reason for piece in pieces[-2:]] == [None, "length"]
    assert {piece.object for piece in pieces} == {"chat.completion.chunk"}


def test_content_may_come_in_parts_and_after_it_other_roles(client):
    parts = [{"type": "text", "text": PROMPT[:8]}, {"type": "text", "text": PROMPT[8:]}]
    messages = [
        {"role": "user", "content": "no"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "x"},
    ]
    assert chat(client, messages).choices[0].message.content == chat(client).choices[0].message.content


def test_values_that_ask_for_nothing_are_accepted(client):
    neutral = dict(logprobs=False, top_logprobs=0, presence_penalty=0, response_format={"type": "text"}, tools=[])
    more = dict(tool_choice="none", service_tier="auto", store=False, user="me", metadata={}, modalities=["text"])
    assert chat(client, **neutral, **more).choices[0].message.content == chat(client).choices[0].message.content


def test_max_completion_tokens_counts(client):
    assert chat(client, max_tokens=None, max_completion_tokens=3).usage.completion_tokens == 3
    assert chat(client, max_tokens=None).usage.completion_tokens == 500


@pytest.mark.parametrize(
    "options, param",
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, "prompt"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(client, options, param):
    with pytest.raises(openai.BadRequestError) as refused:
        chat(client, **options)
    assert refused.value.param == param
