"""From the logits of a window's suffix to its figures: log-probabilities, and what greedy decoding gets wrong.

Everything from here on is the same for our own models and for Hugging Face's. Products are computed in float32: a
suffix's log-probability is the sum of 50 logarithms, and in bfloat16, whose logits are off by some hundredths, it would
be off by tenths (docs/measuring.md). bfloat16 answers only whether greedy decoding is right (reading/greedy.py), and
what `--dtype=bfloat16` asks it for.

Letters in shape comments: B windows of a batch, S tokens of a suffix, V columns of the logits.
"""

from dataclasses import dataclass

import numpy as np
import torch

from llm.configurator import UserError
from llm.measuring.models import Model

TOP_K = 40  # of the second log-probability (Hayes et al. 2024, arXiv 2410.19482)
MAX_LOGITS = 2**25  # numbers of a batch's logits: 128 MiB in float32
MAX_BATCH = 64  # windows


@dataclass(frozen=True)
class Scores:
    """The figures of B windows."""

    log_p: np.ndarray  # (B,) float64: natural logarithm of the suffix's probability; -inf = it is 0
    log_p_top40: np.ndarray  # (B,) float64: the same when each token is drawn among the 40 most likely
    errors: np.ndarray  # (B, S) bool: tokens that greedy decoding gets wrong, given the true text before each


def suffix_scores(
    logits: torch.Tensor, columns: torch.Tensor, *, n_shared: int = 1, drawable: int | None = None
) -> Scores:
    """The scores of suffixes.

    logits: (B, S, V) that predict each token; columns: (B, S) int64, the column of the true token. n_shared: the last
    column stands for so many ids, which all have its logit (network/corpus_softmax.py). drawable: greedy decoding
    chooses among this many first columns only; None = all.
    """
    logits = logits.float()
    target = logits.gather(-1, columns[..., None])[..., 0]  # (B, S)
    highest = logits.amax(-1, keepdim=True)
    total = (logits - highest).exp_()  # (B, S, V)
    if n_shared > 1:
        total[..., -1] *= n_shared
    target_exponent = (target - highest[..., 0]).double()
    log_p = target_exponent - total.sum(-1).double().log()
    candidates = logits
    if n_shared > 1:  # as many copies of the shared logit as may be among the 40
        copies = logits[..., -1:].expand(*logits.shape[:-1], min(n_shared, TOP_K) - 1)
        candidates = torch.cat([logits, copies], dim=-1)
    top = candidates.topk(min(TOP_K, candidates.shape[-1]), dim=-1).values  # (B, S, 40), in descending order
    total_top = (top - highest).double().exp().sum(-1)
    log_p_top = torch.where(target >= top[..., -1], target_exponent - total_top.log(), -torch.inf)
    errors = logits[..., :drawable].argmax(-1) != columns
    if not bool(log_p.isfinite().all()):
        raise UserError("the model's logits are not finite: its weights are damaged, or too large for this --dtype")
    return Scores(log_p.sum(-1).cpu().numpy(), log_p_top.sum(-1).cpu().numpy(), errors.cpu().numpy())


@torch.inference_mode()
def score(model: Model, ids: np.ndarray, prefix: int) -> Scores:
    """The scores of windows: ids (B, prefix + suffix); before each, the model reads its `beginning`."""
    x = torch.from_numpy(ids.astype(np.int64)).to(model.device)
    beginning = torch.tensor(model.beginning, dtype=torch.int64, device=model.device).expand(len(x), -1)
    given = torch.cat([beginning, x[:, :-1]], dim=1)  # the last token is predicted, never read
    logits = model.logits(given, x.shape[1] - prefix)
    return suffix_scores(logits, model.columns_of(x[:, prefix:]), n_shared=model.n_shared, drawable=model.drawable)


def batch_size_for(model: Model, suffix: int) -> int:
    """Windows of a batch, so that its logits fit into MAX_LOGITS."""
    return max(1, min(MAX_BATCH, MAX_LOGITS // (suffix * model.n_columns)))
