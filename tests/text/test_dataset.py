"""A dataset holds the text that was prepared, and damage is found when it is read."""

import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm.configurator import UserError
from llm.text import dataset, tokenizer
from llm.text.book import Book, Chapter
from llm.text.dataset import Dataset

NEWER = '{"format": 9, "tokenizer": {"kind": "x"}, "shards": [{"tokens": 1}]}'


def test_shards_are_nanogpts_uint16(prepare, data):
    prepare(text="Hello world", encoder=tokenizer.gpt2())
    assert (data / "story" / "train.bin").read_bytes() == np.array([15496, 995, 50256], dtype="<u2").tobytes()


def test_meta_json_describes_the_shards(prepare, data):
    prepare(text="abcabcabca", encoder=tokenizer.characters("abc"), val_fraction=0.2)
    meta = json.loads((data / "story" / "meta.json").read_text())
    assert meta["tokenizer"] == {"kind": "characters", "characters": "abc"}
    assert meta["ids"] == [0, 1, 2]
    found = [(shard["file"], shard["tokens"], shard["characters"]) for shard in meta["shards"]]
    assert found == [("train.bin", 8, 8), ("val.bin", 2, 2)]
    assert all(len(s["sha256"]) == 64 for s in meta["shards"])


BOOKS = [
    Book("One", "Ada", "One\n\nÄpfel und Birnen.\n\nTwo\n\nMehr.\n", [Chapter("One", 0), Chapter("Two", 24)]),
    Book("Three", "", "A third book, which is short.\n", source={"file": "c.txt"}),
]


@pytest.mark.parametrize("encoder", [tokenizer.gpt2(), tokenizer.characters("".join(book.text for book in BOOKS))])
def test_a_dataset_tells_its_books_and_where_their_chapters_begin(prepare, encoder):
    data = prepare(text=BOOKS, encoder=encoder)
    assert [(d.title, d.author) for d in data.train.documents] == [("One", "Ada"), ("Three", "")]
    for book, document in zip(BOOKS, data.train.documents, strict=True):
        ids = data.train.tokens(document.start, document.stop).tolist()
        assert encoder.decode(ids).removesuffix("<|endoftext|>") == book.text
        assert (ids[-1] == encoder.end_of_text) == (encoder.end_of_text is not None)
        for chapter, start in zip(book.chapters, document.chapters, strict=True):
            after = encoder.decode(data.train.tokens(start.token, document.stop).tolist())
            assert (start.title, start.character) == (chapter.title, chapter.start)
            assert after.startswith(chapter.title)


def test_a_dataset_without_documents_is_one_without_a_title(prepare, data):
    """As all those that were written before titles were kept."""
    prepare()
    path = data / "story" / "meta.json"
    meta = json.loads(path.read_text(encoding="utf-8"))
    del meta["documents"], meta["sha256"]
    path.write_text(json.dumps(meta), encoding="utf-8")
    story = Dataset("story")
    [document] = story.train.documents
    assert (document.title, document.start, document.stop, document.chapters) == ("", 0, len(story.train), ())


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.update(start=1),
        lambda entry: entry.update(tokens=10),
        lambda entry: entry.update(title=3),
        lambda entry: entry.update(chapters=[{"title": "x", "token": 10**6, "character": 0}]),
        lambda entry: entry.update(chapters=[{"title": "x", "token": 5, "character": -1}]),
        lambda entry: entry.pop("author"),
        lambda entry: entry.pop("chapters"),
    ],
)
def test_documents_that_cannot_be_are_damage(prepare, data, change):
    prepare()
    path = data / "story" / "meta.json"
    meta = json.loads(path.read_text(encoding="utf-8"))
    del meta["sha256"]
    change(meta["documents"][0])
    path.write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises(UserError, match="meta.json is damaged"):
        Dataset("story")


@pytest.mark.parametrize("change", [{"source": [1]}, {"characters": 10**400}, {"characters": -1}, {"tokens": True}])
def test_values_that_no_preparation_writes_are_damage(prepare, data, change):
    """They ended in an OverflowError while training, or an AttributeError in export.py."""
    prepare()
    path = data / "story" / "meta.json"
    meta = json.loads(path.read_text(encoding="utf-8"))
    del meta["sha256"]
    (meta if "source" in change else meta["shards"][0]).update(change)
    path.write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises(UserError, match="meta.json is damaged"):
        Dataset("story")


def test_a_pipe_in_the_place_of_meta_json_is_not_waited_for(prepare, data):
    prepare()
    (data / "story" / "meta.json").unlink()
    os.mkfifo(data / "story" / "meta.json")
    with pytest.raises(UserError, match="meta.json: meta.json is not a regular file"):
        Dataset("story")


def test_a_folder_that_cannot_be_written_is_one_line(prepare, data, monkeypatch):
    (data / "story").write_text("in the way", encoding="utf-8")
    with pytest.raises(UserError, match="data/story is a file, expected a folder"):
        prepare()
    (data / "story").unlink()

    def refused(self, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refused)  # root, who runs tests in containers, may write anywhere
    with pytest.raises(UserError, match="cannot write to .*data/story: Permission denied"):
        prepare()


def test_the_held_out_part_is_the_end_of_the_text_and_alone_has_the_end_of_text_id(prepare):
    story = prepare(text="one two three four five six seven eight nine ten", val_fraction=0.25)
    encoder = tokenizer.gpt2()
    val = story.val.tokens(0, len(story.val)).tolist()
    assert val[-1] == 50256 and encoder.decode(val[:-1]) == "ght nine ten"
    train = story.train.tokens(0, len(story.train)).tolist()
    assert 50256 not in train and encoder.decode(train + val[:-1]) == "one two three four five six seven eight nine ten"


