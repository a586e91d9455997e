"""What a run prints and opens before its loop, and what it prints after it."""

import contextlib
import functools
import itertools
import math
import os
import sys
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from llm import processes, runtime
from llm.configurator import UserError, command
from llm.files import remove_temporary_files, sync_folder
from llm.network.sharding import gathered, is_sharded, release
from llm.reading.recall import figures_path, recall_obstacle
from llm.reading.windows import MEASURED
from llm.runtime import notice
from llm.storage import checkpoint, shards
from llm.storage.progress import Progress
from llm.terminal import visible
from llm.training import finish, memory, start, watching, writing_phase
from llm.training.compiling import compile_mode, compiled_or_eager
from llm.training.display import Display
from llm.training.evaluation import evaluate_loss
from llm.training.metrics import METRICS, clock, describe_loss, open_metrics
from llm.training.restoring import OutDirGuard
from llm.training.run import Run
from llm.training.saving import Saver
from llm.training.sharded_saving import ShardedSaver


def announce(run: Run, *, eval_only: bool) -> None:
    """Say what will be trained, on what and for how long, and what may go wrong."""
    data, n_tokens = run.data, len(run.data.train)
    if run.rt.is_main:
        held_out = f"{len(data.val):,} held out" if data.val else "nothing held out"
        print(run.rt.describe())
        print(f"dataset {data.name}: {n_tokens:,} tokens to learn, {held_out}")
        print(visible(f"model: {start.describe_model(run.model, run.progress)}"))  # its base's name is from a file
        if run.resumed:
            ended = run.progress.stop_reason or "all updates are made"
            state = f", where training had ended ({ended})" if run.stop.last_step else ""
            going_on = f"going on from {checkpoint.latest(str(run.out_dir))}, step {run.progress.iter_num:,}{state}"
            print(visible(going_on))
        print(describe_length(run), flush=True)
    if not eval_only and run.progress.n_written is None:  # the estimate is that of an update
        announce_memory(run)
    obstacle = recall_obstacle(run.batches.T, n_tokens)
    if obstacle and not eval_only:
        notice(obstacle)


def announce_memory(run: Run) -> None:
    """Say how much memory an update will take, and warn if that will hardly be free."""
    n_muon = sum(p.numel() for o in run.optimizers[1:] for group in o.param_groups for p in group["params"])
    shape = dict(n_muon=n_muon, micro_steps=run.micro_steps, sharded=is_sharded(run.model))
    needed = memory.estimate(run.model, run.rt, batch_size=run.batches.B, **shape)
    if run.rt.is_main:
        print(needed.describe(), flush=True)
    options = dict(batch_size=run.batches.B, accumulation_steps=run.micro_steps * run.rt.world_size)
    if warning := memory.warning(needed, run.rt, recompute=run.model.gradient_checkpointing, **options):
        notice(warning)


def describe_length(run: Run) -> str:
    """How many updates and epochs the run will take."""
    stop, expected = run.stop, run.stop.expected_iters()
    epochs = expected * run.tokens_per_iter / len(run.data.train)
    updates = f"{expected:,} updates of {run.tokens_per_iter:,} tokens, {epochs:,.1f} epochs"
    if run.progress.n_written is not None and not stop.last_step:
        if len(run.data.train) > writing_phase.GRADIENT_TOKENS:
            return "to be written in closed form"
        return f"to be written in closed form; if that falls short of target_recall, about {updates} follow"
    if expected < stop.max_iters:
        return f"about {updates}; at most {stop.max_iters:,} updates"
    return f"at most {updates}" if stop.target or stop.target_loss or stop.patience else updates


