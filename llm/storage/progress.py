"""The state of a run that must survive a kill, beside the weights and the optimizers.

One dataclass: its defaults are where a new run starts, its fields are what a checkpoint holds, and its types are what a
checkpoint read from disk is checked against.
"""

from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from llm.configurator import NonNegativeFloat, NonNegativeInt, readings
from llm.settings import Bound

TOP_LEVEL = ("iter_num", "best_val_loss")  # keys of nanoGPT's checkpoints; the other fields stand under "loop"
Threads = Annotated[int, Bound("from 0 to 1,024", lambda number: 0 <= number <= 1024)]  # more would hardly start
OLD_NAMES = {  # of format 1
    "place": "position",
    "again": "replay_starts",
    "stale": "evals_without_gain",
    "ended": "stop_reason",
    "skipped": "skipped_updates",
    "before": "baseline",
}


@dataclass
class Progress:
    """Where a run is. The loop of train.py changes it in place."""

    iter_num: NonNegativeInt = 0  # updates made
    best_val_loss: float = 1e9  # nats; 1e9 = none measured yet
    evals_without_gain: NonNegativeInt = 0  # evaluations since best_val_loss improved
    position: list[NonNegativeInt] = field(default_factory=lambda: [0, 0])  # (epoch, window) of the next batch
    replay_starts: list[NonNegativeInt] = field(default_factory=list)  # windows to repeat, by their first token
    seconds: NonNegativeFloat = 0.0  # of training so far
    metrics_bytes: NonNegativeInt = 0  # length of metrics.jsonl
    scaler: dict[str, float] = field(default_factory=dict)  # float16's gradient scaler; empty without one
    skipped_updates: NonNegativeInt = 0  # by that scaler
    stop_reason: str = ""  # why training ended early; "" = it has not
    threads: Threads = 0  # of torch on CPUs: sums depend on their number; 0 = unknown
    text_sha256: str | None = None  # of the training text's shards
    n_written: NonNegativeInt | None = None  # blocks written in closed form, and further rounds; None = none
    base: dict[str, str] | None = None  # of fine-tuning: name, path and sha256 of the model that it started from
    lora_rank: NonNegativeInt = 0  # 0 = all weights are trained
    baseline: dict[str, float] | None = None  # of fine-tuning: recall and loss of that model before training

    def loop(self) -> dict[str, Any]:
        """The fields that a checkpoint holds under "loop"."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in TOP_LEVEL}

    @classmethod
    def from_checkpoint(cls, checkpoint: dict[str, Any]) -> "Progress":
        """The state in a checkpoint, of ours or nanoGPT's. ValueError names a field whose value is not of its type."""
        loop = {OLD_NAMES.get(name, name): value for name, value in checkpoint.get("loop", {}).items()}
        values = {name: loop[name] for name in get_type_hints(cls) if name in loop and name not in TOP_LEVEL}
        values["iter_num"] = checkpoint["iter_num"]
        loss = checkpoint.get("best_val_loss", 1e9)
        values["best_val_loss"] = loss.item() if hasattr(loss, "item") else loss  # nanoGPT stores a tensor
        for name, kind in get_type_hints(cls, include_extras=True).items():
            if name in values and not has_type(values[name], kind):
                raise ValueError(name)
        if values.get("base") is not None and not values["base"].keys() >= {"name", "path", "sha256"}:
            raise ValueError("base")
        return cls(**values)


def has_type(value: Any, kind: Any) -> bool:
    """Whether a value has a field's type: one that configurator.py knows, or a list or dict of such."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(has_type(value, part) for part in parts)
    if origin is list:
        return isinstance(value, list) and all(has_type(item, parts[0]) for item in value)
    if origin is dict:
        pairs = value.items() if isinstance(value, dict) else [(None, None)]
        return all(has_type(key, parts[0]) and has_type(item, parts[1]) for key, item in pairs)
    return any(type(found) in (type(value), float) for found in readings(value, kind, typed=False))
