"""Which tokens of a text does greedy decoding get wrong? One batched forward pass answers for many windows.

Greedy output equals the true continuation if and only if the argmax is right at every position when the true
continuation is fed in, so nothing has to be generated token by token.
"""

import numpy as np
import torch

from llm import runtime
from llm.model import GPT
from llm.reading.reader import Reader
from llm.runtime import Runtime
from llm.text.dataset import Split

# Trust a bfloat16 answer if (best - second) > (best - mean) * CLEAR_MARGIN (of the logits): three times the
# largest difference from float32 that was measured (docs/LOG.md, "Margin for trusting bfloat16 in recall checks")
CLEAR_MARGIN = 1 / 32


class Grader:
    """Grades spans of a text against greedy decoding; results collect in `errors`.

    spans: (n, 3) int64, rows (start, first, end): given tokens[start:first], predict tokens[first:end]. Column j of
    `errors` (n, longest span) is token start + j; it is False outside of first..end - 1.
    """

    def __init__(self, model: GPT, split: Split, spans: np.ndarray, *, allowed: torch.Tensor, rt: Runtime):
        """allowed: ids that may be generated (generate.allowed_ids). Needs block_size >= end - start - 1."""
        self.model, self.split, self.spans, self.allowed, self.rt = model, split, spans, allowed, rt
        self.lengths = spans[:, 2] - spans[:, 0]
        self.errors = np.zeros((len(spans), self.lengths.max(initial=0)), dtype=bool)
        self.uncertain = np.zeros(len(spans), dtype=bool)  # answered in bfloat16, too close to call
        self.mean_row = model.lm_head.weight.detach()[model.rows_of(allowed.to(rt.device))].mean(0)  # (C,)
        self.readers: dict[torch.dtype, Reader] = {}

    def grade(self, numbers: np.ndarray, dtype: torch.dtype) -> None:
        """Grade the spans of these numbers with products in `dtype`; the ranks share the work."""
        rt = self.rt
        self.errors[numbers], self.uncertain[numbers] = False, False
        for length in np.unique(self.lengths[numbers]).tolist():
            mine = numbers[self.lengths[numbers] == length][rt.rank :: rt.world_size]
            if len(mine):
                graded = grade_spans(self.reader(dtype), self.split, self.spans[mine], self.mean_row)
                self.errors[mine, :length], self.uncertain[mine] = graded
        self.errors[numbers] = rt.either(self.errors[numbers])
        self.uncertain[numbers] = rt.either(self.uncertain[numbers])

    def reader(self, dtype: torch.dtype) -> Reader:
        """The model with its weights packed for products in `dtype`."""
        if dtype not in self.readers:
            head_dtype = torch.float32 if dtype == self.rt.dtype else torch.bfloat16
            self.readers[dtype] = Reader(self.model, self.allowed, dtype, head_dtype=head_dtype)
        return self.readers[dtype]


def greedy_errors(
    model: GPT,
    split: Split,
    spans: np.ndarray,
    *,
    allowed: torch.Tensor,
    rt: Runtime,
    batch_size: int = 64,
    max_failed: int | None = None,
    context: int = 50,
) -> np.ndarray:
    """(n, longest span) bool: the tokens of each span that greedy decoding gets wrong (see Grader for `spans`).

    On a CPU with fast bfloat16, float32 takes three times as long and most answers are clear: there every span is
    graded in bfloat16, and then in float32 those that are too close to call (CLEAR_MARGIN).
    max_failed: stop as soon as more spans than this have an error after their first `context` tokens; the spans that
    were not graded then have no errors.
    """
    grader = Grader(model, split, spans, allowed=allowed, rt=rt)
    two_passes = rt.device.type == "cpu" and rt.dtype == torch.float32 and runtime.has_bfloat16(rt.device)
    step = batch_size * rt.world_size

    def grade_all(numbers: np.ndarray, dtype: torch.dtype) -> None:
        for at in range(0, len(numbers), step):
            grader.grade(numbers[at : at + step], dtype)

    def failed() -> np.ndarray:
        return grader.errors[:, context:].any(1)

    for at in range(0, len(spans), step):
        grader.grade(np.arange(at, min(at + step, len(spans))), torch.bfloat16 if two_passes else rt.dtype)
        if max_failed is None or failed().sum() <= max_failed:
            continue
        if two_passes:
            grade_all(np.flatnonzero(failed() & grader.uncertain), rt.dtype)
        if failed().sum() > max_failed:
            return grader.errors
    if two_passes:
        grade_all(np.flatnonzero(grader.uncertain), rt.dtype)
    return grader.errors


@torch.inference_mode()
def grade_spans(
    reader: Reader, split: Split, spans: np.ndarray, mean_row: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """((n, length) errors, (n,) whether an answer is too close to call) of n spans of one length.

    mean_row: (C,), mean of the output rows of all allowed ids. Answers in float32 are never uncertain.
    """
    start, length = spans[:, 0], int(spans[0, 2] - spans[0, 0])
    prefix = spans[:, 1] - start
    first = int(prefix.min())
    asked = np.arange(length) >= prefix[:, None]  # (n, length): positions to predict
    x = split.windows(start, length).to(reader.device)
    hidden = reader.hidden(x[:, :-1])[:, first - 1 :]  # (n, length - first, C): predicts tokens first..length - 1
    logits = reader.head(hidden)
    best, choice = logits.max(-1)  # (n, length - first)
    errors = np.zeros(asked.shape, dtype=bool)
    errors[:, first:] = (torch.tensor(reader.allowed, device=x.device)[choice] != x[:, first:]).cpu().numpy()
    errors &= asked
    if logits.dtype == torch.float32:
        return errors, np.zeros(len(spans), dtype=bool)
    mean = hidden @ mean_row
    second = logits.scatter_(-1, choice[..., None], -torch.inf).amax(-1)
    close = (best.float() - second.float()) <= CLEAR_MARGIN * (best.float() - mean)
    return errors, (close.numpy() & asked[:, first:]).any(1)