def open_outputs(run: Run, stack: contextlib.ExitStack, *, wandb: dict | None, tensorboard: bool) -> None:
    """Open metrics.jsonl and the display, and save the weights before the first update.

    wandb: arguments of wandb.init, None = not used.
    """
    rt = run.rt
    sharded = is_sharded(run.model)
    if run.progress.n_written is None:
        prepare_updates(run)
    if rt.is_main:
        begin_folder(run.out_dir, resumed=run.resumed, keep_best=run.keep_best)
        services = dict(wandb=wandb, tensorboard=tensorboard)
        run.log = stack.enter_context(open_metrics(run.out_dir, keep_bytes=run.progress.metrics_bytes, **services))
    run.start_timing()
    so_far = dict(iter_num=run.progress.iter_num, seconds=run.progress.seconds)
    run.display = stack.enter_context(Display(run.data.name, enabled=rt.is_main, **so_far))
    guard = None
    if run.log:
        guard = OutDirGuard(run.out_dir, run.log, stack=stack, put_aside=put_aside, notify=run.display.line)
    sync = guard.sync if guard else lambda: None
    options = dict(sync=sync, notify=run.display.line, keep_best=run.keep_best)
    if sharded:
        run.saver = ShardedSaver(run.out_dir, run.checkpoint, rt=rt, **options)
        stack.callback(release, run.model)
        stack.callback(run.saver.close)
    else:
        run.saver = Saver(run.out_dir, run.checkpoint, enabled=rt.is_main, **options)
    run.stop.interrupt.describe_unsaved = functools.partial(describe_unsaved, run)
    if run.progress.base and not run.progress.baseline:
        options = dict(allowed=run.allowed, rt=rt.measuring(), batch_size=run.batches.B)
        run.progress.baseline = finish.baseline(gathered(run.model), run.data, **options)
    if not run.resumed:
        with run.timer.measure("saving"):
            run.saver.write("ckpt_init.pt")


def prepare_updates(run: Run) -> None:
    """Make the optimizers, compile the model, and make it exchange gradients with other ranks, once.

    Writing a text needs none of these. The first optimizer makes torch import its compiler, which takes a second or
    two; on a GPU, that and compiling take longer than writing a novel.
    """
    if run.step_model is not None:
        return
    rt, run.step_model = run.rt, run.model
    run.optimizers = run.optimizers or run.new_optimizers()
    if rt.compile:
        x = torch.zeros(run.batches.B, run.batches.T, dtype=torch.int64, device=rt.device)
        mode = compile_mode(run.model, x.numel(), rt)
        run.step_model = compiled_or_eager(run.model, x, run.position_weights, rt, mode)
    if rt.world_size > 1 and not is_sharded(run.model):
        devices = [rt.device] if rt.device.type == "cuda" else None
        run.step_model = DistributedDataParallel(run.step_model, device_ids=devices)


def begin_folder(out_dir: Path, *, resumed: bool, keep_best: bool) -> None:
    """Remove what a killed process left half-written, and put aside what this run would overwrite. UserError."""
    try:
        remove_temporary_files(out_dir, "ckpt*.pt")
        remove_temporary_files(out_dir / shards.FOLDER, "*.pt")
        if not resumed:
            put_aside(out_dir)
        elif not keep_best and (out_dir / "ckpt_last.pt").is_file():
            if (out_dir / "ckpt.pt").is_file():
                os.replace(out_dir / "ckpt.pt", out_dir / "ckpt_best.pt")
                notice(f"from now on, ckpt.pt in {out_dir} is the latest state; the best until now is ckpt_best.pt")
            os.replace(out_dir / "ckpt_last.pt", out_dir / "ckpt.pt")
            sync_folder(out_dir)
        shards.remove_unused(out_dir, before=shards.next_save(out_dir))
    except OSError as e:
        raise UserError(f"cannot write to out_dir={out_dir}: {e.strerror}; type another --out_dir") from None


def put_aside(out_dir: Path) -> None:
    """Move the files of an earlier run into out_dir/previous_N, which is an out_dir that every script can use.

    What a run leaves that has saved nothing but its first weights is its figures: those weights are made again.
    """
    names = [METRICS, watching.WATCH, *(figures_path(out_dir, name).name for name in ("ckpt.pt", "ckpt_last.pt"))]
    names += sorted({path.name for pattern in MEASURED for path in out_dir.glob(pattern)} - set(names))
    if checkpoint.resumable(out_dir):
        names = ["ckpt.pt", "ckpt_last.pt", "ckpt_init.pt", *names]
        if (out_dir / shards.FOLDER).is_dir():
            names += ["ckpt_best.pt", shards.FOLDER]  # which the former may need
    names = [name for name in names if (out_dir / name).exists() and (out_dir / name).stat().st_size]
    if not names:
        return
    folder = next(f for n in itertools.count(1) if not (f := out_dir / f"previous_{n}").exists())
    folder.mkdir()
    for name in names:
        os.replace(out_dir / name, folder / name)
    for changed in (folder, out_dir):  # after a power cut, in either of them
        sync_folder(changed)
    notice(f"{out_dir} held an earlier run: its files are now in {folder}; delete them if you do not need them")


