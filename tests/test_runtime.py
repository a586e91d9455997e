"""What a run computes on is decided by rule, and said."""

import pytest
import torch

from llm import runtime
from llm.configurator import UserError


def test_auto_takes_the_cpu_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert runtime.pick_device("auto") == torch.device("cpu")


def test_auto_takes_the_ranks_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert runtime.pick_device("auto", local_rank=3) == torch.device("cuda", 3)
    assert runtime.pick_device("cuda:1", local_rank=3) == torch.device("cuda", 1)
    with pytest.raises(UserError, match="cuda:4: this machine has 4 GPU"):
        runtime.pick_device("cuda:4")


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "", "xpu", "meta"])
def test_a_device_that_is_not_supported_is_refused(name):
    with pytest.raises(UserError, match="--device=auto"):
        runtime.pick_device(name)


def test_dtype_auto_is_bfloat16_where_the_hardware_has_it(monkeypatch):
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(runtime, "has_bfloat16", lambda device, has=has: has)
        assert runtime.pick_dtype("auto", torch.device("cpu")) == expected
    assert runtime.pick_dtype("float16", torch.device("cpu")) == torch.float16


def test_recall_on_a_cpu_is_measured_in_float32_unless_asked_otherwise():
    assert runtime.start(runtime.Settings(device="cpu"), use="measure").dtype == torch.float32
    asked = runtime.Settings(device="cpu", dtype="bfloat16")
    assert runtime.start(asked, use="measure").dtype == torch.bfloat16


def test_the_line_says_what_was_decided_and_how_to_override_it():
    line = runtime.start(runtime.Settings(device="cpu", dtype="float32")).describe()
    assert line.startswith("cpu (") and "float32, eager (override with --device, --dtype, --compile)" in line


def test_seeds_depend_on_every_counter():
    seeds = {runtime.seed_for(1, a, b) for a in range(50) for b in range(50)} | {runtime.seed_for(2, 0, 0)}
    assert len(seeds) == 2501 and all(0 <= seed < 2**63 for seed in seeds)
