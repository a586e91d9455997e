"""Shards hold what was prepared, and training's windows cover it evenly."""

import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm import dataset, tokenizer
from llm.configurator import UserError
from llm.dataset import Batches, Dataset, Split, evaluation_batches, permuted
from llm.runtime import Runtime

NEWER = '{"format": 9, "tokenizer": {"kind": "x"}, "shards": [{"tokens": 1}]}'
ALONE = Runtime(torch.device("cpu"), torch.float32, compile=False)


def numbers(n: int) -> Split:
    """A split whose token i is i: a window shows where it was read."""
    return Split.in_memory(list(range(n)), vocab_size=n)


def test_shards_are_nanogpts_uint16(prepare, data):
    prepare(text="Hello world", encoder=tokenizer.gpt2())
    assert (data / "story" / "train.bin").read_bytes() == np.array([15496, 995, 50256], dtype="<u2").tobytes()


def test_meta_json_says_what_the_shards_are(prepare, data):
    prepare(text="abcabcabca", encoder=tokenizer.characters("abc"), val_fraction=0.2)
    meta = json.loads((data / "story" / "meta.json").read_text())
    assert meta["tokenizer"] == {"kind": "characters", "characters": "abc"}
    assert meta["ids"] == [0, 1, 2]
    found = [(shard["file"], shard["tokens"], shard["characters"]) for shard in meta["shards"]]
    assert found == [("train.bin", 8, 8), ("val.bin", 2, 2)]
    assert all(len(s["sha256"]) == 64 for s in meta["shards"])


def test_the_end_is_held_out_and_only_it_ends_the_document(prepare):
    story = prepare(text="one two three four five six seven eight nine ten", val_fraction=0.25)
    encoder = tokenizer.gpt2()
    val = story.val.tokens(0, len(story.val)).tolist()
    assert val[-1] == 50256 and encoder.decode(val[:-1]) == "ght nine ten"
    train = story.train.tokens(0, len(story.train)).tolist()
    assert 50256 not in train and encoder.decode(train + val[:-1]) == "one two three four five six seven eight nine ten"


def test_a_val_part_that_is_not_wanted_any_more_is_removed(prepare):
    assert prepare(val_fraction=0.1).val is not None
    assert prepare(val_fraction=0.0).val is None


def test_a_text_without_tokens_to_learn_is_refused_and_nothing_is_written(prepare, data):
    with pytest.raises(UserError, match="the train part holds 1 token"):
        prepare(text="a", encoder=tokenizer.characters("a"))
    assert not (data / "story").exists()


def test_a_short_text_gets_a_command_that_fits_it(data, capsys):
    dataset.write_dataset(
        data / "short", "A short text.", tokenizer.gpt2(), val_fraction=0, source={}, train_command=("config/a.py",)
    )
    assert "--block_size=4" in capsys.readouterr().out.splitlines()[-1]


def test_several_shards_are_one_sequence(data):
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
    split._all = None  # as for a split that does not fit into memory
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
def test_damage_is_told_in_one_line_with_what_to_type(prepare, data, damage, message):
    prepare()
    damage(data / "story" / "train.bin")
    with pytest.raises(UserError, match=f"{message}.*prepare") as error:
        dataset.Dataset("story")
    assert "\n" not in str(error.value)


def test_a_dataset_that_is_missing_names_those_there_are(prepare):
    prepare("tales")
    with pytest.raises(UserError, match=r"dataset story is not prepared .*prepared: tales.*--dataset=story"):
        dataset.Dataset("story")


def test_nanogpts_gpt2_dataset_needs_no_meta_json(data, capsys):
    (data / "owt").mkdir()
    np.array([15496, 995], dtype="<u2").tofile(data / "owt" / "train.bin")
    owt = dataset.Dataset("owt")
    assert owt.ids is None and len(owt.train) == 2 and owt.vocab_size == 50304
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


# ---------------------------------------------------------------------------------------------------------------------
# the order of training


@given(n=st.integers(1, 400), key=st.integers(0, 2**63 - 1))
@settings(deadline=None)
def test_permuted_is_a_permutation(n, key):
    assert sorted(permuted(np.arange(n), n, key).tolist()) == list(range(n))


def test_permutations_of_different_keys_differ_and_spread():
    """Each value should land in each place about equally often; a fixed point of the cipher would show as a peak."""
    landed = np.zeros((7, 7))
    for key in range(2000):
        landed[np.arange(7), permuted(np.arange(7), 7, key)] += 1
    assert landed.min() > 2000 / 7 * 0.75 and landed.max() < 2000 / 7 * 1.25


@given(n=st.integers(2, 300), T=st.integers(1, 40), seed=st.integers(0, 99), B=st.integers(1, 7))
@settings(max_examples=200, deadline=None)
def test_every_token_is_a_target_once_an_epoch_and_no_window_wraps(n, T, seed, B):
    if n <= T:
        return
    batches = Batches(numbers(n), T, B, seed=seed)
    targets, epoch = set(), 0
    while True:
        first = batches.place[1]
        x, y = batches.next()
        assert x.shape == y.shape == (B, T)
        assert torch.equal(x + 1, y)  # consecutive tokens: no wrap
        offset, n_windows = dataset.epoch_grid(n, T, seed, epoch)
        targets |= set(y[: n_windows - first].flatten().tolist())
        if first + B >= n_windows:
            break
    assert targets == set(range(1, n))


