"""What a run sets out from: fresh weights, a model that is there, or a run in out_dir. `cfg` is train.Settings."""

import dataclasses
from pathlib import Path

import torch

from llm import runtime
from llm.configurator import UserError
from llm.model import GPT, GPTConfig
from llm.network import corpus_softmax as corpus
from llm.network import lora
from llm.network.look_back import look_back
from llm.runtime import Runtime, notice
from llm.storage import checkpoint, pretrained
from llm.text.dataset import Dataset
from llm.training import optim

OPENING = 3  # places at the beginning of a window: it begins anywhere, so nobody could tell what follows


def build(cfg, rt: Runtime) -> tuple:
    """(cfg, data, model, optimizers, state) to start from. The model has data.corpus's rows.

    cfg: the settings, but for the corpus softmax, which fine-tuning does without. state: iter_num, best_val_loss, place
    in the data and windows to show again, seconds trained, bytes of metrics.jsonl, scaler, updates skipped by it, stale
    (evaluations since val_loss improved), ended (why training ended early), corpus_ids (that occur in all that the
    model learned), and of fine-tuning base, lora_rank and before (see finish.py).
    """
    state = {"iter_num": 0, "best_val_loss": 1e9, "place": None, "again": [], "seconds": 0.0, "metrics_bytes": 0}
    state |= {"scaler": {}, "stale": 0, "ended": "", "skipped": 0, "base": None, "lora_rank": 0, "before": None}
    saved = None
    if cfg.init_from == "scratch":
        data = dataset_of(cfg)
        model = fresh_model(cfg, data)
        state["corpus_ids"] = data.ids
    elif cfg.init_from == "resume":
        path = checkpoint.latest(cfg.out_dir)
        saved = checkpoint.read(path, parts=checkpoint.PARTS, mmap=False)
        state |= {"iter_num": saved["iter_num"], "best_val_loss": float(saved["best_val_loss"])}
        state |= {"corpus_ids": saved.get("corpus_ids")} | saved.get("loop", {})
        cfg = dataclasses.replace(cfg, corpus_softmax=False) if state["base"] else cfg
        data = dataset_of(cfg)
        model = saved_model(saved, path, cfg, data)
    else:
        cfg = dataclasses.replace(cfg, corpus_softmax=False)
        data = dataset_of(cfg)
        model = pretrained_model(cfg, data, state)
    model.gradient_checkpointing = cfg.gradient_checkpointing
    model = model.to(rt.device)
    optimizers = make_optimizers(model, cfg)
    if saved:
        checkpoint.restore_optimizers(optimizers, saved, path)
    return cfg, data, model, optimizers, state


def dataset_of(cfg) -> Dataset:
    """The text to learn. UserError if the settings ask for more than it has."""
    data = Dataset(cfg.dataset, corpus_rows=cfg.corpus_softmax, verify=cfg.verify)
    if data.val is None and (cfg.target_loss or cfg.patience):
        raise UserError(
            f"target_loss and patience are about val_loss, and dataset {data.name} holds nothing out; prepare it with "
            "--val_fraction=0.05, or leave them out"
        )
    return data


def pretrained_model(cfg, data: Dataset, state: dict) -> GPT:
    """The model that cfg.init_from names, ready to be fine-tuned; notes in `state` where it comes from."""
    if Path(cfg.init_from).resolve() in (Path(cfg.out_dir).resolve(), (Path(cfg.out_dir) / "ckpt.pt").resolve()):
        raise UserError(
            f"init_from={cfg.init_from} is out_dir itself: type --init_from=resume to go on there, or another --out_dir"
        )
    base = pretrained.load_base(cfg.init_from, block_size=cfg.block_size)
    if base.tokenizer_description != data.tokenizer_description:
        raise UserError(f"dataset {data.name} is prepared for another tokenizer than {cfg.init_from} was trained with")
    union = sorted({*base.corpus_ids, *data.ids}) if base.corpus_ids and data.ids else None
    state |= {"base": base.origin, "lora_rank": cfg.lora_rank, "corpus_ids": union}
    base.model.set_dropout(cfg.dropout)
    return lora.attach(base.model, cfg.lora_rank, base.new_ids(data.ids)) if cfg.lora_rank else base.model


def model_config(cfg, vocab_size: int) -> GPTConfig:
    """The shape that the settings describe, with so many rows in the token table."""
    names = ("n_layer", "n_head", "n_embd", "block_size", "bias", "dropout")
    return GPTConfig(vocab_size=vocab_size, gelu="tanh", **{name: getattr(cfg, name) for name in names})


