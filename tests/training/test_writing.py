"""Writing a text in closed form: what is solved for is right, and the whole text is known afterwards."""

import dataclasses
import multiprocessing
import os
import socket

import pytest
import torch

from llm import runtime
from llm.model import GPTConfig
from llm.network.copying_heads import context_length, later_offsets, set_copying_heads
from llm.network.corpus_softmax import CompactGPT
from llm.training import writing, writing_rows, writing_shape, writing_solver
from llm.training.least_squares import add_product, solution
from llm.training.writing_search import Sample, choose_rows, with_others

SHAPE = dict(n_layer=3, n_head=4, n_embd=64, block_size=64, bias=False, vocab_size=60, dropout=0.0, gelu="tanh")
CONTEXT = context_length(SHAPE["n_layer"], SHAPE["n_head"])
CPU = runtime.Runtime(torch.device("cpu"), torch.float32, compile=False)


def new_model():
    torch.manual_seed(0)
    model = CompactGPT(GPTConfig(**SHAPE), list(range(50)))
    set_copying_heads(model, torch.Generator().manual_seed(0))
    return model


def random_text(n=600):
    return torch.randint(50, (n,), generator=torch.Generator().manual_seed(3))


def solver_before_block(model, n, tokens, rt=CPU):
    """A Solver that has written the blocks before block n and chosen the hidden units of block n."""
    generator = torch.Generator().manual_seed(1)
    chunks = writing_rows.chunks_of(model, tokens, rt, seed=0, context=CONTEXT)
    solver = writing_solver.Solver(model, chunks, rt, report=lambda step: None, interrupted=lambda: False, total=9)
    for k, block in enumerate(model.transformer.h[: n + 1]):
        if k == 0:
            solver.add(lambda x, block=block: block.attn(block.ln_1(x)))
        if k < n:
            assert solver.write_block(k, block, solver.hidden_units(block, generator), 1, generator)
            solver.add(lambda x, block=block: block.mlp(block.ln_2(x)))
    block = model.transformer.h[n]
    solver.units, solver.last = solver.hidden_units(block, generator), None
    solver.W = torch.zeros(len(solver.units), SHAPE["n_embd"])
    solver.candidates = solver.token_table.candidates(0, everything=True)
    return solver


@torch.no_grad()
@pytest.mark.parametrize("block", [0, 1])
def test_the_solution_equals_dense_least_squares(block, monkeypatch):
    monkeypatch.setattr(writing_rows, "SURE_SHARE", 1.0)  # all rows
    monkeypatch.setattr(writing_solver, "ROWS_PER_UNIT", 10**6)
    solver = solver_before_block(new_model(), block, random_text())
    first = block == 0
    gram, rhs, doubt, _ = solver.sums(first, torch.Generator())
    ridge = writing_solver.RIDGE * len(gram) / 600 * gram.diagonal().mean()
    D = torch.linalg.solve((gram + ridge * torch.eye(len(gram))).double(), rhs.double())
    h = torch.cat([solver.hidden(c.rows) for c in solver.chunks]).double()
    parts = [solver.targets(c.rows, solver.hidden(c.rows), c.y, first)[:2] for c in solver.chunks]
    zeros = [torch.zeros(len(c.y), SHAPE["n_embd"]) for c in solver.chunks]
    target = torch.cat([zero.index_copy(0, *part) for zero, part in zip(zeros, parts, strict=True)]).double()
    root = doubt.double().sqrt()[:, None]
    rows = torch.cat([h * root, ridge.double().sqrt() * torch.eye(h.size(1), dtype=torch.float64)])
    aims = torch.cat([target * root, torch.zeros(h.size(1), target.size(1), dtype=torch.float64)])
    expected = torch.linalg.lstsq(rows, aims).solution
    assert torch.allclose(D, expected, atol=2e-4 * expected.abs().max().item(), rtol=0)


