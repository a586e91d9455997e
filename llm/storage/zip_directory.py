"""The parts of a zip file whose every byte is accounted for, so that all readers find the same ones.

A zip file can be written so that two readers see two different directories, or hide a part between others. Accepted
are files as torch.save writes them: the parts one after the other from the first byte on, each uncompressed and with
the same name in front of it as in the directory, then the directory, then the end records (zip64's, too), then nothing.
Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT.
"""

import struct
from typing import BinaryIO, NamedTuple

MAX_ENTRIES = 2**16  # one for each tensor; GPT-2 xl with its optimizer has 2,400
MAX_DIRECTORY_BYTES = 2**23
LOCAL = struct.Struct("<4s4xH16xHH")  # signature, method, bytes of name and extra fields
CENTRAL = struct.Struct("<4s4xHH4xIIIHHHH6xI")  # signature, flags, method, crc, 2 sizes, 3 lengths, disk, offset
END = struct.Struct("<4sHHHHIIH")  # signature, 2 disks, entries here and in all, directory's size and start, comment
END_64 = struct.Struct("<4sQ4xIIQQQQ")  # signature, size of the rest, then as END
LOCATOR = struct.Struct("<4sIQI")  # signature, disk, start of END_64, disks
DESCRIPTORS = (16, 24)  # bytes between a part and the next, where a flag says so: crc and sizes, of 32 or 64 bits
HAS_DESCRIPTOR, UTF8 = 0x8, 0x800  # the flags that torch.save sets
WIDE, WIDE_16 = 2**32 - 1, 2**16 - 1  # placeholders of numbers that zip64's fields hold


class Damaged(Exception):
    """An archive is damaged; the message says in a few words how."""


class Entry(NamedTuple):
    """One part of the file."""

    name: bytes
    header: int  # where its header begins, in bytes
    start: int  # where its data begins
    size: int  # bytes of data
    crc: int
    has_descriptor: bool


def require(condition: bool, message: str = "cut short, or not what torch.save writes") -> None:
    if not condition:
        raise Damaged(message)


def read_at(f: BinaryIO, start: int, size: int) -> bytes:
    """`size` bytes from `start` on. Damaged if there are fewer."""
    f.seek(max(start, 0))
    data = f.read(size)
    require(start >= 0 and len(data) == size)
    return data


def directory_range(f: BinaryIO, size: int) -> tuple[int, int, int]:
    """(start, end, number of entries) of the directory of a file of `size` bytes, from the records at its very end."""
    end = size - END.size
    signature, *plain, comment = END.unpack(read_at(f, end, END.size))
    require(signature == b"PK\x05\x06" and comment == 0)
    fields = plain
    if size >= END.size + LOCATOR.size + END_64.size:
        locator, *located = LOCATOR.unpack(read_at(f, end - LOCATOR.size, LOCATOR.size))
        if locator == b"PK\x06\x07":
            end -= LOCATOR.size + END_64.size
            signature, rest, *fields = END_64.unpack(read_at(f, end, END_64.size))
            require(signature == b"PK\x06\x06" and rest == END_64.size - 12 and located == [0, end, 1])
            narrow = [WIDE_16] * 4 + [WIDE] * 2
            require(plain == [min(pair) for pair in zip(fields, narrow, strict=True)])
    disk, first_disk, n_here, n_entries, n_bytes, start = fields
    require(disk == first_disk == 0 and n_here == n_entries and start + n_bytes == end)
    require(0 < n_entries <= MAX_ENTRIES and n_bytes <= MAX_DIRECTORY_BYTES)
    return start, end, n_entries


def widened(values: list[int], extra: bytes) -> list[int]:
    """Size, packed size and offset of an entry: those that do not fit 32 bits stand in its only extra field."""
    wide = [n for n, value in enumerate(values) if value == WIDE]
    if not wide:
        require(not extra)
        return values
    require(extra[:4] == struct.pack("<HH", 1, 8 * len(wide)) and len(extra) == 4 + 8 * len(wide))
    for n, value in zip(wide, struct.unpack(f"<{len(wide)}Q", extra[4:]), strict=True):
        values[n] = value
    return values


def read_entries(f: BinaryIO, size: int) -> list[Entry]:
    """The parts of a file of `size` bytes, in their order. Damaged if a byte of it belongs to none, or to two."""
    start, end, n_entries = directory_range(f, size)
    directory, at, entries = read_at(f, start, end - start), 0, []
    for _ in range(n_entries):
        require(at + CENTRAL.size <= len(directory))
        signature, flags, method, crc, packed, unpacked, n_name, n_extra, n_comment, disk, offset = CENTRAL.unpack_from(
            directory, at
        )
        at += CENTRAL.size
        name, at = directory[at : at + n_name], at + n_name
        unpacked, packed, offset = widened([unpacked, packed, offset], directory[at : at + n_extra])
        at += n_extra
        require(signature == b"PK\x01\x02" and len(name) == n_name and n_comment == disk == 0)
        require(method == 0 and packed == unpacked, "a part of it is compressed, which torch.save never does")
        require(flags & ~(HAS_DESCRIPTOR | UTF8) == 0)
        require(offset + unpacked <= size, "its directory says that it is larger than the file")
        local, local_method, n_local_name, n_local_extra = LOCAL.unpack(read_at(f, offset, LOCAL.size))
        require(local == b"PK\x03\x04" and local_method == 0 and n_local_name == n_name)
        require(f.read(n_name) == name, "its directory names a part otherwise than the part itself")
        data = offset + LOCAL.size + n_name + n_local_extra
        entries.append(Entry(name, offset, data, unpacked, crc, bool(flags & HAS_DESCRIPTOR)))
    require(at == len(directory))
    check_layout(f, entries, start)
    return entries


def check_layout(f: BinaryIO, entries: list[Entry], end: int) -> None:
    """Damaged unless the parts follow each other from byte 0 to `end` without a gap, and no two have one name."""
    names = {entry.name.lower() for entry in entries}  # torch's reader ignores case
    roots = {name.partition(b"/")[0] for name in names}
    require(len(names) == len(entries) and len(roots) == 1, "its directory names something twice")
    require(entries[0].header == 0)
    for entry, next_header in zip(entries, [entry.header for entry in entries[1:]] + [end], strict=True):
        gap = next_header - entry.start - entry.size
        require(gap in DESCRIPTORS if entry.has_descriptor else gap == 0, "bytes of it belong to no part")
        require(not entry.has_descriptor or read_at(f, next_header - gap, 4) == b"PK\x07\x08")
