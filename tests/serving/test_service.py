"""Prompts are read as printed in the book, also those that are longer than the context."""

import asyncio
import time

import pytest
import torch
from conftest import STORY

from llm.reading.load import LoadedModel
from llm.reading.prompt import encode_prompt
from llm.reading.reader import Reader
from llm.serving.parameters import Refused
from llm.serving.service import BackgroundThread, Service
from llm.text import tokenizer

BOOK = STORY[:6000]


@pytest.fixture(params=["gpt2", "characters"])
def service(request, tiny_model):
    """A service with a context of 16 tokens and prompts of at most 100."""
    encoder = tokenizer.gpt2() if request.param == "gpt2" else tokenizer.characters(BOOK)
    reader = Reader(tiny_model(vocab_size=encoder.vocab_size), torch.arange(encoder.vocab_size), torch.float32)
    model = LoadedModel("m", reader, encoder, BOOK, "")
    service = Service("m", model, max_prompt_tokens=100, max_new_tokens=100, max_waiting=4)
    yield service
    service.close()


def test_a_short_prompt_is_read_as_everywhere_else(service):
    for words in range(1, 8):
        prompt = " ".join(BOOK.split()[20 : 20 + words])
        ids = encode_prompt(service.tokenizer, prompt, BOOK)
        assert service.encode(prompt)[-service.block_size :] == ids[-service.block_size :]


def test_of_a_prompt_beyond_the_context_the_end_is_read_as_in_the_book(service):
    """It begins with words that are not in the book; the model does not see them."""
    start = BOOK.index("\n\n", 1000)
    printed = BOOK[start - 60 : start + 8]
    typed = "Xyzzy? ".replace("X", BOOK[0]).replace("z", BOOK[0]) + " ".join(printed.split())
    ids, length = service.encode(typed), service.block_size
    assert len(ids) > length
    end = service.tokenizer.encode(printed)[-length + 1 :]
    assert ids[-len(end) :] == end and ids != encode_prompt(service.tokenizer, typed)


def test_the_ids_of_a_prompt_that_is_not_in_the_book_are_those_as_typed(service):
    prompt = "".join(reversed(BOOK[:90]))
    assert service.encode(prompt) == encode_prompt(service.tokenizer, prompt)


def test_too_long_a_prompt_is_refused(service):
    with pytest.raises(Refused, match="at most 100 are allowed"):
        service.encode(BOOK[:1000])


def test_a_background_thread_refuses_what_is_too_much():

    async def many():
        thread = BackgroundThread(3)
        waiting = [asyncio.create_task(thread.run(time.sleep, 0.05)) for _ in range(5)]
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert await thread.run(lambda: 1) == 1  # there is room again
        thread.close()
        return results

    results = asyncio.run(many())
    assert results[:3] == [None] * 3 and all(isinstance(e, Refused) and e.status == 429 for e in results[3:])
