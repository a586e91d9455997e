"""Files that are whole at every instant, and folders that one process at a time writes to."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from llm.configurator import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt


@contextlib.contextmanager
def atomic_file(path: Path, needed: int = 0) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when the block ends, and not at all if it raises.

    A reader finds the old bytes or the new ones, never a part, even after a power cut. needed: bytes that must be free
    on the disk before it begins. UserError if the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        free = shutil.disk_usage(path.parent).free if needed else 0
        if free < needed:
            raise OSError(0, f"it takes {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free on this disk")
        with open(temporary, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
        if os.name == "posix":  # the folder's entry must reach the disk, too; Windows has no such call
            folder = os.open(path.parent, os.O_RDONLY)
            with contextlib.suppress(OSError):  # some network file systems cannot; the file itself is in place
                os.fsync(folder)
            os.close(folder)
    except OSError as e:
        raise UserError(f"cannot write {path}: {e.strerror or e}") from None
    finally:  # also after Ctrl-C
        with contextlib.suppress(OSError):  # a disk that fails now has failed above
            temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a whole file of these bytes."""
    with atomic_file(path) as f:
        f.write(data)


def remove_temporary_files(folder: Path, name: str) -> None:
    """Removes what a process that was killed while writing left of files whose names match."""
    for part in folder.glob(f".{name}.*.tmp"):
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Holds the folder for this process until the block ends, or the process does, however it dies.

    UserError, naming the process that has it, if there is one.
    """
    with open(folder / ".lock", "a+b") as f:
        try:
            if fcntl:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                f.seek(2**30)  # beyond the text: on Windows, locked bytes cannot be read
                msvcrt.locking(f.fileno(), msvcrt.LK_NBLCK, 1)
        except (BlockingIOError, PermissionError):
            f.seek(0)
            who = f.read(100).decode(errors="replace")
            raise UserError(
                f"out_dir={folder} is being written to by another training (process {who or 'unknown'}); wait until it "
                "has ended, stop it, or type another --out_dir"
            ) from None
        except OSError:  # a file system without locks
            pass
        f.truncate(0)
        f.write(str(os.getpid()).encode())
        f.flush()
        yield
