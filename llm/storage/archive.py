"""Read a file written by torch.save that may be cut short, damaged or malicious.

torch's restricted loader (weights_only=True) runs no code, but it trusts the sizes that a file states. Therefore the
zip directory is checked before the loader sees the file, and the loaded content before anything walks through it.
Accepted is plain data (dicts, lists, tuples, strings, numbers, None and dense tensors), no larger in memory than the
file.
"""

import io
import pickletools
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch

from llm.configurator import UserError

MAX_PICKLE_BYTES = 2**22  # size of the part that holds everything but tensors; ours take about 100,000
MAX_DEPTH = 50  # of nested lists and dicts
# the names that a pickle of plain data and tensors contains; torch's restricted loader would allow more
ALLOWED_NAMES = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
ALLOWED_NAMES |= {f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short")}
ALLOWED_NAMES |= {f"torch {kind}Storage" for kind in ("Char", "Byte", "Bool")}


class Damaged(Exception):
    """An archive is damaged; the message says in a few words how."""


def find_pickle(f: BinaryIO, size: int) -> zipfile.ZipInfo:
    """The directory entry of the archive's pickle; size: bytes of the file.

    Damaged unless every entry has a name of its own, is stored uncompressed and lies inside the file.
    """
    f.seek(0)
    if f.read(4) != b"PK\x03\x04":
        raise Damaged("not a file that torch.save wrote, or cut short")
    with zipfile.ZipFile(f) as archive:
        entries = archive.infolist()
    names = {entry.filename.lower() for entry in entries}  # torch's reader ignores case
    roots = {name.partition("/")[0] for name in names}
    if len(names) != len(entries) or len(roots) != 1:
        raise Damaged("its directory names something twice")
    if any(e.compress_type != zipfile.ZIP_STORED or e.file_size != e.compress_size for e in entries):
        raise Damaged("a part of it is compressed, which torch.save never does")
    ends = [entry.header_offset + entry.file_size for entry in entries]
    if max(ends) > size or sum(entry.file_size for entry in entries) > size:
        raise Damaged("its directory says that it is larger than the file")
    pickles = [entry for entry in entries if entry.filename.lower().endswith("/data.pkl")]
    if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
        raise Damaged("not what torch.save writes")
    return pickles[0]


def check_names(pickled: bytes, path: Path) -> None:
    """UserError if a pickle names a function or class that plain data and tensors do not need."""
    for opcode, argument, _ in pickletools.genops(io.BytesIO(pickled)):
        name = argument if opcode.name in ("GLOBAL", "INST") else None
        if opcode.name.startswith(("STACK_GLOBAL", "EXT")) or (name and name not in ALLOWED_NAMES):
            shown = f" ({name.replace(' ', '.')})" if name else ""
            raise UserError(f"{path} holds more than plain data{shown}, which is never loaded (it could run code)")


def check_content(content, max_nodes: int, max_bytes: int) -> None:
    """Damaged unless the content is a tree of plain data within these limits, each tensor inside its storage.

    Both limits are what an honest file of this size can hold: in a pickle, a list may contain itself, or another list a
    million times, and a tensor of any size may refer to a storage of one byte.
    """
    n_nodes, n_bytes, todo = 0, 0, [(content, 0)]
    while todo:
        node, depth = todo.pop()
        n_nodes += 1
        if isinstance(node, torch.Tensor):
            tensor_bytes = node.numel() * node.element_size()
            n_bytes += tensor_bytes
            is_dense = node.layout == torch.strided and node.device.type == "cpu" and not node.is_quantized
            if not is_dense or tensor_bytes > node.untyped_storage().nbytes():
                raise Damaged("a tensor in it is larger than its data")
        elif isinstance(node, dict):
            todo += [(part, depth + 1) for pair in node.items() for part in pair]
        elif isinstance(node, list | tuple):
            todo += [(part, depth + 1) for part in node]
        elif not (node is None or isinstance(node, str | int | float)):
            raise Damaged(f"a {type(node).__name__} is in it")
        if n_nodes + len(todo) > max_nodes or n_bytes > max_bytes or depth > MAX_DEPTH:
            raise Damaged("it unfolds to more than the file holds")


def read_archive(path: Path, *, mmap: bool):
    """The content that torch.save wrote to `path`, tensors on the CPU.

    mmap: map the file instead of reading it; its pages are read when they are used. Takes at most the file's size of
    memory plus a few MB. UserError, and no code is run, if the file is not one of torch.save's, is damaged, or holds
    more than plain data.
    """
    try:
        with open(path, "rb") as f:
            size = f.seek(0, io.SEEK_END)
            entry = find_pickle(f, size)
            with zipfile.ZipFile(f) as archive:
                pickled = archive.read(entry)
            check_names(pickled, path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
            check_content(content, max_nodes=entry.file_size, max_bytes=2 * size)
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
    except Exception as e:  # torch's and Python's readers raise many kinds of errors for random bytes
        reason = type(e).__name__
    raise UserError(f"{path} is damaged or no checkpoint of llm or nanoGPT ({reason})")
