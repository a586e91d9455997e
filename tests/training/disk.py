"""A disk between a run and its folder: it counts operations, fails on demand, and knows what a power cut leaves."""

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path

Image = dict[str, bytes]  # path in the folder -> content


class File(io.FileIO):
    """A file of the folder. A write that fails has written half of its bytes."""

    def __init__(self, disk: "Disk", path, mode: str):
        disk.count("open", path)
        super().__init__(path, mode)
        self.disk = disk

    def write(self, data) -> int:
        try:
            self.disk.count("write", self.name)
        except OSError:
            super().write(memoryview(data)[: len(data) // 2])
            raise
        return super().write(data)

    def truncate(self, size=None) -> int:
        self.disk.count("truncate", self.name)
        return super().truncate(size)


class Disk:
    """Intercepts the calls that change one folder, once `fail` or `watch` says what for.

    Kept for power cuts: the content of each file at its latest fsync, and the names in each folder at its latest fsync.
    """

    def __init__(self, folder: Path, monkeypatch):
        self.folder, self.operations = folder.resolve(), []
        self.first_error: int | None = None
        self.lasting = False
        self.watcher: Callable[[], None] | None = None
        self.synced: dict[int, bytes] = {}  # inode -> content
        self.names: dict[str, dict[str, int | None]] = {}  # folder -> names -> inodes, None of a folder
        self.kept = []  # descriptors of all files that were synced, so that no inode gets another meaning
        self.open = builtins.open
        monkeypatch.setattr(builtins, "open", self._open)
        for name in ("fsync", "replace", "unlink", "mkdir", "open"):
            monkeypatch.setattr(os, name, self._counted(name, getattr(os, name)))

    def fail(self, number: int | None, *, lasting: bool = False) -> None:
        """Let operation `number`, from 0, fail; lasting: and all that follow. None = no longer."""
        self.operations, self.first_error, self.lasting = [], number, lasting

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call watcher() before each operation. What is in the folder now survives a power cut."""
        self.operations, self.watcher = [], watcher
        for folder, _, files in os.walk(self.folder):
            for name in files:
                with self.open(Path(folder, name), "rb") as f:
                    self._sync_file(f.fileno())
            self._sync_names(folder)

    def close(self) -> None:
        for descriptor in self.kept:
            os.close(descriptor)

    # ------------------------------------------------------------------------------------------------- interception
    def inside(self, path) -> bool:
        path = os.path.abspath(os.fspath(path))
        return path == str(self.folder) or path.startswith(f"{self.folder}/")

    def count(self, name: str, path) -> None:
        """Note an operation. OSError if it is to fail."""
        if self.watcher:
            self.watcher()
        number = len(self.operations)
        self.operations.append(f"{name} {os.path.relpath(path, self.folder)}")
        if self.first_error is not None and (number == self.first_error or self.lasting and number > self.first_error):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _open(self, path, mode="r", buffering=-1, **options):
        if isinstance(path, int) or not (set(mode) & set("wa+") and self.inside(path)):
            return self.open(path, mode, buffering, **options)
        file = File(self, path, mode)
        return file if buffering == 0 else io.BufferedWriter(file)

    def _counted(self, name: str, function: Callable) -> Callable:
        def counted(target, *arguments, **options):
            path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else target
            if self.inside(path):
                self.count(name, path)
            result = function(target, *arguments, **options)
            if name == "fsync" and self.watcher and self.inside(path):
                self._sync_names(path) if os.path.isdir(path) else self._sync_file(target)
            return result

        return counted

    # --------------------------------------------------------------------------------------------------- power cuts
    def _sync_file(self, descriptor: int) -> None:
        self.kept.append(os.dup(descriptor))
        with self.open(f"/proc/self/fd/{descriptor}", "rb") as f:
            self.synced[os.fstat(descriptor).st_ino] = f.read()

    def _sync_names(self, folder: str) -> None:
        self.names[str(folder)] = {
            entry.name: None if entry.is_dir() else entry.inode() for entry in os.scandir(folder)
        }

    def current(self) -> dict[str, tuple[int, bytes]]:
        """Path -> (inode, content) of each file that is there now."""
        found = {}
        for path in self.folder.rglob("*"):
            if path.is_file():
                with self.open(path, "rb") as f:
                    found[str(path.relative_to(self.folder))] = os.fstat(f.fileno()).st_ino, f.read()
        return found

    def durable(self, folder: Path | None = None) -> Image:
        """What is left if all is lost that was not synced: names as well as contents."""
        folder, found = folder or self.folder, {}
        for name, inode in self.names.get(str(folder), {}).items():
            if inode is None:
                found |= self.durable(folder / name)
            else:
                found[str((folder / name).relative_to(self.folder))] = self.synced.get(inode, b"")
        return found

    def images(self) -> dict[str, Image]:
        """What may be in the folder if the program is killed now, or the power fails."""
        current = self.current()
        killed = {path: content for path, (_, content) in current.items()}
        emptied, torn = {}, {}  # the names are on the disk; of the contents what was synced, and half of the rest
        for path, (inode, content) in current.items():
            emptied[path] = torn[path] = synced = self.synced.get(inode, b"")
            if content.startswith(synced):
                torn[path] = content[: (len(synced) + len(content)) // 2]
        return {"killed": killed, "power cut": self.durable(), "emptied": emptied, "torn": torn}


def write_image(folder: Path, image: Image) -> None:
    """Make a folder with these files."""
    for path, content in image.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
