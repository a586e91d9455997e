"""What a checkpoint looks like on disk. The only code that knows.

A checkpoint is one dict of plain data in torch's zip format, with nanoGPT's keys, so that ours load in nanoGPT and
nanoGPT's load here:

    model           the state dict, nanoGPT's names        model_args     GPTConfig's fields
    optimizer       AdamW's state dict                     iter_num       updates made
    best_val_loss   1e9 = none yet                         config         every setting of the run

and ours: format, gelu (GPTConfig's), optimizers (the state dicts of others than AdamW), tokenizer (its description),
corpus_ids (the ids that occur in the corpus; None = unknown), loop (where training goes on: see build.py; the text's
sha256; the model that fine-tuning set out from), checksums (one per part, so that sampling reads and checks the weights
alone). Where loop has a lora_rank, `model` holds what was learned on top of the base alone (lora.py).
Files are read by torch's restricted loader: no code in them is ever run.
"""

import copy
import dataclasses
import hashlib
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from llm.configurator import UserError
from llm.files import atomic_file, remove_temporary_files
from llm.model import GPT
from llm.network.lora import adapters
from llm.runtime import notice
from llm.storage.archive import read_archive

FORMAT = 1
PARTS = ("model", "optimizer", "optimizers")  # each with a checksum of its own; "rest" is everything else
OURS = {"format", "gelu", "optimizers", "tokenizer", "corpus_ids", "loop", "checksums"}  # keys that nanoGPT lacks


def is_count(x) -> bool:
    """Whether x is a whole number from 0 on."""
    return type(x) is int and 0 <= x < 2**63


def is_number(x) -> bool:
    """Whether x is a finite number."""
    return type(x) in (int, float) and abs(x) < math.inf


# what the parts must be, for those who made a file may have had anything in mind
KINDS = {
    "model": lambda x: isinstance(x, dict) and all(isinstance(k, str) and torch.is_tensor(x[k]) for k in x),
    "model_args": lambda x: isinstance(x, dict) and all(isinstance(k, str) and is_number(float(x[k])) for k in x),
    "iter_num": is_count,
    "best_val_loss": lambda x: is_number(float(x)),
    "config": lambda x: isinstance(x, dict),
    "optimizer": lambda x: isinstance(x, dict),
    "optimizers": lambda x: isinstance(x, list) and all(isinstance(state, dict) for state in x),
    "tokenizer": lambda x: isinstance(x, dict),
    "corpus_ids": lambda x: x is None or (isinstance(x, list) and all(map(is_count, x)) and sorted(set(x)) == x),
    "loop": lambda x: isinstance(x, dict) and all(holds(x[name]) for name, holds in LOOP.items() if name in x),
}
LOOP = {
    "place": lambda x: isinstance(x, list) and all(map(is_count, x)),
    "again": lambda x: isinstance(x, list) and all(map(is_count, x)),
    "seconds": is_number,
    "metrics_bytes": is_count,
    "scaler": lambda x: isinstance(x, dict),
    "stale": is_count,
    "ended": lambda x: isinstance(x, str),
    "text_sha256": lambda x: x is None or isinstance(x, str),
    "skipped": is_count,
    "base": lambda x: x is None or all(isinstance(x[k], str) for k in ("name", "path", "sha256")),
    "lora_rank": is_count,
    "before": lambda x: x is None or (isinstance(x, dict) and all(map(is_number, x.values()))),
}


def digest(part) -> str:
    """sha256 of nested plain data, tensors by their dtype, shape and bytes."""
    sha = hashlib.sha256()

    def feed(x):
        if isinstance(x, torch.Tensor):
            sha.update(f"{x.dtype}{tuple(x.shape)}".encode())
            sha.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        elif isinstance(x, dict):
            sha.update(b"{%d" % len(x))
            for key, value in x.items():
                feed(key)
                feed(value)
        elif isinstance(x, list | tuple):
            sha.update(b"[%d" % len(x))
            for value in x:
                feed(value)
        else:
            sha.update(repr(x).encode() + b"\0")

    feed(part)
    return sha.hexdigest()


def checksums(checkpoint: dict) -> dict[str, str]:
    """One sha256 per part of a checkpoint, and one of the rest."""
    rest = {key: value for key, value in checkpoint.items() if key not in (*PARTS, "checksums")}
    return {part: digest(checkpoint[part]) for part in PARTS if part in checkpoint} | {"rest": digest(rest)}


