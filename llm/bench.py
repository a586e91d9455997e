"""Measure training and sampling on this machine, beside Hugging Face's GPT2LMHeadModel and the hardware's limits.

    python bench.py
    python bench.py --training=False --out_dir=out-prince

Training: the rates of matrix products, and whether dtype=auto chooses the faster dtype; then whole updates (forward,
backward, clipping, optimizer) of two models, beside GPT2LMHeadModel of the same shape on as many tokens, trained the
ordinary way (float32, AdamW, softmax over all tokens); then a step of Muon beside torch.optim.Muon's.
Sampling: from a learned model and its book, or from random weights without a book, see reading/samplers.py.

Figures are medians, measured in turns with what they are compared with. Needs the extra dev (transformers).
"""

import contextlib
import multiprocessing
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package, installed or not
from llm import runtime, sample, train
from llm.configurator import PACKAGE, PositiveInt, load_settings, require, run_script

# isort: split
import torch

from llm.model import GPTConfig
from llm.network.corpus_softmax import CompactGPT
from llm.reading import samplers
from llm.reading.reader import MAX_BATCH
from llm.reading.samplers import BOOK_TOKENS, Subject
from llm.runtime import Runtime
from llm.training import compiling, start, writing

TABLE_ROWS = 50304  # of the full token table
SHORT, LONG = 240, 500  # tokens drawn in a sample
WRITTEN_TOKENS = 21_504  # of the text that is written in closed form: as many as a novella has
SAMPLING = sample.SamplingSettings().sampling()  # sample.py's defaults


@dataclass(frozen=True)
class Settings(runtime.Settings):
    # how thoroughly
    repeats: PositiveInt = 5  # timed updates of each, and samples; the median counts
    training: bool = True  # measure training
    sampling: bool = True  # measure sampling
    out_dir: str | None = None  # of a learned model to sample from; None = random weights, which have no book


def trainings() -> dict[str, train.Settings]:
    """The trainings that are measured: a config file's, and train.py's defaults with four windows per update."""
    prince = load_settings(train.Settings, ["config/train_prince.py"], script_folder=PACKAGE)
    return {"train_prince, 30M": prince, "GPT-2, 124M": replace(train.Settings(), batch_size=4)}


def shape_of(training: train.Settings) -> GPTConfig:
    """The shape of the model that these settings train, with the full token table."""
    shape = {name: getattr(training, name) for name in ("n_layer", "n_head", "n_embd", "block_size", "bias", "dropout")}
    return GPTConfig(vocab_size=TABLE_ROWS, gelu="tanh", **shape)


def seconds_of(work: Callable[..., object], device: torch.device, *arguments) -> float:
    """Seconds of one call of `work`, the device's part included."""
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
    wait()
    began = time.perf_counter()
    work(*arguments)
    wait()
    return time.perf_counter() - began


def median_seconds(timers: list[Callable[[], float]], repeats: int) -> list[float]:
    """Median of the seconds that each timer returns, called in turns after one round that does not count."""
    rounds = [[timer() for timer in timers] for _ in range(repeats + 1)]
    return [statistics.median(seconds) for seconds in zip(*rounds[1:], strict=True)]


@contextlib.contextmanager
def peer(make: Callable[..., Callable], device: torch.device, *arguments) -> Iterator[Callable[..., float]]:
    """A function that returns the seconds of one call of work = make(*arguments, device), in a process of its own.

    A process of its own, because runtime.keep_freed_memory would speed Hugging Face's model up, too.
    """
    context = multiprocessing.get_context("spawn")
    connection, other_end = context.Pipe()
    process = context.Process(target=answer, args=(other_end, make, device, arguments), daemon=True)
    process.start()
    other_end.close()

    def seconds(*arguments) -> float:
        connection.send(arguments)
        return connection.recv()

    try:
        yield seconds
    finally:
        connection.close()
        process.join()


