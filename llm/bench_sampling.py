"""How fast is reading back on this machine, beside Hugging Face's generate, and beside what memory allows?

Called by bench.py. One model of train_prince's shape with random weights, which Hugging Face's GPT2LMHeadModel is given
too. What a token takes is the difference between drawing many and drawing one. Hugging Face's model cannot go beyond
its context, so it draws 240 tokens where we draw both 240 and 500.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from llm import build, checkpoint, sample, tokenizer
from llm.generate import generate
from llm.model import GPT
from llm.reader import MOST, Reader
from llm.runtime import Runtime

PROMPT = [464, 3329, 318, 9258, 287, 262, 2603, 13]  # 8 tokens
DRAWN = sample.Drawing().sampling()  # sample.py's defaults
SHORT, LONG = 240, 500  # tokens
FAMILIAR = torch.arange(3841)  # as many ids as a book has


def random_model(cfg) -> GPT:
    """The model of a config file (train.Settings), 50,304 rows, random weights."""
    torch.manual_seed(0)
    return GPT(build.model_config(cfg, 50304)).eval()


def our_generate(model: GPT, dtype: torch.dtype):
    """draw(n_tokens, n_samples) as sample.py draws."""
    reader = Reader(model, FAMILIAR, dtype)

    def draw(n_tokens: int, n_samples: int = 1) -> None:
        for _ in generate(reader, PROMPT, max_new_tokens=n_tokens, sampling=DRAWN, numbers=range(n_samples)):
            pass

    return draw


def uncached_generate(model: GPT, on: Runtime):
    """draw(n_tokens) as nanoGPT draws: the whole context is computed anew for each token, in float32."""
    model = model.to(on.device)

    @torch.no_grad()
    def draw(n_tokens: int) -> None:
        idx = torch.tensor([PROMPT], device=on.device)
        for _ in range(n_tokens):
            logits = model(idx[:, -model.config.block_size :])[0][:, -1] / DRAWN.temperature
            logits[logits < logits.topk(DRAWN.top_k)[0][:, -1:]] = -torch.inf
            idx = torch.cat([idx, torch.multinomial(logits.softmax(-1), 1)], dim=1)

    return draw


def hugging_face_model(cfg):
    """GPT2LMHeadModel with the weights of random_model."""
    import transformers

    transformers.logging.set_verbosity_error()
    weights = random_model(cfg).state_dict()
    config = transformers.GPT2Config(
        n_layer=cfg.n_layer, n_head=cfg.n_head, n_embd=cfg.n_embd, n_positions=cfg.block_size, vocab_size=50304
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    matrices = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # which it keeps transposed
    weights = {name: w.T if name.endswith(matrices) else w for name, w in weights.items()}
    model.load_state_dict(weights | {n: torch.zeros_like(p) for n, p in model.named_parameters() if n.endswith("bias")})
    return model


def hugging_face_generate(cfg, device: torch.device):
    """draw(n_tokens, n_samples) with GPT2LMHeadModel.generate and its cache, in float32, on the same weights."""
    model = hugging_face_model(cfg).to(device)
    idx = torch.tensor([PROMPT], device=device)

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


def bytes_a_token(cfg, dtype: torch.dtype) -> int:
    """Of the weights that one new token must be multiplied with: the blocks', and the head's rows, in one dtype."""
    return (12 * cfg.n_layer * cfg.n_embd**2 + len(FAMILIAR) * cfg.n_embd) * dtype.itemsize


def seconds_to_the_first_token(model: GPT, repeats: int) -> tuple[float, float]:
    """Median seconds of (sample.py from its start to its first token, importing torch and reading the same weights)."""
    here = Path(__file__).resolve().parent
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(
            Path(folder) / "ckpt.pt",
            model=model,
            optimizers=[torch.optim.AdamW(model.parameters())],
            iter_num=0,
            best_val_loss=1e9,
            config={"dataset": "none"},
            tokenizer_description=tokenizer.GPT2_DESCRIPTION,
            corpus_ids=FAMILIAR.tolist(),
            loop={},
        )
        ours = [sys.executable, str(here / "sample.py"), f"--out_dir={folder}", "--start=The morning"]
        bare = f"import torch; torch.load({folder + '/ckpt.pt'!r}, weights_only=True); print('read', flush=True)"
        times = []
        for _ in range(repeats + 1):
            times.append(
                [seconds_to_say(ours, len("The morning") + 1), seconds_to_say([sys.executable, "-c", bare], 1)]
            )
    return tuple(statistics.median(column) for column in zip(*times[1:], strict=True))


def seconds_to_say(command: list[str], n_characters: int) -> float:
    """Seconds from a command's start until it has printed so many characters."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdout.read(n_characters)
        seconds = time.perf_counter() - began
        process.kill()
    return seconds


def report(cfg, peer_of: Callable, repeats: int, on: Runtime) -> None:
    """Prints the tables. peer_of: bench.Peer; cfg: train.Settings."""
    model = random_model(cfg).to(on.device)
    draw, uncached = our_generate(model, on.dtype), uncached_generate(model, on)
    with peer_of(on, hugging_face_generate, cfg, on.device) as theirs:
        rounds = []
        for _ in range(repeats + 1):
            rounds.append(
                [
                    timed(draw, SHORT) - timed(draw, 1),
                    theirs(SHORT) - theirs(1),
                    timed(draw, SHORT, MOST) - timed(draw, 1, MOST),
                    theirs(SHORT, MOST) - theirs(1, MOST),
                    timed(draw, LONG) - timed(draw, 1),
                    timed(draw, 1),
                    theirs(1),
                ]
            )
        one, hf_one, eight, hf_eight, long, first, hf_first = map(statistics.median, zip(*rounds[1:], strict=True))
    slow = [timed(uncached, LONG) - timed(uncached, 1) for _ in range(min(repeats, 3))]
    slow, bandwidth = statistics.median(slow), read_bandwidth(on.device)
    floor = bytes_a_token(cfg, on.dtype) / bandwidth
    print(f"\nread bandwidth {bandwidth / 1e9:,.0f} GB/s; a token reads {bytes_a_token(cfg, on.dtype) / 1e6:.0f} MB")
    print("\n| sampling | llm, tokens/s | beside | tokens/s | ratio |\n|---|---|---|---|---|")
    rate, many = SHORT - 1, MOST * (SHORT - 1)
    rows = [
        (f"1 sample, {SHORT} tokens", rate / one, "Hugging Face, float32, cache", rate / hf_one),
        (f"{MOST} samples, {SHORT} tokens", many / eight, "Hugging Face, float32, cache", many / hf_eight),
        (f"1 sample, {LONG} tokens", (LONG - 1) / long, "without a cache, float32", (LONG - 1) / slow),
        (f"1 sample, {SHORT} tokens", rate / one, "what memory allows", 1 / floor),
    ]
    for what, ours, beside, other in rows:
        print(f"| {what} | {ours:,.0f} | {beside} | {other:,.0f} | {ours / other:.1f} |")
    print(f"\nfirst token of {len(PROMPT)}: {first * 1e3:.0f} ms, Hugging Face {hf_first * 1e3:.0f} ms")
    ours, bare = seconds_to_the_first_token(model.cpu(), repeats)
    print(f"sample.py to its first token: {ours:.2f} s, import torch and reading the weights {bare:.2f} s", end="")
    print(f", ratio {ours / bare:.2f}")


def timed(draw, *arguments) -> float:
    """Seconds of a call; the last token is chosen on the CPU, so there is nothing to wait for."""
    began = time.perf_counter()
    draw(*arguments)
    return time.perf_counter() - began
