"""Test that a run survives kills, full disks and damaged files: too slow for `make test`. `make chaos`: 40 minutes.

    python tests/chaos.py                       # everything
    python tests/chaos.py kills disk            # these: kills, disk, ranks, sharded, mutations, week
    python tests/chaos.py kills --times=20

Each part prints what happened, and fails if something was lost. Runs are disturbed when they have made progress, so a
slow machine tests as much as a fast one. Not collected by pytest.
"""

import contextlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from llm.configurator import PACKAGE, UserError
from llm.model import GPT, GPTConfig
from llm.storage import checkpoint, pretrained
from llm.storage.progress import Progress
from llm.text import dataset, tokenizer
from llm.training import optim

TALE = (PACKAGE / "data" / "tale" / "tale.txt").read_text(encoding="utf-8")
TIMES = ("tokens_per_s", "seconds")  # what may differ in metrics.jsonl
SHAPE = dict(n_layer=2, n_head=2, n_embd=32, block_size=128, batch_size=2, learning_rate=1e-2, warmup_iters=5)
EVAL_INTERVAL = 10  # updates between evaluations, each of which saves
LENGTH = dict(max_iters=400, eval_interval=EVAL_INTERVAL, eval_iters=2)
MOMENTS = {"start-up": 1, "update": 3, "evaluation": 2, "save": 2}  # kind of instant -> how often it is chosen
RUNS = [  # what is trained, in turns
    dict(SHAPE, dataset="whole", optimizer="muon", dropout=0.2, gradient_accumulation_steps=2, replay=0.5, min_lr=1e-3),
    dict(SHAPE, dataset="held", always_save_checkpoint=False, gradient_accumulation_steps=1, short_block=16),
]


