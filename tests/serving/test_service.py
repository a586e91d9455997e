"""Prompts are read as printed in the book, also those that are longer than the context."""

import asyncio
import dataclasses
import time

import numpy as np
import pytest
import torch
from conftest import STORY

from llm.reading.load import LoadedModel
from llm.reading.prompt import encode_prompt
from llm.reading.reader import Reader
from llm.reading.shelf import encode_in_book, shelved
from llm.serving.parameters import Refused
from llm.serving.service import BackgroundThread, Service
from llm.text import tokenizer
from llm.text.documents import Document

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


def test_a_prompt_that_ends_within_a_word_gets_the_words_last_token(service):
    """The server encoded the letters that were typed, which the model never saw as tokens; sample.py did not."""
    for end in range(3, 16):
        ids = service.encode(BOOK[:end])
        expected = encode_prompt(service.tokenizer, BOOK[:end], BOOK)
        assert (ids, ids.rest) == (expected, expected.rest)
        exact = service.encode(BOOK[:end], whole_tokens=False)  # for log-probabilities
        assert service.tokenizer.decode(exact) == BOOK[:end].rstrip(" " * (not service.tokenizer.by_characters))


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


@pytest.fixture
def two_books(service):
    """The service with two books: the halves of the text."""
    encoder, halves = service.tokenizer, (BOOK[:3000], BOOK[3000:])
    ids = [encoder.encode(half) for half in halves]
    documents = [Document("One", "", 0, len(ids[0])), Document("Two", "", len(ids[0]), len(ids[0] + ids[1]))]
    books = shelved(np.array(ids[0] + ids[1]), documents, encoder)
    service.model = dataclasses.replace(service.model, books=books)
    return service


def request(service, **body):
    return service._encode_all(service.parse({"model": "m", **body}))


def test_a_request_may_name_one_of_several_books(two_books):
    (ids,) = request(two_books, prompt="said", book="two")
    book = two_books.model.books[1]
    assert ids == encode_in_book(two_books.tokenizer, "said", book, length=8) and len(ids) >= 8
    (opening,) = request(two_books, book="TWO")
    assert (
        request(two_books, book="Two", prompt="") == [opening] and book.text.startswith(opening.rest) and opening.rest
    )
    assert request(two_books, prompt="Aaaa", book="Two") == [encode_prompt(two_books.tokenizer, "Aaaa")]
    assert request(two_books, prompt="said") == [encode_prompt(two_books.tokenizer, "said", BOOK)]


@pytest.mark.parametrize(
    "body, message",
    [
        ({"book": "Three", "prompt": "said"}, 'no book of this model has that title; .*: "One", "Two"$'),
        ({"book": 1, "prompt": "said"}, "book is 1: expected a book's title"),
        ({"book": "One", "prompt": [1, 2]}, "not supported together with logprobs or token ids"),
        ({"book": "One", "prompt": "said", "logprobs": 0}, "not supported together with logprobs or token ids"),
        ({"prompt": ""}, "expected a text that is not empty"),
    ],
)
def test_a_book_that_cannot_be_continued_is_refused(two_books, body, message):
    with pytest.raises(Refused, match=message) as refused:
        request(two_books, **body)
    assert refused.value.param == ("book" if "book" in body else "prompt")


def test_without_its_text_a_model_has_no_books(service):
    with pytest.raises(Refused, match="book=One needs the text that m was trained on"):
        request(service, prompt="said", book="One")


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