def size_of(part) -> int:
    """About how many bytes nested plain data takes in a file: its tensors', each once."""
    found, todo = {}, [part]
    while todo:
        x = todo.pop()
        if isinstance(x, torch.Tensor):
            found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        elif isinstance(x, dict | list | tuple):
            todo += x.values() if isinstance(x, dict) else x
    return sum(found.values())


def pack(
    *,
    model: GPT,
    optimizers: list[torch.optim.Optimizer],
    iter_num: int,
    best_val_loss: float,
    config: dict,
    tokenizer_description: dict,
    corpus_ids: list[int] | None,
    loop: dict,
) -> dict:
    """What a checkpoint holds; the tensors are the model's and the optimizers' own."""
    model_args = dataclasses.asdict(model.config)
    return {
        "gelu": model_args.pop("gelu"),  # nanoGPT takes no other model_args than its own
        "model": adapters(model.state_dict()) or model.state_dict(),
        "optimizer": optimizers[0].state_dict(),  # AdamW's, which is nanoGPT's
        "optimizers": [o.state_dict() for o in optimizers[1:]],
        "model_args": model_args,
        "iter_num": iter_num,
        "best_val_loss": best_val_loss,
        "config": config,
        "format": FORMAT,
        "tokenizer": tokenizer_description,
        "corpus_ids": corpus_ids,
        "loop": loop,
    }


def save(path: Path, **parts) -> None:
    """Writes a checkpoint of these parts (see `pack`); `path` is a whole one at every instant. UserError if the disk
    refuses."""
    write(path, pack(**parts))


def write(path: Path, content: dict) -> None:
    """Writes what `pack` made, with its checksums; else as `save`."""
    checkpoint = content | {"checksums": checksums(content)}
    try:
        with atomic_file(path, needed=size_of(checkpoint)) as f:
            torch.save(checkpoint, f)
    except RuntimeError as e:  # what torch's writer makes of an error of the file's
        cause = e.__context__ if isinstance(e.__context__, OSError) else None
        raise UserError(f"cannot write {path}: {cause.strerror if cause else str(e).splitlines()[0]}") from None


class Saver:
    """Writes checkpoints, and keeps those that the disk refused where they cannot be made again."""

    TRIES, WAIT = 6, 10  # how often, and after how many seconds, the end is saved again

    def __init__(self, before: Callable[[], None] | None):
        """before: called before each; a UserError of its is one of the checkpoint's."""
        self.before, self.refused = before, {}

    def write(self, path: Path, content: dict, *, keep: bool) -> str:
        """What went wrong; empty if it is written. keep: then keep it (a copy) for `again`."""
        try:
            self.before()
            write(path, content)
        except UserError as e:
            if keep:
                self.refused[path] = copy.deepcopy(content)
            return str(e)
        self.refused.pop(path, None)
        return ""

    def again(self) -> str:
        """Writes what was kept; returns what went wrong."""
        problems = [self.write(path, content, keep=False) for path, content in list(self.refused.items())]
        return next(filter(None, problems), "")

    def insist(self, save: Callable[[], str], problem: str) -> str:
        """If there is a problem at the end of a run, waits for a minute for somebody to make room; returns the last."""
        for _ in range(self.TRIES):
            if problem:
                notice(f"{problem}; make room, it is tried again in {self.WAIT} seconds")
                time.sleep(self.WAIT)
                problem = self.again() or save()
        return problem


def find(out_dir: str, checkpoint_name: str) -> Path:
    """The path of a checkpoint that exists. UserError, with those that do, where it does not."""
    folder, path = Path(out_dir), Path(out_dir) / checkpoint_name
    if path.is_file():
        return path
    if not folder.is_dir():
        others = sorted({str(p.parent) for p in Path().glob("*/*.pt")})
        have = f"here are: {', '.join(others)}" if others else "none is in this folder: train first"
        raise UserError(f"out_dir={out_dir} does not exist ({have})")
    names = sorted(p.name for p in folder.glob("*.pt"))
    have = f"it has: {', '.join(names)}" if names else "no checkpoint was saved there yet: train first"
    raise UserError(f"{path} does not exist in out_dir={out_dir} ({have})")


def latest(out_dir: str) -> Path:
    """The checkpoint that a run in out_dir goes on from: ckpt_last.pt where the run keeps one, else ckpt.pt."""
    return find(out_dir, "ckpt_last.pt" if (Path(out_dir) / "ckpt_last.pt").is_file() else "ckpt.pt")


