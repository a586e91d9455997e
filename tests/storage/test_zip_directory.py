"""Zip files that two readers read differently, that hide bytes, or that state more than they hold, are refused."""

import os
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from test_archive import pickled, tensor

from llm.configurator import UserError
from llm.storage.archive import read_archive

PARTS = {"a/data.pkl": pickled({"n": [1]}), "a/byteorder": b"little", "a/version": b"3\n", "a/data/0": bytes(4000)}
EVIL = PARTS | {"a/data.pkl": pickled({"e": [2]})}
LAST = struct.pack("<HH", 0x4242, 0)  # an extra field without content


def compressed(data: bytes) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflate.compress(data) + deflate.flush()


def local(name: bytes, data: bytes, stored: bytes, method: int) -> bytes:
    sizes = (zlib.crc32(data), len(stored), len(data), len(name), 0)
    return struct.pack("<4sHHHHHIIIHH", b"PK\x03\x04", 20, 0, method, 0, 0x21, *sizes) + name + stored


def central(name: bytes, data: bytes, stored: bytes, method: int, offset: int, extra: bytes, *, wide: bool) -> bytes:
    """wide: size and offset stand in a field of zip64's."""
    numbers = [len(stored), len(data), offset]
    if wide:
        extra += struct.pack("<HHQQQ", 1, 24, len(data), len(stored), offset)
        numbers = [2**32 - 1] * 3
    sizes = (zlib.crc32(data), *numbers[:2], len(name), len(extra), 0, 0, 0, 0, numbers[2])
    return struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", 20, 20, 0, method, 0, 0x21, *sizes) + name + extra


def end(n: int, size: int, start: int, comment: bytes = b"") -> bytes:
    return struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, n, n, size, start, len(comment)) + comment


def end_64(n: int, size: int, start: int, located: int) -> bytes:
    """zip64's end record, its locator, which says that the record is at `located`, and the plain end record."""
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, n, n, size, start)
    return record + struct.pack("<4sIQI", b"PK\x06\x07", 0, located, 1) + end(min(n, 2**16 - 1), size, start)


def zip_of(parts, *, gap=b"", before=b"", after=b"", comment=b"", extra=b"", zip64=False, local_name=None):
    """A zip file of the parts; gap: bytes between two parts; extra: fields of each part in the directory."""
    file, directory = bytearray(before), bytearray()
    for name, data in parts.items():
        directory += central(name.encode(), data, data, 0, len(file) - len(before), extra, wide=zip64)
        file += local((local_name or name).encode(), data, data, 0) + gap
    start, n = len(file) - len(before), len(parts)
    ends = end_64(n, len(directory), start, start + len(directory)) if zip64 else None
    return bytes(file + directory) + (ends or end(n, len(directory), start, comment)) + after


def two_directories(seen: dict, hidden: dict, *, deflate: bool) -> bytes:
    """One end record, two directories: Python reads the one right before it, torch the one that it states."""
    file, entries = b"", {"hidden": [], "seen": []}
    for which, parts in (("hidden", hidden), ("seen", seen)):
        for name, data in parts.items():
            pack = deflate and which == "hidden" and len(data) > 1000
            stored, method = (compressed(data), 8) if pack else (data, 0)
            entries[which].append((name.encode(), data, stored, method, len(file)))
            file += local(name.encode(), data, stored, method)
        file += bytes(20_000)
    size = sum(46 + len(name) for name in seen)
    first, shift = len(file), size  # Python takes every offset to be `size` less than it is
    for which in ("hidden", "seen"):
        for *entry, offset in entries[which]:
            file += central(*entry, offset - (shift if which == "seen" else 0), b"", wide=False)
    return file + end(len(seen), size, first)


def two_zip64_records() -> bytes:
    """The locator leads to a record of another directory than the record right before it."""
    first, second = zip_of(PARTS), b""
    hidden = len(first) - 22 - sum(46 + len(name) for name in PARTS)  # the directory of the first, kept as bytes
    size, n = len(first) - 22 - hidden, len(PARTS)
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, n, n, size, hidden)
    second = first[:-22] + record
    start = len(second)
    second += first[hidden:-22]
    return second + end_64(n, size, start, located=len(first) - 22)


