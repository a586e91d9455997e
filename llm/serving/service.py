"""One model behind the requests: it reads prompts, queues samples and finds citations. No network here."""

import time

from llm.configurator import UserError
from llm.reading.cite import BookIndex, split_words
from llm.reading.load import LoadedModel
from llm.reading.prompt import encode_prompt
from llm.serving.completions import Answer, CompletionRequest, Refused, parse_request
from llm.serving.engine import Engine, QueueFull


class Service:
    """A model with its engine, its book if that is at hand, and the limits of a request."""

    def __init__(self, name: str, model: LoadedModel, *, max_prompt_tokens: int, max_new_tokens: int, max_waiting: int):
        """name: of the model, for clients; max_waiting: samples in the queue, and in one request."""
        self.name, self.created = name, int(time.time())
        self.max_prompt_tokens, self.max_new_tokens, self.max_waiting = max_prompt_tokens, max_new_tokens, max_waiting
        self.tokenizer, self.book_text = model.tokenizer, model.book_text
        self.book_index = BookIndex(model.book_text, model.sections) if model.book_text else None
        self.engine = Engine(model.reader, model.tokenizer, max_waiting=max_waiting)

    def parse(self, body) -> CompletionRequest:
        """What a request's JSON asks for. Refused if that is not supported or beyond the limits."""
        limits = dict(max_new_tokens=self.max_new_tokens, max_samples=self.max_waiting)
        return parse_request(body, model=self.name, **limits)

    def encode(self, prompt: str | list[int]) -> list[int]:
        """The ids of a prompt. Refused if it is too long, or has a character or an id that the model lacks."""
        if isinstance(prompt, str):
            try:
                ids = encode_prompt(self.tokenizer, prompt, self.book_text)
            except UserError as e:
                raise Refused(400, str(e), param="prompt") from None
        else:
            ids = prompt
            if min(ids) < 0 or max(ids) >= self.tokenizer.vocab_size:
                raise Refused(400, f"prompt: ids are from 0 to {self.tokenizer.vocab_size - 1}", param="prompt")
        if len(ids) > self.max_prompt_tokens:
            message = f"prompt has {len(ids):,} tokens: at most {self.max_prompt_tokens:,} are allowed here"
            raise Refused(400, message, param="prompt", code="context_length_exceeded")
        return ids

    def start(self, request: CompletionRequest) -> Answer:
        """Queue the samples of a request. Refused with status 429 if the queue is full."""
        prompts = [self.encode(prompt) for prompt in request.prompts]
        if len(prompts) * request.n > self.max_waiting:
            message = f"{len(prompts)} prompts times n={request.n}: at most {self.max_waiting} samples in a request"
            raise Refused(400, message, param="n")
        answer = Answer(self.name, request, prompts, self.tokenizer)
        try:
            self.engine.submit(answer.jobs)
        except QueueFull:
            raise Refused(429, "too many requests are waiting; try again in a moment", code="queue_full") from None
        return answer

    def cite(self, text: str) -> dict:
        """{"book": whether it is at hand, "pieces": the text, its spans with words and place, "words": in all}."""
        if self.book_index is None:
            return {"book": False, "pieces": [{"text": text}]}
        pieces = []
        for piece, span in self.book_index.pieces(text):
            pieces.append({"text": piece})
            if span:
                pieces[-1] |= {"words": span.words, "where": span.where()}
        return {"book": True, "pieces": pieces, "words": len(split_words(text))}
