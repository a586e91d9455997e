"""The network is GPT-2: Hugging Face's implementation with the same weights gives the same logits."""

import math

import pytest
import torch
from conftest import hugging_face_gpt2, with_nanogpts_names

from llm.model import GPT, GPTConfig


@pytest.mark.parametrize("gelu, name", [("tanh", "gelu_new"), ("none", "gelu")])
def test_logits_and_loss_equal_hugging_faces(gelu, name):
    reference = hugging_face_gpt2(activation_function=name)
    shape = dict(n_layer=3, n_head=4, n_embd=32, block_size=24, bias=True, vocab_size=97)
    model = GPT(GPTConfig(**shape, dropout=0.0, gelu=gelu)).eval()
    model.load_state_dict(with_nanogpts_names(reference))
    idx = torch.randint(97, (2, 25))
    x, y = idx[:, :-1], idx[:, 1:]
    logits, loss = model(x, y)
    expected = reference(x).logits
    assert expected.std() > 0.5  # logits that differ from each other, or equality would mean nothing
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(expected.flatten(0, 1), y.flatten()))


def test_state_dict_has_nanogpts_names(tiny_model):
    names = set(tiny_model(n_layer=1, bias=True).state_dict())
    layer = ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"]
    assert names == {f"transformer.h.0.{part}.{kind}" for part in layer for kind in ("weight", "bias")} | {
        "transformer.wte.weight",
        "transformer.wpe.weight",
        "transformer.ln_f.weight",
        "transformer.ln_f.bias",
        "lm_head.weight",
    }


def test_no_logit_depends_on_a_later_token(tiny_model):
    model = tiny_model()
    idx = torch.randint(61, (1, 12))
    changed = idx.clone()
    changed[0, 7:] = (changed[0, 7:] + 1) % 61
    before, after = model(idx, idx)[0], model(changed, changed)[0]
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_every_position_has_a_gradient(tiny_model):
    model = tiny_model()
    idx = torch.randint(61, (2, 17))
    model(idx[:, :-1], idx[:, 1:])[1].backward()
    assert (model.transformer.wpe.weight.grad.abs().sum(1) > 0).all()
    assert all(p.grad is not None for p in model.parameters())


def test_targets_of_minus_one_are_left_out(tiny_model):
    model = tiny_model()
    x, y = torch.randint(61, (1, 8)), torch.randint(61, (1, 8))
    masked = torch.where(torch.arange(8) < 5, y, -1)
    torch.testing.assert_close(model(x, masked)[1], model(x[:, :5], y[:, :5])[1])


def test_without_targets_only_the_last_place_is_computed(tiny_model):
    model = tiny_model()
    idx = torch.randint(61, (2, 9))
    logits, loss = model(idx)
    assert loss is None and logits.shape == (2, 1, 61)
    torch.testing.assert_close(logits[:, 0], model(idx, idx)[0][:, -1])


def test_initial_loss_is_that_of_a_uniform_guess():
    torch.manual_seed(0)
    shape = dict(n_layer=6, n_head=6, n_embd=96, block_size=32, vocab_size=500)
    model = GPT(GPTConfig(**shape, bias=False, dropout=0.0, gelu="tanh"))
    idx = torch.randint(500, (4, 33))
    assert model(idx[:, :-1], idx[:, 1:])[1].item() == pytest.approx(math.log(500), abs=0.1)


def test_dropout_is_off_in_evaluation_and_on_in_training(tiny_model):
    model = tiny_model(dropout=0.5)
    idx = torch.randint(61, (1, 8))
    assert torch.equal(model(idx)[0], model(idx)[0])
    model.train()
    assert not torch.equal(model(idx)[0], model(idx)[0])
