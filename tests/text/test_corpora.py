"""A corpus on disk has the documents that were given, whatever the format, the processes and the kills."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import STORY
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.configurator import PACKAGE, UserError
from llm.data.corpus import prepare as corpus
from llm.data.corpus import synthetic
from llm.text import corpus_files, dataset
from llm.text.corpus_files import Position, batches, find_files, place_to_divide
from llm.text.dataset import Dataset
from llm.text.tokenizer import END_OF_TEXT, gpt2
from llm.text.tokenizing import Tokenizers, tokens_of

DOCUMENTS = [STORY[n : n + 500] for n in range(0, 20_000, 500)]
LARGE = STORY[:30_000] + "Ein Wort aus Größe und Maß. 一二三 " * 20


def json_lines(texts) -> bytes:
    return "".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts)).encode()


def parquet(path: Path, **columns) -> None:
    arrow, table = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table.write_table(arrow.table(columns), path, row_group_size=7)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with DOCUMENTS in four formats, two short texts and a long one; batches are small."""
    zstandard = pytest.importorskip("zstandard")
    monkeypatch.setattr(corpus_files, "BATCH_BYTES", 3000)
    monkeypatch.setattr(corpus_files, "MAX_WHOLE_BYTES", 8000)
    monkeypatch.setattr(corpus_files, "TAIL_BYTES", 500)
    made = tmp_path / "texts"
    made.mkdir()
    lines = json_lines(DOCUMENTS)
    (made / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines + b"\n")
    (made / "b.jsonl.gz").write_bytes(gzip.compress(lines[:5000]) + gzip.compress(lines[5000:]))
    (made / "c.ndjson.zst").write_bytes(zstandard.compress(lines[:5000]) + zstandard.compress(lines[5000:]))
    parquet(made / "d.parquet", id=range(len(DOCUMENTS)), text=DOCUMENTS)
    (made / "e.txt").write_text(DOCUMENTS[0], encoding="utf-8-sig", newline="")
    (made / "f.md").write_text(DOCUMENTS[1], encoding="utf-8")
    (made / "g.txt.gz").write_bytes(gzip.compress(LARGE.encode()))
    (made / "h.bin").write_bytes(b"not read")
    (made / ".hidden.txt").write_bytes(b"not read")
    return made


def ids_of(texts) -> list[int]:
    return [i for text in texts for i in (*gpt2().encode(text), END_OF_TEXT)]


class InThisProcess:
    """In place of Tokenizers."""

    def __init__(self, n):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def tokenise(self, jobs):
        for batch, *rest in jobs:
            tokens = tokens_of(batch, gpt2())
            if tokens.error:
                raise UserError(tokens.error)
            yield (tokens, *rest)


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(corpus, "Tokenizers", InThisProcess)


def prepared(*words, name="c", **options) -> Dataset:
    corpus.main(corpus.Settings(input=tuple(map(str, words)), dataset=name, **options))
    return Dataset(name)


def files_of(name: str) -> dict[str, bytes]:
    """The files of a dataset but its lock, and meta.json without what names its sources."""
    found = {path.name: path.read_bytes() for path in (dataset.DATA / name).iterdir() if path.name != ".lock"}
    meta = json.loads(found["meta.json"])
    return found | {"meta.json": [meta["shards"], meta["ids"], meta["source"]["documents"]]}


def test_all_formats_hold_the_same_documents(folder, data, in_this_process):
    split = prepared(folder, val_fraction=0.0).train
    assert split.tokens(0, len(split)).tolist() == ids_of([*DOCUMENTS * 4, DOCUMENTS[0], DOCUMENTS[1], LARGE])


def test_several_processes_write_what_one_does(folder, data, in_this_process, monkeypatch):
    prepared(folder, name="one", shard_tokens=3000, val_fraction=0.2)
    monkeypatch.setattr(corpus, "Tokenizers", Tokenizers)
    prepared(folder, name="two", shard_tokens=3000, val_fraction=0.2, processes=3)
    assert files_of("one") == files_of("two")


def test_batches_follow_from_the_position_alone(folder):
    files = find_files((str(folder),), None)
    whole = [(batch, after) for batch, after, _ in batches(files, "text", Position(0))]
    assert len(whole) > 40
    for n, (_, after) in enumerate(whole):
        assert [(batch, end) for batch, end, _ in batches(files, "text", after)] == whole[n + 1 :]


