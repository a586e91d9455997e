"""How much memory training will take, by the shapes alone: computed before the first update, in microseconds.

Counted for each process, in bytes: float32 weights, gradients and optimizer states, divided by the number of processes
if they are sharded; what the backward pass needs of each block; the logits; DistributedDataParallel's copy of the
gradients; the weights that FSDP gathers. tests/measuring_shards.py compares the sum with the peak that runs reach.
Letters: see model.py; n tokens in a micro-batch.
"""

import os
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from llm import runtime
from llm.model import GPT
from llm.network.sharding import own_part
from llm.runtime import Runtime

# Copies of the logits at once: the logits, their log-probabilities and a gradient. On CPUs, glibc seldom gives a freed
# block of that size to the next one, because it asks for some bytes more to align it: as many as its heap had room for,
# in the median of the runs of tests/measuring_shards.py; it was 5 to 8
LOGITS_COPIES, HEAP_COPIES = 3, 6
LIBRARIES = 1.2e8  # bytes that a process on a CPU takes beyond what it has at its start: threads, kernels, a tokenizer


@dataclass(frozen=True)
class Estimate:
    """Bytes in this process, at the update's instant that takes most."""

    weights: float  # with the copies in which products are computed, and what FSDP gathers
    gradients: float  # with what exchanging them takes, and what Muon makes of them
    optimizer: float
    activations: float
    logits: float
    program: float  # Python, torch and what they have loaded; on GPUs 0, because it is not there

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits + self.program

    def describe(self) -> str:
        """One line: the sum, and its parts in GB."""
        parts = {field.name: getattr(self, field.name) / 1e9 for field in fields(self)}
        words = ", ".join(f"{name} {size:.2f}" for name, size in parts.items() if size >= 0.005)
        return f"memory: about {self.total / 1e9:.2f} GB in each process ({words})"


def block_bytes(model: GPT, rt: Runtime) -> float:
    """What the backward pass needs of a block's forward pass, for each token: see model.py, line by line.

    In the dtype of the products: the inputs of c_attn, c_proj, c_fc, gelu and the MLP's c_proj (C, C, C, 4 C and 4 C),
    q, k and v (3 C), and the attention's weights (nh T; on GPUs never stored); in float32: the inputs of its two layer
    norms.
    """
    c, width = model.config, product_bytes(rt)
    attention = c.n_embd if rt.device.type == "cuda" else c.n_head * c.block_size * (3 if c.dropout else 1)
    return 2 * 4 * c.n_embd + width * (14 * c.n_embd + attention + (2 * c.n_embd if c.dropout else 0))


def product_bytes(rt: Runtime) -> int:
    """Bytes of a number in the dtype of matrix products."""
    return 4 if rt.dtype == torch.float32 else 2


def last_bytes(model: GPT, rt: Runtime) -> float:
    """The same of the last layer norm and the output layer: their inputs."""
    return (4 + product_bytes(rt)) * model.config.n_embd


def activation_bytes(model: GPT, n: int, rt: Runtime) -> float:
    """Activations of n tokens, and the gradients of those of the block whose backward pass runs."""
    c = model.config
    attention = 0 if rt.device.type == "cuda" else 2 * c.n_head * c.block_size
    working = product_bytes(rt) * max(8 * c.n_embd, attention) + last_bytes(model, rt)
    if model.gradient_checkpointing:  # the input of each block; one of them is computed again
        return n * (4 * c.n_embd * c.n_layer + block_bytes(model, rt) + working)
    return n * (block_bytes(model, rt) * c.n_layer + working)


def muon_bytes(n: float, rt: Runtime, *, sharded: bool) -> float:
    """What a step of Muon on n weights of this rank takes for a moment: see optim.py and sharding.change_whole.

    In float32 the directions, and if sharded what is sent, what is received, and whole matrices of it; in the dtype of
    the products three batches of the largest shape, which has two thirds of a block's weights.
    """
    return n * (4 * (4 if sharded else 1) + 3 * product_bytes(rt) * 2 / 3)


