"""The whole measurement: windows, controls, coverage, a free generation; all files, and the lines to print.

Order: the windows of the text first, because windows.jsonl is of use while the rest is still running.
"""

import dataclasses
import importlib.metadata
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from llm.configurator import UserError
from llm.files import write_atomic
from llm.measuring import measures, report
from llm.measuring.drawing import draw
from llm.measuring.models import Model, check_context
from llm.measuring.near_verbatim import measure_generation
from llm.measuring.sections import section_figures
from llm.measuring.state import measure
from llm.measuring.texts import Text, Windows, exact_windows, offset_windows, token_windows
from llm.runtime import Runtime, notice

CHARACTERS = 10  # between two windows of extraction coverage (Cooper et al. 2025)
RECITED = 0.1  # share of the windows of a control from which on the model must have learned it: guessing has none
PACKAGES = ("llm-by-heart", "torch", "numpy", "transformers", "tokenizers")


@dataclass(frozen=True)
class Plan:
    """What is measured, and how."""

    prefix: int  # tokens
    suffix: int  # tokens
    stride: int  # tokens
    coverage: str  # windows, offsets, exact or both: see texts.py
    generate: int | None  # tokens of the free generation; 0 = none, None = as many as the text has
    show_text: bool  # passages in recall.json and the report, not only their offsets


@dataclass(frozen=True)
class Folder:
    """Where the files go. suffix: of their names, such as _ckpt_init."""

    path: Path
    suffix: str = ""

    def file(self, stem: str, extension: str) -> Path:
        return self.path / f"{stem}{self.suffix}.{extension}"


def run(
    model: Model, text: Text, controls: Sequence[Text], plan: Plan, folder: Folder, rt: Runtime
) -> tuple[dict, list[dict], str]:
    """(figures, rows of windows.jsonl, picture as SVG). UserError if the text is shorter than a window.

    Every rank takes part; rank 0 writes the files.
    """
    began = time.monotonic()
    check_context(model, plan.prefix, plan.suffix)
    windows = cut(text, plan)
    rows = measure(
        model,
        windows,
        path=folder.file("windows", "jsonl"),
        header=header_of(model, text, plan, plan.stride),
        rt=rt,
        what="windows",
    )
    log_p = measures.column(rows, "log_p")
    controls, control_log_p = measure_controls(model, controls, plan, folder, rt)
    ladders, covered = measure_coverage(model, text, windows, log_p, plan, folder, rt)
    near = None
    if plan.generate != 0 and rt.is_main:
        near = measure_generation(model, text, prefix=plan.prefix, n_tokens=plan.generate)
    calibration = measures.calibrate(control_log_p)
    passages = measures.best_and_worst(log_p, windows.suffix_chars)
    if plan.show_text:
        for passage in [*passages["best"], *passages["worst"]]:
            passage["text"] = text.text[passage["start_char"] : passage["end_char"]]
    figures = {
        "model": {"name": model.name, **model.describe()},
        "text": {"name": text.name, "sha256": text.sha256, "characters": len(text.text), "tokens": len(text.ids)},
        "controls": [{"name": control.name, "sha256": control.sha256} for control in controls],
        "settings": dataclasses.asdict(plan),
        "recall": measures.recall_figures(rows, plan.suffix),
        "p_z": {
            "full_softmax": measures.probability_figures(log_p),
            "top_40": measures.probability_figures(measures.column(rows, "log_p_top40")),
        },
        "coverage": ladders,
        "calibration": measures.calibration_figures(log_p, calibration),
        "sections": section_figures(text, windows, rows),
        "passages": passages,
        **({"near_verbatim": near} if near else {}),
        "versions": versions(),
        "seconds": round(time.monotonic() - began, 1),
    }
    svg = draw(title_of(figures), windows, log_p, control_log_p, covered)
    return figures, rows, svg


