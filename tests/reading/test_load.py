"""Which text on this machine counts as the book of a checkpoint, whoever wrote the checkpoint."""

import numpy as np
import pytest
import torch
from conftest import STORY, save_checkpoint

from llm.configurator import UserError
from llm.reading.generate import allowed_ids
from llm.reading.load import find_book, load_reader
from llm.reading.reader import Reader
from llm.runtime import Runtime
from llm.storage import pretrained
from llm.text import dataset, tokenizer


@pytest.fixture
def diary(data):
    """A folder beside the datasets, in nanoGPT's layout: without meta.json, and so without a sha256."""
    folder = data.parent / "diary"
    folder.mkdir()
    np.array(tokenizer.gpt2().encode(STORY[:2000]), dtype="<u2").tofile(folder / "train.bin")
    return folder


@pytest.mark.parametrize("form", ["{}", "../diary", "./../diary", "story/../../diary", "..", "", "a\0b", "a\x1b[31m"])
def test_the_dataset_of_a_checkpoint_is_a_name_and_no_path(diary, prepare, form):
    """A checkpoint that named /home/somebody/diary made it the text that sample.py reads ahead from and cites."""
    prepare("story")
    split, reason = find_book(form.format(diary), None)
    assert split is None and "expected at most 64 letters, digits, _ and -" in reason and len(reason) < 300
    with pytest.raises(UserError, match="expected at most 64 letters"):
        dataset.Dataset(form.format(diary))


def test_a_long_name_is_shown_cut():
    with pytest.raises(UserError) as error:
        dataset.data_folder("a" * 100_000)
    assert len(str(error.value)) < 200


def test_a_text_without_a_sha256_is_no_book(diary, data):
    """A checkpoint without a sha256 took any dataset without one for its book."""
    diary.rename(data / "diary")
    split, reason = find_book("diary", None)
    assert split is None and "does not say whether the text of dataset diary is its own" in reason


def test_control_characters_in_a_file_are_shown_and_not_sent(data, tiny_model, tmp_path, capsys):
    """The name of a checkpoint's dataset set the title of the terminal and cleared it."""
    config = {"dataset": "x\x1b]0;PWNED\x07\x1b[2J\u202e"}
    save_checkpoint(tmp_path / "ckpt.pt", model=tiny_model(vocab_size=50304, n_embd=8), config=config)
    assert pretrained.load_model(str(tmp_path))[2].dataset == config["dataset"]
    load_reader(str(tmp_path), "ckpt.pt", rt=Runtime(torch.device("cpu"), torch.float32, compile=False), seed=1)
    shown = capsys.readouterr().err
    assert "\x1b" not in shown and "\u202e" not in shown and r"x\x1b]0;PWNED\x07\x1b[2J\u202e" in shown


def test_a_checkpoint_that_is_overwritten_in_place_changes_nothing_that_was_loaded(data, tiny_model, tmp_path):
    """The weights were read from the file when they were needed: a bus error, or nonsense."""
    model = tiny_model(vocab_size=50304, n_embd=8)
    save_checkpoint(tmp_path / "ckpt.pt", model=model, config={"dataset": "x"})
    rt = Runtime(torch.device("cpu"), torch.float32, compile=False)
    loaded = load_reader(str(tmp_path), "ckpt.pt", rt=rt, seed=1)
    size = (tmp_path / "ckpt.pt").stat().st_size
    with open(tmp_path / "ckpt.pt", "r+b") as file:
        file.write(bytes(size))
    idx = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(loaded.reader.hidden(idx), Reader(model, allowed_ids(None, 50257), rt.dtype).hidden(idx))
