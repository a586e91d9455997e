"""How fast is training on this machine, beside what the machine can do and beside the ordinary way?

    python bench.py
    python bench.py --training=False --out_dir=out-prince

First the machine: its rate of matrix products, 2,048 x 2,048 x 2,048, median of 9. Then whole updates (forward,
backward, clipping, optimizer) of two models, each in turns with Hugging Face's GPT2LMHeadModel of the same shape on as
many tokens, trained the ordinary way: float32, AdamW, the softmax over all tokens. Needs the extra dev (transformers).
Then one update of Muon beside torch.optim.Muon's. Last, reading back: see bench_sampling.py.
"""

import contextlib
import dataclasses
import functools
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package, installed or not
import llm  # noqa: F401  (checks the installation before torch is imported)

# isort: split
import torch

from llm import bench_sampling, runtime, train
from llm.configurator import PositiveInt, load_settings, require, run_script
from llm.model import GPT
from llm.runtime import Runtime
from llm.training import start as build

TABLE = 50304  # rows
CORPUS = 3842  # rows in training: a book's own tokens, and one for all others


@dataclass(frozen=True)
class Settings(runtime.Settings):
    # how thoroughly
    repeats: PositiveInt = 5  # timed updates of each, and samples; the median counts
    training: bool = True  # measure training
    sampling: bool = True  # measure sampling
    out_dir: str | None = None  # of a learned model to sample from; None = random weights, which can guess nothing


def models() -> dict[str, train.Settings]:
    """What is timed: as the config file trains it, and with train.py's defaults, four windows an update."""
    here = Path(__file__).resolve().parent
    prince = load_settings(train.Settings, [str(here / "config" / "train_prince.py")], script_folder=here)
    return {"train_prince, 30M": prince, "GPT-2, 124M": dataclasses.replace(train.Settings(), batch_size=4)}


def instruction_set() -> str:
    """What the CPU has for matrix products, as far as it can be told."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return platform.machine()
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{platform.machine()} {' '.join(known)}"


def seconds_of(work: Callable[[], object], rt: Runtime) -> float:
    """Seconds that it takes, the GPU's part included."""
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(rt.device.type, lambda: None)
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


def in_turns(works: list[Callable[[], object]], repeats: int, rt: Runtime) -> list[float]:
    """Median seconds of each, measured in turns after one round that does not count."""
    rounds = [[seconds_of(work, rt) for work in works] for _ in range(repeats + 1)]
    return [statistics.median(times) for times in zip(*rounds[1:], strict=True)]


def product_rate(dtype: torch.dtype, rt: Runtime, size: int = 2048) -> float:
    """FLOP/s of a size x size x size matrix product, median of 9."""
    a = torch.randn(size, size, device=rt.device).to(dtype)
    return 2 * size**3 / in_turns([lambda: a @ a], 9, rt)[0]


def flops_per_token(n_layer: int, n_embd: int, block_size: int, rows: int) -> int:
    """Of forward and backward: 6 a weight in a product, and the attention (PaLM, arXiv 2204.02311, appendix B)."""
    return 6 * (12 * n_layer * n_embd**2 + rows * n_embd) + 12 * n_layer * n_embd * block_size


def our_update(cfg: train.Settings, rt: Runtime) -> tuple[Callable[[], None], list[torch.optim.Optimizer]]:
    """One update as train.py makes it: corpus softmax, and bfloat16 where there is one."""
    model = GPT(build.model_config(cfg, CORPUS), others=TABLE - CORPUS + 1).to(rt.device)
    optimizers = build.make_optimizers(model, cfg)
    position_weights = build.position_weights_of(cfg, cfg.block_size, rt)
    x = torch.randint(CORPUS - 1, (cfg.batch_size, cfg.block_size), device=rt.device)
    step_model = runtime.compiled_or_eager(model, x, x, position_weights, rt) if rt.compile else model

    def update() -> None:
        with rt.autocast():
            loss = step_model(x, x, position_weights=position_weights)[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)

    return update, optimizers


