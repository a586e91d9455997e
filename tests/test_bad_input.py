"""Each script, each mistake: the exact line that answers it, and nothing lost or half-written.

The scripts run as a user runs them, in a folder that has the datasets story (GPT-2's tokens) and letters (characters),
and out/, a model that learned story. TMP is that folder.
"""

import contextlib
import ctypes
import json
import os
import re
import runpy
import sys

import pytest
import torch
from conftest import PACKAGE, STORY, save_trained

from llm.text import tokenizer

OUT, STORY_OUT = "--out_dir=out", ["--out_dir=new", "--dataset=story", "--device=cpu"]
BOOK = ["data/book/prepare.py", "--dataset=mine"]
TINY = ["--n_layer=1", "--n_head=1", "--n_embd=8", "--block_size=16", "--batch_size=1", "--max_iters=1"]


def write(path, data=b"", mode=0o644):
    def spoil(folder):
        (folder / path).parent.mkdir(exist_ok=True, parents=True)
        (folder / path).write_bytes(data)
        (folder / path).chmod(mode)

    return spoil


def change_meta(**changes):
    def spoil(folder):
        path = folder / "data" / "story" / "meta.json"
        meta = json.loads(path.read_text()) | changes
        del meta["sha256"]
        path.write_text(json.dumps(meta))

    return spoil


def change_checkpoint(**changes):
    def spoil(folder):
        path = folder / "out" / "ckpt.pt"
        torch.save(torch.load(path, weights_only=True) | changes, path)

    return spoil


def cut(path, size):
    return lambda folder: os.truncate(folder / path, size)


def flip(path, at):
    def spoil(folder):
        data = bytearray((folder / path).read_bytes())
        data[at] ^= 1
        (folder / path).write_bytes(data)

    return spoil


def remove(path):
    return lambda folder: (folder / path).unlink()


def make_folder(path):
    return lambda folder: (folder / path).mkdir(parents=True)


