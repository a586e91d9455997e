"""What does watching a training cost? Counted in seconds of the processor, which other work disturbs less than a clock.

    python tests/watching_cost.py DATASET [config] [seconds]     # default: config/train_prince.py, asked every 2 s

The dataset is trained once with --watch=True, while a client asks for the page, the map and the curves every so many
seconds, as a browser does (0 = never). Printed are the seconds that the training's own thread spends on watching, those
of the threads that answer, and both by the seconds of the training. Not collected by pytest.
"""

import contextlib
import os
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from llm import serve, train
from llm.configurator import PACKAGE, load_settings
from llm.training.watching import Watched

TICK = os.sysconf("SC_CLK_TCK")
spent = {"watching": 0.0, "writing watch.json": 0.0, "drawing samples": 0.0}
timing: list[str] = []


def timed(name: str, function):
    """The function, whose seconds are added up."""

    def call(*arguments, **options):
        if timing:  # one of these within another
            return function(*arguments, **options)
        timing.append(name)
        began = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            spent[name] += time.perf_counter() - began
            timing.clear()

    return call


def seconds_of_thread(native_id: int) -> float:
    """Seconds of the processor that a thread of this process has used."""
    fields = Path(f"/proc/self/task/{native_id}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def ask(address: str, every: float, ended: threading.Event) -> None:
    """Be a browser with the page open: a process of its own would cost the same machine more."""
    while not ended.wait(every):
        for path in ("/watch", "/book/windows"):
            with contextlib.suppress(OSError), urllib.request.urlopen(address + path) as answer:
                answer.read()


def main(dataset: str, config: str = "config/train_prince.py", every: str = "2") -> None:
    ended, answering = threading.Event(), {}
    page_of_training = serve.page_of_training

    @contextlib.contextmanager
    def page(out_dir, report):
        def told(line: str) -> None:
            report(line)
            if "http://" in line and float(every):
                threading.Thread(target=ask, args=(line.split()[-1], float(every), ended), daemon=True).start()

        with page_of_training(out_dir, told):
            yield
            for task in map(int, os.listdir("/proc/self/task")):
                name = next((t.name for t in threading.enumerate() if t.native_id == task), "")
                if name == "page" or name.startswith("AnyIO"):
                    answering[task] = seconds_of_thread(task)
            ended.set()

    serve.page_of_training = page
    for name, words in (("note", "watching"), ("note_batch", "watching"), ("write", "writing watch.json")):
        setattr(Watched, name, timed(words, getattr(Watched, name)))
    Watched.draw = timed("drawing samples", Watched.draw)
    with tempfile.TemporaryDirectory() as folder:
        words = [config, f"--dataset={dataset}", f"--out_dir={folder}/out", "--watch=True"]
        began = time.perf_counter(), time.process_time()
        train.train(load_settings(train.Settings, words, script_folder=PACKAGE))
        seconds, busy = time.perf_counter() - began[0], time.process_time() - began[1]
    own, others = sum(spent.values()), sum(answering.values())
    print(f"training: {seconds:.1f} s, {busy:.1f} seconds of the processor")
    for name, value in spent.items():
        print(f"{name}: {value:.2f} s")
    print(f"answering, asked every {every} s: {others:.2f} seconds of the processor")
    print(
        f"watching costs {100 * own / seconds:.2f} % of the training's seconds, with answering "
        f"{100 * (own + others) / seconds:.2f} %"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
