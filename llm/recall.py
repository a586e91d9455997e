"""How much of a text does a model know by heart? Recall@50/50, probabilities of extraction, and what belongs to them.

    python recall.py --out_dir=out-tale
    python recall.py --out_dir=out-tale --recite=True --coverage=exact
    python recall.py --model=FOLDER_OR_NAME --text=my_book.epub

Of our own models, recall@50/50 of the dataset is measured first (reading/recall.py), then everything else
(measuring/), as of any causal language model in Hugging Face's layout. docs/measuring.md defines the measures. The last
line printed is recall@50/50; all figures go to recall.json. Started again after an interruption, it goes on.
"""

import contextlib
import dataclasses
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package, installed or not
from llm import processes, runtime
from llm.configurator import NonNegativeInt, PositiveInt, UserError, Words, run_script
from llm.measuring import inputs, instrument, report
from llm.measuring.hugging_face import HuggingFaceModel
from llm.measuring.instrument import Folder, Plan
from llm.measuring.models import OwnModel
from llm.reading import book_map, recall, recitation
from llm.reading.generate import allowed_ids
from llm.reading.reader import Reader
from llm.reading.windows import windows_path
from llm.runtime import Runtime, notice
from llm.storage.pretrained import load_model
from llm.terminal import visible
from llm.text.dataset import Dataset

# isort: split
import torch


@dataclass(frozen=True)
class Settings(runtime.Settings):
    # which model
    out_dir: str = "out"  # the folder that train.py wrote
    checkpoint_name: str = "ckpt.pt"  # which of its checkpoints
    model: str | None = None  # instead: a folder in Hugging Face's layout, or a name of its hub
    # which text
    text: str | None = None  # a text or book in any format; needed for --model
    dataset: str | None = None  # measure on this dataset's train.bin; None = the one that the model was trained on
    control: Words = ()  # texts that the model never saw; none = val.bin and the bundled texts
    # windows
    prefix: PositiveInt = 50  # tokens that the model sees
    suffix: PositiveInt = 50  # tokens after them, whose probability is measured
    stride: PositiveInt = 50  # tokens from one window to the next
    coverage: Literal["windows", "offsets", "exact", "both"] = "windows"  # exact: also every 10 characters
    # a long generation
    recite: bool = False  # also generate the whole book from its first 50 tokens: where does it first go wrong?
    recite_tokens: NonNegativeInt | None = None  # with --recite: so many tokens; None = as many as the text has
    # output
    to: str | None = None  # a folder for all files; None = out_dir, or beside the text under the model's name
    show_text: bool = False  # show the best and worst known passages, not only their offsets
    csv: bool = False  # also write windows.csv

    def plan(self) -> Plan:
        """What the instrument measures."""
        generate = self.recite_tokens if self.recite else 0
        return Plan(self.prefix, self.suffix, self.stride, self.coverage, generate, self.show_text)


@contextlib.contextmanager
def folder_of(cfg: Settings, default: Path | None, suffix: str = "") -> Iterator[Folder]:
    """Where the files go: --to, else the default; None = nowhere: into a folder that is removed at the end."""
    if cfg.to is None and default is None:
        with tempfile.TemporaryDirectory() as name:
            yield Folder(Path(name), suffix)
        return
    path = Path(cfg.to).expanduser() if cfg.to else default
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot write to {path}: {e.strerror}; type another --to=FOLDER") from None
    yield Folder(path, suffix)


def beside_text(text: str, model: str) -> Path:
    """The default folder for a text that is not the model's own: my_book-gpt2 beside my_book.epub."""
    path, name = Path(text).expanduser(), re.sub(r"[^\w.-]+", "_", Path(model).name)
    return path.absolute().parent / f"{path.stem}-{name}"


def measure_file(cfg: Settings, model: HuggingFaceModel | OwnModel, rt: Runtime) -> None:
    """Measure a text that is named by --text."""
    text = inputs.of_file(cfg.text, model)
    controls = inputs.controls_of(cfg.control, text, model, min_tokens=cfg.prefix + cfg.suffix)
    notice(f"{model.name}: {text.name}, {len(text.ids):,} tokens; {rt.describe()}")
    with folder_of(cfg, beside_text(cfg.text, cfg.model or cfg.out_dir)) as folder:
        figures, rows, svg = instrument.run(model, text, controls, cfg.plan(), folder, rt)
        if rt.is_main:
            instrument.write_files(figures, rows, svg, folder, csv=cfg.csv)
            instrument.write_json(folder.file("recall", "json"), figures | figures["recall"])
            notice(f"wrote {folder.path}")
            print("\n".join([*book_map.map_lines(rows), *report.lines(figures)]))


