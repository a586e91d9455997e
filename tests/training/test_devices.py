"""A training step asks for no value that is on the device: on a GPU, such a question waits until all is computed."""

import dataclasses
from contextlib import ExitStack

import pytest
import torch
from conftest import TINY

from llm import runtime, train
from llm.runtime import Runtime
from llm.training import optim, outputs
from llm.training.run import Plan

META = torch.device("meta")  # its tensors hold no values, so every .item(), .cpu(), .tolist() and float() is an error


@pytest.fixture
def on_meta(prepare, monkeypatch, tmp_path):
    """on_meta(**settings): a run on the meta device, with its settings."""
    monkeypatch.chdir(tmp_path)
    prepare()
    monkeypatch.setattr(runtime, "start", lambda *arguments, **options: Runtime(META, torch.float32, compile=False))

    def on_meta(**settings):
        cfg = dataclasses.replace(TINY, gradient_accumulation_steps=2, block_size=128, **settings)
        with ExitStack() as stack:
            run, cfg = train.set_up(cfg, stack)
        outputs.prepare_updates(run)
        return run, cfg

    return on_meta


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("special", [{}, {"replay": True}, {"short_block": 8}])
def test_an_update_waits_for_nothing(on_meta, optimizer, special):
    run, cfg = on_meta(optimizer=optimizer, replay=0.5, opening_weight=0.5, dropout=0.1)
    plan = Plan(1e-3, 0.0, special.get("replay", False), special.get("short_block", 0))
    for _ in range(2):
        loss_sum, grad_norm = train.update(run, cfg, plan)
        run.report(plan, loss_sum, grad_norm, logged=False)
    assert loss_sum.device == grad_norm.device == META
    assert run.n_graded > 0 or special.get("short_block")  # what is known is estimated, too
    if special.get("replay"):
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            run.schedule_replay(plan)  # once an update, and only while windows are repeated


def test_a_value_that_is_logged_is_waited_for(on_meta):
    """Otherwise the test above could not fail."""
    run, cfg = on_meta()
    plan = Plan(1e-3, 0.0, False, 0)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        run.report(plan, *train.update(run, cfg, plan), logged=True)


@pytest.mark.parametrize("device, fused", [("cpu", True), ("cuda", True), ("mps", True), ("meta", False)])
def test_adamw_is_fused_where_torch_can(device, fused):
    assert optim.has_fused_adamw(torch.device(device)) == fused


def test_the_optimizer_is_fused_on_this_machine(tiny_model):
    settings = dict(learning_rate=1e-3, muon_lr=0.02, weight_decay=0.1, betas=(0.9, 0.95))
    (adamw,) = optim.make_optimizers(tiny_model(), optimizer="adamw", **settings)
    assert all(group["fused"] for group in adamw.param_groups)


def test_the_training_step_is_one_graph_for_the_compiler(tiny_model):
    """torch.compile takes the network and its loss whole, once for each shape: nothing in it depends on a value."""
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    torch._dynamo.reset()
    model = tiny_model().train()
    step = torch.compile(model, fullgraph=True, backend=counter, dynamic=False)
    for seed in range(3):
        idx = torch.randint(61, (4, 17), generator=torch.Generator().manual_seed(seed))
        loss = step(idx[:, :-1], idx[:, 1:], position_weights=torch.ones(16))[1]
        torch.testing.assert_close(loss, model(idx[:, :-1], idx[:, 1:], position_weights=torch.ones(16))[1])
    assert counter.frame_count == 1
