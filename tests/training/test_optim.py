"""AdamW's parameter groups are nanoGPT's, and Muon's updates are orthogonal."""

import pytest
import torch

from llm.training import optim


def make(model, optimizer, **changes):
    settings = dict(learning_rate=1e-3, muon_lr=0.02, weight_decay=0.1, betas=(0.9, 0.95))
    return optim.make_optimizers(model, optimizer=optimizer, **settings | changes)


def test_matrices_and_tables_decay_and_nothing_else_does(tiny_model):
    model = tiny_model(bias=True)
    (adamw,) = make(model, "adamw")
    decay, rest = adamw.param_groups
    assert decay["weight_decay"] == 0.1 and rest["weight_decay"] == 0.0
    assert {p.dim() for p in decay["params"]} == {2} and {p.dim() for p in rest["params"]} == {1}
    assert len(decay["params"]) + len(rest["params"]) == len(list(model.parameters()))


def test_muon_gets_the_blocks_matrices_and_adamw_the_rest(tiny_model):
    model = tiny_model(bias=True)
    adamw, muon = make(model, "muon")
    names = {id(p): name for name, p in model.named_parameters()}
    of_muon = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    of_adamw = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert of_muon == {
        n for n in names.values() if ".h." in n and n.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"))
    }
    assert of_muon.isdisjoint(of_adamw) and of_muon | of_adamw == set(names.values())


def test_every_group_is_set_to_the_same_fraction_of_its_own_rate(tiny_model):
    optimizers = make(tiny_model(), "muon")
    optim.set_learning_rate(optimizers, 0.5)
    assert [group["lr"] for o in optimizers for group in o.param_groups] == [5e-4, 5e-4, 0.01]


@pytest.mark.parametrize("shape", [(8, 8), (8, 32)])
def test_orthogonalise_brings_singular_values_near_one_and_keeps_their_directions(shape):
    torch.manual_seed(0)
    u, _, vt = torch.linalg.svd(torch.randn(3, *shape), full_matrices=False)
    spread = u @ torch.diag_embed(torch.logspace(0, -1.5, 8).expand(3, 8)) @ vt
    singular = torch.linalg.svdvals(optim.orthogonalise(spread, torch.bfloat16).float())
    assert singular.min() > 0.4 and singular.max() < 2.0  # from 0.03 to 1, scaled by the norm
    alignment = (u.mT @ optim.orthogonalise(spread, torch.bfloat16).float() @ vt.mT).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(alignment.sort().values, singular.sort().values, rtol=0.05, atol=0.05)


def test_muon_treats_q_k_and_v_as_three_matrices_and_scales_tall_ones(tiny_model):
    """One step from zero momentum: the update is the orthogonalised gradient of each part, times the rate."""
    model = tiny_model(n_layer=1)
    block = model.transformer.h[0]
    _, muon = make(model, "muon")
    muon.param_groups[0]["momentum"] = 0.0
    before = {name: p.detach().clone() for name, p in block.named_parameters()}
    idx = torch.randint(61, (4, 17))
    model(idx[:, :-1], idx[:, 1:])[1].backward()
    muon.step()
    for name, parts, scale in (("attn.c_attn", 3, 1), ("mlp.c_fc", 1, 2), ("mlp.c_proj", 1, 1)):
        weight = block.get_parameter(f"{name}.weight")
        for old, new, g in zip(
            before[f"{name}.weight"].chunk(parts), weight.chunk(parts), weight.grad.chunk(parts), strict=True
        ):
            wide = g if len(g) <= g.size(1) else g.mT
            expected = optim.orthogonalise(wide[None], torch.bfloat16)[0].float()
            expected = expected if wide is g else expected.mT
            torch.testing.assert_close(new, old - 0.02 * scale * expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_updates_lower_the_loss_on_their_batch(tiny_model, optimizer):
    model = tiny_model()
    optimizers = make(model, optimizer, muon_lr=0.005)
    idx = torch.randint(61, (4, 17))
    losses = []
    for _ in range(5):
        loss = model(idx[:, :-1], idx[:, 1:])[1]
        loss.backward()
        for o in optimizers:
            o.step()
        model.zero_grad()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_muon_computes_in_the_dtype_of_training_but_never_in_float16(tiny_model, dtype):
    """Float32 throughout where it is asked for: bfloat16 products differ between processors."""
    model = tiny_model(n_layer=1)
    _, muon = make(model, "muon", dtype=dtype)
    assert muon.dtype == (torch.bfloat16 if dtype == torch.float16 else dtype)
    exact, rounded = (optim.orthogonalise(torch.randn(1, 8, 32), kind) for kind in (torch.float32, torch.bfloat16))
    assert exact.dtype == torch.float32 and rounded.dtype == torch.bfloat16
