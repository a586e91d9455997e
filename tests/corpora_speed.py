"""Seconds and memory of preparing a corpus, of training on it, and of its index, on text that a script invents.

    python tests/corpora_speed.py prepare FOLDER [megabytes]      # beside bare tiktoken; default: 1,000
    python tests/corpora_speed.py kill FOLDER [megabytes]         # killed five times, and compared
    python tests/corpora_speed.py train FOLDER [megabytes ...]    # default: 10 100 1000
    python tests/corpora_speed.py index FOLDER [megabytes]        # build it, look up, sample with it

FOLDER keeps the text and the datasets; delete it afterwards (3 GB for 1,000 megabytes). Two processes prepare. Memory
is the largest that Linux counts for each process (VmHWM), added up. Not collected by pytest.
"""

import hashlib
import json
import multiprocessing
import os
import random
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from llm.configurator import PACKAGE
from llm.training.metrics import read_metrics

N_PROCESSES = 2
N_KILLS = 5
SHAPE = "n_layer=4 n_head=4 n_embd=256 block_size=256 batch_size=16 gradient_accumulation_steps=1 dropout=0.0"
LENGTH = "max_iters=40 eval_interval=1000 eval_iters=4 log_interval=1 warmup_iters=5 learning_rate=1e-3"
PROGRAM = """
import pathlib, runpy, sys
sys.path.insert(0, sys.argv[1])
from llm.text import dataset
dataset.DATA = pathlib.Path(sys.argv[2])
del sys.argv[:3]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start(folder: Path, script: str, *words: str) -> subprocess.Popen:
    """A script of the package with its datasets in folder/data; its output goes to folder/log.txt."""
    (folder / "data").mkdir(exist_ok=True)
    command = [sys.executable, "-c", PROGRAM, str(PACKAGE.parent), str(folder / "data"), str(PACKAGE / script), *words]
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)


def peak_memory(pid: int) -> int:
    """Largest resident memory of a process so far, in bytes; 0 if it has ended."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def children(pid: int) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []


def measured(process: subprocess.Popen, *, with_children: bool = True) -> tuple[float, int]:
    """(seconds until a process ends, peak memory of it and its children in bytes). Exits if it fails.

    with_children: a process that only forks for a moment would be counted twice.
    """
    began, peaks = time.perf_counter(), {}
    while process.poll() is None:
        for pid in (process.pid, *(children(process.pid) if with_children else ())):
            peaks[pid] = max(peaks.get(pid, 0), peak_memory(pid))
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"{process.args[6:]} failed: see log.txt")
    return time.perf_counter() - began, sum(peaks.values())


