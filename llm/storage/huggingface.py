"""GPT-2 in Hugging Face's layout: read into our model, written from it. Needs the extra hf (safetensors, and for names
such as gpt2, huggingface_hub); transformers is not needed.

A folder holds config.json and the weights in model.safetensors, or in several files that model.safetensors.index.json
lists. Names are ours without "transformer.", and the matrices of the blocks are transposed (GPT-2's Conv1D).
"""

import json
import re
from pathlib import Path

import torch

from llm.configurator import UserError, is_a, require
from llm.files import write_atomic
from llm.model import GPT, GPTConfig, uninitialised

HUB = {name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")}
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
GELUS = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "none"}  # config.json's names: GPTConfig's
AS_GPT2 = {  # settings of theirs that other models have; absent means the same
    "model_type": "gpt2",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
    "add_cross_attention": False,
    "layer_norm_epsilon": 1e-5,
}
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
NO_WEIGHTS = re.compile(r"h\.\d+\.attn\.(masked_)?bias|lm_head\.weight")  # causal masks, and the tied table's copy


def download(name: str) -> Path:
    """The folder of one of OpenAI's models, downloaded unless it was before."""
    hub = require("huggingface_hub", "hf")
    try:
        return Path(hub.snapshot_download(HUB[name], allow_patterns=["config.json", WEIGHTS]))
    except Exception as e:  # no network, no such host, a proxy's answer: httpx's, requests' and the hub's own errors
        raise UserError(
            f"{name} is not on this machine and cannot be downloaded ({type(e).__name__}); where there is a network, "
            f"download config.json and {WEIGHTS} from https://huggingface.co/{HUB[name]} into a folder, bring it here, "
            "and type --init_from=THAT_FOLDER"
        ) from None


def is_model(folder: Path) -> bool:
    """Whether a folder says that it holds such a model."""
    return (folder / "config.json").is_file()


def read_config(folder: Path) -> GPTConfig:
    """The shape that config.json describes (dropout 0). UserError for a model of another architecture."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        different = [f"{k} = {config[k]!r}" for k, usual in AS_GPT2.items() if config.get(k, usual) != usual]
        width, inner = config["n_embd"], config.get("n_inner")
        different += [f"n_inner = {inner!r}"] if inner not in (None, 4 * width) else []
        shape = GPTConfig(
            n_layer=config["n_layer"],
            n_head=config["n_head"],
            n_embd=width,
            block_size=config.get("n_positions", 1024),
            bias=bool(config.get("llm_bias", True)),
            vocab_size=config.get("vocab_size", 50257),
            dropout=0.0,
            gelu=GELUS.get(config.get("activation_function", "gelu_new"), ""),
        )
        sizes = (shape.n_layer, shape.n_head, width, shape.block_size, shape.vocab_size)
        assert all(is_a(size, int) and 0 < size < 2**31 for size in sizes) and width % shape.n_head == 0
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError):
        raise UserError(f"{path} does not describe a GPT-2 in Hugging Face's layout") from None
    different += [f"activation_function = {config['activation_function']!r}"] if not shape.gelu else []
    if different:
        raise UserError(f"{path} describes another architecture than GPT-2's: {', '.join(map(str, different))[:200]}")
    return shape


def weight_files(folder: Path) -> list[Path]:
    """Those of a folder. UserError where they are missing, or pickles."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        assert names and all(re.fullmatch(r"[\w.-]+\.safetensors", name) for name in names)
        return [folder / name for name in names]
    except OSError:
        pickled = (folder / "pytorch_model.bin").is_file()
        why = ": pytorch_model.bin is a pickle, which is never read here" if pickled else ""
        raise UserError(f"{folder} holds no {WEIGHTS}{why}; save the model as safetensors") from None
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
        raise UserError(f"{folder / INDEX} is damaged: expected the names of its safetensors files") from None


def load(folder: Path) -> GPT:
    """The model of a folder, on the CPU, float32, dropout 0.

    Goes tensor by tensor from the file into the model: the memory it takes is the model's. UserError for what is no
    GPT-2, or damaged.
    """
    safetensors = require("safetensors", "hf")
    shape = read_config(folder)
    files = weight_files(folder)
    try:
        readers = [safetensors.safe_open(path, framework="pt") for path in files]
        found = {  # our name: where it is, and the name that it has there
            name.removeprefix("transformer."): (reader, name)
            for reader in readers
            for name in reader.keys()  # noqa: SIM118 (a reader is no dict)
        }
        if shape.n_layer > len(found):
            raise UserError(f"the weights in {folder} do not fit its config.json: {shape.n_layer} layers")
        model = uninitialised(shape).to_empty(device="cpu")
        model.transformer.wte.weight = model.lm_head.weight
        weights = {name.removeprefix("transformer."): p for name, p in model.state_dict().items()}
        del weights["lm_head.weight"]
        zeros = set() if shape.bias else {f"{name.removesuffix('weight')}bias" for name in weights}
        strangers = [name for name in found if not (name in weights or name in zeros or NO_WEIGHTS.fullmatch(name))]
        if missing := [name for name in weights if name not in found] or strangers:
            raise UserError(f"the weights in {folder} do not fit its config.json: {missing[0]}")
        for name, weight in weights.items():
            reader, stored = found[name]
            tensor = reader.get_tensor(stored)
            tensor = tensor.T if name.endswith(TRANSPOSED) and tensor.dim() == 2 else tensor
            if tensor.shape != weight.shape or not tensor.is_floating_point():
                has, wanted = f"{tensor.dtype} {list(tensor.shape)}", list(weight.shape)
                raise UserError(f"the weights in {folder} do not fit its config.json: {name} is {has}, not {wanted}")
            weight.copy_(tensor)
    except OSError as e:
        raise UserError(f"cannot read the weights in {folder}: {e.strerror or e}") from None
    except (safetensors.SafetensorError, RuntimeError, ValueError) as e:
        raise UserError(f"the weights in {folder} are damaged ({str(e).splitlines()[0][:100]})") from None
    return model


def save(model: GPT, folder: Path, *, end_of_text: int | None) -> None:
    """Writes config.json, generation_config.json and model.safetensors into a folder that is there."""
    safetensors_torch = require("safetensors.torch", "hf")
    c = model.config
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": {"tanh": "gelu_new", "none": "gelu"}[c.gelu],
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "n_embd": c.n_embd,
        "n_positions": c.block_size,
        "n_ctx": c.block_size,
        "vocab_size": c.vocab_size,
        "layer_norm_epsilon": 1e-5,
        "attn_pdrop": c.dropout,
        "embd_pdrop": c.dropout,
        "resid_pdrop": c.dropout,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "llm_bias": c.bias,  # ours: whether the biases are weights; their architecture always has some, zeros else
    }
    generation = {"bos_token_id": end_of_text, "eos_token_id": end_of_text, "do_sample": False}
    weights = {}
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":  # tied
            weights[name] = tensor.T.contiguous() if name.endswith(TRANSPOSED) else tensor.contiguous()
    if not c.bias:
        shapes = {name: w.size(1) if name.endswith(TRANSPOSED) else w.size(0) for name, w in weights.items()}
        for name, size in shapes.items():
            if ".wte" not in name and ".wpe" not in name:
                weights[name.removesuffix("weight") + "bias"] = torch.zeros(size)
    write_atomic(folder / WEIGHTS, safetensors_torch.save(weights, metadata={"format": "pt"}))
    for name, content in (("config.json", config), ("generation_config.json", generation)):
        write_atomic(folder / name, (json.dumps(content, indent=2) + "\n").encode())
