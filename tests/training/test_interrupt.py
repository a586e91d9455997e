"""A run that is stopped and resumed equals one that was never stopped: real processes, signals and terminals."""

import codecs
import dataclasses
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from conftest import TINY, timeless

from llm.configurator import UserError
from llm.storage import checkpoint
from llm.training import interrupt
from llm.training.batches import Batches
from llm.training.interrupt import Interrupt
from llm.training.metrics import read_metrics

TRAINED = dict(dropout=0.2, gradient_accumulation_steps=2, block_size=48, lr_decay_iters=100, eval_interval=25)
ENDLESS = dict(max_iters=100_000, eval_interval=100_000)  # stopped long before its end
FINISHING = "finishing this step, then saving; {} again to quit without saving"
PATIENCE = 100  # seconds until a test that hangs is ended


class Training:
    """A process that trains; its output goes to files."""

    def __init__(self, process: subprocess.Popen, out: Path, err: Path):
        self.process, self.out, self.err = process, out, err

    def wait_for(self, line: str) -> None:
        """Wait until a line of standard error matches."""
        deadline = time.monotonic() + PATIENCE
        while not re.search(line, self.err.read_text(), re.M):
            assert self.process.poll() is None and time.monotonic() < deadline, self.err.read_text()
            time.sleep(0.01)

    def finish(self) -> tuple[int, str, str]:
        """(exit status, standard output, standard error) once it has ended."""
        status = self.process.wait(PATIENCE)
        return status, self.out.read_text(), self.err.read_text()


@pytest.fixture
def command(package, story):
    """command(ranks, out_dir=..., ...): the words that start train.py, or torchrun if there are several ranks."""

    def command(ranks=1, **changes):
        settings = dataclasses.asdict(TINY) | TRAINED | changes
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
        return [sys.executable, *launcher, package / "train.py", *(f"--{k}={v}" for k, v in settings.items())]

    return command


