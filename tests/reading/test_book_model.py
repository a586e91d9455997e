"""llm.load in a notebook: what it returns, and the cells of docs/python.ipynb."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stdout

import pytest
from conftest import STORY, save_trained

import llm
from llm.configurator import PACKAGE, UserError
from llm.reading.recall import PREFIX, SUFFIX
from llm.text.tokenizer import gpt2

NOTEBOOK = PACKAGE.parent / "docs" / "python.ipynb"


@pytest.fixture
def model(prepare, tiny_model, tmp_path, monkeypatch):
    """A random model of the beginning of the tale, in out-tale of the current folder."""
    data = prepare()
    (tmp_path / "out-tale").mkdir()
    gpt = tiny_model(vocab_size=50304, n_embd=8, block_size=100)
    save_trained(tmp_path / "out-tale" / "ckpt.pt", gpt, data.train, data.corpus_ids, dataset="story")
    monkeypatch.chdir(tmp_path)
    return llm.load("out-tale", device="cpu")


def test_importing_llm_is_light():
    """Notebooks import it before they know whether they need torch."""
    probe = "import llm, sys; print([name for name in ('torch', 'numpy', 'tiktoken') if name in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", probe], capture_output=True, encoding="utf-8", cwd=PACKAGE.parent)
    assert finished.stdout == "[]\n", finished.stderr


def test_a_continuation_is_a_string_or_its_pieces(model):
    text = model.continue_("The echo had been ill", max_new_tokens=30)
    pieces = list(model.continue_("The echo had been ill", max_new_tokens=30, stream=True))
    assert len(pieces) > 10 and "".join(pieces) == text
    assert model.continue_("The echo had been ill", max_new_tokens=30, seed=2) == text  # temperature 0
    warm = [
        model.continue_("The echo had been ill", max_new_tokens=30, temperature=1.0, seed=seed) for seed in (1, 1, 2)
    ]
    assert warm[0] == warm[1] != warm[2]
    assert model.continue_("The echo", max_new_tokens=30, stop=text[3:6]).find(text[3:6]) == -1


def test_known_has_an_entry_for_each_window(model):
    windows, recall = model.known(), model.recall()
    n_tokens = len(gpt2().encode(STORY[:6000])) + 1
    assert len(windows) == recall.windows == (n_tokens - PREFIX - SUFFIX) // 50 + 1
    assert sum(window.known for window in windows) == recall.recited
    assert all(window.known == (window.first_slip is None) for window in windows)
    ids = gpt2().encode(STORY[:6000])
    assert STORY[: windows[2].start] == gpt2().decode(ids[:100]) and windows[-1].where.endswith(" %")


def test_citing_tells_what_stands_in_the_book(model):
    words = " ".join(STORY[:6000].split()[100:120])
    (before, none), (piece, span), *_ = model.cite(f"He said: {words} but")
    assert (before, none, piece) == ("He said: ", None, words)
    assert model.text[span.at :].split()[:3] == words.split()[:3]


def test_a_mistake_is_one_line(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        llm.load(str(tmp_path / "nowhere"))


def test_the_cells_of_the_notebook_run(model):
    names, shown = {}, io.StringIO()
    with redirect_stdout(shown):
        for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), names)
    assert names["prompt"] in shown.getvalue() and "invented" in shown.getvalue()
    assert len(names["windows"]) == model.recall().windows


def test_the_outputs_of_the_notebook_are_stored():
    """So that a reader of docs/python.ipynb sees what the cells return."""
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert {output["output_type"] for output in cell["outputs"]} <= {"stream", "execute_result"}
            assert cell["outputs"] and cell["execution_count"]
