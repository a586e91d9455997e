"""What a run computes on is chosen by fixed rules, and printed."""

import numpy as np
import pytest
import torch

from llm import runtime
from llm.configurator import UserError
from llm.runtime import Runtime
from llm.storage.progress import Progress
from llm.training import start

CPU = torch.device("cpu")
ALONE = Runtime(CPU, torch.float32, compile=False)


def test_auto_takes_the_cpu_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert runtime.pick_device("auto") == CPU


def test_auto_takes_the_ranks_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert runtime.pick_device("auto", local_rank=3) == torch.device("cuda", 3)
    assert runtime.pick_device("cuda:1", local_rank=3) == torch.device("cuda", 1)
    with pytest.raises(UserError, match="cuda:4: this machine has 4 GPU"):
        runtime.pick_device("cuda:4")


def test_apples_gpu_is_taken_unless_several_processes_would_share_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert runtime.pick_device("auto") == torch.device("mps")
    assert runtime.pick_device("auto", world_size=2) == CPU
    with pytest.raises(UserError, match="several processes cannot train on it; type --device=cpu"):
        runtime.pick_device("mps", world_size=2)


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "", "xpu", "meta"])
def test_a_device_that_is_not_supported_is_refused(name):
    with pytest.raises(UserError, match="--device=auto"):
        runtime.pick_device(name)


AVX512 = ["avx2", "avx512f", "avx512_vnni"]


@pytest.mark.parametrize(
    "vendor, flags, expected",
    [
        ("AuthenticAMD", [*AVX512, "avx512_bf16"], True),  # Zen 4
        ("AuthenticAMD", ["avx2"], False),  # Zen 3
        ("GenuineIntel", [*AVX512, "avx512_bf16", "amx_bf16", "amx_tile"], True),  # Sapphire Rapids
        ("GenuineIntel", [*AVX512, "avx512_bf16"], False),  # Cooper Lake: at half the rate of float32
        ("GenuineIntel", AVX512, False),  # Cascade Lake
        ("GenuineIntel", ["avx2"], False),
        ("", [], False),  # ARM names neither
    ],
)
def test_bfloat16_is_fast_on_cpus_with_amx_and_on_amds_with_avx512_bf16(vendor, flags, expected):
    assert runtime.cpu_has_fast_bfloat16(vendor, flags) == expected


CPUINFO = """processor	: 0
vendor_id	: GenuineIntel
model name	: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags		: fpu avx2 avx512f avx512_bf16 amx_bf16
bugs		: spectre_v1

processor	: 1
vendor_id	: Other
flags		: none
"""
ARM_CPUINFO = """processor	: 0
BogoMIPS	: 50.00
Features	: fp asimd bf16
CPU implementer	: 0x41
"""


@pytest.mark.parametrize(
    "cpuinfo, expected",
    [
        (CPUINFO, ("GenuineIntel", {"fpu", "avx2", "avx512f", "avx512_bf16", "amx_bf16"})),
        (ARM_CPUINFO, ("", set())),
        (None, ("", set())),  # no Linux
    ],
)
def test_vendor_and_flags_are_read_from_the_first_core_of_cpuinfo(monkeypatch, tmp_path, cpuinfo, expected):
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(runtime, "Path", lambda path: tmp_path / "cpuinfo")
    assert runtime.cpu_vendor_and_flags.__wrapped__() == expected  # without its cache


@pytest.fixture
def cpu(monkeypatch):
    """cpu(vendor, *flags): from now on, the processor is this one."""

    def cpu(vendor, *flags):
        monkeypatch.setattr(runtime, "cpu_vendor_and_flags", lambda: (vendor, frozenset(flags)))

    return cpu


def test_dtype_auto_is_bfloat16_where_it_is_faster(cpu):
    cpu("AuthenticAMD", "avx512_bf16")
    assert runtime.has_bfloat16(CPU) and runtime.pick_dtype("auto", CPU) == torch.bfloat16
    cpu("GenuineIntel", "avx512_bf16")
    assert not runtime.has_bfloat16(CPU) and runtime.pick_dtype("auto", CPU) == torch.float32
    assert runtime.pick_dtype("float16", CPU) == torch.float16
    assert runtime.pick_dtype("auto", torch.device("mps")) == torch.float32


def test_dtype_auto_on_gpus_is_bfloat16_where_it_is_not_emulated(monkeypatch):
    for supported, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, answer=supported: answer)
        assert runtime.pick_dtype("auto", torch.device("cuda", 0)) == dtype


def test_recall_on_a_cpu_is_measured_in_float32_unless_dtype_is_set(cpu):
    cpu("AuthenticAMD", "avx512_bf16")
    auto, set_by_user = runtime.Settings(device="cpu"), runtime.Settings(device="cpu", dtype="bfloat16")
    assert runtime.start(auto, use="measure").dtype == torch.float32
    assert runtime.start(set_by_user, use="measure").dtype == torch.bfloat16
    assert runtime.start(auto).dtype == torch.bfloat16
    assert runtime.start(auto).measuring().dtype == torch.float32
    assert runtime.start(set_by_user).measuring().dtype == torch.bfloat16


