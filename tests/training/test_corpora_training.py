"""Training on a text that is not held in memory: the same updates, and nothing reads the whole of it."""

import dataclasses

import numpy as np
import pytest
from conftest import STORY, TINY, losses, timeless

from llm import train
from llm.configurator import UserError
from llm.data.corpus import prepare as corpus
from llm.reading import character_recall, load, recall
from llm.text import dataset
from llm.text.dataset import Split
from llm.text.documents import Document
from llm.text.spacing import evenly_spaced, evenly_spaced_indices
from llm.training import finish
from llm.training.metrics import read_metrics

DOCUMENTS = [STORY[n : n + 700] for n in range(0, 28_000, 700)]
SHAPE = dict(dataset="shards", block_size=100, max_iters=6, eval_interval=3, eval_iters=2)


@pytest.fixture
def shards(data, tmp_path, monkeypatch):
    """A corpus in many shards, which are read from the disk each time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dataset, "IN_MEMORY", 0)
    folder = tmp_path / "texts"
    folder.mkdir()
    for n, text in enumerate(DOCUMENTS):
        (folder / f"{n:03}.txt").write_text(text, encoding="utf-8")
    monkeypatch.setattr("llm.text.corpus_files.BATCH_BYTES", 2000)
    options = dict(val_fraction=0.2, shard_tokens=800, processes=1)
    corpus.main(corpus.Settings(input=(str(folder),), dataset="shards", **options))
    return dataset.Dataset("shards")


def test_a_run_on_shards_makes_the_same_updates_as_on_one_file(shards, data):
    train.train(dataclasses.replace(TINY, **SHAPE))
    assert len(shards.train.ends) > 5 and len(shards.val.ends) > 1
    meta, parts = dataset.read_meta(shards.folder), (("train", shards.train), ("val", shards.val))
    for part, split in parts:
        split.tokens(0, len(split)).astype("<u2").tofile(data / "shards" / f"{part}.bin")
    entries = [{"file": f"{part}.bin", "tokens": len(split)} for part, split in parts]
    dataset.write_meta(shards.folder, meta | {"shards": entries})
    train.train(dataclasses.replace(TINY, **SHAPE, out_dir="out-one"))
    one, many = read_metrics("out-one"), read_metrics("out")
    assert timeless(one) == timeless(many) and len(losses(one)) == 6


def test_nothing_in_a_run_reads_the_whole_text(shards, monkeypatch, capsys):
    """finish.py decoded all of it to suggest a prompt, character_recall.py read it to cut windows."""
    for module, name in ((finish, "MAX_SEARCH_TOKENS"), (recall, "MAX_COMPARED"), (character_recall, "MAX_TOKENS")):
        monkeypatch.setattr(module, name, 1000)
    lengths, tokens = [], Split.tokens

    def recorded(self, start, stop):
        if self.sha256:  # in a file
            lengths.append(min(stop, len(self)) - start)
        return tokens(self, start, stop)

    monkeypatch.setattr(Split, "tokens", recorded)
    monkeypatch.setattr(character_recall, "WINDOW_TOKENS", 300)
    train.train(dataclasses.replace(TINY, **SHAPE | {"block_size": 300, "watch": False}, target_recall=0.9, replay=0.5))
    printed = capsys.readouterr().out
    assert len(lengths) > 100 and max(lengths) <= 2000 < len(shards.train)
    assert "recall@8/50: not measured: too much text to see which 8 tokens occur once" in printed
    assert "recall@200/200 characters: 0.0000" in printed and "recall@50/50: 0.0000" in printed
    assert "recall.py" not in printed  # it would be refused


def test_a_corpus_with_a_val_part_is_never_written_in_closed_form(shards, capsys):
    shape = dict(n_layer=3, n_head=4, n_embd=128, weights="written", target_recall=0.9)
    train.train(dataclasses.replace(TINY, **SHAPE | shape | {"max_iters": 1}))
    assert "tokens are held out, to generalise on: learning by gradient descent" in capsys.readouterr().err


def test_recall_of_a_large_text_is_refused_in_one_line(shards, monkeypatch):
    from llm import recall as script

    train.train(dataclasses.replace(TINY, **SHAPE))
    monkeypatch.setattr(recall, "MAX_COMPARED", 1000)
    with pytest.raises(UserError, match=r"dataset shards has [\d,]+ tokens, at most 1,000 are measured; type --text="):
        script.main(script.Settings(device="cpu"))


def test_a_large_text_is_no_book(shards, monkeypatch):
    monkeypatch.setattr(load, "MAX_SEARCH_TOKENS", 1000)
    split, reason = load.find_book("shards", shards.train.sha256)
    assert split is None and "at most 1,000 are searched as a book" in reason


@pytest.mark.parametrize("max_windows", [3, 64, 10_000])
def test_windows_are_chosen_without_listing_all_of_them(max_windows):
    """As when all were listed, and some of them chosen."""
    borders = [0, 30, 150, 1000, 1090, 4000, 4100]
    documents = [Document("", "", a, b) for a, b in zip(borders, borders[1:], strict=False)]
    split = Split([], 10, ids=np.zeros(4100, dtype=np.int64), documents=documents)
    every = np.concatenate([np.arange(d.start, d.stop - 99, 50) for d in documents if d.stop - d.start >= 100])
    assert recall.split_starts(split, max_windows).tolist() == evenly_spaced(every, max_windows).tolist()


def test_indices_of_very_many_things_take_little_memory():
    indices = evenly_spaced_indices(10**12, 5)
    assert indices.tolist() == [0, 250_000_000_000, 500_000_000_000, 749_999_999_999, 999_999_999_999]
    assert evenly_spaced_indices(3, 5).tolist() == [0, 1, 2]
