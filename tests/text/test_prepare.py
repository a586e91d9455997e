"""data/*/prepare.py as users run them: in a copy of the package, from another folder, without a network.

Two commands have a process of their own; the others share one, because importing torch takes most of the time.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from books import docx, epub, page, word_paragraph

import llm
from llm.configurator import UserError
from llm.data.book import prepare as book
from llm.data.prince import prepare as prince
from llm.data.shakespeare_char import prepare as shakespeare
from llm.text.tokenizer import characters, gpt2

PAGES = [
    "Mrs. Ombley kept a shop for clocks that had stopped, and sold each of\n"
    "them with the hour it had stopped at written on its ticket. Most people\n"
    "bought an hour that meant something to them, such as the one at which",
    "they had been born, or had won a prize for marrows. Only the doctor\n"
    "came every week and asked for ten past four, and never would say why.\n"
    "So she put every clock that showed it aside for him, on the shelf by the",
    "window. One winter there were none left, and she stopped a good one for\n"
    "him with her thumb. The doctor held it to his ear for a long while. Then\n"
    "he gave it back and said this one was only holding its breath, and bought",
    "a quarter to nine instead, which was the hour at which the shop closed.",
]
STORY = " ".join(PAGES).replace("\n", " ") + "\n"
START, END = (f"*** {word} OF THE PROJECT GUTENBERG EBOOK CLOCKS ***" for word in ("START", "END"))
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:1")

# The commands, as words after `python llm/data/`; one process, which imports torch once, runs all of a tuple.
COMMANDS = {
    "prince": ("prince --input=scan.txt",),
    "book": ("book wrapped.txt --dataset=clocks",),
    "many": (
        "prince",
        "shakespeare_char",
        "tale --val_fraction=0.25",
        "book wrapped.txt ferry.epub --dataset=shelf --val_fraction=0.1",
        "book mine.docx --dataset=file",
        "prince --input=nowhere.txt",
        "book",
        "book --input=wrapped.txt",
        "book --input=wrapped.txt --dataset=../clocks",
        "book --input=wrapped.txt --dataset=prince",
        "book --input=empty.txt --dataset=empty",
        "book --input=frame.txt --dataset=frame",
        "book --input=http://ada:secret@example.org/a.txt?token=secret --dataset=offline",
        "prince --input=scan.txt --unwrap=False",
    ),
}
ONE_PROCESS = """
import contextlib, io, json, pathlib, runpy, sys
for script, *options in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    data = pathlib.Path(script).parents[1]
    before = sorted(map(str, data.rglob("*")))
    sys.argv = [script, *options]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as e:
            status = e.code
    unchanged = before == sorted(map(str, data.rglob("*")))
    print(json.dumps([status, out.getvalue(), err.getvalue(), unchanged]))
