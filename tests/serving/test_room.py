"""The reading room: contents, text, map and comparison, without a browser."""

import asyncio
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import STORY

from llm.reading import windows
from llm.reading.contents import Contents
from llm.reading.greedy import greedy_errors
from llm.reading.load import LoadedModel
from llm.reading.reader import Reader
from llm.reading.recall import PREFIX, split_starts, window_spans
from llm.runtime import Runtime
from llm.serving.access import Access
from llm.serving.parameters import Refused
from llm.serving.room import MAX_TEXT, Room, serve_command
from llm.serving.service import Before, Service
from llm.serving.windows import UNKNOWN, WindowLevels, level_of

LIMITS = dict(max_prompt_tokens=100, max_new_tokens=100, max_waiting=4)


@pytest.fixture
def story(prepare):
    return prepare()


@pytest.fixture
def contents(story):
    return Contents(story.train, story.tokenizer)


@pytest.fixture
def model(story, tiny_model, contents):
    """A small random model with the book's first 6,000 characters."""
    gpt = tiny_model(vocab_size=50304, block_size=100, n_embd=16)
    reader = Reader(gpt, torch.tensor(story.corpus_ids), torch.float32)
    loaded = LoadedModel("m", reader, story.tokenizer, contents.text, "", None, contents.books, story.train)
    return gpt, loaded


def test_the_overview_names_the_parts(contents):
    overview = Room(contents, "out-story").overview
    assert overview["title"] == "Out-Story" and overview["characters"] == 6000
    assert overview["words"] == len(STORY[:6000].split()) and not overview["right_to_left"]
    assert [part["title"] for part in overview["parts"]][:2] == ["The beginning", "Chapter 1. The Invalid"]
    assert json.dumps(overview)


@pytest.mark.parametrize("start, end", [(-1, 5), (5, 5), (6, 5), (0, 6001), (10**14, 10**14 + 1)])
def test_text_beyond_the_book_is_refused(contents, start, end):
    with pytest.raises(Refused, match="expected 0 <= start < end <= 6000"):
        Room(contents, "m").text(start, end)


def test_the_book_is_read_in_pieces(prepare):
    book = prepare("long", "A line of words.\n" * 7000)
    room = Room(Contents(book.train, book.tokenizer), "m")
    assert room.text(17, 33)["text"] == "A line of words."
    with pytest.raises(Refused, match=f"at most {MAX_TEXT:,} in an answer"):
        room.text(0, MAX_TEXT + 1)


def test_the_map_is_what_recall_measures(prepare, model):
    """With one token that may be drawn, a window is known up to the first other one."""
    words = np.random.default_rng(1).choice([" the"] * 60 + [" cat"], 2000).tolist()
    book = prepare("cats", "".join(words))
    contents, gpt = Contents(book.train, book.tokenizer), model[0]
    allowed = torch.tensor(book.tokenizer.encode(" the"))
    levels = WindowLevels(contents)
    reader = Reader(gpt, allowed, torch.float32)
    levels.measure(reader, stopped=threading.Event(), is_busy=lambda: False)
    starts = split_starts(contents.split)
    rt = Runtime(torch.device("cpu"), torch.float32, False)
    errors = greedy_errors(gpt, contents.split, window_spans(starts), allowed=allowed, rt=rt)[:, PREFIX:]
    slips = np.where(errors.any(1), errors.argmax(1), 50)
    assert levels.levels.tolist() == [level_of(slip == 50, slip) for slip in slips.tolist()]
    assert len(set(levels.levels.tolist())) > 3 and 100 in levels.levels and not levels.measuring
    assert levels.starts.tolist() == contents.characters_of(starts).tolist()


def test_measuring_waits_for_readers_and_can_be_stopped(model, contents):
    levels, stopped, asked = WindowLevels(contents), threading.Event(), []

    def is_busy():
        asked.append(len(asked))
        if len(asked) == 3:
            stopped.set()
        return True

    levels.measure(model[1].reader, stopped=stopped, is_busy=is_busy)
    assert (levels.levels == UNKNOWN).sum() == len(levels.levels) - 8  # of one batch


def test_the_map_comes_from_the_per_window_file(contents, tmp_path, capsys):
    path = windows.windows_path(tmp_path, "ckpt.pt")
    levels = WindowLevels(contents)
    assert not levels.load(path)
    header = windows.header_of(2, suffix=50, text_sha256=contents.split.sha256)
    row = {"start_token": 0, "start_char": 0, "log_p": -1.0, "log_p_top40": None, "greedy": True, "first_slip": None}
    windows.begin(path, header, [])
    windows.append(path, [row])
    assert not levels.load(path) and levels.load(path, whole=False)  # a measurement is running
    windows.append(path, [row | {"start_char": 10**9, "greedy": False, "first_slip": 25}])
    assert levels.load(path)
    assert (levels.starts.tolist(), levels.levels.tolist()) == ([0, 5999], [100, 50])
    windows.begin(path, header | {"text_sha256": "of another text"}, [])
    assert not levels.load(path, whole=False)
    windows.begin(path, header | {"model_sha256": "a"}, [row] * 2)
    assert not levels.load(path, model_sha256=lambda: "b") and "is about other weights" in capsys.readouterr().err
    assert levels.load(path, model_sha256=lambda: "a")
    levels.levels = np.array([100, 50])
    path.write_bytes(b"damaged\n")
    assert not levels.load(path) and levels.answer()["levels"] == [100, 50]