def test_offsets_differ_from_epoch_to_epoch():
    assert len({dataset.epoch_grid(1000, 100, seed=1, epoch=epoch)[0] for epoch in range(20)}) > 10


def test_place_resumes_exactly():
    batches = Batches(numbers(500), 16, 3, seed=5)
    for _ in range(37):
        batches.next()
    resumed = Batches(numbers(500), 16, 3, seed=5, place=batches.place)
    assert torch.equal(batches.next()[0], resumed.next()[0])
    assert batches.epochs == resumed.epochs > 3


def test_two_ranks_see_what_one_sees_in_two_micro_batches():
    alone = Batches(numbers(300), 8, 4, seed=2)
    ranks = [Batches(numbers(300), 8, 4, seed=2, rank=rank, world_size=2) for rank in range(2)]
    for _ in range(20):
        assert torch.equal(torch.cat([alone.next()[0], alone.next()[0]]), torch.cat([r.next()[0] for r in ranks]))


def test_the_first_wrong_token_of_a_window_is_found_where_it_stands():
    batches = Batches(numbers(300), 20, 3, seed=2)
    x, y = batches.next()
    right = torch.ones(3, 20, dtype=torch.bool)
    right[0, 3] = False  # in the opening: nobody could know
    right[1, 7] = right[1, 9] = right[2, 19] = False
    assert batches.first_wrong(right) == [y[1, 7], y[2, 19]]  # numbers(): the token at a place is that place


def test_what_was_wrong_is_shown_again_and_takes_its_share_of_a_batch():
    batches = Batches(numbers(300), 20, 4, seed=2, replay=0.5)
    batches.show_again([100, 290, 100, 299, 6, 101], step=3)
    assert len(batches.again) < 5  # windows that show both 290 and 299, or 100 and 101, are noted once
    noted, first = len(batches.again), batches.next()[1]
    assert batches.place == (0, 2) and len(batches.again) == noted - 2
    for token, row in zip((6, 100), first[2:].tolist(), strict=True):
        assert token in row and (row.index(token) >= 4 or row[0] == 1)
    restored = Batches(numbers(300), 20, 4, seed=2, replay=0.5, place=batches.place, again=batches.again)
    assert torch.equal(batches.next()[0], restored.next()[0])
    batches.show_again([150], step=3)
    place = batches.again[0]
    batches.again = []
    batches.show_again([150], step=4)
    assert batches.again[0] != place


@pytest.mark.parametrize("B", [1, 3, 4])
def test_two_ranks_show_again_what_one_does_in_two_micro_batches(B):
    alone = Batches(numbers(300), 8, B, seed=2, replay=0.5)
    ranks = [Batches(numbers(300), 8, B, seed=2, replay=0.5, rank=rank, world_size=2) for rank in range(2)]
    for step in range(20):
        assert torch.equal(torch.cat([alone.next()[0], alone.next()[0]]), torch.cat([r.next()[0] for r in ranks]))
        for batches in (alone, *ranks):
            batches.show_again([50 + step, 100 + 3 * step, 290 - step], step)


def test_a_text_shorter_than_the_context_is_refused_with_both_numbers():
    with pytest.raises(UserError, match="has 16 tokens, block_size=16 needs at least 17; type --block_size=15"):
        Batches(numbers(16), 16, 1, seed=0)


@given(n=st.integers(2, 200), T=st.integers(1, 50), B=st.integers(1, 5))
@settings(deadline=None)
def test_a_full_evaluation_counts_each_target_once(n, T, B):
    targets = []
    for x, y in evaluation_batches(numbers(n), T, B, None, ALONE):
        assert torch.equal((x + 1)[y != -1], y[y != -1])
        targets += y[y != -1].tolist()
    assert sorted(targets) == list(range(1, n))


def test_a_short_evaluation_takes_so_many_batches_from_all_over():
    batches = list(evaluation_batches(numbers(1000), 10, 4, 5, ALONE))
    assert len(batches) == 5 and batches[0][0].min() == 0 and batches[-1][1].max() == 999


def test_windows_are_cut_into_shorter_ones():
    windows = torch.arange(20).view(2, 10)
    assert dataset.cut(windows, 3).tolist() == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7, 8],
        [10, 11, 12],
        [13, 14, 15],
        [16, 17, 18],
    ]
    assert dataset.cut(windows, 10).tolist() == windows.tolist()


@given(data=st.data())
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_dataset_is_refused_in_one_line_or_right(prepare, data):
    good = prepare("story", val_fraction=0.2)
    right = [good.train.tokens(0, 10**6).tolist(), good.val.tokens(0, 10**6).tolist(), good.ids]
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
        assert [found.train.tokens(0, 10**6).tolist(), found.val.tokens(0, 10**6).tolist(), found.ids] == right


KEYS = st.sampled_from(["format", "tokenizer", "shards", "ids", "kind", "file", "tokens"])
JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(meta=JSON)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_meta_json_is_told_in_one_line(data, meta):
    (data / "story").mkdir(exist_ok=True)
    (data / "story" / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError):
        Dataset("story")


def test_a_shard_that_is_too_large_to_hash_each_time_is_hashed_where_asked(prepare, monkeypatch):
    path = prepare("story").folder / "train.bin"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(bytes(content))
    monkeypatch.setattr(dataset, "VERIFIED", 0)
    Dataset("story")
    with pytest.raises(UserError, match="train.bin was changed or damaged"):
        Dataset("story", verify=True)
