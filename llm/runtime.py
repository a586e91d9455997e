"""Device, dtype, seed and torchrun's ranks: chosen once, by fixed rules, and printed in one line.

Rules for "auto". device: cuda (ROCm builds use that name, too), else Apple's mps, else cpu. dtype: bfloat16 on GPUs
that support it and on CPUs where it is faster than float32 (see `cpu_has_fast_bfloat16`), else float32. compile: on
CUDA GPUs with Triton. Nothing is timed at start, so the same seed gives the same run. Weights and optimizer states are
always float32: dtype is what matrix products are computed in (torch.autocast).
"""

import contextlib
import ctypes
import dataclasses
import functools
import gc
import importlib.util
import os
import platform
import sys
import traceback
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist

from llm import processes
from llm.configurator import NonNegativeInt, UserError
from llm.terminal import visible


@dataclass(frozen=True)
class Settings:
    # the machine (the same for every script)
    seed: NonNegativeInt = 1337  # of every random choice: weights, order of the windows, dropout, sampling
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps; auto = cuda, else mps, else cpu
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of matrix products; auto: see runtime.py
    compile: bool | Literal["auto"] = "auto"  # torch.compile the training step; auto = on CUDA GPUs with Triton


@dataclass(frozen=True)
class Runtime:
    """What `start` chose for this process. `rank` counts the processes of a training from 0 to world_size - 1."""

    device: torch.device
    dtype: torch.dtype  # of matrix products
    compile: bool
    rank: int = 0
    world_size: int = 1
    measure_dtype: torch.dtype | None = None  # of matrix products in measurements; None = dtype
    dtype_rule: str = ""  # why dtype="auto" means this dtype, in words; "" = it was set, or needs no reason

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes files."""
        return self.rank == 0

    def measuring(self) -> "Runtime":
        """The runtime for measurements: never compiled, and on CPUs in float32 unless dtype was set."""
        return dataclasses.replace(self, dtype=self.measure_dtype or self.dtype, compile=False)

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

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """Add up the tensor over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def share(self, tensor: torch.Tensor) -> torch.Tensor:
        """Make all ranks hold rank 0's tensor, in place."""
        if self.world_size > 1:
            dist.broadcast(tensor, 0)
        return tensor

    def either(self, flags: np.ndarray) -> np.ndarray:
        """Element-wise "or" of bool arrays over all ranks."""
        if self.world_size == 1:
            return flags
        counts = torch.from_numpy(flags.astype(np.int32))
        dist.all_reduce(counts)
        return counts.numpy() > 0

    def max(self, number: int) -> int:
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
        return [item for items in lists for item in items]

    def to_device(self, batch: torch.Tensor) -> torch.Tensor:
        """The batch on the device; on CUDA from pinned memory, so that the copy runs beside the computation."""
        if self.device.type == "cuda":
            return batch.pin_memory().to(self.device, non_blocking=True)
        return batch.to(self.device)

    def describe(self) -> str:
        """One line: what was chosen and how to override it."""
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        else:
            name = f"{platform.machine()}, {torch.get_num_threads()} threads"
        ranks = f", {self.world_size} processes" if self.world_size > 1 else ""
        dtype, mode = str(self.dtype).removeprefix("torch."), "compiled" if self.compile else "eager"
        rule = f" ({self.dtype_rule})" if self.dtype_rule else ""
        return f"{self.device} ({name}){ranks}, {dtype}{rule}, {mode} (override with --device, --dtype, --compile)"


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


def cpu_has_fast_bfloat16(vendor: str, flags: Collection[str]) -> bool:
    """Whether bfloat16 products are faster than float32 ones: with AMX, or on AMD with AVX-512-BF16.

    Intel's AVX-512-BF16 without AMX computes them at half the rate of float32 (docs/LOG.md, "bfloat16 on CPUs").
    vendor: such as "AuthenticAMD"; flags: such as "avx512_bf16"; both as /proc/cpuinfo names them.
    """
    return "amx_bf16" in flags or (vendor == "AuthenticAMD" and "avx512_bf16" in flags)