def answer(connection, make: Callable[..., Callable], device: torch.device, arguments: tuple) -> None:
    """What the process of `peer` does until the other end of the connection is closed."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    work = make(*arguments, device)
    with contextlib.suppress(EOFError):
        while True:
            connection.send(seconds_of(work, device, *connection.recv()))


# ------------------------------------------------------------------------------------------------------------- training


def instruction_set() -> str:
    """The CPU's architecture, vendor and instructions for matrix products, as far as they are known."""
    vendor, flags = runtime.cpu_vendor_and_flags()
    present = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return " ".join(filter(None, [platform.machine(), vendor, *present]))


def product_rate(dtype: torch.dtype, device: torch.device, size: int = 2048) -> float:
    """FLOP/s of a size x size x size matrix product, median of 9."""
    a = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / median_seconds([lambda: seconds_of(torch.matmul, device, a, a)], 9)[0]


def dtype_verdict(rates: dict[str, float], device: torch.device) -> str:
    """One line: whether the rule of dtype=auto chooses the faster dtype here, and what to type if it does not.

    rates: FLOP/s of bfloat16 and float32. Differences up to 10 % do not matter.
    """
    chosen, fastest = name_of(runtime.pick_dtype("auto", device)), max(rates, key=rates.get)
    ratio = rates[fastest] / rates[chosen]
    if ratio > 1.1:
        return f"dtype=auto chooses {chosen}, but {fastest} is {ratio:.1f} times as fast here: type --dtype={fastest}"
    return f"dtype=auto chooses {chosen}, which fits this machine"


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def flops_per_token(n_layer: int, n_embd: int, block_size: int, rows: int) -> int:
    """Of forward and backward: 6 per weight of a product, and the attention (PaLM, arXiv 2204.02311, appendix B)."""
    return 6 * (12 * n_layer * n_embd**2 + rows * n_embd) + 12 * n_layer * n_embd * block_size


def our_update(training: train.Settings, rt: Runtime, mode: str = "default", n_ids: int = BOOK_TOKENS) -> tuple:
    """(one update as train.py makes it on a text of n_ids different tokens; its optimizers). mode: of torch.compile."""
    model = CompactGPT(shape_of(training), list(range(n_ids))).to(rt.device)
    optimizers = train.optimizers_of(training, model, rt)
    position_weights = start.position_weights(training.block_size, training.opening_weight, rt.device)
    x = torch.randint(BOOK_TOKENS, (training.batch_size, training.block_size), device=rt.device)
    step_model = compiling.compiled_or_eager(model, x, position_weights, rt, mode) if rt.compile else model

    def update() -> None:
        with rt.autocast():
            loss = step_model(x, x, position_weights=position_weights)[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.grad_clip)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)

    return update, optimizers


def hugging_face_update(shape: GPTConfig, batch_size: int, device: torch.device) -> Callable[[], None]:
    """One update of GPT2LMHeadModel, the ordinary way."""
    model = samplers.hugging_face_model(shape).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    x = torch.randint(TABLE_ROWS, (batch_size, shape.block_size), device=device)

    def update() -> None:
        model(input_ids=x, labels=x).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return update


def report_training(repeats: int, rt: Runtime) -> None:
    """Print the rates, the table and Muon's line."""
    device = rt.device
    rates = {name_of(dtype): product_rate(dtype, device) for dtype in (torch.bfloat16, torch.float32)}
    print("matrix products: " + ", ".join(f"{dtype} {rate / 1e9:,.0f} GFLOP/s" for dtype, rate in rates.items()))
    print(dtype_verdict(rates, device))
    print("\n| training | llm, tokens/s | share of that rate | Hugging Face, float32, tokens/s | ratio |")
    print("|---|---|---|---|---|")
    muon = None
    for name, training in trainings().items():
        update, optimizers = our_update(training, rt)
        muon = muon or optimizers[1]
        with peer(hugging_face_update, device, shape_of(training), training.batch_size) as hugging_face:
            ours, theirs = median_seconds([partial(seconds_of, update, device), hugging_face], repeats)
        tokens = training.batch_size * training.block_size
        flops = tokens * flops_per_token(training.n_layer, training.n_embd, training.block_size, BOOK_TOKENS + 1)
        share = flops / ours / rates.get(name_of(rt.dtype), rates["float32"])
        print(f"| {name} | {tokens / ours:,.0f} | {share:.0%} | {tokens / theirs:,.0f} | {theirs / ours:.1f} |")
    report_muon(muon, repeats, device)
    report_writing(next(iter(trainings().values())), repeats, rt, rates.get(name_of(rt.dtype), rates["float32"]))


