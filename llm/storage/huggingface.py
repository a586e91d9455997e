"""Read and write GPT-2 models in Hugging Face's layout.

A folder holds config.json and the weights in model.safetensors, or in several files that model.safetensors.index.json
lists. The weights have our names without "transformer.", and the blocks' matrices are transposed (GPT-2's Conv1D).
Needs the extra hf (safetensors and, to download gpt2 and the like, huggingface_hub), but not transformers.
"""

import json
import re
from pathlib import Path

import torch

from llm.configurator import UserError, is_a, require
from llm.files import read_regular, write_atomic
from llm.model import GPT, MAX_LAYERS, GPTConfig, uninitialised, weight_shapes
from llm.text.tokenizer import PATTERNS, BytePairs, all_merges, gpt2, printable_tokens

HUB = {name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")}
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
GELUS = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "none"}  # config.json's names -> GPTConfig's
GPT2_SETTINGS = {  # settings in which other models differ from GPT-2; a missing one has this value
    "model_type": "gpt2",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
    "add_cross_attention": False,
    "layer_norm_epsilon": 1e-5,
}
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
FLOATS = ("F64", "F32", "F16", "BF16")  # safetensors' names of what a weight may be stored in
NO_WEIGHTS = re.compile(r"h\.\d+\.attn\.(masked_)?bias|lm_head\.weight")  # causal masks, and the tied table's copy


# ---------------------------------------------------------------------------------------------------------------------
# reading


def download(name: str) -> Path:
    """The folder of one of OpenAI's models, downloaded unless it is in the hub's cache."""
    hub = require("huggingface_hub", "hf")
    try:
        return Path(hub.snapshot_download(HUB[name], allow_patterns=["config.json", WEIGHTS]))
    except Exception as e:  # no network, unknown host, a proxy's answer: httpx's, requests' and the hub's own errors
        raise UserError(
            f"{name} is not on this machine and cannot be downloaded ({type(e).__name__}); where there is a network, "
            f"download config.json and {WEIGHTS} from https://huggingface.co/{HUB[name]} into a folder, copy it to "
            "this machine, and type --init_from=THAT_FOLDER"
        ) from None


def is_model(folder: Path) -> bool:
    """Whether a folder is in Hugging Face's layout."""
    return (folder / "config.json").is_file()


def read_config(folder: Path) -> GPTConfig:
    """The shape that config.json describes (dropout 0). UserError for a model of another architecture."""
    path = folder / "config.json"
    try:
        config = json.loads(read_regular(path).decode("utf-8"))
        differences = differences_from_gpt2(config)
        shape = shape_of(config)
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path} does not describe a GPT-2 in Hugging Face's layout") from None
    if differences:
        raise UserError(f"{path} describes another architecture than GPT-2's: {', '.join(differences)[:200]}")
    return shape


def differences_from_gpt2(config: dict) -> list[str]:
    """The settings of a config.json that our GPT cannot compute, as "name = value"."""
    names = [name for name, expected in GPT2_SETTINGS.items() if config.get(name, expected) != expected]
    if config.get("n_inner") not in (None, 4 * config["n_embd"]):
        names.append("n_inner")
    if config.get("activation_function", "gelu_new") not in GELUS:
        names.append("activation_function")
    return [f"{name} = {config[name]!r}" for name in names]


def shape_of(config: dict) -> GPTConfig:
    """The shape that the content of a config.json describes. ValueError if it is no model's."""
    shape = GPTConfig(
        n_layer=config["n_layer"],
        n_head=config["n_head"],
        n_embd=config["n_embd"],
        block_size=config.get("n_positions", 1024),
        bias=bool(config.get("llm_bias", True)),
        vocab_size=config.get("vocab_size", 50257),
        dropout=0.0,
        gelu=GELUS.get(config.get("activation_function", "gelu_new"), ""),
    )
    sizes = (shape.n_layer, shape.n_head, shape.n_embd, shape.block_size, shape.vocab_size)
    if not all(is_a(size, int) and 0 < size < 2**31 for size in sizes) or shape.n_embd % shape.n_head:
        raise ValueError(f"no model has {shape}")
    return shape


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder. UserError if there are none."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    try:
        names = sorted(set(json.loads(read_regular(folder / INDEX).decode("utf-8"))["weight_map"].values()))
    except OSError:
        has_pickle = (folder / "pytorch_model.bin").is_file()
        reason = ": pytorch_model.bin is a pickle, which is never read here" if has_pickle else ""
        raise UserError(f"{folder} holds no {WEIGHTS}{reason}; save the model as safetensors") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        names = []
    if not names or not all(isinstance(name, str) and re.fullmatch(r"[\w.-]+\.safetensors", name) for name in names):
        raise UserError(f"{folder / INDEX} is damaged: expected the names of its safetensors files")
    if absent := [name for name in names if not (folder / name).is_file()]:  # also a pipe, which would wait for ever
        raise UserError(f"cannot read {folder / absent[0]}: it is missing, or not a regular file")
    return [folder / name for name in names]


