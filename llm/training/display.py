"""What a run shows while it trains: a progress bar on a terminal, plain lines in a file. On standard error."""

import contextlib
import sys
import time

from tqdm import tqdm

from llm.training.metrics import clock
from llm.training.writing_solver import Step

BAR = "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


class Display:
    """Shows the progress of one run; does nothing on ranks other than 0.

    On a terminal, the bar counts to the update where the run is expected to end and fits the terminal's width.
    """

    def __init__(self, name: str, *, iter_num: int, seconds: float, enabled: bool):
        """iter_num, seconds: of the run so far, if it is resumed."""
        self.enabled = enabled
        self.bar = None
        self.step_began = time.monotonic()  # of writing
        if enabled and sys.stderr.isatty():
            self.bar = tqdm(
                desc=f"learning {name} ",
                initial=iter_num,
                total=iter_num + 1,
                bar_format=BAR,
                dynamic_ncols=True,
                leave=False,
                file=sys.stderr,
            )
            self.bar.start_t -= seconds

    def update(
        self,
        iter_num: int,
        expected_iters: int,
        *,
        epoch: float,
        loss: float,
        lr: float,
        notes: list[str],
        tokens_per_s: float,
        seconds_per_iter: float,
    ) -> None:
        """Show the figures of update number iter_num; the run is expected to end after expected_iters updates."""
        if not self.enabled:
            return
        if self.bar is not None:
            self.bar.total = expected_iters
            figures = [
                *notes,
                f"loss {loss:.3f}",
                f"{tokens_per_s:,.0f} tokens/s",
            ]  # the last ones may be cut
            self.bar.set_postfix_str(", ".join(figures), refresh=False)
            self.bar.update(iter_num + 1 - self.bar.n)
            return
        left = clock(seconds_per_iter * (expected_iters - iter_num - 1))
        parts = [f"step {iter_num:,}/{expected_iters:,}", f"epoch {epoch:.1f}", f"loss {loss:.4f}", f"lr {lr:.2e}"]
        parts += [*notes, f"{tokens_per_s:,.0f} tokens/s", f"{left} left"]
        self.line(", ".join(parts))

    def writing(self, step: Step) -> None:
        """Show a step of writing the text in closed form."""
        if not self.enabled:
            return
        if self.bar is not None:
            self.bar.total = step.total
            speed = f"{len(step.tokens) / (time.monotonic() - self.step_began):,.0f} tokens/s"
            self.step_began = time.monotonic()
            self.bar.set_postfix_str(f"writing, knew {step.known:.0%} of tokens, {speed}", refresh=False)
            self.bar.update(step.number - self.bar.n)
            return
        words = f"writing block {step.block}, step {step.number:,} of at most {step.total:,}"
        self.line(f"{words}, knew {step.known:.2%} of the tokens, loss now {step.loss:.4f}")

    def line(self, text: str) -> None:
        """Print a line that stays, above the bar."""
        if not self.enabled:
            return
        with contextlib.suppress(OSError):  # neither a log on a full disk nor a closed terminal ends the run
            if self.bar is not None:
                tqdm.write(text, file=sys.stderr)
            else:
                print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the bar; what follows is plain output."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_) -> None:
        self.close()
