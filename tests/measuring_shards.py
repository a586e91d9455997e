"""Measure training in several processes, and the memory that it takes, on a CPU.

    python tests/measuring_shards.py memory       # estimated and largest resident memory of small GPT-2 shapes
    python tests/measuring_shards.py xl           # the same of an update of gpt2-xl's shape with LoRA: takes 8 GB
    python tests/measuring_shards.py processes    # losses and tokens/s of 1, 2 and 4 processes, sharded and not

Each prints a table, and fails if an estimate is off by more than 15 %, or if losses differ by more than rounding. Each
run but that of gpt2-xl is train.py in processes of its own. Not collected by pytest.
"""

import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from llm import runtime
from llm.configurator import PACKAGE
from llm.model import GPT, GPTConfig, uninitialised
from llm.network import lora
from llm.runtime import Runtime
from llm.text import dataset, tokenizer
from llm.training import memory, optim
from llm.training.metrics import read_metrics

TOLERANCE = 0.15
TALE = (PACKAGE / "data" / "tale" / "tale.txt").read_text(encoding="utf-8")
SHORT = dict(max_iters=3, eval_interval=100, warmup_iters=1, corpus_softmax=False, device="cpu", log_interval=1)
SMALL = dict(SHORT, n_layer=6, n_head=6, n_embd=384, block_size=256, batch_size=8, gradient_accumulation_steps=2)
MEDIUM = dict(SHORT, n_layer=8, n_head=8, n_embd=512, block_size=512, batch_size=4, gradient_accumulation_steps=2)
GPT2 = dict(SHORT, n_layer=12, n_head=12, n_embd=768, block_size=512, batch_size=2, gradient_accumulation_steps=2)
RUNS = {  # name -> processes, settings
    "6 layers, width 384": (1, dict(SMALL, dtype="float32")),
    "the same, recomputed": (1, dict(SMALL, dtype="float32", gradient_checkpointing=True)),
    "the same, bfloat16, Muon": (1, dict(SMALL, dtype="bfloat16", optimizer="muon")),
    "8 layers, width 512": (1, dict(MEDIUM, dtype="float32")),
    "the same, bfloat16": (1, dict(MEDIUM, dtype="bfloat16")),
    "GPT-2, 124M": (1, dict(GPT2, dtype="float32")),
    "the same, bfloat16, recomputed": (1, dict(GPT2, dtype="bfloat16", gradient_checkpointing=True)),
    "GPT-2, 124M, data-parallel": (2, dict(GPT2, dtype="float32")),
    "the same, sharded": (2, dict(GPT2, dtype="float32", shard=True)),
    "the same, sharded, bfloat16": (2, dict(GPT2, dtype="bfloat16", shard=True)),
    "the same, sharded, Muon": (2, dict(GPT2, dtype="float32", shard=True, optimizer="muon")),
}
SAME = dict(SHORT, n_layer=6, n_head=6, n_embd=384, block_size=128, batch_size=4, gradient_accumulation_steps=4)
SAME |= dict(max_iters=20, optimizer="muon", dtype="float32", dropout=0.1)
XL = GPTConfig(48, 25, 1600, 1024, bias=True, vocab_size=50257, dropout=0.0, gelu="tanh")  # gpt2-xl


