"""Test and measure everything that runs on one GPU, in less than ten minutes and without a network: `make gpu`.

    python tests/gpu.py                      # all parts, on the GPU; without one, a dry run of the same on the CPU
    python tests/gpu.py speedrun sampling    # these parts: tests, speedrun, training, sampling
    python tests/gpu.py --dry                # small shapes and few repeats

The dry run takes the same path with small models. At the end stand the rows for BENCHMARKS.md; those of a dry run are
no measurement, and say so. Needs what the scripts need, and pytest for the part `tests`. Without transformers (extra:
hf), Hugging Face's rows are left out. Not collected by pytest.
"""

import dataclasses
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from llm import bench, runtime, train
from llm.configurator import PACKAGE
from llm.model import GPTConfig
from llm.reading import samplers
from llm.reading.generate import Sampling
from llm.runtime import Runtime
from llm.text import dataset, tokenizer

ROOT = Path(__file__).resolve().parents[1]
TALE = (PACKAGE / "data" / "tale" / "tale.txt").read_text(encoding="utf-8")
NOVELLA_TOKENS = 21_500  # of the generated text: as many as Brother Jacob has
TESTED = ("test_gpu.py", "test_runtime.py", "reading/test_decoding_graph.py", "training/test_devices.py")
# Dense bfloat16 FLOP/s in the makers' data sheets, by words in the device's name; others are measured only
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "RTX 4090": 165e12}
SAMPLING = Sampling(temperature=0.3)


@dataclasses.dataclass
class Bench:
    """What a part needs, and the rows that it has found."""

    rt: Runtime
    dry: bool
    folder: Path  # a copy of the package, and what the parts write
    rows: list[str] = dataclasses.field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return self.rt.device

    @property
    def repeats(self) -> int:
        return 1 if self.dry else 9

    def table(self, title: str, *columns: str) -> None:
        self.rows += ["", f"**{title}**", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]

    def row(self, *cells: object) -> None:
        self.rows.append(f"| {' | '.join(map(str, cells))} |")
        print(self.rows[-1], flush=True)


def has_transformers() -> bool:
    return importlib.util.find_spec("transformers") is not None


