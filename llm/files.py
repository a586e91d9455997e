"""Atomic file writes, and a lock that lets one process at a time write to a folder."""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from llm.configurator import UserError
from llm.runtime import notice

try:
    import fcntl
except ImportError:  # Windows: folders are not locked there
    fcntl = None


def open_regular(path: Path, mode: str = "rb", *, buffering: int = -1) -> IO:
    """open() for regular files alone, binary; to write, also no symbolic link. OSError for anything else.

    A pipe or device named in a stranger's folder would wait for ever, and a link there lead to any file of ours.
    """

    def opener(name: str, flags: int) -> int:
        writes = flags & (os.O_WRONLY | os.O_RDWR)
        with contextlib.suppress(FileNotFoundError):
            kind = os.stat(name, follow_symlinks=not writes).st_mode
            if stat.S_ISLNK(kind):
                raise OSError(errno.ELOOP, f"{os.path.basename(name)} is a symbolic link, which is not followed")
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # of a folder, open() says that it is one
                raise OSError(errno.EINVAL, f"{os.path.basename(name)} is not a regular file")
        flags |= getattr(os, "O_NONBLOCK", 0) | (getattr(os, "O_NOFOLLOW", 0) if writes else 0)  # if it changes now
        return os.open(name, flags, 0o666)

    return open(path, mode, buffering=buffering, opener=opener)


def read_regular(path: Path) -> bytes:
    """The content of a regular file; see open_regular."""
    with open_regular(path) as f:
        return f.read()


@contextlib.contextmanager
def atomic_file(path: Path, needed: int = 0) -> Iterator[BinaryIO]:
    """A temporary file to write to, which replaces `path` when the block ends without an error.

    Readers of `path` find either the old bytes or all new bytes, even after a power cut. needed: bytes that must be
    free on the disk before writing begins. UserError if the operating system refuses to write.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        free = shutil.disk_usage(path.parent).free if needed else 0
        if free < needed:
            raise OSError(0, f"it takes {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free on this disk")
        temporary.unlink(missing_ok=True)  # a stranger's folder may hold a link of this name
        with open(temporary, "xb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as e:
        raise UserError(f"cannot write {path}: {e.strerror or e}") from None
    finally:  # also after Ctrl-C
        with contextlib.suppress(OSError):  # a failing disk has already raised an error above
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Write the folder's entries to the disk, so that a renamed file keeps its new name after a power cut."""
    if os.name != "posix":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):  # some network file systems lack this call; the file itself is written
        os.fsync(descriptor)
    os.close(descriptor)


def write_atomic(path: Path, data: bytes) -> None:
    """Write the whole file at once; see atomic_file."""
    with atomic_file(path) as f:
        f.write(data)


def remove_temporary_files(folder: Path, pattern: str) -> None:
    """Remove the temporary files that killed processes left behind; pattern: of the final file's name."""
    for temporary in folder.glob(f".{pattern}.*.tmp"):
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked_folder(folder: Path, *, setting: str = "out_dir", work: str = "training") -> Iterator[None]:
    """Lock the folder; the system releases the lock even if the process is killed.

    setting, work: for errors, what named the folder and what it is locked for.

    Locked are the file .lock, which holds the number of this process, and the folder itself, in case somebody removes
    the file. UserError, with the number of the other process, if one of them is already locked.
    """
    with contextlib.ExitStack() as stack:
        try:
            f = stack.enter_context(open_regular(folder / ".lock", "a+b", buffering=0))
            if fcntl:
                descriptor = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                lock(f, descriptor, folder, setting=setting, work=work)
            f.truncate(0)
            f.write(str(os.getpid()).encode())
        except OSError as e:
            raise UserError(f"cannot write {folder / '.lock'}: {e.strerror}; type another --{setting}") from None
        yield


def lock(f: BinaryIO, descriptor: int, folder: Path, *, setting: str, work: str) -> None:
    """Lock a folder's open file .lock and its own descriptor, if the system can. UserError if another process has."""
    try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        flock_folder(descriptor)
    except (BlockingIOError, PermissionError):
        f.seek(0)
        process = f.read(100).decode(errors="replace")
        raise UserError(
            f"{setting}={folder} is being written to by another {work} (process {process or 'unknown'}); wait "
            f"until it has ended, stop it, or type another --{setting}"
        ) from None
    except OSError as e:
        notice(f"{folder} cannot be locked ({e.strerror}): start no second {work} there")


def flock_folder(descriptor: int) -> None:
    """Lock an open folder. Network file systems lock only what is open for writing, which no folder can be."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno != errno.EBADF:
            raise