TABLE = [
    # settings, the same for every script
    (
        ["train.py", "--max_iters=-1"],
        None,
        "--max_iters=-1: expected int >= 0 or None, for example --max_iters=600000",
    ),
    (
        ["train.py", "--learning_rate=nan"],
        None,
        "--learning_rate=nan: expected float > 0, for example --learning_rate=0.0006",
    ),
    (
        ["train.py", "--learning_rate=inf"],
        None,
        "--learning_rate=inf: expected float > 0, for example --learning_rate=0.0006",
    ),
    (["train.py", "--batch_size=0"], None, "--batch_size=0: expected int >= 1, for example --batch_size=12"),
    (["train.py", "--batch_size=1.5"], None, "--batch_size=1.5: expected int >= 1, for example --batch_size=12"),
    (
        ["train.py", "--batch_size=99999999999999999999"],
        None,
        f"--batch_size=99999999999999999999: expected int >= 1 and at most {2**63 - 1}, for example --batch_size=12",
    ),
    (
        ["train.py", "--n_layer=1001"],
        None,
        "n_layer=1001: expected at most 1000, which a checkpoint may hold",
    ),
    (["train.py", "--batchsize=4"], None, "--batchsize=4: no setting batchsize; type --batch_size=4"),
    (["train.py", "--batch_size", "4"], None, "--batch_size: expected --key=value; type --batch_size=4"),
    (
        ["train.py", "--target_recall=2"],
        None,
        "--target_recall=2: expected float > 0 and <= 1 or None, for example --target_recall=None",
    ),
    (
        ["train.py", "config/nowhere.py"],
        None,
        "config/nowhere.py: no such config file; looked in TMP and LLM; nearest: NEAREST",
    ),
    (
        ["train.py", "folder"],
        make_folder("folder"),
        "folder: a folder, expected a config file; looked in TMP and LLM; nearest: NEAREST",
    ),
    (
        ["train.py", "mine.py"],
        write("mine.py", b"batch_size = 'x'"),
        "mine.py line 1: batch_size = 'x': expected int >= 1, for example batch_size = 12",
    ),
    (
        ["train.py", "mine.py"],
        write("mine.py", b"batch_size = (\n"),
        "mine.py line 1: SyntaxError: '(' was never closed",
    ),
    (["train.py", "mine.py"], write("mine.py", b"\xff\xfe"), "mine.py: not UTF-8 text; save it as UTF-8"),
    (
        ["sample.py", OUT, "--temperature=-1"],
        None,
        "--temperature=-1: expected float >= 0, for example --temperature=0.3",
    ),
    (["sample.py", OUT, "--top_p=0"], None, "--top_p=0: expected float > 0 and <= 1, for example --top_p=1.0"),
    (
        ["sample.py", OUT, "--device=tpu"],
        None,
        "device=tpu: expected auto, cpu, cuda, cuda:0 or mps; type --device=auto",
    ),
    (
        ["sample.py", OUT, "--dtype=int8"],
        None,
        "--dtype=int8: expected auto, float32, bfloat16 or float16, for example --dtype=auto",
    ),
    # train.py
    (
        ["train.py", "--dataset=nowhere"],
        None,
        "dataset nowhere is not prepared in TMP/data/nowhere (prepared: letters, story); type: python "
        "LLM/data/book/prepare.py --input=YOUR_TEXT.txt --dataset=nowhere",
    ),
    (
        ["train.py", *STORY_OUT],
        cut("data/story/train.bin", 10),
        "TMP/data/story/train.bin has 10 bytes, expected 1,550 (775 tokens); prepare the dataset anew: python "
        "LLM/data/book/prepare.py --input=YOUR_TEXT.txt --dataset=story",
    ),
    (
        ["train.py", *STORY_OUT],
        flip("data/story/train.bin", 10),
        "TMP/data/story/train.bin was changed or damaged (its sha256 is not the one in meta.json); prepare the "
        "dataset anew: python LLM/data/book/prepare.py --input=YOUR_TEXT.txt --dataset=story",
    ),
    (
        ["train.py", *STORY_OUT],
        remove("data/story/train.bin"),
        "cannot read TMP/data/story/train.bin: No such file or directory; prepare the dataset anew: python "
        "LLM/data/book/prepare.py --input=YOUR_TEXT.txt --dataset=story",
    ),
    (
        ["train.py", *STORY_OUT],
        write("data/story/meta.json", b"{"),
        "TMP/data/story/meta.json is damaged; prepare the dataset anew: python LLM/data/book/prepare.py "
        "--input=YOUR_TEXT.txt --dataset=story",
    ),
    (
        ["train.py", *STORY_OUT],
        write("data/story/meta.json", b"[" * 100_000),
        "TMP/data/story/meta.json is damaged; prepare the dataset anew: python LLM/data/book/prepare.py "
        "--input=YOUR_TEXT.txt --dataset=story",
    ),
    (
        ["train.py", *STORY_OUT],
        change_meta(format=2),
        "TMP/data/story/meta.json has format 2, this llm reads up to 1: update llm, or prepare it anew",
    ),
    (
        ["train.py", *STORY_OUT],
        change_meta(tokenizer={"kind": "words"}),
        "TMP/data/story/meta.json is encoded by 'words': expected gpt2, book or characters; a newer llm may know it",
    ),
    (
        ["train.py", *STORY_OUT],
        change_meta(ids=[-1]),
        "TMP/data/story/meta.json is damaged; prepare the dataset anew: python LLM/data/book/prepare.py "
        "--input=YOUR_TEXT.txt --dataset=story",
    ),
    (
        ["train.py", *STORY_OUT],
        change_meta(shards=[{"file": "../../x/train.bin", "tokens": 5}]),
        "TMP/data/story/meta.json is damaged; prepare the dataset anew: python LLM/data/book/prepare.py "
        "--input=YOUR_TEXT.txt --dataset=story",
    ),
    (
        ["train.py", *STORY_OUT, "--block_size=5000"],
        None,
        "the training text has 775 tokens, block_size=5000 needs at least 5,001; type --block_size=774 or less, "
        "or use a longer text",
    ),
    (["train.py", *STORY_OUT, "--n_embd=100"], None, "n_embd=100 is not a multiple of n_head=12; change one of them"),
    (
        ["train.py", *STORY_OUT, "--patience=3"],
        None,
        "target_loss and patience are about val_loss, and dataset story holds nothing out; prepare it with "
        "--val_fraction=0.05, or leave them out",
    ),
    (["train.py", *STORY_OUT, "--init_from=resume"], None, "out_dir=new does not exist (here are: out)"),
    (
        ["train.py", *STORY_OUT, "--init_from=gpt5"],
        None,
        "init_from=gpt5: no such model; expected gpt2, gpt2-medium, gpt2-large, gpt2-xl, a folder with ckpt.pt or "
        "with config.json and model.safetensors, a file such as ckpt.pt, or a word that --help lists; here are: out",
    ),
    (
        ["train.py", "--dataset=letters", OUT, "--init_from=resume"],
        None,
        "out/ckpt.pt was trained on another text (dataset story) than dataset letters holds now; resume with "
        "that one, or leave out --init_from=resume to begin anew",
    ),
    (
        ["train.py", "--dataset=story", "--out_dir=file", *TINY],
        write("file"),
        "cannot write to out_dir=file: File exists; type another --out_dir",
    ),
    (
        ["train.py", "--dataset=story", "--out_dir=file/out", *TINY],
        write("file"),
        "cannot write to out_dir=file/out: Not a directory; type another --out_dir",
    ),
    # a model to read
    (
        ["sample.py"],
        lambda folder: (folder / "out").rename(folder / "other"),
        "out_dir=out does not exist (here are: other)",
    ),
    (
        ["sample.py", OUT, "--checkpoint_name=best.pt"],
        None,
        "out/best.pt does not exist in out_dir=out (it has: ckpt.pt)",
    ),
    (
        ["sample.py", OUT],
        write("out/ckpt.pt", b"once upon a time"),
        "out/ckpt.pt is damaged or no checkpoint of llm or nanoGPT (not a file that torch.save wrote, or cut short)",
    ),
    (
        ["sample.py", OUT],
        write("out/ckpt.pt"),
        "out/ckpt.pt is damaged or no checkpoint of llm or nanoGPT (not a file that torch.save wrote, or cut short)",
    ),
    (
        ["sample.py", OUT],
        cut("out/ckpt.pt", 1000),
        "out/ckpt.pt is damaged or no checkpoint of llm or nanoGPT (cut short, or not what torch.save writes)",
    ),
    (["sample.py", OUT], change_checkpoint(format=7), "out/ckpt.pt has format 7, this llm reads up to 3: update llm"),
    (
        ["sample.py", OUT],
        change_checkpoint(iter_num=3),
        "out/ckpt.pt is damaged: the checksum of its part 'rest' is wrong",
    ),
    (
        ["sample.py", OUT, "--start=FILE:nothing.txt"],
        None,
        "nothing.txt cannot be read (No such file or directory): expected a text file",
    ),
    (["sample.py", OUT, "--start=FILE:data"], None, "data cannot be read (Is a directory): expected a text file"),
    (
        ["sample.py", OUT, "--init_from=nowhere"],
        None,
        "init_from=nowhere: no such model; expected gpt2, gpt2-medium, gpt2-large, gpt2-xl, a folder with ckpt.pt or "
        "with config.json and model.safetensors, a file such as ckpt.pt, or a word that --help lists; here are: out",
    ),
    (
        ["recall.py", OUT, "--dataset=letters"],
        None,
        "dataset letters is prepared for another tokenizer than out/ckpt.pt was trained with",
    ),
    (
        ["recall.py", OUT, "--dataset=nowhere"],
        None,
        "dataset nowhere is not prepared in TMP/data/nowhere (prepared: letters, story); type: python "
        "LLM/data/book/prepare.py --input=YOUR_TEXT.txt --dataset=nowhere",
    ),
    (
        ["recall.py", OUT, "--control=nothing.txt"],
        None,
        "nothing.txt cannot be read (No such file or directory): expected a text file",
    ),
    (
        ["recall.py", OUT, "--control=short.txt"],
        write("short.txt", b"Too short."),
        "short.txt has 3 tokens, a control needs at least 100",
    ),
    (["probe.py", "--out_dir=nowhere"], None, "out_dir=nowhere does not exist (here are: out)"),
    (["serve.py", "--out_dir=nowhere"], None, "out_dir=nowhere does not exist (here are: out)"),
    (
        ["serve.py", OUT, "--host=0.0.0.0"],
        None,
        "host=0.0.0.0 is open to others: put a key into LLM_API_KEY, which they must then bring along",
    ),
    (
        ["serve.py", OUT, "--port=99999"],
        None,
        "port=99999: expected a number from 0 to 65535; type --port=0 for one that is free",
    ),
    (
        ["plot.py", "--out_dir=nowhere"],
        None,
        "cannot read nowhere/metrics.jsonl: No such file or directory; train.py writes it into its out_dir",
    ),
    (
        ["plot.py", OUT],
        write("out/metrics.jsonl"),
        "out/metrics.jsonl holds no figures yet: wait for the first evaluation",
    ),
    (
        ["plot.py", OUT],
        write("out/metrics.jsonl", b"{\n"),
        "out/metrics.jsonl is damaged: a line of it is not a step with its figures",
    ),
    (["bench.py", "--repeats=0"], None, "--repeats=0: expected int >= 1, for example --repeats=5"),
    # a text to prepare
    (
        ["data/book/prepare.py"],
        None,
        "there is no text to prepare: expected a file or an address; type python LLM/data/book/prepare.py "
        "--input=my_book.txt --dataset=my_book",
    ),
    (
        [*BOOK, "--input=nothing.txt"],
        None,
        "nothing.txt cannot be read (No such file or directory): expected a text file",
    ),
    (
        [*BOOK, "--input=data/letters"],
        None,
        "data/letters is a folder without texts or books in it: expected a book, or a folder of chapters",
    ),
    ([*BOOK, "*.xyz"], None, "*.xyz: no file has such a name; expected a book, a folder or a pattern"),
    (
        [*BOOK, "data/story/train.bin", "--encoding=klingon"],
        None,
        "--encoding=klingon: no encoding of this name; expected for example --encoding=windows-1252, "
        "--encoding=gb18030 or --encoding=shift_jis",
    ),
    (
        [*BOOK, "--input=mine.txt"],
        write("mine.txt"),
        "mine.txt is empty: expected a text file with at least a few pages of text",
    ),
    (
        [*BOOK, "--input=mine.txt"],
        write("mine.txt", b" \n \n"),
        "mine.txt is empty: expected a text file with at least a few pages of text",
    ),
    (
        [*BOOK, "--input=mine.txt"],
        write("mine.txt", b"%PDF-1.7"),
        "mine.txt is a damaged PDF: expected one that a viewer opens",
    ),
    (
        [*BOOK, "--input=mine.txt"],
        write("mine.txt", b"PK\x03\x04 an EPUB"),
        "mine.txt is a damaged zip file: it cannot be opened",
    ),
    (
        [*BOOK, "--input=mine.txt"],
        write("mine.txt", b"a\0b\0c\0" * 50),
        "mine.txt is not text (it contains NUL bytes): expected a text file, best in UTF-8",
    ),
    (
        [*BOOK, "--input=mine.txt", "--val_fraction=1"],
        write("mine.txt", b"word " * 50),
        "--val_fraction=1: expected float >= 0 and < 1, for example --val_fraction=0.0",
    ),
    (
        [*BOOK, "--input=mine.txt", "--val_fraction=0.001"],
        write("mine.txt", b"word " * 50),
        "the val part holds 1 token(s) of the text's 250 characters: expected at least 2; use a longer text, or "
        "--val_fraction=0",
    ),
    (
        ["data/book/prepare.py", "--input=mine.txt"],
        write("mine.txt", b"word " * 50),
        "the dataset has no name yet; type python LLM/data/book/prepare.py --input=mine.txt --dataset=mine",
    ),
    (
        ["data/book/prepare.py", "--input=mine.txt", "--dataset=../x"],
        write("mine.txt", b"word " * 50),
        "--dataset=../x: expected at most 64 letters, digits, _ and -, not beginning with -; type python "
        "LLM/data/book/prepare.py --input=mine.txt --dataset=mine",
    ),
    (
        ["data/tale/prepare.py", "--val_fraction=-1"],
        None,
        "--val_fraction=-1: expected float >= 0 and < 1, for example --val_fraction=0.0",
    ),
]


