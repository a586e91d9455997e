"""Untrusted files: the content is loaded exactly, or a one-line error says why not.

No code in a file is run, and loading takes no more memory than the file's size.
"""

import collections
import io
import pickle
import struct
import warnings
import zipfile

import pytest
import torch
from conftest import save_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.configurator import UserError
from llm.storage import checkpoint
from llm.storage.archive import MAX_PICKLE_BYTES, read_archive
from llm.storage.progress import Progress

CONTENT = {"model": {"a": torch.arange(12.0).view(3, 4), "b": torch.ones(2, dtype=torch.bfloat16)}, "n": [1, 2.5, "x"]}


def archive_of(pickled: bytes, data: dict[str, bytes], *, compression=zipfile.ZIP_STORED) -> bytes:
    """The bytes of a file in torch.save's format with this pickle and these storages."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/version", b"3\n")
        for name, content in data.items():
            archive.writestr(f"archive/data/{name}", content)
    return file.getvalue()


class Storage:
    """Pickled as a reference to storage "0" with n floats."""

    def __init__(self, n=1):
        self.n = n


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            return ("storage", torch.FloatStorage, "0", "cpu", obj.n)


class Call:
    """Pickled as a call of a function."""

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


def billion_laughs():
    """Ten lists, each contained ten times in the next: 10,000,000,000 parts in a few hundred bytes."""
    inner = ["ha"] * 10
    for _ in range(9):
        inner = [inner] * 10
    return inner


def containing_itself():
    outer = {}
    outer["inner"] = outer
    return outer


def tensor(size, stride, n=1):
    return Call(torch._utils._rebuild_tensor_v2, Storage(n), 0, size, stride, False, collections.OrderedDict())


def torch_saved(content) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def duplicate_name() -> bytes:
    """An archive with two pickles whose names differ only in case, which torch's reader ignores."""
    file = io.BytesIO(torch_saved(CONTENT))
    with zipfile.ZipFile(file, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("archive/DATA.PKL", pickled(Call(exec, "raise SystemExit")))
    return file.getvalue()


def huge_size_in_directory() -> bytes:
    """An archive whose directory says that the first storage has two gigabytes."""
    data = torch_saved(CONTENT)
    entry = next(i for i in range(len(data)) if data[i : i + 4] == b"PK\x01\x02" and b"data/0" in data[i : i + 80])
    return data[: entry + 20] + struct.pack("<II", 2**31, 2**31) + data[entry + 28 :]


def opcodes(content: bytes) -> bytes:
    """The bytes of a file whose pickle consists of these opcodes."""
    return archive_of(b"\x80\x02" + content + b".", {"0": bytes(400)})


def changed(change: bytes) -> bytes:
    """The bytes of a file whose pickle makes a tensor and then changes it."""
    return opcodes(pickled(tensor((10,), (1,), 100))[2:-1] + change)


def long_integer(n: int) -> bytes:
    data = n.to_bytes(n.bit_length() // 8 + 1, "little")
    return b"\x8a" + bytes([len(data)]) + data


def many_keys(keys) -> bytes:
    """The bytes of a file with a dict of these pickled keys."""
    return opcodes(b"}(" + b"".join(key + b"N" for key in keys) + b"u")


ONE_HASH = [long_integer(n * (2**61 - 1)) for n in range(1, 5001)]  # hash(n * (2**61 - 1)) = 0
KEYS = "a key in it is no string or number"
HOSTILE = {
    "5,000 integers with one hash": (lambda: many_keys(ONE_HASH), KEYS),
    "keys that are tuples": (lambda: many_keys([b"K\x01K\x02\x86", b"K\x02K\x01\x86"]), KEYS),
    "a key that is no string, set alone": (lambda: opcodes(b"}NK\x01s"), KEYS),
    "an ordered dict of pairs": (
        lambda: opcodes(b"ccollections\nOrderedDict\n](](K\x01K\x02ee\x85R"),
        "not what torch.save writes",
    ),
    "600,000 empty lists": (lambda: opcodes(b"]" * 600_000), "unfolds to more than the file holds"),
    "400,000 marks": (lambda: opcodes(b"(" * 400_000), "unfolds to more than the file holds"),
    "an item set in a tensor": (lambda: changed(b"K\x00K\x05s"), "not what torch.save writes"),  # CVE-2026-24747
    "items set in a tensor": (lambda: changed(b"(K\x00K\x05K\x01K\x06u"), "not what torch.save writes"),
    "an item appended to a tensor": (lambda: changed(b"K\x05a"), "not what torch.save writes"),
    "a tensor with other attributes": (lambda: changed(b"}b"), "not what torch.save writes"),
    "a storage that is called": (lambda: opcodes(b"ctorch\nFloatStorage\nK\x09\x85R"), "not what torch.save writes"),
    "a set, made by an opcode": (lambda: opcodes(b"\x8f"), "not what torch.save writes"),
    "code": (lambda: archive_of(pickled(Call(exec, "raise SystemExit")), {}), "more than plain data"),
    "code in a newer pickle protocol": (
        lambda: archive_of(pickled(Call(exec, "x"), protocol=4), {}),
        "not what torch.save writes",
    ),
    "a builtin that takes memory": (lambda: archive_of(pickled(Call(bytearray, 10**12)), {}), "more than plain data"),
    "sparse": (lambda: torch_saved({"a": torch.eye(3).to_sparse()}), "more than plain data"),
    "old format": (lambda: pickle.dumps(CONTENT["n"]), "not a file that torch.save wrote, or cut short"),
    "text": (lambda: b"once upon a time", "not a file that torch.save wrote, or cut short"),
    "empty": (lambda: b"", "not a file that torch.save wrote, or cut short"),
    "compressed": (
        lambda: archive_of(pickled(["\0" * 10**6]), {}, compression=zipfile.ZIP_DEFLATED),
        "a part of it is compressed",
    ),
    "a directory that states a huge size": (huge_size_in_directory, "larger than the file"),
    "two parts of one name": (duplicate_name, "its directory names something twice"),
    "no pickle": (lambda: archive_of(b"", {}).replace(b"data.pkl", b"data.txt"), "not what torch.save writes"),
    "a huge pickle": (lambda: archive_of(b"]" * (MAX_PICKLE_BYTES + 1) + b".", {}), "not what torch.save writes"),
    "billion laughs": (lambda: archive_of(pickled(billion_laughs()), {}), "unfolds to more than the file holds"),
    "a dict in itself": (lambda: archive_of(pickled(containing_itself()), {}), "unfolds to more than the file holds"),
    "deep nesting": (lambda: archive_of(pickled(nested(200)), {}), "unfolds to more than the file holds"),
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
def test_a_hostile_file_gives_a_one_line_error(folder, name, mmap):
    make, message = HOSTILE[name]
    path = folder / "ckpt.pt"
    path.write_bytes(make())
    with pytest.raises(UserError, match=message) as error:
        read_archive(path, mmap=mmap)
    assert str(path) in str(error.value)


def test_plain_data_is_loaded_unchanged(folder):
    path = folder / "ckpt.pt"
    torch.save(CONTENT, path)
    for mmap in (False, True):
        assert checkpoint.digest(read_archive(path, mmap=mmap)) == checkpoint.digest(CONTENT)


def test_a_folder_and_a_missing_file_give_an_error(folder):
    with pytest.raises(UserError, match="cannot read .*: Is a directory"):
        read_archive(folder, mmap=True)
    with pytest.raises(UserError, match="cannot read .*: No such file"):
        read_archive(folder / "nothing", mmap=True)


@pytest.fixture(scope="module")
def saved(tiny_model, folder):
    """(path, bytes, digest) of a checkpoint of ours."""
    path = folder / "good.pt"
    save_checkpoint(
        path,
        model=tiny_model(vocab_size=7),
        progress=Progress(iter_num=3, position=[0, 1], text_sha256="0"),
        config={"dataset": "x"},
        tokenizer_description={"kind": "characters", "characters": "abcdefg"},
        corpus_ids=[1, 2],
    )
    return path, path.read_bytes(), checkpoint.digest(checkpoint.read(path, checkpoint.PARTS))


def is_refused(path, expected) -> bool:
    """Whether reading gives a one-line error; if it does not, the content must have the expected digest."""
    try:
        content = checkpoint.read(path, checkpoint.PARTS)
    except UserError as e:
        assert "\n" not in str(e) and str(path) in str(e)
        return True
    assert checkpoint.digest(content) == expected
    return False


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_a_checkpoint_cut_flipped_or_swapped_is_refused_or_read_correctly(saved, data):
    path, good, expected = saved
    at = data.draw(st.integers(0, len(good) - 1))
    damage = data.draw(st.sampled_from(["cut", "flip", "swap", "insert"]))
    other = data.draw(st.integers(0, len(good) - 9))
    bad = bytearray(good)
    if damage == "cut":
        del bad[at:]
    elif damage == "flip":
        bad[at] ^= 1 << data.draw(st.integers(0, 7))
    elif damage == "swap":
        bad[at : at + 8], bad[other : other + 8] = bad[other : other + 8], bad[at : at + 8]
    else:
        bad[at:at] = bytes(bad[other : other + 8])
    damaged = path.with_name("bad.pt")
    damaged.write_bytes(bytes(bad))
    assert is_refused(damaged, expected) or damage != "cut"


@given(content=st.binary(max_size=300))
@settings(deadline=None)
def test_random_bytes_give_a_one_line_error(folder, content):
    path = folder / "any.pt"
    for data in (content, archive_of(content, {"0": content})):
        path.write_bytes(data)
        with pytest.raises(UserError, match="any.pt is damaged or no checkpoint|any.pt holds more than plain data"):
            checkpoint.read(path, ())