def estimate(model: GPT, rt: Runtime, *, n_muon: int, batch_size: int, micro_steps: int, sharded: bool) -> Estimate:
    """The memory of an update of `micro_steps` micro-batches on each rank; the weights may be on the meta device.

    n_muon: weights that Muon trains.
    """
    c, n = model.config, batch_size * model.config.block_size
    n_weights = sum(p.numel() for p in model.parameters())
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    matrices = [p for p in model.transformer.h.parameters() if p.dim() == 2]
    n_matrices = sum(p.numel() for p in matrices)
    n_frozen = sum(p.numel() for p in matrices if not p.requires_grad)
    n_rows = model.transformer.wte.num_embeddings
    n_table = n_rows * c.n_embd if any(p.requires_grad for p in model.transformer.wte.parameters()) else 0
    shares = rt.world_size if sharded else 1

    width = product_bytes(rt)
    weights, gradients = 4 * n_weights / shares, 4 * n_trained / shares
    if shares > 1:  # the tables all the time, and the matrices of two layers; the table's gradient again to send it
        weights += 4 * (n_weights - n_matrices) + width * 3 * 8 * c.n_embd**2
        gradients += 2 * 4 * n_table + (width + 4) * 8 * c.n_embd**2
    elif rt.world_size > 1:
        gradients += 4 * n_trained  # DistributedDataParallel's buckets
    if width == 2:
        weights += 2 * n_rows * c.n_embd
        if shares == 1:  # autocast keeps what it converts of trained matrices; of others, a block's backward pass does
            weights += 2 * (n_matrices - n_frozen + n_frozen / (c.n_layer if model.gradient_checkpointing else 1))
    activations = activation_bytes(model, n, rt)
    logits = n * n_rows * 4 * (LOGITS_COPIES if rt.device.type == "cuda" else HEAP_COPIES)
    kept = gradients if micro_steps > 1 else 4 * n_table * min(2, shares)  # when a backward pass begins
    muon = muon_bytes(n_muon / shares, rt, sharded=shares > 1)
    end = gradients + max(4 * n_table, muon)
    if rt.device.type == "cpu":  # nor does glibc give Muon's blocks to the next pass
        kept += muon
    if end >= activations + logits + kept:  # the end of the update takes more, when the activations are gone
        activations = logits = 0.0
        kept = end
    optimizer = 4 * (2 * n_trained - n_muon) / shares
    return Estimate(weights, kept, optimizer, activations, logits, program_bytes(model, rt))


def held_memory(device: torch.device) -> int | None:
    """Memory that this process holds on the device, in bytes; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):  # no Linux
        return None


def program_bytes(model: GPT, rt: Runtime) -> float:
    """What this process takes on a CPU beside the model's weights; 0 on GPUs, and where nobody can say."""
    held = held_memory(rt.device)
    if rt.device.type != "cpu" or held is None:
        return 0.0
    weights = [own_part(p.detach()) for p in model.parameters() if p.device.type == "cpu"]
    return max(0.0, held - sum(p.numel() * p.element_size() for p in weights)) + LIBRARIES


def warning(needed: Estimate, rt: Runtime, *, batch_size: int, accumulation_steps: int, recompute: bool) -> str:
    """One line if training will hardly fit into the free memory; "" if it will, or if nobody can say.

    recompute: the setting gradient_checkpointing.
    """
    free, held = runtime.free_memory(rt.device), held_memory(rt.device)
    if free is None or held is None:
        return ""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if rt.device.type == "cpu" else 1  # that share this memory
    more = processes * (needed.total - held)
    if more < free:
        return ""
    total = f"{processes * needed.total / 1e9:.1f} GB" + (f" in {processes} processes" if processes > 1 else "")
    return (
        f"training will take about {total}, {more / 1e9:.1f} GB more than now, and {free / 1e9:.1f} GB of memory are "
        f"free: lower --batch_size={batch_size} and raise --gradient_accumulation_steps={accumulation_steps}, "
        + ("" if recompute else "type --gradient_checkpointing=True, ")
        + "or take a smaller model"
    )
