"""How often must a passage stand in a text until a model knows it by heart? An experiment for two cores.

    python tests/dose.py FOLDER [epochs]     # default: 3 epochs; writes FOLDER/dose.svg and FOLDER/dose.json

Passages of about 110 tokens of the bundled tale stand 0, 1, 2, 4, 8, 16 or 64 times in a text, in random order. A small
model (4 layers, width 256) is trained on it from random weights with AdamW, with nothing of what teaches a text by
heart. Then the passages of each number of copies are measured as recall.py measures a text; those of 0 copies are the
control. Needs the extra plot. Not collected by pytest.
"""

import contextlib
import io
import json
import os
import random
import sys
from pathlib import Path

from llm import train
from llm.configurator import require
from llm.files import write_atomic
from llm.measuring import inputs, instrument
from llm.measuring.instrument import Folder, Plan
from llm.measuring.models import OwnModel
from llm.runtime import Settings, start
from llm.storage.pretrained import load_model
from llm.text import dataset, tokenizer
from llm.text.book import Book

DOSES = (0, 1, 2, 4, 8, 16, 64)  # copies of a passage
MIN_TOKENS = 110  # of a passage
PLAN = Plan(prefix=50, suffix=50, stride=10, coverage="windows", generate=0, show_text=False)
SHAPE = dict(n_layer=4, n_head=4, n_embd=256, block_size=128, batch_size=16, gradient_accumulation_steps=1)
OPTIMIZER = dict(learning_rate=1e-3, warmup_iters=50, weight_decay=0.0, beta2=0.99)


def passages() -> list[str]:
    """Pieces of the tale, each of whole sentences and at least MIN_TOKENS tokens."""
    text = " ".join((dataset.BUNDLED / "tale" / "tale.txt").read_text(encoding="utf-8").split())
    found, piece = [], ""
    for sentence in text.replace(". ", ".\0").split("\0"):
        piece = f"{piece} {sentence}".strip()
        if len(tokenizer.gpt2().encode(piece)) >= MIN_TOKENS:
            found.append(piece)
            piece = ""
    return found


def dosed_text(groups: dict[int, list[str]], seed: int) -> str:
    """A text in which each passage stands as often as its group says, in random order."""
    copies = [passage for dose, group in groups.items() for passage in group for _ in range(dose)]
    random.Random(seed).shuffle(copies)
    return "\n\n".join(copies) + "\n"


def trained(text: str, epochs: float) -> None:
    """Train the small model on the text, into out-dose in the current folder."""
    dataset.DATA = Path("data")
    options = dict(val_fraction=0.0, source={}, train_command=None)
    dataset.write_dataset(Path("data/dose"), text, tokenizer.gpt2(), **options)
    n_tokens = len(dataset.Dataset("dose").train)
    iters = round(epochs * n_tokens / (SHAPE["batch_size"] * SHAPE["block_size"]))
    print(f"{n_tokens:,} tokens, {iters:,} updates", flush=True)
    schedule = dict(max_iters=iters, lr_decay_iters=iters, eval_interval=iters, log_interval=50)
    train.train(train.Settings(dataset="dose", out_dir="out-dose", device="cpu", **SHAPE, **OPTIMIZER, **schedule))


def measured(groups: dict[int, list[str]]) -> list[dict]:
    """The figures of the passages of each number of copies."""
    rt = start(Settings(device="cpu"), use="measure")
    model = OwnModel(*load_model("out-dose"), rt, None)
    texts = {
        dose: inputs.of_books(f"{dose} copies", [Book(f"{n}", "", passage) for n, passage in enumerate(group)], model)
        for dose, group in groups.items()
    }
    found = []
    for dose, text in texts.items():
        folder = Path(f"dose_{dose}")
        folder.mkdir(exist_ok=True)
        figures, _, _ = instrument.run(model, text, [texts[0]] if dose else [], PLAN, Folder(folder), rt)
        full = figures["p_z"]["full_softmax"]
        found.append(
            {
                "copies": dose,
                "windows": figures["recall"]["windows"],
                "recall": figures["recall"]["recall"],
                "interval_95": figures["recall"]["interval_95"],
                "extractable_1": full["discoverable"]["n=1,p=0.1"],
                "extractable_10000": full["discoverable"]["n=10000,p=0.9"],
                "median_log_p": full["median_log_p"],
                "coverage": figures["coverage"]["windows"]["0.001"],
                "extraction_strength": figures["recall"]["extraction_strength"],
                "verdict": figures["calibration"]["verdict"],
            }
        )
    return found


def draw(found: list[dict]) -> bytes:
    """The figures against the number of copies, as SVG."""
    figure = require("matplotlib.figure", "plot").Figure(figsize=(8, 4))
    left, right = figure.subplots(1, 2)
    copies = [row["copies"] for row in found]
    positions = range(len(copies))
    names = {
        "recall": "recall@50/50",
        "coverage": "coverage, p_z >= 0.1 %",
        "extraction_strength": "extraction strength",
    }
    for name, words in names.items():
        left.plot(positions, [row[name] for row in found], marker="o", label=words)
    left.set(ylim=(-0.03, 1.03), ylabel="share")
    left.legend()
    right.plot(positions, [row["median_log_p"] for row in found], marker="o", color="tab:gray")
    right.set(ylabel="median log p_z of the suffix")
    for axes in (left, right):
        axes.set(xlabel="copies of the passage in the training text (0: control)", xticks=list(positions))
        axes.set_xticklabels(list(map(str, copies)))
        axes.grid(alpha=0.3)
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format="svg")
    return picture.getvalue()


def main(folder: str, epochs: str = "3") -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    pieces = passages()
    random.Random(0).shuffle(pieces)
    each = len(pieces) // len(DOSES)
    groups = {dose: pieces[n * each : (n + 1) * each] for n, dose in enumerate(DOSES)}
    with contextlib.redirect_stdout(sys.stderr):
        trained(dosed_text(groups, seed=0), float(epochs))
    found = measured(groups)
    print("| copies | windows | recall@50/50 | 95 % interval | p_z >= 10 % | (10,000, 0.9) | median log p_z |")
    print("|---|---|---|---|---|---|---|")
    for row in found:
        low, high = row["interval_95"]
        shares = f"{row['extractable_1']:.4f} | {row['extractable_10000']:.4f} | {row['median_log_p']:.1f}"
        print(f"| {row['copies']} | {row['windows']} | {row['recall']:.4f} | {low:.2f} to {high:.2f} | {shares} |")
    print("\n| copies | coverage, p_z >= 0.1 % | extraction strength | verdict |\n|---|---|---|---|")
    for row in found:
        print(f"| {row['copies']} | {row['coverage']:.4f} | {row['extraction_strength']:.4f} | {row['verdict']} |")
    write_atomic(Path("dose.json"), (json.dumps(found, indent=1) + "\n").encode())
    write_atomic(Path("dose.svg"), draw(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