@pytest.fixture
def folder(tmp_path, data, prepare, tiny_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    story = prepare("story", STORY[:3000])
    prepare("letters", "abc" * 50, encoder=tokenizer.characters("abc"))
    (tmp_path / "out").mkdir()
    save_trained(
        tmp_path / "out" / "ckpt.pt",
        tiny_model(vocab_size=50304, n_embd=4, n_layer=1, block_size=128),
        story.train,
        story.corpus_ids,
        dataset="story",
    )
    return tmp_path


MINE, TALE = ("data/book/prepare.py", "--input=mine.txt"), "data/tale/prepare.py"
FORBIDDEN = [
    ("sample.py", OUT, "out/ckpt.pt", 0, "cannot read out/ckpt.pt: Permission denied"),
    (*MINE, "mine.txt", 0, "mine.txt cannot be read (Permission denied)"),
    ("train.py", OUT, "out", 0o500, "cannot write to out_dir=out: Permission denied; type another --out_dir"),
    ("train.py", OUT, "out", 0, "cannot write to out_dir=out: Permission denied; type another --out_dir"),
    # a folder in which nothing can be looked for: some versions of Python take that for an empty one
    ("train.py", OUT, "data/story", 0, ""),
    ("sample.py", OUT, "out", 0, ""),
    ("learn.py", "mine.txt", "data", 0, "data/mine: Permission denied"),
    ("recall.py", OUT, "data/story/train.bin", 0, "cannot read or write TMP/data/story/train.bin: Permission denied"),
    (*MINE, "data", 0o500, "cannot write to data/mine: Permission denied"),
    (*MINE, "data", 0, "cannot write to data/mine: Permission denied"),
    (
        "data/book/prepare.py",
        "--input=mine.txt",
        "data/mine",
        0o500,
        "cannot write TMP/data/mine/train.bin: Permission denied",
    ),
    (
        "data/tale/prepare.py",
        "--val_fraction=0",
        "data/tale",
        0o500,
        "cannot write TMP/data/tale/train.bin: Permission denied",
    ),
    ("learn.py", "mine.txt", "data", 0o500, "cannot write to data/mine: Permission denied"),
]


@contextlib.contextmanager
def obeying_permissions():
    """Without root's rights to read and write everything, if this is root: Linux has a bit for each of them."""
    if os.geteuid() != 0:
        yield
        return
    libc, header, sets = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets):
        pytest.skip("root may read and write everything")
    before, sets[0] = sets[0], sets[0] & ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    libc.capset(header, sets)
    try:
        yield
    finally:
        sets[0] = before
        libc.capset(header, sets)


