"""A model that is there already: ours, nanoGPT's or Hugging Face's. load_model is the one door to a trained one.

What fine-tuning by low rank (lora.py) saves is a difference to another model, its base, which is found again by the
path that it had and known by its hash.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from llm.configurator import UserError
from llm.model import GPT, GPTConfig, uninitialised
from llm.network import lora
from llm.runtime import notice
from llm.storage import checkpoint, huggingface
from llm.text import dataset, tokenizer

NANOGPT_VOCABULARIES = (50257, 50304)  # sizes of a table that can only be GPT-2's encoding


@dataclass(frozen=True)
class Info:
    """Where a model comes from."""

    path: Path
    iter_num: int
    dataset: str
    corpus_ids: list[int] | None  # None = unknown
    text_sha256: str | None  # of the training text's shards; None = unknown
    config: dict
    base: dict | None = None  # what fine-tuning set out from: name and sha256; None = from scratch, or unknown


def build_model(content: dict, path: Path, **changes) -> GPT:
    """The GPT of a checkpoint from checkpoint.read, its weights the checkpoint's own memory; `changes` replace
    model_args."""
    try:
        gelu = content.get("gelu", "none")  # nanoGPT's files don't say: it always computes the exact function
        config = GPTConfig(**(content["model_args"] | {"gelu": gelu} | changes))
        sizes = (config.n_layer, config.n_head, config.n_embd, config.block_size, config.vocab_size)
        if min(sizes) < 1 or config.n_embd % config.n_head or config.n_layer > len(content["model"]):
            raise ValueError(f"no model has {config}")
        weights = {name: tensor.float() for name, tensor in content["model"].items()}
        if rank := content.get("loop", {}).get("lora_rank"):
            origin = content["loop"]["base"]["sha256"]
            base = load_base(base_of(content, path), block_size=config.block_size, sha256=origin)
            base.model.set_dropout(config.dropout)
            model = lora.attach(base.model, rank, base.new_ids(content.get("corpus_ids")))
            if lora.adapters(model.state_dict()).keys() != weights.keys():
                raise ValueError("they are no differences of low rank to its base")
            model.load_state_dict(weights, strict=False)
            return model
        model = uninitialised(config)
        model.load_state_dict(weights, assign=True)
    except (TypeError, ValueError, KeyError, RuntimeError) as e:
        raise UserError(f"the weights in {path} do not fit its model_args: {' '.join(str(e).split())[:200]}") from None
    model.transformer.wte.weight = model.lm_head.weight  # assigning untied them
    return model


def base_of(content: dict, path: Path) -> str:
    """Where the base of a checkpoint of low rank is now. UserError where it is gone."""
    base = content["loop"].get("base") or {"name": "unknown", "path": ""}
    for place in (base["path"], base["name"]):
        if place and Path(place).exists() or place in huggingface.HUB:
            return place
    raise UserError(
        f"{path} holds what was learned on top of {base['name']}, which is not at {base['path'] or base['name']} any "
        "more: put it there again"
    )


def describe_tokenizer(content: dict, path: Path) -> dict:
    """The tokenizer's description in the checkpoint; for nanoGPT's, which have none, that of its dataset or GPT-2's."""
    if "tokenizer" in content:
        return content["tokenizer"]
    vocab_size, name = content["model_args"]["vocab_size"], str(content["config"].get("dataset"))
    if vocab_size in NANOGPT_VOCABULARIES:
        return tokenizer.GPT2_DESCRIPTION
    prepared = dataset.Dataset(name)  # one line says how to prepare it where it is not
    if prepared.vocab_size != vocab_size:
        raise UserError(
            f"{path} has a vocabulary of {vocab_size}, the dataset {name} prepared here has {prepared.vocab_size}: "
            f"prepare the text that it was trained on: {dataset.prepare_hint(name)}"
        )
    notice(f"{path} does not say how its text was encoded: taken from the dataset {name}")
    return prepared.tokenizer_description