def test_a_text_is_compared_with_the_book(model):
    service = Service("m", model[1], **LIMITS)
    words = STORY[:6000].split()
    text = f"{' '.join(words[100:120])} xylophone {' '.join(words[121:140])}"
    answer = asyncio.run(service.compare(text))
    assert "".join(piece["text"] for piece in answer["pieces"]) == text
    assert (answer["recited"], answer["words"]) == (39, 40)
    (invented,) = [piece for piece in answer["pieces"] if "wording" in piece]
    assert invented == {"text": " xylophone ", "wording": words[120]}
    first = answer["pieces"][0]
    assert STORY[first["at"] :].split()[:5] == words[100:105] and first["where"].startswith("Chapter 1. The Invalid, ")
    with pytest.raises(Refused, match="at most 6,400 are allowed"):
        asyncio.run(service.compare("a" * 6401))
    service.close()


def test_without_its_book_a_model_has_no_room(model):
    loaded = LoadedModel("m", model[1].reader, model[1].tokenizer, "", "the dataset is gone")
    service = Service("m", loaded, **LIMITS)
    overview = service.overview()
    assert (overview["parts"], overview["reason"], overview["title"]) == ([], "the dataset is gone", "m")
    assert asyncio.run(service.compare("some words")) == {
        "pieces": [{"text": "some words"}],
        "recited": None,
        "words": 2,
    }
    service.close()


def test_a_folder_elsewhere_is_not_named_to_strangers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert serve_command(Path("out")).endswith("serve.py --out_dir=out")
    assert serve_command(tmp_path / "out").endswith("serve.py --out_dir=out")
    assert [serve_command(folder) for folder in (Path("a/out"), Path("../out"), Path("/srv/out"), None)] == [""] * 4


def test_the_model_before_it_learned_is_loaded_once(model):
    made = []

    def load():
        made.append(Service("m", model[1], **LIMITS))
        return made[0]

    async def ask_twice(before):
        return await asyncio.gather(before.service(), before.service())

    before = Before(load)
    assert before.engines() == []
    assert asyncio.run(ask_twice(before)) == [made[0], made[0]] and len(before.engines()) == 1
    before.close()


def test_of_a_training_that_is_over_the_page_shows_how_it_went(model, tmp_path):
    service = Service("m", model[1], **LIMITS, out_dir=tmp_path)
    assert asyncio.run(service.progress()) == {"state": "waiting", "curves": {}, "watching": False}
    lines = [{"step": n, "loss": 5.0 - n, "seconds": float(n)} for n in range(4)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "recall.json").write_text("{}")
    progress = asyncio.run(service.progress())
    assert progress["state"] == "ended" and progress["curves"]["loss"] == [[float(n), 5.0 - n] for n in range(4)]
    service.close()


def ask(app, address, **headers):
    """(status, JSON) of a GET, by ASGI, without a network."""
    path, _, query = address.partition("?")
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    lines = [(name.lower().encode(), value.encode()) for name, value in {"Host": "127.0.0.1:8000", **headers}.items()]
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http"}
    scope |= {"path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": ""}
    scope |= {"headers": lines, "client": ("127.0.0.1", 50000), "server": ("127.0.0.1", 8000)}
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent))


def test_the_room_needs_the_key_and_proper_numbers(model):
    """It holds the book; the page without the key does not."""
    pytest.importorskip("fastapi")
    from llm.serving.app import make_app

    service = Service("m", model[1], **LIMITS)
    app = make_app(service, Access("127.0.0.1", "secret"))
    for path in ("/book", "/book/text?start=0&end=5", "/book/windows", "/watch"):
        assert ask(app, path)[0] == 401
        status, answer = ask(app, path, Authorization="Bearer secret")
        assert status == 200
        assert "/text" not in path or answer == {"start": 0, "text": STORY[:5]}
    for query in (
        "",
        "start=1",
        "start=-1&end=5",
        "start=a&end=5",
        "start=1&end=99999999999999999999",
        "start=5&end=1",
    ):
        status, answer = ask(app, f"/book/text?{query}", Authorization="Bearer secret")
        assert status == 400 and "expected" in answer["error"]["message"]
    service.close()


def test_a_context_that_is_too_short_for_a_map_is_told(story, contents, tiny_model):
    gpt = tiny_model(vocab_size=50304, block_size=64, n_embd=16)
    levels = WindowLevels(contents)
    reader = Reader(gpt, torch.tensor(story.corpus_ids), torch.float32)
    levels.measure(reader, stopped=threading.Event(), is_busy=lambda: False)
    assert levels.answer()["obstacle"].startswith("recall@50/50 needs") and levels.answer()["levels"] == []
