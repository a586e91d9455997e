"""Training, writing and sampling on this machine's device give what a CPU gives; and `make gpu` prints its tables.

Each test runs on the CPU, and on a CUDA GPU if torch finds one. See also reading/test_decoding_graph.py.
"""

import contextlib
import dataclasses
import subprocess
import sys
from functools import partial

import gpu
import pytest
import torch
from conftest import losses

from llm import bench, train
from llm.network.corpus_softmax import CompactGPT
from llm.reading.generate import generate
from llm.reading.reader import Reader
from llm.runtime import Runtime
from llm.text import dataset, tokenizer
from llm.training import compiling, optim, writing

ON_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=ON_CUDA)]
CLOSE = dict(rel=0.02)  # GPUs compute float32 products in TF32


@pytest.fixture
def expected(learn):
    """The losses of a short training on the CPU in float32."""
    return losses(learn(out_dir="expected", optimizer="muon"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("device", DEVICES)
def test_losses_are_those_of_float32_on_a_cpu(learn, expected, device, dtype):
    found = losses(learn(out_dir="found", optimizer="muon", device=device, dtype=dtype, compile=False))
    assert found == pytest.approx(expected, **CLOSE) and found[-1] < 0.85 * found[0]


@pytest.mark.parametrize("device", DEVICES)
def test_the_fused_optimizer_takes_the_steps_of_the_plain_one(learn, monkeypatch, device):
    fused = losses(learn(out_dir="fused", device=device, compile=False))
    monkeypatch.setattr(optim, "has_fused_adamw", lambda device: False)
    assert losses(learn(out_dir="plain", device=device, compile=False)) == pytest.approx(fused, rel=1e-3)


@ON_CUDA
@pytest.mark.parametrize("launch_bound", [0, 1e30])
def test_a_compiled_step_gives_the_losses_of_an_eager_one(learn, expected, monkeypatch, capsys, launch_bound):
    monkeypatch.setattr(compiling, "LAUNCH_BOUND", launch_bound)
    found = losses(learn(out_dir="found", optimizer="muon", device="cuda", compile=True))
    assert "torch.compile does not work here" not in capsys.readouterr().err
    assert found == pytest.approx(expected, **CLOSE)


def test_cuda_graphs_launch_small_steps_of_one_process_on_a_gpu(tiny_model):
    model, gpu_alone = tiny_model(), Runtime(torch.device("cuda"), torch.bfloat16, compile=True)
    assert compiling.compile_mode(model, 4096, gpu_alone) == "reduce-overhead"
    assert compiling.compile_mode(model, 10**12, gpu_alone) == "default"
    for other in (dict(world_size=2), dict(device=torch.device("cpu"))):
        assert compiling.compile_mode(model, 4096, dataclasses.replace(gpu_alone, **other)) == "default"


@ON_CUDA
def test_float16_with_its_scaler_learns(learn, expected):
    found = losses(learn(out_dir="found", optimizer="muon", device="cuda", dtype="float16", compile=False))
    assert found[-1] < 0.85 * expected[0]


@pytest.mark.parametrize("device", DEVICES)
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(learn, device):
    settings = dict(device=device, compile=False, optimizer="muon")
    whole = losses(learn(out_dir="whole", **settings))
    learn(out_dir="parts", max_iters=5, lr_decay_iters=10, **settings)
    parts = losses(learn(out_dir="parts", init_from="resume", lr_decay_iters=10, **settings))
    assert parts == pytest.approx(whole, rel=1e-3) and len(parts) == 10


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_text_is_written_in_closed_form(device, dtype):
    rt = Runtime(torch.device(device), getattr(torch, dtype), compile=False)
    settings = train.Settings(n_layer=3, n_head=2, n_embd=64, block_size=64)
    torch.manual_seed(0)
    model, steps = CompactGPT(bench.shape_of(settings), list(range(200))).to(device), []
    text = torch.randint(200, (1024,), generator=torch.Generator().manual_seed(1))
    assert writing.write(model, text, rt, seed=1, report=steps.append)
    assert steps[-1].known > 0.97


@pytest.mark.parametrize("device", DEVICES)
def test_sampling_is_that_of_a_cpu(tiny_model, device):
    drawn = []
    for where in ("cpu", device):
        reader = Reader(tiny_model().to(where), torch.arange(61), torch.float32)
        drawn.append([token for _, token in generate(reader, [3, 5, 8], max_new_tokens=40)])
    assert drawn[0] == drawn[1]


HUGGING_FACE = "Hugging Face, float32"


def test_the_dry_run_of_make_gpu_fills_its_tables(tmp_path, monkeypatch):
    """Its other parts, these tests and learning a book, are run by `make gpu` alone."""
    pytest.importorskip("transformers")
    monkeypatch.setattr(dataset, "DATA", tmp_path)
    b = gpu.Bench(Runtime(torch.device("cpu"), torch.float32, compile=False), True, tmp_path)
    seconds = iter(range(1, 10**6))  # a clock that is never too coarse
    monkeypatch.setattr(bench, "seconds_of", lambda work, device, *arguments: (work(*arguments), next(seconds))[1])

    @contextlib.contextmanager
    def peer(make, device, *arguments):
        yield partial(bench.seconds_of, make(*arguments, device), device)

    monkeypatch.setattr(bench, "peer", peer)  # in this process
    gpu.training(b)
    gpu.sampling(b)
    cells = [row.strip("| ").split(" | ") for row in b.rows if row.startswith("| tiny")]
    updates, samples = cells[:3], cells[3:]
    assert [way for _, way, *_ in updates] == [f"llm, {s} softmax, eager" for s in ("corpus", "full")] + [HUGGING_FACE]
    assert [row[1:3] for row in samples] == [[n, way] for n in "18" for way in ("llm, eager", HUGGING_FACE)]
    assert all(float(row[-1].rstrip("%").replace(",", "")) > 0 for row in samples)
    assert all(float(row[2].replace(",", "")) > 0 for row in updates)


def test_make_gpu_says_what_it_does_not_know():
    finished = subprocess.run([sys.executable, gpu.__file__, "--fast"], capture_output=True, encoding="utf-8")
    told = "gpu.py: error: --fast: expected --dry, or parts: tests, speedrun, training, sampling\n"
    assert (finished.returncode, finished.stderr) == (1, told)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("NVIDIA H100 80GB HBM3", (989e12, "data sheet")),
        ("NVIDIA H100 PCIe", (756e12, "data sheet")),
        ("NVIDIA A100-SXM4-40GB", (312e12, "data sheet")),
        ("NVIDIA GeForce RTX 4090", (165e12, "data sheet")),
        ("Another", (1e12, "measured")),
    ],
)
def test_mfu_is_a_share_of_the_data_sheets_rate(monkeypatch, name, expected):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert gpu.peak_rate(torch.device("cuda"), 1e12) == expected
    assert gpu.peak_rate(torch.device("cpu"), 1e12) == (1e12, "measured")


def test_the_generated_novella_is_as_long_as_asked_and_always_the_same():
    text = gpu.novella(3000)
    assert 3000 <= len(tokenizer.gpt2().encode(text)) < 3200 and text == gpu.novella(3000)
