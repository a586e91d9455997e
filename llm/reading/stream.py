"""Tokens as they come -> text as it may be shown: whole characters, up to a stop string."""

import codecs
from collections.abc import Sequence

from llm.text.tokenizer import Tokenizer


class TextStream:
    """The text of one sample, piece by piece. A piece that may be the beginning of a stop string is held back.

    stopped: whether a stop string has come; the text ends before it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()):
        assert all(stop), "a stop string needs at least one character"
        self.tokenizer, self.stop, self.stopped = tokenizer, tuple(stop), False
        self.characters = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a token may end within one
        self.held = ""

    def feed(self, token: int) -> str:
        """The text that is certain now that this token has come."""
        return self._certain(self.characters.decode(self.tokenizer.decode_bytes([token])))

    def finish(self) -> str:
        """The rest, after the last token: what was held back, and U+FFFD for a character that stayed incomplete."""
        rest = self._certain(self.characters.decode(b"", final=True)) + self.held
        self.held = ""
        return rest

    def _certain(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self.held + text
        found = [at for at in map(text.find, self.stop) if at >= 0]
        if found:
            self.stopped, self.held = True, ""
            return text[: min(found)]
        keep = max((begun(text, stop) for stop in self.stop), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]


def begun(text: str, stop: str) -> int:
    """How many of the last characters of text are the beginning of a stop string, which is not in it."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
