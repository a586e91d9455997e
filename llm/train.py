"""Teach a GPT a text, from scratch or by fine-tuning.

    python train.py config/train_tale.py --max_iters=500
    torchrun --standalone --nproc_per_node=2 train.py config/train_tale.py \\
        --gradient_accumulation_steps=2 --batch_size=4

Writes to out_dir: ckpt_init.pt (before the first update), ckpt.pt, metrics.jsonl, recall.json; plot.py draws them.
Every setting can stand in a config file (plain Python) or on the command line; --help lists them.
"""

import contextlib
import dataclasses
import functools
import importlib
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package, installed or not
import llm  # noqa: F401  (checks the installation before torch is imported)

# isort: split
import torch
from torch.nn.parallel import DistributedDataParallel

from llm import runtime
from llm.configurator import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Share,
    UserError,
    run_script,
)
from llm.files import locked_folder
from llm.model import GPT, MAX_LAYERS, GPTConfig
from llm.network import sharding
from llm.reading import recall
from llm.reading.generate import allowed_ids
from llm.runtime import Runtime
from llm.storage import checkpoint
from llm.text.dataset import Dataset
from llm.training import metrics, outputs, start, writing_phase
from llm.training.batches import Batches, split_windows
from llm.training.evaluation import FiniteCheck
from llm.training.interrupt import Interrupt
from llm.training.optim import make_optimizers, set_learning_rate
from llm.training.run import Plan, Run
from llm.training.schedule import Schedule, run_length, short_interval
from llm.training.stopping import StopRule
from llm.training.target import TargetCheck