def test_preparing_without_a_val_part_removes_an_earlier_one(prepare):
    assert prepare(val_fraction=0.1).val is not None
    assert prepare(val_fraction=0.0).val is None


def test_a_text_of_one_token_is_refused_and_nothing_is_written(prepare, data):
    with pytest.raises(UserError, match="the train part holds 1 token"):
        prepare(text="a", encoder=tokenizer.characters("a"))
    assert not (data / "story").exists()


def test_the_command_for_a_short_text_has_a_smaller_block_size(data, capsys):
    dataset.write_dataset(
        data / "short", "A short text.", tokenizer.gpt2(), val_fraction=0, source={}, train_command=("config/a.py",)
    )
    assert "--block_size=4" in capsys.readouterr().out.splitlines()[-1]


def test_several_shards_are_one_sequence(data, monkeypatch):
    monkeypatch.setattr(dataset, "IN_MEMORY", 0)  # bytes: read from the files each time
    folder = data / "large"
    folder.mkdir()
    tokens = np.arange(10, dtype="<u2")
    pieces = {"train_00000.bin": tokens[:3], "train_00001.bin": tokens[3:4], "train_00002.bin": tokens[4:]}
    for name, piece in pieces.items():
        piece.tofile(folder / name)
    shards = [{"file": name, "tokens": len(piece)} for name, piece in pieces.items()]
    meta = {"format": 1, "tokenizer": tokenizer.GPT2_DESCRIPTION, "shards": shards, "ids": list(range(10))}
    (folder / "meta.json").write_text(json.dumps(meta))
    split = dataset.Dataset("large").train
    for start in range(10):
        for stop in range(start + 1, 11):
            assert split.tokens(start, stop).tolist() == list(range(start, stop))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: f.write_bytes(f.read_bytes()[:-2]), r"has [\d,]+ bytes, expected [\d,]+ \([\d,]+ tokens\)"),
        (lambda f: f.write_bytes(f.read_bytes() + b"x"), r"has [\d,]+ bytes, expected"),
        (lambda f: f.write_bytes(b"\0\0" + f.read_bytes()[2:]), "was changed or damaged"),
        (lambda f: f.unlink(), "cannot read .*train.bin: No such file"),
        (lambda f: (f.parent / "meta.json").write_text("{"), "meta.json is damaged"),
        (lambda f: (f.parent / "meta.json").write_text("[]"), "meta.json is damaged"),
        (lambda f: (f.parent / "meta.json").write_text(NEWER), "format 9"),
    ],
)
def test_damage_is_reported_in_one_line_with_the_command_to_type(prepare, data, damage, message):
    prepare()
    damage(data / "story" / "train.bin")
    with pytest.raises(UserError, match=f"{message}.*prepare") as error:
        dataset.Dataset("story")
    assert "\n" not in str(error.value)


def test_the_message_about_a_missing_dataset_lists_the_prepared_ones(prepare):
    prepare("tales")
    with pytest.raises(UserError, match=r"dataset story is not prepared .*prepared: tales.*--dataset=story"):
        dataset.Dataset("story")


def test_nanogpts_gpt2_dataset_needs_no_meta_json(data, capsys):
    (data / "owt").mkdir()
    np.array([15496, 995], dtype="<u2").tofile(data / "owt" / "train.bin")
    owt = dataset.Dataset("owt")
    assert owt.corpus_ids is None and len(owt.train) == 2 and owt.vocab_size == 50304
    assert "taken for GPT-2's encoding" in capsys.readouterr().err


def test_nanogpts_pickle_is_never_read(data):
    (data / "chars").mkdir()
    np.array([1, 2], dtype="<u2").tofile(data / "chars" / "train.bin")
    (data / "chars" / "meta.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(UserError, match="never read here"):
        dataset.Dataset("chars")


def test_an_id_beyond_the_vocabulary_is_refused(data):
    (data / "owt").mkdir()
    np.array([1, 60000, 2], dtype="<u2").tofile(data / "owt" / "train.bin")
    with pytest.raises(UserError, match="id 60000 .* beyond the vocabulary of 50304"):
        dataset.Dataset("owt")


@given(data=st.data())
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_dataset_is_refused_in_one_line_or_read_correctly(prepare, data):
    good = prepare("story", val_fraction=0.2)
    right = [good.train.tokens(0, 10**6).tolist(), good.val.tokens(0, 10**6).tolist(), good.corpus_ids]
    path = good.folder / data.draw(st.sampled_from(["meta.json", "train.bin", "val.bin"]))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] = data.draw(st.integers(0, 255))
    else:
        del content[at : at + data.draw(st.integers(1, len(content)))]
    path.write_bytes(bytes(content))
    try:
        found = Dataset("story")
    except UserError as e:
        assert "\n" not in str(e)
    else:
        assert [found.train.tokens(0, 10**6).tolist(), found.val.tokens(0, 10**6).tolist(), found.corpus_ids] == right


KEYS = st.sampled_from(["format", "tokenizer", "shards", "ids", "kind", "file", "tokens"])
JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(meta=JSON)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_invalid_meta_json_is_refused_in_one_line(data, meta):
    (data / "story").mkdir(exist_ok=True)
    (data / "story" / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError):
        Dataset("story")


def test_a_large_shard_is_checked_by_its_size_alone(prepare, monkeypatch):
    path = prepare("story").folder / "train.bin"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="train.bin was changed or damaged"):
        Dataset("story")
    monkeypatch.setattr(dataset, "MAX_HASHED", 0)
    assert Dataset("story").train.tokens(0, 1).tolist() == [int.from_bytes(content[:2], "little")]
    path.write_bytes(bytes(content[:-2]))
    with pytest.raises(UserError, match="bytes, expected"):
        Dataset("story")
