"""Load trained models: checkpoints of ours and nanoGPT's, and GPT-2 in Hugging Face's layout.

`load_model` loads a checkpoint for sampling, recall and the server; `load_base` loads any model to fine-tune. A
checkpoint trained with LoRA (network/lora.py) holds only a difference to its base model, which is looked up by its path
and verified by its sha256.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from llm.configurator import UserError
from llm.model import GPT, GPTConfig, uninitialised, weight_shapes
from llm.network import lora
from llm.runtime import notice
from llm.storage import checkpoint, huggingface
from llm.storage.progress import Progress
from llm.text import dataset, tokenizer

NANOGPT_VOCABULARIES = (50257, 50304)  # table sizes that only GPT-2's encoding has


@dataclass(frozen=True)
class ModelInfo:
    """What a checkpoint says about its model."""

    path: Path
    iter_num: int  # updates made
    dataset: str
    corpus_ids: list[int] | None  # ids that occur in the training text; None = unknown
    text_sha256: str | None  # of the training text's shards; None = unknown
    config: dict  # all settings of the run
    base: dict | None = None  # name, path and sha256 of the model it was fine-tuned from; None = from scratch, unknown


@dataclass(frozen=True)
class Base:
    """The model that a fine-tuning starts from."""

    model: GPT  # on the CPU, float32
    tokenizer_description: dict
    corpus_ids: list[int] | None  # ids that occur in its training text; None = unknown, or all
    origin: dict  # name (as typed), path (absolute; "" for a model of the Hugging Face hub), sha256 (of its weights)

    def new_ids(self, ids: list[int] | None) -> list[int]:
        """Those of `ids` that do not occur in the text the model was trained on; [] if that is unknown."""
        return sorted({*ids} - {*self.corpus_ids}) if ids and self.corpus_ids else []


def load_model(
    out_dir: str, checkpoint_name: str = "ckpt.pt", device: torch.device | str = "cpu"
) -> tuple[GPT, tokenizer.Tokenizer, ModelInfo]:
    """(model in evaluation mode, tokenizer, info) of a checkpoint of ours or nanoGPT's."""
    path = checkpoint.find(out_dir, checkpoint_name)
    content = checkpoint.read(path, parts=("model",), mmap=os.name != "nt")  # Windows cannot replace a mapped file
    encoder = tokenizer.from_description(describe_tokenizer(content, path), path)
    model, progress = build_model(content, path), content["progress"]
    if progress.lora_rank:
        model = lora.merge(model)
    info = ModelInfo(
        path=path,
        iter_num=progress.iter_num,
        dataset=str(content["config"].get("dataset")),
        corpus_ids=content.get("corpus_ids"),
        text_sha256=progress.text_sha256,
        config=content["config"],
        base=progress.base,
    )
    check_vocabulary(encoder, model.config.vocab_size, info)
    return model.to(device).eval(), encoder, info


def weights_sha256(out_dir: str, checkpoint_name: str = "ckpt.pt") -> str:
    """sha256 of a checkpoint's weights, as the files that measure them name it."""
    return checkpoint.digest(load_model(out_dir, checkpoint_name)[0].state_dict())


def check_vocabulary(encoder: tokenizer.Tokenizer, rows: int, info: ModelInfo) -> None:
    """UserError unless the token table has a row for each id, and each id of the corpus is one of the tokenizer's."""
    largest = max(info.corpus_ids or [0])
    if encoder.vocab_size > rows or largest >= encoder.vocab_size:
        raise UserError(
            f"{info.path} is damaged: its tokenizer has {encoder.vocab_size} ids, its token table {rows} rows, and the "
            f"largest id of its corpus is {largest}"
        )


def describe_tokenizer(content: dict, path: Path) -> dict:
    """The tokenizer's description in a checkpoint from checkpoint.read.

    nanoGPT's checkpoints have none: for them it is GPT-2's, or that of their dataset if it is prepared here.
    """
    if "tokenizer" in content:
        return content["tokenizer"]
    vocab_size, name = content["model_args"]["vocab_size"], str(content["config"].get("dataset"))
    if vocab_size in NANOGPT_VOCABULARIES:
        return tokenizer.GPT2_DESCRIPTION
    prepared = dataset.Dataset(name)  # if it is not prepared, the error says how to do it
    if prepared.vocab_size != vocab_size:
        raise UserError(
            f"{path} has a vocabulary of {vocab_size}, but dataset {name} as prepared here has {prepared.vocab_size}: "
            f"prepare the text that it was trained on: {dataset.prepare_hint(name)}"
        )
    notice(f"{path} does not say how its text was encoded: using the tokenizer of dataset {name}")
    return prepared.tokenizer_description


def build_model(content: dict, path: Path, **changes) -> GPT:
    """The GPT of a checkpoint from checkpoint.read, which shares the checkpoint's memory.

    changes: values that replace those of model_args, such as dropout. With LoRA, the base model with the trained
    differences attached. UserError if the weights do not have the shapes that model_args describes.
    """
    progress: Progress = content["progress"]
    try:
        config = model_config(content, changes)
        if progress.lora_rank:
            base = find_base(progress, config.block_size, path)
            return with_adapters(base, content["model"], progress.lora_rank, content.get("corpus_ids"), config.dropout)
        weights = checked_weights(content["model"], weight_shapes(config))
        if not torch.equal(weights["transformer.wte.weight"], weights["lm_head.weight"]):
            raise ValueError("lm_head.weight differs from wte.weight, but GPT-2 has one table for both")
        model = uninitialised(config)
        model.load_state_dict(weights, assign=True)
    except (TypeError, ValueError, KeyError, IndexError, RuntimeError) as e:
        raise UserError(f"the weights in {path} do not fit its model_args: {' '.join(str(e).split())[:200]}") from None
    model.transformer.wte.weight = model.lm_head.weight  # assigning the weights untied them
    return model


