"""The next token, and the next: a KV cache, the choice of a token, and generation as an iterator.

What happens when the context is full: GPT-2's positions are learned, so a cached key belongs to its place and the
context cannot slide by one. Instead the older half is forgotten: the newest block_size // 2 tokens are read anew from
place 0, and generation goes on until the context is full again. `context_start` is that rule, the same with the cache
and without it. A prompt longer than the context is cropped to its last block_size tokens.
"""

from collections.abc import Iterator

import torch

from llm.model import GPT


class KVCache:
    """Keys and values of the tokens read so far, preallocated: (n_layer, B, nh, block_size, hs) each."""

    def __init__(self, model: GPT, batch_size: int, dtype: torch.dtype):
        c, device = model.config, model.lm_head.weight.device
        shape = (c.n_layer, batch_size, c.n_head, c.block_size, c.n_embd // c.n_head)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0  # tokens held; the model adds to it once all layers have appended

    def append(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores one layer's new keys and values (B, nh, T, hs); returns all of them (B, nh, length + T, hs)."""
        end = self.length + k.size(2)
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


def context_start(prompt_length: int, length: int, block_size: int) -> int:
    """Index of the first token that the model sees when it chooses token number `length`.

    For block_size 8 and a prompt of 3: 0 up to length 8, then 9 - 4 = 5 up to length 13, then 14 - 4 = 10, ...
    """
    start, kept = max(0, prompt_length - block_size), max(1, block_size // 2)
    if length - start > block_size:
        cycle = block_size + 1 - kept  # tokens from one forgetting to the next
        start += (length - start - block_size - 1) // cycle * cycle + cycle
    return start


def choose(logits: torch.Tensor, *, temperature: float, top_k: int | None, generator: torch.Generator | None) -> int:
    """An index into logits (V,): the largest at temperature 0, else drawn from softmax(logits / temperature) over the
    top_k largest (None or 0 = all). The draw is made on the CPU, so that a seed means the same on every device."""
    if temperature == 0:
        return int(logits.argmax())
    logits = logits.float().cpu() / temperature
    if top_k and top_k < len(logits):
        logits, indices = logits.topk(top_k)
    else:
        indices = torch.arange(len(logits))
    drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)
    return int(indices[drawn])


def exact_logits(hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """hidden (..., C) times the rows of head (V', C) in float32, whatever autocast says: (..., V').

    In bfloat16, logits of 16 to 32 are multiples of 1/8, so that the largest would often be a tie.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        return hidden.float() @ head.float().T


def drawable_ids(corpus_ids: list[int] | None, vocab_size: int) -> torch.Tensor:
    """The ids that may be generated: those of the corpus, else all of the tokenizer's (never a padded row)."""
    return torch.tensor(corpus_ids) if corpus_ids else torch.arange(vocab_size)


@torch.inference_mode()
def generate(
    model: GPT,
    prompt: list[int],
    *,
    max_new_tokens: int,
    drawable: torch.Tensor,
    temperature: float = 0.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
    end_of_text: int | None = None,
    use_cache: bool = True,
) -> Iterator[int]:
    """Yields up to max_new_tokens ids that follow the prompt (at least one id); ends early before end_of_text.

    drawable: (V',) int64, see `drawable_ids`; only these rows of the output table are computed.
    """
    assert prompt, "the prompt needs at least one token"
    block_size, device = model.config.block_size, model.lm_head.weight.device
    head = model.lm_head.weight[drawable.to(device)]  # (V', C)
    ids, start, cache = list(prompt), None, None
    for _ in range(max_new_tokens):
        first = context_start(len(prompt), len(ids), block_size)
        if first != start or not use_cache:
            start, seen = first, first
            dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else head.dtype
            cache = KVCache(model, 1, dtype) if use_cache else None
        hidden = model.hidden(torch.tensor([ids[seen:]], device=device), cache)  # (1, T, C)
        seen = len(ids)
        logits = exact_logits(hidden[0, -1], head)  # (V',)
        token = int(drawable[choose(logits, temperature=temperature, top_k=top_k, generator=generator)])
        if token == end_of_text:
            return
        ids.append(token)
        yield token
