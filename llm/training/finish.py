"""The end of a run: what the model knows now, and what to type next.

Fine-tuning changes a model that knew something else: there, the loss on a control text, a piece of general English,
says what was lost.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from llm.configurator import command
from llm.model import GPT
from llm.reading import recall
from llm.reading.generate import generate
from llm.reading.greedy import greedy_errors
from llm.reading.load import MAX_SEARCH_TOKENS
from llm.reading.prompt import encode_prompt
from llm.reading.reader import Reader
from llm.runtime import Runtime
from llm.terminal import visible
from llm.text.dataset import Dataset
from llm.training.evaluation import evaluate_loss

SHOWN = 40  # tokens that follow the suggested prompt on the screen
MAX_TRIES = 5  # suggested prompts that are really continued before giving up


def baseline(model: GPT, data: Dataset, *, allowed: torch.Tensor, rt: Runtime, batch_size: int) -> dict[str, float]:
    """What a pretrained model knows before it is fine-tuned: recall of some windows, loss on the control text."""
    figures = {}
    if not recall.recall_obstacle(model.config.block_size, len(data.train)):
        starts = recall.sample_starts(data.train)
        figures["recall"] = recall.measure(model, data.train, starts, allowed=allowed, rt=rt).share
    if control := recall.find_control(None, data, data.tokenizer):
        figures["control_loss"] = evaluate_loss(model, control[1], rt, batch_size=batch_size, eval_iters=None)
    return figures


def report_knowledge(
    model: GPT,
    data: Dataset,
    *,
    out_dir: Path,
    checkpoint_name: str,
    step: int,
    allowed: torch.Tensor,
    rt: Runtime,
    batch_size: int,
    errors: np.ndarray | None,
    baseline: dict[str, float] | None,
) -> None:
    """Measure recall on the whole text as recall.py does, write recall.json, print it and what to type next.

    errors: in every window of the text, if already known; baseline: of the model before fine-tuning. rt: the runtime of
    training; measurements use rt.measuring().
    """
    lines, commands = [], []
    if not recall.recall_obstacle(model.config.block_size, len(data.train)):
        if errors is None:
            spans = recall.window_spans(recall.split_starts(data.train))
            errors = greedy_errors(model, data.train, spans, allowed=allowed, rt=rt.measuring())
        control = recall.find_control(None, data, data.tokenizer)
        options = dict(allowed=allowed, rt=rt.measuring(), control=control, errors=errors)
        lines, figures = recall.report(model, data, **options)
        if baseline and baseline.keys() >= {"recall", "control_loss"} and control:
            loss = evaluate_loss(model, control[1], rt.measuring(), batch_size=batch_size, eval_iters=None)
            figures |= {"before": baseline, "control_loss": loss}
            lines[:0] = [
                f"learned: recall {baseline['recall']:.4f} before, {figures['recall']:.4f} now; forgotten: loss on "
                f"{control[0]} {baseline['control_loss']:.3f} before, {loss:.3f} now"
            ]
        if rt.is_main:
            recall.write(out_dir, figures, checkpoint_name=checkpoint_name, step=step, dataset=data.name)
        if len(data.train) <= recall.MAX_COMPARED:  # which recall.py measures
            commands = [command("recall.py", f"--out_dir={out_dir}")]
    if rt.is_main:
        lines += ["Now type:", *suggestion(model, data, out_dir, allowed, rt, errors), *(f"  {c}" for c in commands)]
        print(visible("\n".join(lines)))


def suggestion(
    model: GPT, data: Dataset, out_dir: Path, allowed: torch.Tensor, rt: Runtime, errors: np.ndarray | None
) -> list[str]:
    """A command that samples from the model, and what it prints: a prompt that the model continues as the book does.

    Without such a prompt, a command with the first words of the text.
    """
    reader = Reader(model, allowed, rt.dtype)
    searched = errors is not None and len(data.train) <= MAX_SEARCH_TOKENS
    prompts = known_prompts(data, errors) if searched else iter(())
    for _, (prompt, ids, following) in zip(range(MAX_TRIES), prompts, strict=False):
        drawn = [token for _, token in generate(reader, ids, max_new_tokens=SHOWN)]
        if drawn == following:
            shown = " ".join(data.tokenizer.decode([*ids, *drawn]).split())
            return [sample_command(out_dir, prompt), f"    {shown} ..."]
    return [sample_command(out_dir, first_words(data))]


def sample_command(out_dir: Path, prompt: str) -> str:
    return "  " + command("sample.py", f"--out_dir={out_dir}", f"--start={prompt}", "--temperature=0")


def known_prompts(data: Dataset, errors: np.ndarray) -> Iterator[tuple[str, list[int], list[int]]]:
    """(prompt as typed, its token ids, the SHOWN ids that follow) of windows that the model continues without error.

    Prompts have 8 to 16 tokens, begin and end with whole words, occur once in the text and are encoded as they stand
    there. Those that begin a sentence come first. errors: see `greedy.greedy_errors`.
    """
    tokenizer, text_ids = data.tokenizer, data.train.tokens(0, len(data.train))
    text = tokenizer.decode(text_ids.tolist())
    starts = recall.split_starts(data.train)
    starts = starts[~errors[:, recall.SHORT_PREFIX : 16 + SHOWN].any(1)]
    starts = recall.unique_prefixes(data.train, starts, recall.SHORT_PREFIX) if len(starts) else starts
    later = []
    for start in starts.tolist():
        before = tokenizer.decode(text_ids[max(0, start - 8) : start].tolist())
        for n in range(recall.SHORT_PREFIX, 17):
            ids, following = text_ids[start : start + n].tolist(), text_ids[start + n : start + n + SHOWN].tolist()
            piece, after = tokenizer.decode(ids), tokenizer.decode(following)
            prompt = piece.strip()
            begins_word = piece[:1].isspace() or not before or before[-1].isspace()
            if not (prompt.isprintable() and begins_word and after[:1].isspace()):
                continue
            if encode_prompt(tokenizer, prompt, text) != ids:
                continue
            if prompt[0].isupper() and before.rstrip()[-1:] in ".!?\"'”’":
                yield prompt, ids, following
            else:
                later.append((prompt, ids, following))
            break
    yield from later


def first_words(data: Dataset) -> str:
    """The beginning of the text's first long line, as a prompt of about 60 characters."""
    lines = data.tokenizer.decode(data.train.tokens(0, 2000).tolist()).splitlines()
    line = max((line.strip() for line in lines), key=lambda line: min(len(line), 80))
    return line if len(line) <= 60 else line[:61].rsplit(" ", 1)[0][:60]
