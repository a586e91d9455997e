"""A continuation under way: one sample with its limit, its stop strings and its text.

    continuations = [Continuation(reader, tokenizer, ids, max_new_tokens=500, sampling=..., seed=[1337, 0])]
    while continuations[0].finish_reason is None:
        for new_text in step(reader, continuations):
            print(new_text, end="")

Used by sample.py and by the server. For tokens alone, see generate.generate.
"""

from collections.abc import Sequence

from llm.reading.generate import Sample, Sampling, next_tokens
from llm.reading.reader import Reader
from llm.reading.stream import TextStream
from llm.text.tokenizer import Tokenizer


class Continuation:
    """What one sample has drawn so far, as tokens and as text, and why it ended.

    finish_reason: None while it runs; "length" at max_new_tokens; "stop" at a stop string or the end of the document.
    The text ends before a stop string. It lacks what may yet become one, and a character whose last bytes are missing.
    """

    def __init__(
        self,
        reader: Reader,
        tokenizer: Tokenizer,
        prompt_ids: list[int],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        seed: int | Sequence[int],
        stop: Sequence[str] = (),
    ):
        """prompt_ids: at least one, such as PromptIds (prompt.py); stop: strings that are not empty."""
        self.sample = Sample(reader, prompt_ids, sampling, seed)
        self.stream = TextStream(tokenizer, stop, skip_space=getattr(prompt_ids, "ends_in_space", False))
        self.typed_rest = getattr(prompt_ids, "rest", "")  # of the prompt's last token: the text begins with it
        self.max_new_tokens, self.end_of_text = max_new_tokens, tokenizer.end_of_text
        self.tokens: list[int] = []  # without the end-of-text token
        self.text = ""
        self.finish_reason: str | None = None if max_new_tokens > 0 else "length"

    def append(self, tokens: list[int]) -> str:
        """Append drawn tokens, up to the one that finishes the continuation; return the new text."""
        new_text, self.typed_rest = self.stream.feed_text(self.typed_rest), ""
        for token in tokens:
            if token == self.end_of_text:
                self.finish_reason = "stop"
            else:
                self.tokens.append(token)
                new_text += self.stream.feed(token)
                if self.stream.stopped:
                    self.finish_reason = "stop"
                elif len(self.tokens) == self.max_new_tokens:
                    self.finish_reason = "length"
            if self.finish_reason is not None:
                new_text += self.stream.finish()
                break
        self.text += new_text
        return new_text

    def flush(self) -> str:
        """The text held back so far, for a continuation that is interrupted; "" for one that is finished."""
        rest = self.stream.finish()
        self.text += rest
        return rest


def step(reader: Reader, continuations: list[Continuation]) -> list[str]:
    """Draw the next tokens of all continuations that are not finished; return each one's new text, "" for the others.

    Reads at most MAX_BATCH samples at once. A continuation does not depend on those beside it (generate.py).
    """
    running = [continuation for continuation in continuations if continuation.finish_reason is None]
    drawn = next_tokens(reader, [continuation.sample for continuation in running])
    new_texts = {continuation: continuation.append(tokens) for continuation, tokens in zip(running, drawn, strict=True)}
    return [new_texts.get(continuation, "") for continuation in continuations]
