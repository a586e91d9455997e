"""What a checkpoint looks like on disk. The only code that knows.

A checkpoint is one dict of plain data in torch's zip format, with nanoGPT's keys, so that ours load in nanoGPT and
nanoGPT's load here:

    model           the state dict, nanoGPT's names        model_args     GPTConfig's fields
    optimizer       AdamW's state dict                     iter_num       updates made
    best_val_loss   1e9 = none yet                         config         every setting of the run

and ours: format, gelu (GPTConfig's), optimizers (the state dicts of optimizers other than AdamW), tokenizer (its
description), corpus_ids (the ids that occur in the corpus; None = unknown), loop (the other fields of Progress) and
checksums (one per part, so that sampling reads and checks only the weights). If loop has a lora_rank, `model` holds
only what LoRA learned on top of the base model (network/lora.py). What several processes saved together (train.py
--shard) is a manifest: the same dict without tensors, and under `shards` the files that hold them (shards.py).
Files are read by torch's restricted loader: no code in them is ever run.
"""

import dataclasses
import math
from pathlib import Path

import torch

from llm.configurator import UserError
from llm.files import atomic_file, open_regular, sync_folder
from llm.model import GPT
from llm.network.lora import adapters
from llm.network.sharding import cut_like
from llm.storage import shards
from llm.storage.archive import read_archive
from llm.storage.plain_data import digest, size_of
from llm.storage.progress import Progress

FORMAT = 2  # of one file; 1, until 2026-11-25: other names in loop
SHARDED_FORMAT = 3  # of a manifest (shards.py)
PARTS = ("model", "optimizer", "optimizers")  # each has a checksum of its own; "rest" is everything else
OURS = {"format", "gelu", "optimizers", "tokenizer", "corpus_ids", "loop", "checksums"}  # keys that nanoGPT lacks
NANOGPTS = {"model", "model_args", "iter_num", "config"}  # keys that both have
BUFFERS = ({"step", "exp_avg", "exp_avg_sq"}, {"momentum_buffer"})  # what AdamW and Muon keep of each weight


def is_number(x) -> bool:
    return type(x) in (int, float) and abs(x) < math.inf


def is_id_list(x) -> bool:
    """Whether x is a list of token ids, ascending, none twice."""
    return isinstance(x, list) and all(type(i) is int and 0 <= i < 2**63 for i in x) and sorted(set(x)) == x


VALID = {  # what each part must be, whoever wrote the file; loop is checked by Progress
    "model": lambda x: isinstance(x, dict) and all(isinstance(k, str) and torch.is_tensor(x[k]) for k in x),
    "model_args": lambda x: isinstance(x, dict) and all(isinstance(k, str) and is_number(float(x[k])) for k in x),
    "config": lambda x: isinstance(x, dict) and not any(map(torch.is_tensor, x.values())),
    "optimizer": lambda x: isinstance(x, dict),
    "optimizers": lambda x: isinstance(x, list) and all(isinstance(state, dict) for state in x),
    "tokenizer": lambda x: isinstance(x, dict),
    "corpus_ids": lambda x: x is None or is_id_list(x),
    "loop": lambda x: isinstance(x, dict) and all(isinstance(k, str) for k in x),
}


def rest_of(checkpoint: dict) -> dict:
    """The parts of a checkpoint that share one checksum."""
    return {key: value for key, value in checkpoint.items() if key not in (*PARTS, "checksums")}


def checksums(checkpoint: dict) -> dict[str, str]:
    """One sha256 for each of PARTS, and one for the rest."""
    parts = {part: digest(checkpoint[part]) for part in PARTS if part in checkpoint}
    return parts | {"rest": digest(rest_of(checkpoint))}