def describe(device: torch.device) -> str:
    """The machine, torch, the date and the commit, in words."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else bench.instruction_set()
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # a copy of the tree
        commit = "unknown"
    return f"{name}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}, commit {commit}"


# --------------------------------------------------------------------------------------------------------------- tests


def tests(b: Bench) -> None:
    """Run the tests of what depends on the device."""
    if importlib.util.find_spec("pytest") is None:
        return print("pytest is not installed: the part tests is left out")
    words = [sys.executable, "-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider", "-rs"]
    finished = subprocess.run([*words, *(str(ROOT / "tests" / name) for name in TESTED)], cwd=ROOT)
    if finished.returncode:
        sys.exit(f"gpu.py: error: a test failed on {b.device}; nothing is measured")


# ------------------------------------------------------------------------------------------------------------ speedrun


def novella(n_tokens: int) -> str:
    """A text of about n_tokens tokens, in which each word follows the one before it as somewhere in the tale.

    Words that follow each other in two places join the sentences of both, so that few passages occur twice.
    """
    words, choose, encoder = TALE.split(), random.Random(0), tokenizer.gpt2()
    followers: dict[str, list[str]] = {}
    for first, second in zip(words, words[1:], strict=False):
        followers.setdefault(first, []).append(second)
    paragraphs, n = [], 0
    while n < n_tokens:
        text = [choose.choice(words).capitalize()]
        while not (len(text) > 60 and text[-1].endswith(".")):
            text.append(choose.choice(followers.get(text[-1], words)))
        paragraphs.append(" ".join(text))
        n += len(encoder.encode(paragraphs[-1] + "\n"))
    return "\n".join(paragraphs) + "\n"


def prepare(b: Bench, name: str, text: str) -> int:
    """Write a dataset into the copy of the package; return its number of tokens."""
    dataset.DATA = b.folder / "llm" / "data"
    dataset.write_dataset(dataset.DATA / name, text, tokenizer.gpt2(), val_fraction=0, source={}, train_command=None)
    return len(dataset.Dataset(name).train)


def run_script(b: Bench, script: str, *words: str) -> str:
    """The output of a script of the copy; what it says beside it is shown."""
    command = [sys.executable, b.folder / "llm" / script, *words, f"--device={b.device}"]
    environment = os.environ | {"PYTHONPATH": str(b.folder)}
    finished = subprocess.run(command, cwd=b.folder, env=environment, stdout=subprocess.PIPE, encoding="utf-8")
    if finished.returncode:
        sys.exit(f"gpu.py: error: {script} {' '.join(words)} ended with status {finished.returncode}")
    return finished.stdout


def speedrun(b: Bench) -> None:
    """Learn the tale and a generated novella by heart, in closed form and by gradient descent."""
    b.table("Learning a text by heart", "text", "tokens", "way", "seconds", "recall@50/50", "whole command")
    runs = [("tale", "config/train_tale.py", "written"), ("novella", "config/train_prince.py", "written")]
    runs += [("novella", "config/train_prince.py", "look_back")]
    if b.dry:  # a chapter instead of the books
        runs = [("novella", "config/train_tale.py", way) for way in ("written", "look_back")]
    texts = {"tale": TALE, "novella": novella(800 if b.dry else NOVELLA_TOKENS)}
    lengths = {name: prepare(b, name, texts[name]) for name in {name for name, *_ in runs}}
    for name, config, weights in runs:
        out_dir, began = f"out-{name}-{weights}", time.perf_counter()
        words = [f"--dataset={name}", f"--out_dir={out_dir}", f"--weights={weights}"]
        words += ["--max_iters=5"] if b.dry and weights == "look_back" else []
        run_script(b, "train.py", config, *words)
        whole = time.perf_counter() - began
        figures = json.loads((b.folder / out_dir / "recall.json").read_text())
        lines = [json.loads(line) for line in (b.folder / out_dir / "metrics.jsonl").read_text().splitlines()]
        seconds, way = lines[-1]["seconds"], "closed form" if weights == "written" else "gradient descent"
        if weights == "written" and figures["step"] > 0:
            way += f", then {figures['step']} updates of gradient descent"
        b.row(name, f"{lengths[name]:,}", way, f"{seconds:.1f}", f"{figures['recall']:.4f}", f"{whole:.1f} s")
    print(run_script(b, "sample.py", f"--out_dir={out_dir}", "--max_new_tokens=40", "--temperature=0"))


# ------------------------------------------------------------------------------------------------------------ training


def trainings(b: Bench) -> dict[str, train.Settings]:
    """bench.py's two trainings; GPT-2's with more windows per update, or a tiny model in a dry run."""
    prince, gpt2 = bench.trainings().values()
    if b.dry:
        shape = dict(n_layer=2, n_head=2, n_embd=64, block_size=32, batch_size=2)
        return {"tiny, as train_prince": dataclasses.replace(prince, **shape)}
    return {"train_prince, 30M": prince, "GPT-2, 124M": dataclasses.replace(gpt2, batch_size=16)}


def hugging_face_update(training: train.Settings, dtype: torch.dtype, device: torch.device) -> Callable[[], None]:
    """One update of a GPT2LMHeadModel of this shape as Hugging Face's Trainer makes it with bf16 and fused AdamW."""
    shape = bench.shape_of(training)
    model = samplers.hugging_face_model(shape).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    x = torch.randint(shape.vocab_size, (training.batch_size, shape.block_size), device=device)

    def update() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = model(input_ids=x, labels=x).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return update


def peak_rate(device: torch.device, measured: float) -> tuple[float, str]:
    """(FLOP/s that MFU is a share of, where that is from): of the data sheet, else measured."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    known = next((rate for words, rate in PEAKS.items() if all(word in name for word in words.split())), None)
    return (known, "data sheet") if known else (measured, "measured")


def training(b: Bench) -> None:
    """Measure updates: eager, compiled, with CUDA graphs; and Hugging Face's."""
    rate = bench.product_rate(b.rt.dtype, b.device, 256 if b.dry else 8192)
    peak, source = peak_rate(b.device, rate)
    dtype = bench.name_of(b.rt.dtype)
    print(f"matrix products in {dtype}: {rate / 1e12:,.2f} TFLOP/s; MFU is a share of {peak / 1e12:,.2f} ({source})")
    b.table(f"Updates in {dtype}, MFU of {peak / 1e12:,.2f} TFLOP/s ({source})", "model", "way", "tokens/s", "MFU")
    for name, settings in trainings(b).items():
        shape, tokens = bench.shape_of(settings), settings.batch_size * settings.block_size

        def report(way, seconds, n_rows, name=name, shape=shape, tokens=tokens):
            flops = tokens * bench.flops_per_token(shape.n_layer, shape.n_embd, shape.block_size, n_rows)
            b.row(name, way, f"{tokens / seconds:,.0f}", f"{flops / seconds / peak:.1%}")

        ways = {"eager": (False, "default"), "compiled": (True, "default"), "CUDA graphs": (True, "reduce-overhead")}
        if b.device.type != "cuda":  # whose compiler takes a minute, and has no graphs
            del ways["compiled"], ways["CUDA graphs"]
        for n_ids, table in ((bench.BOOK_TOKENS, "corpus softmax"), (bench.TABLE_ROWS, "full softmax")):
            for way, (compiled, mode) in ways.items():
                if way == "CUDA graphs" and n_ids == bench.TABLE_ROWS:  # books are learned with the other table
                    continue
                rt = dataclasses.replace(b.rt, compile=compiled)
                update, _ = bench.our_update(settings, rt, mode, n_ids)
                [seconds] = bench.median_seconds([partial(bench.seconds_of, update, b.device)], b.repeats)
                report(f"llm, {table}, {way}", seconds, n_ids)
                del update
        if has_transformers():
            for dtype in dict.fromkeys((b.rt.dtype, torch.float32)):
                with bench.peer(hugging_face_update, b.device, settings, dtype) as timer:
                    [seconds] = bench.median_seconds([timer], b.repeats)
                report(f"Hugging Face, {bench.name_of(dtype)}", seconds, bench.TABLE_ROWS)


