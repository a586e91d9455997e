"""Load a trained model for reading."""

from pathlib import Path

import numpy as np

from llm import runtime
from llm.configurator import UserError
from llm.reading.generate import allowed_ids
from llm.reading.reader import Reader
from llm.runtime import notice
from llm.storage.pretrained import Info, load_base, load_model
from llm.text import dataset
from llm.text.tokenizer import Tokenizer, from_description

MAX_SEARCH_TOKENS = 2_000_000  # tokens: in texts up to this size the place of a prompt and of what follows is looked up


def book_tokens(info: Info) -> np.ndarray | None:
    """The ids of the text that the model was trained on, if it is still there and not too long to search; else None."""
    try:
        split = dataset.Dataset(info.dataset).train
    except UserError:  # sampling needs the checkpoint alone
        return None
    if len(split) > MAX_SEARCH_TOKENS or split.sha256 != info.text_sha256:
        return None
    return split.tokens(0, len(split))


def load_reader(cfg, init_from: str = "resume") -> tuple[Reader, Tokenizer, Info]:
    """The model in cfg.out_dir, ready for reading; says which it is. cfg: the settings of any script that draws.

    init_from: another model instead, see pretrained.load_base.
    """
    rt = runtime.start(cfg, use="sample")
    if init_from == "resume":
        model, tokenizer, info = load_model(cfg.out_dir, cfg.checkpoint_name, rt.device)
        notice(f"{info.path}: step {info.iter_num:,}, dataset {info.dataset}; {rt.describe()}; seed {cfg.seed}")
    else:
        base = load_base(init_from)
        model, tokenizer = base.model.to(rt.device).eval(), from_description(base.tokenizer_description, init_from)
        info = Info(Path(init_from), 0, "", base.corpus_ids, None, {})
        notice(f"{init_from}, as it is; {rt.describe()}; seed {cfg.seed}")
    allowed = allowed_ids(info.corpus_ids, tokenizer.vocab_size)
    return Reader(model, allowed, rt.dtype, book=book_tokens(info)), tokenizer, info


def book_text(reader: Reader, tokenizer: Tokenizer) -> str:
    """The text that the model was trained on, if the reader has it; else ""."""
    return "" if reader.book is None else tokenizer.decode(reader.book.tolist())