class Trainer:
    """Runs train.py, with a copy of the package that has the tale as a dataset, in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        subprocess.run(["cp", "-r", PACKAGE, folder / "llm"], check=True)
        dataset.DATA = folder / "llm" / "data"
        text = dict(val_fraction=0.1, source={}, train_command=("x",))
        dataset.write_dataset(dataset.DATA / "tale_part", TALE, tokenizer.gpt2(), **text)

    def run(self, processes: int, out_dir: str, **settings) -> tuple[str, list[dict]]:
        """(what a run prints, lines of metrics.jsonl)"""
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        words = [f"--{k}={v}" for k, v in dict(settings, dataset="tale_part", out_dir=out_dir).items()]
        finished = subprocess.run(
            [sys.executable, *(torchrun if processes > 1 else []), self.folder / "llm" / "train.py", *words],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "2" if processes == 1 else "1"},
            capture_output=True,
            encoding="utf-8",
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout, read_metrics(self.folder / out_dir)


def measure_memory(trainer: Trainer) -> None:
    """Of each of RUNS: estimated and measured GB in a process (rank 0)."""
    wrong = []
    for number, (name, (processes, settings)) in enumerate(RUNS.items()):
        printed, _ = trainer.run(processes, f"out{number}", **settings)
        estimated = re.search(r"^memory: about ([\d.]+) GB in each process \((.*)\)$", printed, re.M)
        measured = re.search(r"memory at most ([\d.]+) GB", printed)
        wrong += print_row(name, float(estimated[1]), float(measured[1]), estimated[2])
    assert not wrong, f"off by more than {TOLERANCE:.0%}: {wrong}"


def measure_processes(trainer: Trainer) -> None:
    """The same training in 1, 2 and 4 processes, data-parallel and sharded: losses, tokens/s, memory."""
    one = None
    for processes, shard in ((1, False), (2, False), (2, True), (4, False), (4, True)):
        printed, lines = trainer.run(processes, f"p{processes}{shard}", shard=shard, **SAME)
        losses = [line["loss"] for line in lines if "loss" in line]
        one = one or losses
        furthest = max(abs(a - b) / a for a, b in zip(one, losses, strict=True))
        speed = statistics.median(line["tokens_per_s"] for line in lines if "loss" in line)
        kind = "one" if processes == 1 else "sharded" if shard else "data-parallel"
        print(
            f"{processes} processes, {kind:13} loss {losses[0]:.4f} to {losses[-1]:.4f}, largest relative difference "
            f"{furthest:.1e}, {speed:,.0f} tokens/s, {re.search(r'memory at most ([0-9.]+) GB', printed)[1]} GB each",
            flush=True,
        )
        assert furthest < 1e-3


def measure_xl(_: Trainer) -> None:
    """gpt2-xl's shape with constant weights, LoRA of rank 16 and recomputed blocks: one update of 1,024 tokens."""
    rt = runtime.start(runtime.Settings(device="cpu"))
    began = time.perf_counter()
    model: GPT = uninitialised(XL).to_empty(device="cpu")
    model.transformer.wte.weight = model.lm_head.weight  # to_empty has untied them
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.01)
    lora.attach(model, 16, []).train()
    model.gradient_checkpointing = True
    optimizers = optim.make_optimizers(
        model, optimizer="adamw", learning_rate=1e-4, muon_lr=0.01, weight_decay=0.1, betas=(0.9, 0.95)
    )
    needed = memory.estimate(model, rt, n_muon=0, batch_size=1, micro_steps=1, sharded=False)
    print(needed.describe(), flush=True)
    step(model, optimizers, rt)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"one update of 1,024 tokens, {rt.dtype}: {time.perf_counter() - began:.0f} s with making the model")
    wrong = print_row("gpt2-xl, LoRA, recomputed", needed.total / 1e9, peak / 1e9, "")
    assert not wrong, f"off by more than {TOLERANCE:.0%}"


def step(model: GPT, optimizers: list[torch.optim.Optimizer], rt: Runtime) -> None:
    """One update, as train.py makes it."""
    x = torch.randint(XL.vocab_size, (1, XL.block_size))
    with rt.autocast():
        loss = model(x, x)[1]
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()


def print_row(name: str, estimated: float, measured: float, parts: str) -> list[str]:
    """Prints a row of the table; [name] if the estimate is too far off, else []."""
    error = estimated / measured - 1
    print(f"{name:32} estimated {estimated:5.2f} GB, measured {measured:5.2f} GB: {error:+.0%}   {parts}", flush=True)
    return [name] if abs(error) > TOLERANCE else []


PARTS = {"memory": measure_memory, "xl": measure_xl, "processes": measure_processes}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        with tempfile.TemporaryDirectory() as name:
            PARTS[part](Trainer(Path(name)))
