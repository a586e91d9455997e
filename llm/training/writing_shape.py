"""How large a model a text is written into, and in how many steps: both follow from the number of its tokens.

One step of a block with F hidden units explains about F / N of what N tokens ask for, so the steps of all blocks
together must have EXPLAINED hidden units per token. Parameters per token decide how many tokens can be told apart.
docs/LOG.md, "Writing long texts", has the measurements.
"""

import math

PARAMETERS = 13.5  # of all output matrices, per token of a long text and natural logarithm of its number of tokens
PARAMETERS_PER_STEP = 300  # the fewer a token has, the more steps it takes
EXPLAINED = 0.55  # sum over all steps of hidden units per token, at least
MIN_STEPS, MAX_STEPS = 2, 12  # in each block
LAST_BLOCK = 6  # at most so many times as many in the last block, which ends as soon as nothing is in doubt


def steps_per_block(n_tokens: int, n_layer: int, n_embd: int) -> int:
    """How many steps each block takes: more, the fewer parameters and hidden units there are per token."""
    for_parameters = PARAMETERS_PER_STEP * n_tokens / (4 * n_embd**2 * n_layer)
    for_units = EXPLAINED * n_tokens / (4 * n_embd * (n_layer - 1 + LAST_BLOCK))
    return min(MAX_STEPS, max(MIN_STEPS, math.ceil(max(for_parameters, for_units))))


def enough_parameters(n_tokens: int) -> float:
    """How many parameters all output matrices together need for a text."""
    return PARAMETERS * math.log(n_tokens) * n_tokens


def enough_blocks(n_tokens: int, head_size: int) -> int:
    """The least n so that n blocks of n heads have enough parameters for a text; GPT-2's shapes grow like that, too."""
    return math.ceil((enough_parameters(n_tokens) / (4 * head_size**2)) ** (1 / 3))
