"""All that a training works on, in one record, and the few operations that need most of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from llm.model import GPT
from llm.network.corpus_softmax import CompactGPT
from llm.network.sharding import gathered
from llm.reading import recall
from llm.reading.recall import PREFIX, SUFFIX
from llm.runtime import Runtime
from llm.storage import checkpoint
from llm.storage.progress import Progress
from llm.text.dataset import Dataset
from llm.training.batches import Batches
from llm.training.display import Display
from llm.training.evaluation import FiniteCheck, evaluate_loss
from llm.training.metrics import Metrics, Timer, describe_loss
from llm.training.saving import Saver
from llm.training.schedule import Schedule
from llm.training.stopping import StopRule
from llm.training.watching import Watched


@dataclass(frozen=True)
class Plan:
    """What is special about one update."""

    lr: float
    epochs: float  # done before it
    replay: bool  # repeat windows with errors, and look for more of them
    short_block: int  # tokens per window; 0 = the usual number


@dataclass
class Run:
    """The state of one training, on one rank. The first block never changes."""

    rt: Runtime
    data: Dataset
    schedule: Schedule
    micro_steps: int  # micro-batches per update on this rank
    tokens_per_iter: int  # on all ranks
    corpus_ids: list[int] | None  # see start.Start
    allowed: torch.Tensor  # ids that may be generated
    recall_starts: np.ndarray | None  # windows of an estimate; None = recall cannot be measured
    eval_iters: int | None  # batches of an evaluation of val.bin; None = all
    position_weights: torch.Tensor | None
    settings: dict  # of train.py, for the checkpoint
    out_dir: Path
    resumed: bool
    keep_best: bool  # ckpt.pt is the state with the lowest val_loss, not the latest

    model: GPT  # the plain module, which is saved and measured
    step_model: torch.nn.Module | None  # the same for updates: compiled, or data-parallel; None = not yet needed
    new_optimizers: Callable[[], list[torch.optim.Optimizer]]
    optimizers: list[torch.optim.Optimizer]  # empty = not yet needed
    scaler: torch.amp.GradScaler
    batches: Batches
    progress: Progress
    finite: FiniteCheck
    stop: StopRule
    length_setting: str = "max_iters"  # the setting that makes the run longer
    timer: Timer = field(default_factory=Timer)
    log: Metrics | None = None  # of rank 0, once the run writes files; as are the next two
    saver: Saver | None = None
    display: Display | None = None
    watched: Watched | None = None  # of rank 0, with --watch
    start_time: float = 0.0  # of time.perf_counter
    errors: list[torch.Tensor] = field(default_factory=list)  # see Batches.first_errors, of the latest update
    n_known: torch.Tensor | float = 0.0  # stretches that were predicted without error since the last line of metrics
    n_graded: int = 0  # all stretches that were graded since then

    def grade(self, logits: torch.Tensor, y: torch.Tensor, *, replay: bool) -> None:
        """Compare a micro-batch's predictions with its targets y (B, T): collects `errors` and `known`."""
        correct = self.model.predicted_ids(logits) == y
        if self.watched:
            self.watched.note_batch(self.batches.starts, correct)
        if replay:
            self.errors.append(self.batches.first_errors(correct))
        n_known, n_graded = self.batches.count_known(correct, PREFIX, SUFFIX)
        self.n_known, self.n_graded = self.n_known + n_known, self.n_graded + n_graded

    def known_share(self) -> float | None:
        """Share of stretches predicted without error since the last call, on all ranks; None if there were none."""
        n_known, n_graded = self.rt.sum(float(self.n_known), self.n_graded)
        self.n_known, self.n_graded = 0.0, 0
        return n_known / n_graded if n_graded else None

    def schedule_replay(self, plan: Plan) -> None:
        """If planned, repeat the windows that the latest update got wrong in later batches, and check them first."""
        if not plan.replay:
            return
        found, self.errors = torch.cat(self.errors).cpu(), []  # once an update, because this waits for the device
        errors = self.rt.gather(found[found >= 0].tolist())
        self.batches.schedule_replay(errors, self.progress.iter_num)
        if self.stop.target:
            self.stop.target.note_errors(errors)

    def start_timing(self) -> None:
        """Start counting `seconds` from where the checkpoint stopped."""
        self.start_time = time.perf_counter() - self.progress.seconds

    def seconds(self) -> float:
        """Seconds of training so far, earlier runs included."""
        return time.perf_counter() - self.start_time

    def update_progress(self) -> None:
        """Bring `progress` up to date with the objects that hold parts of it."""
        p = self.progress
        p.scaler, p.skipped_updates = self.scaler.state_dict(), int(self.finite.skipped)
        p.seconds = self.seconds()
        p.metrics_bytes = self.log.length if self.log else p.metrics_bytes

    def val_loss(self) -> float:
        """Mean loss on the held-out part, in nats per token."""
        size = dict(batch_size=self.batches.B, eval_iters=self.eval_iters)
        return evaluate_loss(self.model, self.data.val, self.rt, **size)

    def report(self, plan: Plan, loss_sum: torch.Tensor, grad_norm: torch.Tensor, *, logged: bool) -> None:
        """After an update: check that it was finite and, if `logged`, log its figures.

        loss_sum: of this rank's micro-batches.
        """
        step = self.progress.iter_num
        with self.timer.measure("updates", count=0):  # more time of the same update: what follows waits for the device
            self.finite.note(step, loss_sum, grad_norm)
            if logged or self.rt.device.type == "cpu":  # reading a value waits for a GPU, so there only when logging
                self.finite.check_updates(step)
            if not logged:
                return
            loss = self.rt.sum(loss_sum.item())[0] / (self.micro_steps * self.rt.world_size)
            known_share, skipped = self.known_share(), int(self.finite.skipped)
        if not self.rt.is_main:
            return
        figures = dict(epoch=plan.epochs, loss=loss, lr=plan.lr, grad_norm=float(grad_norm), known=known_share)
        if self.scaler.is_enabled():
            figures["skipped"] = skipped
        seconds, count = self.timer.lap("updates")
        tokens_per_s = count * self.tokens_per_iter / seconds
        expected = self.stop.expected_iters()
        self.log.write(step, **figures, updates=expected, tokens_per_s=tokens_per_s, seconds=self.seconds())
        if self.watched:
            self.watched.update(self.model)
        notes = [f"{skipped:,} updates skipped (float16)"] if skipped else []
        notes += [] if known_share is None else [f"knows {known_share:.0%}"]
        self.display.update(
            step,
            expected,
            epoch=plan.epochs,
            loss=loss,
            lr=plan.lr,
            notes=notes,
            tokens_per_s=tokens_per_s,
            seconds_per_iter=self.timer.seconds["updates"] / self.timer.counts["updates"],
        )

    def evaluate_and_save(self) -> None:
        """Measure val_loss and recall, log them, save. May set progress.stop_reason."""
        progress, step = self.progress, self.progress.iter_num
        with self.timer.measure("measuring"):
            loss = self.val_loss() if self.data.val else None
            measured = self._recall()
            self.finite.check_weights(step, self.model, loss)
        if self.watched:
            self.watched.update(self.model, now=True)
        if self.rt.is_main:
            share = measured.share if measured else None
            self.log.write(step, epoch=self.batches.epochs, val_loss=loss, recall=share, seconds=self.seconds())
            figures = [f"val loss {describe_loss(loss, self.data.val)}"] if self.data.val else []
            figures += [f"recall@{PREFIX}/{SUFFIX} {measured}"] if measured else []
            if figures:
                words = f"step {step:,}, epoch {self.batches.epochs:.1f}, {', '.join(figures)}"
                self.display.line(f"evaluated: {words}")
        improved = step > 0 and loss is not None and loss < progress.best_val_loss
        progress.best_val_loss = loss if improved else progress.best_val_loss
        progress.evals_without_gain = 0 if improved or step == 0 else progress.evals_without_gain + 1
        if loss is not None:
            self.stop.check_val_loss(loss)
        if step > 0 or self.stop.last_step:
            with self.timer.measure("saving"):
                self.saver.save_evaluated(improved=improved)
            if not self.stop.last_step:
                self.saver.warn()

    def _recall(self) -> recall.Recall | None:
        """Recall of the whole text if it was just checked, else of a few windows; None if it cannot be measured."""
        if self.stop.errors is not None:  # target_recall was checked just now, and reached
            return recall.Recall.from_errors(self.stop.errors)
        random = self.progress.iter_num == 0 and self.progress.base is None and not self.progress.n_written
        if self.recall_starts is None or random:  # random weights know nothing
            return None
        model = gathered(self.model)
        return recall.measure(model, self.data.train, self.recall_starts, allowed=self.allowed, rt=self.rt)

    def plain_model(self) -> GPT:
        """The model with the full table, as it is saved."""
        return self.model.expanded() if isinstance(self.model, CompactGPT) else self.model

    def checkpoint(self) -> dict:
        """The content of a checkpoint of the current state."""
        self.update_progress()
        return checkpoint.pack(
            model=self.plain_model(),
            optimizers=self.optimizers,
            progress=self.progress,
            config=self.settings,
            tokenizer_description=self.data.tokenizer_description,
            corpus_ids=self.corpus_ids,
        )
