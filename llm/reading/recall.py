"""Recall@50/50: the share of windows of a text that a model recites exactly.

Definition (Carlini et al. 2023, arXiv 2202.07646, definition 3.1 with k = 50): windows begin at token 0, 50, 100, ...
of the trained text; the model sees a window's first 50 tokens alone and must produce the next 50 exactly, greedily.
Greedy output equals the suffix if and only if the argmax is right at all 50 places when the true suffix is fed in, so
one batched forward pass answers for a window what 50 steps of generation would.

Beside it: token accuracy over the same places, a Wilson 95 % interval, recall@8/50 (a prompt as short as people type;
only windows whose first 8 tokens stand once in the text, because others have more than one right answer), and the same
measure on a control text that the model never saw, which tells knowing by heart from being a good guesser.
"""

import difflib
import functools
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from llm import runtime
from llm.configurator import UserError
from llm.files import write_atomic
from llm.model import GPT
from llm.reading.generate import context_start, generate
from llm.reading.reader import Reader
from llm.runtime import Runtime, notice
from llm.text.dataset import DATA, Dataset, Split
from llm.text.formats import read_text
from llm.text.tokenizer import Tokenizer

PREFIX, SUFFIX, STRIDE = 50, 50, 50  # tokens
SHORT_PREFIX = 8  # tokens
MAX_WINDOWS = 2000
SAMPLE_WINDOWS = 64  # for a glance, as at each evaluation
MIN_BLOCK = 20  # tokens: shorter agreements of a recitation with the book do not count
NEEDED_CONTEXT = PREFIX + SUFFIX - 1  # the last token is predicted, never read
# An answer in bfloat16 is taken for float32's where the likeliest token leads the second by this share of its lead over
# the mean of all: three times the largest difference that was seen between the two (BENCHMARKS.md, "Speedrun")
CLEAR_MARGIN = 1 / 32
CONTROL_TEXT = DATA / "tale" / "control.txt"


