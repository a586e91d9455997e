"""Seconds and memory of recall.py for 1,000 windows, beside the loop that anybody would write with transformers.

    python tests/measuring_speed.py [n_windows]     # default: 96 timed windows

Random weights of two shapes, 30M and 124M parameters with GPT-2's table: as a checkpoint of ours, whose rows of tokens
that do not occur are equal, as training from scratch leaves them, and exported to Hugging Face's layout. Every way
runs in a process of its own. Not collected by pytest.
"""

import contextlib
import functools
import io
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from llm import bench, export
from llm.measuring import scoring
from llm.measuring.hugging_face import HuggingFaceModel
from llm.measuring.models import Model, OwnModel
from llm.reading import samplers
from llm.runtime import Settings, has_bfloat16, start
from llm.storage.pretrained import load_model

PREFIX, SUFFIX = 50, 50
PLAIN_WINDOWS = 24  # of the plain loop


def windows_of(n: int) -> np.ndarray:
    """n windows of random tokens of a book."""
    return np.random.default_rng(0).integers(samplers.BOOK_TOKENS, size=(n, PREFIX + SUFFIX))


@torch.no_grad()
def plain_loop(folder: Path, n: int) -> tuple[float, float]:
    """As `timed`: one at a time, the whole softmax at each position."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()

    def run(rows: np.ndarray) -> None:
        for ids in torch.from_numpy(rows):
            logits = model(ids[None]).logits[0, PREFIX - 1 : -1]
            target, log_p = ids[PREFIX:], logits.log_softmax(-1)
            kept = logits < logits.topk(40).values[:, -1:]
            top = logits.masked_fill(kept, -torch.inf).log_softmax(-1)
            at = torch.arange(SUFFIX)
            _ = log_p[at, target].sum(), top[at, target].sum(), (logits.argmax(-1) == target).all()

    return timed(run, windows_of(PLAIN_WINDOWS))


def ours(folder: Path, n: int, quick: torch.dtype | None = None) -> tuple[float, float]:
    """As `timed`, of a checkpoint of ours."""
    rt = start(Settings(device="cpu"), use="measure")
    model = OwnModel(*load_model(str(folder)), rt, None, quick)
    return timed_scoring(model, n)


def hugging_face(folder: Path, n: int, quick: torch.dtype | None = None) -> tuple[float, float]:
    """As `timed`, of a model in Hugging Face's layout, as recall.py --model measures it."""
    model = HuggingFaceModel(str(folder), start(Settings(device="cpu"), use="measure"), quick)
    return timed_scoring(model, n)


def timed_scoring(model: Model, n: int) -> tuple[float, float]:
    """As `timed`, of whole batches; what is tried once for a text, with TRIED windows, does not count."""
    size = scoring.batch_size_for(model, SUFFIX)
    windows = windows_of(-(-n // size) * size)
    quick = scoring.quick_dtype_for(model, windows, PREFIX)

    def run(rows: np.ndarray) -> None:
        for at in range(0, len(rows), size):
            scoring.score(model, rows[at : at + size], PREFIX, quick=quick)

    return timed(run, windows)


def timed(run: Callable[[np.ndarray], None], rows: np.ndarray) -> tuple[float, float]:
    """(seconds, seconds of all threads) per window, after a first batch that does not count."""
    run(rows[:2])
    began = time.perf_counter(), time.process_time()
    run(rows)
    return (time.perf_counter() - began[0]) / len(rows), (time.process_time() - began[1]) / len(rows)


def answer(connection, way: Callable, folder: Path, n: int) -> None:
    seconds = way(folder, n)
    lines = Path("/proc/self/status").read_text().splitlines()  # what getrusage has begins with the parent's memory
    connection.send((*seconds, next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))))


def in_process(way: Callable, folder: Path, n: int) -> tuple[float, float, float]:
    """(seconds per window, the same of all threads, peak memory in MiB) of a way in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=answer, args=(sender, way, folder, n))
    process.start()
    found = receiver.recv()
    process.join()
    return found


def ways() -> dict[str, tuple[Callable, str]]:
    """What is timed: words -> (function, folder). --dtype=auto: bfloat16 first, where that is faster."""
    found = {
        "a plain loop with transformers": (plain_loop, "hf"),
        "`recall.py --model`, float32": (hugging_face, "hf"),
        "`recall.py --out_dir`, float32": (ours, "out"),
    }
    if has_bfloat16(torch.device("cpu")):
        found["`recall.py --model`"] = (functools.partial(hugging_face, quick=torch.bfloat16), "hf")
        found["`recall.py --out_dir`"] = (functools.partial(ours, quick=torch.bfloat16), "out")
    return found


def main(n: int = 96) -> None:
    print("| model | way | seconds per 1,000 windows | times as fast | CPU seconds | ratio | peak memory, MiB |")
    print("|---|---|---|---|---|---|---|")
    for name, training in bench.trainings().items():
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            subject = samplers.subject_of(bench.shape_of(training), None)
            with torch.no_grad():
                subject.model.lm_head.weight[samplers.BOOK_TOKENS :] = 0.01
            (root / "out").mkdir()
            samplers.save_subject(subject, root / "out")
            with contextlib.redirect_stdout(io.StringIO()):
                export.main(export.Settings(out_dir=str(root / "out"), to=str(root / "hf")))
            plain = None
            for way, (function, place) in ways().items():
                seconds, busy, memory = in_process(function, root / place, n)
                plain = plain or (seconds, busy)
                row = f"{1000 * seconds:,.1f} | {plain[0] / seconds:.1f} | "
                row += f"{1000 * busy:,.1f} | {plain[1] / busy:.1f} | {memory:,.0f}"
                print(f"| {name} | {way} | {row} |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
