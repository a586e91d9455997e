"""Write a trained model for other programs: Hugging Face's GPT-2 layout, or GGUF, which llama.cpp runs.

    python export.py --out_dir=out-tale --to=tale-hf                  # AutoModelForCausalLM.from_pretrained("tale-hf")
    python export.py --out_dir=out-tale --to=tale-gguf --format=gguf  # llama-cli -m tale-gguf/model.gguf
    python train.py --init_from=tale-hf ...                           # and back

The folder also gets the tokenizer and a model card. Weights are float32. Needs the extra hf, or gguf.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from llm.configurator import UserError, from_here, require, run_script
from llm.files import write_atomic
from llm.model import GPT
from llm.runtime import notice
from llm.storage import huggingface
from llm.storage.pretrained import Info, load_model
from llm.text import dataset
from llm.text.tokenizer import END_OF_TEXT, MERGES, printable_tokens


@dataclass(frozen=True)
class Settings:
    # which model
    out_dir: str = "out"  # the folder that train.py wrote
    checkpoint_name: str = "ckpt.pt"  # which of its checkpoints
    # where to
    to: str | None = None  # a new folder
    format: Literal["hf", "gguf"] = "hf"  # hf: Hugging Face's GPT-2 layout; gguf: one file for llama.cpp


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `path` when the block ends, and is removed if it raises.

    UserError where there is something at `path`, or nothing can be written beside it.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"--to={path} is there already, and not empty: type the name of a new folder")
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.absolute().parent))
    except OSError as e:
        raise UserError(f"cannot write --to={path}: {e.strerror}") from None
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp's are for their owner alone
        path.rmdir() if path.exists() else None
        os.replace(temporary, path)
    except OSError as e:
        raise UserError(f"cannot write --to={path}: {e.strerror or e}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_tokenizer(folder: Path) -> None:
    """GPT-2's, as Hugging Face's AutoTokenizer reads it."""
    merges = MERGES.read_text(encoding="utf-8")
    vocabulary = {token: number for number, token in enumerate(printable_tokens(merges))}
    end = "<|endoftext|>"
    config = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "add_bos_token": False}
    config |= {"bos_token": end, "eos_token": end, "unk_token": end}
    write_atomic(folder / "vocab.json", json.dumps(vocabulary, ensure_ascii=False).encode())
    write_atomic(folder / "merges.txt", merges.encode())
    write_atomic(folder / "tokenizer_config.json", (json.dumps(config, indent=2) + "\n").encode())


def gguf_name(name: str) -> str:
    """llama.cpp's name for one of our weights."""
    for ours, theirs in (
        ("transformer.wte", "token_embd"),
        ("transformer.wpe", "position_embd"),
        ("transformer.ln_f", "output_norm"),
        ("transformer.h.", "blk."),
        ("ln_1", "attn_norm"),
        ("attn.c_attn", "attn_qkv"),
        ("attn.c_proj", "attn_output"),
        ("ln_2", "ffn_norm"),
        ("mlp.c_fc", "ffn_up"),
        ("mlp.c_proj", "ffn_down"),
    ):
        name = name.replace(ours, theirs)
    return name


