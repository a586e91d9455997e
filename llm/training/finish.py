"""The end of a run: what the model knows now, and what to type next. `cfg` is train.Settings.

Fine-tuning bends a model that knew something else: there the loss on a text that is not the book, a piece of general
English, says what it cost.
"""

from pathlib import Path

import numpy as np
import torch

from llm import runtime
from llm.configurator import command
from llm.model import GPT
from llm.reading import recall
from llm.runtime import Runtime
from llm.text.dataset import Dataset
from llm.training.evaluation import evaluate_loss


def first_words(data: Dataset) -> str:
    """The beginning of a sentence of the text, as a prompt: about 30 characters of its first long line."""
    lines = data.encoder.decode(data.train.tokens(0, 2000).tolist()).splitlines()
    line = max((line.strip() for line in lines), key=lambda line: min(len(line), 60))
    return line if len(line) <= 30 else line[:31].rsplit(" ", 1)[0][:30]


def knowledge(model: GPT, data: Dataset, cfg, *, allowed: torch.Tensor, rt: Runtime) -> dict[str, float]:
    """Of a model that is fine-tuned: recall of a few windows of the book, and the loss on the control text."""
    figures = {}
    if not recall.recall_obstacle(model.config.block_size, len(data.train)):
        starts = recall.sample_starts(data.train)
        figures["recall"] = recall.measure(model, data.train, starts, allowed=allowed, rt=rt).share
    if control := recall.find_control(None, data, data.encoder):
        figures["control_loss"] = evaluate_loss(model, control[1], cfg, rt)
    return figures


def finish(
    model: GPT,
    cfg,
    *,
    allowed: torch.Tensor,
    name: str,
    step: int,
    known: np.ndarray | None,
    before: dict | None,
) -> None:
    """Measures recall on the whole text, as recall.py does with checkpoint `name`; prints it and what to type next.

    known: recall.examine's answer for the whole text, where it was asked already. before: from `knowledge`, at the
    beginning of fine-tuning.
    """
    data = Dataset(cfg.dataset)  # its tokens as ids, whatever it was trained over
    rt = runtime.start(cfg, backend=cfg.backend, use="measure")
    lines, commands = [], []
    if not recall.recall_obstacle(model.config.block_size, len(data.train)):
        control = recall.find_control(None, data, data.encoder)
        lines, figures = recall.report(model, data, allowed=allowed, rt=rt, control=control, known=known)
        if before and control:
            figures |= {"before": before, "control_loss": evaluate_loss(model, control[1], cfg, rt)}
            lines[:0] = [
                f"learned: recall {before['recall']:.4f} before, {figures['recall']:.4f} now; forgotten: loss on "
                f"{control[0]} {before['control_loss']:.3f} before, {figures['control_loss']:.3f} now"
            ]
        if rt.is_main:
            recall.write(Path(cfg.out_dir), figures, checkpoint_name=name, step=step, dataset=data.name)
            commands = [command("recall.py", f"--out_dir={cfg.out_dir}")]
    if rt.is_main:
        commands = [command("sample.py", f"--out_dir={cfg.out_dir}", f"--start={first_words(data)}"), *commands]
        print("\n".join([*lines, "Now type:", *(f"  {line}" for line in commands)]))