class Trainer:
    """Runs train.py, with a copy of the package that has small datasets, in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder, copy = folder, folder / "llm"
        subprocess.run(["cp", "-r", PACKAGE, copy], check=True)
        dataset.DATA = copy / "data"
        for name, val_fraction in (("whole", 0.0), ("held", 0.2)):
            dataset.write_dataset(
                dataset.DATA / name,
                TALE[:8000],
                tokenizer.gpt2(),
                val_fraction=val_fraction,
                source={},
                train_command=("x",),
            )

    def start(self, out_dir: str, launcher: list[str] | None = None, **settings) -> subprocess.Popen:
        """A process; what it prints is appended to out_dir.log."""
        words = [f"--{k}={v}" for k, v in settings.items()]
        with open(self.folder / f"{out_dir}.log", "a") as log:
            return subprocess.Popen(
                [*(launcher or [sys.executable]), self.folder / "llm" / "train.py", f"--out_dir={out_dir}", *words],
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
                stdout=log,
                stderr=log,
            )

    def log(self, out_dir: str) -> "Log":
        return Log(self.folder / f"{out_dir}.log")

    def state(self, out_dir: str) -> dict:
        """Everything that a run leaves, except times."""
        found = {}
        for path in sorted((self.folder / out_dir).glob("ckpt*.pt")):
            content = checkpoint.read(path, checkpoint.PARTS)
            loop = {k: v for k, v in content["loop"].items() if k not in ("seconds", "metrics_bytes")}
            rest = (loop, content["iter_num"], content["best_val_loss"], content["corpus_ids"])
            found[path.name] = [checkpoint.digest(content[part]) for part in checkpoint.PARTS] + [repr(rest)]
        lines = (self.folder / out_dir / "metrics.jsonl").read_text().splitlines()
        found["metrics"] = [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]
        return found

    def step(self, out_dir: str) -> int | None:
        """Updates made in the checkpoint that a run would go on from; None = there is no checkpoint."""
        if not checkpoint.resumable(self.folder / out_dir):
            return None
        return checkpoint.read(checkpoint.latest(str(self.folder / out_dir)), ())["iter_num"]


class Log:
    """What a process prints from now on, at the end of a log file."""

    def __init__(self, path: Path):
        self.path, self.begin = path, path.stat().st_size if path.exists() else 0

    def text(self) -> str:
        return self.path.read_bytes()[self.begin :].decode() if self.path.exists() else ""

    def steps(self) -> list[int]:
        """Numbers of the updates made."""
        return [int(number.replace(",", "")) for number in re.findall(r"^step ([\d,]+)/.*\n", self.text(), re.M)]

    def resumed_at(self) -> int | None:
        """The update that the run went on from; None = it began anew, or has not come that far."""
        found = re.search(r"^going on from \S+, step ([\d,]+)$", self.text(), re.M)
        return int(found[1].replace(",", "")) if found else None


def must_equal(one: dict, other: dict) -> None:
    different = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    assert not different, f"not the same as the undisturbed run: {different}"


def wait_until(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
    """Return once the condition holds, or the process has ended."""
    while process.poll() is None and not condition():
        time.sleep(0.002)


def wait_for_moment(moment: str, process: subprocess.Popen, log: Log, out_dir: Path) -> None:
    """Wait until the run has come to a random instant of this kind; judged by what it has done, not by the clock."""
    n_updates, delay = random.randrange(1, 60), random.uniform(0, 0.02)
    if moment == "start-up":  # from this line on, the folder is cleared and ckpt_init.pt is saved
        wait_until(process, lambda: " updates of " in log.text())
        delay *= 10
    else:
        wait_until(process, lambda: len(log.steps()) >= n_updates)
    if moment == "evaluation":
        wait_until(process, lambda: (log.steps()[-1] + 1) % EVAL_INTERVAL == 0)
    elif moment == "save":
        wait_until(process, lambda: any(out_dir.glob(".ckpt*.tmp")))
    time.sleep(delay)


def kills(trainer: Trainer, times: int = 200) -> None:
    """SIGKILL at random instants: at start-up, while it trains, evaluates (every 10 updates) or saves (as often)."""
    random.seed(1)
    in_training = in_a_save = went_on = finished = 0
    kinds, lives = Counter(), []
    while kinds.total() < times:
        settings, name = RUNS[finished % len(RUNS)] | dict(LENGTH, seed=finished), f"run{finished}"
        assert trainer.start(f"{name}-whole", **settings).wait() == 0
        while True:
            expected, log = trainer.step(name), trainer.log(name)
            process = trainer.start(name, init_from="auto", **settings)
            if kinds.total() < times:
                moment = random.choices(list(MOMENTS), MOMENTS.values())[0]
                wait_for_moment(moment, process, log, trainer.folder / name)
                process.kill()
            status = process.wait()
            if log.resumed_at() is not None:
                assert log.resumed_at() == expected, f"went on from {log.resumed_at()}, saved was {expected}"
                went_on += 1
            if status == 0:
                break
            assert status == -signal.SIGKILL, f"status {status}: {log.text()[-2000:]}"
            kinds[moment] += 1
            in_training += bool(log.steps())
            in_a_save += any((trainer.folder / name).glob(".ckpt*.tmp"))
            lives.append((trainer.step(name) or 0) - (expected or 0))
        must_equal(trainer.state(f"{name}-whole"), trainer.state(name))
        finished += 1
        print(f"run {finished}: equal after {kinds.total()} kills in all", flush=True)
    print(
        f"kills survived: {kinds.total()} ({', '.join(f'{n} at {kind}' for kind, n in kinds.items())}); {in_training} "
        f"interrupted training, {in_a_save} of all were inside a save; updates saved in a life: {min(lives)} to "
        f"{max(lives)}"
    )
    assert 2 * in_training >= kinds.total(), "too few kills interrupted training"
    check_restarts(went_on, kinds.total())


def check_restarts(went_on: int, restarts: int) -> None:
    print(f"restarts that went on from the last save: {went_on} of {restarts}")
    assert 2 * went_on >= restarts > 0, "too few restarts went on from a save: nothing was tested"


def disk(trainer: Trainer, times: int = 50) -> None:
    """The disk is full at random points: for some updates, no file may grow beyond a random size (RLIMIT_FSIZE)."""
    random.seed(2)
    full = finished = refused = 0
    while full < times:
        settings, name = RUNS[finished % len(RUNS)] | dict(LENGTH, seed=finished), f"disk{finished}"
        assert trainer.start(f"{name}-whole", **settings).wait() == 0
        log, full_before = trainer.log(name), full
        process = trainer.start(name, init_from="auto", **settings)
        while process.poll() is None:
            wait_for_updates(process, log, random.randrange(1, 60))
            if process.poll() is not None or full >= full_before + min(5, max(1, times // 3)):
                continue
            try:
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (random.randrange(9_000_000), -1))
                wait_for_updates(process, log, random.randrange(1, 30))
                full += process.poll() is None
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (-1, -1))
            except ProcessLookupError:
                break
        assert "Traceback" not in log.text(), log.text()[-3000:]
        if process.wait() == 1:  # the last save of all was refused
            assert "what was learned since the last checkpoint" in log.text()
            assert trainer.start(name, init_from="resume", **settings).wait() == 0
        refused += log.text().count("; training goes on, and saves again")
        must_equal(trainer.state(f"{name}-whole"), trainer.state(name))
        finished += 1
        print(f"run {finished}: equal after a full disk {full} times in all", flush=True)
    print(f"full disks survived: {full}; saves that were refused: {refused}; nothing lost")
    assert refused, "no save was refused: nothing was tested"


def wait_for_updates(process: subprocess.Popen, log: Log, count: int) -> None:
    """Wait until so many more updates are made, or the process has ended."""
    made = len(log.steps())
    wait_until(process, lambda: len(log.steps()) >= made + count)


def ranks(trainer: Trainer, times: int = 5) -> None:
    """Under torchrun, one of two processes is killed at a random instant: the other ends, and both go on together."""
    random.seed(4)
    settings = RUNS[0] | dict(max_iters=200 + 80 * times, eval_interval=20)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    assert trainer.start("whole", launcher, **settings).wait() == 0
    killed = went_on = deaths = 0
    while True:
        expected, log = trainer.step("parts"), trainer.log("parts")
        process = trainer.start("parts", launcher, init_from="auto", **settings)
        if killed < times:
            wait_for_updates(process, log, random.randrange(21, 80))
            time.sleep(random.uniform(0, 0.02))
            found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, encoding="utf-8")
            os.kill(int(random.choice(found.stdout.split())), signal.SIGKILL)
            killed += 1
        status = process.wait(300)
        if log.resumed_at() is not None:
            assert log.resumed_at() == expected, f"went on from {log.resumed_at()}, saved was {expected}"
            went_on += 1
        deaths += log.text().count("another process of this training has died")
        if status == 0:
            break
    must_equal(trainer.state("whole"), trainer.state("parts"))
    print(
        f"killed one of two processes {killed} times, the other reported it {deaths} times; equal to an undisturbed run"
    )
    check_restarts(went_on, killed)


def sharded(trainer: Trainer, times: int = 12) -> None:
    """Sharded runs whose processes are killed at random instants, some of them in a save.

    One goes on with two processes each time, and must equal the undisturbed run. The other goes on with another number
    each time, from one to four, and must lose as much as that run to rounding. Hence float32 and low learning rates:
    with SHAPE's, rounding alone makes undisturbed runs of 2 and 4 processes differ by 1 % after 60 updates.
    """
    random.seed(5)
    settings = dict(SHAPE, dataset="held", optimizer="muon", dropout=0.2, gradient_accumulation_steps=12, batch_size=1)
    settings |= dict(max_iters=40 + 20 * times, eval_interval=5, eval_iters=4, shard=True, dtype="float32")
    settings |= dict(learning_rate=1e-3, muon_lr=2e-3)
    assert trainer.start("sharded-whole", processes(2), **settings).wait() == 0
    for name, numbers in (("sharded-same", [2]), ("sharded-others", [1, 3, 2, 4])):
        killed = in_a_save = went_on = 0
        while True:
            expected, log = trainer.step(name), trainer.log(name)
            number = numbers[killed % len(numbers)]
            process = trainer.start(name, processes(number), init_from="auto", **settings)
            if killed < times:
                in_a_save += kill_one_or_all(trainer, name, process, log)
                killed += 1
            status = process.wait(300)
            if log.resumed_at() is not None:
                assert log.resumed_at() == expected, f"went on from {log.resumed_at()}, saved was {expected}"
                went_on += 1
            if status == 0:
                break
        print(f"{name}: killed {killed} times, {in_a_save} of them in a save, with {numbers} processes in turns")
        check_restarts(went_on, killed)
    must_equal(trainer.state("sharded-whole"), trainer.state("sharded-same"))
    curves = [
        [line["val_loss"] for line in trainer.state(f"sharded-{name}")["metrics"] if "val_loss" in line]
        for name in ("whole", "others")
    ]
    furthest = max(abs(a - b) / a for a, b in zip(*curves, strict=True))
    print(f"sharded-others: val_loss at {len(curves[0])} evaluations, largest relative difference {furthest:.1e}")
    assert furthest < 1e-3


def processes(number: int) -> list[str]:
    """What starts train.py in so many processes."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={number}"]
    return [sys.executable, *(torchrun if number > 1 else [])]


