"""Files that are whole at every instant: written beside their place, fsynced, renamed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from llm.configurator import UserError


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when the block ends, and not at all if it raises.

    A reader finds the old bytes or the new ones, never a part, even after a power cut. UserError if the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
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
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Writes a whole file of these bytes."""
    with whole_file(path) as f:
        f.write(data)
