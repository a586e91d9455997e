"""Reading an archive of torch.save's of which nothing is known: it may be cut short, damaged, or made to do harm.

torch's restricted loader (weights_only) runs no code, but it believes what an archive says of its own sizes. So the
archive's directory is checked before the loader sees it, and what it gave before anybody walks through it. What passes
is plain data: dicts, lists, tuples, strings, numbers, None and dense tensors, no larger in memory than the file.
"""

import io
import pickletools
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch

from llm.configurator import UserError

PICKLE = 2**22  # bytes that the part which is not tensors may take; ours take some 100,000
DEPTH = 50  # of nested lists and dicts
# what plain data with tensors is made of, as names in a pickle; torch's restricted loader would allow more
BUILDERS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
STORAGES = {f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short")}
STORAGES |= {f"torch {kind}Storage" for kind in ("Char", "Byte", "Bool")}


class Damaged(Exception):
    """What is wrong with an archive, in a few words."""


def check_directory(f: BinaryIO, size: int) -> zipfile.ZipInfo:
    """The directory's entry of the pickle. Damaged unless all entries lie in the file as they are, none twice."""
    f.seek(0)
    if f.read(4) != b"PK\x03\x04":
        raise Damaged("not a file that torch.save wrote, or cut short")
    with zipfile.ZipFile(f) as archive:
        entries = archive.infolist()
    names = {entry.filename.lower() for entry in entries}  # torch's reader does not tell A from a
    roots = {name.partition("/")[0] for name in names}
    if len(names) != len(entries) or len(roots) != 1:
        raise Damaged("its directory names something twice")
    inside = sum(entry.file_size for entry in entries) <= size
    for entry in entries:
        inside = inside and entry.header_offset + entry.file_size <= size
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise Damaged("a part of it is compressed, which torch.save never does")
    if not inside:
        raise Damaged("its directory says that it is larger than the file")
    pickles = [entry for entry in entries if entry.filename.lower().endswith("/data.pkl")]
    if len(pickles) != 1 or pickles[0].file_size > PICKLE:
        raise Damaged("not what torch.save writes")
    return pickles[0]


def check_names(pickled: bytes, path: Path) -> None:
    """UserError for a pickle that names anything but what tensors are built of."""
    for opcode, argument, _ in pickletools.genops(io.BytesIO(pickled)):
        named = argument if opcode.name in ("GLOBAL", "INST") else None
        if opcode.name.startswith(("STACK_GLOBAL", "EXT")) or (named and named not in BUILDERS | STORAGES):
            what = f" ({named.replace(' ', '.')})" if named else ""
            raise UserError(f"{path} holds more than plain data{what}, which is never loaded (it could run code)")


def check_content(content, most_nodes: int, most_bytes: int) -> None:
    """Damaged unless it is a tree of plain data of at most so many parts, whose tensors are as large as they say.

    Both limits are what can honestly stand in the file: in a pickle, a list may hold itself, or the same list a million
    times, and a tensor may be of any size over a storage of a byte.
    """
    nodes, n_bytes, todo = 0, 0, [(content, 0)]
    while todo:
        x, depth = todo.pop()
        nodes += 1
        if isinstance(x, torch.Tensor):
            n_bytes += x.numel() * x.element_size()
            dense = x.layout == torch.strided and x.device.type == "cpu" and not x.is_quantized
            if not dense or x.numel() * x.element_size() > x.untyped_storage().nbytes():
                raise Damaged("a tensor in it is larger than its data")
        elif isinstance(x, dict):
            todo += [(part, depth + 1) for pair in x.items() for part in pair]
        elif isinstance(x, list | tuple):
            todo += [(part, depth + 1) for part in x]
        elif not (x is None or isinstance(x, str | int | float)):
            raise Damaged(f"a {type(x).__name__} is in it")
        if nodes + len(todo) > most_nodes or n_bytes > most_bytes or depth > DEPTH:
            raise Damaged("it unfolds to more than the file holds")


def read_archive(path: Path, *, mmap: bool):
    """What torch.save wrote to `path`, tensors on the CPU; mmap: their memory is the file, which is read when used.

    UserError, and nothing run, for a file that is not one, is damaged, or holds more than plain data. Takes at most
    the file's size of memory, beside a few MB.
    """
    try:
        with open(path, "rb") as f:
            size = f.seek(0, io.SEEK_END)
            entry = check_directory(f, size)
            with zipfile.ZipFile(f) as archive:
                pickled = archive.read(entry)
            check_names(pickled, path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
            check_content(content, most_nodes=entry.file_size, most_bytes=2 * size)
        return content
    except UserError:
        raise
    except OSError as e:
        if e.strerror is not None:
            raise UserError(f"cannot read {path}: {e.strerror}") from None
        reason = "cut short"
    except Damaged as e:
        reason = str(e)
    except zipfile.BadZipFile:
        reason = "cut short, or not what torch.save writes"
    except MemoryError:
        raise UserError(f"{path} does not fit into memory") from None
    except Exception as e:  # whatever torch's and Python's readers raise for bytes that make no sense
        reason = type(e).__name__
    raise UserError(f"{path} is damaged or no checkpoint of llm or nanoGPT ({reason})")
