"""FSDP: spread a model's weights, gradients and optimizer states over the processes of a training.

torch's fully_shard (FSDP2) cuts each weight along its rows. A process keeps its rows, gathers the whole weights of an
attention or MLP when its forward or backward pass begins, and frees them at its end. What differs between a sharded
model and a plain one stands here: every function but `shard` takes either.
References: ZeRO, stage 3, Rajbhandari et al. 2020, arXiv 1910.02054; PyTorch FSDP, Zhao et al. 2023, arXiv 2304.11277.
"""

import copy
from collections.abc import Callable

import torch
import torch.distributed as dist

from llm.model import GPT
from llm.runtime import Runtime, return_freed_memory


def shard(model: GPT, rt: Runtime) -> GPT:
    """The model, sharded in place over all ranks, on this rank's device.

    Weights are kept in float32. Those of the blocks' matrices are gathered in the dtype of the products, to which
    autocast would convert them anyway, and their gradients added up in float32: so a step computes what a plain one
    does. The tables and layer norms are gathered in float32, once for a forward and a backward pass.
    """
    from torch.distributed.device_mesh import init_device_mesh  # with what follows, half a second of imports
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(rt.device.type, (rt.world_size,))
    products = MixedPrecisionPolicy(param_dtype=rt.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    object.__setattr__(model, "skeleton", on_meta(model))  # for `gathered`; no part of the model
    for block in model.transformer.h:
        for layer in (block.attn, block.mlp):
            fully_shard(layer, mesh=mesh, reshard_after_forward=True, mp_policy=products)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)  # what is left
    if rt.device.type == "cpu":
        return_freed_memory()  # of the whole weights
    return model.to(rt.device)  # what is no weight, such as the corpus softmax's look-up


def release(model: GPT) -> None:
    """Let go of the process groups of a sharded model that is not needed any more.

    Its mesh holds them, and torch's caches of sharded operations hold the mesh; runtime.stop says why they must not.
    """
    if is_sharded(model):
        getattr(next(model.parameters()).device_mesh, "_pg_registry", {}).clear()


def on_meta(model: GPT) -> GPT:
    """A copy of a model that is not one of FSDP's, its parameters on the meta device."""
    parameters = {}
    for p in model.parameters():
        parameters[id(p)] = torch.nn.Parameter(torch.empty(p.shape, dtype=p.dtype, device="meta"), p.requires_grad)
    return copy.deepcopy(model, parameters)


def is_sharded(x: torch.Tensor | GPT) -> bool:
    """Whether a tensor is one of FSDP's (a DTensor), or the weights of a model are."""
    return hasattr(next(x.parameters()) if isinstance(x, GPT) else x, "full_tensor")


def gathered(model: GPT) -> GPT:
    """The model with all weights on this rank, for code that reads them; all ranks must come here together.

    A plain model is returned itself. Of a sharded one, it is a copy, which takes its memory until it is dropped.
    """
    if not is_sharded(model):
        return model
    plain = copy.deepcopy(model.__dict__.get("skeleton") or on_meta(model))
    complete, weights = {}, dict(model.named_parameters(remove_duplicate=False))
    for p in weights.values():  # tied weights once
        if id(p) not in complete:
            complete[id(p)] = whole(p.detach())
    plain.load_state_dict({name: complete[id(p)] for name, p in weights.items()}, assign=True)
    return plain.to(next(iter(complete.values())).device).train(model.training)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with all of its rows, on every rank; all ranks must come here together."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """The rows of the tensor that this rank holds; they share its memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def row_range(n_rows: int, rank: int, world_size: int) -> tuple[int, int]:
    """(begin, end) of the rows that a rank holds, cut as torch.chunk cuts: 5 rows over 4 ranks -> 2, 2, 1, 0."""
    size = -(-n_rows // world_size)
    return min(n_rows, rank * size), min(n_rows, (rank + 1) * size)


def cut_like(tensor: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """The whole tensor, sharded as `p` of its shape is; itself if `p` is plain. Nothing is sent."""
    if not is_sharded(p) or tensor.shape != p.shape:
        return tensor
    begin, end = row_range(len(p), p.device_mesh.get_local_rank(), p.device_mesh.size())
    rows = tensor[begin:end].to(p.device, copy=True)  # a view would keep the whole tensor
    return type(p.data).from_local(rows, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride())


def select_rows(table: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """table[numbers], sharded if the table is; all ranks must come here together."""
    rows = whole(table)[numbers]
    if not is_sharded(table):
        return rows
    begin, end = row_range(len(rows), table.device_mesh.get_local_rank(), table.device_mesh.size())
    options = dict(run_check=False, shape=rows.shape, stride=rows.stride())
    return type(table).from_local(rows[begin:end].clone(), table.device_mesh, table.placements, **options)


def change_whole(matrices: list[torch.Tensor], change: Callable[[list[torch.Tensor]], None]) -> None:
    """Let `change` overwrite matrices in place, each with all of its rows.

    Sharded ones are dealt out: each rank gathers some of them, as many numbers as it holds anyway, changes them, and
    sends the rows back (as Muon does in microsoft/dion, and in Liu et al. 2025, arXiv 2502.16982).
    """
    if not is_sharded(matrices[0]):
        return change(matrices)
    mesh = matrices[0].device_mesh
    group, rank, n_ranks = mesh.get_group(), mesh.get_local_rank(), mesh.size()
    by_size = sorted(range(len(matrices)), key=lambda i: -matrices[i].numel())
    owned = [by_size[r::n_ranks] for r in range(n_ranks)]
    parts, mine = [own_part(m) for m in matrices], [matrices[i] for i in owned[rank]]
    ranges = [[row_range(len(m), r, n_ranks) for m in mine] for r in range(n_ranks)]  # of my matrices, on rank r
    sent = [sum(parts[i].numel() for i in owned[r]) for r in range(n_ranks)]  # numbers to rank r
    received = [sum((e - b) * m.size(1) for (b, e), m in zip(ranges[r], mine, strict=True)) for r in range(n_ranks)]

    to_owners = torch.cat([parts[i].reshape(-1) for numbers in owned for i in numbers])
    rows = to_owners.new_empty(sum(received))
    dist.all_to_all_single(rows, to_owners, received, sent, group=group)
    complete = [rows.new_empty(m.shape) for m in mine]
    places = [c[b:e] for r in range(n_ranks) for (b, e), c in zip(ranges[r], complete, strict=True)]
    for place, piece in zip(places, rows.split([place.numel() for place in places]), strict=True):
        place.copy_(piece.view_as(place))
    if complete:
        change(complete)
    torch.cat([place.reshape(-1) for place in places], out=rows)
    dist.all_to_all_single(to_owners, rows, sent, received, group=group)
    pieces = to_owners.split([parts[i].numel() for numbers in owned for i in numbers])
    for i, piece in zip([i for numbers in owned for i in numbers], pieces, strict=True):
        parts[i].copy_(piece.view_as(parts[i]))
