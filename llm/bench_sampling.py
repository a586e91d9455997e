"""How fast is reading back on this machine, beside Hugging Face's generate, and beside what memory allows?

Called by bench.py. A learned model, where one is named, and its own book; else one of train_prince's shape with random
weights, which can guess nothing. Hugging Face's GPT2LMHeadModel is given the same weights. What a token takes is the
difference between drawing many and drawing one. Hugging Face's model cannot go beyond its context, so it draws 240
tokens at most, where we draw both 240 and 500.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from llm import sample
from llm.model import GPT
from llm.reading import load
from llm.reading.generate import allowed_ids, generate
from llm.reading.reader import MAX_BATCH, Reader
from llm.runtime import Runtime
from llm.storage import checkpoint
from llm.storage.pretrained import load_model
from llm.text import tokenizer
from llm.training import start as build

DRAWN = sample.SamplingSettings().sampling()  # sample.py's defaults
SHORT, LONG = 240, 500  # tokens
FAMILIAR = 3841  # ids, as many as a book has


@dataclass(frozen=True)
class Subject:
    """A model, the ids that it may draw, a prompt of 8 tokens, and the book to guess from if there is one."""

    model: GPT
    allowed: torch.Tensor
    prompt: list[int]
    book: np.ndarray | None


def subject_of(cfg, out_dir: str | None) -> Subject:
    """The model in out_dir, in the middle of its book; without out_dir, of a config file (train.Settings) with random
    weights and 50,304 rows."""
    if out_dir is None:
        torch.manual_seed(0)
        model = GPT(build.model_config(cfg, 50304)).eval()
        return Subject(model, torch.arange(FAMILIAR), [464, 3329, 318, 2258, 287, 262, 2603, 13], None)
    model, words, info = load_model(out_dir, "ckpt.pt", torch.device("cpu"))
    book, _ = load.find_book_ids(info.dataset, info.text_sha256)
    prompt = [464, 3329, 318, 2258, 287, 262, 2603, 13] if book is None else book[len(book) // 2 :][:8].tolist()
    return Subject(model, allowed_ids(info.corpus_ids, words.vocab_size), prompt, book)


def our_generate(of: Subject, dtype: torch.dtype, *, guess: bool):
    """draw(n_tokens, n_samples) as sample.py draws; guess: from the book, as it does."""
    reader = Reader(of.model, of.allowed, dtype, book_ids=of.book if guess else None)

    def draw(n_tokens: int, n_samples: int = 1) -> None:
        for _ in generate(reader, of.prompt, max_new_tokens=n_tokens, sampling=DRAWN, numbers=range(n_samples)):
            pass

    return draw


def uncached_generate(of: Subject, rt: Runtime):
    """draw(n_tokens) as nanoGPT draws: the whole context is computed anew for each token, in float32."""
    model = of.model

    @torch.no_grad()
    def draw(n_tokens: int) -> None:
        idx = torch.tensor([of.prompt], device=rt.device)
        for _ in range(n_tokens):
            logits = model(idx[:, -model.config.block_size :])[0][:, -1] / DRAWN.temperature
            logits[logits < logits.topk(DRAWN.top_k)[0][:, -1:]] = -torch.inf
            idx = torch.cat([idx, torch.multinomial(logits.softmax(-1), 1)], dim=1)

    return draw


def hugging_face_model(model: GPT):
    """GPT2LMHeadModel with the same weights."""
    import transformers

    transformers.logging.set_verbosity_error()
    shape, weights = model.config, model.state_dict()
    config = transformers.GPT2Config(
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_embd=shape.n_embd,
        n_positions=shape.block_size,
        vocab_size=shape.vocab_size,
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    matrices = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # which it keeps transposed
    weights = {name: w.T if name.endswith(matrices) else w for name, w in weights.items()}
    zeros = {n: torch.zeros_like(p) for n, p in theirs.named_parameters() if n.endswith("bias")}
    theirs.load_state_dict(zeros | weights)
    return theirs


def hugging_face_generate(cfg, out_dir: str | None, device: torch.device):
    """draw(n_tokens, n_samples) with GPT2LMHeadModel.generate and its cache, in float32, on the same weights."""
    of = subject_of(cfg, out_dir)
    model = hugging_face_model(of.model).to(device)
    idx = torch.tensor([of.prompt], device=device)

    def draw(n_tokens: int, n_samples: int = 1) -> None:
        model.generate(
            idx,
            attention_mask=torch.ones_like(idx),
            max_new_tokens=n_tokens,
            min_new_tokens=n_tokens,
            do_sample=True,
            temperature=DRAWN.temperature,
            top_k=DRAWN.top_k,
            num_return_sequences=n_samples,
            pad_token_id=0,
            eos_token_id=None,
        )

    return draw


def read_bandwidth(device: torch.device) -> float:
    """Bytes/s at which 256 MB are read from memory (summed), median of 9."""
    numbers = torch.ones(64 * 2**20, device=device)
    times = []
    for _ in range(10):
        began = time.perf_counter()
        numbers.sum().item()
        times.append(time.perf_counter() - began)
    return numbers.nbytes / statistics.median(times[1:])


def bytes_a_token(of: Subject, dtype: torch.dtype) -> int:
    """Of the weights that one new token must be multiplied with: the blocks', and the head's rows, in one dtype."""
    shape = of.model.config
    return (12 * shape.n_layer * shape.n_embd**2 + len(of.allowed) * shape.n_embd) * dtype.itemsize


def seconds_to_the_first_token(folder: Path, repeats: int) -> tuple[float, float]:
    """Median seconds of (sample.py from its start to its first token, importing torch and reading the same weights)."""
    here = Path(__file__).resolve().parent
    ours = [sys.executable, str(here / "sample.py"), f"--out_dir={folder}", "--start=The morning"]
    bare = f"import torch; torch.load({str(folder / 'ckpt.pt')!r}, weights_only=True); print('read', flush=True)"
    times = []
    for _ in range(repeats + 1):
        times.append([seconds_to_say(ours, len("The morning") + 1), seconds_to_say([sys.executable, "-c", bare], 1)])
    return tuple(statistics.median(column) for column in zip(*times[1:], strict=True))


def save_for_sampling(of: Subject, folder: Path) -> None:
    """A checkpoint as train.py writes it."""
    checkpoint.save(
        folder / "ckpt.pt",
        model=of.model,
        optimizers=[torch.optim.AdamW(of.model.parameters())],
        iter_num=0,
        best_val_loss=1e9,
        config={"dataset": "none"},
        tokenizer_description=tokenizer.GPT2_DESCRIPTION,
        corpus_ids=of.allowed.tolist(),
        loop={},
    )


def seconds_to_say(command: list[str], n_characters: int) -> float:
    """Seconds from a command's start until it has printed so many characters."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdout.read(n_characters)
        seconds = time.perf_counter() - began
        process.kill()
    return seconds


