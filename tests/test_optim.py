"""The learning rate and the parameter groups are nanoGPT's."""

import math

import pytest
import torch

from llm import optim

RATE = dict(learning_rate=1.0, min_lr=0.1, warmup_iters=10, lr_decay_iters=100, decay_lr=True)


@pytest.mark.parametrize(
    "step, rate",
    [(0, 1 / 11), (9, 10 / 11), (10, 1.0), (55, 0.55), (99, 0.1 + 0.45 * (1 + math.cos(math.pi * 89 / 90)))]
    + [(100, 0.1), (10**6, 0.1)],
)
def test_rate_rises_falls_and_stays(step, rate):
    assert optim.learning_rate_at(step, **RATE) == pytest.approx(rate)


def test_rate_is_constant_without_decay():
    assert optim.learning_rate_at(3, **RATE | {"decay_lr": False}) == 1.0


def test_warm_up_may_last_longer_than_the_run():
    rates = [optim.learning_rate_at(step, **RATE | {"warmup_iters": 200}) for step in range(150)]
    assert rates == sorted(rates) and rates[-1] < 1.0


def test_warm_up_may_end_where_the_decay_does():
    assert optim.learning_rate_at(100, **RATE | {"warmup_iters": 100}) == 0.1


def test_matrices_and_tables_decay_and_nothing_else_does(tiny_model):
    model = tiny_model(bias=True)
    decay, rest = optim.parameter_groups(model, weight_decay=0.1)
    assert decay["weight_decay"] == 0.1 and rest["weight_decay"] == 0.0
    assert {p.dim() for p in decay["params"]} == {2} and {p.dim() for p in rest["params"]} == {1}
    assert len(decay["params"]) + len(rest["params"]) == len(list(model.parameters()))


def test_an_update_lowers_the_loss_on_its_batch(tiny_model):
    model = tiny_model()
    optimizer = optim.make_optimizer(model, learning_rate=1e-3, weight_decay=0.1, betas=(0.9, 0.95))
    idx = torch.randint(61, (4, 17))
    losses = []
    for _ in range(5):
        loss = model(idx[:, :-1], idx[:, 1:])[1]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