def cut(text: Text, plan: Plan) -> Windows:
    """The windows of a text. UserError if it has none."""
    windows = token_windows(text, prefix=plan.prefix, suffix=plan.suffix, stride=plan.stride)
    if not len(windows):
        raise UserError(
            f"{text.name} has {len(text.ids)} tokens, recall@{plan.prefix}/{plan.suffix} needs at least "
            f"{plan.prefix + plan.suffix}"
        )
    return windows


def header_of(model: Model, text: Text, plan: Plan, stride: int, unit: str = "tokens") -> dict:
    """What determines the figures of windows: the first line of the file."""
    measured = {"text_sha256": text.sha256, **model.describe(), "beginning": list(model.beginning)}
    return measured | {"prefix": plan.prefix, "suffix": plan.suffix, "stride": stride, "unit": unit}


def measure_controls(
    model: Model, controls: Sequence[Text], plan: Plan, folder: Folder, rt: Runtime
) -> tuple[list[Text], np.ndarray]:
    """(the controls that are some, log p_z of all their windows): one that the model recites has been learned."""
    unseen, found = [], [np.empty(0)]
    for number, control in enumerate(controls, 1):
        options = dict(
            path=folder.file(f"control_{number}", "jsonl"),
            header=header_of(model, control, plan, plan.stride),
            what=f"control {number}",
        )
        rows = measure(model, cut(control, plan), rt=rt, **options)
        recited = sum(row["greedy"] for row in rows)
        if recited >= RECITED * len(rows):
            notice(f"{control.name} is no control: {recited:,} of its {len(rows):,} windows are recited")
            continue
        unseen.append(control)
        found.append(measures.column(rows, "log_p"))
    return unseen, np.concatenate(found)


def measure_coverage(
    model: Model, text: Text, windows: Windows, log_p: np.ndarray, plan: Plan, folder: Folder, rt: Runtime
) -> tuple[dict, tuple[np.ndarray, np.ndarray, int]]:
    """(the ladder of each way of cutting windows, what the curve is drawn of: suffix spans, log p_z, characters)."""
    n_characters = len(text.text)
    covered = windows.suffix_chars, log_p, n_characters
    ladders: dict = {"windows": measures.coverage_ladder(*covered)}
    kinds = {"windows": (), "both": ("offsets", "exact")}.get(plan.coverage, (plan.coverage,))
    for kind in kinds:
        lengths = dict(prefix=plan.prefix, suffix=plan.suffix, characters=CHARACTERS)
        dense = offset_windows(text, **lengths) if kind == "offsets" else exact_windows(text, model.encode, **lengths)
        header = header_of(model, text, plan, CHARACTERS, "characters") | {"tokenised": kind}
        path, what = folder.file(f"coverage_{kind}", "jsonl"), f"coverage, {kind}"
        rows = measure(model, dense, path=path, header=header, rt=rt, what=what)
        covered = dense.suffix_chars, measures.column(rows, "log_p"), n_characters
        ladders[kind] = measures.coverage_ladder(*covered)
    if plan.coverage == "both":
        pairs = zip(ladders["offsets"].values(), ladders["exact"].values(), strict=True)
        ladders["largest difference"] = max(abs(a - b) for a, b in pairs)
    return ladders, covered


def versions() -> dict[str, str]:
    """Of Python and of the packages that the figures depend on."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in PACKAGES:
        try:
            found.setdefault(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def title_of(figures: dict) -> str:
    """Of the report: out-tale/ckpt.pt: tale."""
    return f"{'/'.join(Path(figures['model']['name']).parts[-2:])}: {Path(figures['text']['name']).name}"


def write_files(figures: dict, rows: list[dict], svg: str, folder: Folder, *, csv: bool) -> None:
    """Write the report as a page and a picture, and windows.csv if it is wanted. recall.json is the caller's."""
    write_atomic(folder.file("report", "svg"), svg.encode("utf-8", "replace"))
    write_atomic(folder.file("report", "html"), report.html_of(title_of(figures), figures, svg))
    if csv:
        write_atomic(folder.file("windows", "csv"), report.csv_of(rows))


def write_json(path: Path, figures: dict) -> None:
    """Write recall.json."""
    write_atomic(path, (json.dumps(figures, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
