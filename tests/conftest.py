"""Shared by all tests: a copy of the package to run scripts from, small datasets, small models."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llm import train
from llm.configurator import PACKAGE
from llm.model import GPT, GPTConfig
from llm.reading.generate import generate
from llm.reading.reader import Reader
from llm.storage import checkpoint
from llm.storage.progress import Progress
from llm.text import dataset, tokenizer
from llm.training.metrics import read_metrics

STORY = (PACKAGE / "data" / "tale" / "tale.txt").read_text(encoding="utf-8")


TINY = train.Settings(
    dataset="story",
    n_layer=2,
    n_head=2,
    n_embd=32,
    block_size=32,
    batch_size=4,
    gradient_accumulation_steps=1,
    learning_rate=1e-2,
    warmup_iters=2,
    max_iters=10,
    eval_interval=5,
    device="cpu",
    dtype="float32",
)
OTHER = "Another text, which was never seen. " * 30
TIMES = ("tokens_per_s", "seconds")  # the only fields of metrics.jsonl that may differ


@pytest.fixture(autouse=True)
def one_thread():
    """The same arithmetic on every machine, and no fight for cores."""
    torch.set_num_threads(1)


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """An empty folder in place of llm/data, for this test's process."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setattr(dataset, "DATA", folder)
    return folder


@pytest.fixture
def prepare(data, capsys):
    """prepare(name, text, ...) makes a dataset in the test's data folder and returns it."""

    def prepare(name="story", text=STORY[:6000], encoder=None, val_fraction=0.0):
        encoder = encoder or tokenizer.gpt2()
        dataset.write_dataset(
            data / name, text, encoder, val_fraction=val_fraction, source={}, train_command=("config/x.py",)
        )
        capsys.readouterr()
        return dataset.Dataset(name)

    return prepare


@pytest.fixture(scope="session")
def tiny_model():
    """tiny_model(vocab_size=..., ...) is a small GPT with random weights of a healthy size, in evaluation mode."""

    def tiny_model(seed=0, **changes):
        shape = dict(n_layer=2, n_head=2, n_embd=32, block_size=16, bias=False, vocab_size=61, dropout=0.0, gelu="tanh")
        shape |= changes
        torch.manual_seed(seed)
        model = GPT(GPTConfig(**shape))
        for p in model.parameters():  # at GPT-2's tiny initial size all logits are alike, and any bug would pass
            torch.nn.init.normal_(p, std=0.3) if p.dim() > 1 else torch.nn.init.normal_(p, mean=1.0, std=0.1)
        return model.eval()

    return tiny_model


@pytest.fixture(scope="session")
def package(tmp_path_factory) -> Path:
    """A copy of the package without prepared data: scripts run from it as a user runs them, and write only there."""
    copy = tmp_path_factory.mktemp("checkout") / "llm"
    ignore = shutil.ignore_patterns("*.bin", "meta.json", "input.txt", "out", "out-*", "__pycache__")
    shutil.copytree(PACKAGE, copy, ignore=ignore)
    return copy


@pytest.fixture(scope="module")
def story(package):
    """A dataset in the package's copy, the same as the one that `learn` prepares for this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "DATA", package / "data")
        dataset.write_dataset(
            dataset.DATA / "story", STORY[:6000], tokenizer.gpt2(), val_fraction=0, source={}, train_command=("x",)
        )


@pytest.fixture
def run(package, monkeypatch):
    """run("train.py", "--key=value", ..., cwd=...) runs a script of the copy; returns the finished process."""

    def run(script, *arguments, cwd=package, status=0, **environment):
        finished = subprocess.run(
            [sys.executable, script, *map(str, arguments)],
            cwd=cwd,
            env=os.environ | {"PYTHONPATH": str(package.parent), "OMP_NUM_THREADS": "1"} | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
        )
        assert finished.returncode == status, f"{finished.returncode}\n{finished.stdout}\n{finished.stderr}"
        if status == 1:  # a user's mistake: one line, and nothing that looks like a result
            assert len(finished.stderr.splitlines()) == 1, finished.stderr
        return finished

    return run


def save_trained(path, model, split, corpus_ids, *, dataset):
    """Writes a checkpoint of a model that learned a split in GPT-2's tokens, as train.py saves it."""
    save_checkpoint(
        path,
        model=model,
        progress=Progress(iter_num=12, text_sha256=split.sha256),
        config={"dataset": dataset},
        corpus_ids=corpus_ids,
    )


