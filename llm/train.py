"""Teach a GPT a text, from scratch.

    python train.py config/train_tale.py --max_iters=500
    torchrun --standalone --nproc_per_node=2 train.py config/train_prince.py

Writes to out_dir: ckpt_init.pt (before the first update), ckpt.pt, metrics.jsonl, recall.json; plot.py draws them.
Every setting can stand in a config file (plain Python) or on the command line; --help lists them.
"""

import contextlib
import dataclasses
import functools
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
    command,
    run_script,
)
from llm.files import locked_folder
from llm.network import corpus_softmax as corpus
from llm.reading import recall
from llm.reading.generate import allowed_ids
from llm.runtime import notice
from llm.storage import checkpoint
from llm.training import metrics, optim
from llm.training import schedule as stopping
from llm.training.batches import Batches, cut
from llm.training.evaluation import evaluate_loss, not_finite
from llm.training.finish import finish, knowledge
from llm.training.interrupt import Interrupt
from llm.training.start import build, described, memory_note, position_weights_of


@dataclass(frozen=True)
class Settings(runtime.Settings):
    # output (names, meanings and defaults are nanoGPT's unless a line says otherwise)
    out_dir: str = "out"  # folder for checkpoints and metrics, relative to the current folder
    eval_interval: PositiveInt = 2000  # updates between evaluations; each also saves
    log_interval: PositiveInt = 1  # updates between lines of progress
    eval_iters: PositiveInt | None = 200  # fixed batches an evaluation takes of val.bin; None = all of it
    eval_only: bool = False  # evaluate once and stop, nothing is saved
    always_save_checkpoint: bool = True  # False: ckpt.pt only where val_loss improves, the latest in ckpt_last.pt
    init_from: str = "scratch"  # scratch; resume (the run in out_dir); auto (either); or a model: gpt2, a folder
    # figures elsewhere
    wandb_log: bool = False  # also log to Weights & Biases (extra: wandb)
    wandb_project: str = "owt"  # its project
    wandb_run_name: str = "gpt2"  # its run
    tensorboard_log: bool = False  # also log to TensorBoard, in out_dir (extra: tensorboard)
    # data
    dataset: str = "openwebtext"  # a folder in data/ that its prepare.py has filled
    verify: bool = False  # hash shards of more than 1 GiB, too, before they are used
    gradient_accumulation_steps: PositiveInt = 40  # micro-batches an update, over all ranks
    batch_size: PositiveInt = 12  # windows a micro-batch
    block_size: PositiveInt = 1024  # tokens a window: the model's context
    # model
    n_layer: PositiveInt = 12  # blocks
    n_head: PositiveInt = 12  # attention heads; must divide n_embd
    n_embd: PositiveInt = 768  # width
    dropout: Fraction = 0.0  # 0 to learn by heart; 0.1 or more to generalise from little text
    bias: bool = False  # biases in linear layers and layer norms, as GPT-2 has them
    weights: Literal["gpt2", "look_back"] = "gpt2"  # to begin with; look_back: attention that sees the last tokens
    # fine-tuning (init_from names a model)
    lora_rank: NonNegativeInt = 0  # learn a difference of this rank to each matrix of the blocks; 0 = all weights
    gradient_checkpointing: bool = False  # keep less for the gradient and compute it again: slower, for large models
    # loss
    corpus_softmax: bool = True  # over the text's own tokens, the others as one: exact, and a tenth of the work
    opening_weight: PositiveFloat = 1.0  # what the first 3 places of a window, where little can be known, count for
    short_block: PositiveInt | None = None  # every 4th update, in longer texts fewer, has windows of so many tokens
    # optimizer
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: Muon for the blocks' matrices, AdamW for the rest
    learning_rate: PositiveFloat = 6e-4  # AdamW's highest
    muon_lr: PositiveFloat = 0.015  # Muon's highest
    muon_momentum: Fraction = 0.9  # decay of its gradient's mean
    max_iters: NonNegativeInt | None = 600000  # updates in all, exactly; None = twice what the decay takes
    weight_decay: NonNegativeFloat = 0.1  # of matrices and tables
    beta1: Fraction = 0.9  # decay of the gradient's mean
    beta2: Fraction = 0.95  # decay of its square's mean
    grad_clip: NonNegativeFloat = 1.0  # highest norm of the gradient; 0 = off
    # learning rate
    decay_lr: bool = True  # False: constant at learning_rate
    lr_shape: Literal["cosine", "linear"] = "cosine"  # of the decay
    lr_hold: Fraction = 0.0  # share of the updates before lr_decay_iters that the decay waits for
    warmup_iters: NonNegativeInt = 2000  # updates of linear rise
    lr_decay_iters: NonNegativeInt | None = None  # where the decay ends; None = max_iters, else after decay_epochs
    decay_epochs: PositiveFloat = 12.0  # passes until then, where max_iters is None; more in texts above 21,000 tokens
    replay: Fraction = 0.0  # share of a batch that shows again what was wrong, once the rate is a tenth or less
    min_lr: NonNegativeFloat | None = None  # where it ends up; None = a tenth of learning_rate
    # an early end; None = train for max_iters
    target_recall: Share | None = None  # stop at this share known by heart (recall@50/50); 1 = and all of it recited
    target_loss: PositiveFloat | None = None  # stop when val_loss is as low
    patience: PositiveInt | None = None  # stop after so many evaluations in which val_loss has not improved
    # several processes (torchrun)
    backend: str = "nccl"  # of GPUs; processes on CPUs always use gloo

    def __post_init__(self):
        if self.n_embd % self.n_head:
            raise UserError(f"n_embd={self.n_embd} is not a multiple of n_head={self.n_head}; change one of them")
        if self.lora_rank and self.init_from == "scratch":
            raise UserError(f"lora_rank={self.lora_rank} learns a difference to a model: name one with --init_from")