def kill_one_or_all(trainer: Trainer, name: str, process: subprocess.Popen, log: Log) -> bool:
    """Kill one of a run's processes, or all at once, at a random instant; returns whether a save was under way."""
    wait_for_updates(process, log, random.randrange(6, 25))
    if random.random() < 0.5:
        wait_until(process, lambda: any((trainer.folder / name).rglob(".*.tmp")))
    time.sleep(random.uniform(0, 0.03))
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, encoding="utf-8")
    children = [int(number) for number in found.stdout.split()]
    victims = [random.choice(children)] if children and random.random() < 0.5 else [process.pid, *children]
    for victim in victims:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(victim, signal.SIGKILL)
    process.wait(300)
    return any((trainer.folder / name).rglob(".*.tmp"))


def small_checkpoint(path: Path) -> str:
    """Writes a checkpoint of a small model; returns its digest."""
    torch.manual_seed(0)
    config = GPTConfig(n_layer=4, n_head=2, n_embd=80, block_size=8, bias=False, vocab_size=7, dropout=0.0, gelu="tanh")
    model = GPT(config)
    optimizers = optim.make_optimizers(
        model, optimizer="muon", learning_rate=0.01, muon_lr=0.02, weight_decay=0.1, betas=(0.9, 0.95)
    )
    model(torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, 8, dtype=torch.int64))[1].backward()
    for optimizer in optimizers:
        optimizer.step()
    content = checkpoint.pack(
        model=model,
        optimizers=optimizers,
        progress=Progress(iter_num=3, position=[0, 1], seconds=1.0, metrics_bytes=5, text_sha256="0"),
        config={"dataset": "x"},
        tokenizer_description={"kind": "characters", "characters": "abcdefg"},
        corpus_ids=[1, 2],
    )
    checkpoint.write(path, content)
    return checkpoint.digest(checkpoint.read(path, checkpoint.PARTS))