BIG = {"w": tensor((2**24,), (1,), 2**24)}
REFUSED = {
    "two directories": (lambda: two_directories(PARTS, EVIL, deflate=False), "not what torch.save writes"),
    "two directories, the hidden one of compressed parts": (
        lambda: two_directories(PARTS, PARTS | {"a/data.pkl": pickled(BIG), "a/data/0": bytes(2**26)}, deflate=True),
        "not what torch.save writes",
    ),
    "two records of zip64": (two_zip64_records, "not what torch.save writes"),
    "bytes between the parts": (lambda: zip_of(PARTS, gap=b"hidden"), "bytes of it belong to no part"),
    "bytes in front": (lambda: zip_of(PARTS, before=bytes(30)), "not a file that torch.save wrote"),
    "a part in front": (lambda: zip_of(PARTS, before=local(b"x", b"", b"", 0)), "not what torch.save writes"),
    "bytes behind": (lambda: zip_of(PARTS, after=bytes(10)), "not what torch.save writes"),
    "a comment": (lambda: zip_of(PARTS, comment=b"a comment"), "not what torch.save writes"),
    "an extra field": (lambda: zip_of(PARTS, extra=LAST), "not what torch.save writes"),
    "an extra field before zip64's": (lambda: zip_of(PARTS, extra=LAST, zip64=True), "not what torch.save writes"),
    "another name in front of a part": (lambda: zip_of(PARTS, local_name="a/data/1"), "not what torch.save writes"),
    "another name of the same length": (lambda: zip_of({"a/data.pkl": b""}, local_name="a/data.pkX"), "otherwise than"),
    "70,000 parts": (lambda: zip_of(dict.fromkeys(map(str, range(70_000)), b""), zip64=True), "not what torch.save"),
}


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_a_zip_file_that_can_be_read_in_two_ways_is_refused(tmp_path, name, mmap):
    """Our check read one directory and torch.load another: a file of 1 MB took 1 GB, its pickle unchecked."""
    make, message = REFUSED[name]
    (tmp_path / "ckpt.pt").write_bytes(make())
    with pytest.raises(UserError, match=message) as error:
        read_archive(tmp_path / "ckpt.pt", mmap=mmap)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_the_file_of_two_directories_is_one_that_readers_read_differently(tmp_path):
    """Otherwise the test above would show nothing."""
    path = tmp_path / "ckpt.pt"
    path.write_bytes(two_directories(PARTS, EVIL, deflate=False))
    with zipfile.ZipFile(path) as archive:
        assert archive.read("a/data.pkl") == PARTS["a/data.pkl"]
    assert torch._C.PyTorchFileReader(str(path)).get_record("data.pkl") == EVIL["a/data.pkl"]


@pytest.mark.parametrize("zip64", [False, True])
def test_a_plain_zip_file_is_read_with_and_without_zip64(tmp_path, zip64):
    (tmp_path / "ckpt.pt").write_bytes(zip_of(PARTS, zip64=zip64))
    assert all(read_archive(tmp_path / "ckpt.pt", mmap=mmap) == {"n": [1]} for mmap in (False, True))


def test_a_tensor_behind_4_gb_is_read(tmp_path):
    """zip64 as torch.save writes it, in a file of which the disk holds only the ends."""
    path, first = tmp_path / "ckpt.pt", 2**32 + 64
    names = [b"a/data.pkl", b"a/version", b"a/data/0", b"a/data/1"]
    pickle = pickled({"w": tensor((2,), (1,), 2)}).replace(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x001")  # storage 1
    parts = dict(zip(names, [pickle, b"3\n", b"", struct.pack("<2f", 1, 2)], strict=True))
    with open(path, "wb") as f:
        directory = b""
        for name, data in parts.items():
            offset = f.tell()
            f.write(local(name, data, data, 0))
            if name == b"a/data/0":  # all zeros
                f.seek(first, os.SEEK_CUR)
                sizes = (len(name), 20 if offset < 2**32 else 28, 0, 0, 0, 0, offset)
                head = struct.pack("<4sHHHHHHIII", b"PK\x01\x02", 45, 45, 0, 0, 0, 0x21, 0, 2**32 - 1, 2**32 - 1)
                directory += head + struct.pack("<HHHHHII", *sizes) + name + struct.pack("<HHQQ", 1, 16, first, first)
            elif offset >= 2**32:
                sizes = (zlib.crc32(data), len(data), len(data), len(name), 12, 0, 0, 0, 0, 2**32 - 1)
                head = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", 45, 45, 0, 0, 0, 0x21, *sizes)
                directory += head + name + struct.pack("<HHQ", 1, 8, offset)
            else:
                directory += central(name, data, data, 0, offset, b"", wide=False)
        start, n, size = f.tell(), len(parts), len(directory)
        record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, n, n, size, start)
        f.write(directory + record + struct.pack("<4sIQI", b"PK\x06\x07", 0, start + size, 1) + end(n, size, 2**32 - 1))
    assert read_archive(path, mmap=True)["w"].tolist() == [1.0, 2.0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes of this kind")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "ckpt.pt")
    with pytest.raises(UserError, match="ckpt.pt: ckpt.pt is not a regular file"):
        read_archive(Path(tmp_path / "ckpt.pt"), mmap=True)
