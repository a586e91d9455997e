"""The index on disk finds what a search through the whole text finds."""

import json

import numpy as np
import pytest
from conftest import STORY

from llm.configurator import UserError
from llm.data.corpus import prepare as corpus
from llm.reading.generate import MAX_MATCH, MIN_MATCH, position_in_book
from llm.text import token_index
from llm.text.dataset import Dataset
from llm.text.token_index import ORDER, TokenIndex, build_index, has_index
from llm.text.tokenizer import gpt2


@pytest.fixture
def indexed(prepare, monkeypatch):
    """indexed(text) is the index of a text, built in several small buckets and chunks."""
    monkeypatch.setattr(token_index, "BUCKET_TOKENS", 400)
    monkeypatch.setattr(token_index, "CHUNK", 150)

    def indexed(text=STORY[:9000]):
        data = prepare("story", text=text)
        build_index(data.folder, data.train, lambda line: None)
        assert has_index(data.folder, data.train)
        return TokenIndex(data.folder, data.train)

    return indexed


def test_positions_are_in_the_order_of_the_tokens_that_follow(indexed):
    index = indexed(STORY[:6000] * 2)
    ids = index[:]
    n = len(ids) - ORDER + 1
    expected = sorted(range(n), key=lambda p: (tuple(ids[p : p + ORDER].tolist()), p))
    assert index.positions.tolist() == expected and n > 1500


def test_every_run_is_found_with_all_its_occurrences(indexed):
    index = indexed()
    ids = index[:].tolist()
    random = np.random.default_rng(0)
    for length in (1, 2, 5, ORDER):
        for start in random.integers(len(ids) - ORDER, size=20).tolist():
            run = ids[start : start + length]
            expected = [p for p in range(len(ids) - ORDER + 1) if ids[p : p + length] == run]
            found = index.occurrences(run)
            assert sorted(index.positions[found.start : found.stop].tolist()) == expected
    assert not index.occurrences([ids[0], 50_000]) and not index.occurrences([50_256, 50_256])


def test_drafts_come_from_where_a_search_through_the_text_finds_them(indexed):
    """Of the ends of texts that occur, occur in part, and do not occur."""
    index = indexed()
    ids = index[:]
    random = np.random.default_rng(1)
    for _ in range(200):
        start, length = int(random.integers(len(ids) - 80)), int(random.integers(1, 60))
        typed = [int(random.integers(50_000)), *ids[start : start + length].tolist()]
        found = position_in_book(index, typed)
        expected = position_in_book(ids, typed)
        assert (found is None) == (expected is None)
        if found is not None:

            def shared(position, typed=typed):
                before = ids[:position][::-1][:MAX_MATCH].tolist()
                pairs = zip(before, typed[::-1], strict=False)
                return next((k for k, (a, b) in enumerate(pairs) if a != b), len(before))

            assert shared(found) == shared(expected) >= MIN_MATCH


def test_the_longest_match_is_the_longest(indexed):
    index = indexed(STORY[:3000] + STORY[:4000])
    ids = index[:].tolist()
    length, at = index.longest_match([*ids[20:700], 50_000])
    assert ids[at : at + length] == ids[20 : 20 + length] and length >= 680
    assert index.longest_match([50_000, *ids[:30]]) == (0, 0)
    assert index.longest_match(ids[:3]) == (0, 0)


@pytest.mark.parametrize("n_characters", [4, 40])
def test_a_text_of_a_few_tokens_has_an_index_too(indexed, n_characters):
    index = indexed(STORY[:n_characters])
    assert index.position_after(index[:].tolist(), min_match=1, max_match=8) in (None, len(index))


def test_an_index_of_another_text_is_none(indexed, prepare):
    folder, files = Dataset("story").folder if indexed() else None, ("index.bin", "index.json")
    kept = {name: (folder / name).read_bytes() for name in files}
    other = prepare("story", text=STORY[100:9100])
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    assert not has_index(folder, other.train)


def test_a_damaged_index_is_none(indexed):
    index = indexed()
    folder = Dataset("story").folder
    data = (folder / "index.bin").read_bytes()
    (folder / "index.bin").write_bytes(data[:-1])
    assert not has_index(folder, index.split)
    (folder / "index.bin").write_bytes(data)
    assert has_index(folder, index.split)
    (folder / "index.json").write_text(json.dumps([]))
    assert not has_index(folder, index.split)


def test_a_full_disk_is_said_before_it_is_full(indexed, monkeypatch):
    index = indexed()
    monkeypatch.setattr(token_index.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="the index takes .* GB while it is made"):
        build_index(Dataset("story").folder, index.split, lambda line: None)


def test_prepare_makes_the_index_once(prepare, capsys):
    prepare("story")
    for message in ("made the index in", "its index is made already"):
        corpus.main(corpus.Settings(dataset="story", index=True))
        assert message in capsys.readouterr().err
    assert gpt2().decode(TokenIndex(Dataset("story").folder, Dataset("story").train)[:5].tolist()) in STORY
