"""target_recall: does a model in training know so much of its text by heart already?"""

import math

import numpy as np
import torch

from llm.model import GPT
from llm.network.sharding import gathered
from llm.reading.greedy import greedy_errors
from llm.reading.recall import PREFIX, SUFFIX, split_starts, window_spans
from llm.reading.recitation import recitation_spans
from llm.runtime import Runtime
from llm.text.dataset import Split


class TargetCheck:
    """Tests a model in training against `target`, again and again; what failed last is tested first.

    A target of 1 means the whole text: every window, and the recitation from its first tokens to its end.
    """

    def __init__(
        self,
        target: float,
        split: Split,
        block_size: int,
        *,
        allowed: torch.Tensor,
        rt: Runtime,
        batch_size: int = 16,
    ):
        self.split, self.allowed, self.rt, self.batch_size = split, allowed, rt, batch_size
        self.spans = window_spans(split_starts(split))
        self.n_windows = len(self.spans)
        self.max_failed = math.floor((1 - target) * self.n_windows + 1e-9)
        self.goal = str(target)  # in words
        if target == 1:
            self.goal += " with all of the text recited"
            self.spans = np.concatenate([self.spans, recitation_spans(len(split), block_size)])
        stride = -(-len(self.spans) // batch_size)
        # each batch of spans comes from all over the text
        self.interleaved = np.concatenate([np.arange(k, len(self.spans), stride) for k in range(stride)])
        self.last_failure = np.zeros(len(self.spans), dtype=np.int64)  # when each span last failed; 0 = never
        self.clock = 0  # counts checks and updates

    def note_errors(self, tokens: list[int]) -> None:
        """Remember that training just got these tokens of the text wrong (indices into the text)."""
        self.clock += 1
        starts = self.spans[: self.n_windows, 0]
        for token in tokens:
            n = int(np.searchsorted(starts, token - PREFIX, side="right")) - 1
            if n >= 0 and token < starts[n] + PREFIX + SUFFIX:
                self.last_failure[n] = self.clock

    def errors_if_reached(self, model: GPT) -> np.ndarray | None:
        """(n_windows, longest span) errors in every window of the text if the target is reached, else None.

        Spans that failed last, here or in training, are tested first, and the check ends as soon as the target is out
        of reach: while a model is still learning, a check costs a few spans.
        """
        order = self.interleaved[np.argsort(-self.last_failure[self.interleaved], kind="stable")]
        errors = np.zeros((len(self.spans), (self.spans[:, 2] - self.spans[:, 0]).max()), dtype=bool)
        errors[order] = greedy_errors(
            gathered(model),
            self.split,
            self.spans[order],
            allowed=self.allowed,
            rt=self.rt,
            batch_size=self.batch_size,
            max_failed=self.max_failed,
            context=PREFIX,
        )
        failed = errors[:, PREFIX:].any(1)
        self.clock += 1
        self.last_failure[failed] = self.clock
        return errors[: self.n_windows] if failed.sum() <= self.max_failed else None
