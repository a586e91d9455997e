"""GPT-2's architecture with nanoGPT's names, so that weights travel both ways. Nothing but the network.

References: OpenAI's GPT-2 (openai/gpt-2, src/model.py), Hugging Face's GPT2LMHeadModel, karpathy/nanoGPT model.py.
Letters in shape comments: B batch, T time (tokens), C n_embd, nh n_head, hs = C / nh, V vocab_size.
Not here: choosing tokens (reading/generate.py), optimizers (training/optim.py), files (storage/checkpoint.py).
reading/reader.py computes the same network a second time, for inference: whoever changes one changes both.
"""

import dataclasses
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

MAX_LAYERS = 1000  # of a model in a file: an empty one takes 20 KB of memory a layer, and 1 ms


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a model. No defaults: those are train.py's settings. Only dropout may change later.

    gelu: "tanh", the approximation that OpenAI's GPT-2 and Hugging Face's compute, or "none", the exact function, which
    nanoGPT computes. Weights trained with one are slightly off (logits by about 1e-3) with the other.
    """

    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    bias: bool
    vocab_size: int
    dropout: float
    gelu: str


def plain_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float) -> torch.Tensor:
    """Causal attention (B, nh, T, hs) in plain matrix products.

    On CPUs, torch's fused kernel and its gradient take 2 to 4 times as long for windows of 64 to 256 tokens
    (docs/LOG.md).
    """
    B, nh, T, hs = q.shape
    q, k, v = (part.reshape(B * nh, T, hs) for part in (q, k, v))
    future = torch.full((T, T), -math.inf, dtype=q.dtype, device=q.device).triu(1)
    scores = torch.baddbmm(future.expand(B * nh, T, T), q, k.mT, alpha=hs**-0.5)  # (B * nh, T, T)
    with torch.autocast(q.device.type, enabled=False):  # autocast would return float32; softmax computes in it anyway
        weights = F.dropout(scores.softmax(-1), dropout)
    return (weights @ v).view(B, nh, T, hs)


class CausalSelfAttention(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.n_head, self.dropout = config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)  # (B, T, 3, nh, hs)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, nh, T, hs)
        dropout = self.dropout if self.training else 0.0
        if self.training and x.device.type == "cpu":
            y = plain_attention(q, k, v, dropout)
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1, dropout_p=dropout)
        y = y.transpose(1, 2).reshape(B, T, C)  # heads side by side again
        return self.resid_dropout(self.c_proj(y))


class MLP(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.gelu = nn.GELU(approximate=config.gelu)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        return self.dropout(self.c_proj(self.gelu(self.c_fc(x))))


class Block(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """A decoder-only transformer with learned positions and tied input and output embeddings."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False  # True: recompute each block in the backward pass instead of storing it
        self.transformer = nn.ModuleDict(
            dict(
                wte=nn.Embedding(config.vocab_size, config.n_embd),
                wpe=nn.Embedding(config.block_size, config.n_embd),
                drop=nn.Dropout(config.dropout),
                h=nn.ModuleList(Block(config) for _ in range(config.n_layer)),
                ln_f=nn.LayerNorm(config.n_embd, bias=config.bias),
            )
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight  # tied (Press and Wolf 2017, arXiv 1608.05859)
        self.apply(self._init_weights)
        for name, p in self.named_parameters():  # GPT-2: projections into the residual stream start smaller
            if name.endswith("c_proj.weight"):
                nn.init.normal_(p, mean=0.0, std=0.02 / math.sqrt(2 * config.n_layer))

    @staticmethod
    def _init_weights(module):
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, mean=0.0, std=0.02)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)

    def num_params(self) -> int:
        """Number of parameters, the tied table counted once, positions left out (nanoGPT's count)."""
        return sum(p.numel() for p in self.parameters()) - self.transformer.wpe.weight.numel()

    def set_dropout(self, dropout: float) -> None:
        self.config = dataclasses.replace(self.config, dropout=dropout)
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
            elif isinstance(module, CausalSelfAttention):
                module.dropout = dropout

    def cropped(self, block_size: int) -> "GPT":
        """Keep only the first block_size positions, in place; returns the model."""
        self.config = dataclasses.replace(self.config, block_size=block_size)
        self.transformer.wpe.weight = nn.Parameter(self.transformer.wpe.weight.detach()[:block_size].clone())
        return self

    def hidden(self, idx: torch.Tensor) -> torch.Tensor:
        """Final hidden states, after ln_f: idx (B, T) int64 -> (B, T, C)."""
        T = idx.size(1)
        assert self.config.block_size >= T, f"{T} tokens, but block_size is {self.config.block_size}"
        positions = torch.arange(T, device=idx.device)
        x = self.transformer.drop(self.transformer.wte(idx) + self.transformer.wpe(positions))  # (B, T, C)
        store_activations = not (self.gradient_checkpointing and self.training)
        for block in self.transformer.h:
            x = block(x) if store_activations else checkpoint(block, x, use_reentrant=False)
        return self.transformer.ln_f(x)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (..., C) -> logits (..., V)."""
        return self.lm_head(hidden)

    def rows_of(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows of the token table for token ids: the ids themselves, unless the table is compact."""
        return ids

    def predicted_ids(self, logits: torch.Tensor) -> torch.Tensor:
        """Most likely token ids: logits (B, T, V) -> (B, T)."""
        return logits.argmax(-1)

    def forward(
        self,
        idx: torch.Tensor,
        targets: torch.Tensor | None = None,
        position_weights: torch.Tensor | None = None,
    ):
        """(logits, loss) for idx (B, T).

        With targets (B, T): logits (B, T, V) and the mean cross-entropy in nats; targets of -1 are ignored. Without:
        logits of the last position only, (B, 1, V), and None.

        position_weights: (block_size,), weight of each position in the mean loss (then no target may be -1); None = all
        equal.
        """
        x = self.hidden(idx)
        if targets is None:
            return self.logits(x[:, -1:]), None
        logits = self.logits(x)
        if position_weights is None:
            return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
        position_weights = position_weights[: targets.size(1)]
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none")
        return logits, (losses.view_as(targets).mean(0) * position_weights).sum() / position_weights.sum()


class NoInit(TorchFunctionMode):
    """Context in which torch.nn.init does nothing: on the meta device it imports torch's compiler, which takes 1 s."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__module__", None) == "torch.nn.init":
            return None
        return func(*args, **(kwargs or {}))


def uninitialised(config: GPTConfig) -> GPT:
    """A model of this shape on the meta device, whose weights are assigned later."""
    with torch.device("meta"), NoInit():
        return GPT(config)


def weight_shapes(config: GPTConfig) -> dict[str, torch.Size]:
    """The names and shapes in a model's state dict, without building its blocks. ValueError above MAX_LAYERS."""
    if config.n_layer > MAX_LAYERS:
        raise ValueError(f"{config.n_layer} layers, at most {MAX_LAYERS} are read")
    shapes = {}
    for name, tensor in uninitialised(dataclasses.replace(config, n_layer=1)).state_dict().items():
        for layer in range(config.n_layer if ".h.0." in name else 1):
            shapes[name.replace(".h.0.", f".h.{layer}.")] = tensor.shape
    return shapes