"""


class Run:
    """A copy of the package after some commands in it; answers: status, output and errors of each command."""

    def __init__(self, folder: Path, commands: tuple[str, ...]):
        self.data = folder / "llm" / "data"
        package = Path(llm.__file__).parent
        ignore = shutil.ignore_patterns("*.bin", "meta.json", "input.txt", "out", "out-*", "__pycache__")
        shutil.copytree(package, folder / "llm", ignore=ignore)
        (self.data / "tale" / "tale.txt").write_text(STORY, encoding="utf-8")
        (self.data / "shakespeare_char" / "input.txt").write_bytes(b"To be:\nor not\n" * 10)
        here = folder / "elsewhere"
        here.mkdir()
        (here / "scan.txt").write_bytes("\f".join(f"{page}\n\n{n}\n" for n, page in enumerate(PAGES, 7)).encode())
        wrapped = "\n".join(["Produced by nobody.", START, "", *PAGES, END, "Licence."])
        (here / "wrapped.txt").write_bytes(wrapped.replace("\n", "\r\n").encode())
        (here / "empty.txt").write_bytes(b" \n")
        (here / "ferry.epub").write_bytes(epub({"a.xhtml": page("<h1>One</h1><p>The ferry left.</p>" * 9)}))
        (here / "mine.docx").write_bytes(docx(word_paragraph("The ferry left the north bank. " * 9)))
        (self.data / "file").write_bytes(b"in the way")
        (here / "frame.txt").write_bytes(f"{START}\n{END}\n".encode())
        self.input_sha256 = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in here.iterdir()}
        before = sorted(self.data.rglob("*"))
        typed = [command.split() for command in commands]
        typed = [[str(self.data / name / "prepare.py"), *options] for name, *options in typed]
        done = subprocess.run(
            [sys.executable, "-B", *(typed[0] if len(typed) == 1 else ["-c", ONE_PROCESS, json.dumps(typed)])],
            cwd=here,
            env={**os.environ, **OFFLINE, "NO_PROXY": "", "no_proxy": "", "PYTHONPATH": str(folder)},
            capture_output=True,
            encoding="utf-8",
            timeout=60,
        )
        answers = [[done.returncode, done.stdout, done.stderr, before == sorted(self.data.rglob("*"))]]
        if len(typed) > 1:
            assert done.returncode == 0, done.stderr
            answers = [json.loads(line) for line in done.stdout.splitlines()]
        self.answers = dict(zip(commands, answers, strict=True))
        self.status, self.out, self.err, _ = answers[0]

    def meta(self, name: str) -> dict:
        return json.loads((self.data / name / "meta.json").read_text(encoding="utf-8"))

    def ids(self, name: str, part: str = "train") -> list[int]:
        data = (self.data / name / f"{part}.bin").read_bytes()
        return [int.from_bytes(data[i : i + 2], "little") for i in range(0, len(data), 2)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with ThreadPoolExecutor(len(COMMANDS)) as pool:
        started = {
            name: pool.submit(Run, tmp_path_factory.mktemp(name), commands) for name, commands in COMMANDS.items()
        }
        return {name: run.result() for name, run in started.items()}


def test_prince_writes_the_cleaned_and_unwrapped_text_without_a_validation_part(runs):
    run = runs["prince"]
    assert run.status == 0, run.err
    assert gpt2().decode(run.ids("prince")[:-1]).strip() == STORY.strip()
    assert not (run.data / "prince" / "val.bin").exists()


def test_prince_prints_what_it_cleaned_and_the_next_command(runs):
    out = runs["prince"].out
    assert "page numbers removed: 4" in out and "form feeds removed: 3" in out and "wrapped lines joined" in out
    assert out.splitlines()[-1].split("train.py ")[1].startswith("config/train_prince.py")


def test_prince_records_the_hash_of_a_given_file_and_does_not_copy_it(runs):
    run = runs["prince"]
    assert run.meta("prince")["source"] == {"file": "scan.txt", "sha256": run.input_sha256["scan.txt"]}
    assert not (run.data / "prince" / "input.txt").exists()


def test_prince_leaves_lines_wrapped_when_told_to(runs):
    assert "\n".join(PAGES) == gpt2().decode(runs["many"].ids("prince")[:-1]).strip()


def test_tale_holds_out_the_requested_fraction(runs):
    run = runs["many"]
    assert run.answers["tale --val_fraction=0.25"][0] == 0, run.answers
    assert gpt2().decode(run.ids("tale") + run.ids("tale", "val")[:-1]) == STORY
    assert 0.2 < len(run.ids("tale", "val")) / len(gpt2().encode(STORY)) < 0.3


def test_shakespeare_char_uses_an_existing_input_txt_and_has_one_token_per_character(runs):
    run, text = runs["many"], "To be:\nor not\n" * 10
    assert run.answers["shakespeare_char"][0] == 0, run.answers
    assert run.ids("shakespeare_char") + run.ids("shakespeare_char", "val") == characters(text).encode(text)
    assert len(run.ids("shakespeare_char", "val")) == 14


def test_book_removes_project_gutenbergs_frame_and_unwraps_the_text(runs):
    run = runs["book"]
    assert run.status == 0, run.err
    assert gpt2().decode(run.ids("clocks")[:-1]) == STORY
    assert run.meta("clocks")["source"] == {"file": "wrapped.txt", "sha256": run.input_sha256["wrapped.txt"]}


def test_a_shelf_has_an_end_of_text_after_each_book_and_tells_where_they_and_their_chapters_begin(runs):
    run, end = runs["many"], gpt2().end_of_text
    assert run.answers["book wrapped.txt ferry.epub --dataset=shelf --val_fraction=0.1"][0] == 0, run.answers
    ferry = "One\n\nThe ferry left.\n\n" * 9
    n_clocks, n_ferry = int(len(STORY) * 0.9), int(len(ferry[:-1]) * 0.9)
    train, val = run.ids("shelf"), run.ids("shelf", "val")
    assert gpt2().decode(train) == f"{STORY[:n_clocks]}<|endoftext|>{ferry[:n_ferry]}"
    assert gpt2().decode(val) == f"{STORY[n_clocks:]}<|endoftext|>{ferry[n_ferry:-1]}<|endoftext|>"
    clocks, second = run.meta("shelf")["documents"]
    assert (clocks["title"], second["title"], second["author"]) == ("CLOCKS", "The Ferry", "A. Nobody")
    assert train[clocks["tokens"] - 1] == end and second["start"] == clocks["tokens"]
    starts = [chapter["token"] for chapter in second["chapters"]]
    assert len(starts) == 9 and all(gpt2().decode(train[start : start + 3])[:4] == "One\n" for start in starts[:-1])
    assert second["source"]["file"] == "ferry.epub"


def test_a_person_sees_the_book_before_it_is_learned(runs):
    out = runs["book"].out
    assert "CLOCKS: " in out and "words" in out and "characters each" in out and "less than a minute" in out
    assert f"begins: {STORY[:60]}" in out and f"{STORY.strip()[-60:]}" in out
    assert "--unwrap=False" in out and "ticket. Most people⏎" not in out


def test_the_next_command_of_book_has_dataset_and_out_dir(runs):
    assert "train.py config/train_prince.py --dataset=clocks --out_dir=out-clocks" in runs["book"].out.splitlines()[-1]


@pytest.mark.parametrize(
    "command, words",
    [
        ("prince", ["could not download", "prince/input.txt by hand", "data/tale/prepare.py"]),
        ("prince --input=nowhere.txt", ["nowhere.txt cannot be read"]),
        ("book", ["no text", "book/prepare.py --input=my_book.txt --dataset=my_book"]),
        ("book --input=wrapped.txt", ["no name", "--input=wrapped.txt --dataset=wrapped"]),
        ("book --input=wrapped.txt --dataset=../clocks", ["--dataset=../clocks", "letters, digits"]),
        ("book --input=wrapped.txt --dataset=prince", ["--dataset=prince", "script of its own"]),
        ("book --input=empty.txt --dataset=empty", ["empty.txt is empty"]),
        ("book --input=frame.txt --dataset=frame", ["frame.txt holds nothing but"]),
        (COMMANDS["many"][-2], ["could not download http://example.org/a.txt:", "save the book as a file"]),
        ("book mine.docx --dataset=file", ["data/file is a file, expected a folder"]),
    ],
)
def test_a_mistake_is_answered_in_one_line_and_leaves_nothing_behind(runs, command, words):
    status, out, err, unchanged = runs["many"].answers[command]
    assert (status, out, err.count("\n"), unchanged) == (1, "", 1, True), err
    assert all(word in err.replace(os.sep, "/") for word in words), err


IN_THE_WAY = [  # what stands where something is to be written; what the error says
    ("clocks", b"a file", "clocks is a file, expected a folder; move it away, or type another name"),
    ("clocks/train.bin/", None, "cannot write to .*clocks: Is a directory"),
    ("clocks/meta.json/", None, "cannot write .*clocks/meta.json: Is a directory"),
    (".", b"a file", "cannot write to .*clocks: Not a directory|clocks is a file, expected a folder"),
]


@pytest.mark.parametrize("place, content, line", IN_THE_WAY, ids=[place for place, *_ in IN_THE_WAY])
def test_what_stands_in_the_way_is_told_in_one_line(data, tmp_path, place, content, line):
    (tmp_path / "book.txt").write_text(STORY, encoding="utf-8")
    path = data / place
    if content is None:
        path.mkdir(parents=True)
        (path / "inside").touch()
    else:
        path.rmdir() if path.is_dir() else None
        path.write_bytes(content)
    with pytest.raises(UserError, match=line):
        book.main(book.Settings(input=(str(tmp_path / "book.txt"),), dataset="clocks"))


@pytest.mark.parametrize("script", [prince, shakespeare])
def test_a_text_from_a_pipe_is_read_once(data, script):
    """As in `cat scan.txt | prepare.py --input=/dev/stdin`: read anew for its sha256, it was empty."""
    reading, writing = os.pipe()
    os.write(writing, STORY.encode())
    os.close(writing)
    script.main(script.Settings(input=f"/dev/fd/{reading}"))
    os.close(reading)
    (meta,) = data.glob("*/meta.json")
    source = json.loads(meta.read_text(encoding="utf-8"))["source"]
    assert source["sha256"] == hashlib.sha256(STORY.encode()).hexdigest()