def report_writing(training: train.Settings, repeats: int, rt: Runtime, rate: float) -> None:
    """Print how long writing a random text takes, beside gradient descent. rate: of matrix products, operations/s."""
    update, _ = our_update(training, rt)
    n_updates = WRITTEN_TOKENS / (training.batch_size * training.block_size)
    epoch = n_updates * median_seconds([partial(seconds_of, update, rt.device)], repeats)[0]
    model, steps = CompactGPT(shape_of(training), list(range(BOOK_TOKENS))).to(rt.device), []
    write = partial(writing.write, model, torch.randint(BOOK_TOKENS, (WRITTEN_TOKENS,)), rt, seed=1)
    seconds = seconds_of(partial(write, report=steps.append), rt.device)
    words = f"{len(steps)} steps in {seconds:.1f} s, {seconds * rate / 1e12:.1f} TFLOP; {steps[-1].known:.2%} known"
    words += f"; an epoch of gradient descent takes {epoch:.1f} s, {epoch * len(steps) / seconds:.1f} times a step"
    print(f"\nwriting {WRITTEN_TOKENS:,} random tokens in closed form: {words}")


def report_muon(muon: torch.optim.Optimizer, repeats: int, device: torch.device) -> None:
    """Print the seconds of one step, beside torch.optim.Muon's on the same matrices with its own five equal steps."""
    matrices = muon.param_groups[0]["params"]
    for p in matrices:
        p.grad = torch.randn_like(p)
    torchs_muon = torch.optim.Muon(matrices, lr=1e-4, weight_decay=0.0)
    ours, theirs = median_seconds([partial(seconds_of, o.step, device) for o in (muon, torchs_muon)], repeats)
    figures = f"{ours:.3f} s, torch.optim.Muon {theirs:.3f} s, ratio {theirs / ours:.1f}"
    print(f"\nMuon, an update of the 30M model: {figures}")


# ------------------------------------------------------------------------------------------------------------- sampling


def read_bandwidth(device: torch.device) -> float:
    """Bytes/s at which 256 MB are read from memory (summed), median of 9."""
    numbers = torch.ones(64 * 2**20, device=device)
    return numbers.nbytes / median_seconds([lambda: seconds_of(numbers.sum, device)], 9)[0]