@torch.no_grad()
def test_the_targets_follow_the_gradient_of_the_loss():
    solver = solver_before_block(new_model(), 1, random_text())
    chunk = solver.chunks[0]
    x = chunk.rows
    open_, target, rest = solver.targets(x, solver.hidden(x), chunk.y, first=False)
    with torch.enable_grad():
        z = torch.nn.functional.layer_norm(x, x.shape[1:]).requires_grad_()  # what the loss is about, before the gain
        logits = with_others(z * solver.gain @ solver.table.T, solver.n_other)
        loss = torch.nn.functional.cross_entropy(logits, chunk.y, reduction="none")
        (gradient,) = torch.autograd.grad(loss.sum(), z)
    assert torch.nn.functional.cosine_similarity(-gradient[open_], target).min() > 0.999
    assert torch.allclose(1 - rest, (-loss).exp(), atol=1e-5)


@torch.no_grad()
def test_rows_that_are_certain_take_turns():
    solver = solver_before_block(new_model(), 1, random_text())
    chunk = solver.chunks[0]
    certain = torch.arange(len(chunk.y)) % 3 == 0
    chunk.rest[:] = torch.where(certain, 1e-7, 0.5)
    seen = torch.zeros(len(chunk.y))
    for step in range(4):
        indices, often = chunk.due(step)
        seen[indices] += often  # 1 in all for a row that is certain, 4 for the others
        assert torch.equal(chunk.some_rows(indices), chunk.rows[indices])
    assert torch.equal(seen, torch.where(certain, 0.25, 4.0))


@torch.no_grad()
def test_a_step_never_raises_the_loss_on_its_sample(monkeypatch):
    solver, losses = solver_before_block(new_model(), 1, random_text()), []
    search = Sample.search
    monkeypatch.setattr(
        Sample, "search", lambda sample, gain: losses.append(sample.loss(0.0, 0.0, gain)) or search(sample, gain)
    )
    for _ in range(4):
        before = solver.gain
        loss, *_ = solver.step(torch.Generator().manual_seed(2), first=False)
        assert loss <= losses[-1]
        assert before > 0
    assert losses[-1] < losses[0] / 2


@torch.no_grad()
def test_the_sample_estimates_the_loss_of_all_rows(monkeypatch):
    monkeypatch.setattr(writing_solver, "N_SAMPLED", (400, 400))
    solver = solver_before_block(new_model(), 1, random_text(2000))
    _, _, doubt, p = solver.sums(False, torch.Generator())
    D = torch.randn(solver.W.shape) * 0.01
    sample = solver.sample(D, doubt, torch.Generator().manual_seed(5))
    loss = float((-p.log() * solver.w).sum() / solver.w.sum())
    assert sample.loss(0.0, 0.0, solver.gain) == pytest.approx(loss, rel=0.2)


def test_rows_of_the_matrix_stand_for_all_and_fill_it_up_where_most_are_sure():
    d, often, generator = torch.full((4000,), 0.005), torch.ones(4000), torch.Generator().manual_seed(1)
    d[:100] = 0.9
    counts, sums = [], []
    for _ in range(20):
        drawn, weights = writing_rows.matrix_rows(d, often, 1000, generator)
        counts.append(len(drawn))
        sums.append(float(weights.sum()))
        assert (drawn < 100).sum() > 60  # the rows in doubt, at three times the chance of the others
    assert 900 < sum(counts) / 20 < 1100 and sum(sums) / 20 == pytest.approx(float(d.sum()), rel=0.02)
    assert len(writing_rows.matrix_rows(d, often, 10**6, generator)[0]) == 4000


def test_the_rows_of_the_search_are_those_in_most_doubt_and_a_fair_sample_of_the_others():
    generator = torch.Generator().manual_seed(1)
    doubt, w, moved = torch.rand(5000, generator=generator) ** 9, torch.ones(5000), torch.zeros(5000)
    sums = []
    for _ in range(30):
        indices, importance = choose_rows(doubt, w, moved, 600, generator)
        assert set(doubt.topk(200).indices.tolist()) <= set(indices.tolist())
        assert len(indices) == 600 and (indices.diff() >= 0).all()
        sums.append(float((importance * doubt[indices]).sum()))
    assert sum(sums) / 30 == pytest.approx(float(doubt.sum()), rel=0.02)