def text(folder: Path, megabytes: int) -> Path:
    """A folder with so much invented text."""
    made = folder / f"text_{megabytes}"
    if not made.exists():
        size = max(1, megabytes // 10)
        options = [f"--to={made}.new", f"--megabytes={megabytes}", f"--file_megabytes={size}"]
        measured(start(folder, "data/corpus/synthetic.py", *options))
        Path(f"{made}.new").rename(made)
    return made


def prepare(folder: Path, megabytes: int, name: str) -> subprocess.Popen:
    words = [str(text(folder, megabytes)), f"--dataset={name}", f"--processes={N_PROCESSES}"]
    return start(folder, "data/corpus/prepare.py", *words)


def bare_tiktoken(paths: list[Path]) -> tuple[float, float, int]:
    """(seconds in all, seconds in tiktoken alone, tokens) of encoding the texts of some files of JSON lines."""
    from llm.text.tokenizer import gpt2

    encode, seconds, n_tokens = gpt2()._encoding.encode_ordinary, 0.0, 0
    whole = time.perf_counter()
    for path in paths:
        with open(path, "rb") as f:
            for line in f:
                document = json.loads(line)["text"]
                began = time.perf_counter()
                n_tokens += len(encode(document))
                seconds += time.perf_counter() - began
    return time.perf_counter() - whole, seconds, n_tokens


def measure_prepare(folder: Path, megabytes: int = 1000) -> None:
    paths = sorted(text(folder, megabytes).iterdir())
    print("| way | seconds | MB/s | tokens | peak memory, MB |\n|---|---|---|---|---|")

    def row(way: str, seconds: float, tokens: int, memory: int | None) -> None:
        peak = "" if memory is None else f"{memory / 1e6:,.0f}"
        print(f"| {way} | {seconds:.1f} | {megabytes / seconds:.1f} | {tokens:,} | {peak} |", flush=True)

    with multiprocessing.get_context("spawn").Pool(N_PROCESSES) as pool:
        found = pool.map(bare_tiktoken, [paths[n::N_PROCESSES] for n in range(N_PROCESSES)])
        memory = sum(peak_memory(worker.pid) for worker in pool._pool)
    tokens = sum(n for _, _, n in found)
    row("bare tiktoken, its own seconds alone", max(seconds for _, seconds, _ in found), tokens, None)
    row("bare tiktoken, with reading and JSON", max(seconds for seconds, _, _ in found), tokens, memory)
    seconds, memory = measured(prepare(folder, megabytes, f"c{megabytes}"))
    shards = json.loads((folder / "data" / f"c{megabytes}" / "meta.json").read_text())["shards"]
    row("prepare.py, from its start to its end", seconds, sum(shard["tokens"] for shard in shards), memory)


def digests(folder: Path, name: str) -> dict[str, str]:
    paths = sorted((folder / "data" / name).glob("*_*.bin"))
    return {path.name: hashlib.file_digest(open(path, "rb"), "sha256").hexdigest() for path in paths}  # noqa: SIM115


def measure_kills(folder: Path, megabytes: int = 1000) -> None:
    whole = f"c{megabytes}"
    if not (folder / "data" / whole / "meta.json").exists():
        measured(prepare(folder, megabytes, whole))
    seconds = megabytes / 25  # at most, of a whole preparation
    chance, spent = random.Random(0), []
    for _ in range(N_KILLS):
        process, began = prepare(folder, megabytes, "killed"), time.perf_counter()
        time.sleep(chance.uniform(0.2, 0.6) * seconds)
        process.kill()
        process.wait()
        finished = len(list((folder / "data" / "killed").glob("train_*.bin")))
        spent.append(f"after {time.perf_counter() - began:.0f} s, {finished} shards")
    last, _ = measured(prepare(folder, megabytes, "killed"))
    same = digests(folder, whole) == digests(folder, "killed") and len(digests(folder, whole)) > 1
    print(f"killed {N_KILLS} times ({'; '.join(spent)}), finished in {last:.0f} s")
    print(f"all {len(digests(folder, whole))} shards equal those of an undisturbed run: {same}")


def measure_training(folder: Path, *sizes: int) -> None:
    print("| text, MB | tokens | seconds before the first update | tokens/s, median | peak memory, MB |")
    print("|---|---|---|---|---|")
    for megabytes in sizes or (10, 100, 1000):
        name = f"c{megabytes}"
        if not (folder / "data" / name / "meta.json").exists():
            measured(prepare(folder, megabytes, name))
        words = [f"--{word}" for word in f"{SHAPE} {LENGTH}".split()]
        options = [f"--dataset={name}", f"--out_dir=out-{name}", "--device=cpu"]
        began = time.time()
        _, memory = measured(start(folder, "train.py", *words, *options), with_children=False)
        lines = [line for line in read_metrics(folder / f"out-{name}") if "tokens_per_s" in line]
        first = (folder / f"out-{name}" / "ckpt_init.pt").stat().st_mtime - began
        speed = statistics.median(line["tokens_per_s"] for line in lines[5:])
        shards = json.loads((folder / "data" / name / "meta.json").read_text())["shards"]
        tokens = sum(shard["tokens"] for shard in shards if shard["file"].startswith("train"))
        print(f"| {megabytes:,} | {tokens:,} | {first:.1f} | {speed:,.0f} | {memory / 1e6:,.0f} |", flush=True)


def measure_index(folder: Path, megabytes: int = 1000) -> None:
    from llm.text import dataset
    from llm.text.token_index import TokenIndex

    name = f"c{megabytes}"
    seconds, memory = measured(start(folder, "data/corpus/prepare.py", f"--dataset={name}", "--index=True"))
    dataset.DATA = folder / "data"
    split = dataset.Dataset(name).train
    size = (folder / "data" / name / "index.bin").stat().st_size
    print(f"{len(split):,} tokens: made in {seconds:.0f} s, {size / 1e6:,.0f} MB, peak memory {memory / 1e6:,.0f} MB")
    index, chance = TokenIndex(folder / "data" / name, split), random.Random(0)
    for what, shift in (("that occur", 0), ("that do not", 1)):
        spent = []
        for _ in range(200):
            at = chance.randrange(len(split) - 100)
            ids = [(i + shift * n) % 50_000 for n, i in enumerate(split.tokens(at, at + 40).tolist())]
            began = time.perf_counter()
            index.position_after(ids, min_match=3, max_match=32)
            spent.append(time.perf_counter() - began)
        middle, most = 1e3 * statistics.median(spent), 1e3 * max(spent)
        print(f"a look-up of 40 tokens {what}: median {middle:.2f} ms, at most {most:.2f} ms")


MEASURES = {"prepare": measure_prepare, "kill": measure_kills, "train": measure_training, "index": measure_index}

if __name__ == "__main__":
    what, place, *numbers = sys.argv[1:]
    Path(place).mkdir(parents=True, exist_ok=True)
    print(f"load before: {os.getloadavg()[0]:.2f}", file=sys.stderr)
    MEASURES[what](Path(place).resolve(), *map(int, numbers))
    print(f"load after: {os.getloadavg()[0]:.2f}", file=sys.stderr)
