"""Any causal language model in Hugging Face's layout, loaded for measuring. Needs the extra hf.

A folder holds config.json, the weights as safetensors, and a tokenizer. Pickled weights are never read, and code that
comes with a model is never run. A name, such as gpt2, is downloaded by huggingface_hub unless it is in its cache.
"""

import hashlib
import inspect
import json
from pathlib import Path

import numpy as np
import torch

from llm.configurator import UserError, require
from llm.files import open_regular, read_regular
from llm.reading.generate import context_start
from llm.runtime import Runtime
from llm.storage.huggingface import is_model, weight_files

DOWNLOADED = [  # neither pickles nor code
    *("config.json", "generation_config.json", "*.safetensors", "model.safetensors.index.json"),
    *("tokenizer*.json", "tokenizer.model", "*.tiktoken", "vocab*", "merges.txt", "*tokens*.json"),
]
UNLIMITED = 2**31  # tokens: the context of a model that states none


def find_folder(name: str) -> Path:
    """The folder of a model: that of this name, else the hub's. UserError if there is neither."""
    path = Path(name).expanduser()
    if is_model(path):
        return path
    if path.exists():
        if (path / "ckpt.pt").exists():
            raise UserError(f"model={name} is an out_dir of train.py: type --out_dir={name}")
        raise UserError(f"model={name} has no config.json: expected a folder in Hugging Face's layout")
    hub = require("huggingface_hub", "hf")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=DOWNLOADED))
    except Exception as e:  # no network, unknown names, a proxy's answer: httpx's, requests' and the hub's own errors
        raise UserError(
            f"model={name} is neither a folder here nor in the hub's cache, and cannot be downloaded "
            f"({type(e).__name__}); where there is a network, download it into a folder, and type --model=THAT_FOLDER"
        ) from None


class HuggingFaceModel:
    """A causal language model and its tokenizer; see models.py for the attributes."""

    n_shared, drawable = 1, None

    def __init__(self, name: str, rt: Runtime, quick_dtype: torch.dtype | None = None):
        """name: a folder, or a name of the hub. UserError if it cannot be loaded without pickles and foreign code."""
        transformers = require("transformers", "hf")
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.name, self.device, self.dtype, self.quick_dtype = name, rt.device, rt.dtype, quick_dtype
        folder = find_folder(name)
        self.files = weight_files(folder)
        check_architecture(folder, transformers)
        self.model = load_weights(folder, transformers, rt)
        self.tokenizer = load_tokenizer(folder, transformers)
        head = self.model.get_output_embeddings()
        config = self.model.config.get_text_config()
        self.n_columns = config.vocab_size if head is None else head.weight.shape[0]
        self.context = getattr(config, "max_position_embeddings", None) or UNLIMITED
        self.beginning = beginning_of_text(self.tokenizer)
        self.keeps_logits = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        self.sha256 = digest([folder / "config.json", *self.files])

    def describe(self) -> dict:
        return {
            "model": Path(self.name).name if Path(self.name).exists() else self.name,
            "model_sha256": self.sha256,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = np.array(encoded["input_ids"], dtype=np.int64)
        if ids.max(initial=0) >= self.n_columns:
            raise UserError(f"{self.name}: its tokenizer has ids up to {ids.max()}, its table {self.n_columns} rows")
        ends = np.array([end for _, end in encoded["offset_mapping"]], dtype=np.int64)
        return ids, np.maximum.accumulate(np.concatenate([[0], ends]))  # white space before a token belongs to it

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def logits(self, x: torch.Tensor, n_last: int, dtype: torch.dtype | None) -> torch.Tensor:
        kept = {"logits_to_keep": n_last} if self.keeps_logits else {}
        # weights are cast again for each batch, so that they stand in memory once
        with torch.autocast(x.device.type, dtype or torch.bfloat16, enabled=dtype is not None, cache_enabled=False):
            return self.model(input_ids=x, use_cache=False, **kept).logits[:, -n_last:]

    def columns_of(self, ids: torch.Tensor) -> torch.Tensor:
        return ids

    @torch.inference_mode()
    def continuation(self, ids: list[int], n: int) -> list[int]:
        """Greedy. A full context loses its older half, as in reading/generate.py."""
        ids, prompt_length, start, cache = list(ids), len(ids), None, None
        for _ in range(n):
            begin = context_start(prompt_length, len(ids), self.context - len(self.beginning))
            if begin != start:
                given, start, cache = self.beginning + ids[begin:], begin, None
            else:
                given = ids[-1:]
            x = torch.tensor([given], device=self.device)
            output = self.model(input_ids=x, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            ids.append(int(output.logits[0, -1].argmax()))
        return ids[prompt_length:]


def check_architecture(folder: Path, transformers) -> None:
    """UserError if config.json cannot be read, or names a model that only code of its own can build."""
    path = folder / "config.json"
    try:
        config = json.loads(read_regular(path).decode("utf-8"))
        kind, has_code = config["model_type"], "auto_map" in config
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path} does not describe a model in Hugging Face's layout") from None
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
        reason = ": it needs code that comes with it, which is never run here" if has_code else ""
        raise UserError(f"{folder} holds a model of kind {kind!r:.60}, unknown to transformers{reason}")


def load_weights(folder: Path, transformers, rt: Runtime) -> torch.nn.Module:
    """The model on the runtime's device, in its dtype. UserError if it cannot be loaded, or weights are missing."""
    try:
        model, found = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=rt.dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as e:  # transformers' own, safetensors' and torch's errors
        raise UserError(f"{folder} cannot be loaded ({type(e).__name__}: {first_line(e)})") from None
    if wrong := [*found["missing_keys"], *found["mismatched_keys"]]:
        raise UserError(f"{folder} does not hold all weights of its config.json: {sorted(map(str, wrong))[0]}")
    fuse_gelu(model, transformers.activations.NewGELUActivation)
    return model.to(rt.device).eval()


def fuse_gelu(model: torch.nn.Module, written_out: type) -> None:
    """Let torch compute GPT-2's activation in one operator instead of eight, which were a tenth of a CPU's time."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is written_out:
                setattr(module, name, torch.nn.GELU(approximate="tanh"))


def load_tokenizer(folder: Path, transformers):
    """The tokenizer of a folder. UserError if there is none, or none that says where its tokens stand in a text."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, use_fast=True, trust_remote_code=False, local_files_only=True
        )
    except Exception as e:  # as above
        raise UserError(f"{folder}: its tokenizer cannot be loaded ({type(e).__name__}: {first_line(e)})") from None
    if not tokenizer.is_fast:
        kind = type(tokenizer).__name__
        raise UserError(f"{folder}: {kind} has no offsets of its tokens in the text: expected one with tokenizer.json")
    return tokenizer


def beginning_of_text(tokenizer) -> list[int]:
    """The special tokens that the tokenizer puts before a text; [] if there are none."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    return whole[: whole.index(plain[0])] if plain and plain[0] in whole else []


def digest(files: list[Path]) -> str:
    """sha256 of several files' contents, one after the other."""
    sha256 = hashlib.sha256()
    for path in files:
        with open_regular(path) as f:
            while block := f.read(2**22):
                sha256.update(block)
    return sha256.hexdigest()


def first_line(error: Exception) -> str:
    """The beginning of an error's message."""
    return (str(error).strip() or "no reason given").splitlines()[0][:160]
