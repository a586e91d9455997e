"""What a run starts from: random weights, a pretrained model, or a checkpoint of the run itself."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from llm.configurator import UserError
from llm.model import GPT, GPTConfig
from llm.network import lora
from llm.network.corpus_softmax import CompactGPT, compact
from llm.network.look_back import set_look_back_weights
from llm.runtime import Runtime, notice
from llm.storage import checkpoint, pretrained
from llm.storage.progress import Progress
from llm.text.dataset import Dataset

N_FIRST_POSITIONS = 3  # of a window, which begins anywhere: too little context to predict from


@dataclass(frozen=True)
class Start:
    """The state that a run starts from."""

    model: GPT  # on the CPU; a CompactGPT if it trains with the corpus softmax
    progress: Progress
    corpus_ids: list[int] | None  # ids that occur in all that the model has learned or will learn; None = unknown
    checkpoint: dict | None = None  # of the run that is resumed: its optimizers are still to be restored
    path: Path | None = None  # of that checkpoint


def random_weights(config: GPTConfig, data: Dataset, *, corpus_softmax: bool, weights: str) -> Start:
    """A new model of this shape; weights: the setting of that name. A text is written into random ones."""
    compact_table = corpus_softmax and data.corpus_ids is not None
    model = CompactGPT(config, data.corpus_ids) if compact_table else GPT(config)
    if weights == "look_back":
        set_look_back_weights(model)
    n_written = 0 if weights == "written" else None
    return Start(model, Progress(text_sha256=data.train.sha256, n_written=n_written), data.corpus_ids)


def pretrained_weights(
    init_from: str, data: Dataset, *, out_dir: Path, block_size: int, dropout: float, lora_rank: int
) -> Start:
    """The model that init_from names, ready to be fine-tuned. UserError if it is not usable for this dataset."""
    if Path(init_from).resolve() in (out_dir.resolve(), (out_dir / "ckpt.pt").resolve()):
        raise UserError(
            f"init_from={init_from} is out_dir itself: type --init_from=resume to go on there, or another --out_dir"
        )
    base = pretrained.load_base(init_from, block_size=block_size)
    if base.tokenizer_description != data.tokenizer_description:
        raise UserError(f"dataset {data.name} is prepared for another tokenizer than {init_from} was trained with")
    both_known = base.corpus_ids and data.corpus_ids
    corpus_ids = sorted({*base.corpus_ids, *data.corpus_ids}) if both_known else None
    base.model.set_dropout(dropout)
    model = lora.attach(base.model, lora_rank, base.new_ids(data.corpus_ids)) if lora_rank else base.model
    return Start(model, Progress(text_sha256=data.train.sha256, base=base.origin, lora_rank=lora_rank), corpus_ids)


def resumed(
    data: Dataset,
    *,
    out_dir: str,
    corpus_softmax: bool,
    dropout: float,
    fixed: dict[str, object],
    shape: dict[str, int],
    enlarged: bool,
) -> Start:
    """The latest checkpoint in out_dir. UserError if this run cannot go on from it.

    fixed: settings that cannot change on resume; shape: the model's shape as the settings have it, which the checkpoint
    overrides, with a notice; enlarged: it may have followed from the text, so a larger one needs no notice.
    """
    path = checkpoint.latest(out_dir)
    saved = checkpoint.read(path, parts=checkpoint.PARTS, mmap=False)
    progress, config = saved["progress"], saved["config"]
    if (
        pretrained.describe_tokenizer(saved, path) != data.tokenizer_description
        or (progress.text_sha256 or data.train.sha256) != data.train.sha256
    ):
        raise UserError(
            f"{path} was trained on another text (dataset {config.get('dataset')}) than dataset {data.name} holds now; "
            "resume with that one, or leave out --init_from=resume to begin anew"
        )
    was_compact = bool(config.get("corpus_softmax") and saved.get("corpus_ids"))
    is_compact = corpus_softmax and data.corpus_ids is not None and progress.base is None
    if was_compact != is_compact:
        raise UserError(f"{path} was trained with another softmax; type --corpus_softmax={was_compact}")
    for name, value in fixed.items():
        if config.get(name, value) != value:
            raise UserError(f"{name} cannot change on resume; type --{name}={config[name]}, as in {path}")
    if len(progress.position) != 2:
        raise UserError(f"{path} is of an earlier llm, whose order of windows is gone; begin anew, or sample from it")
    if enlarged:
        shape |= {name: max(shape[name], saved["model_args"][name]) for name in ("n_layer", "n_head", "n_embd")}
    kept = [f"{name}={value}" for name, value in saved["model_args"].items() if shape.get(name, value) != value]
    if kept:
        notice(f"the shape of the model cannot change on resume: {', '.join(kept)}, as in {path}")
    model = pretrained.build_model(saved, path, dropout=dropout)
    if progress.replay_starts and max(progress.replay_starts) + model.config.block_size >= len(data.train):
        raise UserError(f"{path} is damaged: it repeats windows that dataset {data.name} does not have")
    model = compact(model, data.corpus_ids) if is_compact else model
    progress.text_sha256 = data.train.sha256
    return Start(model, progress, saved.get("corpus_ids"), saved, path)


def share_work(rt: Runtime, accumulation_steps: int, *, shard: bool, watch: bool) -> tuple[Runtime, bool]:
    """(runtime, whether the model is sharded) of a training in so many processes. UserError if they cannot share it."""
    if accumulation_steps % rt.world_size:
        raise UserError(
            f"gradient_accumulation_steps={accumulation_steps} counts over all processes, so it must be a multiple of "
            f"their number, {rt.world_size}"
        )
    if not shard:
        return rt, False
    if rt.world_size == 1:
        notice("shard=True has no effect in one process: start several with torchrun")
        return rt, False
    if watch:
        raise UserError("watch=True reads all weights in one process, and shard=True spreads them: leave out one")
    return dataclasses.replace(rt, compile=False), True


def agreed(begin: Start, rt: Runtime) -> Start:
    """The same start. UserError unless all ranks have it: on several hosts, their folders may not be the same."""
    states = rt.gather([(begin.progress.text_sha256, begin.progress.iter_num, begin.progress.n_written)])
    if len(set(states)) > 1:
        steps = ", ".join(f"{iter_num:,}" for _, iter_num, _ in states)
        text = "the same text" if len({text for text, *_ in states}) == 1 else "different texts"
        raise UserError(
            f"the {rt.world_size} processes start from {text} at steps {steps}: out_dir and the dataset must be the "
            "same folders on all hosts (docs/two_hosts.md)"
        )
    return begin


def keep_threads(progress: Progress, rt: Runtime) -> None:
    """On CPUs, resume with as many threads as before: a resumed run is bit-exact only with the same number."""
    if rt.device.type != "cpu":
        return
    now = torch.get_num_threads()
    if progress.threads not in (0, now):
        torch.set_num_threads(progress.threads)
        notice(f"going on with {progress.threads} threads, as before (here {now} are usual): sums stay bit-exact")
    progress.threads = torch.get_num_threads()


def position_weights(block_size: int, first: float, device: torch.device) -> torch.Tensor | None:
    """(block_size,) loss weights, `first` for the first positions and 1 for the others; None if all are 1."""
    if first == 1.0:
        return None
    weights = torch.ones(block_size, device=device)
    weights[:N_FIRST_POSITIONS] = first
    return weights


def describe_model(model: GPT, progress: Progress) -> str:
    """The model in words: its parameters, and what is special about them."""
    words = f"{model.num_params():,} parameters"
    if isinstance(model, CompactGPT):
        c = model.config
        full = model.num_params() + (c.vocab_size - len(model.lm_head.weight)) * c.n_embd
        words = f"{full:,} parameters; {model.num_params():,} while it trains: the {model.n_other:,} tokens that do not"
        words += " occur share one row of the table"
    if progress.base:
        words += f", fine-tuned from {progress.base['name']}"
    if progress.lora_rank:
        n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        words += f", {n_trained:,} of them trained (rank {progress.lora_rank})"
    return words
