"""Titles, names and texts of strangers send nothing to a terminal that it would obey."""

import dataclasses
import io
import sys
from pathlib import Path

import torch
from conftest import TINY, save_checkpoint

from llm import sample, train
from llm.data.book import prepare
from llm.storage import checkpoint
from llm.terminal import show, visible
from llm.text import tokenizer

ESCAPE = "\x1b]0;PWNED\x07\x1b[2J\x9b31m\u202e"
SHOWN = r"\x1b]0;PWNED\x07\x1b[2J\x9b31m\u202e"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def sent(monkeypatch, output, function, *arguments, **options) -> str:
    """What a function sends to this standard output."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", output)
        function(*arguments, **options)
    return output.getvalue()


def test_a_text_goes_to_a_file_as_it_is_and_to_a_terminal_with_escapes(monkeypatch):
    text = f"Ünïcödé 日本\t{ESCAPE}\r\nend"
    assert sent(monkeypatch, Terminal(), show, text, end="") == f"Ünïcödé 日本\t{SHOWN}\\r\nend"
    assert sent(monkeypatch, io.StringIO(), show, text) == text + "\n"


def test_a_title_in_a_book_is_shown(data, tmp_path, capsys):
    """The summary of a book was printed as it stood there: title, chapters, notes."""
    page = f"<title>Red {ESCAPE}</title><h1>One {ESCAPE}</h1><p>The ferry left.</p><h1>Two</h1><p>{'Word. ' * 40}</p>"
    (tmp_path / "a.html").write_text(page, encoding="utf-8")
    prepare.main(prepare.Settings(input=(str(tmp_path / "a.html"),), dataset="a"))
    out = capsys.readouterr().out
    assert f"Red {SHOWN}" in out and f"One {SHOWN}" in out and visible(out) == out


def test_what_a_checkpoint_says_of_its_run_is_shown(learn, capsys):
    """The name of the model that it started from, and why it ended, were printed as they stood in the file."""
    learn(max_iters=2, corpus_softmax=False)
    content = torch.load("out/ckpt.pt", weights_only=True)
    content["loop"] |= {"stop_reason": ESCAPE, "base": {"name": ESCAPE, "path": "", "sha256": ""}}
    checkpoint.write(Path("out/ckpt.pt"), content)
    capsys.readouterr()
    train.train(dataclasses.replace(TINY, init_from="resume", max_iters=2, corpus_softmax=False))
    said = capsys.readouterr()
    assert f"fine-tuned from {SHOWN}" in said.out and f"had ended ({SHOWN})" in said.out
    assert visible(said.out + said.err) == said.out + said.err


def test_what_a_model_draws_is_shown(data, tiny_model, tmp_path, monkeypatch):
    """A model that strangers made may draw any character; into a file, the text goes as it was drawn."""
    characters = tokenizer.characters("a\x1b\x9b\u202e")
    model = tiny_model(vocab_size=characters.vocab_size, n_embd=8)
    config, description = {"dataset": "x"}, characters.description
    save_checkpoint(
        tmp_path / "ckpt.pt",
        model=model,
        config=config,
        tokenizer_description=description,
        corpus_ids=list(range(characters.vocab_size)),
    )
    cfg = sample.Settings(out_dir=str(tmp_path), start="a", temperature=2.0, max_new_tokens=60, device="cpu")
    shown, drawn = (sent(monkeypatch, output(), sample.main, cfg) for output in (Terminal, io.StringIO))
    assert "\x1b" in drawn and visible(drawn) == shown
