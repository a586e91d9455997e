"""Progress: a new run's defaults, the way into a checkpoint and back, and values that no run can have."""

import math
from dataclasses import fields

import pytest
import torch

from llm.configurator import NonNegativeFloat, NonNegativeInt
from llm.storage.progress import Progress, Threads

BASE = {"name": "gpt2", "path": "", "sha256": "0"}
# For each type that a field has. A field of a new type fails here until it is given its values: none is forgotten.
NON_DEFAULT = {
    NonNegativeInt: 3,
    Threads: 8,
    NonNegativeInt | None: 3,
    NonNegativeFloat: 1.5,
    float: 0.25,
    str: "target_recall reached",
    str | None: "0123",
    list[NonNegativeInt]: [2, 5],
    dict[str, float]: {"scale": 65536.0, "_growth_tracker": 7},
    dict[str, float] | None: {"recall": 0.5, "control_loss": 3},
    dict[str, str] | None: BASE,
}
WRONG = {
    NonNegativeInt: [None, "1", 1.0, 1.5, -1, True, [1], 2**63, math.nan],
    Threads: [None, -1, 1.5, True, 1025, 2**31, 2**62],  # as many as the system cannot start ended the process
    NonNegativeInt | None: ["1", 1.0, -1, True, [1], 2**63],
    NonNegativeFloat: [None, "1.5", -0.5, True, [1.5], math.nan, math.inf],
    float: [None, "nats", [1.5], {}, math.nan, math.inf],
    str: [None, 1, b"x", ["x"]],
    str | None: [1, b"x", ["x"], False],
    list[NonNegativeInt]: [None, 1, "12", (0, 1), {0: 1}, [0, -1], [0, 1.5], [0, "1"], [0, True], [0, [1]]],
    dict[str, float]: [None, 1, "x", [1.0], {1: 1.0}, {"x": "1"}, {"x": None}, {"x": True}, {"x": math.nan}],
    dict[str, float] | None: [1, "x", [1.0], {1: 1.0}, {"x": "1"}, {"x": None}, {"x": True}, {"x": math.nan}],
    dict[str, str] | None: [1, "x", ["x"], {}, BASE | {"sha256": 0}, BASE | {1: "x"}, {"name": "x", "sha256": "0"}],
}
NANOGPTS = {"iter_num", "best_val_loss"}  # fields that stand at a checkpoint's top level, as in nanoGPT's


def checkpoint_with(**values) -> dict:
    """The parts of a checkpoint that Progress reads, of a new run but for these fields."""
    fresh = Progress()
    top_level = {"iter_num": fresh.iter_num, "best_val_loss": fresh.best_val_loss}
    top_level |= {name: values.pop(name) for name in NANOGPTS & values.keys()}
    return top_level | {"loop": fresh.loop() | values}


def test_a_new_run_starts_at_the_beginning():
    fresh = Progress()
    assert (fresh.iter_num, fresh.best_val_loss, fresh.position, fresh.replay_starts) == (0, 1e9, [0, 0], [])
    assert (fresh.stop_reason, fresh.seconds, fresh.base, fresh.lora_rank) == ("", 0.0, None, 0)


def test_two_new_runs_share_no_list():
    one, other = Progress(), Progress()
    one.position[0] = 5
    one.replay_starts.append(7)
    one.scaler["scale"] = 2.0
    assert other == Progress()


def test_every_field_comes_back_from_a_checkpoint():
    progress = Progress(**{f.name: NON_DEFAULT[f.type] for f in fields(Progress)})
    assert all(getattr(progress, f.name) != getattr(Progress(), f.name) for f in fields(Progress))
    loop = progress.loop()
    assert loop.keys() == {f.name for f in fields(Progress)} - NANOGPTS
    top_level = {"iter_num": progress.iter_num, "best_val_loss": progress.best_val_loss}
    assert Progress.from_checkpoint(top_level | {"loop": loop}) == progress


@pytest.mark.parametrize("name, value", [(f.name, value) for f in fields(Progress) for value in WRONG[f.type]])
def test_a_value_of_another_type_is_refused_and_the_field_named(name, value):
    # float() converts nanoGPT's tensor of best_val_loss, and its errors do not name the field
    with pytest.raises(ValueError, match=f"^{name}$"):
        Progress.from_checkpoint(checkpoint_with(**{name: value}))


def test_the_names_of_format_1_are_read():
    """Commit b3bb275 wrote these keys, and neither threads nor a field added since."""
    loop = {
        "place": [3, 4],
        "again": [128, 512],
        "seconds": 61.5,
        "metrics_bytes": 1000,
        "scaler": {},
        "stale": 2,
        "ended": "patience",
        "skipped": 5,
        "text_sha256": "0123",
        "base": BASE,
        "lora_rank": 8,
        "before": {"recall": 0.5, "control_loss": 3.0},
    }
    assert Progress.from_checkpoint({"iter_num": 9, "best_val_loss": 2.5, "loop": loop}) == Progress(
        iter_num=9,
        best_val_loss=2.5,
        evals_without_gain=2,
        position=[3, 4],
        replay_starts=[128, 512],
        seconds=61.5,
        metrics_bytes=1000,
        skipped_updates=5,
        stop_reason="patience",
        text_sha256="0123",
        base=BASE,
        lora_rank=8,
        baseline={"recall": 0.5, "control_loss": 3.0},
    )


def test_a_wrong_value_under_a_name_of_format_1_is_refused_by_its_new_name():
    with pytest.raises(ValueError, match="^evals_without_gain$"):
        Progress.from_checkpoint({"iter_num": 9, "best_val_loss": 2.5, "loop": {"stale": "many"}})


def test_a_checkpoint_of_nanogpt_has_no_loop_and_a_tensor_for_its_loss():
    progress = Progress.from_checkpoint({"iter_num": 7, "best_val_loss": torch.tensor(1.5)})
    assert progress == Progress(iter_num=7, best_val_loss=1.5) and type(progress.best_val_loss) is float


def test_a_checkpoint_without_a_loss_has_none_measured():
    assert Progress.from_checkpoint({"iter_num": 7}) == Progress(iter_num=7)


def test_unknown_names_in_loop_are_ignored():
    assert Progress.from_checkpoint(checkpoint_with(of_a_later_version=[1])) == Progress()