def pack(
    *,
    model: GPT,
    optimizers: list[torch.optim.Optimizer],
    progress: Progress,
    config: dict,
    tokenizer_description: dict,
    corpus_ids: list[int] | None,
) -> dict:
    """The content of a checkpoint. Its tensors are those of the model and the optimizers themselves, not copies.

    optimizers: AdamW first; empty before the first update of a text that is written in closed form.
    """
    model_args = dataclasses.asdict(model.config)
    return {
        "gelu": model_args.pop("gelu"),  # nanoGPT accepts no other model_args than its own
        "model": adapters(model.state_dict()) or model.state_dict(),
        "optimizer": optimizers[0].state_dict() if optimizers else {},  # AdamW's, as in nanoGPT
        "optimizers": [o.state_dict() for o in optimizers[1:]],
        "model_args": model_args,
        "iter_num": progress.iter_num,
        "best_val_loss": progress.best_val_loss,
        "config": config,
        "format": FORMAT,
        "tokenizer": tokenizer_description,
        "corpus_ids": corpus_ids,
        "loop": progress.loop(),
    }


def write(path: Path, content: dict) -> dict[str, str]:
    """Write what `pack` returned, with its checksums, which are returned. UserError if it fails.

    `path` is a whole file at every instant.
    """
    checkpoint = content | {"checksums": checksums(content)}
    try:
        with atomic_file(path, needed=size_of(checkpoint)) as f:
            torch.save(checkpoint, f)
    except RuntimeError as e:  # torch's writer hides the file's own error in one of these
        cause = e.__context__ if isinstance(e.__context__, OSError) else None
        raise UserError(f"cannot write {path}: {cause.strerror if cause else str(e).splitlines()[0]}") from None
    return checkpoint["checksums"]


def find(out_dir: str, checkpoint_name: str) -> Path:
    """The path of a checkpoint that exists. UserError, with a list of those that do, if it does not."""
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
    """The checkpoint that a run in out_dir resumes from: ckpt_last.pt if the run keeps one, else ckpt.pt."""
    return find(out_dir, "ckpt_last.pt" if (Path(out_dir) / "ckpt_last.pt").is_file() else "ckpt.pt")


def resumable(out_dir: Path) -> bool:
    """Whether out_dir holds a run that can be resumed."""
    return any((out_dir / name).is_file() for name in ("ckpt.pt", "ckpt_last.pt"))


def make_out_dir(out_dir: Path) -> None:
    """Create out_dir. UserError if it cannot be written to."""
    try:
        missing = [folder for folder in (out_dir, *out_dir.parents) if not folder.exists()]
        out_dir.mkdir(parents=True, exist_ok=True)
        open_regular(out_dir / ".lock", "ab").close()
        for folder in missing:
            sync_folder(folder.parent)
    except OSError as e:
        raise UserError(f"cannot write to out_dir={out_dir}: {e.strerror}; type another --out_dir") from None


def read(path: Path, parts: tuple[str, ...], *, mmap: bool = True) -> dict:
    """The checkpoint at `path` and, under "progress", its Progress; `parts` are checked against their checksums.

    mmap: map the file instead of reading it, so that parts that are not used are never read. Not for tensors that will
    be written to, nor while the file may be replaced. UserError for a file that is cut short, damaged, of a newer
    format, or no checkpoint.
    """
    checkpoint = read_archive(path, mmap=mmap)
    damaged = f"{path} is damaged or no checkpoint of llm or nanoGPT"
    if not isinstance(checkpoint, dict) or not checkpoint.keys() >= NANOGPTS:
        raise UserError(f"{damaged} (its keys are not a checkpoint's)")
    if ours := OURS & checkpoint.keys():  # nanoGPT's have none of them
        check_format(checkpoint, path)
        if ours != OURS:
            raise UserError(f"{damaged} (its keys are not a checkpoint's)")
        is_manifest = "shards" in checkpoint
        check_checksums(checkpoint, () if is_manifest else parts, path)
        if is_manifest:
            checkpoint |= shards.read(checkpoint["shards"], path, parts)
    for name, is_valid in VALID.items():
        try:
            valid = name not in checkpoint or is_valid(checkpoint[name])
        except (TypeError, ValueError, KeyError, OverflowError):  # what float() raises
            valid = False
        if not valid:
            raise UserError(f"{damaged} (its part {name!r} is not what is expected)")
    try:
        checkpoint["progress"] = Progress.from_checkpoint(checkpoint)
    except (TypeError, ValueError, OverflowError, RuntimeError) as e:
        raise UserError(f"{damaged} (its state of training is not what is expected: {str(e)[:50]})") from None
    checkpoint["model"] = {
        name.removeprefix("_orig_mod."): tensor  # torch.compile's prefix in nanoGPT's checkpoints
        for name, tensor in checkpoint["model"].items()
        if not name.endswith((".attn.bias", ".attn.masked_bias"))  # causal masks of old nanoGPTs, no weights
    }
    return checkpoint