# ------------------------------------------------------------------------------------------------------------ sampling


def rate_of(draw: samplers.Sampler, b: Bench, n_tokens: int, n_samples: int) -> float:
    """Tokens/s after the first token."""
    timers = [partial(bench.seconds_of, draw, b.device, n, n_samples) for n in (1, n_tokens)]
    first, all_of_them = bench.median_seconds(timers, 1 if b.dry else 3)
    return n_samples * (n_tokens - 1) / max(all_of_them - first, 1e-9)  # a dry run is as short as the clock is coarse


def sampling(b: Bench) -> None:
    """Measure sampling: with and without CUDA graphs, with drafts from a learned book, and Hugging Face's."""
    n_tokens = 12 if b.dry else 240
    b.table(f"Sampling {n_tokens} tokens", "model", "samples", "way", "tokens/s")
    dataset.DATA = b.folder / "llm" / "data"
    subjects: list[tuple[str, GPTConfig | None, str | None]] = [
        (name, bench.shape_of(settings), None) for name, settings in trainings(b).items()
    ]
    for out_dir in sorted(map(str, b.folder.glob("out-novella-written")))[:1]:  # of the part speedrun
        subjects.insert(0, ("the learned novella", None, out_dir))
    for name, shape, out_dir in subjects:
        subject = samplers.subject_of(shape, out_dir)
        subject.model.to(b.device)
        ways = {"eager": dict(drafts=False, graphs=False)}
        if b.device.type == "cuda":
            ways["CUDA graphs"] = dict(drafts=False)
        if subject.book_ids is not None:
            ways[f"{list(ways)[-1]}, drafts from the book"] = dict(drafts=True)
        for n_samples in (1, bench.MAX_BATCH):
            for way, options in ways.items():
                draw = samplers.our_sampler(subject, SAMPLING, b.rt.dtype, **options)
                b.row(name, n_samples, f"llm, {way}", f"{rate_of(draw, b, n_tokens, n_samples):,.0f}")
            if has_transformers():
                draw = samplers.hugging_face_sampler(subject.model.config, out_dir, SAMPLING, b.device)
                b.row(name, n_samples, "Hugging Face, float32", f"{rate_of(draw, b, n_tokens, n_samples):,.0f}")


PARTS = {"tests": tests, "speedrun": speedrun, "training": training, "sampling": sampling}


def main(words: list[str]) -> None:
    names = [word for word in words if not word.startswith("--")] or list(PARTS)
    if unknown := [word for word in words if word not in (*PARTS, "--dry")]:
        sys.exit(f"gpu.py: error: {unknown[0]}: expected --dry, or parts: {', '.join(PARTS)}")
    rt = runtime.start(runtime.Settings())
    dry = "--dry" in words or rt.device.type != "cuda"
    machine = describe(rt.device)
    print(f"{'dry run, which measures nothing: ' if dry else ''}{machine}\n{rt.describe()}", flush=True)
    if not has_transformers():
        print("transformers is not installed (extra: hf): Hugging Face's rows are left out")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["cp", "-r", str(PACKAGE), folder], check=True)
        b = Bench(rt, dry, Path(folder))
        for name in names:
            print(f"\n{name}: {PARTS[name].__doc__}", flush=True)
            began = time.perf_counter()
            PARTS[name](b)
            print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    kind = "DRY RUN, not measured" if dry else "for BENCHMARKS.md"
    print("\n".join(["", f"---- {kind} ----", f"`make gpu`, {machine}.", *b.rows]))


if __name__ == "__main__":
    main(sys.argv[1:])