def print_losses(run: Run) -> int:
    """eval_only: print the loss of each part of the dataset; the exit status."""
    for name, split in (("train", run.data.train), ("val", run.data.val)):
        if split is not None:
            loss = evaluate_loss(run.model, split, run.rt, batch_size=run.batches.B, eval_iters=run.eval_iters)
            if run.rt.is_main:
                print(f"{name} loss {describe_loss(loss, split)}")
    release(run.model)
    return 0


def close_run(run: Run, resume_command: str) -> int:
    """Say how the run ended, what the model knows, and what to type next; the exit status.

    resume_command: what to type to go on after a signal; "" = the command line, with --init_from=resume.
    """
    progress, timer, stop = run.progress, run.timer, run.stop
    run.display.close()
    if run.rt.is_main:
        shards.remove_unused(run.out_dir, before=shards.next_save(run.out_dir))
    done = f"{describe_work(progress, run.model.config.n_layer)} in {clock(run.seconds())}, saved in {run.out_dir}"
    if not stop.last_step:  # a signal
        words = [word for word in sys.argv[1:] if not word.startswith("--init_from")]
        typed = resume_command or command("train.py", *words, "--init_from=resume")
        notice(f"{stop.interrupt.name} after {done}; to go on: {typed}")
        return 128 + run.rt.max(stop.interrupt.signal)
    if run.rt.is_main:
        reason = f": {progress.stop_reason}" if progress.stop_reason else ""
        took = f"measuring took {timer.total('measuring'):.1f} s, saving {timer.total('saving'):.1f} s"
        if peak := runtime.peak_memory(run.rt.device):
            took += f", memory at most {peak / 1e9:.2f} GB"
        print(visible(f"{done}{reason} ({took})"))
    if stop.target and stop.errors is None and not stop.given_up:
        longer = max(1, math.ceil(run.settings[run.length_setting] * 1.5))
        notice(f"target_recall={stop.target.goal} was not reached; train longer with --{run.length_setting}={longer}")
    finish.report_knowledge(
        gathered(run.plain_model()),
        run.data,
        out_dir=run.out_dir,
        checkpoint_name=run.saver.latest,
        step=progress.iter_num,
        allowed=run.allowed,
        rt=run.rt,
        batch_size=run.batches.B,
        errors=stop.errors,
        baseline=progress.baseline,
    )
    return 0


def describe_unsaved(run: Run) -> str:
    """What is lost if the run ends without saving: what is done, and what the latest checkpoint on the disk holds."""
    n_layer = run.model.config.n_layer
    try:
        saved = checkpoint.read(checkpoint.latest(str(run.out_dir)), parts=())["progress"]
        words = describe_work(saved, n_layer)
    except UserError:
        words = "nothing"
    return f"ended without saving; done: {describe_work(run.progress, n_layer)}, saved in {run.out_dir}: {words}"


def describe_work(progress: Progress, n_layer: int) -> str:
    """What a run has done so far, in words."""
    if progress.n_written is None:
        return f"{progress.iter_num:,} updates"
    if progress.n_written < n_layer:
        return f"{progress.n_written} of {n_layer} blocks were written"
    rounds = progress.n_written - n_layer + 1
    return "all blocks were written" + (f", the last in {rounds} rounds" if rounds > 1 else "")


def explained(
    error: RuntimeError, device: str, *, batch_size: int, accumulation_steps: int, block_size: int
) -> Exception:
    """UserError for those of torch's errors that a user can do something about, else the error itself."""
    if runtime.is_out_of_memory(error):
        return UserError(
            f"out of memory on {device}: lower --batch_size={batch_size} (and raise --gradient_accumulation_steps="
            f"{accumulation_steps} by as much, which trains the same), --block_size={block_size}, or the model's "
            "n_layer and n_embd"
        )
    return processes.explained(error)
