"""A trained model made ready for reading: it takes tokens, keeps what it needs in a KV cache, says what follows.

A new token is multiplied with every weight of the model, so that what takes the time is reading the weights from
memory. Here each is stored once in the dtype of the products, and on CPUs in oneDNN's own layout, which spares it from
rearranging them for each token. The network is written out a second time, without modules, for what is left is the
time that Python and torch take to call some 90 operations (BENCHMARKS.md). The arithmetic is that of torch.autocast,
which the model was trained with: products in the dtype, everything else in float32.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from llm.model import GPT, plain_attention

# Rows of the products; what is missing is padding. One row would be multiplied by another routine than several, which
# rounds differently: a sample would depend on what is drawn beside it
BATCH_SIZES = (2, 4, 8, 16, 32, 64, 128)
MAX_BATCH = 8  # samples at once
MAX_DRAFT = 15  # tokens after a new one that a sample may read at once, because they are likely to follow
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class KVCache:
    """Keys and values of the tokens that one sample has read, preallocated: (2, nh, block_size, hs) for each layer.

    On CPUs in float32, for which attention to one token takes a third of the time that it takes in bfloat16.
    """

    def __init__(self, reader: "Reader"):
        c, device = reader.config, reader.device
        shape = (c.n_layer, 2, c.n_head, c.block_size, c.n_embd // c.n_head)
        dtype = torch.float32 if device.type == "cpu" else reader.dtype
        self.layers = torch.empty(shape, dtype=dtype, device=device).unbind(0)
        self.length = 0  # tokens held

    def copy_from(self, other: "KVCache") -> None:
        """Holds what the other one holds."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine[:, :, : other.length] = theirs[:, :, : other.length]
        self.length = other.length


