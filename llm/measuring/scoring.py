"""From the logits of a window's suffix to its figures: log-probabilities, and what greedy decoding gets wrong.

Everything from here on is the same for our own models and for Hugging Face's. What matters is computed in float32: a
suffix's log-probability is the sum of 50 logarithms, and in bfloat16, whose logits are off by some hundredths, it would
be off by tenths. Where bfloat16 is faster, it first tells which windows matter (`score`, docs/measuring.md).

Letters in shape comments: B windows of a batch, S tokens of a suffix, V columns of the logits, N rows.
"""

from dataclasses import dataclass

import numpy as np
import torch

from llm.configurator import UserError
from llm.measuring.models import Model

TOP_K = 40  # of the second log-probability (Hayes et al. 2024, arXiv 2410.19482)
MAX_LOGITS = 2**26  # numbers of a batch's logits: 256 MiB in float32
MAX_BATCH = 64  # windows
CACHED_LOGITS = 2**19  # numbers that are worked on at once: 2 MiB, which a core's cache holds
NEGLIGIBLE = -100.0  # log p_z, 4e-44: below, bfloat16's figures are kept; far below 1e-27, the least that counts
SLIPS_IN_DOUBT = 0.25  # share of a suffix: with fewer slips in bfloat16, greedy decoding may be right in float32
TRIED = 8  # windows of a text whose figures tell whether bfloat16 first is worth it


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
    B, S, V = logits.shape
    step = max(1, CACHED_LOGITS // V) if logits.device.type == "cpu" else B * S
    parts = zip(logits.reshape(B * S, V).split(step), columns.reshape(B * S).split(step), strict=True)
    found = [token_scores(part.float(), column, n_shared, drawable) for part, column in parts]
    log_p, above, errors = (torch.cat(values).view(B, S) for values in zip(*found, strict=True))
    if not bool(log_p.isfinite().all()):
        raise UserError("the model's logits are not finite: its weights are damaged, or too large for this --dtype")
    log_p_top = np.full(B, -np.inf)
    for n in (above < TOP_K).all(1).nonzero()[:, 0].tolist():  # of the others, the probability is 0
        log_p_top[n] = float(top_log_p(logits[n].float(), columns[n], n_shared).sum())
    return Scores(log_p.sum(-1).cpu().numpy(), log_p_top, errors.cpu().numpy())


def token_scores(
    logits: torch.Tensor, columns: torch.Tensor, n_shared: int, drawable: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(log-probability, how many ids are likelier, whether greedy decoding is wrong) of tokens, each (N,).

    logits: (N, V) float32, columns: (N,); see `suffix_scores` for the others.
    """
    target = logits.gather(1, columns[:, None])  # (N, 1)
    likelier = torch.gt(logits, target, out=torch.empty_like(logits))  # as numbers: they are added up faster
    if n_shared > 1:
        likelier[:, -1] *= n_shared
    highest = logits.amax(1, keepdim=True)
    total = (logits - highest).exp_()
    if n_shared > 1:
        total[:, -1] *= n_shared
    log_p = (target - highest)[:, 0].double() - total.sum(1).double().log()
    best = highest if drawable is None else logits[:, :drawable].amax(1, keepdim=True)
    wrong = (target < best)[:, 0]
    perhaps = (~wrong).nonzero()[:, 0]  # of several equal logits, the first one is chosen
    wrong[perhaps] = logits[perhaps, :drawable].argmax(1) != columns[perhaps]
    return log_p, likelier.sum(1), wrong


def top_log_p(logits: torch.Tensor, columns: torch.Tensor, n_shared: int) -> torch.Tensor:
    """Log-probabilities (N,) of tokens among the 40 most likely ones, of which each must be one; see `token_scores`."""
    target = logits.gather(1, columns[:, None]).double()
    if n_shared > 1:  # as many copies of the shared logit as may be among the 40
        logits = torch.cat([logits, logits[:, -1:].expand(-1, min(n_shared, TOP_K) - 1)], dim=1)
    top = logits.topk(min(TOP_K, logits.shape[1])).values.double()
    return target[:, 0] - top.logsumexp(1)


def score(model: Model, ids: np.ndarray, prefix: int, *, quick: torch.dtype | None = None) -> Scores:
    """The scores of windows: ids (B, prefix + suffix); before each, the model reads its `beginning`.

    quick: a faster dtype, in which all of them are scored first. Its figures are kept of windows that do not matter.
    """
    if quick is None:
        return score_in(model, ids, prefix, None)
    found = score_in(model, ids, prefix, quick)
    matter = np.flatnonzero(matters(found))
    if len(matter):
        exact = score_in(model, ids[matter], prefix, None)
        for name in ("log_p", "log_p_top40", "errors"):
            getattr(found, name)[matter] = getattr(exact, name)
    return found


@torch.inference_mode()
def score_in(model: Model, ids: np.ndarray, prefix: int, dtype: torch.dtype | None) -> Scores:
    """The scores of windows with products in this dtype; None = the model's."""
    x = torch.from_numpy(ids.astype(np.int64)).to(model.device)
    beginning = torch.tensor(model.beginning, dtype=torch.int64, device=model.device).expand(len(x), -1)
    given = torch.cat([beginning, x[:, :-1]], dim=1)  # the last token is predicted, never read
    logits = model.logits(given, x.shape[1] - prefix, dtype)
    return suffix_scores(logits, model.columns_of(x[:, prefix:]), n_shared=model.n_shared, drawable=model.drawable)


def matters(scores: Scores) -> np.ndarray:
    """(B,) bool: the windows whose probability is not negligible, or which greedy decoding may produce."""
    n_slips = scores.errors.sum(1)
    return (scores.log_p > NEGLIGIBLE) | (n_slips < SLIPS_IN_DOUBT * scores.errors.shape[1])


def quick_dtype_for(model: Model, ids: np.ndarray, prefix: int) -> torch.dtype | None:
    """The dtype for a first pass over all windows of a text: ids (n, prefix + suffix). None = one pass is faster.

    It is not worth it where most windows matter, as in a book that the model knows by heart.
    """
    if model.quick_dtype is None:
        return None
    n_tried = min(TRIED, batch_size_for(model, ids.shape[1] - prefix))
    tried = ids[np.unique(np.linspace(0, len(ids) - 1, n_tried).round().astype(int))]
    return model.quick_dtype if matters(score_in(model, tried, prefix, model.quick_dtype)).mean() <= 0.5 else None


def batch_size_for(model: Model, suffix: int) -> int:
    """Windows of a batch, so that its logits fit into MAX_LOGITS."""
    return max(1, min(MAX_BATCH, MAX_LOGITS // (suffix * model.n_columns)))