@dataclass(frozen=True)
class Settings(runtime.Settings):
    # output (names, meanings and defaults are nanoGPT's unless a line says otherwise)
    out_dir: str = "out"  # folder for checkpoints and metrics, relative to the current folder
    eval_interval: PositiveInt = 2000  # updates between evaluations; each also saves
    log_interval: PositiveInt = 1  # updates between lines of metrics and progress
    eval_iters: PositiveInt | None = 200  # fixed batches of val.bin in an evaluation; None = all of it
    eval_only: bool = False  # evaluate once and stop; nothing is saved
    always_save_checkpoint: bool = True  # False: ckpt.pt only if val_loss improves, the latest state in ckpt_last.pt
    init_from: str = "scratch"  # scratch; resume (the run in out_dir); auto (either); or a model: gpt2, a folder
    watch: bool = False  # also serve a page that shows what is known by now (extra: serve)
    # figures elsewhere
    wandb_log: bool = False  # also log to Weights & Biases (extra: wandb)
    wandb_project: str = "owt"  # its project
    wandb_run_name: str = "gpt2"  # its run
    tensorboard_log: bool = False  # also log to TensorBoard, in out_dir (extra: tensorboard)
    # data
    dataset: str = "openwebtext"  # a folder in data/ that its prepare.py has filled
    gradient_accumulation_steps: PositiveInt = 40  # micro-batches per update, over all ranks
    batch_size: PositiveInt = 12  # windows per micro-batch
    block_size: PositiveInt = 1024  # tokens per window: the model's context
    # model
    n_layer: PositiveInt = 12  # blocks
    n_head: PositiveInt = 12  # attention heads; must divide n_embd
    n_embd: PositiveInt = 768  # width
    max_n_embd: PositiveInt | None = None  # a long text is written into a larger shape, up to this width
    dropout: Fraction = 0.0  # 0 to learn by heart; 0.1 or more to generalise from little text
    bias: bool = False  # biases in linear layers and layer norms, as GPT-2 has them
    weights: Literal["gpt2", "look_back", "written"] = "gpt2"  # of a new model; written: solved for in closed form
    # fine-tuning (init_from names a model)
    lora_rank: NonNegativeInt = 0  # train a low-rank difference to each matrix of the blocks; 0 = all weights
    gradient_checkpointing: bool = False  # recompute blocks in the backward pass: slower, less memory
    # loss
    corpus_softmax: bool = True  # over the text's own tokens, all others as one: exact, and a tenth of the work
    opening_weight: PositiveFloat = 1.0  # loss weight of a window's first 3 positions, which have almost no context
    short_block: PositiveInt | None = None  # every 4th update (rarer in long texts) has windows of this many tokens
    # optimizer
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: Muon for the blocks' matrices, AdamW for the rest
    learning_rate: PositiveFloat = 6e-4  # AdamW's peak
    muon_lr: PositiveFloat = 0.015  # Muon's peak
    max_iters: NonNegativeInt | None = 600000  # updates in all, exactly; None = twice lr_decay_iters
    weight_decay: NonNegativeFloat = 0.1  # of matrices and tables
    beta1: Fraction = 0.9  # decay of the mean gradient
    beta2: Fraction = 0.95  # decay of its mean square
    grad_clip: NonNegativeFloat = 1.0  # largest norm of the gradient; 0 = no limit
    # learning rate
    decay_lr: bool = True  # False: constant at learning_rate
    lr_shape: Literal["cosine", "linear", "wsd"] = "cosine"  # of the decay; wsd: 35 % at the peak, then linear
    warmup_iters: NonNegativeInt = 2000  # updates of linear rise
    lr_decay_iters: NonNegativeInt | None = None  # where the decay ends; None = max_iters, else after decay_epochs
    decay_epochs: PositiveFloat = 12.0  # epochs until then if max_iters is None; more in texts above 21,000 tokens
    replay: Fraction = 0.0  # largest fraction of a batch that repeats wrong windows, from a tenth of the peak rate on
    min_lr: NonNegativeFloat | None = None  # where the decay ends; None = a tenth of learning_rate
    # an early end; None = train for max_iters
    target_recall: Share | None = None  # stop at this recall@50/50; 1 = and the whole text recited
    target_loss: PositiveFloat | None = None  # stop at this val_loss
    patience: PositiveInt | None = None  # stop after this many evaluations in which val_loss has not improved
    # several processes (torchrun)
    shard: bool = False  # spread weights, gradients and optimizer states over them (FSDP): less memory in each
    backend: str = "nccl"  # for gradients on GPUs; CPUs always use gloo
    timeout: PositiveFloat = 600.0  # seconds without an answer after which another process counts as lost

    def __post_init__(self):
        if self.n_embd % self.n_head:
            raise UserError(f"n_embd={self.n_embd} is not a multiple of n_head={self.n_head}; change one of them")
        if self.n_layer > MAX_LAYERS:
            raise UserError(f"n_layer={self.n_layer}: expected at most {MAX_LAYERS}, which a checkpoint may hold")
        if self.lora_rank and self.init_from == "scratch":
            raise UserError(f"lora_rank={self.lora_rank} learns a difference to a model: name one with --init_from")


def train(cfg: Settings, resume_command: str = "") -> int:
    """Train. The exit status: 0, or 128 + its number if a signal ended the run; resume_command: see close_run."""
    with contextlib.ExitStack() as stack:  # files, closed and unlocked even after an error
        run, cfg = set_up(cfg, stack)  # from here on, the settings with what the text and the checkpoint decide
        if cfg.eval_only:
            return outputs.print_losses(run)
        wandb = dict(project=cfg.wandb_project, name=cfg.wandb_run_name, config=run.settings) if cfg.wandb_log else None
        outputs.open_outputs(run, stack, wandb=wandb, tensorboard=cfg.tensorboard_log)
        if cfg.watch and run.rt.is_main:
            importlib.import_module("llm.serve").watch(run, stack)  # here alone: training works without serving/
        with run.stop.interrupt:
            learn(run, cfg)
            run.saver.finish()
        return outputs.close_run(run, resume_command)


