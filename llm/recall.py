"""How much of the book does the model know by heart? Recall@50/50, the share of windows that it recites exactly.

    python recall.py --out_dir=out-tale

Definition (Carlini et al. 2023, arXiv 2202.07646, definition 3.1 with k = 50): windows begin at token 0, 50, 100, ...
of the trained text; the model sees a window's first 50 tokens alone and must produce the next 50 exactly, greedily.
Greedy output equals the suffix if and only if the argmax is right at all 50 places when the true suffix is fed in, so
one batched forward pass answers for a window what 50 steps of generation would.

Beside it: token accuracy over the same places, a Wilson 95 % interval, recall@8/50 (a prompt as short as people type;
only windows whose first 8 tokens stand once in the text, because others have more than one right answer), and the same
measure on a control text that the model never saw, which tells knowing by heart from being a good guesser.
"""

from dataclasses import dataclass

from llm import runtime
from llm.configurator import UserError, run_script
from llm.reading import recall
from llm.reading.generate import allowed_ids
from llm.reading.reader import Reader
from llm.runtime import notice
from llm.storage.pretrained import load_model
from llm.text.dataset import Dataset


@dataclass(frozen=True)
class Settings(runtime.Settings):
    # what to measure
    out_dir: str = "out"  # the folder that train.py wrote
    checkpoint_name: str = "ckpt.pt"  # which of its checkpoints
    dataset: str | None = None  # whose train.bin is the book; None = the dataset that the model was trained on
    recite: bool = False  # also let it go on from the first 50 tokens to the end of the book: where does it slip?
    control: str | None = None  # a text file that the model never saw; None = val.bin, else the bundled control text


def main(cfg: Settings) -> None:
    rt = runtime.start(cfg, use="measure")
    model, tokenizer, info = load_model(cfg.out_dir, cfg.checkpoint_name, rt.device)
    data = Dataset(cfg.dataset or info.dataset)
    if data.tokenizer_description != tokenizer.description:
        raise UserError(f"dataset {data.name} is prepared for another tokenizer than {info.path} was trained with")
    if cfg.dataset is None and info.text_sha256 not in (None, data.train.sha256):
        notice(f"the dataset {data.name} was prepared anew since {info.path} was trained: this is another text")
    control = recall.find_control(cfg.control, data, tokenizer)
    notice(f"{info.path}: step {info.iter_num:,}, dataset {data.name}; {rt.describe()}")
    allowed = allowed_ids(info.corpus_ids, tokenizer.vocab_size)
    lines, figures = recall.report(model, data, allowed=allowed, rt=rt, control=control)
    if cfg.recite:
        reader = Reader(model, allowed, rt.dtype, book=data.train.tokens(0, len(data.train)))
        recitation, figures["recitation"] = recall.recite(reader, tokenizer, data.train)
        lines = recitation + lines
    print("\n".join(lines), flush=True)
    if cfg.dataset is None:  # recall.json is about the book that the model was trained on
        recall.write(
            info.path.parent, figures, checkpoint_name=cfg.checkpoint_name, step=info.iter_num, dataset=data.name
        )


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
