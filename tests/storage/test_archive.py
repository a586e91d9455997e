"""A stranger's file: content comes back exactly, or one line says why not. No code runs, and memory stays small."""

import collections
import io
import pickle
import struct
import warnings
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.configurator import UserError
from llm.storage import checkpoint
from llm.storage.archive import PICKLE, read_archive

CONTENT = {"model": {"a": torch.arange(12.0).view(3, 4), "b": torch.ones(2, dtype=torch.bfloat16)}, "n": [1, 2.5, "x"]}


def archive_of(pickled: bytes, data: dict[str, bytes], *, compression=zipfile.ZIP_STORED) -> bytes:
    """What torch.save would write for a pickle of one's own and these storages."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/version", b"3\n")
        for name, content in data.items():
            archive.writestr(f"archive/data/{name}", content)
    return file.getvalue()


class Storage:
    """Pickles as a reference to storage "0" of so many floats."""

    def __init__(self, n=1):
        self.n = n


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            return ("storage", torch.FloatStorage, "0", "cpu", obj.n)


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def pickled(content, protocol=2) -> bytes:
    file = io.BytesIO()
    Pickler(file, protocol).dump(content)
    return file.getvalue()


def nested(depth):
    inner = []
    for _ in range(depth):
        inner = [inner]
    return inner


def laughs():
    """Ten lists, each ten times in the next: some 10,000,000,000 parts in a few hundred bytes."""
    inner = ["ha"] * 10
    for _ in range(9):
        inner = [inner] * 10
    return inner


def itself():
    inner = {}
    inner["again"] = inner
    return inner


def tensor(size, stride, n=1):
    return Call(torch._utils._rebuild_tensor_v2, Storage(n), 0, size, stride, False, collections.OrderedDict())


def torch_saved(content) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def twice() -> bytes:
    file = io.BytesIO(torch_saved(CONTENT))
    with zipfile.ZipFile(file, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("archive/DATA.PKL", pickled(Call(exec, "raise SystemExit")))
    return file.getvalue()


def larger_than_it_is() -> bytes:
    """The directory says that the first storage has a terabyte, by a 64-bit size."""
    data = torch_saved(CONTENT)
    at = data.index(b"PK\x01\x02", data.index(b"archive/data/0"))
    at = next(i for i in range(at, len(data)) if data[i : i + 4] == b"PK\x01\x02" and b"data/0" in data[i : i + 80])
    return data[: at + 20] + struct.pack("<II", 2**31, 2**31) + data[at + 28 :]


HOSTILE = {
    "code": (lambda: archive_of(pickled(Call(exec, "raise SystemExit")), {}), "more than plain data"),
    "code, other words": (lambda: archive_of(pickled(Call(exec, "x"), protocol=4), {}), "more than plain data"),
    "memory by a builtin": (lambda: archive_of(pickled(Call(bytearray, 10**12)), {}), "more than plain data"),
    "sparse": (lambda: torch_saved({"a": torch.eye(3).to_sparse()}), "more than plain data"),
    "old format": (lambda: pickle.dumps(CONTENT["n"]), "not a file that torch.save wrote, or cut short"),
    "text": (lambda: b"once upon a time", "not a file that torch.save wrote, or cut short"),
    "empty": (lambda: b"", "not a file that torch.save wrote, or cut short"),
    "compressed": (
        lambda: archive_of(pickled(["\0" * 10**6]), {}, compression=zipfile.ZIP_DEFLATED),
        "a part of it is compressed",
    ),
    "a zip bomb's header": (larger_than_it_is, "larger than the file"),
    "two of a name": (twice, "its directory names something twice"),
    "no pickle": (lambda: archive_of(b"", {}).replace(b"data.pkl", b"data.txt"), "not what torch.save writes"),
    "a huge pickle": (lambda: archive_of(b"]" * (PICKLE + 1) + b".", {}), "not what torch.save writes"),
    "laughs": (lambda: archive_of(pickled(laughs()), {}), "unfolds to more than the file holds"),
    "itself": (lambda: archive_of(pickled(itself()), {}), "unfolds to more than the file holds"),
    "deep": (lambda: archive_of(pickled(nested(200)), {}), "unfolds to more than the file holds"),
    "a tensor of a terabyte over a number": (
        lambda: archive_of(pickled(tensor((2**38,), (0,))), {"0": b"\0\0\0\0"}),
        "a tensor in it is larger than its data",
    ),
    "a million views": (
        lambda: archive_of(pickled([tensor((1000,), (1,), 1000)] * 1000), {"0": bytes(4000)}),
        "unfolds to more than the file holds",
    ),
    "a tensor beyond its data": (lambda: archive_of(pickled(tensor((2**38,), (1,))), {"0": bytes(4)}), "is damaged"),
    "a set": (lambda: torch_saved({"a": {1, 2}}), "more than plain data|is damaged"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("archives")


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_told_in_one_line(folder, name, mmap):
    make, message = HOSTILE[name]
    path = folder / "ckpt.pt"
    path.write_bytes(make())
    with pytest.raises(UserError, match=message) as error:
        read_archive(path, mmap=mmap)
    assert str(path) in str(error.value)


def test_plain_data_comes_back_as_it_was(folder):
    path = folder / "ckpt.pt"
    torch.save(CONTENT, path)
    for mmap in (False, True):
        assert checkpoint.digest(read_archive(path, mmap=mmap)) == checkpoint.digest(CONTENT)


def test_a_folder_and_a_file_that_may_not_be_read_are_told(folder):
    with pytest.raises(UserError, match="cannot read .*: Is a directory"):
        read_archive(folder, mmap=True)
    with pytest.raises(UserError, match="cannot read .*: No such file"):
        read_archive(folder / "nothing", mmap=True)


@pytest.fixture(scope="module")
def saved(tiny_model, folder):
    """(path, bytes, digest) of a checkpoint of ours."""
    path, model = folder / "good.pt", tiny_model(vocab_size=7)
    checkpoint.save(
        path,
        model=model,
        optimizers=[torch.optim.AdamW(model.parameters())],
        iter_num=3,
        best_val_loss=1e9,
        config={"dataset": "x"},
        tokenizer_description={"kind": "characters", "characters": "abcdefg"},
        corpus_ids=[1, 2],
        loop={"place": [0, 1], "text_sha256": "0"},
    )
    return path, path.read_bytes(), checkpoint.digest(checkpoint.read(path, checkpoint.PARTS))


def is_refused_or_right(path, expected):
    try:
        content = checkpoint.read(path, checkpoint.PARTS)
    except UserError as e:
        assert "\n" not in str(e) and str(path) in str(e)
        return True
    assert checkpoint.digest(content) == expected
    return False


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_a_checkpoint_cut_flipped_or_swapped_is_refused_or_right(saved, data):
    path, good, expected = saved
    at = data.draw(st.integers(0, len(good) - 1))
    how = data.draw(st.sampled_from(["cut", "flip", "swap", "insert"]))
    other = data.draw(st.integers(0, len(good) - 9))
    bad = bytearray(good)
    if how == "cut":
        del bad[at:]
    elif how == "flip":
        bad[at] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "swap":
        bad[at : at + 8], bad[other : other + 8] = bad[other : other + 8], bad[at : at + 8]
    else:
        bad[at:at] = bytes(bad[other : other + 8])
    damaged = path.with_name("bad.pt")
    damaged.write_bytes(bytes(bad))
    refused = is_refused_or_right(damaged, expected)
    assert refused or how != "cut"


@given(content=st.binary(max_size=300))
@settings(deadline=None)
def test_any_bytes_are_told_in_one_line(folder, content):
    path = folder / "any.pt"
    for data in (content, archive_of(content, {"0": content})):
        path.write_bytes(data)
        with pytest.raises(UserError):
            checkpoint.read(path, ())