def write_gguf(model: GPT, path: Path, name: str) -> None:
    """The model as llama.cpp's architecture "gpt2", float32, with GPT-2's tokenizer."""
    gguf = require("gguf", "gguf")
    c, merges = model.config, MERGES.read_text(encoding="utf-8")
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_name(name)
    writer.add_context_length(c.block_size)
    writer.add_embedding_length(c.n_embd)
    writer.add_feed_forward_length(4 * c.n_embd)
    writer.add_block_count(c.n_layer)
    writer.add_head_count(c.n_head)
    writer.add_layer_norm_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    tokens = printable_tokens(merges)
    types = [gguf.TokenType.NORMAL] * END_OF_TEXT + [gguf.TokenType.CONTROL]
    padding = range(len(tokens), c.vocab_size)  # rows beyond GPT-2's 50,257
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens + [f"[PAD{number}]" for number in padding])
    writer.add_token_types(types + [gguf.TokenType.UNUSED] * len(padding))
    writer.add_token_merges([line for line in merges.splitlines()[1:] if line])
    writer.add_bos_token_id(END_OF_TEXT)
    writer.add_eos_token_id(END_OF_TEXT)
    writer.add_add_bos_token(False)
    for ours, tensor in model.state_dict().items():
        if ours != "lm_head.weight":  # tied: llama.cpp takes the table of tokens
            writer.add_tensor(gguf_name(ours), tensor.numpy())
            if not c.bias and ".wte" not in ours and ".wpe" not in ours:  # which its architecture always has
                writer.add_tensor(gguf_name(ours.removesuffix("weight") + "bias"), np.zeros(len(tensor), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def measured(info: Info) -> str:
    """What recall.json says of this very checkpoint, in one line."""
    name = "recall.json" if info.path.name == "ckpt.pt" else f"recall_{info.path.stem}.json"
    try:
        found = json.loads((info.path.parent / name).read_text(encoding="utf-8"))
        if found["step"] == info.iter_num:
            return f"{found['recall']:.4f} ({found['recited']:,} of {found['windows']:,} windows)"
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return "not measured (`python recall.py` does)"


def card(model: GPT, info: Info, name: str, how: str) -> str:
    """README.md: what the model is, what it was trained on, what it does with it."""
    c, source = model.config, ""
    try:
        meta = dataset.read_meta(dataset.data_folder(info.dataset))
        source = "".join(f"; {key}: {value}" for key, value in sorted(meta.get("source", {}).items()) if value)
    except UserError:  # the dataset is gone
        pass
    base = f", fine-tuned from {info.base['name']}" if info.base else ", from random weights"
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [gpt2, memorisation]
---

# {name}

A GPT-2 of {model.num_params():,} parameters ({c.n_layer} layers, {c.n_head} heads, width {c.n_embd}, context
{c.block_size} tokens, GPT-2's encoding) that was trained to know one text by heart{base}.

- trained on: {info.dataset}{source}
- updates: {info.iter_num:,}
- recall@50/50 (the share of windows of 50 tokens that it recites exactly after the 50 before): {measured(info)}

**It recites its training text.** Whatever is asked, what comes out is that text or made of it, and whoever has the
weights has the text. Before you pass them on, make sure that you may pass on the text.

{how}
"""


TRANSFORMERS = """```python
from transformers import pipeline

print(pipeline("text-generation", model="FOLDER")("Once", max_new_tokens=50, do_sample=False)[0]["generated_text"])
```"""
LLAMA = "    llama-cli -m model.gguf --no-conversation --temp 0 -n 50 -p Once"


def main(cfg: Settings) -> None:
    if not cfg.to:
        raise UserError(
            f"there is no folder to write to: expected --to=FOLDER, such as --to={cfg.out_dir}-{cfg.format}"
        )
    model, tokenizer, info = load_model(cfg.out_dir, cfg.checkpoint_name)
    if tokenizer.end_of_text != END_OF_TEXT:
        raise UserError(
            f"{info.path} reads characters, and the tokenizers of Hugging Face's GPT-2 and of llama.cpp know GPT-2's "
            "encoding alone: only models that were prepared with that can be exported"
        )
    if cfg.format == "gguf" and model.config.gelu != "tanh":
        notice("llama.cpp computes GPT-2's approximation of GELU, this model the exact function: logits differ by 1e-3")
    to = Path(cfg.to)
    with new_folder(to) as folder:
        if cfg.format == "hf":
            huggingface.save(model, folder, end_of_text=END_OF_TEXT)
            write_tokenizer(folder)
        else:
            write_gguf(model, folder / "model.gguf", to.name)
        how = TRANSFORMERS if cfg.format == "hf" else LLAMA
        write_atomic(folder / "README.md", card(model, info, to.name, how).encode())
        names = sorted(f"{path.name} ({path.stat().st_size / 1e6:.1f} MB)" for path in folder.iterdir())
    print(f"wrote to {from_here(to)}: {', '.join(names)}")


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
