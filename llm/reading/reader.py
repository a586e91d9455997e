"""A trained model prepared for inference: it reads tokens into a KV cache and returns logits.

At batch size 1 a new token costs one read of every weight, so the time is memory bandwidth plus the overhead of some
90 calls from Python. Therefore each weight is stored once in the dtype of the products, on CPUs in oneDNN's own layout
(docs/LOG.md, "Packed weights for sampling"), and the network of model.py is written out here a second time, as plain
functions (docs/LOG.md, "Sampling without modules and autocast"). The arithmetic is that of torch.autocast, which the
model was trained with: products in the dtype, everything else in float32.

Letters in shape comments: see model.py; V' number of ids that may be generated, t tokens read by one sample in a step.
Not here: which token follows (generate.py).
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from llm.model import GPT, plain_attention
from llm.reading.decoding_graph import FixedDecoder
from llm.text.token_index import TokenIndex

# Numbers of rows that the products of `decode` may have; missing rows are padding. Never a single row: it would use
# another routine, which rounds differently, and a sample would depend on what is drawn beside it (docs/LOG.md, "At
# least two rows for reproducible samples")
BATCH_SIZES = (2, 4, 8, 16, 32, 64, 128)
MAX_BATCH = 8  # samples in one call of `decode`
MAX_DRAFT = 15  # tokens that a sample may read together with a new one, because they are likely to follow it
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class KVCache:
    """Keys and values of the tokens that one sample has read, preallocated: (2, nh, block_size, hs) for each layer.

    On CPUs in float32: attention from one token takes a quarter of the time that it takes in bfloat16 (docs/LOG.md,
    "float32 keys and values under bfloat16").
    """

    def __init__(self, reader: "Reader"):
        config, device = reader.config, reader.device
        self.length = 0  # tokens in the cache
        fixed = reader.fixed_decoder()
        self.slot = fixed.take_slot(self) if fixed else None  # None = memory of its own
        if self.slot is not None:
            self.layers = fixed.pool[self.slot].unbind(0)  # with some positions more
            return
        shape = (config.n_layer, 2, config.n_head, config.block_size, config.n_embd // config.n_head)
        dtype = torch.float32 if device.type == "cpu" else reader.dtype
        self.layers = torch.empty(shape, dtype=dtype, device=device).unbind(0)

    def copy_from(self, other: "KVCache") -> None:
        """Copy the other cache's content."""
        for layer, other_layer in zip(self.layers, other.layers, strict=True):
            layer[:, :, : other.length] = other_layer[:, :, : other.length]
        self.length = other.length