@pytest.mark.parametrize(
    "setting, device, triton, capability, expected",
    [
        ("auto", "cuda", True, (9, 0), True),  # H100
        ("auto", "cuda", True, (7, 0), True),  # V100
        ("auto", "cuda", True, (6, 1), False),  # GTX 1080
        ("auto", "cuda", False, (9, 0), False),  # Windows
        ("auto", "cpu", True, None, False),
        ("auto", "mps", True, None, False),
        (True, "cpu", False, None, True),
        (False, "cuda", True, (9, 0), False),
    ],
)
def test_compile_auto_is_for_gpus_that_triton_supports(monkeypatch, setting, device, triton, capability, expected):
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda name: "found" if triton else None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert runtime.pick_compile(setting, torch.device(device)) is expected


def test_measurements_are_never_compiled():
    training = runtime.start(runtime.Settings(device="cpu", compile=True))
    assert training.compile and not training.measuring().compile
    assert not runtime.start(runtime.Settings(device="cpu", compile=True), use="sample").compile


def test_the_runtime_is_described_in_a_line_that_says_how_to_override_it(cpu):
    line = runtime.start(runtime.Settings(device="cpu", dtype="float32")).describe()
    assert line.startswith("cpu (") and line.endswith(
        "1 threads), float32, eager (override with --device, --dtype, --compile)"
    )
    cpu("GenuineIntel", "avx512_bf16")
    line = runtime.start(runtime.Settings(device="cpu")).describe()
    assert "threads), float32 (bfloat16 is no faster here), eager (" in line
    cpu("GenuineIntel", "amx_bf16")
    line = runtime.start(runtime.Settings(device="cpu")).describe()
    assert "threads), bfloat16 (AMX, or AMD with AVX-512-BF16), eager (" in line
    assert ", 3 processes, bfloat16, compiled (" in Runtime(CPU, torch.bfloat16, True, world_size=3).describe()


def test_a_single_process_reduces_to_its_own_numbers():
    assert ALONE.sum(1, 2.5) == [1, 2.5] and ALONE.max(3) == 3 and ALONE.gather([1]) == [1]
    assert ALONE.either(np.array([True, False])).tolist() == [True, False]


def test_two_processes_reduce_to_sum_largest_either_and_all(monkeypatch):
    """The other process, rank 1, is imitated: it has 10, and 5 where this one has 7 or 2."""
    others = {torch.distributed.ReduceOp.SUM: torch.add, torch.distributed.ReduceOp.MAX: torch.maximum}

    def all_reduce(tensor, op=torch.distributed.ReduceOp.SUM):
        tensor.copy_(others[op](tensor, torch.tensor(other)))

    def all_gather_object(lists, items):
        lists[:] = [items, other]

    monkeypatch.setattr(runtime.dist, "all_reduce", all_reduce)
    monkeypatch.setattr(runtime.dist, "all_gather_object", all_gather_object)
    rt = Runtime(CPU, torch.float32, compile=False, world_size=2)
    other = [10.0, 0.5]
    assert rt.sum(1, 2) == [11.0, 2.5]
    other = 5
    assert rt.max(7) == 7 and rt.max(2) == 5
    other = [0, 1, 0]
    assert rt.either(np.array([True, True, False])).tolist() == [True, True, False]
    other = [3]
    assert rt.gather([1, 2]) == [1, 2, 3]


def test_seeds_depend_on_every_counter():
    seeds = {runtime.seed_for(1, a, b) for a in range(50) for b in range(50)} | {runtime.seed_for(2, 0, 0)}
    assert len(seeds) == 2501 and all(0 <= seed < 2**63 for seed in seeds)


@pytest.fixture
def two_threads():
    """Two threads are usual on this machine."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("stored, threads", [(0, 2), (2, 2), (1, 1), (3, 3)])
def test_a_run_is_resumed_with_as_many_threads_as_before(two_threads, capsys, stored, threads):
    """On another number, sums are added up in another order, so that the resumed run would not be the same."""
    progress = Progress(threads=stored)
    start.keep_threads(progress, ALONE)
    assert torch.get_num_threads() == progress.threads == threads
    told = f"going on with {stored} threads, as before (here 2 are usual): sums stay bit-exact\n"
    assert capsys.readouterr().err == ("" if stored in (0, 2) else told)


def test_on_gpus_the_number_of_threads_does_not_matter(two_threads, capsys):
    progress = Progress(threads=5)
    start.keep_threads(progress, Runtime(torch.device("cuda", 0), torch.float32, compile=False))
    assert torch.get_num_threads() == 2 and progress.threads == 5 and capsys.readouterr().err == ""