def fresh_model(cfg, data: Dataset) -> GPT:
    """The model that the settings describe, with random weights."""
    rows, others = (data.corpus.rows, data.corpus.others) if data.corpus else (data.vocab_size, 0)
    model = GPT(model_config(cfg, rows), others=others)
    if cfg.weights == "look_back":
        look_back(model)
    return model


def saved_model(saved: dict, path: Path, cfg, data: Dataset) -> GPT:
    """The model of a checkpoint that this run can go on with; UserError where it cannot."""
    loop = saved.get("loop", {})
    if (
        pretrained.describe_tokenizer(saved, path) != data.tokenizer_description
        or loop.get("text_sha256", data.train.sha256) != data.train.sha256
    ):
        raise UserError(
            f"{path} was trained on another text (dataset {saved['config'].get('dataset')}) than dataset "
            f"{data.name} holds now; resume with that one, or leave out --init_from=resume to begin anew"
        )
    shared = bool(saved["config"].get("corpus_softmax") and saved.get("corpus_ids"))
    if shared != (data.corpus is not None):
        raise UserError(f"{path} was trained with another softmax; type --corpus_softmax={shared}")
    for name in ("optimizer", "seed", "lora_rank"):
        if saved["config"].get(name, getattr(cfg, name)) != getattr(cfg, name):
            raise UserError(f"{name} cannot change on resume; type --{name}={saved['config'][name]}, as in {path}")
    if len(loop.get("place") or (0, 0)) != 2:
        raise UserError(f"{path} is of an earlier llm, whose order of windows is gone; begin anew, or sample from it")
    kept = [f"{k}={v}" for k, v in saved["model_args"].items() if k != "dropout" and getattr(cfg, k, v) != v]
    if kept:
        notice(f"the shape of the model cannot change on resume: {', '.join(kept)}, as in {path}")
    model = pretrained.build_model(saved, path, dropout=cfg.dropout)
    return corpus.compact(model, data.corpus) if data.corpus else model


def make_optimizers(model: GPT, cfg) -> list[torch.optim.Optimizer]:
    """What the settings say, over the model's parameters: see optim.make_optimizers."""
    return optim.make_optimizers(
        model,
        optimizer=cfg.optimizer,
        learning_rate=cfg.learning_rate,
        muon_lr=cfg.muon_lr,
        muon_momentum=cfg.muon_momentum,
        weight_decay=cfg.weight_decay,
        betas=(cfg.beta1, cfg.beta2),
    )


def position_weights_of(cfg, block_size: int, rt: Runtime) -> torch.Tensor | None:
    """(block_size,): what each place of a window counts for; None where all count alike."""
    if cfg.opening_weight == 1.0:
        return None
    weights = torch.ones(block_size, device=rt.device)
    weights[:OPENING] = cfg.opening_weight
    return weights


def memory_note(model: GPT, optimizers: list[torch.optim.Optimizer], cfg, rt: Runtime) -> str:
    """One line if training will hardly fit into the memory that is free; empty if it will, or nobody can say.

    Counted: the weights, their gradients, AdamW's two means or Muon's one, and of each token of a micro-batch what the
    backward pass needs: some 20 numbers a layer and width, the attention's 3 a head and place, and the logits' 3.
    """
    free = runtime.free_memory(rt.device)
    of_muon = sum(p.numel() for o in optimizers[1:] for group in o.param_groups for p in group["params"])
    params, c = model.num_params(), model.config
    states = 4 * (4 * params - of_muon)
    width = 4 if rt.dtype == torch.float32 else 2
    a_token = c.n_layer * (20 * c.n_embd + 3 * c.n_head * c.block_size) * width + 3 * model.lm_head.weight.size(0) * 4
    needed = states + cfg.batch_size * c.block_size * a_token
    if free is None or needed < free:
        return ""
    return (
        f"training will take about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free: lower "
        f"--batch_size={cfg.batch_size} and raise --gradient_accumulation_steps={cfg.gradient_accumulation_steps}, or "
        "take a smaller model"
    )


def described(model: GPT, data: Dataset, state: dict) -> str:
    """The model in words."""
    words = f"{model.num_params():,} parameters"
    if data.corpus:
        words += f", the {data.corpus.others:,} rows of tokens that do not occur as one"
    if state["base"]:
        words += f", fine-tuned from {state['base']['name']}"
    if state["lora_rank"]:
        learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
        words += f", {learning:,} of them learn (rank {state['lora_rank']})"
    return words
