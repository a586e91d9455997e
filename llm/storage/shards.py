"""A checkpoint that several processes have written, each a file with its rows of every tensor.

    ckpt.pt             the manifest: a checkpoint whose tensors are left out, and under "shards" the files that hold
                        them, in the order of the ranks, and the checksums of each file's parts
    shards/7.0of2.pt    of rank 0 of 2, in save number 7: its rows of the tensors of the model and the optimizers

The manifest is written last, and replaces the one before in one step; until then, that one and its files stay. So there
is a whole checkpoint at every instant, and a file is never overwritten: each save has a new number.
Tensors are cut along their first dimension (network/sharding.py); those without one are whole in every file. All files
are plain data, read by archive.py. torch.distributed.checkpoint does the same, but reads what is no tensor with pickle.
"""

import contextlib
import re
from pathlib import Path

import torch

from llm.configurator import UserError
from llm.files import sync_folder
from llm.network.sharding import own_part
from llm.storage.archive import read_archive
from llm.storage.plain_data import digest

FOLDER = "shards"  # beside the manifests
NAME = re.compile(FOLDER + r"/(\d{1,18})\.(\d{1,9})of(\d{1,9})\.pt")  # save, rank, ranks


class Pieces(tuple):
    """A tensor's rows, as the files of the ranks hold them; see `complete`."""


def complete(x: torch.Tensor | Pieces) -> torch.Tensor:
    """The tensor with all its rows."""
    return torch.cat(x) if isinstance(x, Pieces) else x


def complete_all(part):
    """A part of a checkpoint whose tensors have all their rows."""
    if isinstance(part, dict):
        return {key: complete_all(value) for key, value in part.items()}
    return [complete_all(value) for value in part] if isinstance(part, list) else complete(part)


def file_name(save: int, rank: int, world_size: int) -> str:
    return f"{FOLDER}/{save}.{rank}of{world_size}.pt"


def own_copy(part, copies: dict | None = None):
    """A part of a checkpoint with this rank's rows of its tensors, copied to the CPU's memory.

    Tensors that share their memory, such as tied weights, do so in the copy. copies: made so far.
    """
    copies = {} if copies is None else copies
    if isinstance(part, torch.Tensor):
        rows = own_part(part.detach())
        key = (rows.data_ptr(), rows.shape) if rows.numel() else id(part)
        if key not in copies:
            copies[key] = rows.to("cpu", copy=True)
        return copies[key]
    if isinstance(part, dict):
        return {key: own_copy(value, copies) for key, value in part.items()}
    return [own_copy(value, copies) for value in part] if isinstance(part, list) else part


def joined(parts: list, made: dict):
    """One part of a checkpoint from the same part of every file; its tensors are Pieces. made: so far.

    ValueError or the like if the files do not fit together.
    """
    first = parts[0]
    if isinstance(first, torch.Tensor):
        key = tuple(x.data_ptr() for x in parts)  # tied weights stay one
        return first.clone() if first.dim() == 0 else made.setdefault(key, Pieces(parts))
    if isinstance(first, dict):
        if any(part.keys() != first.keys() for part in parts):
            raise ValueError("other tensors in each")
        return {key: joined([part[key] for part in parts], made) for key in first}
    if isinstance(first, list):
        return [joined(list(values), made) for values in zip(*parts, strict=True)]
    return first


def read(shards: dict, path: Path, parts: tuple[str, ...]) -> dict:
    """The named parts of a checkpoint, from the files that its manifest at `path` lists under "shards".

    The model's tensors are complete; the optimizers' are Pieces, mapped from the files, because a rank that goes on
    needs but its rows. UserError if a file is missing, damaged, or of another save.
    """
    try:
        names, checksums = shards["files"], shards["checksums"]
        if not parts:
            return {}
        if not all(NAME.fullmatch(name) for name in names) or not names:
            raise ValueError("its files have other names")
        contents = [read_file(path, name, parts, sums) for name, sums in zip(names, checksums, strict=True)]
        found = {part: joined([content[part] for content in contents], {}) for part in parts}
        if "model" in found:
            whole = {id(x): complete(x) for x in found["model"].values()}
            found["model"] = {name: whole[id(x)] for name, x in found["model"].items()}
        return found
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError) as e:
        raise UserError(f"{path} is damaged: its files in {FOLDER} do not fit together ({str(e)[:60]})") from None


def read_file(path: Path, name: str, parts: tuple[str, ...], checksums: dict[str, str]) -> dict:
    """One rank's file, mapped, its parts checked. UserError if it is missing or is not what the manifest says."""
    file = path.parent / name
    if not file.is_file():
        raise UserError(f"{path} needs {file}, which is missing: keep the folder {FOLDER} beside it")
    content = read_archive(file, mmap=True)
    for part in parts:
        if digest(content[part]) != checksums[part]:
            raise UserError(f"{file} is damaged: the checksum of its part {part!r} is wrong")
    return content


def make_folder(out_dir: Path) -> None:
    """Make the folder for the files in out_dir. UserError if the disk refuses."""
    try:
        if not (out_dir / FOLDER).is_dir():
            (out_dir / FOLDER).mkdir(exist_ok=True)
            sync_folder(out_dir)
    except OSError as e:
        raise UserError(f"cannot write {out_dir / FOLDER}: {e.strerror}") from None


def next_save(out_dir: Path) -> int:
    """A number that no save in out_dir has yet, above all others."""
    found = [NAME.fullmatch(f"{FOLDER}/{path.name}") for path in (out_dir / FOLDER).glob("*.pt")]
    return max((int(match[1]) for match in found if match), default=0) + 1


def remove_unused(out_dir: Path, *, before: int) -> None:
    """Remove the files of saves with a smaller number than `before` that no manifest in out_dir lists."""
    if not (out_dir / FOLDER).is_dir():
        return
    try:
        used = {name for path in out_dir.glob("*.pt") for name in listed(path)}
    except UserError:
        return  # of a damaged manifest, nobody knows what it needs
    for path in (out_dir / FOLDER).glob("*.pt"):
        match = NAME.fullmatch(f"{FOLDER}/{path.name}")
        if match and int(match[1]) < before and match[0] not in used:
            with contextlib.suppress(OSError):  # Windows removes no file that somebody reads
                path.unlink()


def listed(path: Path) -> list[str]:
    """The files that a checkpoint's manifest lists; none if it is one file. UserError if it is damaged."""
    content = read_archive(path, mmap=True)
    shards = content.get("shards") if isinstance(content, dict) else None
    files = shards.get("files") if isinstance(shards, dict) else None
    return [name for name in files if isinstance(name, str)] if isinstance(files, list) else []
