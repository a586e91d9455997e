"""Device, dtype, seed and torchrun's ranks: decided once, by fixed rules on the hardware, and said in one line.

Rules for "auto": cuda (a ROCm build answers to that name, too), else Apple's mps, else the cpu; bfloat16 arithmetic
where the hardware computes in it, else float32; torch.compile on CUDA GPUs that have Triton. Nothing is timed at start,
so the same seed gives the same run. Weights and optimizer state are float32 everywhere: dtype is what products are
computed in (torch.autocast).
"""

import contextlib
import ctypes
import importlib.util
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist

from llm.configurator import NonNegativeInt, UserError


@dataclass(frozen=True)
class Settings:
    # the machine (the same for every script)
    seed: NonNegativeInt = 1337  # of every random choice: weights, order of the windows, dropout, sampling
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps; auto = cuda, else mps, else cpu
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of products; auto = bfloat16 where there is one
    compile: bool | Literal["auto"] = "auto"  # torch.compile the training step; auto = on CUDA GPUs with Triton


@dataclass(frozen=True)
class Runtime:
    """What was decided, for one process. `rank` counts processes from 0; all of a training have the same world_size."""

    device: torch.device
    dtype: torch.dtype
    compile: bool
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes files."""
        return self.rank == 0

    def autocast(self) -> contextlib.AbstractContextManager:
        """A context in which products are computed in `dtype`."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def sum(self, *numbers: float) -> list[float]:
        """Each number summed over all ranks, in float64."""
        if self.world_size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def either(self, flags: np.ndarray) -> np.ndarray:
        """Bools: true where they are on any rank."""
        if self.world_size == 1:
            return flags
        counts = torch.from_numpy(flags.astype(np.int32))
        dist.all_reduce(counts)
        return counts.numpy() > 0

    def most(self, number: int) -> int:
        """The largest of all ranks' numbers."""
        if self.world_size == 1:
            return number
        largest = torch.tensor(number)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def gather(self, items: list) -> list:
        """The items of all ranks, one after the other."""
        if self.world_size == 1:
            return items
        lists = [None] * self.world_size
        dist.all_gather_object(lists, items)
        return [item for some in lists for item in some]

    def to_device(self, batch: torch.Tensor) -> torch.Tensor:
        """The batch on the device; on CUDA from pinned memory, so that the copy runs beside the computation."""
        if self.device.type == "cuda":
            return batch.pin_memory().to(self.device, non_blocking=True)
        return batch.to(self.device)

    def describe(self) -> str:
        """One line: what was decided and how to override it."""
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        else:
            name = f"{platform.machine()}, {torch.get_num_threads()} threads"
        ranks = f", {self.world_size} processes" if self.world_size > 1 else ""
        dtype, mode = str(self.dtype).removeprefix("torch."), "compiled" if self.compile else "eager"
        return f"{self.device} ({name}){ranks}, {dtype}, {mode} (override with --device, --dtype, --compile)"


def pick_device(name: str, local_rank: int = 0, world_size: int = 1) -> torch.device:
    """The device that a `device` setting names. UserError where this machine lacks it."""
    if name == "auto":
        mps = torch.backends.mps.is_available() and world_size == 1  # one process a GPU, and processes can't share it
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device={name}: expected auto, cpu, cuda, cuda:0 or mps; type --device=auto") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"device={name}: torch finds no CUDA GPU here; type --device=auto or --device=cpu")
        index = device.index if device.index is not None else local_rank
        if index >= torch.cuda.device_count():
            raise UserError(f"device=cuda:{index}: this machine has {torch.cuda.device_count()} GPU(s), counted from 0")
        return torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"device={name}: torch finds no Apple GPU here; type --device=auto or --device=cpu")
    if device.type == "mps" and world_size > 1:
        raise UserError("device=mps: several processes cannot train on it; type --device=cpu, or leave out torchrun")
    if device.type not in ("cpu", "mps"):
        raise UserError(f"device={name}: only cpu, cuda (also ROCm) and mps are supported; type --device=auto")
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware computes in bfloat16 (not: emulates it, which is slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, check, lambda: False)() for check in checks)
    return False


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype that a `dtype` setting names, for training."""
    if name == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    return getattr(torch, name)


def keep_freed_memory() -> None:
    """Tells glibc to keep large freed blocks instead of giving them back to the system, where the C library is glibc.

    A training step on a CPU frees and allocates the same hundreds of megabytes each time, and having the system clear
    them anew took 40 % of it (BENCHMARKS.md).
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: blocks of any size come from the heap ...
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: ... which does not shrink before 2 GiB of its end are free


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be had on the device; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        words = Path("/proc/meminfo").read_text().split()
        return int(words[words.index("MemAvailable:") + 1]) * 1024
    except (OSError, ValueError):  # no Linux
        return None