def check_tokenizer(folder: Path) -> None:
    """UserError if a folder holds a byte-pair tokenizer of other merges than GPT-2's, as models of other languages do.

    Without a tokenizer, GPT-2's is taken for granted.
    """
    try:
        if (folder / "merges.txt").is_file():
            merges = [line for line in (folder / "merges.txt").read_text(encoding="utf-8").split("\n") if line]
            merges = merges[1:] if merges[0].startswith("#version") else merges
        elif (folder / "tokenizer.json").is_file():
            found = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"]
            merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in found]
        else:
            return
    except OSError as e:
        raise UserError(f"cannot read the tokenizer in {folder}: {e.strerror}") from None
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        merges = []
    if merges != list(gpt2().merges):
        raise UserError(f"{folder} has a tokenizer of its own: expected a model with GPT-2's (merges.txt differs)")


def load(folder: Path) -> GPT:
    """The model in a folder, on the CPU, float32, dropout 0.

    Copies one tensor at a time from the file into the model, so it takes little more memory than the model itself.
    UserError for a model that is no GPT-2, or damaged.
    """
    safetensors = require("safetensors", "hf")
    shape = read_config(folder)
    files = weight_files(folder)
    try:
        readers = [safetensors.safe_open(path, framework="pt") for path in files]
        stored = {  # our name without "transformer.": (reader, name in its file)
            name.removeprefix("transformer."): (reader, name)
            for reader in readers
            for name in reader.keys()  # noqa: SIM118 (a reader is no dict)
        }
        return fill(shape, stored)
    except Misfit as e:
        raise UserError(f"the weights in {folder} do not fit its config.json: {e}") from None
    except OSError as e:
        raise UserError(f"cannot read the weights in {folder}: {e.strerror or e}") from None
    except (safetensors.SafetensorError, RuntimeError, ValueError) as e:
        raise UserError(f"the weights in {folder} are damaged ({str(e).splitlines()[0][:100]})") from None


class Misfit(Exception):
    """Stored weights do not have the names and shapes that config.json implies."""


def fill(shape: GPTConfig, stored: dict[str, tuple]) -> GPT:
    """A model of this shape with the stored weights: name -> (safetensors reader, name in its file)."""
    check_stored(shape, stored)  # before a model of absurd size is built
    model = uninitialised(shape).to_empty(device="cpu")
    model.transformer.wte.weight = model.lm_head.weight
    weights = {name.removeprefix("transformer."): p for name, p in model.state_dict().items()}
    del weights["lm_head.weight"]  # tied
    for name, weight in weights.items():
        reader, stored_name = stored[name]
        tensor = reader.get_tensor(stored_name)
        weight.copy_(tensor.T if name.endswith(TRANSPOSED) else tensor)
        if not all(limit.isfinite() for limit in weight.aminmax()):
            raise Misfit(f"{name} holds a number that is not finite")
    if "lm_head.weight" in stored:
        reader, stored_name = stored["lm_head.weight"]
        if not torch.equal(reader.get_tensor(stored_name).to(torch.float32), model.lm_head.weight):
            raise Misfit("lm_head.weight differs from wte.weight, but GPT-2 has one table for both")
    return model


