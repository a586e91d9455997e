"""learn.py, the main job in one command: names, restarts, the config by rule, what is printed and opened."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import PACKAGE, STORY, read_metrics

from llm import learn, train
from llm.configurator import UserError, help_for, load_settings
from llm.text import dataset
from llm.text.book import Book

TINY = ["--n_layer=1", "--n_head=1", "--n_embd=8", "--batch_size=2", "--max_iters=4", "--device=cpu", "--dtype=float32"]
TEXT = STORY[:3000]
SMALL = TEXT[:700]  # tokens: 163


@pytest.fixture
def type_learn(data, tmp_path, monkeypatch):
    """type_learn(...) runs learn.py with these arguments in a folder of its own; returns the exit status."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("novel.txt").write_text(TEXT, encoding="utf-8")

    def type_learn(*argv, tiny=TINY):
        argv = [*argv, *tiny]
        monkeypatch.setattr(sys, "argv", ["learn.py", *argv])
        return learn.main(load_settings(learn.Settings, argv, script_folder=PACKAGE))

    return type_learn


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_one_command_prepares_trains_measures_and_says_how_to_go_on(type_learn, data, capsys):
    assert type_learn("novel.txt") == 0
    out = capsys.readouterr().out
    assert "novel.txt" in out and "3,000 characters" in out
    assert re.search(r"^recall@50/50: 0\.\d{4} \(\d+/\d+ windows\)$", out, re.M)
    last = [line.strip() for line in out.splitlines()[-4:]]
    assert [re.sub(r"\S*llm/", "", line).partition(" --start")[0] for line in last] == [
        "python sample.py --out_dir=out-novel",
        "python recall.py --out_dir=out-novel",
        "python sample.py --out_dir=out-novel --interactive=True",
        "python serve.py --out_dir=out-novel",
    ]
    assert {"ckpt.pt", "ckpt_init.pt", "recall.json", "metrics.jsonl"} <= files("out-novel").keys()
    assert {"train.bin", "meta.json"} <= files(data / "novel").keys()


def test_typed_again_it_says_that_training_had_ended_and_changes_nothing(type_learn, data, capsys):
    type_learn("novel.txt")
    before = files("out-novel") | files(data / "novel")
    capsys.readouterr()
    assert type_learn("../here/novel.txt") == 0
    out = capsys.readouterr().out
    assert "holds this text already" in out
    assert "going on from out-novel/ckpt.pt, step 4, where training had ended (all updates are made)" in out
    assert "\nrecall@50/50: 0." in out and out.splitlines()[-1].endswith("serve.py --out_dir=out-novel")
    assert files("out-novel") | files(data / "novel") == before


def test_ctrl_c_says_to_type_the_same_command_which_goes_on(type_learn, monkeypatch, capsys):
    update = train.update

    def interrupted_update(run, cfg, plan):
        if run.progress.iter_num == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return update(run, cfg, plan)

    Path("my book.txt").write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr(train, "update", interrupted_update)
    assert type_learn("my book.txt") == 128 + signal.SIGINT
    err = capsys.readouterr().err
    [line] = [line for line in err.splitlines() if line.startswith("Ctrl-C after")]
    typed = "learn.py 'my book.txt' " + " ".join(TINY)
    assert line.startswith("Ctrl-C after 3 updates") and line.endswith(typed)
    assert "; to go on: python " in line
    monkeypatch.setattr(train, "update", update)
    assert type_learn("my book.txt") == 0
    assert "going on from out-my_book/ckpt.pt, step 3\n" in capsys.readouterr().out
    assert read_metrics("out-my_book")[-1]["step"] == 4


# --- names ---


@pytest.mark.parametrize(
    ("titles", "name"),
    [
        (["Moby-Dick; or, The Whale"], "moby_dick_or_the_whale"),
        (["Les Misérables"], "les_miserables"),
        (["Война и мир"], "my_book"),
        (["a", "b", "c"], "a_and_2_more"),
        (["Prince"], "my_prince"),  # data/prince has a script of its own
        (["x" * 39 + " y"], "x" * 39),
        ([""], "my_book"),
    ],
)
def test_a_name_is_made_from_the_first_title(titles, name):
    assert learn.name_of([Book(title, "", "text") for title in titles]) == name


