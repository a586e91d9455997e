"""The output matrix of one MLP, solved for block by block: Newton steps of the loss over a whole text.

With heads that copy the last tokens (network/copying_heads.py), what an MLP reads is known before any training. So its
hidden units can be random and its output matrix solved for:

    x (N, C)    residual stream before the MLP, one row for each of N tokens; N of a chunk, where a function gets one
    h (N, F)    gelu(c_fc(ln_2(x))), with a random c_fc; F = 4 C
    W (F, C)    c_proj transposed, what is solved for; it begins as zeros
    z (N, C)    x + h W, which ln_f, a scalar `gain`, and the token table E (V, C) turn into probabilities

One step minimises the loss sum_i w_i -log p_i(y_i) over W by Newton's method. Its gradient with respect to z_i is
proportional to g_i = E[y_i] - sum_v p_i(v) E[v], and its curvature about (1 - p_i(y_i)) |E[y_i]|**2 in all directions.
With the doubt d_i = w_i (1 - p_i(y_i) + FLOOR), the step is the solution D of weighted least squares with a ridge:

    (sum_i d_i h_i h_i' + ridge) D = sum_i d_i h_i t_i',    t_i = g_i / (1 - p_i + FLOOR) / |E|**2 * std(z_i) / gain

Then a search on a sample of the rows, where the logits are linear in the step, finds how far to go, how much of the
last step to add (which makes the steps conjugate gradients) and the gain. The first step has no probabilities yet; its
targets are the rows of the tokens that follow. In all blocks but the last, a step compares the right token with some
of the others (candidates.py).

Whitened hidden units (c_fc times the inverse square root of the covariance of ln_2(x)) see the copied tokens as clearly
in the last block as in the first. Positions, and the mean that a layer norm subtracts, are projected out of everything:
what a token's row holds depends on the tokens before it alone, wherever a window begins.

References: random hidden units with solved outputs, Schmidt et al. 1992; softmax regression by Newton's method,
Böhning 1992; MLPs as memories, Geva et al. 2021, arXiv 2012.14913; closed-form edits, Meng et al. 2023, arXiv
2210.07229; conjugate gradients after preconditioning, Nocedal and Wright, "Numerical Optimization", chapter 5.
docs/LOG.md, "Writing a text in closed form", has what each part brings.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from llm.model import GPT, Block
from llm.network.copying_heads import without_positions
from llm.runtime import Runtime, return_freed_memory
from llm.training.candidates import TokenTable
from llm.training.least_squares import add_product, solution
from llm.training.writing_rows import Chunk, counts_of, matrix_rows, rows_at, some
from llm.training.writing_search import Sample, choose_rows

FIRST_SIZE = 8.0  # of what the first step adds, relative to x: large, so that few tokens of context suffice
FIRST_LOGIT = 20.0  # of a token towards which all of a row points
FIRST_GAINS = (0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0)
UNIT_GAIN = 3.0  # standard deviation of what GELU is applied to
RIDGE = 0.03  # times hidden units per row, times the mean of the diagonal
CLOSED = 1e-4  # probability of all other tokens up to which a row adds nothing to the gradient
FLOOR = 0.005  # doubt about a token that is known for certain
ROWS_PER_UNIT = 24  # rows per hidden unit are enough for the matrix; fewer let a step harm those that are left out
N_SAMPLED = (1000, 2000)  # rows that the search looks at: in steps with some of the tokens, and with all of them
MOVED_TURNS = 8  # of the chunks, one of so many is asked how far a step moves its rows
TRIMMED_ROWS = 50_000  # from which on memory is returned after each step: it takes a while where much is in use
LOGITS_AT_ONCE, GPU_LOGITS_AT_ONCE = 512, 32_768  # rows: few enough for a processor's cache
SETTLED = 1e-4  # share of the tokens in doubt at which there is nothing left to write


@dataclass(frozen=True)
class Step:
    """What a step has done, for progress lines and metrics."""

    number: int  # from 1
    total: int
    block: int  # from 1
    loss: float  # weighted mean, in nats, estimated after the step
    known: float  # share of the tokens that had more than half of the probability of all candidates before it
    tokens: torch.Tensor  # (N,) indices into the text of those that this rank has predicted with their whole context
    p: torch.Tensor  # (N,) their probabilities before it


class Solver:
    """Solves for the MLPs of a model, one after the other, given the residual stream before them."""

    def __init__(
        self,
        model: GPT,
        chunks: list[Chunk],
        rt: Runtime,
        *,
        report: Callable[[Step], None],
        interrupted: Callable[[], bool],
        total: int,
    ):
        self.model, self.chunks, self.rt = model, chunks, rt
        self.report, self.interrupted = report, interrupted
        self.dtype = torch.bfloat16 if rt.dtype == torch.float16 else rt.dtype
        self.table = model.lm_head.weight.detach()
        self.n_other = getattr(model, "n_other", 0)  # tokens that share the last row of a compact table
        self.length = float(self.table.norm(dim=1).mean())  # |E|
        self.w = torch.cat([c.w for c in chunks])  # (N,), of all chunks
        self.tokens = torch.cat([c.at for c in chunks])[(self.w == 1).cpu()]
        counts = rt.add(counts_of(chunks, len(self.table)))
        self.token_table = TokenTable(self.table, counts, n_other=self.n_other, dtype=self.dtype)
        self.candidates = self.token_table.candidates(0, everything=True)
        self.gain = float(model.transformer.ln_f.weight[0])
        self.steps_done, self.total = 0, total
        self.settled = self.compare_all = False  # compare_all: some of the tokens suggest that nothing is left to write
        self.W = self.last = None  # (F, C): what is written of this block so far, and the step before

    # ------------------------------------------------------------------------------------------------ the rows
    def add(self, part: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Add what a part of a block computes to the residual stream."""
        for chunk in self.chunks:
            with self.rt.autocast():
                chunk.x += part(chunk.x)

    def mean_norm(self) -> float:
        """Mean length of the kept rows."""
        total, n = self.rt.sum(sum(float(c.rows.norm(dim=1).sum()) for c in self.chunks), len(self.w))
        return total / n

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C) -> h (N, F), in dtype."""
        weight = self.units.to(self.dtype)
        return self.model.transformer.h[0].mlp.gelu(F.linear(F.layer_norm(x, x.shape[1:]).to(self.dtype), weight))

    def project(self, h: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
        """h W, (N, C) float32."""
        return (h @ W.to(self.dtype)).float()

    # ------------------------------------------------------------------------------------------------ a block
    def write_block(self, n: int, block: Block, units: torch.Tensor, steps: int, generator: torch.Generator) -> bool:
        """Set the MLP of block n to these hidden units (F, C), and add to its output matrix what they can explain.

        False if interrupted, with its output matrix as it was.
        """
        self.units = units.detach().clone()
        block.mlp.c_fc.weight.copy_(self.units)
        self.W, self.last = block.mlp.c_proj.weight.detach().T.clone(), None
        for chunk in self.chunks:
            chunk.rest.fill_(1.0)  # a block begins with all rows, as if it were the first of a resumed run
        is_last, self.compare_all = n + 1 == len(self.model.transformer.h), False
        for k in range(steps):
            if self.settled:
                break
            if self.interrupted():
                return False
            self.candidates = self.token_table.candidates(self.steps_done, everything=is_last or self.compare_all)
            loss, known, p = self.step(generator, first=n == 0 and k == 0)
            self.steps_done += 1
            if len(self.w) > TRIMMED_ROWS:
                return_freed_memory()
            self.report(Step(self.steps_done, self.total, n + 1, loss, known, self.tokens, p))
        block.mlp.c_proj.weight.copy_(self.W.T)
        return True

    def hidden_units(self, block: Block, generator: torch.Generator) -> torch.Tensor:
        """Random rows of c_fc (F, C) that see all directions of ln_2(x) equally, but for the positions."""
        C = self.table.size(1)
        covariance = torch.zeros(C, C, device=self.rt.device)
        for chunk in self.chunks:
            rows = without_positions(self.model, F.layer_norm(chunk.rows, (C,))).to(self.dtype)
            covariance += (rows.T @ rows).float()
        self.rt.add(covariance)
        values, vectors = torch.linalg.eigh(self.exact(covariance) / self.rt.sum(len(self.w))[0])
        inverse_root = values.clamp(min=1e-3 * float(values.mean())) ** -0.5
        random = self.exact(torch.randn(block.mlp.c_fc.weight.shape, generator=generator))
        units = random @ vectors * inverse_root @ vectors.T * UNIT_GAIN / C**0.5
        units *= (C / float((values * inverse_root**2).sum())) ** 0.5
        return self.rt.share(without_positions(self.model, units.float().to(self.rt.device)))

    def exact(self, matrix: torch.Tensor) -> torch.Tensor:
        """The matrix in float64, on a device that has it."""
        return matrix.to("cpu" if self.rt.device.type == "mps" else self.rt.device).double()

    def step(self, generator: torch.Generator, *, first: bool) -> tuple[float, float, torch.Tensor]:
        """One Newton step: changes W and the gain. (loss after it, share of tokens known before it, p of `tokens`)."""
        gram, rhs, doubt, p = self.sums(first, generator)
        full = self.w == 1
        counts = (int((p[full] > 0.5).sum()), int((p[full] < 0.9).sum()), int(full.sum()))
        known, n_doubtful, n = self.rt.sum(*counts)
        if not first and known == n and n_doubtful <= SETTLED * n:
            self.compare_all, self.settled = True, self.candidates.complete
            return float((self.w * -p.clamp(min=1e-6).log()).sum() / self.w.sum()), 1.0, p[full]
        D = self.rt.share(solution(self.exact(gram), self.exact(rhs), RIDGE * len(gram) / n).float().to(self.rt.device))
        sample = self.sample(D, doubt, generator)
        if first:
            size = FIRST_SIZE * self.mean_norm() / self.rt.sum(float(sample.d.norm(dim=1).sum()))[0]
            size *= self.rt.sum(len(sample.d))[0]
            usual = FIRST_LOGIT / (self.length * self.W.size(1) ** 0.5)
            loss, self.gain, momentum = min((sample.loss(size, 0.0, g * usual), g * usual, 0.0) for g in FIRST_GAINS)
        else:
            loss, size, momentum, self.gain = sample.search(self.gain)
        self.last = size * D + (momentum * self.last if momentum else 0.0)
        self.W += self.last
        return loss, known / n, p[full]

    def sums(self, first: bool, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        """(sum of d h h' (F, F), sum of d h t' (F, C)) over all ranks; (d (N,), p (N,)) of this rank's rows.

        Products of h minus a constant m are added up: in bfloat16, h's large mean would drown the rest. In the first
        sum, some rows stand for all. Rows that are certain take turns: p of those that this step does not look at is
        that of an earlier one.
        """
        gram = torch.zeros(len(self.W), len(self.W), device=self.rt.device)
        rhs, m = torch.zeros_like(self.W), None
        share = min(1.0, ROWS_PER_UNIT * len(self.W) / self.rt.sum(len(self.w))[0])
        sum_h, sum_t, sum_d = torch.zeros_like(self.W[:, 0]), torch.zeros_like(self.W[0]), 0.0
        for chunk in self.chunks:
            indices, often = chunk.due(self.steps_done)
            x, y = chunk.some_rows(indices), chunk.y[indices]
            h = self.hidden(x)
            open_, target, rest = self.targets(x, h, y, first)
            d = (rest + FLOOR) * chunk.w[indices]
            chunk.rest[indices] = rest
            m = h.float().mean(0).to(self.dtype) if m is None else m
            centred = h - m
            rhs += (some(centred, open_).T @ (target * d[open_, None]).to(self.dtype)).float()
            sum_t += d[open_] @ target
            drawn, weights = matrix_rows(d, often, share * len(chunk.y), generator)
            centred = some(centred, drawn)
            weighted = centred * weights[:, None].to(self.dtype)
            add_product(gram, weighted, centred)
            sum_h += weighted.float().sum(0)
            sum_d += float(weights.sum())
        m = m.float()
        gram = gram.tril() + gram.tril(-1).T
        gram += torch.outer(sum_h, m) + torch.outer(m, sum_h) + sum_d * torch.outer(m, m)
        rhs += torch.outer(m, sum_t)
        self.rt.add(gram)
        self.rt.add(rhs)
        rest = torch.cat([chunk.rest for chunk in self.chunks])
        return gram, rhs, (rest + FLOOR) * self.w, 1 - rest

    def targets(self, x, h, y, first: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(indices (n,) of the rows that ask for anything, their t (n, C), 1 - p (N,)) of rows x (N, C), h, y (N,)."""
        if first:
            return torch.arange(len(y), device=y.device), F.normalize(self.table, dim=1)[y], torch.ones_like(x[:, 0])
        z = x + self.project(h, self.W)
        normalised = F.layer_norm(z, z.shape[1:])
        std = (z * normalised).mean(1)
        at_once = LOGITS_AT_ONCE if y.device.type == "cpu" else GPU_LOGITS_AT_ONCE
        rests, pulls = [], []
        for part, right in zip((normalised * self.gain).split(at_once), y.split(at_once), strict=True):
            others = self.candidates.probabilities(part, right)
            rests.append(others.sum(1, dtype=torch.float32))  # 1 - p, exact also where p is about 1
            pulls.append((some(others, (rests[-1] > CLOSED).nonzero()[:, 0]) @ self.candidates.table).float())
        rest = torch.cat(rests)
        open_ = (rest > CLOSED).nonzero()[:, 0]
        scale = std / (self.gain * self.length**2) / (rest + FLOOR)
        g = (rest[open_, None] * self.table[y[open_]] - torch.cat(pulls)) * scale[open_, None]
        return open_, g, rest.clamp(max=1.0)

    # ------------------------------------------------------------------------------------------------ the search
    def sample(self, D: torch.Tensor, doubt: torch.Tensor, generator: torch.Generator) -> Sample:
        """Rows for the search: those in most doubt; others are drawn by doubt, weight, and how far D moves them."""
        turns = min(MOVED_TURNS, len(self.chunks))
        moved = [0 * c.w for c in self.chunks]
        for n in range(self.steps_done % turns, len(self.chunks), turns):
            moved[n] = self.project(self.hidden(self.chunks[n].rows), D).square().sum(1)
        size = min(N_SAMPLED[self.candidates.complete], len(self.w))
        indices, importance = choose_rows(doubt, self.w, torch.cat(moved), size, generator)
        x, y = rows_at(self.chunks, indices)
        h = self.hidden(x)
        parts = [x + self.project(h, self.W), self.project(h, D)]
        parts += [] if self.last is None else [self.project(h, self.last)]
        importance /= self.rt.sum(float(self.w.sum()))[0]
        options = dict(table=self.token_table.in_dtype, n_other=self.n_other, rt=self.rt)
        return Sample(parts, y, importance, **options)