class Product:
    """x (..., in) times a linear layer's weights, in `dtype`: (..., out); gelu: also GPT-2's activation ("tanh") or the
    exact one ("none"), see GPTConfig."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype, gelu: str | None = None):
        """weight: (out, in); bias: (out,) or None."""
        self.dtype, self.gelu = dtype, gelu
        self.weight, self.bias = weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype)
        self.in_onednn = ONEDNN and weight.device.type == "cpu" and dtype != torch.float16
        if self.in_onednn:  # the two operators that torch's compiler packs weights with
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, BATCH_SIZES[0])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.dtype)
        if self.in_onednn:
            after = ("gelu", [], self.gelu) if self.gelu else ("none", [], "")
            return torch.ops.mkldnn._linear_pointwise.default(x, self.weight, self.bias, *after)
        x = F.linear(x, self.weight, self.bias)
        return F.gelu(x, approximate=self.gelu) if self.gelu else x


class Reader:
    """Letters in shape comments: see model.py; V' the ids that may be drawn."""

    def __init__(
        self,
        model: GPT,
        allowed: torch.Tensor,
        dtype: torch.dtype,
        *,
        head_dtype: torch.dtype = torch.float32,
        book: np.ndarray | None = None,
    ):
        """drawable: (V',) int64, see generate.allowed_ids; dtype: of the products; book: the trained text's ids, from
        which generate.py guesses what follows.

        The logits are float32 whatever the dtype: in bfloat16, those of 16 to 32 are multiples of 1/8, so that the
        largest would often be a tie. Only recall.py asks for another head_dtype, where it needs no more than a guess.
        """

        def product(linear: nn.Linear, gelu: str | None = None) -> Product:
            return Product(linear.weight, linear.bias, dtype, gelu)

        def norm(layer: nn.LayerNorm) -> tuple:
            return layer.normalized_shape, layer.weight.detach(), None if layer.bias is None else layer.bias.detach()

        self.config, self.dtype, self.device = model.config, dtype, model.lm_head.weight.device
        parts = model.transformer
        self.wte, self.wpe, self.ln_f = parts.wte.weight.detach(), parts.wpe.weight.detach(), norm(parts.ln_f)
        self.blocks = [
            (norm(b.ln_1), product(b.attn.c_attn), product(b.attn.c_proj))
            + (norm(b.ln_2), product(b.mlp.c_fc, model.config.gelu), product(b.mlp.c_proj))
            for b in parts.h
        ]
        self.allowed, self.book = allowed.tolist(), book
        self.index_of = {token: index for index, token in enumerate(self.allowed)}
        self.head = Product(model.lm_head.weight[allowed.to(self.device)], None, head_dtype)

    @torch.inference_mode()
    def prefill(self, ids: list[int], cache: KVCache) -> np.ndarray:
        """Reads the tokens of a whole context into the cache, whatever it held: (V',) logits of what follows."""
        cache.length = 0
        return self._logits(self._read([ids], [cache], len(ids))[-1:])[0]

    @torch.inference_mode()
    def decode(self, tokens: list[list[int]], caches: list[KVCache]) -> list[np.ndarray]:
        """Reads t <= 1 + MAX_DRAFT more tokens into each of n <= MAX_BATCH caches: (t, V') logits for each, of what
        follows each of its tokens."""
        counts = [len(some) for some in tokens]
        size = next(size for size in BATCH_SIZES if size >= sum(counts))
        logits = self._logits(self._read(tokens, caches, size))
        return np.split(logits[: sum(counts)], np.cumsum(counts)[:-1])

    @torch.inference_mode()
    def hidden(self, idx: torch.Tensor) -> torch.Tensor:
        """What the head is multiplied with at every place of many windows: idx (B, T) -> (B, T, C), in float32."""
        B, T = idx.shape
        nh, C = self.config.n_head, self.config.n_embd

        def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
            q, k, v = qkv.view(B, T, 3, nh, C // nh).permute(2, 0, 3, 1, 4).unbind(0)  # each (B, nh, T, hs)
            if self.device.type == "cpu":
                y = plain_attention(q, k, v, 0.0)
            else:
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return y.transpose(1, 2).reshape(B, T, C)

        return F.layer_norm(self._blocks(idx, torch.arange(T, device=self.device), attend), *self.ln_f)

    def _read(self, tokens: list[list[int]], caches: list[KVCache], size: int) -> torch.Tensor:
        """(size, C), what the last block gives for all these tokens; rows beyond theirs are padding."""
        counts, ends = [len(some) for some in tokens], [c.length + len(t) for c, t in zip(caches, tokens, strict=True)]
        assert max(ends) <= self.config.block_size, f"{max(ends)} tokens in {self.config.block_size} places"
        padding = [0] * (size - sum(counts))
        places = [place for count, end in zip(counts, ends, strict=True) for place in range(end - count, end)]
        ids = [token for some in tokens for token in some]
        idx, places = (torch.tensor(numbers + padding, device=self.device) for numbers in (ids, places))
        masks = [  # (t, end): which held tokens each new one may look at; all if it is alone
            torch.ones(count, end, dtype=torch.bool, device=self.device).tril(end - count) if count > 1 else None
            for count, end in zip(counts, ends, strict=True)
        ]
        x = self._blocks(idx, places, lambda layer, qkv: self._attend(layer, qkv, caches, counts, masks))
        for cache, end in zip(caches, ends, strict=True):
            cache.length = end
        return x

    def _logits(self, x: torch.Tensor) -> np.ndarray:
        return self.head(F.layer_norm(x, *self.ln_f)).cpu().numpy()

    def _blocks(self, idx: torch.Tensor, places: torch.Tensor, attend: Callable) -> torch.Tensor:
        """(..., C), what the last block gives for idx (...). attend(layer, qkv): (..., 3C) -> (..., C)."""
        x = F.embedding(idx, self.wte) + F.embedding(places, self.wpe)
        for layer, (ln_1, c_attn, attn_c_proj, ln_2, c_fc, mlp_c_proj) in enumerate(self.blocks):
            x = x + attn_c_proj(attend(layer, c_attn(F.layer_norm(x, *ln_1))))
            x = x + mlp_c_proj(c_fc(F.layer_norm(x, *ln_2)))
        return x

    def _attend(
        self, layer: int, qkv: torch.Tensor, caches: list[KVCache], counts: list[int], masks: list[torch.Tensor | None]
    ) -> torch.Tensor:
        """Stores the keys and values of new tokens, and lets them look at all stored ones and themselves.

        qkv: (size, 3C). Returns (size, C). Each cache by itself, so that it does not depend on the others.
        """
        nh, C = self.config.n_head, self.config.n_embd
        rows, split = [], qkv.to(caches[0].layers[0].dtype).split([*counts, len(qkv) - sum(counts)])
        for some, cache, count, mask in zip(split, caches, counts, masks, strict=False):
            held, end = cache.layers[layer], cache.length + count
            new = some.view(count, 3, nh, C // nh).permute(1, 2, 0, 3)  # (3, nh, t, hs)
            held[:, :, cache.length : end] = new[1:]
            k, v = held[:, None, :, :end]  # (1, nh, end, hs) each
            y = F.scaled_dot_product_attention(new[:1], k, v, attn_mask=mask)
            rows.append(y.transpose(1, 2).reshape(count, C))
        return torch.cat([*rows, rows[0].new_zeros(len(split[-1]), C)]) if len(rows[0]) < len(qkv) else rows[0]
