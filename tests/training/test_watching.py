"""A training that is watched: what it writes, what the page is told, and that it trains the same."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import STORY, losses

from llm import serve
from llm.reading import windows
from llm.reading.recall import PREFIX, SUFFIX
from llm.serving.parameters import Refused
from llm.serving.watching import Watcher, seconds_left, training_progress
from llm.training import watching
from llm.training.watching import Watched


@pytest.fixture
def no_page(monkeypatch):
    """--watch=True without a server."""
    monkeypatch.setattr(serve, "page_of_training", lambda out_dir, report: contextlib.nullcontext())


def test_levels_say_how_far_a_window_is_right(prepare, tmp_path):
    data = prepare()
    watched = Watched(tmp_path, data, allowed=torch.arange(10), rt=None)
    assert set(watched.levels().tolist()) == {-1}
    starts = np.array([0, 100])
    correct = torch.ones(2, 110, dtype=torch.bool)
    correct[1, PREFIX - 1 + 10] = False  # predicts token 100 + 60
    watched.note_batch(starts, correct)
    levels = watched.levels().tolist()
    assert watched.starts[:4].tolist() == [0, 50, 100, 150]
    assert levels[:4] == [100, -1, 100 * 10 // SUFFIX, -1]


@pytest.mark.parametrize("settings", [{}, {"short_block": 16}])
def test_a_watched_run_trains_the_same_and_writes_what_it_knows(learn, no_page, monkeypatch, settings):
    monkeypatch.setattr(watching, "FIRST_SAMPLE", 0.0)
    shape = dict(block_size=128, max_iters=6, eval_interval=3, **settings)
    plain, watched = learn(**shape), learn(out_dir="out-watched", watch=True, **shape)
    assert losses(plain) == losses(watched)
    content = json.loads(Path("out-watched/watch.json").read_text())
    assert max(content["levels"]) >= 0 and len(content["levels"]) == len(content["starts"])
    assert content["sample"]["prompt"] and content["sample"]["text"]
    assert not Path("out/watch.json").exists()


def test_a_written_text_is_watched_too(prepare, learn, no_page):
    prepare("verse", text=STORY[:2400])
    shape = dict(dataset="verse", n_layer=3, n_head=4, n_embd=128, block_size=128)
    lines = learn(watch=True, weights="written", target_recall=0.9, max_iters=None, **shape)
    steps = [line for line in lines if "writing_step" in line]
    assert steps and all(0 < line["writing_step"] <= line["writing_steps"] for line in steps)
    levels = json.loads(Path("out/watch.json").read_text())["levels"]
    assert levels.count(100) > 0.5 * len(levels)


def test_the_page_is_told_how_a_training_goes(learn, no_page):
    assert training_progress(Path("nowhere"))["state"] == "waiting"
    learn(block_size=128, max_iters=6, watch=True)
    watcher = Watcher("out", Path("out"))
    progress = training_progress(Path("out"))
    assert progress["state"] == "ended" and progress["left"] is None and progress["doing"] == "update 6 of about 6"
    assert len(progress["curves"]["loss"]) == 6
    Path("out/recall.json").unlink()
    assert training_progress(Path("out"))["state"] == "learning"
    assert watcher.overview()["watching"] and watcher.overview()["words"] > 500
    with pytest.raises(Refused, match="watches a training and cannot recite"):
        watcher.parse({})


def test_the_map_of_a_training_follows_its_file(learn, no_page):
    learn(block_size=128, max_iters=6, watch=True)
    watcher = Watcher("out", Path("out"))
    answer = asyncio.run(watcher.windows(watcher.room))
    content = json.loads(Path("out/watch.json").read_text())
    assert answer["levels"] == content["levels"] and answer["starts"][2] > 300
    measured = Path("out/windows.jsonl")  # by recall.py, before the training went on
    row = {"start_token": 0, "start_char": 0, "log_p": -1.0, "log_p_top40": None, "greedy": True, "first_slip": None}
    windows.begin(measured, windows.header_of(1, text_sha256=content["text_sha256"]), [row])
    os.utime(measured, (1, 1))
    assert asyncio.run(watcher.windows(watcher.room)) == answer
    os.utime(measured)  # after it
    assert asyncio.run(watcher.windows(watcher.room))["levels"] == [100]
    answer["starts"], answer["levels"] = [0], [100]
    Path("out/watch.json").write_text("[]")  # damaged: the last map stays
    assert asyncio.run(watcher.windows(watcher.room)) == answer


def test_time_left_follows_the_speed():
    lines = [{"step": n, "updates": 20, "seconds": 2.0 * n} for n in range(10)]
    assert seconds_left(lines, 0.0) == 2.0 * 10
    writing = [{"step": 0, "writing_step": n, "writing_steps": 8, "seconds": 3.0 * n} for n in range(1, 5)]
    assert seconds_left(writing, 0.0) == 12.0 and seconds_left(writing, 1.0) == 11.0
    assert seconds_left([{"step": 0, "seconds": 1.0}], 0.0) is None


@pytest.mark.slow
def test_the_page_of_a_training_is_served_while_it_runs_and_ends_with_it(package, served, tmp_path):
    words = ["--dataset=served", "--block_size=128", "--n_layer=1", "--n_head=1", "--n_embd=8", "--watch=True"]
    training = subprocess.Popen(
        [sys.executable, str(package / "train.py"), *words, "--batch_size=1", "--gradient_accumulation_steps=1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(package.parent), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    address = next(line.split()[-1] for line in training.stderr if line.startswith("watch it learn at http://"))
    try:
        answer = get_when_there(f"{address}/watch")
        assert answer["state"] == "learning" and answer["watching"]
        assert get_when_there(f"{address}/book")["watching"]
    finally:
        training.terminate()
        training.communicate()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{address}/watch")


def get_when_there(address, seconds=60):
    """The JSON at an address, as soon as there is a server."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(address) as answer:
                return json.load(answer)
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
