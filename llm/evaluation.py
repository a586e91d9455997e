"""What a run is judged by: its loss over fixed batches and, at its end, recall of the whole text.

`cfg` is train.Settings.
"""

from pathlib import Path

import numpy as np
import torch

from llm import recall, runtime
from llm.configurator import UserError, command
from llm.dataset import Dataset, Split, evaluation_batches
from llm.generate import drawable_ids
from llm.model import GPT
from llm.runtime import Runtime
from llm.tokenizer import Tokenizer


@torch.inference_mode()
def evaluate_loss(model: GPT, split: Split, cfg, on: Runtime) -> float:
    """Mean loss in nats a token over fixed batches of a split, all ranks together."""
    model.eval()
    total = count = 0.0
    for x, y in evaluation_batches(split, model.config.block_size, cfg.batch_size, cfg.eval_iters, on):
        with on.autocast():
            loss = model(on.to_device(x), on.to_device(y))[1]
        targets = int((y != -1).sum())
        total, count = total + loss.item() * targets, count + targets
    total, count = on.sum(total, count)
    return total / count


def not_finite(what: str, iter_num: int, out_dir: Path) -> UserError:
    """The error for training that has broken down."""
    return UserError(
        f"{what} at step {iter_num:,}: the last checkpoint in {out_dir} is from before; lower learning_rate, raise "
        "warmup_iters, or use --dtype=float32"
    )


def first_words(data: Dataset, encoder: Tokenizer) -> str:
    """The beginning of a sentence of the text, as a prompt: about 30 characters of its first long line."""
    lines = encoder.decode(data.train.tokens(0, 2000).tolist()).splitlines()
    line = max((line.strip() for line in lines), key=lambda line: min(len(line), 60))
    return line if len(line) <= 30 else line[:31].rsplit(" ", 1)[0][:30]


def finish(model: GPT, cfg, *, name: str, iter_num: int, known: np.ndarray | None) -> None:
    """Measures recall on the whole text, as recall.py does with checkpoint `name`; prints it and what to type next.

    known: recall.examine's answer for the whole text, where it was asked already.
    """
    data = Dataset(cfg.dataset)
    encoder = data.encoder
    on = runtime.start(cfg, backend=cfg.backend, use="measure")
    lines, commands = [], []
    if not recall.obstacle(model.config.block_size, len(data.train)):
        drawable = drawable_ids(data.ids, encoder.vocab_size)
        control = recall.find_control(None, data, encoder)
        lines, figures = recall.report(model, encoder, data, drawable=drawable, on=on, control=control, known=known)
        if on.is_main:
            recall.write(Path(cfg.out_dir), figures, checkpoint_name=name, step=iter_num, dataset=data.name)
            commands = [command("recall.py", f"--out_dir={cfg.out_dir}")]
    if on.is_main:
        commands = [
            command("sample.py", f"--out_dir={cfg.out_dir}", f"--start={first_words(data, encoder)}"),
            *commands,
        ]
        print("\n".join([*lines, "Now type:", *(f"  {line}" for line in commands)]))
