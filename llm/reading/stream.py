"""Token ids as they are drawn -> text that may be shown: whole characters, never a part of a stop string."""

import codecs
from collections.abc import Sequence

from llm.text.tokenizer import Tokenizer


class TextStream:
    """The text of one sample, piece by piece; text that may become a stop string is held back.

    stopped: whether a stop string occurred; the text ends before it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), *, skip_space: bool = False):
        """stop: strings that are not empty; skip_space: leave out a space that the text begins with."""
        assert all(stop), "a stop string needs at least one character"
        self.tokenizer, self.stop, self.stopped = tokenizer, tuple(stop), False
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a token may end within a character
        self.pending = ""  # decoded, but perhaps the beginning of a stop string
        self.skip_space = skip_space

    def feed(self, token: int) -> str:
        """Add a token; return the text that can be shown now."""
        return self.feed_text(self.decoder.decode(self.tokenizer.decode_bytes([token])))

    def feed_text(self, text: str) -> str:
        """Add text; return what can be shown now."""
        if self.skip_space and text:
            text, self.skip_space = text.removeprefix(" "), False
        return self._showable(text)

    def finish(self) -> str:
        """The rest after the last token: the pending text, without the first bytes of an incomplete character."""
        self.decoder.reset()
        rest, self.pending = self.pending, ""
        return rest

    def _showable(self, new_text: str) -> str:
        """Add text; return what comes before the first stop string, or before what may become one."""
        if self.stopped:
            return ""
        text = self.pending + new_text
        stop_starts = [start for start in map(text.find, self.stop) if start >= 0]
        if stop_starts:
            self.stopped, self.pending = True, ""
            return text[: min(stop_starts)]
        n_pending = max((overlap(text, stop) for stop in self.stop), default=0)
        self.pending = text[len(text) - n_pending :]
        return text[: len(text) - n_pending]


def overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a prefix of `stop`, but not all of it.

    overlap("abc", "cd") == 1
    """
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)
