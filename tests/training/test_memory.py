"""The memory that training is estimated to take is what tensors really take."""

import dataclasses

import pytest
import torch

from llm.network import lora
from llm.runtime import Runtime
from llm.training import memory, optim

FLOAT32 = Runtime(torch.device("cpu"), torch.float32, compile=False)
BFLOAT16 = dataclasses.replace(FLOAT32, dtype=torch.bfloat16)
SHAPE = dict(n_layer=3, n_head=4, n_embd=64, block_size=48, vocab_size=300)


def saved_bytes(model, rt):
    """What autograd keeps of a forward pass over 2 windows, the weights and what autocast makes of them left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    weight_shapes = {p.shape for p in model.parameters()} | {p.mT.shape for p in model.parameters() if p.dim() == 2}
    kept = {}

    def pack(tensor):
        if tensor.shape not in weight_shapes:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    x = torch.randint(300, (2, 48))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), rt.autocast():
        model.train()(x, x)
    return sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in weights)


@pytest.mark.parametrize("rt", [FLOAT32, BFLOAT16])
@pytest.mark.parametrize("n_layer", [1, 6])
def test_activations_are_what_autograd_keeps(tiny_model, rt, n_layer):
    model = tiny_model(**SHAPE | dict(n_layer=n_layer))
    n = 2 * 48
    log_probabilities = 4 * n * 300
    expected = n * (memory.block_bytes(model, rt) * n_layer + memory.last_bytes(model, rt)) + log_probabilities
    assert saved_bytes(model, rt) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("rank", [0, 2])
def test_gradients_and_optimizer_states_are_what_a_step_leaves(tiny_model, optimizer, rank):
    model = tiny_model(**SHAPE)
    if rank:
        lora.attach(model, rank, [])
    settings = dict(learning_rate=1e-3, muon_lr=0.02, weight_decay=0.1, betas=(0.9, 0.95))
    optimizers = optim.make_optimizers(model, optimizer=optimizer, **settings)
    n_muon = sum(p.numel() for o in optimizers[1:] for group in o.param_groups for p in group["params"])
    needed = memory.estimate(model, FLOAT32, n_muon=n_muon, batch_size=2, micro_steps=2, sharded=False)
    x = torch.randint(300, (2, 48))
    model.train()(x, x)[1].backward()
    for o in optimizers:
        o.step()
    states = [t for o in optimizers for state in o.state.values() for t in state.values() if t.dim()]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert needed.optimizer == sum(4 * t.numel() for t in states)
    assert needed.weights == sum(4 * p.numel() for p in model.parameters())
    assert needed.gradients >= sum(4 * g.numel() for g in gradients) > 0


def test_what_is_converted_of_frozen_weights_is_kept_by_the_blocks_that_are_not_computed_again(tiny_model):
    model = tiny_model(**SHAPE | dict(n_layer=6, dropout=0.0))
    lora.attach(model, 2, [])
    frozen = {p.shape for p in model.transformer.h.parameters() if p.dim() == 2 and not p.requires_grad}
    kept = {}

    def pack(tensor):
        if tensor.dtype == torch.bfloat16 and tensor.dim() == 2 and tensor.mT.shape in frozen:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    x = torch.randint(300, (2, 48))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), BFLOAT16.autocast():
        model.train()(x, x)
    options = dict(n_muon=0, batch_size=2, micro_steps=2, sharded=False)
    n_kept = sum(t.numel() for t in kept.values()) + 3 * 64 * 64  # nothing before the first block is trained
    whole = memory.estimate(model, BFLOAT16, **options).weights
    model.gradient_checkpointing = True
    assert whole - memory.estimate(model, BFLOAT16, **options).weights == 2 * n_kept * 5 / 6


def test_recomputing_and_sharding_lower_the_estimate(tiny_model):
    model = tiny_model(**SHAPE | dict(n_layer=12))
    options = dict(n_muon=0, batch_size=4, micro_steps=2)
    plain = memory.estimate(model, FLOAT32, sharded=False, **options)
    model.gradient_checkpointing = True
    assert memory.estimate(model, FLOAT32, sharded=False, **options).activations < plain.activations / 3
    two = dataclasses.replace(FLOAT32, world_size=2)
    assert memory.estimate(model, two, sharded=True, **options).optimizer == plain.optimizer / 2


def test_a_line_names_the_parts(tiny_model):
    needed = memory.Estimate(weights=1e9, gradients=2e9, optimizer=4e9, activations=0, logits=0, program=5e8)
    assert needed.describe() == (
        "memory: about 7.50 GB in each process (weights 1.00, gradients 2.00, optimizer 4.00, program 0.50)"
    )


def test_the_warning_counts_what_is_not_held_yet_of_all_processes_on_this_machine(monkeypatch):
    needed = memory.Estimate(weights=1e9, gradients=2e9, optimizer=4e9, activations=0, logits=0, program=0)
    monkeypatch.setattr(memory, "held_memory", lambda _: 1_000_000_000)
    monkeypatch.setattr(memory.runtime, "free_memory", lambda _: 7_000_000_000)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    options = dict(batch_size=8, accumulation_steps=5, recompute=False)
    assert memory.warning(needed, FLOAT32, **options) == ""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert memory.warning(needed, FLOAT32, **options) == (
        "training will take about 14.0 GB in 2 processes, 12.0 GB more than now, and 7.0 GB of memory are free: lower "
        "--batch_size=8 and raise --gradient_accumulation_steps=5, type --gradient_checkpointing=True, or take a "
        "smaller model"
    )