def mutated(good: bytes) -> bytes:
    """The bytes cut, flipped, swapped or with a piece put in twice, at random."""
    bad, how = bytearray(good), random.choice(["cut", "flip", "flips", "swap", "piece"])
    at, other, size = random.randrange(len(good)), random.randrange(len(good)), random.randrange(1, 200)
    if how == "cut":
        return bytes(bad[:at])
    if how in ("flip", "flips"):
        for _ in range(1 if how == "flip" else 20):
            bad[random.randrange(len(good))] ^= 1 << random.randrange(8)
    elif how == "swap":
        bad[at : at + size], bad[other : other + size] = bad[other : other + size], bad[at : at + size]
    else:
        bad[at:at] = good[other : other + size]
    return bytes(bad)


FORBIDDEN = ("exec", "compile", "import", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")


def memory(field: str) -> int:
    """Bytes that this process holds now (VmRSS), or held at most since reset_peak_memory (VmHWM)."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def reset_peak_memory() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def content_of(name: str) -> list:
    """All tokens and ids of a dataset with a held-out part."""
    found = dataset.Dataset(name)
    return [split.tokens(0, len(split)).tolist() for split in (found.train, found.val)] + [found.corpus_ids]


def mutations(trainer: Trainer, times: int = 10_000) -> None:
    """Checkpoints and shards with random damage: each is refused by one line, or is exactly right."""
    random.seed(3)
    path = trainer.folder / "mutated" / "ckpt.pt"
    path.parent.mkdir()
    right, tokens = small_checkpoint(path), content_of("held")
    good, shards = path.read_bytes(), {f: f.read_bytes() for f in (dataset.DATA / "held").iterdir()}
    pretrained.load_model(str(path.parent))  # what is imported late is imported now
    events, watching = [], False
    sys.addaudithook(lambda event, args: events.append((event, args)) if watching and event in FORBIDDEN else None)
    refused, slowest, largest, most = Counter(), 0.0, 0.0, 0
    for n in range(times):
        file, original = (path, good) if n % 4 < 3 else random.choice(list(shards.items()))
        file.write_bytes(mutated(original))
        reset_peak_memory()
        before, watching, began = memory("VmRSS"), True, time.perf_counter()
        try:
            if file == path:
                content = checkpoint.read(path, checkpoint.PARTS)
                pretrained.build_model(content, path)
                assert checkpoint.digest(content) == right
            else:
                assert content_of("held") == tokens
        except UserError as e:
            assert "\n" not in str(e)
            refused[re.sub(r"\(.*\)|'.*?'|\S*/\S*|[\d,]+", "", str(e))[:70]] += 1
        finally:
            watching = False
        slowest, taken = max(slowest, time.perf_counter() - began), memory("VmHWM") - before
        most = max(most, taken)
        if file == path:
            largest = max(largest, taken / len(good))
        file.write_bytes(original)
    for message, count in refused.most_common():
        print(f"  {count:6,} {message}")
    print(
        f"mutations: {times:,}, {refused.total():,} refused by one line, {times - refused.total():,} exactly right; "
        f"slowest {slowest * 1e3:.0f} ms; most memory that one took: {most / 1e6:.1f} MB, {largest:.2f} times the "
        f"checkpoint's {len(good) / 1e6:.1f} MB"
    )
    assert not events, f"code was run: {events[:3]}"
    assert largest < 2


def week(trainer: Trainer, times: int = 20_000) -> None:
    """Memory and open files of a long run of a small model, after a tenth of the updates and at the end."""
    process = trainer.start("week", **RUNS[0] | dict(max_iters=times, eval_interval=200, log_interval=10))
    process_files, samples = Path(f"/proc/{process.pid}"), []
    while process.poll() is None:
        time.sleep(1)
        try:
            status = (process_files / "status").read_text()
            resident = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024
            samples.append((resident, len(list((process_files / "fd").iterdir()))))
        except (OSError, TypeError):
            continue
    assert process.returncode == 0
    (early, early_files), (late, late_files) = samples[len(samples) // 10], samples[-3]
    print(
        f"{times:,} updates: memory {early:.0f} MB after a tenth, {late:.0f} MB at the end (at most "
        f"{max(resident for resident, _ in samples):.0f}), open files {early_files} and {late_files}"
    )
    assert late < 1.1 * early and late_files <= early_files


def main() -> None:
    parts = {"kills": kills, "disk": disk, "ranks": ranks, "sharded": sharded, "mutations": mutations, "week": week}
    names = [word for word in sys.argv[1:] if not word.startswith("--")] or list(parts)
    times = [int(word.removeprefix("--times=")) for word in sys.argv[1:] if word.startswith("--times=")]
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            parts[name](Trainer(Path(folder)), *times)
            print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