def test_a_list_of_files_is_read_in_its_order(folder, data, in_this_process, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(f"{folder / 'f.md'}\n\n{folder / 'e.*'}\n")
    split = prepared(list=str(listed), val_fraction=0.0).train
    assert split.tokens(0, len(split)).tolist() == ids_of([DOCUMENTS[1], DOCUMENTS[0]])


def test_whole_documents_are_held_out_and_the_same_ones_again(folder, data, in_this_process):
    both = prepared(folder / "a.jsonl", val_fraction=0.25)
    kept, held_out = documents_in(both.train), documents_in(both.val)
    assert sorted(kept + held_out) == sorted(DOCUMENTS) and 2 < len(held_out) < 20
    again = prepared(folder / "d.parquet", folder / "b.jsonl.gz", name="again", val_fraction=0.25)
    assert sorted(documents_in(again.val)) == sorted(2 * held_out)


def documents_in(split) -> list[str]:
    return gpt2().decode(split.tokens(0, len(split)).tolist()).split("<|endoftext|>")[:-1]


def test_duplicates_are_dropped_on_request(folder, data, in_this_process, capsys):
    split = prepared(folder, val_fraction=0.0, drop_duplicates=True).train
    assert split.tokens(0, len(split)).tolist() == ids_of([*DOCUMENTS, LARGE])
    assert f"{3 * len(DOCUMENTS) + 2:,} duplicates dropped" in capsys.readouterr().out


def test_empty_documents_are_left_out(data, in_this_process, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_bytes(json_lines(["One.", "", None, "Two."]))
    split = prepared(tmp_path / "a.jsonl", val_fraction=0.0).train
    assert split.tokens(0, len(split)).tolist() == ids_of(["One.", "Two."])
    assert "2 empty ones dropped" in capsys.readouterr().out


@pytest.mark.parametrize("drop_duplicates", [False, True])
def test_an_interrupted_preparation_goes_on_to_the_same_files(
    folder, data, in_this_process, monkeypatch, drop_duplicates
):
    """Interrupted after every 5 batches, so in every kind of file and within the long one."""
    options = dict(shard_tokens=1500, val_fraction=0.2, drop_duplicates=drop_duplicates)
    prepared(folder, name="whole", **options)
    add, calls, n_interrupts = corpus.CorpusWriter.add, [], 0

    def interrupted_add(self, *args, **kwargs):
        calls.append(kwargs["after"])
        if len(calls) % 5 == 0:
            raise KeyboardInterrupt
        add(self, *args, **kwargs)

    monkeypatch.setattr(corpus.CorpusWriter, "add", interrupted_add)
    while True:
        try:
            prepared(folder, name="parts", **options)
            break
        except KeyboardInterrupt:
            n_interrupts += 1
            assert n_interrupts < 100, "it does not go on"
            assert not list((data / "parts").glob("*.tmp")) and not (data / "parts" / "meta.json").exists()
    assert n_interrupts >= 8
    assert files_of("parts") == files_of("whole")


def half_prepared(monkeypatch, *words, **options) -> None:
    """Prepare, but end before meta.json is written."""

    def interrupted(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(corpus.CorpusWriter, "finish", interrupted)
        prepared(*words, **options)


def test_what_a_kill_leaves_half_written_is_removed(folder, data, in_this_process, monkeypatch):
    (data / "whole").mkdir()
    (data / "whole" / ".train_00000.bin.1.tmp").write_bytes(b"of a kill before the first shard was whole")
    prepared(folder, name="whole", shard_tokens=3000)
    half_prepared(monkeypatch, folder, name="parts", shard_tokens=3000)
    (data / "parts" / ".train_00099.bin.1.tmp").write_bytes(b"half")
    (data / "parts" / "train_00099.bin").write_bytes(b"renamed, but not yet in progress.json")
    prepared(folder, name="parts", shard_tokens=3000)
    assert files_of("parts") == files_of("whole")


def test_a_preparation_of_other_files_or_settings_begins_anew(folder, data, in_this_process, monkeypatch, capsys):
    options = dict(name="c", shard_tokens=2000, drop_duplicates=True)
    half_prepared(monkeypatch, folder, **options | {"shard_tokens": 3000})
    half_prepared(monkeypatch, folder, **options)
    assert "other settings is dropped: beginning anew" in capsys.readouterr().err
    os.utime(folder / "a.jsonl", ns=(1, 1))
    half_prepared(monkeypatch, folder, **options)
    assert "the files have changed" in capsys.readouterr().err
    for name, content in (("progress.json", b"{"), ("seen.bin", b""), ("train_00000.bin", b"")):
        (data / "c" / name).write_bytes(content)
        half_prepared(monkeypatch, folder, **options)
        assert "is damaged: beginning anew" in capsys.readouterr().err
    prepared(folder, **options)
    prepared(folder, **options | {"name": "whole"})
    assert files_of("c") == files_of("whole")


def test_progress_says_what_is_read_and_the_time_left(folder, data, in_this_process, monkeypatch, capsys):
    monkeypatch.setattr(corpus, "LINE_SECONDS", 0)
    prepared(folder, shard_tokens=3000)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.endswith(" left")]
    found = [re.fullmatch(r"(\d\.\d\d) of 0\.00 GB read, ([\d,]+) tokens, (\d+):(\d\d) left", line) for line in lines]
    tokens = [int(match[2].replace(",", "")) for match in found]
    assert len(tokens) > 20 and tokens == sorted(tokens) and tokens[-1] > 10_000
    assert found[-1][3] == "0" and found[-1][4] == "00"


def test_time_left_is_that_of_this_call_alone(capsys, monkeypatch):
    """A resumed preparation counted what was read before it as read in no time."""
    monkeypatch.setattr(corpus, "LINE_SECONDS", 0)
    clock = iter([100.0, 100.0, 110.0, 120.0])
    monkeypatch.setattr(corpus.time, "monotonic", lambda: next(clock))
    files = [corpus.CorpusFile(f"{n}.txt", 10**9, 0, corpus_files.TEXTS) for n in range(4)]
    line = corpus.ProgressLine(files, Position(2))
    line.update(2, 0, 500)
    line.update(2, 5 * 10**8, 600)  # half a file in 20 seconds: one and a half are left
    assert capsys.readouterr().err == "2.50 of 4.00 GB read, 600 tokens, 1:00 left\n"


def test_a_finished_preparation_is_not_repeated(folder, data, in_this_process, monkeypatch, capsys):
    prepared(folder)
    monkeypatch.setattr(corpus, "Tokenizers", None)
    prepared(folder)
    assert "holds this corpus already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", b'{"text": "One."}\n{"text": "Tw\n', r"a.jsonl line 2 is no JSON: .* at character 10"),
        ("a.jsonl", b'{"text": "One."}\n{"text": "\xff"}\n', r"a.jsonl line 2 is no JSON"),
        ("a.jsonl", b'{"a": 1, "b": 2}\n', r"a.jsonl line 1 has no column text; it has: a, b; .*--text_column=a"),
        ("a.jsonl", b"[1]\n", r"a.jsonl line 1 holds list, expected an object"),
        ("a.jsonl", b'{"text": 5}\n', r"a.jsonl line 1: column text holds int, expected text"),
        ("a.jsonl.gz", b"nonsense", r"a.jsonl.gz cannot be read: Not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(json_lines(DOCUMENTS))[:-20], r"a.jsonl.gz cannot be read"),
        ("a.jsonl.zst", b"nonsense", r"a.jsonl.zst is damaged"),
        ("a.jsonl.zst", "cut", r"a.jsonl.zst is cut short"),
        ("a.parquet", b"nonsense", r"a.parquet cannot be read: Parquet magic bytes not found"),
        ("a.txt", b"One.\n\xe4\n", r"a.txt is not UTF-8 at byte 5"),
        ("a.pdf", b"%PDF", r"a.pdf: unknown kind of file; expected .jsonl"),
        ("a.txt", b"", r"the train part holds 0 token"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_in_one_line(data, in_this_process, tmp_path, name, content, message):
    if "zst" in name:
        zstandard = pytest.importorskip("zstandard")
        content = zstandard.compress(json_lines(DOCUMENTS))[:-30] if content == "cut" else content
    if "parquet" in name:
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        prepared(tmp_path / name)
    assert "\n" not in str(error.value)


def test_the_columns_of_a_table_are_named_if_the_text_is_not_among_them(data, in_this_process, tmp_path):
    parquet(tmp_path / "a.parquet", title=["x"], body=["One."], n=[1])
    with pytest.raises(UserError, match=r"no column text; it has: title, body, n; .*--text_column=title"):
        prepared(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="row 1: column n holds int, expected text"):
        prepared(tmp_path / "a.parquet", text_column="n")
    split = prepared(tmp_path / "a.parquet", text_column="body", val_fraction=0.0).train
    assert split.tokens(0, len(split)).tolist() == ids_of(["One."])


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(dataset=None, input=("x",)), "the dataset has no name yet; type python .* x --dataset=my_corpus"),
        (dict(dataset="../x", input=("x",)), "expected at most 64 letters"),
        (dict(dataset="prince", input=("x",)), "has a script of its own"),
        (dict(dataset="c"), "there is no text to prepare; type python .* texts/ --dataset=c"),
        (dict(dataset="c", index=True), "there is no text to prepare"),
        (dict(dataset="c", input=("nowhere",)), "nowhere: no such file"),
        (dict(dataset="c", list="nowhere"), "--list=nowhere cannot be read: No such file"),
    ],
)
def test_a_command_that_names_no_corpus_is_answered_in_one_line(data, options, message):
    with pytest.raises(UserError, match=message):
        corpus.main(corpus.Settings(**options))
    assert not list(data.iterdir())