def test_the_title_in_the_book_names_it(type_learn, data):
    Path("a.html").write_text(f"<html><title>The Kettle</title><p>{TEXT}</p></html>", encoding="utf-8")
    type_learn("a.html")
    assert [path.name for path in data.iterdir()] == ["the_kettle"]


def test_a_book_that_was_renamed_is_the_same(type_learn, data, capsys):
    type_learn("novel.txt")
    Path("novel.txt").rename("other.txt")
    capsys.readouterr()
    type_learn("other.txt")
    assert "going on from out-novel/ckpt.pt" in capsys.readouterr().out


def test_an_address_is_downloaded_once(type_learn, data, monkeypatch, capsys):
    address, asked = "https://me:secret@example.org/novel.txt?key=secret", []
    monkeypatch.setattr(learn.prepare, "download", lambda url, **_: asked.append(url) or TEXT.encode())
    for _ in range(2):
        type_learn(address)
    assert asked == [address] and [path.name for path in data.iterdir()] == ["novel"]
    assert not [name for name, content in files(data / "novel").items() if b"secret" in content]


def test_chapters_in_a_folder_are_one_book(type_learn, data):
    Path("kettle").mkdir()
    for number, start in ((2, 1500), (10, 2200), (1, 0)):
        Path(f"kettle/chapter{number}.txt").write_text(STORY[start : start + 700], encoding="utf-8")
    type_learn("kettle")
    text = dataset.Dataset("kettle").tokenizer.decode(dataset.Dataset("kettle").train.tokens(0, 10**6).tolist())
    assert text.index(STORY[20:60]) < text.index(STORY[1520:1560]) < text.index(STORY[2220:2260])


def test_another_book_with_the_same_name_gets_a_new_name(type_learn, data, capsys):
    type_learn("novel.txt")
    before = files("out-novel") | files(data / "novel")
    Path("novel.txt").write_text(TEXT[100:], encoding="utf-8")
    type_learn("novel.txt")
    assert "novel is the name of another book already, so this one is called novel_2\n" in capsys.readouterr().err
    assert files("out-novel") | files(data / "novel") == before
    type_learn("novel.txt")
    assert "going on from out-novel_2/ckpt.pt" in capsys.readouterr().out
    assert {path.name for path in data.iterdir()} == {"novel", "novel_2"}


def test_a_book_is_added_by_the_command_with_all_books(type_learn, data, capsys):
    """It is a model of its own, of all books; the one without the new book stays as it was."""
    shelf = ["one.txt", "two.html", "three.txt"]
    for number, name in enumerate(shelf):
        text = STORY[1000 * number :][:700]
        Path(name).write_text(f"<html><title>Two</title><p>{text}" if name.endswith("html") else text, encoding="utf-8")
    type_learn(*shelf[:2])
    before = files("out-one_and_1_more") | files(data / "one_and_1_more")
    type_learn(*shelf)
    assert files("out-one_and_1_more") | files(data / "one_and_1_more") == before
    documents = dataset.Dataset("one_and_2_more").train.documents
    assert [document.title for document in documents] == ["one", "Two", "three"]
    out = capsys.readouterr().out
    assert "three: recall " in out and "out-one_and_2_more" in out
    type_learn(*shelf)
    assert "going on from out-one_and_2_more/ckpt.pt" in capsys.readouterr().out
    type_learn(*shelf[:2], "--dataset=shelf")
    with pytest.raises(UserError, match="^--dataset=shelf: another text or model has this name .* another --dataset"):
        type_learn(*shelf, "--dataset=shelf")


def test_a_name_that_is_typed_is_never_changed(type_learn, data):
    type_learn("novel.txt", "--dataset=mine")
    Path("novel.txt").write_text(TEXT[100:], encoding="utf-8")
    with pytest.raises(UserError, match=r"^--dataset=mine: another text or model has this name \(.*mine, out-mine\)"):
        type_learn("novel.txt", "--dataset=mine")