def peak_memory(device: torch.device) -> int | None:
    """Bytes that this process held at most so far, on the device; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource  # POSIX alone has it

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def start(
    settings: Settings, *, backend: str = "nccl", use: Literal["train", "measure", "sample"] = "train"
) -> Runtime:
    """The runtime of this process; seeds torch, and joins the other ranks where torchrun started several.

    Only training is compiled. To measure, "auto" means float32 on CPUs, where it costs little. Call `stop` at the end.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = pick_device(settings.device, int(os.environ.get("LOCAL_RANK", 0)), world_size)
    dtype = pick_dtype(settings.dtype, device)
    if use == "measure" and settings.dtype == "auto" and device.type == "cpu":
        dtype = torch.float32
    compiled = settings.compile if use == "train" else False
    if compiled == "auto":
        compiled = device.type == "cuda" and importlib.util.find_spec("triton") is not None
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")  # TF32: nanoGPT's choice for what autocast leaves in float32
    if world_size > 1 and not dist.is_initialized():
        # what ranks tell each other beside gradients is on the CPU, so that no GPU is waited for
        dist.init_process_group("gloo" if device.type != "cuda" else f"cpu:gloo,cuda:{backend}")
    torch.manual_seed(settings.seed)
    return Runtime(device, dtype, compiled, rank, world_size)


def compiled_or_eager(
    model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, position_weights: torch.Tensor | None, rt: Runtime
) -> torch.nn.Module:
    """torch.compile's version of the model if a first step with it works, else the model, with one warning."""
    try:
        compiled = torch.compile(model)
        with rt.autocast():
            compiled(x, y, position_weights=position_weights)[1].backward()
        return compiled
    except Exception as e:  # the compiler's errors have no common base: whatever it is, eager works
        reason = (str(e).strip() or type(e).__name__).splitlines()[0][:160]
        notice(f"torch.compile does not work here, going on without it ({reason}); --compile=False leaves it out")
        return model
    finally:
        model.zero_grad(set_to_none=True)


def explained(error: RuntimeError, settings) -> Exception:
    """UserError for those of torch's errors that a user can do something about, else the error. settings: train's."""
    words = str(error)
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in words or "not enough memory" in words:
        return UserError(
            f"out of memory on {settings.device}: lower --batch_size={settings.batch_size} (and raise "
            f"--gradient_accumulation_steps={settings.gradient_accumulation_steps} by as much, which trains the same), "
            f"--block_size={settings.block_size}, or the model's n_layer and n_embd"
        )
    if dist.is_initialized() and any(word in words for word in ("by peer", "NCCL", "gloo", "Broken pipe")):
        return UserError("another process of this training has died; to go on, type the same with --init_from=resume")
    return error


def wait_for_all() -> None:
    """Returns when all ranks are here: one that leaves while another is still at work may be aborted by gloo."""
    if dist.is_initialized():
        dist.barrier()


def stop() -> None:
    """Leave the other ranks, where there are any."""
    if dist.is_initialized():
        dist.destroy_process_group()


def seed_for(seed: int, *counters: int) -> int:
    """A 63-bit seed that depends on all its arguments (numpy's SeedSequence), for a generator of one purpose."""
    return int(np.random.SeedSequence([seed, *counters]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def notice(message: str) -> None:
    """Prints one line for the user on standard error, on rank 0 only."""
    if os.environ.get("RANK", "0") == "0":
        print(message, file=sys.stderr, flush=True)