def learn(run: Run, cfg: Settings) -> None:
    """The training loop. It ends with the latest state saved (or with the reason why not in run.saver.error)."""
    saved_at = run.progress.iter_num if run.resumed else None  # evaluated and saved already, before it was resumed
    if run.progress.n_written is not None and run.progress.iter_num == 0:
        saved_at = None if writing_phase.write_text(run) else 0
    while True:
        with run.timer.measure("measuring"):
            run.stop.check_recall(run.model, run.val_loss if run.data.val else None)
        evaluation_due = run.stop.last_step or run.progress.iter_num % cfg.eval_interval == 0
        if evaluation_due and run.progress.iter_num != saved_at:
            run.evaluate_and_save()
        if run.stop.last_step:
            break
        if run.stop.interrupted():
            run.finite.check_updates(run.progress.iter_num)
            run.saver.save_latest()
            break
        outputs.prepare_updates(run)
        plan = plan_update(run, cfg)
        loss_sum, grad_norm = update(run, cfg, plan)
        run.schedule_replay(plan)
        run.report(plan, loss_sum, grad_norm, logged=run.progress.iter_num % cfg.log_interval == 0)
        run.progress.iter_num += 1


def plan_update(run: Run, cfg: Settings) -> Plan:
    """What is special about the next update: its learning rate, replay of wrong windows, short windows."""
    step = run.progress.iter_num
    replay = cfg.replay > 0 and run.schedule.is_low(step)
    short_block = 0
    if cfg.short_block and not replay and step % short_interval(len(run.data.train)) == 0:
        short_block = min(cfg.short_block, run.batches.T)
    return Plan(run.schedule.rate(step), run.batches.epochs, replay, short_block)


# ---------------------------------------------------------------------------------------------------- one training step
def update(run: Run, cfg: Settings, plan: Plan) -> tuple[torch.Tensor, torch.Tensor]:
    """Forward, backward, clip, optimizer: (sum of this rank's losses, norm of the gradient), scalars on the device."""
    rt, step = run.rt, run.progress.iter_num
    with run.timer.measure("updates"):
        set_learning_rate(run.optimizers, plan.lr / cfg.learning_rate)
        run.step_model.train()
        loss_sum = torch.zeros((), device=rt.device)
        for micro_step in range(run.micro_steps):
            # dropout depends on the step and the micro-batch alone: nothing of it needs saving, and it is the same
            # whichever rank computes that micro-batch
            torch.manual_seed(runtime.seed_for(cfg.seed, step, micro_step * rt.world_size + rt.rank))
            if isinstance(run.step_model, DistributedDataParallel):  # gradients are exchanged once per update
                run.step_model.require_backward_grad_sync = micro_step == run.micro_steps - 1
            x, y = run.batches.next()
            if plan.short_block:
                x, y = split_windows(x, plan.short_block), split_windows(y, plan.short_block)
            x, y = rt.to_device(x), rt.to_device(y)
            with rt.autocast():
                logits, loss = run.step_model(x, y, position_weights=run.position_weights)
            if not plan.short_block:  # which tokens are right: for replay, and for the estimate of what is known
                run.grade(logits, y, replay=plan.replay)
            del logits  # large, and not needed for the gradient
            run.scaler.scale(loss / run.micro_steps).backward()
            loss_sum += loss.detach()
        for optimizer in run.optimizers:
            run.scaler.unscale_(optimizer)
        max_norm = cfg.grad_clip if cfg.grad_clip > 0 else math.inf
        grad_norm = sharding.whole(torch.nn.utils.clip_grad_norm_(run.model.parameters(), max_norm))
        for optimizer in run.optimizers:
            run.scaler.step(optimizer)
        run.scaler.update()
        run.model.zero_grad(set_to_none=True)
        return loss_sum, grad_norm


# ------------------------------------------------------------------------------------- from the settings to the run
# Nothing below decides anything: it passes the settings on to what uses them.