def read_one(path: Path) -> dict:
    """All of a checkpoint that several processes have written, as `pack` returns it. UserError if it is one file."""
    content = read(path, PARTS)
    if "shards" not in content:
        raise UserError(f"{path} is one file already: copy it")
    left_out = ("shards", "checksums", "progress")
    return {k: shards.complete_all(v) for k, v in content.items() if k not in left_out} | {"format": FORMAT}


def check_format(checkpoint: dict, path: Path) -> None:
    """UserError unless this version can read the checkpoint's format."""
    version = checkpoint.get("format")
    if type(version) is not int or version < 1:
        raise UserError(f"{path} is damaged or no checkpoint of llm or nanoGPT (its keys are not a checkpoint's)")
    if version > SHARDED_FORMAT:
        raise UserError(f"{path} has format {version}, this llm reads up to {SHARDED_FORMAT}: update llm")


def check_checksums(checkpoint: dict, parts: tuple[str, ...], path: Path) -> None:
    """UserError unless the named parts, and the rest, have the checksums that the checkpoint states."""
    expected = checkpoint["checksums"]
    for part in (*parts, "rest"):
        actual = digest(rest_of(checkpoint) if part == "rest" else checkpoint.get(part))
        if not isinstance(expected, dict) or actual != expected.get(part):
            raise UserError(f"{path} is damaged: the checksum of its part {part!r} is wrong")


def restore_optimizers(optimizers: list[torch.optim.Optimizer], checkpoint: dict, path: Path) -> None:
    """Load the optimizers' states of a checkpoint from `read`; learning rates and the like stay as they are here.

    UserError if they belong to other optimizers.
    """
    states = [checkpoint.get("optimizer"), *checkpoint.get("optimizers", [])]
    try:
        for optimizer, state, names in zip(optimizers, states, BUFFERS[: len(optimizers)], strict=True):
            own = optimizer.state_dict()
            groups = [len(group["params"]) for group in own["param_groups"]]
            if groups != [len(group["params"]) for group in state["param_groups"]]:
                raise ValueError("other groups of parameters")
            weights = [p for group in optimizer.param_groups for p in group["params"]]
            buffers = {n: own_buffers(weights[n], buffers) for n, buffers in state["state"].items()}
            optimizer.load_state_dict({"state": buffers, "param_groups": own["param_groups"]})
            for p, buffers in optimizer.state.items():
                check_buffers(p, buffers, names)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as e:
        reason = " ".join(str(e).split())[:200]
        raise UserError(f"the optimizer's state in {path} does not fit this model and optimizer: {reason}") from None


def own_buffers(p: torch.nn.Parameter, buffers: dict) -> dict:
    """What an optimizer keeps of a weight as a checkpoint has it, complete; or this rank's rows if `p` is sharded."""
    return {name: cut_like(shards.complete(x), p) for name, x in buffers.items()}


def check_buffers(p: torch.nn.Parameter, buffers: dict, names: set[str]) -> None:
    """ValueError unless an optimizer can go on with these buffers of a weight."""
    if not torch.is_tensor(p) or buffers.keys() != names:
        raise ValueError("a state of another kind")
    for name, buffer in buffers.items():
        if buffer.shape != (() if name == "step" else p.shape):
            raise ValueError(f"a state of other shapes than {tuple(p.shape)}")


def restore_scaler(scaler: torch.amp.GradScaler, state: dict[str, float], path: Path) -> None:
    """Load the state of float16's gradient scaler. UserError if it is none."""
    try:
        scaler.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise UserError(f"the state of float16's gradient scaler in {path} is damaged") from None