def save_checkpoint(path, *, model, optimizers=None, progress=None, **parts):
    """Writes a checkpoint as train.py does; parts: those of checkpoint.pack that differ from a new run's."""
    parts = dict(config={}, tokenizer_description=tokenizer.GPT2_DESCRIPTION, corpus_ids=None) | parts
    optimizers = optimizers or [torch.optim.AdamW(model.parameters())]
    content = checkpoint.pack(model=model, optimizers=optimizers, progress=progress or Progress(), **parts)
    checkpoint.write(path, content)


@pytest.fixture(scope="session")
def served(package, tiny_model, tmp_path_factory):
    """A folder with out/ckpt.pt, a small model with random weights; its dataset is prepared in the package's copy."""
    folder = tmp_path_factory.mktemp("served")
    text, encoder = STORY[:6000], tokenizer.gpt2()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "DATA", package / "data")
        dataset.write_dataset(dataset.DATA / "served", text, encoder, val_fraction=0, source={}, train_command=("x",))
        split = dataset.Dataset("served").train
    model = tiny_model(vocab_size=50304, block_size=64)
    (folder / "out").mkdir()
    save_trained(folder / "out" / "ckpt.pt", model, split, sorted(set(encoder.encode(text))), dataset="served")
    return folder


@pytest.fixture(scope="session")
def start_server(package, served):
    """start_server(...) runs serve.py of the copy in a process of its own: (process, port).

    cwd: the folder with out/, if not `served`; preexec_fn: see subprocess.Popen.
    """
    processes = []

    def start(*arguments, cwd=served, preexec_fn=None, **environment):
        process = subprocess.Popen(
            [sys.executable, str(package / "serve.py"), "--out_dir=out", "--port=0", "--dtype=float32", *arguments],
            cwd=cwd,
            env=os.environ | {"PYTHONPATH": str(package.parent), "OMP_NUM_THREADS": "1"} | environment,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            preexec_fn=preexec_fn,
        )
        processes.append(process)
        for line in process.stderr:
            if found := re.search(r"serving out at http://127.0.0.1:(\d+); Ctrl-C", line):
                return process, int(found[1])
        raise AssertionError("the server did not start")

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stderr.close()


def hugging_face_gpt2(**changes):
    """A random GPT2LMHeadModel with logits that differ from each other, or equality would mean nothing."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    shape = dict(vocab_size=97, n_positions=24, n_embd=32, n_layer=3, n_head=4, initializer_range=0.3)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape | changes)).eval()


def with_nanogpts_names(reference) -> dict[str, torch.Tensor]:
    """A GPT2LMHeadModel's weights with nanoGPT's names; its Conv1D keeps matrices transposed."""
    transposed = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    return {k: v.T.contiguous() if k.endswith(transposed) else v for k, v in reference.state_dict().items()}


@pytest.fixture
def learn(prepare, tmp_path, monkeypatch):
    """learn(**settings) trains a tiny model on the beginning of the tale; returns the lines of metrics.jsonl."""
    monkeypatch.chdir(tmp_path)
    if not os.path.exists("data/story"):
        prepare()

    def learn(**settings):
        cfg = dataclasses.replace(TINY, **settings)
        train.train(cfg)
        return read_metrics(cfg.out_dir)

    return learn


def losses(lines) -> list[float]:
    return [line["loss"] for line in lines if "loss" in line]


def timeless(lines, *others: str) -> list[dict]:
    """The lines without times; others: fields to leave out, too."""
    return [{k: v for k, v in line.items() if k not in (*TIMES, *others)} for line in lines]


def weights(out_dir="out", name="ckpt.pt") -> dict:
    return torch.load(f"{out_dir}/{name}", weights_only=True)["model"]


def written_and_stopped_at(step):
    """A checkpoint.write that raises KeyboardInterrupt after it has written the checkpoint of this step."""
    write_checkpoint = checkpoint.write

    def write(path, content):
        write_checkpoint(path, content)
        if content["iter_num"] == step:
            raise KeyboardInterrupt

    return write


@pytest.fixture(scope="session")
def half_learned(tiny_model):
    """(model, text): a small model that knows one part of a random text by heart and has never seen the other."""
    model = tiny_model(block_size=128, n_embd=64, vocab_size=40)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.1) if p.dim() > 1 else None
    text = torch.randint(40, (700,), generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    starts = torch.arange(0, 301, 50)  # windows of 100 from the first 400 tokens, as recall cuts them
    x = torch.stack([text[s : s + 100] for s in starts])
    for _ in range(150):
        loss = model(x[:, :-1], x[:, 1:])[1]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), text.tolist()


def greedy_tokens(model, prompt, n):
    """The n tokens that follow a prompt, greedily, from a model with 40 tokens."""
    reader = Reader(model, torch.arange(40), torch.float32)
    return [token for _, token in generate(reader, prompt, max_new_tokens=n)]
