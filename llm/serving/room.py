"""The reading room behind the page: the book, its map, what is recited and what is invented. No network here."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from llm.configurator import command
from llm.reading.cite import BookIndex, split_words
from llm.reading.contents import Contents, readable
from llm.reading.load import LoadedModel
from llm.reading.windows import windows_path
from llm.reading.wording import pieces_with_wording
from llm.serving.parameters import Refused
from llm.serving.windows import WindowLevels
from llm.storage.pretrained import weights_sha256

MAX_TEXT = 100_000  # characters of the book in one answer
MAX_CHAPTERS = 2_000  # in the contents


def serve_command(out_dir: Path | None) -> str:
    """What to type to serve a folder; "" if it is not in the current one, whose path is not for strangers."""
    here = out_dir is not None and out_dir.resolve().parent == Path.cwd()
    return command("serve.py", f"--out_dir={out_dir.resolve().name}") if here else ""


def without_book(name: str, titles: list[str]) -> dict:
    """The overview where the text of the book is not at hand."""
    facts = {"words": 0, "characters": 0, "right_to_left": False, "parts": []}
    return {"name": name, "title": name, "author": "", "books": titles} | facts


class Room:
    """What the page shows of a book."""

    def __init__(self, contents: Contents, name: str):
        """name: of the model, for commands that the page suggests."""
        self.contents, self.name = contents, name
        self.windows = WindowLevels(contents)
        self.stopped = threading.Event()
        self.thread: threading.Thread | None = None
        self.overview = self._overview()

    def _overview(self) -> dict:
        """What does not change, as JSON."""
        contents = self.contents
        parts = [
            {"title": part.title, "start": part.start, "end": part.end, "book": part.book} for part in contents.parts
        ]
        return {
            "name": self.name,
            "title": contents.title or readable(self.name),
            "author": contents.author,
            "books": [book.title for book in contents.books],
            "words": contents.n_words(),
            "characters": len(contents.text),
            "right_to_left": contents.right_to_left(),
            "parts": parts[:MAX_CHAPTERS],
        }

    def map_windows(self, model: LoadedModel, out_dir: Path, checkpoint_name: str, is_busy: Callable[[], bool]) -> None:
        """Read what is known of each window, or begin to measure it in a thread of its own."""
        sha256 = partial(weights_sha256, str(out_dir), checkpoint_name)
        if self.windows.load(windows_path(out_dir, checkpoint_name), model_sha256=sha256):
            return
        options = dict(stopped=self.stopped, is_busy=is_busy)
        self.thread = threading.Thread(
            target=self.windows.measure, args=(model.reader,), kwargs=options, name="windows", daemon=True
        )
        self.thread.start()

    def text(self, start: int, end: int) -> dict:
        """Characters start to end - 1 of the book. Refused if these are none, or too many."""
        if not 0 <= start < end <= len(self.contents.text):
            raise Refused(400, f"start={start}, end={end}: expected 0 <= start < end <= {len(self.contents.text)}")
        if end - start > MAX_TEXT:
            raise Refused(400, f"{end - start:,} characters: at most {MAX_TEXT:,} in an answer")
        return {"start": start, "text": self.contents.text[start:end]}

    def close(self) -> None:
        """End the measurement."""
        self.stopped.set()
        if self.thread:
            self.thread.join()


def compare(index: BookIndex, contents: Contents, text: str, first: int = 0) -> dict:
    """{"pieces": the text, each recited one with its place, each invented one with the book's wording, ...}.

    "words" and "recited" count those from character `first` on: what was not typed.
    """
    pieces, n_recited, at = [], 0, 0
    for piece in pieces_with_wording(index, text):
        pieces.append({"text": piece.text})
        if piece.at is not None:
            pieces[-1] |= {"at": piece.at, "where": contents.where(piece.at)}
            n_recited += len(split_words(piece.text[max(0, first - at) :]))
        elif piece.wording is not None:
            pieces[-1]["wording"] = piece.wording
        at += len(piece.text)
    return {"pieces": pieces, "recited": n_recited, "words": len(split_words(text[first:]))}