@pytest.mark.skipif(sys.platform != "linux", reason="permissions differ elsewhere")
@pytest.mark.parametrize("script, option, path, mode, line", FORBIDDEN)
def test_what_may_not_be_read_or_written_is_told(folder, monkeypatch, capsys, script, option, path, mode, line):
    (folder / "mine.txt").write_text("word " * 50)
    if not (folder / path).exists():
        (folder / path).mkdir()
    mode_before = (folder / path).stat().st_mode
    (folder / path).chmod(mode)
    options = {"train.py": ["--dataset=story", *TINY], "data/book/prepare.py": ["--dataset=mine"]}
    monkeypatch.setattr(sys, "argv", [str(PACKAGE / script), option, *options.get(script, [])])
    with pytest.raises(SystemExit) as ended, obeying_permissions():
        runpy.run_path(str(PACKAGE / script), run_name="__main__")
    (folder / path).chmod(mode_before)
    said = capsys.readouterr().err.replace(str(folder), "TMP")
    assert line in said and said.count("\n") == 1 and ended.value.code == 1


def files_in(folder) -> dict:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("arguments, spoil, line", TABLE, ids=[" ".join(row[0]) for row in TABLE])
def test_a_mistake_has_its_line(folder, monkeypatch, capsys, arguments, spoil, line):
    spoil(folder) if spoil else None
    before = files_in(folder)
    script, *options = arguments
    monkeypatch.setattr(sys, "argv", [str(PACKAGE / script), *options])
    monkeypatch.delenv("LLM_API_KEY", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PACKAGE / script), run_name="__main__")
    captured = capsys.readouterr()
    said = captured.err.replace(os.path.relpath(PACKAGE), "LLM").replace(str(PACKAGE), "LLM")
    said = re.sub("nearest: .*", "nearest: NEAREST", said.replace(str(folder), "TMP"))
    assert (said, captured.out, ended.value.code) == (f"{os.path.basename(script)}: error: {line}\n", "", 1)
    assert files_in(folder) == before