TEXTS = st.text(alphabet=st.sampled_from(" \n\t.,'aZ9éß一\u00a0\u3000\U0001f600"), min_size=1, max_size=200)


@settings(deadline=None, max_examples=200)
@given(TEXTS)
def test_a_text_divided_between_words_has_the_tokens_of_the_whole(text):
    data = text.encode()
    end = place_to_divide(data)
    left, right = data[:end].decode(), data[end:].decode()  # both whole characters
    if right.startswith(" ") and end:
        assert gpt2().encode(left) + gpt2().encode(right) == gpt2().encode(text)
    else:
        assert right == "" and not corpus_files.BETWEEN_WORDS.search(text)


def test_a_piece_that_ends_within_a_character_is_divided_before_it():
    data = "一" * 10
    assert [place_to_divide(data.encode()[:n]) for n in (30, 29, 28, 27)] == [30, 27, 27, 27]


def test_invented_text_is_the_same_for_the_same_seed(tmp_path, capsys):
    for name in ("a", "b"):
        synthetic.main(synthetic.Settings(to=str(tmp_path / name), megabytes=2, file_megabytes=1))
    first, second = ([path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in ("a", "b"))
    assert first == second and len(first) == 2
    texts = [json.loads(line)["text"] for data in first for line in data.splitlines()]
    assert 2_000_000 <= sum(map(len, texts)) < 2_200_000
    other = next(synthetic.documents(1))
    assert other not in texts and len(gpt2().encode(other)) < len(other) / 2


@pytest.mark.slow
def test_a_killed_preparation_leaves_no_process_behind_and_goes_on(data, tmp_path, package):
    """SIGKILL, while processes tokenise; they wait for a parent that is gone."""
    synthetic.main(synthetic.Settings(to=str(tmp_path / "s"), megabytes=4))
    script = package / "data/corpus/prepare.py"
    words = [str(script), str(tmp_path / "s"), "--processes=2", "--shard_tokens=200000"]

    def start(name):
        command = [sys.executable, *words, f"--dataset={name}"]
        environment = os.environ | {"PYTHONPATH": str(package.parent)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert start("whole").wait() == 0
    process, deadline = start("parts"), time.monotonic() + 60
    while not (package / "data/parts/progress.json").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    children = children_of(process.pid)
    assert len(children) == 2 or sys.platform != "linux"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (package / "data/parts/meta.json").exists()
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline, "a process that tokenises has outlived its parent"
        time.sleep(0.01)
    assert start("parts").wait() == 0
    whole, parts = ({p.name: p.read_bytes() for p in (package / "data" / n).glob("*.bin")} for n in ("whole", "parts"))
    assert whole == parts and len(whole) > 4


def children_of(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def test_tokenizing_processes_do_not_load_torch():
    """Each would take 200 MB and two seconds."""
    program = "import sys, llm.text.tokenizing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent).returncode == 0


def test_several_shards_are_read_as_one_text(folder, data, in_this_process, monkeypatch):
    monkeypatch.setattr(dataset, "IN_MEMORY", 0)
    split = prepared(folder, val_fraction=0.0, shard_tokens=1000).train
    expected = np.array(ids_of([*DOCUMENTS * 4, DOCUMENTS[0], DOCUMENTS[1], LARGE]))
    assert len(split.ends) > 10 and len(split) == len(expected)
    random = np.random.default_rng(0)
    for start in random.integers(len(split) - 50, size=100):
        for length in (1, 50, 4000):
            assert split.tokens(start, start + length).tolist() == expected[start : start + length].tolist()
    assert split.tokens(len(split), len(split) + 5).tolist() == []