def hugging_face_update(cfg: train.Settings, device: torch.device) -> Callable[[], None]:
    """One update of GPT2LMHeadModel of the same shape on as many tokens, the ordinary way."""
    import transformers

    transformers.logging.set_verbosity_error()
    config = transformers.GPT2Config(
        n_layer=cfg.n_layer, n_head=cfg.n_head, n_embd=cfg.n_embd, n_positions=cfg.block_size, vocab_size=TABLE
    )
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = cfg.dropout
    model = transformers.GPT2LMHeadModel(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    x = torch.randint(50257, (cfg.batch_size, cfg.block_size), device=device)

    def update() -> None:
        model(input_ids=x, labels=x).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return update


class Peer:
    """A process of its own, in which work = make(*arguments) is made once; each call is its seconds for `work`.

    A process of its own, so that what this one asked of the C library (runtime.keep_freed_memory) does not help there.
    """

    def __init__(self, rt: Runtime, make: Callable, *arguments):
        context = multiprocessing.get_context("spawn")
        self.connection, far_end = context.Pipe()
        self.process = context.Process(target=self._work, args=(far_end, rt, make, arguments), daemon=True)
        self.process.start()
        far_end.close()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_) -> None:
        self.connection.close()
        self.process.join()

    def __call__(self, *arguments) -> float:
        self.connection.send(arguments)
        return self.connection.recv()

    @staticmethod
    def _work(connection, rt: Runtime, make: Callable, arguments: tuple) -> None:
        if rt.device.type == "cuda":
            torch.cuda.set_device(rt.device)
        work = make(*arguments)
        with contextlib.suppress(EOFError):
            while True:
                connection.send(seconds_of(functools.partial(work, *connection.recv()), rt))


def beside_hugging_face(cfg: train.Settings, ours: Callable[[], None], repeats: int, rt: Runtime) -> tuple:
    """Median seconds of an update, (ours, Hugging Face's), in turns after one round that does not count."""
    with Peer(rt, hugging_face_update, cfg, rt.device) as theirs:
        rounds = [(seconds_of(ours, rt), theirs()) for _ in range(repeats + 1)]
    return tuple(statistics.median(times) for times in zip(*rounds[1:], strict=True))


def torchs_muon(of: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """torch.optim.Muon over the same matrices, with its own five equal steps."""
    return torch.optim.Muon(of.param_groups[0]["params"], lr=1e-4, weight_decay=0.0)


def report_training(repeats: int, rt: Runtime) -> None:
    """Prints the tables."""
    rates = {dtype: product_rate(dtype, rt) for dtype in (torch.bfloat16, torch.float32)}
    names = {dtype: str(dtype).removeprefix("torch.") for dtype in rates}
    print("matrix products: " + ", ".join(f"{names[d]} {rate / 1e9:,.0f} GFLOP/s" for d, rate in rates.items()))
    print("\n| training | llm, tokens/s | share of that rate | Hugging Face, float32, tokens/s | ratio |")
    print("|---|---|---|---|---|", flush=True)
    muon = None
    for name, model in models().items():
        update, optimizers = our_update(model, rt)
        muon = muon or optimizers[1]
        ours, theirs = beside_hugging_face(model, update, repeats, rt)
        tokens = model.batch_size * model.block_size
        rate = rates.get(rt.dtype, rates[torch.float32])
        share = flops_per_token(model.n_layer, model.n_embd, model.block_size, CORPUS) * tokens / ours / rate
        print(
            f"| {name} | {tokens / ours:,.0f} | {share:.0%} | {tokens / theirs:,.0f} | {theirs / ours:.1f} |",
            flush=True,
        )
    matrices = muon.param_groups[0]["params"]
    for p in matrices:
        p.grad = torch.randn_like(p)
    ours, theirs = in_turns([muon.step, torchs_muon(muon).step], repeats, rt)
    print(
        f"\nMuon, an update of the 30M model: {ours:.3f} s, torch.optim.Muon {theirs:.3f} s, ratio {theirs / ours:.1f}",
        flush=True,
    )


def main(cfg: Settings) -> None:
    require("transformers", "dev")
    rt = runtime.start(cfg)
    print(f"{rt.describe()}\n{instruction_set()}, torch {torch.__version__}")
    if cfg.training:
        report_training(cfg.repeats, rt)
    if cfg.sampling:
        prince = next(iter(models().values()))
        bench_sampling.report(prince, cfg.out_dir, Peer, cfg.repeats, runtime.start(cfg, use="sample"))


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