def set_up(cfg: Settings, stack: contextlib.ExitStack) -> tuple[Run, Settings]:
    """The run that the settings describe; and the settings, with what the text or the checkpoint decides filled in."""
    rt = runtime.start(cfg, backend=cfg.backend, timeout=cfg.timeout)
    rt, sharded = start.share_work(rt, cfg.gradient_accumulation_steps, shard=cfg.shard, watch=cfg.watch)
    cfg = dataclasses.replace(cfg, shard=sharded)
    out_dir = Path(cfg.out_dir)
    if cfg.init_from == "auto":
        cfg = dataclasses.replace(cfg, init_from="resume" if checkpoint.resumable(out_dir) else "scratch")
    metrics.require_services(wandb=cfg.wandb_log, tensorboard=cfg.tensorboard_log, watch=cfg.watch)
    data = Dataset(cfg.dataset)
    if data.val is None and (cfg.target_loss or cfg.patience):
        raise UserError(
            f"target_loss and patience are about val_loss, and dataset {data.name} holds nothing out; prepare it with "
            "--val_fraction=0.05, or leave them out"
        )
    begin = start.agreed(start_of(cfg, data), rt)
    run_settings = settings_for(cfg, data, begin)
    run = make_run(run_settings, rt, data, begin)
    run.length_setting = "lr_decay_iters" if cfg.max_iters is None else "max_iters"
    if rt.is_main and not cfg.eval_only:
        checkpoint.make_out_dir(out_dir)
        stack.enter_context(locked_folder(out_dir))
    outputs.announce(run, eval_only=cfg.eval_only)
    return run, run_settings


def start_of(cfg: Settings, data: Dataset) -> start.Start:
    """The model and the state that the run starts from."""
    if cfg.init_from == "scratch":
        shape = {name: getattr(cfg, name) for name in ("n_layer", "n_head", "n_embd", "block_size", "bias", "dropout")}
        config = GPTConfig(vocab_size=data.vocab_size, gelu="tanh", **shape)
        limits = {name: getattr(cfg, name) for name in ("target_recall", "max_iters", "max_n_embd", "shard")}
        config, weights = writing_phase.beginning(config, cfg.weights, data, **limits)
        return start.random_weights(config, data, corpus_softmax=cfg.corpus_softmax, weights=weights)
    if cfg.init_from == "resume":
        return start.resumed(
            data,
            out_dir=cfg.out_dir,
            corpus_softmax=cfg.corpus_softmax,
            dropout=cfg.dropout,
            fixed={name: getattr(cfg, name) for name in ("optimizer", "seed", "lora_rank")},
            shape={name: getattr(cfg, name) for name in ("n_layer", "n_head", "n_embd", "block_size", "bias")},
            enlarged=cfg.max_n_embd is not None,
        )
    return start.pretrained_weights(
        cfg.init_from,
        data,
        out_dir=Path(cfg.out_dir),
        block_size=cfg.block_size,
        dropout=cfg.dropout,
        lora_rank=cfg.lora_rank,
    )


def settings_for(cfg: Settings, data: Dataset, begin: start.Start) -> Settings:
    """The settings with numbers in place of what follows from the length of the text, or from the model."""
    max_iters, lr_decay_iters = run_length(
        len(data.train),
        cfg.gradient_accumulation_steps * cfg.batch_size * begin.model.config.block_size,
        max_iters=cfg.max_iters,
        lr_decay_iters=cfg.lr_decay_iters,
        decay_epochs=cfg.decay_epochs,
    )
    corpus_softmax = cfg.corpus_softmax and begin.progress.base is None  # fine-tuning trains the whole table
    shape = begin.model.config if cfg.max_n_embd else cfg
    known = dict(max_iters=max_iters, lr_decay_iters=lr_decay_iters, corpus_softmax=corpus_softmax)
    return dataclasses.replace(cfg, **known, n_layer=shape.n_layer, n_head=shape.n_head, n_embd=shape.n_embd)


