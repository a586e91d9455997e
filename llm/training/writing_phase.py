"""Writing as the first phase of a run: when it applies, its progress, saving, resuming, and what follows it."""

import dataclasses

import numpy as np
import torch

from llm.configurator import UserError
from llm.model import GPTConfig
from llm.network.copying_heads import copying_obstacle
from llm.network.corpus_softmax import CompactGPT
from llm.network.sharding import is_sharded
from llm.reading.recall import recall_obstacle
from llm.runtime import notice, seed_for
from llm.text.dataset import Dataset
from llm.training import start, writing
from llm.training.run import Run
from llm.training.writing_shape import enough_blocks, enough_parameters
from llm.training.writing_solver import Step

ROUNDS = 4  # in which the last block may go on if the text is not known well enough
ENOUGH = 0.75  # share of the parameters that a text needs from which on it is worth trying
GRADIENT_TOKENS = 60_000  # of a text that gradient descent learns in minutes; of a longer one, what is written is kept
SAVE_INTERVAL = 180  # seconds of writing after which it is worth saving what is written


def writing_obstacle(
    config: GPTConfig, data: Dataset, *, target_recall: float | None, max_iters: int | None, shard: bool = False
) -> str:
    """Why a run cannot begin by writing the text in closed form, as a clause; "" if it can."""
    n_tokens, n_parameters = len(data.train), 4 * config.n_embd**2 * config.n_layer
    if data.val is not None:
        return f"{len(data.val):,} tokens are held out, to generalise on"
    if shard:
        return "shard=True spreads the weights over the processes"
    if max_iters is not None:
        return f"max_iters={max_iters} counts updates"
    if target_recall is None:
        return "without target_recall nothing says when it is done"
    if recall_obstacle(config.block_size, n_tokens):
        return "recall cannot be measured"
    if obstacle := copying_obstacle(config):
        return obstacle
    if n_parameters < ENOUGH * enough_parameters(n_tokens):
        size = config.n_embd // config.n_head
        return f"{n_tokens:,} tokens need max_n_embd={size * enough_blocks(n_tokens, size)}"
    return ""


def beginning(
    config: GPTConfig,
    weights: str,
    data: Dataset,
    *,
    target_recall: float | None,
    max_iters: int | None,
    max_n_embd: int | None,
    shard: bool = False,
) -> tuple[GPTConfig, str]:
    """(shape, weights) that a new run begins with: if it cannot write its text, look_back weights, with a notice."""
    if weights != "written":
        return config, weights
    larger = enlarged(config, len(data.train), max_n_embd)
    limits = dict(target_recall=target_recall, max_iters=max_iters, shard=shard)
    if obstacle := writing_obstacle(larger, data, **limits):
        notice(f"this text is not written in closed form, because {obstacle}: learning by gradient descent")
        return config, "look_back"
    return larger, weights


def enlarged(config: GPTConfig, n_tokens: int, max_n_embd: int | None) -> GPTConfig:
    """The shape in which a text of so many tokens is written: a long one needs more width, and as many more blocks."""
    size = config.n_embd // config.n_head
    n = min(enough_blocks(n_tokens, size), (max_n_embd or 0) // size)
    if n * size <= config.n_embd:
        return config
    return dataclasses.replace(config, n_layer=max(n, config.n_layer), n_head=n, n_embd=n * size)


def write_text(run: Run) -> bool:
    """Write the text into the model, going on where a resumed run stopped; run.stop.errors is set if that suffices.

    If it does not, the run ends there if the text is long; else its model is what gradient descent begins with:
    look-back weights. Returns whether the model is to be evaluated: not if a signal ended it, nor if a resumed run had
    ended and nothing was to be added.
    """
    progress, n_layer = run.progress, run.model.config.n_layer
    if is_sharded(run.model):
        raise UserError("this run writes its text in closed form, which --shard=True cannot go on with: leave it out")
    evaluated_at = progress.n_written if progress.stop_reason else None
    if run.stop.target is None:
        return evaluated_at is None
    tokens = torch.from_numpy(run.data.train.tokens(0, len(run.data.train)).astype(np.int64))
    while True:
        again = progress.n_written >= n_layer
        if again:
            with run.timer.measure("measuring"):
                if run.stop.target_reached(run.model):
                    return progress.n_written != evaluated_at
            if progress.n_written >= n_layer + ROUNDS:
                if len(tokens) <= GRADIENT_TOKENS:
                    give_up(run)
                    return True
                run.stop.given_up = f"target_recall={run.stop.target.goal} is out of reach of writing in this shape"
                return progress.n_written != evaluated_at
        progress.stop_reason = ""  # a run that had ended goes on, because its settings ask for more
        with run.timer.measure("writing"):
            finished = writing.write(
                run.model,
                tokens,
                run.rt,
                seed=seed_for(run.settings["seed"], max(0, progress.n_written - n_layer + 1)),
                first_block=progress.n_written,
                again=again,
                report=lambda step: report(run, step),
                block_written=lambda n, again=again: save_block(run, progress.n_written + 1 if again else n),
                interrupted=run.stop.interrupted,
            )
        if not finished:
            if run.log:  # the figures of the block that a resumed run writes anew
                run.log.rewind(progress.metrics_bytes)
            return False


def report(run: Run, step: Step) -> None:
    """Show a step and log its figures."""
    if run.rt.is_main:
        figures = dict(written_block=step.block, writing_loss=step.loss, known_tokens=step.known)
        counts = dict(writing_step=step.number, writing_steps=step.total)
        run.log.write(0, **figures, **counts, seconds=run.seconds())
        run.display.writing(step)
    if run.watched:
        run.watched.note(step.tokens.numpy(), (step.p > 0.5).cpu().numpy())
        run.watched.update(run.model)


def save_block(run: Run, n_written: int) -> None:
    """Note that so many blocks are written, each further round counting as one; save if that took long."""
    run.progress.n_written = n_written
    run.progress.metrics_bytes = run.log.length if run.log else 0
    if run.rt.is_main and run.seconds() - run.progress.seconds > SAVE_INTERVAL:  # progress.seconds: at the latest save
        with run.timer.measure("saving"):
            run.saver.save_latest()
            run.saver.warn()


def give_up(run: Run) -> None:
    """Begin training by gradient descent, as a run with look-back weights does."""
    notice(
        f"after {run.progress.n_written:,} blocks were written, target_recall={run.stop.target.goal} is not reached: "
        "learning by gradient descent instead"
    )
    run.progress.n_written = None
    torch.manual_seed(run.settings["seed"])
    compact_table = isinstance(run.model, CompactGPT)
    fresh = start.random_weights(run.model.config, run.data, corpus_softmax=compact_table, weights="look_back")
    run.model.load_state_dict(fresh.model.state_dict())