def resumable(out_dir: Path) -> bool:
    """Whether there is a run in out_dir to go on with."""
    return any((out_dir / name).is_file() for name in ("ckpt.pt", "ckpt_last.pt"))


def make_out_dir(out_dir: Path) -> None:
    """Creates out_dir. UserError where it cannot be written to."""
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        (out_dir / ".lock").touch()
    except OSError as e:
        raise UserError(f"cannot write to out_dir={out_dir}: {e.strerror}; type another --out_dir") from None


def clear_out_dir(out_dir: Path, *, resumed: bool) -> None:
    """Removes what a killed process left half-written. A new run puts the checkpoint of an earlier one aside, so that
    it is neither lost nor resumed by mistake."""
    remove_temporary_files(out_dir, "ckpt*.pt")
    if not resumed and (out_dir / "ckpt.pt").exists():
        os.replace(out_dir / "ckpt.pt", out_dir / "ckpt_previous.pt")
        (out_dir / "ckpt_last.pt").unlink(missing_ok=True)
        notice(f"{out_dir} held an earlier run: its checkpoint is now ckpt_previous.pt")


def read(path: Path, parts: tuple[str, ...], *, mmap: bool = True) -> dict:
    """The checkpoint at `path`, its named parts checked against their checksums.

    mmap: map the file instead of reading it, so that parts that are not used are never read; not for tensors that will
    be written to, nor while the file may be replaced (Windows refuses that). UserError for a file that is cut short,
    damaged, of a newer format or no checkpoint.
    """
    checkpoint = read_archive(path, mmap=mmap)
    damaged = f"{path} is damaged or no checkpoint of llm or nanoGPT"
    if not isinstance(checkpoint, dict) or not {"model", "model_args", "iter_num", "config"} <= checkpoint.keys():
        raise UserError(f"{damaged} (its keys are not a checkpoint's)")
    if ours := OURS & checkpoint.keys():  # nanoGPT's have none of them
        version = checkpoint.get("format")
        if isinstance(version, int) and version > FORMAT:
            raise UserError(f"{path} has format {version}, this llm reads up to {FORMAT}: update llm")
        if ours != OURS or version != FORMAT:
            raise UserError(f"{damaged} (its keys are not a checkpoint's)")
        rest = {key: value for key, value in checkpoint.items() if key not in (*PARTS, "checksums")}
        for part in (*parts, "rest"):
            actual = digest(rest if part == "rest" else checkpoint.get(part))
            if not isinstance(checkpoint["checksums"], dict) or actual != checkpoint["checksums"].get(part):
                raise UserError(f"{path} is damaged: the checksum of its part {part!r} is wrong")
    for name, holds in KINDS.items():
        try:
            as_expected = name not in checkpoint or holds(checkpoint[name])
        except (TypeError, ValueError, KeyError, OverflowError):  # what float() raises
            as_expected = False
        if not as_expected:
            raise UserError(f"{damaged} (its part {name!r} is not what is expected)")
    checkpoint["model"] = {
        name.removeprefix("_orig_mod."): tensor  # what torch.compile put before nanoGPT's names
        for name, tensor in checkpoint["model"].items()
        if not name.endswith((".attn.bias", ".attn.masked_bias"))  # old nanoGPT's causal mask, no weight
    }
    return checkpoint


def restore_optimizers(optimizers: list[torch.optim.Optimizer], checkpoint: dict, path: Path) -> None:
    """Loads what the optimizers of a checkpoint from `read` had gathered; rates and the like stay as they are here.
    UserError if they are other optimizers'."""
    states = [checkpoint.get("optimizer"), *checkpoint.get("optimizers", [])]
    try:
        for optimizer, state in zip(optimizers, states, strict=True):
            own = optimizer.state_dict()
            groups = [len(group["params"]) for group in own["param_groups"]]
            if groups != [len(group["params"]) for group in state["param_groups"]]:
                raise ValueError("other groups of parameters")
            optimizer.load_state_dict({"state": state["state"], "param_groups": own["param_groups"]})
            for p, gathered in optimizer.state.items():
                if any(torch.is_tensor(t) and t.dim() and t.shape != p.shape for t in gathered.values()):
                    raise ValueError(f"a state of other shapes than {tuple(p.shape)}")
    except (KeyError, ValueError, TypeError, AttributeError) as e:
        raise UserError(f"the optimizer's state in {path} does not fit this model and optimizer: {e}") from None
