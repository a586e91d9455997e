"""How the ranks of a sharded training save a checkpoint together, while training goes on (format: storage/shards.py).

A save first copies this rank's rows to the CPU's memory. A thread writes them; when all ranks have written theirs, rank
0 writes the manifest. The next save waits for the one before. If the disk refuses a rank, all ranks drop that save, and
say so when they save again.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from llm.configurator import UserError
from llm.runtime import Runtime
from llm.storage import checkpoint, shards
from llm.storage.checkpoint import PARTS
from llm.training import saving
from llm.training.saving import Saver

CLOSE_WAIT = 60  # seconds that a run which ends with an error waits for the save under way


class Save(threading.Thread):
    """One save under way; `result()` waits for it. Ends with the program, because a lost rank may never answer."""

    def __init__(self, write: Callable[[], str], names: tuple[str, ...], content: dict):
        super().__init__(daemon=True)
        self.write, self.names, self.content = write, names, content
        self.error, self.bug = "", None
        self.start()

    def run(self) -> None:
        try:
            self.error = self.write()
            self.write = None  # it holds the content, too
            self.content = self.content if self.error else None
        except Exception as e:  # of the code, or because another rank has died
            self.bug = e

    def result(self) -> str:
        """Why it failed, in words; "" if it did not."""
        self.join()
        if self.bug:
            raise self.bug
        return self.error


class ShardedSaver(Saver):
    """Writes the checkpoints of a sharded run. All ranks call the same methods at the same steps."""

    def __init__(self, out_dir: Path, pack: Callable[[], dict], *, rt: Runtime, **options):
        """rt, and the options of Saver but `enabled`."""
        super().__init__(out_dir, pack, enabled=True, **options)
        self.rank, self.world_size = rt.rank, rt.world_size
        self.group = dist.new_group(backend="gloo")  # for the thread alone: training uses the other one meanwhile
        self.number = rt.max(shards.next_save(out_dir))
        self.under_way: list[Save] = []

    def write(self, name: str) -> None:
        """Save the current state, and wait for it. UserError if the disk refuses."""
        self._begin((name,), self._copy())
        if error := self._wait():
            raise error

    def save_latest(self) -> None:
        """Begin to save the current state as the latest; `error` says whether the save before has failed."""
        self.error = self._wait()
        self._begin((self.latest,), self._copy())

    def save_evaluated(self, *, improved: bool) -> None:
        """Begin to save after an evaluation: the latest state and, if val_loss improved, the same as the best one."""
        self.error = self._wait()
        is_best = improved and self.keep_best
        if is_best:
            self.unwritten = None
        self._begin_unwritten()
        self._begin(("ckpt.pt", self.latest) if is_best else (self.latest,), self._copy())

    def finish(self) -> None:
        """Wait until the files are up to date, for a minute if somebody has to make room. UserError if they are not."""
        self.error = self._wait()
        if not self.error:  # after a signal: the latest state is saved, the best one may still be in memory
            self._begin_unwritten()
            self.error = self._wait()
        for _ in range(saving.TRIES):
            if not self.error:
                break
            self.notify(f"{self.error}; make room, it is tried again in {saving.WAIT} seconds")
            time.sleep(saving.WAIT)
            self._begin_unwritten()
            self._begin((self.latest,), self._copy())
            self.error = self._wait()
        if self.error:
            raise UserError(f"{self.error}; what was learned since the last checkpoint in {self.out_dir} is lost")

    def close(self) -> None:
        """Let a save under way end, if it can; for runs that end with an error."""
        for save in self.under_way:
            save.join(CLOSE_WAIT)

    def _copy(self) -> dict:
        """The current state, with this rank's rows, in memory of its own."""
        return shards.own_copy(self.pack())

    def _begin_unwritten(self) -> None:
        """Begin to save the best state that the disk refused, if there is one."""
        if self.unwritten is not None:
            self._begin(("ckpt.pt",), self.unwritten)
            self.unwritten = None

    def _begin(self, names: tuple[str, ...], content: dict) -> None:
        """Begin to write a copied state under these names, after what is being written."""
        number, before, obstacle = self.number, list(self.under_way), ""
        self.number += 1
        try:
            self.sync()
        except UserError as e:  # rank 0 alone has figures to write: the others learn it with their file
            obstacle = str(e)

        def write() -> str:
            for save in before:
                save.join()
            return self._write_files(dict.fromkeys(names), content, number, obstacle)

        self.under_way.append(Save(write, names, content))

    def _wait(self) -> UserError | None:
        """Wait for the saves under way; why one of them failed, None = none has. A refused best state is kept."""
        found, self.under_way = [(save, save.result()) for save in self.under_way], []
        for save, error in found:
            if error and self.keep_best and "ckpt.pt" in save.names:
                self.unwritten = save.content
        return next((UserError(error) for _, error in found if error), None)

    def _write_files(self, names, content: dict, number: int, obstacle: str) -> str:
        """In the thread: write this rank's file and, on rank 0, the manifests. The same answer on all ranks: see Save.

        obstacle: why this rank cannot save, "" = it can.
        """
        file, checksums = shards.file_name(number, self.rank, self.world_size), {}
        if not obstacle:
            try:
                if self.rank == 0:
                    shards.remove_unused(self.out_dir, before=number)
                shards.make_folder(self.out_dir)
                checksums = checkpoint.write(self.out_dir / file, {part: content[part] for part in PARTS})
            except UserError as e:
                obstacle = str(e)
        written = [None] * self.world_size
        dist.all_gather_object(written, (file, checksums, obstacle), group=self.group)
        files, checksums, obstacles = (list(values) for values in zip(*written, strict=True))
        answer = [next(filter(None, obstacles), "")]
        if self.rank == 0 and not answer[0]:
            try:
                manifest = content | {"model": {}, "optimizer": {}, "optimizers": []}
                manifest |= {"format": checkpoint.SHARDED_FORMAT, "shards": {"files": files, "checksums": checksums}}
                for name in names:
                    checkpoint.write(self.out_dir / name, manifest)
            except UserError as e:
                answer = [str(e)]
        dist.broadcast_object_list(answer, 0, group=self.group)
        return answer[0]