def model_config(content: dict, changes: dict) -> GPTConfig:
    """The shape of a checkpoint's model, with `changes`. ValueError or TypeError if no model can have it."""
    gelu = content.get("gelu", "none")  # nanoGPT always computes the exact function, and stores no setting for it
    config = GPTConfig(**(content["model_args"] | {"gelu": gelu} | changes))
    sizes = (config.n_layer, config.n_head, config.n_embd, config.block_size, config.vocab_size)
    whole = all(type(size) is int and size > 0 for size in sizes)
    if not whole or config.n_embd % config.n_head or gelu not in ("tanh", "none"):
        raise ValueError(f"no model has {config}")
    return config


def checked_weights(weights: dict[str, torch.Tensor], shapes: dict[str, tuple]) -> dict[str, torch.Tensor]:
    """The weights in float32. ValueError unless they have these names and shapes, and are finite.

    Before a model is built: its size would be what the file says, and not what the file holds.
    """
    if wrong := sorted(weights.keys() ^ shapes.keys()):
        raise ValueError(f"{wrong[0]} is {'missing' if wrong[0] in shapes else 'no weight of it'}")
    for name, shape in shapes.items():
        weight = weights[name]
        if weight.shape != shape or not weight.is_floating_point():
            raise ValueError(f"{name} is {weight.dtype} {list(weight.shape)}, not {list(shape)}")
        if not all(limit.isfinite() for limit in weight.aminmax()):
            raise ValueError(f"{name} holds a number that is not finite")
    return {name: weight.float() for name, weight in weights.items()}


def with_adapters(
    base: Base, weights: dict[str, torch.Tensor], rank: int, corpus_ids: list[int] | None, dropout: float
) -> GPT:
    """The base model with the differences that LoRA trained. ValueError if they belong to another model."""
    new_ids = base.new_ids(corpus_ids)
    weights = checked_weights(weights, lora.shapes(base.model, rank, new_ids))
    base.model.set_dropout(dropout)
    model = lora.attach(base.model, rank, new_ids)
    model.load_state_dict(weights, strict=False)
    return model


def find_base(progress: Progress, block_size: int, path: Path) -> Base:
    """The base model of a LoRA checkpoint at `path`. UserError if it is gone or has changed."""
    origin = progress.base
    if origin is None:
        raise ValueError("they are LoRA weights, and their base model is not named")
    for source in (origin["path"], origin["name"]):
        if source and path.resolve() in (Path(source).resolve(), Path(source).resolve() / "ckpt.pt"):
            raise ValueError("they are LoRA weights, and their base model is this file itself")
        if (source and Path(source).exists()) or source in huggingface.HUB:
            return load_base(source, block_size=block_size, sha256=origin["sha256"])
    raise UserError(
        f"{path} holds only LoRA weights for the base model {origin['name']}, which is no longer at "
        f"{origin['path'] or origin['name']}: put it back there"
    )


def load_base(name: str, *, block_size: int | None = None, sha256: str | None = None) -> Base:
    """The model that `init_from` names, on the CPU.

    name: gpt2 or another of OpenAI's sizes, a folder in Hugging Face's layout, an out_dir, or a checkpoint's file.
    block_size: crop the context to so many tokens; None = keep all. sha256: the expected digest of the weights.
    UserError if there is no such model, its weights have another digest, or its context is shorter than block_size.
    """
    if name.removeprefix("openai-community/") in huggingface.HUB and not Path(name).exists():
        name = name.removeprefix("openai-community/")
    path, corpus_ids, description = Path(name), None, tokenizer.GPT2_DESCRIPTION
    on_hub = name in huggingface.HUB and not huggingface.is_model(path)
    if on_hub or huggingface.is_model(path):
        path = huggingface.download(name) if on_hub else path
        model = huggingface.load(path)
        if model.config.vocab_size not in NANOGPT_VOCABULARIES:
            raise UserError(f"{path} has a vocabulary of {model.config.vocab_size}: expected GPT-2's, of 50,257")
        huggingface.check_tokenizer(path)
    elif path.is_file() or checkpoint.resumable(path):
        folder, file_name = (path.parent, path.name) if path.is_file() else (path, "ckpt.pt")
        model, encoder, info = load_model(str(folder), file_name)
        corpus_ids, description = info.corpus_ids, encoder.description
    else:
        raise no_such_model(name)
    digest = checkpoint.digest(model.state_dict())
    if sha256 not in (None, digest):
        raise UserError(f"{name} has changed since a model was trained on top of it (its sha256 differs): restore it")
    if block_size is not None:
        n_positions = model.config.block_size
        if block_size > n_positions:
            raise UserError(
                f"block_size={block_size}, but {name} has {n_positions} positions; type --block_size={n_positions} or "
                "less"
            )
        model = model.cropped(block_size)
    origin = {"name": name, "path": "" if on_hub else str(path.resolve()), "sha256": digest}
    return Base(model, description, corpus_ids, origin)


def no_such_model(name: str) -> UserError:
    """The error for an `init_from` that names no model: what it may be, and the models in the current folder."""
    found = sorted({str(p.parent) for p in Path().glob("*/ckpt.pt")})
    have = f"; here are: {', '.join(found)}" if found else ""
    return UserError(
        f"init_from={name}: no such model; expected {', '.join(huggingface.HUB)}, a folder with ckpt.pt or with "
        f"config.json and {huggingface.WEIGHTS}, a file such as ckpt.pt, or a word that --help lists{have}"
    )
