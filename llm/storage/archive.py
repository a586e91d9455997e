"""Read a file written by torch.save that may be cut short, damaged or malicious.

torch's restricted loader (weights_only=True) runs no code, but it trusts the sizes that a file states. Therefore the
zip directory (zip_directory.py) and the pickle are checked before the loader sees the file, and the loaded content
before anything walks through it. Accepted is plain data (dicts, lists, tuples, strings, numbers, None and dense
tensors), no larger in memory than the file.
"""

import io
import pickletools
import zlib
from pathlib import Path
from typing import BinaryIO

import torch

from llm.configurator import UserError
from llm.files import open_regular
from llm.storage.zip_directory import Damaged, read_at, read_entries, require

MAX_PICKLE_BYTES = 2**22  # size of the part that holds everything but tensors; ours take about 100,000
MAX_OPCODES = 2**19  # of that part: an opcode of one byte may make an object of 64
MAX_DEPTH = 50  # of nested lists and dicts
# the names that a pickle of plain data and tensors contains; torch's restricted loader would allow more
ORDERED_DICT = "collections OrderedDict"
FUNCTIONS = {"torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
ALLOWED_NAMES = {ORDERED_DICT, *FUNCTIONS}
ALLOWED_NAMES |= {f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short")}
ALLOWED_NAMES |= {f"torch {kind}Storage" for kind in ("Char", "Byte", "Bool")}
UNWRITTEN = "not what torch.save writes"


def read_pickle(f: BinaryIO, size: int) -> bytes:
    """The pickle in a file of `size` bytes. Damaged unless torch.save could have written the file's directory."""
    f.seek(0)
    require(f.read(4) == b"PK\x03\x04", "not a file that torch.save wrote, or cut short")
    pickles = [entry for entry in read_entries(f, size) if entry.name.lower().endswith(b"/data.pkl")]
    require(len(pickles) == 1 and pickles[0].size <= MAX_PICKLE_BYTES, UNWRITTEN)
    pickled = read_at(f, pickles[0].start, pickles[0].size)
    require(zlib.crc32(pickled) == pickles[0].crc)
    return pickled


class PickleChecker:
    """Follows a pickle as the pickle machine does, but keeps only what kind each object is, and makes none.

    A kind is "key" (a string or an integer of 64 bits), "value" (anything else that is complete), the opcode that made
    an empty list, dict or tuple, or the name of a function or class.
    """

    def __init__(self):
        self.stack: list[str] = []
        self.outer: list[list[str]] = []  # the stacks below each mark
        self.memo: dict[int, str] = {}

    def pop_to_mark(self) -> list[str]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def fill(self, items: list[str], kind: str) -> None:
        """Put items into the list or dict on top of the stack. Damaged if it is of another kind.

        Keys of dicts are only strings and short numbers: other keys can be chosen so that all have one hash, and then
        a dict takes time with the square of its size.
        """
        require(self.stack[-1] == kind, UNWRITTEN)
        require(kind == "EMPTY_LIST" or {*items[::2]} <= {"key"}, "a key in it is no string or number")

    def call(self) -> None:
        """Replace a function and its arguments by what the function returns."""
        arguments, function = self.stack.pop(), self.stack.pop()
        require(function in FUNCTIONS or (function == ORDERED_DICT and arguments == "EMPTY_TUPLE"), UNWRITTEN)
        self.stack.append("value" if function in FUNCTIONS else "EMPTY_DICT")

    def step(self, opcode: str, argument) -> None:
        """Follow one opcode. Damaged, IndexError or KeyError if torch.save would not write it here."""
        match opcode:
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2":
                self.stack.append("key")
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "MARK":
                require(len(self.outer) < 2 * MAX_DEPTH, "it unfolds to more than the file holds")
                self.outer.append(self.stack)
                self.stack = []
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                self.stack.append(opcode)
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "BINFLOAT":
                self.stack.append("value")
            case "LONG1":
                self.stack.append("key" if argument.bit_length() <= 64 else "value")
            case "GLOBAL":
                self.stack.append(argument)
            case "TUPLE":
                self.pop_to_mark()
                self.stack.append("value")
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                for _ in range(int(opcode[-1])):
                    self.stack.pop()
                self.stack.append("value")
            case "BINPERSID":  # a storage
                self.stack[-1] = "value"
            case "REDUCE":
                self.call()
            case "BUILD":  # sets attributes of an ordered dict
                self.stack.pop()
                require(self.stack[-1] == "EMPTY_DICT", UNWRITTEN)
            case "APPEND":
                self.fill([self.stack.pop()], "EMPTY_LIST")
            case "APPENDS":
                self.fill(self.pop_to_mark(), "EMPTY_LIST")
            case "SETITEM":
                value, key = self.stack.pop(), self.stack.pop()
                self.fill([key, value], "EMPTY_DICT")
            case "SETITEMS":
                self.fill(self.pop_to_mark(), "EMPTY_DICT")
            case _:
                require(opcode in ("PROTO", "STOP"), UNWRITTEN)


def check_pickle(pickled: bytes, path: Path) -> None:
    """Damaged unless torch.save could have written a pickle.

    UserError if it names a function or class that plain data and tensors do not need.
    """
    checker = PickleChecker()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if opcode.name == "GLOBAL" and argument not in ALLOWED_NAMES:
            name = argument.replace(" ", ".")[:80]
            raise UserError(f"{path} holds more than plain data ({name}), which is never loaded (it could run code)")
        require(count < MAX_OPCODES, "it unfolds to more than the file holds")
        checker.step(opcode.name, argument)


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
        with open_regular(path) as f:
            size = f.seek(0, io.SEEK_END)
            pickled = read_pickle(f, size)
            check_pickle(pickled, path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
            check_content(content, max_nodes=len(pickled), max_bytes=2 * size)
        return content
    except UserError:
        raise
    except OSError as e:
        if e.strerror is not None:
            raise UserError(f"cannot read {path}: {e.strerror}") from None
        reason = "cut short"
    except Damaged as e:
        reason = str(e)
    except MemoryError:
        raise UserError(f"{path} does not fit into memory") from None
    except Exception as e:  # torch's and Python's readers raise many kinds of errors for random bytes
        reason = type(e).__name__
    raise UserError(f"{path} is damaged or no checkpoint of llm or nanoGPT ({reason})")