def load_model(
    out_dir: str, checkpoint_name: str = "ckpt.pt", device: torch.device | str = "cpu"
) -> tuple[GPT, tokenizer.Tokenizer, Info]:
    """(model in evaluation mode, tokenizer, info) of a checkpoint of ours or nanoGPT's."""
    path = checkpoint.find(out_dir, checkpoint_name)
    content = checkpoint.read(path, parts=("model",), mmap=os.name != "nt")
    encoder = tokenizer.from_description(describe_tokenizer(content, path), path)
    model, loop = build_model(content, path), content.get("loop", {})
    model = (lora.merge(model) if loop.get("lora_rank") else model).to(device).eval()
    ids, rows = content.get("corpus_ids"), model.config.vocab_size
    if max(encoder.vocab_size, *(ids or [0])) > rows or (ids and ids[-1] >= encoder.vocab_size):
        raise UserError(f"{path}: its tokenizer has {encoder.vocab_size} ids, its table {rows} rows: they do not fit")
    info = Info(
        path=path,
        iter_num=int(content["iter_num"]),
        dataset=str(content["config"].get("dataset")),
        corpus_ids=ids,
        text_sha256=loop.get("text_sha256"),
        config=content["config"],
        base=loop.get("base"),
    )
    return model, encoder, info


@dataclass(frozen=True)
class Base:
    """A model to set out from."""

    model: GPT  # on the CPU, float32
    tokenizer_description: dict
    corpus_ids: list[int] | None  # that occur in what it learned; None = unknown, or all
    origin: dict  # name (as typed), path (in full; "" for a name on the hub), sha256 (of its weights)

    def new_ids(self, ids: list[int] | None) -> list[int]:
        """Of these, the tokens that it has not learned."""
        return sorted({*ids} - {*self.corpus_ids}) if ids and self.corpus_ids else []


def load_base(name: str, *, block_size: int | None = None, sha256: str | None = None) -> Base:
    """The model that `init_from` names: GPT-2's sizes, a folder in Hugging Face's layout, an out_dir, or a ckpt.pt.

    block_size: of its places, keep so many. sha256: what its weights must have. UserError for what is no such model,
    and for one with fewer places.
    """
    path, ids, description = Path(name), None, tokenizer.GPT2_DESCRIPTION
    if huggingface.is_model(path) or name in huggingface.HUB:
        path = path if huggingface.is_model(path) else huggingface.download(name)
        model = huggingface.load(path)
        if model.config.vocab_size not in NANOGPT_VOCABULARIES:
            raise UserError(f"{path} has a vocabulary of {model.config.vocab_size}: expected GPT-2's, of 50,257")
    elif path.is_file() or checkpoint.resumable(path):
        folder, file = (path.parent, path.name) if path.is_file() else (path, "ckpt.pt")
        model, encoder, info = load_model(str(folder), file)
        ids, description = info.corpus_ids, encoder.description
    else:
        here = sorted({str(p.parent) for p in Path().glob("*/ckpt.pt")})
        have = f"; here are: {', '.join(here)}" if here else ""
        raise UserError(
            f"init_from={name}: no such model; expected {', '.join(huggingface.HUB)}, a folder with ckpt.pt or with "
            f"config.json and {huggingface.WEIGHTS}, a file such as ckpt.pt, or a word that --help lists{have}"
        )
    found = checkpoint.digest(model.state_dict())
    if sha256 not in (None, found):
        raise UserError(f"{name} is not the model any more that this one was trained on top of (its sha256 differs)")
    places = model.config.block_size
    if block_size is not None and block_size > places:
        raise UserError(f"block_size={block_size}, but {name} has {places} places; type --block_size={places} or less")
    if block_size is not None:
        model = model.cropped(block_size)
    on_the_hub = name in huggingface.HUB and not huggingface.is_model(Path(name))
    origin = {"name": name, "path": "" if on_the_hub else str(path.resolve()), "sha256": found}
    return Base(model, description, ids, origin)