def make_run(cfg: Settings, rt: Runtime, data: Dataset, begin: start.Start) -> Run:
    """Everything that the loop works on, on this rank's device."""
    progress, n_tokens = begin.progress, len(data.train)
    start.keep_threads(progress, rt)
    begin.model.gradient_checkpointing = cfg.gradient_checkpointing
    model = sharding.shard(begin.model, rt) if cfg.shard else begin.model.to(rt.device)
    block_size = model.config.block_size
    order = dict(seed=cfg.seed, progress=progress, replay=cfg.replay, rank=rt.rank, world_size=rt.world_size)
    batches = Batches(data.train, block_size, cfg.batch_size, **order)
    new_optimizers = functools.partial(optimizers_of, cfg, model, rt)
    optimizers = [] if progress.n_written is not None and not progress.iter_num else new_optimizers()
    if begin.checkpoint and progress.iter_num:  # before the first update they have no state
        checkpoint.restore_optimizers(optimizers, begin.checkpoint, begin.path)
    scaler = torch.amp.GradScaler(rt.device.type, enabled=rt.dtype == torch.float16)
    if progress.scaler:
        checkpoint.restore_scaler(scaler, progress.scaler, begin.path)
    measurable = not recall.recall_obstacle(block_size, n_tokens)
    allowed = allowed_ids(begin.corpus_ids, data.tokenizer.vocab_size)
    schedule = schedule_of(cfg)
    tokens_per_iter = cfg.gradient_accumulation_steps * cfg.batch_size * block_size
    target = None
    if cfg.target_recall and measurable:
        target = TargetCheck(cfg.target_recall, data.train, block_size, allowed=allowed, rt=rt.measuring())
    stop = StopRule(
        progress,
        Interrupt(),
        rt,
        max_iters=cfg.max_iters,
        target=target,
        first_check=schedule.first_check(n_tokens / tokens_per_iter),
        target_loss=cfg.target_loss,
        patience=cfg.patience,
    )
    return Run(
        rt=rt,
        data=data,
        schedule=schedule,
        micro_steps=cfg.gradient_accumulation_steps // rt.world_size,
        tokens_per_iter=tokens_per_iter,
        corpus_ids=begin.corpus_ids,
        allowed=allowed,
        recall_starts=recall.sample_starts(data.train) if measurable else None,
        eval_iters=cfg.eval_iters,
        position_weights=start.position_weights(block_size, cfg.opening_weight, rt.device),
        settings=dataclasses.asdict(cfg),
        out_dir=Path(cfg.out_dir),
        resumed=begin.checkpoint is not None,
        keep_best=data.val is not None and not cfg.always_save_checkpoint,
        model=model,
        step_model=None,
        new_optimizers=new_optimizers,
        optimizers=optimizers,
        scaler=scaler,
        batches=batches,
        progress=progress,
        finite=FiniteCheck(rt, scaler, Path(cfg.out_dir), skipped=progress.skipped_updates),
        stop=stop,
    )


def optimizers_of(cfg: Settings, model: GPT, rt: Runtime) -> list[torch.optim.Optimizer]:
    """The optimizers that the settings name, without state."""
    return make_optimizers(
        model,
        optimizer=cfg.optimizer,
        learning_rate=cfg.learning_rate,
        muon_lr=cfg.muon_lr,
        weight_decay=cfg.weight_decay,
        betas=(cfg.beta1, cfg.beta2),
        dtype=rt.dtype,
    )


def schedule_of(cfg: Settings) -> Schedule:
    """The learning rate of the settings, once their numbers are known."""
    return Schedule(
        max_iters=cfg.max_iters,
        lr_decay_iters=cfg.lr_decay_iters,
        warmup_iters=cfg.warmup_iters,
        learning_rate=cfg.learning_rate,
        min_lr=cfg.learning_rate / 10 if cfg.min_lr is None else cfg.min_lr,
        shape=cfg.lr_shape,
        decay_lr=cfg.decay_lr,
    )


def main(cfg: Settings, resume_command: str = "") -> int:
    try:
        status = train(cfg, resume_command)
        runtime.wait_for_all()
        return status
    except RuntimeError as e:
        sizes = dict(batch_size=cfg.batch_size, block_size=cfg.block_size)
        raise outputs.explained(e, cfg.device, accumulation_steps=cfg.gradient_accumulation_steps, **sizes) from e
    finally:
        runtime.stop()


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
