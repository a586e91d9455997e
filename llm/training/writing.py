"""Write a text into a GPT in closed form, without gradient descent: the way through its blocks.

A step costs the same per token however long the text is; a longer text gets a larger model (writing_shape.py). How far
back the heads copy follows from the text (writing_context.py). writing_solver.py has the derivation, and solves for one
block; writing_rows.py cuts the windows that it is solved for.
"""

from collections.abc import Callable

import torch

from llm.model import GPT
from llm.network.copying_heads import context_length, copy_further, later_offsets, set_copying_heads
from llm.runtime import Runtime, return_freed_memory, seed_for
from llm.training.writing_context import needed_context
from llm.training.writing_rows import chunks_of
from llm.training.writing_shape import LAST_BLOCK, steps_per_block
from llm.training.writing_solver import Solver, Step


@torch.no_grad()
def write(
    model: GPT,
    tokens: torch.Tensor,
    rt: Runtime,
    *,
    seed: int,
    first_block: int = 0,
    again: bool = False,
    report: Callable[[Step], None] = lambda step: None,
    block_written: Callable[[int], None] = lambda n: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> bool:
    """Write a text into a model whose shape passes copying_obstacle, in place. False if `interrupted` ended it.

    tokens: (N,) int64 ids of the text. first_block: blocks before it are written already, by an interrupted call with
    the same arguments. again: all blocks are written already, and the last one takes half as many steps again, on top
    of what it holds. block_written(n) is called when n blocks are written: from there a call can go on.

    Several ranks share the windows and add their sums, so that all of them hold the same model.
    """
    model.eval()
    blocks = model.transformer.h
    n_steps = steps_per_block(len(tokens), len(blocks), model.config.n_embd)
    first_block = len(blocks) - 1 if again else first_block
    n_last = n_steps * (LAST_BLOCK // 2 if again else LAST_BLOCK)
    total = n_last if again else n_steps * (len(blocks) - 1) + n_last
    shape = (len(blocks), model.config.n_head, needed_context(tokens.numpy()))
    if first_block == 0:
        set_copying_heads(model, torch.Generator().manual_seed(seed_for(seed, len(blocks))))
    chunks = chunks_of(model, tokens, rt, seed, context_length(*shape))
    solver = Solver(model, chunks, rt, report=report, interrupted=interrupted, total=total)
    copies_later = later_offsets(*shape)
    for n, block in enumerate(blocks):
        if n >= first_block and not again:
            block.mlp.c_proj.weight.zero_()
        generator = torch.Generator().manual_seed(seed_for(seed, n))
        if n in copies_later and n >= first_block:
            copy_further(model, n, copies_later[n], solver.mean_norm(), generator)
        if block.attn.c_proj.weight.any():  # the others are silent
            solver.add(lambda x, block=block: block.attn(block.ln_1(x)))
        steps = n_last if n + 1 == len(blocks) else n_steps
        if n >= first_block:
            units = block.mlp.c_fc.weight if again else solver.hidden_units(block, generator)
            if not solver.write_block(n, block, units, steps, generator):
                return False
            model.transformer.ln_f.weight.fill_(solver.gain)
            solver.gain = float(model.transformer.ln_f.weight[0])  # rounded, as a resumed run reads it
            block_written(n + 1)
        elif not again:
            solver.steps_done += steps
        solver.add(lambda x, block=block: block.mlp(block.ln_2(x)))
        return_freed_memory()
    return True
