"""The engine runs jobs in batches, and a mistake in one batch does not stop the next."""

import queue

import pytest
import torch

from llm.reading.generate import Sampling, generate
from llm.reading.reader import MAX_BATCH, Reader
from llm.serving.engine import Engine, Job, QueueFull
from llm.text import tokenizer

PATIENCE = 60  # seconds until a test fails whose engine delivers nothing


class Deliveries:
    """What the engine delivers to some jobs, in the order of arrival."""

    def __init__(self):
        self.arrived = queue.Queue()

    def __call__(self, text, finish_reason):
        self.arrived.put((text, finish_reason))

    def next(self):
        return self.arrived.get(timeout=PATIENCE)

    def text_of_one(self):
        """(text, finish_reason) of the only job."""
        text, finish_reason = "", None
        while finish_reason is None:
            piece, finish_reason = self.next()
            text += piece
        return text, finish_reason


@pytest.fixture
def reader(tiny_model):
    return Reader(tiny_model(), torch.arange(61), torch.float32)


@pytest.fixture
def engine(reader):
    engine = Engine(reader, tokenizer.gpt2(), max_waiting=3)
    yield engine
    engine.close()


def make_jobs(n, deliver, max_new_tokens=5, prompt_ids=(1,)):
    return [Job(list(prompt_ids), max_new_tokens, Sampling(), [0, 0], [], deliver) for _ in range(n)]


def test_a_job_gets_what_generate_draws(engine, reader):
    deliveries = Deliveries()
    engine.submit(make_jobs(1, deliveries))
    tokens = [token for _, token in generate(reader, [1], max_new_tokens=5, sampling=Sampling())]
    assert deliveries.text_of_one() == (tokenizer.gpt2().decode(tokens), "length")


def test_no_more_jobs_wait_than_the_queue_holds(engine):
    first = Deliveries()
    running = make_jobs(MAX_BATCH, first, max_new_tokens=100_000)
    engine.submit(running)
    first.next()  # they run, and will for minutes
    waiting = make_jobs(3, Deliveries())
    engine.submit(waiting)
    with pytest.raises(QueueFull):
        engine.submit(make_jobs(1, Deliveries()))
    waiting[0].cancelled = True  # makes room for another one
    deliveries = Deliveries()
    late = make_jobs(1, deliveries)
    engine.submit(late)
    assert list(engine.waiting) == waiting[1:] + late
    for job in running:
        job.cancelled = True
    assert deliveries.text_of_one()[1] == "length"


def test_an_error_reaches_all_jobs_of_the_batch_and_the_next_are_served(engine):
    failed, served = Deliveries(), Deliveries()
    engine.submit(make_jobs(2, failed, prompt_ids=(99,)))  # an id that the model lacks
    messages, reasons = zip(*[failed.next() for _ in range(2)], strict=True)
    assert reasons == ("error", "error") and "IndexError" in messages[0]
    engine.submit(make_jobs(1, served))
    assert served.text_of_one()[1] == "length"


def test_closing_finishes_what_runs_and_waits(reader):
    engine, deliveries = Engine(reader, tokenizer.gpt2(), max_waiting=20), Deliveries()
    engine.submit(make_jobs(MAX_BATCH + 2, deliveries))
    engine.close()
    reasons = [deliveries.next()[1] for _ in range(deliveries.arrived.qsize())]
    assert reasons.count("length") == MAX_BATCH + 2 and not engine.thread.is_alive()