@pytest.fixture
def popen(package, tmp_path):
    """popen(words, ...) starts a process in tmp_path; after the test, it and its children are killed."""
    processes = []

    def popen(words, **options):
        environment = {"PYTHONPATH": str(package.parent), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        processes.append(subprocess.Popen(words, cwd=tmp_path, env=os.environ | environment, **options))
        return processes[-1]

    yield popen
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # each leads a session, so a process group
            process.wait()


@pytest.fixture
def start(command, popen, tmp_path):
    """start(out_dir=..., ...) starts a Training. nohup: with SIGHUP ignored, as the command nohup does it."""

    def start(ranks=1, *, nohup=False, **changes):
        words = [*(["nohup"] if nohup else []), *command(ranks, **changes)]
        out, err = tmp_path / f"{changes['out_dir']}.out", tmp_path / f"{changes['out_dir']}.err"
        with open(out, "w") as stdout, open(err, "w") as stderr:
            streams = dict(stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
            return Training(popen(words, **streams, start_new_session=True), out, err)

    return start


def saved_step(folder) -> int:
    return checkpoint.read(folder / "ckpt.pt", ())["iter_num"]


def state(folder):
    """Everything that a run leaves, except times and how many updates were planned."""
    content = checkpoint.read(folder / "ckpt.pt", checkpoint.PARTS)
    loop = {k: v for k, v in content["loop"].items() if k not in ("seconds", "metrics_bytes")}
    parts = {name: checkpoint.digest(content[name]) for name in checkpoint.PARTS}
    return parts, loop, content["iter_num"], timeless(read_metrics(folder), "updates")


def test_ctrl_c_saves_and_the_resumed_run_equals_an_uninterrupted_one(start, learn, tmp_path, capsys):
    training = start(out_dir="halves", optimizer="muon", max_iters=100_000)
    training.wait_for("^step 7/")
    training.process.send_signal(signal.SIGINT)
    status, _, err = training.finish()
    assert status == 130 and "Traceback" not in err and FINISHING.format("Ctrl-C") in err.splitlines()
    told = re.fullmatch(
        r"Ctrl-C after ([\d,]+) updates in [\d:]+, saved in halves; to go on: python .*train.py .* --init_from=resume",
        err.splitlines()[-1],
    )
    n = int(told[1].replace(",", ""))
    assert saved_step(tmp_path / "halves") == n >= 8
    learn(out_dir="halves", init_from="auto", **TRAINED | dict(optimizer="muon", max_iters=n + 10))
    assert f"going on from halves/ckpt.pt, step {n:,}\n" in capsys.readouterr().out
    learn(out_dir="whole", **TRAINED | dict(optimizer="muon", max_iters=n + 10))
    assert state(tmp_path / "halves") == state(tmp_path / "whole")


def test_sighup_saves(start, tmp_path):
    training = start(out_dir="out", **ENDLESS)
    training.wait_for("^step 7/")
    training.process.send_signal(signal.SIGHUP)
    status, _, err = training.finish()
    assert status == 129 and FINISHING.format("SIGHUP") in err.splitlines()
    assert re.match(r"SIGHUP after [\d,]+ updates in [\d:]+, saved in out; to go on: ", err.splitlines()[-1])
    assert saved_step(tmp_path / "out") >= 8


@pytest.mark.slow
def test_sigterm_saves_and_under_nohup_sighup_is_ignored(start, tmp_path):
    training = start(out_dir="out", nohup=True, **ENDLESS)
    training.wait_for("^step 7/")
    training.process.send_signal(signal.SIGHUP)
    n_updates = len(re.findall("^step ", training.err.read_text(), re.M))
    training.wait_for(f"^step {n_updates + 3}/")  # a signal that counts ends the run after the step under way
    training.process.terminate()
    status, _, err = training.finish()
    assert status == 143 and FINISHING.format("SIGTERM") in err.splitlines() and "SIGHUP" not in err
    assert re.match(r"SIGTERM after [\d,]+ updates in [\d:]+, saved in out; to go on: ", err.splitlines()[-1])
    assert saved_step(tmp_path / "out") >= n_updates


class Exit(BaseException):
    """Raised in place of os._exit, which would end the tests."""


@pytest.fixture
def no_exit(monkeypatch):
    """os._exit(status) raises Exit(status)."""

    def exit(status):
        raise Exit(status)

    monkeypatch.setattr(interrupt.os, "_exit", exit)


@pytest.mark.parametrize(
    "step, told",
    [(0, "done: 0 updates, saved in out: nothing"), (3, "done: 3 updates, saved in out: 2 updates")],
)
def test_a_second_ctrl_c_ends_the_run_in_the_middle_of_a_step_and_says_what_is_lost(
    learn, monkeypatch, no_exit, tmp_path, step, told
):
    """The signals come with micro-batches 3 and 5 of an update, which has 8."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    next_batch, batches, lines = Batches.next, [], []
    monkeypatch.setattr(Interrupt, "_tell", staticmethod(lines.append))

    def next_and_interrupt(self):
        batches.append(next_batch(self))
        if len(batches) - 8 * step in (3, 5):
            signal.raise_signal(signal.SIGINT)
        return batches[-1]

    monkeypatch.setattr(Batches, "next", next_and_interrupt)
    with pytest.raises(Exit) as exit:
        learn(out_dir="out", gradient_accumulation_steps=8, eval_interval=2)
    assert exit.value.args == (130,) and len(batches) == 8 * step + 5
    assert (tmp_path / "out" / "ckpt.pt").exists() == (step > 0)
    assert lines == [FINISHING.format("Ctrl-C"), f"ended without saving; {told}"]


@pytest.mark.parametrize(
    "first, second, torchrun, status",
    [
        (signal.SIGINT, signal.SIGINT, False, 130),
        (signal.SIGTERM, signal.SIGTERM, False, 143),
        (signal.SIGHUP, signal.SIGINT, False, 130),
        (signal.SIGINT, signal.SIGINT, True, 130),
        (signal.SIGINT, signal.SIGTERM, True, None),  # torchrun passes Ctrl-C on to processes that have it already
        (signal.SIGTERM, signal.SIGTERM, True, None),  # a job scheduler signals torchrun and its processes
        (signal.SIGHUP, signal.SIGHUP, False, None),  # from the terminal that is closed, and from the shell in it
        (signal.SIGINT, signal.SIGHUP, False, None),
    ],
)
def test_a_second_signal_ends_the_program_only_if_a_person_has_sent_it(
    monkeypatch, no_exit, capfd, first, second, torchrun, status
):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    handlers = [signal.getsignal(number) for number in interrupt.NAMES]
    exits = []
    with Interrupt() as interrupted:
        signal.raise_signal(first)
        try:
            signal.raise_signal(second)
        except Exit as exit:
            exits += exit.args
    assert exits == ([] if status is None else [status]) and interrupted.signal == first
    said = [FINISHING.format(interrupted.name)] + ["ended without saving"] * len(exits)
    assert capfd.readouterr().err.splitlines() == said
    assert [signal.getsignal(number) for number in interrupt.NAMES] == handlers


def test_two_trainings_into_one_folder_are_refused_and_a_killed_one_unlocks_it(start, learn, tmp_path):
    first = start(out_dir="out", **ENDLESS)
    first.wait_for("^step 0/")
    (tmp_path / "out" / ".ckpt.pt.1.tmp").write_text("half of one")
    with pytest.raises(UserError) as refused:
        learn(out_dir="out")
    told = f"out_dir=out is being written to by another training (process {first.process.pid}); wait until"
    assert str(refused.value).startswith(told)
    first.process.kill()
    first.finish()
    learn(out_dir="out", max_iters=1)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert (
        left == {".lock", "ckpt.pt", "ckpt_init.pt", "metrics.jsonl", "previous_1"}
        and saved_step(tmp_path / "out") == 1
    )


@pytest.mark.slow
def test_two_ranks_go_on_after_ctrl_c(start, tmp_path):
    """The terminal sends Ctrl-C to torchrun and its processes, then torchrun sends SIGTERM. (chaos.py kills one.)"""
    training = start(ranks=2, out_dir="halves", optimizer="muon", max_iters=100_000)
    training.wait_for("^step 7/")
    os.killpg(training.process.pid, signal.SIGINT)
    status, _, err = training.finish()
    told = re.findall(r"^Ctrl-C after ([\d,]+) updates", err, re.M)
    assert status != 0 and len(told) == 1, err
    n = int(told[0].replace(",", ""))
    settings = dict(optimizer="muon", max_iters=n + 10)
    halves = start(ranks=2, out_dir="halves", init_from="resume", **settings)
    whole = start(ranks=2, out_dir="whole", **settings)
    assert [halves.finish()[0], whole.finish()[0]] == [0, 0]
    assert f"going on from halves/ckpt.pt, step {n:,}\n" in halves.out.read_text()
    assert state(tmp_path / "halves") == state(tmp_path / "whole")


LOGIN = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"  # run sys.argv[1:] in a terminal


class Terminal:
    """A terminal of 80 columns with a program in it."""

    def __init__(self, popen, words):
        self.keyboard, screen = pty.openpty()
        termios.tcsetwinsize(screen, (24, 80))
        self.process = popen([sys.executable, "-c", LOGIN, *words], stdin=screen, stdout=screen, stderr=screen)
        os.close(screen)
        self.text, self.decoder = "", codecs.getincrementaldecoder("utf-8")()

    def read_until(self, pattern: str | None) -> str:
        """All that was written to the screen, once it has the pattern; None = once the program has ended."""
        while pattern is None or not re.search(pattern, self.text):
            assert select.select([self.keyboard], [], [], PATIENCE)[0], self.text
            try:
                data = os.read(self.keyboard, 4096)
            except OSError:  # what Linux raises at the end
                data = b""
            if not data:
                assert pattern is None, self.text
                break
            self.text += self.decoder.decode(data)
        return self.text

    def type(self, keys: bytes) -> None:
        os.write(self.keyboard, keys)

    def close(self) -> None:
        os.close(self.keyboard)


def test_in_a_terminal_the_bar_fits_and_ctrl_c_is_answered_on_a_line_of_its_own(popen, command, tmp_path):
    terminal = Terminal(popen, command(out_dir="out", **ENDLESS))
    terminal.read_until(r"loss \d")
    terminal.type(b"\x03")  # Ctrl-C
    text = terminal.read_until(None)
    terminal.close()
    assert terminal.process.wait(PATIENCE) == 130 and saved_step(tmp_path / "out") > 0
    bars = [part for part in re.split(r"[\r\n]", text.replace("^C", "")) if "|" in part]  # ^C: what was typed
    assert re.search(r"learning story +\d+%\|.*\| \d\d:\d\d<[\d:?]+, loss \d+\.\d{3}", "\n".join(bars)), text
    assert max(map(len, bars)) <= 80
    assert f"\r\n{FINISHING.format('Ctrl-C')}\r\n" in text
    assert re.search(r"[\r\n]Ctrl-C after [\d,]+ updates in [\d:]+, saved in out; to go on: .*\r\n$", text)


@pytest.mark.slow
def test_closing_the_terminal_saves(popen, command, tmp_path):
    """Writing to a terminal that is gone fails. The system sends SIGHUP, and the shell, which ends, sends another."""
    terminal = Terminal(popen, command(out_dir="out", **ENDLESS))
    terminal.read_until(r"loss \d")
    terminal.close()
    terminal.process.send_signal(signal.SIGHUP)
    assert terminal.process.wait(PATIENCE) == 129 and saved_step(tmp_path / "out") > 0
