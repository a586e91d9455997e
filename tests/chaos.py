"""What no quick test can show: that a run survives whatever happens to it. `make chaos` runs it, some 40 minutes.

    python tests/chaos.py                       # everything
    python tests/chaos.py kills disk            # these: kills, disk, ranks, mutations, week
    python tests/chaos.py kills --times=20

Each part prints what happened, and fails if something was lost. Not collected by pytest.
"""

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
from pathlib import Path

import torch

from llm.configurator import PACKAGE, UserError
from llm.model import GPT, GPTConfig
from llm.storage import checkpoint, pretrained
from llm.text import dataset, tokenizer
from llm.training import optim

TALE = (PACKAGE / "data" / "tale" / "tale.txt").read_text(encoding="utf-8")
TIMES = ("tokens_per_s", "seconds")  # what may differ in metrics.jsonl
SHAPE = dict(n_layer=2, n_head=2, n_embd=32, block_size=128, batch_size=2, learning_rate=1e-2, warmup_iters=5)
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

    def state(self, out_dir: str) -> dict:
        """Everything that a run leaves, but for the times."""
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
        """Of the checkpoint that a run would go on from."""
        if not checkpoint.resumable(self.folder / out_dir):
            return None
        return checkpoint.read(checkpoint.latest(str(self.folder / out_dir)), ())["iter_num"]


def must_equal(one: dict, other: dict) -> None:
    different = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    assert not different, f"not the same as the undisturbed run: {different}"


def kills(trainer: Trainer, times: int = 200) -> None:
    """SIGKILL at random instants, most of them while it trains, evaluates (every 10 updates) or saves (as often)."""
    random.seed(1)
    killed = in_a_save = went_on = before_any = finished = 0
    lives = []
    while killed < times:
        settings = RUNS[finished % len(RUNS)] | dict(max_iters=1500, eval_interval=10, eval_iters=2, seed=finished)
        name = f"run{finished}"
        assert trainer.start(f"{name}-whole", **settings).wait() == 0
        while True:
            expected, log = trainer.step(name), trainer.folder / f"{name}.log"
            read = log.stat().st_size if log.exists() else 0
            process = trainer.start(name, init_from="auto", **settings)
            try:  # some 2 seconds go until it trains
                status = process.wait(random.uniform(1.5, 5.0) if killed < times else None)
            except subprocess.TimeoutExpired:
                process.kill()
                status = process.wait()
            told = re.search(r"^going on from \S+, step ([\d,]+)$", log.read_text()[read:], re.M)
            if told:
                assert int(told[1].replace(",", "")) == expected, f"went on from {told[1]}, saved was {expected}"
                went_on += 1
            if status == 0:
                break
            assert status == -signal.SIGKILL, f"status {status}: {log.read_text()[-2000:]}"
            killed += 1
            in_a_save += any((trainer.folder / name).glob(".ckpt*.tmp"))
            before_any += told is None and expected is not None
            lives.append((trainer.step(name) or 0) - (expected or 0))
        whole, survivor = trainer.state(f"{name}-whole"), trainer.state(name)
        must_equal(whole, {k: v for k, v in survivor.items() if k != "ckpt_previous.pt"})
        finished += 1
        print(f"run {finished}: equal after {killed} kills in all", flush=True)
    print(
        f"kills survived: {killed}, {in_a_save} of them inside a save; {went_on} restarts went on from the last save, "
        f"{before_any} were killed before they had read it; updates saved in a life: {min(lives)} to {max(lives)}"
    )


def disk(trainer: Trainer, times: int = 50) -> None:
    """The disk is full at random points: no file may grow beyond a random size, for a random time (RLIMIT_FSIZE)."""
    random.seed(2)
    full = finished = refused = 0
    while full < times:
        settings = RUNS[finished % len(RUNS)] | dict(max_iters=1500, eval_interval=10, eval_iters=2, seed=finished)
        name = f"disk{finished}"
        assert trainer.start(f"{name}-whole", **settings).wait() == 0
        process, began = trainer.start(name, init_from="auto", **settings), full
        while (status := process.poll()) is None:
            time.sleep(random.uniform(0.1, 1.0))
            if (trainer.folder / name / "ckpt.pt").exists() and process.poll() is None and full < began + times // 3:
                try:
                    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (random.randrange(9_000_000), -1))
                    time.sleep(random.uniform(0.02, 0.5))
                    full += process.poll() is None
                    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (-1, -1))
                except ProcessLookupError:
                    break
        status = process.wait()
        log = (trainer.folder / f"{name}.log").read_text()
        assert "Traceback" not in log, log[-3000:]
        if status == 1:  # the last save of all was refused
            assert "what was learned since the last checkpoint" in log
            assert trainer.start(name, init_from="resume", **settings).wait() == 0
        refused += log.count("; training goes on, and saves again")
        must_equal(trainer.state(f"{name}-whole"), trainer.state(name))
        finished += 1
        print(f"run {finished}: equal after a full disk {full} times in all", flush=True)
    print(f"full disks survived: {full}; saves that were refused: {refused}; nothing lost")