def test_the_same_book_cleaned_otherwise_is_another_text(type_learn, data):
    type_learn("novel.txt")
    type_learn("novel.txt", "--unwrap=False")
    type_learn("novel.txt", "--unwrap=False")
    assert {path.name for path in data.iterdir()} == {"novel", "novel_2"}


def test_a_model_without_its_dataset_keeps_its_name(type_learn, data):
    Path("out-novel").mkdir()
    Path("out-novel/ckpt.pt").touch()
    type_learn("novel.txt")
    assert files("out-novel") == {"ckpt.pt": b""} and Path("out-novel_2/ckpt.pt").stat().st_size


def test_a_dataset_that_was_prepared_anew_by_hand_is_not_taken_for_the_book(type_learn, prepare, data):
    type_learn("novel.txt")
    prepare("novel", TEXT[::-1])
    type_learn("novel.txt")
    assert {path.name for path in data.iterdir()} == {"novel", "novel_2"}


def test_a_preparation_that_was_killed_is_repeated(type_learn, data):
    type_learn("novel.txt", tiny=[*TINY, "--out_dir=one"])
    (data / "novel" / "meta.json").unlink()
    content = json.loads((data / "novel" / learn.RECORD).read_text())
    (data / "novel" / learn.RECORD).write_text(json.dumps(content | {"meta": None}))
    type_learn("novel.txt", tiny=[*TINY, "--out_dir=two"])
    assert [path.name for path in data.iterdir()] == ["novel"]
    assert len(dataset.Dataset("novel").train) > 700


def test_the_tale_keeps_its_name(type_learn, data):
    type_learn(str(learn.TALE), tiny=[*TINY, "--max_iters=0"])
    assert Path("out-tale/ckpt.pt").exists() and [path.name for path in data.iterdir()] == ["tale"]


# --- settings ---


@pytest.mark.parametrize(
    ("n_tokens", "shape"),
    [
        (2, (6, 256, 1)),
        (128, (6, 256, 127)),
        (129, (6, 256, 128)),
        (8975, (6, 256, 128)),
        (learn.SHORT_TEXT, (6, 256, 128)),
        (learn.SHORT_TEXT + 1, (6, 384, 256)),
        (10**6, (6, 384, 256)),
    ],
)
def test_the_config_follows_from_the_length_of_the_text(n_tokens, shape):
    cfg = load_settings(train.Settings, learn.config_for(n_tokens), script_folder=PACKAGE)
    assert (cfg.n_layer, cfg.n_embd, cfg.block_size) == shape and cfg.target_recall == 0.99


def test_what_is_typed_wins_over_the_config(type_learn, prepare):
    prepare("story", TEXT)
    typed = dict(target_recall=None, n_head=16, seed=5, unwrap=False)
    cfg = learn.train_settings("story", typed)
    assert (cfg.target_recall, cfg.n_head, cfg.seed, cfg.n_layer, cfg.out_dir) == (None, 16, 5, 6, "out-story")
    assert cfg.init_from == "auto" and cfg.dataset == "story"
    assert learn.train_settings("story", typed | {"init_from": "gpt2", "out_dir": "x"}).init_from == "gpt2"


def test_a_config_file_is_no_book(type_learn):
    Path("mine.py").write_text("n_layer = 2\nmax_iters = 0\n")
    type_learn("novel.txt", "mine.py", tiny=[word for word in TINY if "layer" not in word and "iters" not in word])
    assert learn.checkpoint.read(Path("out-novel/ckpt.pt"), parts=())["model_args"]["n_layer"] == 2


def test_a_run_that_has_begun_goes_on_whatever_it_started_from(type_learn, capsys):
    type_learn("novel.txt")
    fine_tuned = [word for word in TINY if "iters" not in word] + ["--max_iters=2", "--block_size=128"]
    for expected in ("fine-tuned from out-novel", "going on from tuned/ckpt.pt, step 2"):
        capsys.readouterr()
        type_learn("novel.txt", "--init_from=out-novel", "--out_dir=tuned", tiny=fine_tuned)
        assert expected in capsys.readouterr().out


