"""Decoding with fixed shapes, so that on a GPU each step is one launch of a CUDA graph.

There, the arithmetic of a new token takes less time than the launches of its some 90 kernels one after the other. A
CUDA graph launches all of them at once, but only with the shapes and the addresses that it was captured with. So the KV
caches of up to MAX_SLOTS samples live in one tensor, a step reads a fixed number of tokens of a fixed number of
samples, and what changes from step to step (tokens, positions, caches) stands in one small tensor.

`FixedDecoder.step` is the network of reader.py in these shapes; in tests, it must agree with `Reader.decode` on CPUs.
Letters in shape comments: see reader.py; n samples and w tokens of each in a step, S = n * w, P positions of a cache.
"""

import functools
import weakref
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from llm.runtime import notice

MAX_SLOTS = 8  # caches in the common tensor: as many samples as a step reads
SAMPLES, WIDTHS = (1, 2, 4, 8), (2, 4, 8, 16)  # of a step; never a single token, see reader.BATCH_SIZES
SPARE = 8  # positions after the context, where padding is stored; 8, because attention kernels want multiples


class FixedDecoder:
    """A reader's caches in one tensor, and steps of fixed shapes over them; on CUDA, each shape is captured once.

    It holds no reference to its reader, which holds it: both are freed at once, and with them the device's memory.
    """

    def __init__(self, reader):
        """reader: a reader.Reader, as in all methods."""
        c = reader.config
        shape = (MAX_SLOTS, c.n_layer, 2, c.n_head, c.block_size + SPARE, c.n_embd // c.n_head)
        # zeros, because a masked position counts as 0 times what stands there, which must be a finite number
        self.pool = torch.zeros(shape, dtype=reader.dtype, device=reader.device)
        self.free = list(range(MAX_SLOTS))
        self.graphs: dict[tuple[int, int], Callable[[torch.Tensor], torch.Tensor] | None] = {}  # (n, w) -> its graph

    def take_slot(self, cache) -> int | None:
        """A slot for this reader.KVCache until it is deleted; None if all are taken."""
        if not self.free:
            return None
        slot = self.free.pop()
        weakref.finalize(cache, self.free.append, slot).atexit = False
        return slot

    def decode(self, reader, tokens: list[list[int]], caches: list) -> list[np.ndarray]:
        """As Reader.decode; every cache must have a slot."""
        block_size, longest = reader.config.block_size, max(map(len, tokens))
        n, w = next(n for n in SAMPLES if n >= len(tokens)), next(w for w in WIDTHS if w >= longest)
        inputs = np.zeros((3, n, w), dtype=np.int64)
        inputs[1] = block_size  # the position of padding
        for k, (ids, cache) in enumerate(zip(tokens, caches, strict=True)):
            end = cache.length + len(ids)
            assert end <= block_size, f"{end} tokens, but block_size is {block_size}"
            inputs[0, k, : len(ids)], inputs[1, k, : len(ids)] = ids, range(cache.length, end)
            inputs[2, k] = cache.slot
            cache.length = end
        logits = self._run(reader, torch.from_numpy(inputs).to(reader.device))
        rows = logits.view(n, w, -1)[: len(tokens), :longest].cpu().numpy()
        return [row[: len(ids)] for row, ids in zip(rows, tokens, strict=True)]

    def step(self, reader, inputs: torch.Tensor) -> torch.Tensor:
        """inputs (3, n, w) int64: tokens, their positions, the slots of their caches -> logits (S, V').

        Stores the keys and values of all tokens, then attends from each to its cache up to its own position.
        """
        _, n, w = inputs.shape
        nh, C, block_size = reader.config.n_head, reader.config.n_embd, reader.config.block_size
        idx, positions, slots = inputs.flatten(1).unbind(0)  # each (S,)
        sample_slots = inputs[2, :, 0]  # (n,)
        mask = torch.arange(block_size + SPARE, device=inputs.device) <= positions.view(n, 1, w, 1)  # (n, 1, w, P)

        def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
            qkv = qkv.to(self.pool.dtype).view(n * w, 3, nh, C // nh)
            keys_values = self.pool[:, layer]  # (MAX_SLOTS, 2, nh, P, hs)
            keys_values[slots, :, :, positions] = qkv[:, 1:]  # (S, 2, nh, hs)
            q = qkv[:, 0].view(n, w, nh, C // nh).transpose(1, 2)  # (n, nh, w, hs)
            k, v = keys_values[sample_slots].unbind(1)  # each (n, nh, P, hs)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return y.transpose(1, 2).reshape(n * w, C)

        x = reader.blocks_output(idx, positions.clamp(max=block_size - 1), attend)  # (S, C)
        return reader.logits(x)

    def _run(self, reader, inputs: torch.Tensor) -> torch.Tensor:
        """`step`, by the graph of the inputs' shape if there is one."""
        shape = tuple(inputs.shape[1:])
        if shape not in self.graphs:
            self.graphs[shape] = graph_of(functools.partial(self.step, reader), inputs)
        graph = self.graphs[shape]
        return graph(inputs) if graph else self.step(reader, inputs)


def captured(step: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> Callable:
    """The step as a CUDA graph for inputs of this shape; its result is overwritten by the next call."""
    static = inputs.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # the first calls choose kernels and allocate; the same step again changes nothing
        for _ in range(3):
            step(static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        output = step(static)

    def replay(inputs: torch.Tensor) -> torch.Tensor:
        static.copy_(inputs)
        graph.replay()
        return output

    return replay


def graph_of(step: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> Callable | None:
    """The step as a CUDA graph; None on other devices and, with one warning, where capturing does not work."""
    if inputs.device.type != "cuda":
        return None
    try:
        return captured(step, inputs)
    except RuntimeError as e:
        reason = (str(e).strip() or type(e).__name__).splitlines()[0][:160]
        notice(f"a CUDA graph does not work here, going on without it ({reason})")
        return None