@functools.cache
def cpu_vendor_and_flags() -> tuple[str, frozenset[str]]:
    """The processor's vendor and instruction sets, from /proc/cpuinfo; empty where that is missing (not Linux)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()  # the first core
    except OSError:
        return "", frozenset()
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return fields.get("vendor_id", ""), frozenset(fields.get("flags", "").split())


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products are faster than float32 ones on the device."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpu_has_fast_bfloat16(*cpu_vendor_and_flags())


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype that a `dtype` setting names, for training."""
    if name == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    return getattr(torch, name)


def pick_compile(setting: bool | str, device: torch.device) -> bool:
    """Whether a `compile` setting means torch.compile: "auto" on CUDA GPUs that Triton supports, if it is installed."""
    if setting != "auto":
        return setting
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (7, 0)  # Volta


def keep_freed_memory() -> None:
    """Make glibc keep large freed blocks instead of returning them to the system; does nothing with other C libraries.

    A training step on a CPU frees and allocates the same hundreds of megabytes each time. Having the system clear those
    pages again took 40 % of the step (docs/LOG.md, "Keep freed memory").
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: allocate blocks of any size on the heap ...
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: ... and shrink the heap only when 2 GiB at its end are free


def return_freed_memory() -> None:
    """Return to the system what keep_freed_memory has kept: after work whose blocks have ever new sizes."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def free_memory(device: torch.device) -> int | None:
    """Free memory of the device in bytes; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        words = Path("/proc/meminfo").read_text().split()
        return int(words[words.index("MemAvailable:") + 1]) * 1024
    except (OSError, ValueError):  # no Linux
        return None


def peak_memory(device: torch.device) -> int | None:
    """Largest amount of memory that this process has held on the device, in bytes; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource  # only on POSIX

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def start(
    settings: Settings,
    *,
    backend: str = "nccl",
    timeout: float = processes.DEFAULT_TIMEOUT,
    use: Literal["train", "measure", "sample"] = "train",
) -> Runtime:
    """Choose the runtime of this process; seeds torch, and joins the other ranks if torchrun started several.

    timeout: seconds that an exchange with another rank may take. Only training is compiled. For measurements, dtype
    "auto" means float32 on CPUs. Call `stop` at the end.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = pick_device(settings.device, int(os.environ.get("LOCAL_RANK", 0)), world_size)
    dtype = pick_dtype(settings.dtype, device)
    measure_dtype = torch.float32 if settings.dtype == "auto" and device.type == "cpu" else dtype
    compiled = use == "train" and pick_compile(settings.compile, device)
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")  # TF32, as in nanoGPT, for products that autocast leaves in float32
    if world_size > 1 and not dist.is_initialized():
        # gradients are exchanged on the GPUs, everything else on the CPUs, which need not wait for a GPU
        processes.join("gloo" if device.type != "cuda" else f"cpu:gloo,cuda:{backend}", timeout)
    torch.manual_seed(settings.seed)
    rule = ""
    if settings.dtype == "auto" and device.type == "cpu" and use != "measure":
        rule = "AMX, or AMD with AVX-512-BF16" if dtype == torch.bfloat16 else "bfloat16 is no faster here"
    rt = Runtime(device, dtype, compiled, rank, world_size, measure_dtype, rule)
    return rt.measuring() if use == "measure" else rt


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not allocate memory, on a GPU or a CPU."""
    message = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in message for words in ("can't allocate memory", "not enough memory")
    )


def wait_for_all() -> None:
    """Wait until all ranks are here: gloo may abort a rank that leaves while another still works."""
    if dist.is_initialized():
        dist.barrier()


def stop() -> None:
    """Leave the process group, if there is one, and end its threads.

    The threads end with the last reference to the group. One that needs Python's lock while the interpreter shuts down
    aborts the process (pytorch issue 190489), so no reference may be left: not even in the frames of an error.
    """
    if dist.is_initialized():
        error = sys.exc_info()[1]
        while error:
            traceback.clear_frames(error.__traceback__)
            error = error.__context__
        gc.collect()  # objects that refer to each other, such as a run and its saver
        dist.destroy_process_group()


def seed_for(seed: int, *counters: int) -> int:
    """A 63-bit seed for one purpose, which depends on all arguments (numpy's SeedSequence)."""
    return int(np.random.SeedSequence([seed, *counters]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def notice(message: str) -> None:
    """Prints one line for the user on standard error, on rank 0 only."""
    if os.environ.get("RANK", "0") == "0":
        print(visible(message), file=sys.stderr, flush=True)