def measure_own(cfg: Settings, rt: Runtime) -> None:
    """Measure a checkpoint of ours on its dataset, on another one, or on a text."""
    model, tokenizer, info = load_model(cfg.out_dir, cfg.checkpoint_name, rt.device)
    exact = exact_products(cfg, rt)
    if cfg.text is not None:
        return measure_file(cfg, OwnModel(model, tokenizer, info, exact, None, quick_dtype(cfg, rt)), exact)
    data = Dataset(cfg.dataset or info.dataset)
    if data.tokenizer_description != tokenizer.description:
        raise UserError(f"dataset {data.name} is prepared for another tokenizer than {info.path} was trained with")
    if len(data.train) > recall.MAX_COMPARED:
        raise UserError(
            f"dataset {data.name} has {len(data.train):,} tokens, at most {recall.MAX_COMPARED:,} are measured; type "
            "--text=FILE to measure a part of it"
        )
    if cfg.dataset is None and info.text_sha256 not in (None, data.train.sha256):
        notice(f"dataset {data.name} was prepared again after {info.path} was trained: it is another text now")
    control = recall.find_control(next(iter(cfg.control), None), data, tokenizer)
    notice(f"{info.path}: step {info.iter_num:,}, dataset {data.name}; {rt.describe()}")
    allowed = allowed_ids(info.corpus_ids, tokenizer.vocab_size)
    lines, figures = recall.report(model, data, allowed=allowed, rt=rt, control=control)
    book_ids = data.train.tokens(0, len(data.train))
    if cfg.recite:
        reader = Reader(model, allowed, rt.dtype, book_ids=book_ids)
        recited_lines, figures["recitation"] = recitation.recite(reader, tokenizer, data.train)
        lines = recited_lines + lines
    measured = OwnModel(model, tokenizer, info, exact, book_ids, quick_dtype(cfg, rt))
    text = inputs.of_split(data.name, data.train, tokenizer)
    held_out = inputs.of_split(f"{data.name}'s val.bin", data.val, tokenizer) if data.val else None
    controls = inputs.controls_of(cfg.control, text, measured, held_out, min_tokens=cfg.prefix + cfg.suffix)
    suffix = recall.figures_path(Path(), cfg.checkpoint_name).stem.removeprefix("recall")
    with folder_of(cfg, info.path.parent if cfg.dataset is None else None, suffix) as folder:
        extraction, rows, svg = instrument.run(measured, text, controls, cfg.plan(), folder, exact)
        if rt.is_main:
            instrument.write_files(extraction, rows, svg, folder, csv=cfg.csv)
            if cfg.dataset is None or cfg.to:  # the recall.json in out_dir is about the book that the model learned
                names = dict(checkpoint_name=cfg.checkpoint_name, step=info.iter_num, dataset=data.name)
                recall.write(folder.path, figures | {"extraction": extraction}, **names)
            if cfg.dataset is None:
                lines = book_map.describe(windows_path(folder.path, cfg.checkpoint_name), data) + lines
            print(visible("\n".join(report.lines(extraction, beside_recall=True) + lines)))


def exact_products(cfg: Settings, rt: Runtime) -> Runtime:
    """The runtime for probabilities: products in float32, also on GPUs, unless --dtype says otherwise."""
    if cfg.dtype != "auto":
        return rt
    torch.set_float32_matmul_precision("highest")
    return dataclasses.replace(rt, dtype=torch.float32)


def quick_dtype(cfg: Settings, rt: Runtime) -> torch.dtype | None:
    """The dtype in which windows are scored first, to tell which ones matter; None = float32 is as fast, or is set."""
    return torch.bfloat16 if cfg.dtype == "auto" and runtime.has_bfloat16(rt.device) else None


def main(cfg: Settings) -> None:
    rt = runtime.start(cfg, use="measure")
    try:
        if cfg.model is None:
            measure_own(cfg, rt)
        elif cfg.text is None:
            raise UserError("--model needs a text to measure: type --text=FILE")
        else:
            exact = exact_products(cfg, rt)
            measure_file(cfg, HuggingFaceModel(cfg.model, exact, quick_dtype(cfg, rt)), exact)
        runtime.wait_for_all()
    except RuntimeError as e:
        raise processes.explained(e) from e
    finally:
        runtime.stop()


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