class Product:
    """A linear layer in `dtype`, x (..., in) -> (..., out), with GELU after it where asked.

    gelu: "tanh" or "none" (the exact function), see GPTConfig; None = no activation.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype, gelu: str | None = None):
        """weight: (out, in); bias: (out,) or None."""
        self.dtype, self.gelu = dtype, gelu
        self.weight = weight.detach().to(dtype)
        self.bias = None if bias is None else bias.detach().to(dtype)
        self.in_onednn = ONEDNN and weight.device.type == "cpu" and dtype != torch.float16
        if self.in_onednn:  # the two operators that torch's compiler packs weights with
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, BATCH_SIZES[0])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.dtype)
        if self.in_onednn:
            activation = ("gelu", [], self.gelu) if self.gelu else ("none", [], "")
            return torch.ops.mkldnn._linear_pointwise.default(x, self.weight, self.bias, *activation)
        x = F.linear(x, self.weight, self.bias)
        return F.gelu(x, approximate=self.gelu) if self.gelu else x


class Reader:
    """A GPT prepared for inference, and the book that its continuations are drafted from."""

    def __init__(
        self,
        model: GPT,
        allowed: torch.Tensor,
        dtype: torch.dtype,
        *,
        head_dtype: torch.dtype = torch.float32,
        book_ids: np.ndarray | TokenIndex | None = None,
        graphs: bool = True,
    ):
        """allowed: (V',) int64, the ids that may be generated (generate.allowed_ids); dtype: of the products.

        book_ids: the text that the model was trained on, from which generate.py drafts tokens; None = no drafts.
        head_dtype: float32 whatever the dtype, because bfloat16 logits of 16 to 32 are multiples of 1/8, so the largest
        would often be a tie. Only recall's quick pass, which needs no more than a guess, asks for another.
        graphs: on CUDA devices, decode by CUDA graphs.
        """

        def product(linear: nn.Linear, gelu: str | None = None) -> Product:
            return Product(linear.weight, linear.bias, dtype, gelu)

        def norm(layer: nn.LayerNorm) -> tuple:
            return layer.normalized_shape, layer.weight.detach(), None if layer.bias is None else layer.bias.detach()

        self.config, self.dtype, self.device = model.config, dtype, model.lm_head.weight.device
        parts = model.transformer
        self.wte, self.wpe, self.ln_f = parts.wte.weight.detach(), parts.wpe.weight.detach(), norm(parts.ln_f)
        self.blocks = [  # a written model's attention is silent in most blocks, and not computed there
            (
                (norm(block.ln_1), product(block.attn.c_attn), product(block.attn.c_proj))
                if block.attn.c_proj.weight.any() or block.attn.c_proj.bias is not None
                else None,
                (norm(block.ln_2), product(block.mlp.c_fc, model.config.gelu), product(block.mlp.c_proj)),
            )
            for block in parts.h
        ]
        self.allowed, self.book_ids = allowed.tolist(), book_ids
        self.index_of = {token: index for index, token in enumerate(self.allowed)}  # id -> index into the logits
        self.rows_of = model.rows_of  # ids -> rows of the token table, which may be compact while a model trains
        self.head = Product(model.lm_head.weight[self.rows_of(allowed.to(self.device))], None, head_dtype)
        self.graphs = graphs and self.device.type == "cuda"
        self.fixed: FixedDecoder | None = None  # made with the first cache: measurements have none

    def fixed_decoder(self) -> FixedDecoder | None:
        """What decodes with fixed shapes, by CUDA graphs; None = decode with the shapes of what is read."""
        if self.fixed is None and self.graphs:
            self.fixed = FixedDecoder(self)
        return self.fixed

    @torch.inference_mode()
    def prefill(self, ids: list[int], cache: KVCache) -> np.ndarray:
        """Read a whole context into the cache, from its first position on; return logits (V',) of the next token."""
        cache.length = 0
        return self.logits(self._read([ids], [cache], len(ids))[-1:])[0].cpu().numpy()

    @torch.inference_mode()
    def decode(self, tokens: list[list[int]], caches: list[KVCache]) -> list[np.ndarray]:
        """Read more tokens into each cache; return for each sample the logits (t, V') after each of its tokens.

        At most MAX_BATCH samples, of 1 to 1 + MAX_DRAFT tokens each.
        """
        if self.fixed and all(cache.slot is not None for cache in caches):
            return self.fixed.decode(self, tokens, caches)
        counts = [len(ids) for ids in tokens]
        size = next(size for size in BATCH_SIZES if size >= sum(counts))
        logits = self.logits(self._read(tokens, caches, size)).cpu().numpy()
        return np.split(logits[: sum(counts)], np.cumsum(counts)[:-1])

    @torch.inference_mode()
    def hidden(self, idx: torch.Tensor) -> torch.Tensor:
        """Final hidden states, the head's input, at every position of many windows: idx (B, T) -> (B, T, C) float32."""
        B, T = idx.shape
        nh, C = self.config.n_head, self.config.n_embd

        def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
            q, k, v = qkv.view(B, T, 3, nh, C // nh).permute(2, 0, 3, 1, 4).unbind(0)  # each (B, nh, T, hs)
            if self.device.type == "cpu":
                y = plain_attention(q, k, v, 0.0)
            else:
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return y.transpose(1, 2).reshape(B, T, C)

        return F.layer_norm(self.blocks_output(idx, torch.arange(T, device=self.device), attend), *self.ln_f)

    def _read(self, tokens: list[list[int]], caches: list[KVCache], size: int) -> torch.Tensor:
        """Read tokens into their caches; return the last block's output (size, C), padding rows last."""
        counts = [len(ids) for ids in tokens]
        ends = [cache.length + count for cache, count in zip(caches, counts, strict=True)]  # new lengths of the caches
        block_size = self.config.block_size
        assert max(ends) <= block_size, f"{max(ends)} tokens, but block_size is {block_size}"
        padding = [0] * (size - sum(counts))
        positions = [p for count, end in zip(counts, ends, strict=True) for p in range(end - count, end)]
        idx = torch.tensor([token for ids in tokens for token in ids] + padding, device=self.device)  # (size,)
        positions = torch.tensor(positions + padding, device=self.device)  # (size,)
        masks = [  # (t, end) bool: which cached tokens each new one attends to; None = a single new one, all of them
            torch.ones(count, end, dtype=torch.bool, device=self.device).tril(end - count) if count > 1 else None
            for count, end in zip(counts, ends, strict=True)
        ]
        x = self.blocks_output(idx, positions, lambda layer, qkv: self._attend(layer, qkv, caches, counts, masks))
        for cache, end in zip(caches, ends, strict=True):
            cache.length = end
        return x

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, V') from the last block's output (n, C)."""
        return self.head(F.layer_norm(x, *self.ln_f))

    def blocks_output(self, idx: torch.Tensor, positions: torch.Tensor, attend: Callable) -> torch.Tensor:
        """The last block's output (..., C) for idx (...). attend(layer, qkv): (..., 3C) -> (..., C)."""
        x = F.embedding(self.rows_of(idx), self.wte) + F.embedding(positions, self.wpe)
        for layer, (attention, (ln_2, c_fc, mlp_c_proj)) in enumerate(self.blocks):
            if attention:
                ln_1, c_attn, attn_c_proj = attention
                x = x + attn_c_proj(attend(layer, c_attn(F.layer_norm(x, *ln_1))))
            x = x + mlp_c_proj(c_fc(F.layer_norm(x, *ln_2)))
        return x

    def _attend(
        self, layer: int, qkv: torch.Tensor, caches: list[KVCache], counts: list[int], masks: list[torch.Tensor | None]
    ) -> torch.Tensor:
        """Store the new tokens' keys and values, and attend from them to all of their own cache.

        qkv: (size, 3C). Returns (size, C). One attention per cache, so that its result does not depend on the others.
        """
        nh, C = self.config.n_head, self.config.n_embd
        *parts, padding = qkv.to(caches[0].layers[0].dtype).split([*counts, len(qkv) - sum(counts)])
        outputs = []
        for part, cache, count, mask in zip(parts, caches, counts, masks, strict=True):
            keys_values, end = cache.layers[layer], cache.length + count
            new = part.view(count, 3, nh, C // nh).permute(1, 2, 0, 3)  # (3, nh, t, hs): q, k, v
            keys_values[:, :, cache.length : end] = new[1:]
            k, v = keys_values[:, None, :, :end]  # each (1, nh, end, hs)
            y = F.scaled_dot_product_attention(new[:1], k, v, attn_mask=mask)  # (1, nh, t, hs)
            outputs.append(y.transpose(1, 2).reshape(count, C))
        if len(padding) > 0:
            outputs.append(outputs[0].new_zeros(len(padding), C))
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]