def seconds_to_print(command: list[str], n_characters: int) -> float:
    """Seconds from a command's start until it has printed so many characters."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdout.read(n_characters)
        seconds = time.perf_counter() - began
        process.kill()
    return seconds


def report_first_text(subject: Subject, out_dir: str | None, repeats: int) -> None:
    """Print the seconds from the start of sample.py to its first token, beside importing torch and reading weights."""
    with tempfile.TemporaryDirectory() as folder:
        if out_dir is None:
            samplers.save_subject(subject, Path(folder))
        path = Path(out_dir or folder).resolve()
        ours = [sys.executable, str(PACKAGE / "sample.py"), f"--out_dir={path}", "--start=The morning"]
        read = f"import torch; torch.load({str(path / 'ckpt.pt')!r}, weights_only=True); print('read', flush=True)"
        commands = [(ours, len("The morning") + 1), ([sys.executable, "-c", read], 1)]
        mine, bare = median_seconds([partial(seconds_to_print, *command) for command in commands], repeats)
    figures = f"{mine:.2f} s, import torch and reading the weights {bare:.2f} s, ratio {mine / bare:.2f}"
    print(f"sample.py to its first token: {figures}")


def report_sampling(shape: GPTConfig, out_dir: str | None, repeats: int, rt: Runtime) -> None:
    """Print the table of sampling, and the seconds to the first token. shape: of random weights, if out_dir is None."""
    subject, device = samplers.subject_of(shape, out_dir), rt.device
    subject.model.to(device)
    n_prompt = len(subject.prompt_ids)
    short = min(SHORT, subject.model.config.block_size - n_prompt)
    draws = {"": samplers.our_sampler(subject, SAMPLING, rt.dtype, drafts=True)}
    if subject.book_ids is not None:
        draws[", not speculative"] = samplers.our_sampler(subject, SAMPLING, rt.dtype, drafts=False)
    sizes = [(1, 1), (short, 1), (1, MAX_BATCH), (short, MAX_BATCH)]  # tokens and samples
    with peer(samplers.hugging_face_sampler, device, shape, out_dir, SAMPLING) as hugging_face:
        timers = {("Hugging Face", *size): partial(hugging_face, *size) for size in sizes}
        for way, draw in draws.items():
            timers |= {(way, *size): partial(seconds_of, draw, device, *size) for size in [*sizes, (LONG, 1)]}
        seconds = dict(zip(timers, median_seconds(list(timers.values()), repeats), strict=True))
    draw = samplers.uncached_sampler(subject, SAMPLING, device)
    timers = {("no cache", *size): partial(seconds_of, draw, device, *size) for size in [(1, 1), (LONG, 1)]}
    seconds |= dict(zip(timers, median_seconds(list(timers.values()), min(repeats, 2)), strict=True))

    def rate(way: str, n_tokens: int, n_samples: int) -> float:
        """Tokens/s after the first token, whose time includes reading the prompt."""
        return n_samples * (n_tokens - 1) / (seconds[way, n_tokens, n_samples] - seconds[way, 1, n_samples])

    bandwidth, token_bytes = read_bandwidth(device), subject.bytes_per_token(rt.dtype)
    print(f"\nread bandwidth {bandwidth / 1e9:,.0f} GB/s; a token reads {token_bytes / 1e6:.0f} MB")
    print("\n| sampling | llm, tokens/s | beside | tokens/s | ratio |\n|---|---|---|---|---|")
    rows = [  # (tokens, samples), beside, its rate
        ((short, 1), "Hugging Face, float32, KV cache", rate("Hugging Face", short, 1)),
        ((short, MAX_BATCH), "Hugging Face, float32, KV cache", rate("Hugging Face", short, MAX_BATCH)),
        ((LONG, 1), "no KV cache, float32", rate("no cache", LONG, 1)),
        ((short, 1), "all weights read from memory for each token", bandwidth / token_bytes),
    ]
    for way in draws:
        for (n_tokens, n_samples), beside, other in rows:
            mine = rate(way, n_tokens, n_samples)
            sampled = f"{n_samples} sample{'s' if n_samples > 1 else ''}, {n_tokens} tokens{way}"
            print(f"| {sampled} | {mine:,.0f} | {beside} | {other:,.0f} | {mine / other:.1f} |")
    first, theirs = (1e3 * seconds[way, 1, 1] for way in ("", "Hugging Face"))
    print(f"\nfirst token of {n_prompt}: {first:.0f} ms, Hugging Face {theirs:.0f} ms")
    report_first_text(subject, out_dir, repeats)


def main(cfg: Settings) -> None:
    require("transformers", "dev")
    rt = runtime.start(cfg)
    print(f"{rt.describe()}\n{instruction_set()}, torch {torch.__version__}")
    if cfg.training:
        report_training(cfg.repeats, rt)
    if cfg.sampling:
        prince = next(iter(trainings().values()))
        report_sampling(shape_of(prince), cfg.out_dir, cfg.repeats, runtime.start(cfg, use="sample"))


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
