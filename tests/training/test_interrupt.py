"""A run that is stopped, by whatever, goes on as if nothing had happened: real processes, real signals."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import STORY, TINY, timeless

from llm.storage import checkpoint
from llm.text import dataset, tokenizer
from llm.training.metrics import read_metrics

TRAINED = dict(dropout=0.2, gradient_accumulation_steps=2, block_size=48, max_iters=100, eval_interval=25)


@pytest.fixture(scope="module")
def story(package):
    """A dataset in the package's copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "DATA", package / "data")
        dataset.write_dataset(
            dataset.DATA / "story", STORY[:6000], tokenizer.gpt2(), val_fraction=0, source={}, train_command=("x",)
        )


@pytest.fixture
def start(package, story, tmp_path):
    """start(out_dir=..., ...) starts train.py, or with ranks=2 torchrun; returns the process."""
    processes = []

    def start(ranks=1, **changes):
        settings = dataclasses.asdict(TINY) | TRAINED | changes
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
        process = subprocess.Popen(
            [sys.executable, *launcher, package / "train.py", *(f"--{k}={v}" for k, v in settings.items())],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(package.parent), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(process, line):
    """Reads what it prints until a line matches."""
    for text in process.stdout:
        if re.search(line, text):
            return
    raise AssertionError(process.stderr.read())


def state(folder):
    """Everything that a run leaves, but for the times."""
    content = checkpoint.read(folder / "ckpt.pt", checkpoint.PARTS)
    loop = {k: v for k, v in content["loop"].items() if k not in ("seconds", "metrics_bytes")}
    parts = {name: checkpoint.digest(content[name]) for name in checkpoint.PARTS}
    return parts, loop, content["iter_num"], timeless(read_metrics(folder))


def test_ctrl_c_saves_and_the_run_goes_on_from_there(start, tmp_path):
    assert start(out_dir="whole", optimizer="muon").wait(60) == 0
    process = start(out_dir="halves", optimizer="muon")
    wait_for(process, "^step 7/100")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    told = re.search(
        r"^Ctrl-C after (\d+) updates in 0:0\d, saved in halves; to go on: python .*train.py .*$", err, re.M
    )
    assert told and told[0].endswith("--init_from=resume") and "Traceback" not in err
    assert checkpoint.read(tmp_path / "halves" / "ckpt.pt", ())["iter_num"] == int(told[1]) < 100
    process = start(out_dir="halves", init_from="auto", optimizer="muon")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and f"going on from halves/ckpt.pt, step {told[1]}\n" in out
    assert state(tmp_path / "halves") == state(tmp_path / "whole")


def test_sigterm_saves_too(start, tmp_path):
    process = start(out_dir="out", max_iters=100_000, eval_interval=100_000)
    wait_for(process, r"^step 7/")
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143 and re.search(
        r"^SIGTERM after \d+ updates in 0:0\d, saved in out; to go", err, re.M
    )
    assert checkpoint.read(tmp_path / "out" / "ckpt.pt", ())["iter_num"] >= 7


def test_a_second_ctrl_c_ends_it_at_once(start, tmp_path):
    process = start(out_dir="long", gradient_accumulation_steps=100_000)  # a step of minutes
    wait_for(process, "^evaluated: step 0")
    time.sleep(0.5)  # now it is in the step
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert [p.name for p in (tmp_path / "long").glob("*.pt")] == ["ckpt_init.pt"]


def test_two_trainings_into_one_folder_are_refused_and_a_killed_one_lets_go(start, tmp_path):
    first = start(out_dir="out", max_iters=100_000, log_interval=1000)
    wait_for(first, "^step 0")
    (tmp_path / "out" / ".ckpt.pt.1.tmp").write_text("half of one")
    second = start(out_dir="out")
    out, err = second.communicate(timeout=60)
    assert second.returncode == 1 and "Traceback" not in err
    refused = f"train.py: error: out_dir=out is being written to by another training (process {first.pid}); wait until"
    assert err.splitlines()[-1].startswith(refused)
    first.kill()
    first.wait()
    third = start(out_dir="out", max_iters=1)
    assert third.wait(60) == 0
    left = {p.name for p in (tmp_path / "out").iterdir()}
    assert left - {"ckpt_previous.pt"} == {".lock", "ckpt.pt", "ckpt_init.pt", "metrics.jsonl"}


def test_two_processes_go_on_after_ctrl_c(start, tmp_path):
    """The terminal tells Ctrl-C to torchrun and to its processes, and then torchrun sends SIGTERM, too. (That one
    process dies: see chaos.py.)"""
    settings = dict(optimizer="muon", max_iters=120, eval_interval=40)
    whole = start(ranks=2, out_dir="whole", **settings)
    process = start(ranks=2, out_dir="parts", **settings)
    wait_for(process, "^step 20/")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0 and len(re.findall("Ctrl-C after", err)) == 1, err
    assert start(ranks=2, out_dir="parts", init_from="resume", **settings).wait(100) == 0
    assert whole.wait(100) == 0
    assert state(tmp_path / "parts") == state(tmp_path / "whole")