def check_stored(shape: GPTConfig, stored: dict[str, tuple]) -> None:
    """Misfit if a weight is not stored, an unknown one is, or one has another shape or holds no numbers with points."""
    if shape.n_layer > min(len(stored), MAX_LAYERS):
        raise Misfit(f"{shape.n_layer} layers")
    expected = {name.removeprefix("transformer."): list(size) for name, size in weight_shapes(shape).items()}
    del expected["lm_head.weight"]  # tied
    ignored = set() if shape.bias else {f"{name.removesuffix('weight')}bias" for name in expected}
    missing = [name for name in expected if name not in stored]
    unknown = [name for name in stored if not (name in expected or name in ignored or NO_WEIGHTS.fullmatch(name))]
    if missing or unknown:
        raise Misfit((missing or unknown)[0])
    for name, size in expected.items():
        reader, stored_name = stored[name]
        part = reader.get_slice(stored_name)
        found, kind = part.get_shape(), part.get_dtype()
        if name.endswith(TRANSPOSED):
            found = found[::-1]
        if found != size or kind not in FLOATS:
            raise Misfit(f"{name} is {kind} {found}, not {size}")


# ---------------------------------------------------------------------------------------------------------------------
# writing


def save(model: GPT, folder: Path, *, end_of_text: int | None) -> None:
    """Write config.json, generation_config.json and model.safetensors into an existing folder."""
    safetensors_torch = require("safetensors.torch", "hf")
    generation = {"bos_token_id": end_of_text, "eos_token_id": end_of_text, "do_sample": False}
    write_atomic(folder / WEIGHTS, safetensors_torch.save(stored_weights(model), metadata={"format": "pt"}))
    write_json(folder / "config.json", config_json(model.config, end_of_text))
    write_json(folder / "generation_config.json", generation)


def config_json(config: GPTConfig, end_of_text: int | None) -> dict:
    """The content of config.json for a model of this shape."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": {"tanh": "gelu_new", "none": "gelu"}[config.gelu],
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_positions": config.block_size,
        "n_ctx": config.block_size,
        "vocab_size": config.vocab_size,
        "layer_norm_epsilon": 1e-5,
        "attn_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "llm_bias": config.bias,  # ours: False if all biases are zeros that stand for none (GPT-2 always has biases)
    }


def stored_weights(model: GPT) -> dict[str, torch.Tensor]:
    """The model's weights as Hugging Face stores them; biases that the model lacks are zeros."""
    weights = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        stored = (tensor.T if name.endswith(TRANSPOSED) else tensor).contiguous()
        weights[name] = stored
        if not model.config.bias and ".wte" not in name and ".wpe" not in name:
            weights[name.removesuffix("weight") + "bias"] = torch.zeros(tensor.size(0))
    return weights


def save_tokenizer(tokenizer: BytePairs, folder: Path) -> None:
    """Write a tokenizer as Hugging Face's AutoTokenizer reads it: GPT-2's by its class, a book's as tokenizer.json."""
    end = "<|endoftext|>"
    vocabulary = {token: number for number, token in enumerate(printable_tokens(tokenizer.merges))}
    config = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "add_bos_token": False}
    config |= {"bos_token": end, "eos_token": end, "unk_token": end, "clean_up_tokenization_spaces": False}
    if tokenizer.description["kind"] == "gpt2":
        merges = "\n".join(["#version: 0.2", *tokenizer.merges, ""])
        write_atomic(folder / "vocab.json", json.dumps(vocabulary, ensure_ascii=False).encode())
        write_atomic(folder / "merges.txt", merges.encode())
    else:
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        write_json(folder / "tokenizer.json", tokenizer_json(tokenizer, vocabulary))
    write_json(folder / "tokenizer_config.json", config)


def tokenizer_json(tokenizer: BytePairs, vocabulary: dict[str, int]) -> dict:
    """The content of tokenizer.json; vocabulary: printable token -> id."""
    end = {"id": tokenizer.end_of_text, "content": "<|endoftext|>", "special": True}
    end |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {
        "type": "Split",
        "pattern": {"Regex": PATTERNS[tokenizer.pattern]},
        "behavior": "Isolated",
        "invert": False,
    }
    model = {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False}
    model |= {"continuing_subword_prefix": None, "end_of_word_suffix": None, "ignore_merges": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [end],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": model | {"vocab": vocabulary, "merges": [merge.split(" ") for merge in all_merges(tokenizer)]},
    }


def write_json(path: Path, content: dict) -> None:
    write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())