def ranks(trainer: Trainer, times: int = 5) -> None:
    """Under torchrun, one of two processes is killed at a random instant: the other ends, and both go on together."""
    random.seed(4)
    settings = RUNS[0] | dict(max_iters=600, eval_interval=20)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    assert trainer.start("whole", launcher, **settings).wait() == 0
    killed = 0
    while killed < times:
        process = trainer.start("parts", launcher, init_from="auto", **settings)
        try:
            process.wait(random.uniform(5, 9))
        except subprocess.TimeoutExpired:
            found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, encoding="utf-8")
            if victims := found.stdout.split():
                os.kill(int(random.choice(victims)), signal.SIGKILL)
                killed += 1
        status = process.wait(60)
        if status == 0:
            break
    while process.wait() != 0:
        process = trainer.start("parts", launcher, init_from="auto", **settings)
    must_equal(trainer.state("whole"), {k: v for k, v in trainer.state("parts").items() if k != "ckpt_previous.pt"})
    said = (trainer.folder / "parts.log").read_text().count("another process of this training has died")
    print(f"killed one of two processes {killed} times, the other said so {said} times; equal to the undisturbed run")


def small_checkpoint(path: Path) -> str:
    """Writes a checkpoint of a small model; returns its digest."""
    torch.manual_seed(0)
    config = GPTConfig(n_layer=4, n_head=2, n_embd=80, block_size=8, bias=False, vocab_size=7, dropout=0.0, gelu="tanh")
    model = GPT(config)
    optimizers = optim.make_optimizers(
        model,
        optimizer="muon",
        learning_rate=0.01,
        muon_lr=0.02,
        muon_momentum=0.9,
        weight_decay=0.1,
        betas=(0.9, 0.95),
    )
    model(torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, 8, dtype=torch.int64))[1].backward()
    for optimizer in optimizers:
        optimizer.step()
    checkpoint.save(
        path,
        model=model,
        optimizers=optimizers,
        iter_num=3,
        best_val_loss=1e9,
        config={"dataset": "x"},
        tokenizer_description={"kind": "characters", "characters": "abcdefg"},
        corpus_ids=[1, 2],
        loop={"place": [0, 1], "seconds": 1.0, "metrics_bytes": 5, "text_sha256": "0"},
    )
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


def memory_of(name: str) -> int:
    """Bytes that this process holds (VmRSS), or held at most since `forget_the_most` (VmHWM)."""
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def forget_the_most() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def mutations(trainer: Trainer, times: int = 10_000) -> None:
    """Checkpoints and shards with random damage: each is refused by one line, or is exactly right."""
    random.seed(3)
    path = trainer.folder / "mutated" / "ckpt.pt"
    path.parent.mkdir()
    right = small_checkpoint(path)
    good = path.read_bytes()
    shards = {f.name: f.read_bytes() for f in (dataset.DATA / "held").iterdir()}
    held = dataset.Dataset("held")
    tokens = [
        held.train.tokens(0, len(held.train)).tolist(),
        held.val.tokens(0, len(held.val)).tolist(),
        held.corpus_ids,
    ]
    pretrained.load_model(str(path.parent))
    events, watching = [], False
    sys.addaudithook(lambda event, args: events.append((event, args)) if watching and event in FORBIDDEN else None)
    refused, exact, slowest, largest, most = {}, 0, 0.0, 0.0, 0
    for n in range(times):
        of_checkpoint = n % 4 < 3
        if of_checkpoint:
            path.write_bytes(mutated(good))
        else:
            name = random.choice(list(shards))
            (dataset.DATA / "held" / name).write_bytes(mutated(shards[name]))
        forget_the_most()
        before, watching, started = memory_of("VmRSS"), True, time.perf_counter()
        try:
            if of_checkpoint:
                content = checkpoint.read(path, checkpoint.PARTS)
                pretrained.build_model(content, path)
                assert checkpoint.digest(content) == right
            else:
                found = dataset.Dataset("held")
                assert [
                    found.train.tokens(0, 10**6).tolist(),
                    found.val.tokens(0, 10**6).tolist(),
                    found.corpus_ids,
                ] == tokens
            exact += 1
        except UserError as e:
            assert "\n" not in str(e)
            what = re.sub(r"\(.*\)|'.*?'|\S*/\S*|[\d,]+", "", str(e))[:70]
            refused[what] = refused.get(what, 0) + 1
        finally:
            watching = False
        slowest, taken = max(slowest, time.perf_counter() - started), memory_of("VmHWM") - before
        most = max(most, taken)
        if of_checkpoint:
            largest = max(largest, taken / len(good))
        else:
            (dataset.DATA / "held" / name).write_bytes(shards[name])
    for what, count in sorted(refused.items(), key=lambda pair: -pair[1]):
        print(f"  {count:6,} {what}")
    print(
        f"mutations: {times:,}, {times - exact:,} refused by one line, {exact:,} exactly right; slowest "
        f"{slowest * 1e3:.0f} ms; most memory that one took: {most / 1e6:.1f} MB, {largest:.2f} times the checkpoint's "
        f"{len(good) / 1e6:.1f} MB"
    )
    assert not events, f"code was run: {events[:3]}"
    assert largest < 2


def week(trainer: Trainer, times: int = 20_000) -> None:
    """A long run in the small: memory and open files, after a tenth of the updates and at the end."""
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
    parts = {"kills": kills, "disk": disk, "ranks": ranks, "mutations": mutations, "week": week}
    names = [word for word in sys.argv[1:] if not word.startswith("--")] or list(parts)
    times = [int(word.removeprefix("--times=")) for word in sys.argv[1:] if word.startswith("--times=")]
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            parts[name](Trainer(Path(folder)), *times)
            print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