def test_every_token_is_a_target_once_with_its_whole_context():
    tokens, model = random_text(500), new_model()
    chunks = writing_rows.chunks_of(model, tokens, CPU, seed=0, context=CONTEXT)
    full = torch.cat([c.y[c.w == 1] for c in chunks])
    opening = torch.cat([c.y[(c.w > 0) & (c.w < 0.1)] for c in chunks])
    assert len(full) + len(opening) == len(tokens) - 1
    counts = torch.bincount(model.rows_of(tokens[1:]), minlength=51)
    assert torch.equal(torch.bincount(torch.cat([full, opening]), minlength=51), counts)


def write(rt=CPU, tokens=None, **options):
    model = new_model()
    tokens = random_text() if tokens is None else tokens
    done = writing.write(model, tokens, rt, seed=7, **options)
    return model, done


@torch.no_grad()
def test_a_text_is_known_afterwards_at_any_place_of_a_window_and_from_short_prompts():
    tokens = random_text()
    model, done = write(tokens=tokens)
    assert done
    for start in (0, 1, 77, 250, 535):
        window = tokens[start : start + 65]
        predicted = model.predicted_ids(model(window[None, :-1], window[None, 1:])[0])[0]
        assert (predicted == window[1:])[8:].all()


def test_the_same_seed_gives_the_same_weights_and_a_resumed_call_too():
    seen, text = [], random_text(3000)
    whole, _ = write(tokens=text, block_written=seen.append)
    assert seen == [1, 2, 3]
    model = new_model()
    steps = []

    def interrupted():
        return bool(steps) and steps[-1].block == 2

    assert not writing.write(model, text, CPU, seed=7, report=steps.append, interrupted=interrupted)
    assert writing.write(model, text, CPU, seed=7, first_block=1)
    for a, b in zip(whole.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)


def window_loss(model):
    """Loss of a window's tokens, but for the first, which have too little context."""
    window = random_text()[100:165]
    targets = window[None, 1:].clone()
    targets[:, :8] = -1
    return model(window[None, :-1], targets)[1].item()


@torch.no_grad()
def test_a_further_round_adds_to_what_the_last_block_holds(monkeypatch):
    monkeypatch.setattr(writing, "LAST_BLOCK", 1)
    monkeypatch.setattr(writing_solver, "SETTLED", -1.0)  # goes on however well the text is known
    tokens, first, further = random_text(3000), [], []
    model, _ = write(tokens=tokens, report=first.append)
    before = {name: p.clone() for name, p in model.named_parameters()}
    monkeypatch.setattr(writing, "LAST_BLOCK", 2)
    assert writing.write(model, tokens, CPU, seed=8, again=True, report=further.append)
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert set(changed) <= {"transformer.h.2.mlp.c_proj.weight", "transformer.ln_f.weight"} and len(changed) == 2
    assert {step.block for step in further} == {3} and further[-1].loss < first[-1].loss


@torch.no_grad()
def test_a_further_round_reads_what_the_model_s_heads_copy_not_what_a_new_model_s_would(monkeypatch):
    """A model that was written by another rule, as by an earlier version, has a second block that copies."""
    monkeypatch.setattr(writing_solver, "SETTLED", -1.0)  # goes on however well the text is known
    monkeypatch.setattr(writing, "context_length", lambda *shape: 23)  # the same windows for both
    tokens, models = random_text(), []
    for reach in (64, 3):
        torch.manual_seed(0)
        model = CompactGPT(GPTConfig(**SHAPE | dict(n_layer=8)), list(range(50)))
        monkeypatch.setattr(writing, "needed_context", lambda tokens: 64)
        assert writing.write(model, tokens, CPU, seed=7)
        monkeypatch.setattr(writing, "needed_context", lambda tokens, reach=reach: reach)
        assert writing.write(model, tokens, CPU, seed=8, again=True)
        models.append(model)
    assert len(later_offsets(8, 4, 64)) == 2 and len(later_offsets(8, 4, 3)) == 1
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))