@dataclass(frozen=True)
class Recall:
    """Counts of one measurement: how many windows, how many of them recited, right tokens of SUFFIX per window."""

    windows: int
    recited: int
    right_tokens: int

    @classmethod
    def after(cls, prefix: int, wrong: np.ndarray) -> "Recall":
        """Of windows that are seen up to `prefix` tokens; wrong: `greedy_errors`'s answer."""
        slips = wrong[:, prefix : prefix + SUFFIX].sum(1)
        return cls(len(wrong), int((slips == 0).sum()), int((SUFFIX - slips).sum()))

    @property
    def share(self) -> float:
        return self.recited / self.windows if self.windows else 0.0

    @property
    def token_accuracy(self) -> float:
        return self.right_tokens / (self.windows * SUFFIX) if self.windows else 0.0

    def __str__(self) -> str:
        return f"{self.share:.4f} ({self.recited:,}/{self.windows:,} windows)"


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927): wilson(458, 463) is about (0.975, 0.995)."""
    if trials == 0:
        return 0.0, 1.0
    z, p = 1.959964, successes / trials
    center = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    spread = z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return max(0.0, center - spread), min(1.0, center + spread)


def window_starts(n_tokens: int, length: int, most: int = MAX_WINDOWS) -> np.ndarray:
    """Starts 0, 50, 100, ... of windows that fit into n_tokens; if more than `most`, that many evenly spaced ones."""
    starts = np.arange(0, n_tokens - length + 1, STRIDE)
    if len(starts) > most:
        starts = starts[np.linspace(0, len(starts) - 1, most).round().astype(np.int64)]
    return starts


def sample_starts(split: Split) -> np.ndarray:
    """Starts of a few windows from all over the text, always the same."""
    return window_starts(len(split), PREFIX + SUFFIX, SAMPLE_WINDOWS)


def unique_prefixes(split: Split, starts: np.ndarray, length: int, chunk: int = 2**20) -> np.ndarray:
    """Those starts whose first `length` tokens stand only once in the text.

    Compares 64-bit hashes (a dot product with random odd numbers), a chunk of the text at a time; two different
    sequences share one with a probability of about 2**-63, which would leave out one window.
    """
    multipliers = np.random.SeedSequence(length).generate_state(length, np.uint64) | np.uint64(1)

    def hashes(tokens: np.ndarray) -> np.ndarray:
        grams = np.lib.stride_tricks.sliding_window_view(tokens.astype(np.uint64) + np.uint64(1), length)
        return (grams * multipliers).sum(axis=1, dtype=np.uint64)

    wanted = np.concatenate([hashes(split.tokens(s, s + length)) for s in starts.tolist()])
    counts = dict.fromkeys(wanted.tolist(), 0)
    for begin in range(0, len(split) - length + 1, chunk):
        found = hashes(split.tokens(begin, min(begin + chunk + length - 1, len(split))))
        for gram in found[np.isin(found, wanted)].tolist():
            counts[gram] += 1
    return starts[[counts[gram] == 1 for gram in wanted.tolist()]]


def window_spans(starts: np.ndarray) -> np.ndarray:
    """(n, 3) spans for `greedy_errors`: windows at `starts`, predicted from their 8th token to their last."""
    return starts[:, None] + np.array([0, SHORT_PREFIX, PREFIX + SUFFIX])


def recitation_spans(n_tokens: int, block_size: int) -> np.ndarray:
    """(n, 3), for `greedy_errors`: all tokens after the first PREFIX, each in the context that `generate` has for it.

    If all are right, a recitation from the first PREFIX tokens is the text, word for word.
    """
    spans, first = [], PREFIX
    while first < n_tokens:
        start = context_start(PREFIX, first, block_size)
        spans.append((start, first, min(start + block_size + 1, n_tokens)))
        first = spans[-1][2]
    return np.array(spans)


def greedy_errors(
    model: GPT,
    split: Split,
    asked: np.ndarray,
    *,
    allowed: torch.Tensor,
    rt: Runtime,
    batch_size: int = 64,
    may_miss: int | None = None,
) -> np.ndarray:
    """(n, longest span) bool: which tokens are wrong in each span of the text that is asked; ranks share the work.

    asked: (n, 3), start, first and end of each: tokens first to end - 1 are to be produced from those from start on.
    Column j is about token start + j; what is not asked is not wrong. allowed: the ids that may be generated
    (generate.allowed_ids); the argmax is over these, as in sampling. Needs block_size >= end - start - 1. Products are
    computed in rt.dtype. may_miss: once more spans than this have something wrong after their first PREFIX tokens, the
    rest is not asked.

    On a CPU that computes in bfloat16, float32 takes three times as long, and most answers leave no doubt: there all is
    asked in bfloat16 first, and in float32 what was not answered clearly (see CLEAR_MARGIN).
    """
    wrong = np.zeros((len(asked), (asked[:, 2] - asked[:, 0]).max(initial=0)), dtype=bool)
    doubtful = np.zeros(len(asked), dtype=bool)
    quick = rt.device.type == "cpu" and rt.dtype == torch.float32 and runtime.has_bfloat16(rt.device)
    mean_row = model.lm_head.weight.detach()[allowed.to(rt.device)].mean(0)

    @functools.cache
    def reader(dtype: torch.dtype) -> Reader:
        return Reader(model, allowed, dtype, head_dtype=torch.bfloat16 if dtype != rt.dtype else torch.float32)

    def ask(dtype: torch.dtype, some: np.ndarray) -> None:
        """Notes the answers about these spans."""
        for at in range(0, len(some), batch_size * rt.world_size):
            together = some[at : at + batch_size * rt.world_size]
            wrong[together], doubtful[together] = False, False
            for length in np.unique(asked[together, 2] - asked[together, 0]).tolist():
                alike = together[asked[together, 2] - asked[together, 0] == length][rt.rank :: rt.world_size]
                if len(alike):
                    wrong[alike, :length], doubtful[alike] = answers(reader(dtype), split, asked[alike], mean_row)
            wrong[together], doubtful[together] = rt.either(wrong[together]), rt.either(doubtful[together])

    def missed() -> np.ndarray:
        return wrong[:, PREFIX:].any(1)

    for at in range(0, len(asked), batch_size * rt.world_size):
        ask(torch.bfloat16 if quick else rt.dtype, np.arange(at, min(at + batch_size * rt.world_size, len(asked))))
        if quick and may_miss is not None and missed().sum() > may_miss:
            ask(rt.dtype, np.flatnonzero(missed() & doubtful))
        if may_miss is not None and missed().sum() > may_miss:
            return wrong
    if quick:
        ask(rt.dtype, np.flatnonzero(doubtful))
    return wrong


@torch.inference_mode()
def answers(reader: Reader, split: Split, asked: np.ndarray, mean_row: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """((n, length) which tokens are wrong, (n,) whether an answer is not CLEAR_MARGIN) of n spans of one length.

    mean_row: (C,), the mean of the head's rows. Logits in float32 leave no doubt.
    """
    start, length = asked[:, 0], int(asked[0, 2] - asked[0, 0])
    prefix = asked[:, 1] - start
    first = int(prefix.min())
    places = np.arange(length) >= prefix[:, None]  # (n, length): those that are asked
    x = split.windows(start, length).to(reader.device)
    hidden = reader.hidden(x[:, :-1])[:, first - 1 :]  # (n, length - first, C): what predicts what is asked
    logits = reader.head(hidden)
    largest, choice = logits.max(-1)  # (n, length - first)
    wrong = np.zeros(places.shape, dtype=bool)
    wrong[:, first:] = (torch.tensor(reader.allowed, device=x.device)[choice] != x[:, first:]).cpu().numpy()
    wrong &= places
    if logits.dtype == torch.float32:
        return wrong, np.zeros(len(asked), dtype=bool)
    mean = hidden @ mean_row
    second = logits.scatter_(-1, choice[..., None], -torch.inf).amax(-1)
    unclear = (largest.float() - second.float()) <= CLEAR_MARGIN * (largest.float() - mean)
    return wrong, (unclear.numpy() & places[:, first:]).any(1)


def measure(model: GPT, split: Split, starts: np.ndarray, **options) -> Recall:
    """recall@50/50 of the windows at `starts`; options: those of `greedy_errors`."""
    return Recall.after(PREFIX, greedy_errors(model, split, window_spans(starts), **options))


class TargetCheck:
    """Asks again and again whether a model that is still learning knows `target` of a text; keeps what it got wrong.

    A target of 1 means the whole text: all windows, and the recitation from its first tokens to its end.
    """

    def __init__(
        self, target: float, split: Split, block_size: int, *, allowed: torch.Tensor, rt: Runtime, batch_size: int = 16
    ):
        self.split, self.allowed, self.rt, self.batch_size = split, allowed, rt, batch_size
        self.asked = window_spans(window_starts(len(split), PREFIX + SUFFIX))
        self.windows = len(self.asked)
        self.may_miss = math.floor((1 - target) * self.windows + 1e-9)
        self.goal = str(target)  # in words
        if target == 1:
            self.goal += " with all of the text recited"
            self.asked = np.concatenate([self.asked, recitation_spans(len(split), block_size)])
        stride = -(-len(self.asked) // batch_size)
        self.order = np.concatenate([np.arange(k, len(self.asked), stride) for k in range(stride)])  # from all over
        self.suspicion = np.zeros(len(self.asked), dtype=np.int64)  # of what is asked first: when it was last wrong
        self.turns = 0

    def suspect(self, tokens: list[int]) -> None:
        """Notes that training got these tokens of the text wrong just now."""
        self.turns += 1
        starts = self.asked[: self.windows, 0]
        for token in tokens:
            n = int(np.searchsorted(starts, token - PREFIX, side="right")) - 1
            if n >= 0 and token < starts[n] + PREFIX + SUFFIX:
                self.suspicion[n] = self.turns

    def passed(self, model: GPT) -> np.ndarray | None:
        """What is wrong in each window of the whole text (`greedy_errors`) if the target is reached, else None.

        What was wrong the last time, here or in training, is asked first, the latest before the others, and it ends as
        soon as the target is out of reach: while a model is still learning, a few answers are all that is paid for.
        """
        order = self.order[np.argsort(-self.suspicion[self.order], kind="stable")]
        wrong = np.zeros((len(self.asked), (self.asked[:, 2] - self.asked[:, 0]).max()), dtype=bool)
        wrong[order] = greedy_errors(
            model,
            self.split,
            self.asked[order],
            allowed=self.allowed,
            rt=self.rt,
            batch_size=self.batch_size,
            may_miss=self.may_miss,
        )
        missed = wrong[:, PREFIX:].any(1)
        self.turns += 1
        self.suspicion[missed] = self.turns
        return wrong[: self.windows] if missed.sum() <= self.may_miss else None


def recall_obstacle(block_size: int, n_tokens: int) -> str | None:
    """Why recall@50/50 cannot be measured, in one line; None where it can."""
    if block_size < NEEDED_CONTEXT:
        return f"recall@{PREFIX}/{SUFFIX} needs a context of {NEEDED_CONTEXT} tokens, block_size={block_size} has fewer"
    if n_tokens < PREFIX + SUFFIX:
        return f"recall@{PREFIX}/{SUFFIX} needs a text of {PREFIX + SUFFIX} tokens, this one has {n_tokens}"
    return None


def find_control(path: str | None, data: Dataset, tokenizer: Tokenizer) -> tuple[str, Split] | None:
    """(name, tokens) of a text that the model never saw; None, with a notice, where there is none that it can read."""
    if path is None and data.val is not None and len(data.val) >= PREFIX + SUFFIX:
        return f"{data.name}'s val.bin", data.val
    file = Path(path or CONTROL_TEXT)
    text, _ = read_text(file)
    try:
        ids = tokenizer.encode(text)
    except UserError as e:
        if path is not None:
            raise
        notice(f"no control: {file.name} cannot be encoded ({e})")
        return None
    if len(ids) < PREFIX + SUFFIX:
        raise UserError(f"{file} has {len(ids)} tokens, a control needs at least {PREFIX + SUFFIX}")
    return (path or "the bundled control.txt"), Split.in_memory(ids, data.vocab_size)


def report(
    model: GPT,
    data: Dataset,
    *,
    allowed: torch.Tensor,
    rt: Runtime,
    control: tuple[str, Split] | None,
    known: np.ndarray | None = None,
) -> tuple[list[str], dict]:
    """(lines for the reader, plain data for recall.json) of the whole measurement; the last line is recall@50/50.

    control: from `find_control`. known: `greedy_errors`'s answer for the whole text, where there is one already.
    UserError if it cannot be measured: see `recall_obstacle`.
    """
    if reason := recall_obstacle(model.config.block_size, len(data.train)):
        raise UserError(reason)
    starts = window_starts(len(data.train), PREFIX + SUFFIX)
    if known is None:
        known = greedy_errors(model, data.train, window_spans(starts), allowed=allowed, rt=rt)
    long = Recall.after(PREFIX, known)
    once = np.isin(starts, unique_prefixes(data.train, starts, SHORT_PREFIX))
    short = Recall.after(SHORT_PREFIX, known[once])
    low, high = wilson(long.recited, long.windows)
    figures = {
        "recall": long.share,
        **asdict(long),
        "token_accuracy": long.token_accuracy,
        "interval_95": [low, high],
        "recall_8": short.share,
        "windows_8": short.windows,
        "recited_8": short.recited,
    }
    lines = []
    if control:
        name, split = control
        by_chance = measure(model, split, window_starts(len(split), PREFIX + SUFFIX), allowed=allowed, rt=rt)
        figures["control"] = {"text": name, **asdict(by_chance), "token_accuracy": by_chance.token_accuracy}
        lines.append(f"control, {name}: recall {by_chance}, token accuracy {by_chance.token_accuracy:.4f}")
    lines += [
        f"recall@{SHORT_PREFIX}/{SUFFIX}: {short} whose {SHORT_PREFIX} tokens stand once in the text",
        f"token accuracy: {long.token_accuracy:.4f}",
        f"95 % interval: {low:.4f} to {high:.4f}",
        f"recall@{PREFIX}/{SUFFIX}: {long}",
    ]
    return lines, figures


def covered(book: np.ndarray, recited: np.ndarray, block: int = MIN_BLOCK) -> int:
    """How many tokens of the book stand in the recitation, in order, in matching blocks of at least `block` tokens.

    Blocks are found by difflib (Ratcliff and Obershelp 1988: the longest first, then on either side of it), over all
    sequences of `block` tokens instead of single tokens, which hardly ever stand twice.
    """
    if min(len(book), len(recited)) < block:
        return 0
    a, b = (
        [window.tobytes() for window in np.lib.stride_tricks.sliding_window_view(ids, block)] for ids in (book, recited)
    )
    found = np.zeros(len(book), dtype=bool)
    for match in difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks():
        found[match.a : match.a + match.size + block - 1] |= match.size > 0
    return int(found.sum())


def recite(reader: Reader, tokenizer: Tokenizer, split: Split) -> tuple[list[str], dict]:
    """(lines, figures) of a recitation: from the first 50 tokens, greedily, to the length of the book.

    What happens when the context is full is generate.py's rule, the same as in sampling.
    """
    book = split.tokens(0, len(split))
    recited = book[:PREFIX].tolist()
    for _, token in generate(reader, list(recited), max_new_tokens=len(book) - PREFIX):
        recited.append(token)
        if len(recited) % 2000 == 0:
            notice(f"recited {len(recited):,} of {len(book):,} tokens")
    recited = np.array(recited, dtype=book.dtype)
    slips = np.flatnonzero(recited != book)
    share = covered(book, recited) / len(book)
    if len(slips):
        at = int(slips[0])
        before, wanted, said = (
            tokenizer.decode(ids.tolist()) for ids in (book[at - 8 : at], book[at:][:8], recited[at:][:8])
        )
        slip = f"token {at:,} of {len(book):,}: after {before!r} the book has {wanted!r}, the model {said!r}"
    else:
        at, slip = None, f"none in {len(book):,} tokens"
    lines = [
        f"first slip: {slip}",
        f"recited: {share:.4f} of the book, in order, in blocks of at least {MIN_BLOCK} tokens",
    ]
    return lines, {"first_slip": at, "recited": share, "tokens": len(book)}


def write(out_dir: Path, figures: dict, *, checkpoint_name: str, step: int, dataset: str) -> None:
    """Writes recall.json; for another checkpoint than ckpt.pt, such as ckpt_init.pt, recall_ckpt_init.json."""
    figures = {"checkpoint": checkpoint_name, "step": step, "dataset": dataset} | figures
    name = "recall.json" if checkpoint_name == "ckpt.pt" else f"recall_{Path(checkpoint_name).stem}.json"
    write_atomic(out_dir / name, (json.dumps(figures, indent=1) + "\n").encode())