def report(cfg, out_dir: str | None, peer_of: Callable, repeats: int, rt: Runtime) -> None:
    """Prints the tables. peer_of: bench.Peer; cfg: train.Settings; out_dir: of a learned model, see `subject_of`."""
    of = subject_of(cfg, out_dir)
    of.model.to(rt.device)
    short = min(SHORT, of.model.config.block_size - len(of.prompt))
    ways = {"": our_generate(of, rt.dtype, guess=True)}
    if of.book is not None:
        ways[", nothing guessed"] = our_generate(of, rt.dtype, guess=False)
    with peer_of(rt, hugging_face_generate, cfg, out_dir, rt.device) as theirs:
        rounds = []
        for _ in range(repeats + 1):
            first = [theirs(1), theirs(short), theirs(1, MAX_BATCH), theirs(short, MAX_BATCH)]
            rounds.append([first[0], first[1] - first[0], first[3] - first[2]])
            for draw in ways.values():
                first = timed(draw, 1)
                rounds[-1] += [first, timed(draw, short) - first, timed(draw, LONG) - first]
                rounds[-1] += [timed(draw, short, MAX_BATCH) - timed(draw, 1, MAX_BATCH)]
        hf_first, hf_one, hf_eight, *ours = map(statistics.median, zip(*rounds[1:], strict=True))
    uncached = uncached_generate(of, rt)
    slow = statistics.median(timed(uncached, LONG) - timed(uncached, 1) for _ in range(min(repeats, 3)))
    bandwidth = read_bandwidth(rt.device)
    floor = bytes_a_token(of, rt.dtype) / bandwidth
    print(f"\nread bandwidth {bandwidth / 1e9:,.0f} GB/s; a token reads {bytes_a_token(of, rt.dtype) / 1e6:.0f} MB")
    print("\n| sampling | llm, tokens/s | beside | tokens/s | ratio |\n|---|---|---|---|---|")
    rate, many = short - 1, MAX_BATCH * (short - 1)
    for way in ways:
        first, one, long, eight, *ours = ours
        rows = [
            (f"1 sample, {short} tokens", rate / one, "Hugging Face, float32, cache", rate / hf_one),
            (f"{MAX_BATCH} samples, {short} tokens", many / eight, "Hugging Face, float32, cache", many / hf_eight),
            (f"1 sample, {LONG} tokens", (LONG - 1) / long, "without a cache, float32", (LONG - 1) / slow),
            (f"1 sample, {short} tokens", rate / one, "all weights read from memory for each token", 1 / floor),
        ]
        for what, mine, beside, other in rows:
            print(f"| {what}{way} | {mine:,.0f} | {beside} | {other:,.0f} | {mine / other:.1f} |")
    print(f"\nfirst token of {len(of.prompt)}: {first * 1e3:.0f} ms, Hugging Face {hf_first * 1e3:.0f} ms")
    with tempfile.TemporaryDirectory() as folder:
        if out_dir is None:
            save_for_sampling(of, Path(folder))
        mine, bare = seconds_to_the_first_token(Path(out_dir or folder).resolve(), repeats)
    print(f"sample.py to its first token: {mine:.2f} s, import torch and reading the weights {bare:.2f} s", end="")
    print(f", ratio {mine / bare:.2f}")


def timed(draw, *arguments) -> float:
    """Seconds of a call; the last token is chosen on the CPU, so there is nothing to wait for."""
    began = time.perf_counter()
    draw(*arguments)
    return time.perf_counter() - began