def rank(number, port, queue):
    os.environ |= dict(RANK=str(number), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rt = dataclasses.replace(CPU, rank=number, world_size=2)
    model, done = write(rt)
    loss = window_loss(model)
    queue.put((number, done, loss, float(sum(p.double().sum() for p in model.parameters()))))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_hold_the_same_model_and_know_as_much_as_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=rank, args=(n, port, queue)) for n in range(2)]
    for process in processes:
        process.start()
    found = sorted(queue.get(timeout=100) for _ in processes)
    for process in processes:
        process.join(30)
    (_, done, loss, total), (_, other_done, other_loss, other_total) = found
    assert done and other_done and total == other_total and loss == other_loss
    model, _ = write()
    assert loss < 0.05 and window_loss(model) < 0.05


def test_sums_of_two_ranks_add_up_to_those_of_one(monkeypatch):
    """Both halves of the windows, summed, are what one rank sums; nothing is left out or counted twice."""
    monkeypatch.setattr(writing_rows, "SURE_SHARE", 1.0)
    monkeypatch.setattr(writing_solver, "ROWS_PER_UNIT", 10**6)
    tokens, parts = random_text(), []
    units = None
    for rt in (CPU, *(dataclasses.replace(CPU, rank=n, world_size=2) for n in range(2))):
        monkeypatch.setattr(runtime.Runtime, "sum", lambda self, *numbers: list(numbers))
        monkeypatch.setattr(runtime.Runtime, "add", lambda self, tensor: tensor)
        monkeypatch.setattr(runtime.Runtime, "share", lambda self, tensor: tensor)
        model = new_model()
        with torch.no_grad():
            solver = solver_before_block(model, 0, tokens, rt)
            units = solver.units if units is None else units
            solver.units = units
            parts.append(solver.sums(True, torch.Generator())[:2])
    for k in range(2):
        assert torch.allclose(parts[1][k] + parts[2][k], parts[0][k], atol=1e-3 * parts[0][k].abs().max().item())


@pytest.mark.parametrize(
    ("n_tokens", "n_layer", "n_embd", "steps"),
    [(21_544, 6, 384, 2), (50_077, 6, 384, 5), (8_975, 4, 256, 3), (206_258, 13, 832, 2), (10**6, 23, 1472, 4)],
)
def test_steps_follow_from_the_parameters_and_units_per_token(n_tokens, n_layer, n_embd, steps):
    assert writing_shape.steps_per_block(n_tokens, n_layer, n_embd) == steps
    assert writing_shape.steps_per_block(10**8, n_layer, n_embd) == writing_shape.MAX_STEPS


@torch.no_grad()
def test_a_symmetric_product_is_summed_in_parts():
    a, weights = torch.randn(50, 13), torch.rand(50)
    total = torch.zeros(13, 13)
    for _ in range(2):
        add_product(total, a * weights[:, None], a)
    assert torch.allclose(total.tril(), 2 * (a.T * weights @ a).tril(), atol=1e-4)


def test_a_matrix_that_rounding_makes_indefinite_gets_a_larger_ridge():
    torch.manual_seed(0)
    rows = torch.randn(40, 60, dtype=torch.float64)
    gram, rhs = rows.T @ rows, torch.randn(60, 3, dtype=torch.float64)
    gram -= 1e-3 * torch.eye(60, dtype=torch.float64)  # 20 eigenvalues are negative now
    found = solution(gram.clone(), rhs, ridge=1e-6)
    assert torch.isfinite(found).all()
    with pytest.raises(torch.linalg.LinAlgError):
        solution(torch.full_like(gram, float("nan")), rhs, ridge=1e-6)
    regular = gram + 1e-2 * torch.eye(60, dtype=torch.float64)
    expected = torch.linalg.solve(regular + 0.1 * regular.diagonal().mean() * torch.eye(60, dtype=torch.float64), rhs)
    assert torch.allclose(solution(regular.clone(), rhs, ridge=0.1), expected)
