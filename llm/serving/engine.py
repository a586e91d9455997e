"""Batches concurrent requests: one thread draws the next tokens of all running samples, step by step.

A sample does not depend on those beside it (reading/generate.py). Waiting samples start in the order of arrival.
"""

import collections
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from llm.reading.continuation import Continuation, step
from llm.reading.generate import Sampling
from llm.reading.reader import MAX_BATCH, Reader
from llm.serving.logprobs import Score, ScoredSample, prompt_scores
from llm.text.tokenizer import Tokenizer


class QueueFull(Exception):
    """More samples would wait than may."""


@dataclass(eq=False)  # compared and hashed by identity
class Job:
    """One sample to draw.

    deliver(text, finish_reason) is called in the engine's thread with each piece of text. The reason is None until the
    last call: then "length", "stop", or "error", with a message for text.
    """

    prompt_ids: list[int]
    max_new_tokens: int
    sampling: Sampling
    seed: list[int]
    stop: list[str]
    deliver: Callable[[str, str | None], None]
    n_top: int | None = None  # how many of the most likely tokens to keep with each score; None = no scores
    scores_prompt: bool = False  # whether the prompt's tokens are scored, too; it has at most block_size of them
    cancelled: bool = False  # set by whoever submitted it and needs it no longer
    # written by the engine's thread before it delivers
    n_tokens: int = 0  # drawn so far
    ended_document: bool = False  # whether the end-of-text token was drawn, which is not among them
    n_scores: int = 0  # of the tokens, and of the end-of-text token
    scores: list[Score] = field(default_factory=list)  # of all that was drawn, perhaps beyond a limit
    prompt_scores: list[Score] = field(default_factory=list)


class Engine:
    """Runs jobs in a thread of its own. submit and close may be called from any thread."""

    def __init__(self, reader: Reader, tokenizer: Tokenizer, *, max_waiting: int):
        self.reader, self.tokenizer, self.max_waiting = reader, tokenizer, max_waiting
        self.waiting: collections.deque[Job] = collections.deque()
        self.running: list[tuple[Job, Continuation]] = []  # changed only by the engine's thread
        self.closing = False
        self.last_scored: tuple = (None, None, None)  # (prompt, n_top, its scores)
        self.changed = threading.Condition()  # guards waiting and closing; a lock that its owner may take again
        self.thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.thread.start()

    def submit(self, jobs: list[Job]) -> None:
        """Queue all of the jobs, or none: QueueFull if more than max_waiting would wait."""
        with self.changed:
            if not self.has_room(len(jobs)):
                raise QueueFull
            self.waiting += jobs
            self.changed.notify()

    def is_idle(self) -> bool:
        """Whether no job runs or waits that somebody still needs."""
        with self.changed:
            return all(job.cancelled for job in [*self.waiting, *(job for job, _ in self.running)])

    def cancel_all(self) -> None:
        """Cancel all jobs: nobody needs them any longer."""
        with self.changed:
            for job in [*self.waiting, *(job for job, _ in self.running)]:
                job.cancelled = True

    def has_room(self, n_jobs: int) -> bool:
        """Whether so many jobs may be submitted now."""
        with self.changed:
            self.waiting = collections.deque(job for job in self.waiting if not job.cancelled)
            n_free = MAX_BATCH - len(self.running) if not self.waiting else 0  # jobs that start at once
            return len(self.waiting) + n_jobs <= self.max_waiting + n_free

    def close(self) -> None:
        """Finish all running and waiting jobs that are not cancelled, and end the thread."""
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
                self.running = [(job, continuation) for job, continuation in self.running if not job.cancelled]
                n_free = MAX_BATCH - len(self.running)
                new_jobs = [self.waiting.popleft() for _ in range(min(len(self.waiting), n_free))]
                new_jobs = [job for job in new_jobs if not job.cancelled]
            try:
                self.running += [(job, self._continuation(job)) for job in new_jobs]
                self._step()
            except Exception as e:  # whatever it was: tell those who wait for these jobs, and serve the next ones
                for job in {job for job, _ in self.running} | set(new_jobs):
                    job.deliver(f"{type(e).__name__}: {e}", "error")
                self.running = []

    def _continuation(self, job: Job) -> Continuation:
        """Start a job: read nothing yet, unless the prompt's tokens are to be scored."""
        continuation = Continuation(
            self.reader,
            self.tokenizer,
            job.prompt_ids,
            max_new_tokens=job.max_new_tokens,
            sampling=job.sampling,
            seed=job.seed,
            stop=job.stop,
        )
        if job.n_top is not None:
            sample = ScoredSample(self.reader, job.prompt_ids, job.sampling, job.seed, job.n_top)
            continuation.sample, job.scores = sample, sample.scores
        if job.scores_prompt:
            ids, n_top, scores = self.last_scored
            if ids is not job.prompt_ids or n_top != job.n_top:  # the samples of one prompt share it
                scores = prompt_scores(self.reader, job.prompt_ids, job.n_top)
                self.last_scored = job.prompt_ids, job.n_top, scores
            job.prompt_scores = scores
        return continuation

    def _step(self) -> None:
        """Draw the next tokens of all running jobs and deliver their text."""
        new_texts = step(self.reader, [continuation for _, continuation in self.running])
        for (job, continuation), new_text in zip(self.running, new_texts, strict=True):
            job.n_tokens = len(continuation.tokens)
            job.ended_document = continuation.finish_reason == "stop" and not continuation.stream.stopped
            job.n_scores = job.n_tokens + job.ended_document
            if new_text or continuation.finish_reason is not None:
                job.deliver(new_text, continuation.finish_reason)
        self.running = [(job, c) for job, c in self.running if c.finish_reason is None]