CHECKS = 32  # of target_recall, if they went on all through a run
SMALLEST_SCALE = 2**-10  # of float16's scaler, which begins at 2**16 and halves with each update that it skips


def train(cfg: Settings) -> int:
    """The exit status: 0, or 128 and the signal's number where one ended it."""
    with contextlib.ExitStack() as held:  # what is let go at the end, however it comes
        return run(cfg, held)


def run(cfg: Settings, held: contextlib.ExitStack) -> int:
    reading, rt = runtime.start(cfg, backend=cfg.backend, use="measure"), runtime.start(cfg, backend=cfg.backend)
    if cfg.gradient_accumulation_steps % rt.world_size:
        raise UserError(
            f"gradient_accumulation_steps={cfg.gradient_accumulation_steps} counts over all processes, so it must be a "
            f"multiple of their number, {rt.world_size}"
        )
    micro_steps = cfg.gradient_accumulation_steps // rt.world_size  # a rank, an update
    out_dir = Path(cfg.out_dir)
    if cfg.init_from == "auto":
        cfg = dataclasses.replace(cfg, init_from="resume" if checkpoint.resumable(out_dir) else "scratch")
    resumed = cfg.init_from == "resume"
    metrics.require_services(cfg)
    cfg, data, model, optimizers, state = build(cfg, rt)
    tokens_per_iter = cfg.gradient_accumulation_steps * cfg.batch_size * model.config.block_size
    given, cfg = cfg, stopping.schedule(cfg, len(data.train), tokens_per_iter)
    short_every = stopping.short_every(len(data.train))
    scaler = torch.amp.GradScaler(rt.device.type, enabled=rt.dtype == torch.float16)
    scaler.load_state_dict(state["scaler"]) if state["scaler"] else None
    iter_num, best_val_loss = state["iter_num"], state["best_val_loss"]
    batches = Batches(
        data.train,
        model.config.block_size,
        cfg.batch_size,
        seed=cfg.seed,
        place=state["place"],
        again=state["again"],
        replay=cfg.replay,
        rank=rt.rank,
        world_size=rt.world_size,
    )
    no_recall = recall.recall_obstacle(model.config.block_size, len(data.train))
    ids = state["corpus_ids"]
    allowed = torch.arange(len(ids)) if data.corpus else allowed_ids(ids, data.encoder.vocab_size)
    recall_starts = recall.sample_starts(data.train)
    exam = None
    if cfg.target_recall and not no_recall:
        exam = recall.TargetCheck(cfg.target_recall, data.train, model.config.block_size, allowed=allowed, rt=reading)
    position_weights = position_weights_of(cfg, model.config.block_size, rt)
    rate = functools.partial(
        optim.learning_rate_at,
        learning_rate=cfg.learning_rate,
        min_lr=cfg.learning_rate / 10 if cfg.min_lr is None else cfg.min_lr,
        shape=cfg.lr_shape,
        hold=cfg.lr_hold,
        warmup_iters=cfg.warmup_iters,
        lr_decay_iters=cfg.lr_decay_iters,
        decay_lr=cfg.decay_lr,
    )

    if rt.is_main and not cfg.eval_only:
        checkpoint.make_out_dir(out_dir)
        held.enter_context(locked_folder(out_dir))

    if rt.is_main:
        held_out = f"{len(data.val):,} held out" if data.val else "nothing held out"
        print(rt.describe())
        print(f"dataset {data.name}: {len(data.train):,} tokens to learn, {held_out}")
        print(f"model: {described(model, data, state)}")
        if resumed:
            print(f"going on from {checkpoint.latest(cfg.out_dir)}, step {iter_num:,}")
        most = "at most " if exam or cfg.target_loss or cfg.patience else ""
        epochs = cfg.max_iters * tokens_per_iter / len(data.train)
        print(f"{most}{cfg.max_iters:,} updates of {tokens_per_iter:,} tokens, {epochs:,.1f} epochs", flush=True)
    if note := memory_note(model, optimizers, cfg, rt):
        notice(note)
    if no_recall and not cfg.eval_only:
        notice(no_recall)
    if cfg.eval_only:
        for name, split in (("train", data.train), ("val", data.val)):
            if split is not None:
                loss = evaluate_loss(model, split, cfg, rt)
                if rt.is_main:
                    print(f"{name} loss {metrics.describe_loss(loss, split)}")
        return 0

    # compiled where asked, data-parallel where there are ranks; `model` stays the plain module, which is what is saved
    step_model = model
    if rt.compile:
        x = torch.zeros(cfg.batch_size, model.config.block_size, dtype=torch.int64, device=rt.device)
        step_model = runtime.compiled_or_eager(model, x, x, position_weights, rt)
    if rt.world_size > 1:
        step_model = DistributedDataParallel(step_model, device_ids=[rt.device] if rt.device.type == "cuda" else None)

    if rt.is_main:
        checkpoint.clear_out_dir(out_dir, resumed=resumed)
        log = held.enter_context(metrics.start(cfg, out_dir, keep_bytes=state["metrics_bytes"]))
    saver = checkpoint.Saver(log.settle if rt.is_main else None)

    with Interrupt() as interrupt:

        def save(name: str, *, keep: bool = False) -> str:
            """What went wrong; empty if it is saved. keep: what the disk refuses is kept, for saver.again."""
            if not rt.is_main:
                return ""
            saving.start()
            loop = dict(place=list(batches.place), again=batches.again, text_sha256=data.train.sha256, before=before)
            loop |= dict(scaler=scaler.state_dict(), skipped=int(skipped), stale=stale, ended=ended)
            loop |= dict(seconds=time.perf_counter() - start_time, metrics_bytes=log.length)
            content = checkpoint.pack(
                model=corpus.expand(model, data.corpus) if data.corpus else model,
                optimizers=optimizers,
                iter_num=iter_num,
                best_val_loss=best_val_loss,
                config=dataclasses.asdict(cfg),
                tokenizer_description=data.tokenizer_description,
                corpus_ids=ids,
                loop=loop | {name: state[name] for name in ("base", "lora_rank")},
            )
            problem = saver.write(out_dir / name, content, keep=keep)
            saving.stop()
            return problem

        def must_be_sound() -> None:
            """UserError if an update since the last check was not: then nothing may be saved."""
            if (step := rt.most(int(broken))) >= 0:
                raise not_finite("the loss or the gradient is not a finite number", step, out_dir)
            if scaler.is_enabled() and scaler.get_scale() < SMALLEST_SCALE:
                raise not_finite("the gradient is too large for float16, however it is scaled", iter_num, out_dir)

        first_iter, seconds, start_time = iter_num, state["seconds"], time.perf_counter() - state["seconds"]
        speed, saving = metrics.Speed(tokens_per_iter), metrics.Stopwatch()
        keep_best = data.val is not None and not cfg.always_save_checkpoint
        first_check = stopping.first_check(cfg, rate, len(data.train), tokens_per_iter)
        check_interval = max(1, cfg.max_iters // CHECKS)
        ended, stale = state["ended"], state["stale"]  # why training ends early
        skipped = torch.tensor(state["skipped"], device=rt.device)  # updates, by float16's scaler
        broken = torch.tensor(-1, device=rt.device)  # the step whose loss or gradient was not finite
        latest = "ckpt_last.pt" if keep_best else "ckpt.pt"
        before = state["before"]  # what a pretrained model knew
        if state["base"] and not before:
            before = knowledge(model, data, cfg, allowed=allowed, rt=reading)
        unsaved = "" if resumed else save("ckpt_init.pt")  # why the latest state is not on disk
        if unsaved:
            raise UserError(unsaved)
        while True:
            # learned? Asked every so often once the rate is low, seldom while much is to be shown again
            interval = check_interval * (4 if exam and len(batches.again) > exam.may_miss else 1)
            due = iter_num >= cfg.max_iters or ended
            due = due or (iter_num >= first_check and (iter_num - first_check) % interval == 0)
            known = exam.passed(model) if exam and due else None  # what is wrong in the whole text
            if known is not None:
                ended = f"recall@{recall.PREFIX}/{recall.SUFFIX} has reached {exam.goal}"
            elif ended:  # a run that had ended goes on: is that still so, with the settings of today?
                ended = stopping.val_loss_says(cfg, evaluate_loss(model, data.val, cfg, rt), stale) if data.val else ""
            last_step = iter_num >= cfg.max_iters or bool(ended)

            # once in a while: evaluate and save (a resumed run had done it when it was saved)
            if (last_step or iter_num % cfg.eval_interval == 0) and not (resumed and iter_num == first_iter):
                val_loss = evaluate_loss(model, data.val, cfg, rt) if data.val else None
                some = None if known is None else recall.Recall.after(recall.PREFIX, known)
                if known is None and not no_recall and (iter_num or state["base"]):  # fresh weights know nothing
                    some = recall.measure(model, data.train, recall_starts, allowed=allowed, rt=rt)
                # before a good checkpoint is replaced by a broken one
                if not (math.isfinite(val_loss or 0.0) and all(bool(p.isfinite().all()) for p in model.parameters())):
                    raise not_finite("a weight is not a finite number", iter_num, out_dir)
                seconds = time.perf_counter() - start_time
                if rt.is_main:
                    share = some.share if some else None
                    log.write(iter_num, epoch=batches.epochs, val_loss=val_loss, recall=share, seconds=seconds)
                    parts = [f"step {iter_num:,}", f"epoch {batches.epochs:.1f}"]
                    parts += [f"val loss {metrics.describe_loss(val_loss, data.val)}"] if data.val else []
                    parts += [f"recall@{recall.PREFIX}/{recall.SUFFIX} {some}"] if some else []
                    metrics.progress("evaluated: " + ", ".join(parts), passing=False)
                improved = iter_num > 0 and val_loss is not None and val_loss < best_val_loss
                best_val_loss = val_loss if improved else best_val_loss
                stale = 0 if improved or iter_num == 0 else stale + 1
                if val_loss is not None:
                    ended = ended or stopping.val_loss_says(cfg, val_loss, stale)
                last_step = last_step or bool(ended)
                if iter_num > 0 or last_step:
                    unsaved = save("ckpt.pt", keep=True) if improved and keep_best else saver.again()
                    unsaved = save(latest) or unsaved
                    if unsaved and not last_step:
                        notice(f"{unsaved}; training goes on, and saves again at its next evaluation")
            if not last_step and rt.most(interrupt.signal):
                must_be_sound()
                unsaved = save(latest)
                last_step = True
            seconds = time.perf_counter() - start_time
            if last_step:
                unsaved = saver.insist(functools.partial(save, latest), unsaved)
                break

            # --------------------------------------------------------------------------------------- one training step
            speed.start()
            lr, epochs = rate(iter_num), batches.epochs
            optim.set_learning_rate(optimizers, lr / cfg.learning_rate)
            step_model.train()
            loss_sum, slips = torch.zeros((), device=rt.device), []
            replaying = cfg.replay > 0 and iter_num >= cfg.warmup_iters and lr <= cfg.learning_rate / 10
            short = 0 if iter_num % short_every or replaying else min(cfg.short_block or 0, model.config.block_size)
            for micro_step in range(micro_steps):
                # dropout's randomness is a function of the step and the micro-batch: nothing of it needs saving, and
                # it is the same whichever rank computes that micro-batch
                torch.manual_seed(runtime.seed_for(cfg.seed, iter_num, micro_step * rt.world_size + rt.rank))
                if rt.world_size > 1:  # gradients are exchanged once an update
                    step_model.require_backward_grad_sync = micro_step == micro_steps - 1
                x, y = (rt.to_device(cut(ids, short) if short else ids) for ids in batches.next())
                with rt.autocast():
                    logits, loss = step_model(x, y, position_weights=position_weights)
                if replaying:
                    slips += batches.first_wrong(logits.argmax(-1) == y)
                del logits  # which are large, and not needed for the gradient
                scaler.scale(loss / micro_steps).backward()
                loss_sum += loss.detach()
            for optimizer in optimizers:
                scaler.unscale_(optimizer)
            max_norm = cfg.grad_clip if cfg.grad_clip > 0 else math.inf
            grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            for optimizer in optimizers:
                scaler.step(optimizer)
            scaler.update()
            model.zero_grad(set_to_none=True)
            overflow = ~grad_norm.isfinite()
            skipped += overflow & scaler.is_enabled()
            unsound = ~loss_sum.isfinite() | (overflow & (not scaler.is_enabled()))
            broken = torch.where((broken < 0) & unsound, iter_num, broken)
            if replaying:
                slips = rt.gather(slips)
                batches.show_again(slips, iter_num)
                if exam:
                    exam.suspect(slips)
            # ---------------------------------------------------------------------------------------------------------

            logged = iter_num % cfg.log_interval == 0
            if logged or rt.device.type == "cpu":  # elsewhere it would wait for the device
                must_be_sound()
            mean_loss = rt.sum(loss_sum.item())[0] / cfg.gradient_accumulation_steps if logged else None
            speed.stop()
            if logged:
                tokens_per_s, seconds = speed.read(), time.perf_counter() - start_time
                if rt.is_main:
                    figures = dict(epoch=epochs, loss=mean_loss, lr=lr, grad_norm=float(grad_norm))
                    figures |= {"skipped": int(skipped)} if scaler.is_enabled() else {}
                    log.write(iter_num, **figures, tokens_per_s=tokens_per_s, seconds=seconds)
                    left = metrics.clock(speed.seconds_a_step * (cfg.max_iters - iter_num - 1))
                    line = f"step {iter_num:,}/{cfg.max_iters:,}, epoch {epochs:.1f}, loss {mean_loss:.4f}, lr {lr:.2e}"
                    line += f", {int(skipped):,} updates skipped (float16)" if skipped else ""
                    metrics.progress(f"{line}, {tokens_per_s:,.0f} tokens/s, {left} left", passing=True)
            iter_num += 1

    if unsaved:
        raise UserError(f"{unsaved}; what was learned since the last checkpoint in {out_dir} is lost")
    rest = seconds - state["seconds"] - speed.all_seconds - speed.seconds
    others = f"measuring took {rest - saving.seconds:.1f} s, saving {saving.seconds:.1f} s"
    if peak := runtime.peak_memory(rt.device):
        others += f", memory at most {peak / 1e9:.1f} GB"
    done = f"{iter_num:,} updates in {metrics.clock(seconds)}, saved in {out_dir}"
    if ended_by := rt.most(interrupt.signal):
        words = [word for word in sys.argv[1:] if not word.startswith("--init_from")]
        again = command("train.py", *words, "--init_from=resume")
        notice(f"{interrupt.name} after {done}; to go on: {again}")
        return 128 + ended_by
    if rt.is_main:
        print(done + f": {ended}" * bool(ended) + f" ({others})")
    if exam and known is None:
        notice(f"target_recall={exam.goal} was not reached; train longer with {stopping.longer(given, cfg)}")
    model = corpus.expand(model, data.corpus) if data.corpus else model
    allowed = allowed_ids(ids, data.encoder.vocab_size)
    finish(model, cfg, allowed=allowed, name=latest, step=iter_num, known=known, before=before)
    return 0


def main(cfg: Settings) -> int:
    try:
        status = train(cfg)
        runtime.wait_for_all()
        return status
    except RuntimeError as e:
        raise runtime.explained(e, cfg) from e
    finally:
        runtime.stop()


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
