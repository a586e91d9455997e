"""Write a trained model for other programs: Hugging Face's GPT-2 layout, or GGUF, which llama.cpp runs.

    python export.py --out_dir=out-tale --to=tale-hf
    python export.py --out_dir=out-tale --to=tale-gguf --format=gguf
    python export.py --out_dir=out-tale --to=out-tale-one --format=checkpoint

Read the first with AutoModelForCausalLM.from_pretrained("tale-hf"), or fine-tune it with train.py --init_from=tale-hf;
run the second with llama-cli -m tale-gguf/model.gguf. Both folders also get the tokenizer and a model card. Weights are
float32. Needs the extra hf, or gguf. The third is a checkpoint as one process saves it, in a single file, of one that
several have written (train.py --shard); training goes on from it, too.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package, installed or not
from llm.configurator import UserError, from_here, quoted, run_script
from llm.files import read_regular, write_atomic
from llm.model import GPT
from llm.runtime import notice
from llm.storage import checkpoint, gguf, huggingface
from llm.storage.pretrained import ModelInfo, load_model
from llm.text import dataset
from llm.training.finish import first_words


@dataclass(frozen=True)
class Settings:
    # the model
    out_dir: str = "out"  # the folder that train.py wrote
    checkpoint_name: str = "ckpt.pt"  # which of its checkpoints
    # the export
    to: str | None = None  # a new folder
    format: Literal["hf", "gguf", "checkpoint"] = "hf"  # Hugging Face's GPT-2; llama.cpp's file; or one ckpt.pt


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to write to, renamed to `path` when the block ends, removed if it raises.

    UserError if there is something at `path` other than an empty folder, or nothing can be written there.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"--to={path} exists already and is not empty: type the name of a new folder")
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.absolute().parent))
    except OSError as e:
        raise UserError(f"cannot write --to={path}: {e.strerror}") from None
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp gives access to the owner only
        if path.exists():
            path.rmdir()
        os.replace(temporary, path)
    except OSError as e:
        raise UserError(f"cannot write --to={path}: {e.strerror or e}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def measured_recall(info: ModelInfo) -> str:
    """The recall of exactly this checkpoint as recall.py saved it, for the model card."""
    name = "recall.json" if info.path.name == "ckpt.pt" else f"recall_{info.path.stem}.json"
    try:
        figures = json.loads(read_regular(info.path.parent / name).decode("utf-8"))
        if figures["step"] == info.iter_num:
            return f"{figures['recall']:.4f} ({figures['recited']:,} of {figures['windows']:,} windows)"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return "not measured (`python recall.py` does)"


def example_prompt(info: ModelInfo) -> str:
    """The first words of the training text, or "Once upon a time" if its dataset is gone or has changed."""
    try:
        data = dataset.Dataset(info.dataset)
        if data.train.sha256 == info.text_sha256:
            return first_words(data)
    except UserError:
        pass
    return "Once upon a time"


def example(folder: str, prompt: str, format: str) -> str:
    """Markdown that shows how to run the exported model: Python for transformers, a command for llama.cpp."""
    if format == "gguf":
        return f"    llama-cli -m {quoted(f'{folder}/model.gguf')} --no-conversation --temp 0 -n 50 -p {quoted(prompt)}"
    return f"""```python
from transformers import pipeline

generate = pipeline("text-generation", model={json.dumps(folder, ensure_ascii=False)})
prompt = {json.dumps(prompt, ensure_ascii=False)}
print(generate(prompt, max_new_tokens=50, do_sample=False)[0]["generated_text"])
```"""


def describe_source(info: ModelInfo) -> str:
    """Where the training text comes from, as its meta.json says; "" if the dataset is gone."""
    try:
        source = dataset.read_meta(dataset.data_folder(info.dataset)).get("source", {})
    except UserError:
        return ""
    return "".join(f"; {key}: {value}" for key, value in sorted(source.items()) if value)


def model_card(model: GPT, info: ModelInfo, folder: Path, format: str) -> str:
    """The folder's README.md: what the model is, what it was trained on, what it recites, how to run it."""
    config = model.config
    shape = f"{config.n_layer} layers, {config.n_head} heads, width {config.n_embd}"
    origin = f"fine-tuned from {info.base['name']}" if info.base else "from random weights"
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [gpt2, memorisation]
---

# {folder.name}

A GPT-2 of {model.num_params():,} parameters ({shape}, context {config.block_size} tokens, byte-pair encoding),
trained to know one text by heart, {origin}.

- trained on: {info.dataset}{describe_source(info)}
- updates: {info.iter_num:,}
- recall@50/50 (share of windows of 50 tokens that it recites exactly after the 50 before): {measured_recall(info)}

**It recites its training text.** Whatever the prompt, its output is that text or pieces of it, and whoever has the
weights has the text. Before you pass them on, make sure that you may pass on the text.

{example(from_here(folder), example_prompt(info), format)}
"""


def print_written(to: Path) -> None:
    files = sorted(f"{path.name} ({path.stat().st_size / 1e6:.1f} MB)" for path in to.iterdir())
    print(f"wrote to {from_here(to)}: {', '.join(files)}")


def main(cfg: Settings) -> None:
    if not cfg.to:
        raise UserError(
            f"there is no folder to write to: expected --to=FOLDER, such as --to={cfg.out_dir}-{cfg.format}"
        )
    if cfg.format == "checkpoint":
        content = checkpoint.read_one(checkpoint.find(cfg.out_dir, cfg.checkpoint_name))
        with new_folder(Path(cfg.to)) as folder:
            checkpoint.write(folder / "ckpt.pt", content)
        print_written(Path(cfg.to))
        return
    model, tokenizer, info = load_model(cfg.out_dir, cfg.checkpoint_name)
    if tokenizer.by_characters:
        raise UserError(
            f"{info.path} is a model of characters, which Hugging Face's GPT-2 and llama.cpp have no tokenizer for: "
            "export a model whose dataset was prepared with --tokenizer=gpt2 or book"
        )
    if cfg.format == "gguf" and model.config.gelu != "tanh":
        notice("llama.cpp computes GPT-2's approximation of GELU, this model the exact function: logits differ by 1e-3")
    to = Path(cfg.to)
    with new_folder(to) as folder:
        if cfg.format == "hf":
            huggingface.save(model, folder, end_of_text=tokenizer.end_of_text)
            huggingface.save_tokenizer(tokenizer, folder)
        else:
            gguf.save(model, tokenizer, folder / "model.gguf", name=to.name)
        write_atomic(folder / "README.md", model_card(model, info, to, cfg.format).encode())
    print_written(to)


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
