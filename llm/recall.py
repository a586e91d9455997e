"""How much of the book does the model know by heart? Recall@50/50 and what belongs to it.

    python recall.py --out_dir=out-tale
    python recall.py --out_dir=out-tale --recite=True

The measures are defined in reading/recall.py. The last line printed is recall@50/50; all figures go to recall.json.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package, installed or not
from llm import runtime
from llm.configurator import UserError, run_script
from llm.reading import book_map, recall, recitation
from llm.reading.generate import allowed_ids
from llm.reading.reader import Reader
from llm.reading.windows import windows_path
from llm.runtime import notice
from llm.storage.pretrained import load_model
from llm.text.dataset import Dataset


@dataclass(frozen=True)
class Settings(runtime.Settings):
    # what to measure
    out_dir: str = "out"  # the folder that train.py wrote
    checkpoint_name: str = "ckpt.pt"  # which of its checkpoints
    dataset: str | None = None  # measure on this dataset's train.bin; None = the one that the model was trained on
    recite: bool = False  # also generate the whole book from its first 50 tokens: where does it first go wrong?
    control: str | None = None  # a text file that the model never saw; None = val.bin, else the bundled control text


def main(cfg: Settings) -> None:
    rt = runtime.start(cfg, use="measure")
    model, tokenizer, info = load_model(cfg.out_dir, cfg.checkpoint_name, rt.device)
    data = Dataset(cfg.dataset or info.dataset)
    if data.tokenizer_description != tokenizer.description:
        raise UserError(f"dataset {data.name} is prepared for another tokenizer than {info.path} was trained with")
    if cfg.dataset is None and info.text_sha256 not in (None, data.train.sha256):
        notice(f"dataset {data.name} was prepared again after {info.path} was trained: it is another text now")
    control = recall.find_control(cfg.control, data, tokenizer)
    notice(f"{info.path}: step {info.iter_num:,}, dataset {data.name}; {rt.describe()}")
    allowed = allowed_ids(info.corpus_ids, tokenizer.vocab_size)
    lines, figures = recall.report(model, data, allowed=allowed, rt=rt, control=control)
    if cfg.recite:
        reader = Reader(model, allowed, rt.dtype, book_ids=data.train.tokens(0, len(data.train)))
        recited_lines, figures["recitation"] = recitation.recite(reader, tokenizer, data.train)
        lines = recited_lines + lines
    lines = book_map.describe(windows_path(info.path.parent, cfg.checkpoint_name), data) + lines
    if cfg.dataset is None:  # recall.json is about the book that the model was trained on
        names = dict(checkpoint_name=cfg.checkpoint_name, step=info.iter_num, dataset=data.name)
        recall.write(info.path.parent, figures, **names)
    print("\n".join(lines))


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