# --- mistakes ---


def test_a_model_of_another_text_is_not_trained_further(type_learn):
    type_learn("novel.txt", "--out_dir=out")
    Path("other.txt").write_text(TEXT[100:], encoding="utf-8")
    with pytest.raises(UserError, match="^out/ckpt.pt is the model of another text than other is now: type another --"):
        type_learn("other.txt", "--out_dir=out")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (
            [],
            r"there is no book: type python \S*learn.py my_book.txt; or, for the bundled tale, python \S+ \S+tale.txt",
        ),
        (
            ["-"],
            "standard input: the same command must find the book again; save it as a file, and type the file's name",
        ),
        (["nowhere.txt"], "nowhere.txt "),
        (["empty.txt"], "empty.txt "),
        (["short.txt"], "the train part holds 1 token"),
        (["novel.txt", "--dataset=a/b"], "--dataset=a/b: expected at most 64 letters"),
        (["novel.txt", "--dataset=book"], "--dataset=book: .* type --dataset=my_book$"),
        (["novel.txt", "--n_head=3"], "n_embd=8 is not a multiple of n_head=3"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(type_learn, data, argv, line):
    Path("empty.txt").touch()
    Path("short.txt").write_text("a")
    with pytest.raises(UserError, match=f"^{line}"):
        type_learn(*TINY, *argv, tiny=[])
    assert not list(Path().glob("out*")) and [path.name for path in data.iterdir()] in ([], ["novel"])
    assert list(data.iterdir()) == [] or "n_head" in line  # the book is fine: it is prepared


def test_several_processes_are_refused(type_learn, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="^learn.py is one process; under torchrun"):
        type_learn("novel.txt")


def test_help_lists_learns_own_settings_and_those_of_preparing():
    text = help_for(learn.Settings, learn.__doc__, str(PACKAGE / "learn.py"), ["--help", "--seed=3"])
    listed = set(re.findall(r"^  --(\w+)=", text, re.M))
    assert {"input", "dataset", "out_dir", "serve", "unwrap"} <= listed
    assert not listed & {"n_layer", "learning_rate", "device"} and "train_prince.py --help" in text
    assert "\n  --seed=3 " in text.partition("Set by --seed=3:")[2]
    assert "[input ...]" in text


# --- the page ---


@pytest.mark.slow
def test_serve_opens_the_page(run, package, tmp_path):
    pytest.importorskip("uvicorn")
    (tmp_path / "novel.txt").write_text(SMALL, encoding="utf-8")
    browser = tmp_path / "browser.sh"
    browser.write_text(f"#!/bin/sh\necho $1 > {tmp_path}/part && mv {tmp_path}/part {tmp_path}/opened\n")
    browser.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, str(package / "learn.py"), "novel.txt", "--serve=True", "--dataset=page", *TINY],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "DISPLAY": ":9", "BROWSER": f"{browser} %s"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "opened").exists():
            assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
            time.sleep(0.1)
        address = (tmp_path / "opened").read_text().strip()
        with urllib.request.urlopen(address, timeout=20) as response:
            assert b"<html" in response.read()
    finally:
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=20)[1]
    assert f"serving out-page at {address}; Ctrl-C" in err


def test_no_browser_is_opened_without_a_display(monkeypatch):
    opened = []
    monkeypatch.setattr(learn.webbrowser, "open", opened.append)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    learn.open_page("http://127.0.0.1:1")
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    learn.open_page("http://127.0.0.1:2")
    assert opened == ["http://127.0.0.1:2"]


@pytest.mark.parametrize("name", ["learn.json", "meta.json", "train.bin"])
def test_a_folder_in_the_way_of_a_file_is_one_line(type_learn, data, name):
    """With one named learn.json, tidying up after the error failed, too."""
    (data / "novel" / name / "inside").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot write .*: Is a directory|another text or model has this name"):
        type_learn("novel.txt", "--dataset=novel")
