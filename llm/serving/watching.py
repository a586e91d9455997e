"""How a model learns, read from the files that training writes: metrics.jsonl and the per-window file.

So it shows a training that another process runs, and one that is over. Watcher stands in for the service of a model
while there is none yet. No network here.
"""

import contextlib
import json
import time
from pathlib import Path

from llm.configurator import UserError
from llm.files import read_regular
from llm.reading.contents import Contents
from llm.reading.load import find_book
from llm.reading.recall import figures_path
from llm.reading.windows import windows_path
from llm.serving.parameters import Refused
from llm.serving.room import Room, serve_command
from llm.storage import checkpoint
from llm.text.dataset import Dataset
from llm.training.metrics import METRICS, read_metrics
from llm.training.watching import MAX_WINDOWS, WATCH

MAX_POINTS = 300  # of a curve
RECENT = 20  # lines of metrics from which the speed is taken
CURVES = {"loss": ("loss", "writing_loss"), "tokens": ("known_tokens",), "known": ("known", "recall")}


def training_progress(out_dir: Path | None) -> dict:
    """{"state": "waiting", "learning" or "ended", "seconds", "doing", "left", "quiet", "curves", "sample"}.

    seconds: of training; left: seconds to its expected end, None = unknown; quiet: seconds since the last figures.
    """
    try:
        lines = read_metrics(out_dir) if out_dir else []
    except UserError:  # there are no figures yet
        lines = []
    if not lines:
        return {"state": "waiting", "curves": {}}
    written = modified(out_dir / METRICS)
    quiet, ended = time.time() - written, any(modified(path) >= written for path in finished_files(out_dir))
    return {
        "state": "ended" if ended else "learning",
        "seconds": lines[-1].get("seconds", 0.0),
        "doing": describe_step(lines),
        "left": None if ended else seconds_left(lines, quiet),
        "quiet": max(0.0, quiet),
        "curves": {name: thinned(curve(lines, fields)) for name, fields in CURVES.items()},
        "sample": read_watch(out_dir).get("sample") or None,
    }


def modified(path: Path) -> float:
    """When a file was written, in seconds since 1970; 0 if there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def finished_files(out_dir: Path) -> list[Path]:
    """The files that a training writes at its end."""
    return [figures_path(out_dir, name) for name in ("ckpt.pt", "ckpt_last.pt")]


def curve(lines: list[dict], fields: tuple[str, ...]) -> list[list[float]]:
    """[seconds, value] of each line that has one of the fields."""
    return [[line["seconds"], line[f]] for line in lines if "seconds" in line for f in fields if f in line]


def thinned(points: list[list[float]]) -> list[list[float]]:
    """At most MAX_POINTS of the points, with the first and the last one."""
    if len(points) <= MAX_POINTS:
        return points
    return [points[round(n * (len(points) - 1) / (MAX_POINTS - 1))] for n in range(MAX_POINTS)]


def describe_step(lines: list[dict]) -> str:
    """What training does, in words."""
    last = next((line for line in reversed(lines) if "loss" in line or "writing_loss" in line), lines[-1])
    if "writing_step" in last:
        return f"writing, step {last['writing_step']:,.0f} of at most {last['writing_steps']:,.0f}"
    if "written_block" in last:  # of an earlier version
        return f"writing block {last['written_block']:,.0f}"
    return f"update {last['step'] + 1:,.0f}" + (f" of about {last['updates']:,.0f}" if "updates" in last else "")


def seconds_left(lines: list[dict], quiet: float) -> float | None:
    """Seconds to the expected end; None if the figures do not say."""
    for done, total in (("step", "updates"), ("writing_step", "writing_steps")):
        recent = [line for line in lines if total in line and "seconds" in line][-RECENT:]
        if len(recent) > 1 and recent[-1][done] > recent[0][done] and total in lines[-1]:
            speed = (recent[-1]["seconds"] - recent[0]["seconds"]) / (recent[-1][done] - recent[0][done])
            first = 1 if done == "step" else 0
            return max(0.0, speed * (recent[-1][total] - recent[-1][done] - first) - min(quiet, speed))
    return None


def read_watch(out_dir: Path) -> dict:
    """What training wrote last of what it knows: starts, levels, sample (training/watching.py); {} if not valid."""
    with contextlib.suppress(OSError, ValueError, RecursionError, KeyError, TypeError):
        content = json.loads(read_regular(out_dir / WATCH).decode("utf-8"))
        starts, levels, sample = content["starts"], content["levels"], content["sample"]
        numbers = all(type(n) is int and n >= 0 for n in starts) and all(type(n) is int for n in levels)
        texts = not sample or all(isinstance(sample[name], str) for name in ("prompt", "text"))
        valid = content["format"] == 1 and isinstance(content["text_sha256"], str | None)
        if valid and numbers and texts and len(starts) == len(levels) <= MAX_WINDOWS:
            return content
    return {}


class Watcher:
    """Answers for a training in out_dir, read-only: the book, its map, the progress; nothing can be recited yet."""

    before = None

    def __init__(self, name: str, out_dir: Path):
        """UserError if out_dir has no checkpoint, or its text is not at hand."""
        self.name, self.out_dir, self.created = name, out_dir, int(time.time())
        content = checkpoint.read(first_checkpoint(out_dir), parts=())
        dataset, progress = str(content["config"].get("dataset")), content["progress"]
        split, reason = find_book(dataset, progress.text_sha256)
        if split is None:
            raise UserError(f"watch=True needs the text that is learned in {out_dir}: {reason}")
        self.room = Room(Contents(split, Dataset(dataset).tokenizer), name)
        self.read_at = 0.0  # time of the file that was read last

    def overview(self) -> dict:
        here = {"watching": True, "before": False, "reason": "", "command": serve_command(self.out_dir)}
        return self.room.overview | here

    async def windows(self, room: Room) -> dict:
        """The map, read again if a file has changed: the per-window file, or what training wrote after it."""
        measured = windows_path(self.out_dir, "ckpt.pt")
        if modified(measured) < modified(self.out_dir / METRICS):  # training went on after it was measured
            measured = self.out_dir / WATCH
        path = max(measured, self.out_dir / WATCH, key=modified)
        if modified(path) > self.read_at:
            self.read_at = modified(path)
            if path.name != WATCH:
                room.windows.load(path, whole=False)
            elif (content := read_watch(self.out_dir)).get("text_sha256") == room.contents.split.sha256:
                room.windows.show(content["starts"], content["levels"])
        return room.windows.answer()

    async def progress(self) -> dict:
        return training_progress(self.out_dir) | {"watching": True}

    def jobs(self) -> tuple[int, int]:
        return 0, 0

    def is_idle(self) -> bool:
        return True

    def parse(self, body, *, chat: bool = False):
        """Refused: there is no model."""
        hint = serve_command(self.out_dir) or "serve.py with the folder of this training"
        raise Refused(409, f"this page watches a training and cannot recite; once it has ended, type: {hint}")

    async def cite(self, text: str, first: int = 0) -> dict:
        return self.parse(text)

    compare = cite

    def close(self) -> None:
        self.room.close()


def first_checkpoint(out_dir: Path) -> Path:
    """A checkpoint of the run in out_dir, however young. UserError if there is none."""
    for name in ("ckpt.pt", "ckpt_init.pt"):
        if (out_dir / name).is_file():
            return out_dir / name
    raise UserError(f"out_dir={out_dir} has no checkpoint yet: start train.py first, with this --out_dir")
