"""Answers requests that come together together: a thread that draws tokens for all running samples, again and again.

A sample is the same whatever runs beside it (generate.py). Who waits, runs in the order of coming.
"""

import collections
import threading
from collections.abc import Callable
from dataclasses import dataclass

from llm.reading.generate import Sample, Sampling, next_tokens
from llm.reading.reader import MAX_BATCH, Reader
from llm.reading.stream import TextStream
from llm.text.tokenizer import Tokenizer


class Full(Exception):
    """As many samples wait as may wait."""


@dataclass(eq=False)
class Job:
    """One sample to draw. `deliver(text, finish_reason)` is called in the engine's thread with each piece of text; the
    reason is None until the last call: "length", "stop", or "error", whose text is the message."""

    prompt: list[int]
    max_new_tokens: int
    sampling: Sampling
    seed: list[int]
    stop: list[str]
    deliver: Callable[[str, str | None], None]
    cancelled: bool = False  # set by whoever asked: nobody waits for it any more
    n_tokens: int = 0  # drawn so far


class Engine:
    """Runs jobs. submit and close may be called from any thread."""

    def __init__(self, reader: Reader, tokenizer: Tokenizer, *, most_waiting: int):
        self.reader, self.tokenizer, self.most_waiting = reader, tokenizer, most_waiting
        self.waiting: collections.deque[Job] = collections.deque()
        self.running: list[tuple[Job, Sample, TextStream]] = []
        self.changed, self.closing = threading.Condition(), False
        self.thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.thread.start()

    def submit(self, jobs: list[Job]) -> None:
        """All of them wait their turn, or none: Full where more would wait than may."""
        with self.changed:
            self.waiting = collections.deque(job for job in self.waiting if not job.cancelled)
            free = MAX_BATCH - len(self.running) if not self.waiting else 0
            if len(self.waiting) + len(jobs) > self.most_waiting + free:
                raise Full
            self.waiting += jobs
            self.changed.notify()

    def close(self) -> None:
        """Finishes what runs and waits, and ends."""
        with self.changed:
            self.closing = True
            self.changed.notify()
        self.thread.join()

    def _run(self) -> None:
        while True:
            with self.changed:
                while not (self.waiting or self.running or self.closing):
                    self.changed.wait()
                if not (self.waiting or self.running):
                    return
                self.running = [run for run in self.running if not run[0].cancelled]
                coming = [self.waiting.popleft() for _ in range(min(len(self.waiting), MAX_BATCH - len(self.running)))]
            try:
                for job in coming:
                    sample = Sample(self.reader, job.prompt, job.sampling, job.seed)
                    self.running.append((job, sample, TextStream(self.tokenizer, job.stop)))
                self._step()
            except Exception as e:  # whatever it was, those who wait must hear of it, and the next ones be served
                for job in {job for job, _, _ in self.running} | set(coming):
                    job.deliver(f"{type(e).__name__}: {e}", "error")
                self.running = []

    def _step(self) -> None:
        """The next tokens of each running sample."""
        going = []
        for job, sample, stream in self.running:
            if job.n_tokens < job.max_new_tokens:
                going.append((job, sample, stream))
            else:  # none were asked for
                job.deliver("", "length")
        self.running = going
        drawn = next_tokens(self.reader, [sample for _, sample, _ in going])
        done = [self._hand_over(run, tokens) for run, tokens in zip(going, drawn, strict=True)]
        self.running = [run for run, is_done in zip(going, done, strict=True) if not is_done]

    def _hand_over(self, run: tuple[Job, Sample, TextStream], tokens: list[int]) -> bool:
        """Delivers the text of new tokens; whether the job is done."""
        job, _, stream = run
        text, reason = "", None
        for token in tokens:
            if token == self.tokenizer.end_of_text:
                text, reason = text + stream.finish(), "stop"
            else:
                job.n_tokens += 1
                text += stream.feed(token)
                reason = "stop" if stream.stopped else "length" if job.n_tokens == job.max_new_tokens else None
                text += stream.finish() if reason == "length" else ""
            if reason:
                break
        if text or reason:
            job.deliver(text, reason)
        return reason is not None
