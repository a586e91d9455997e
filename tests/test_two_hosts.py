"""A training on two hosts, which are two network namespaces joined by a cable: what is lost, and what goes on."""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TINY, timeless

from llm.storage import checkpoint
from llm.training.metrics import read_metrics

TIMEOUT = 5  # seconds: --timeout
MARGIN = 5  # seconds that a process may take to end once it knows
PATIENCE = 100  # seconds until a test that hangs is ended
PORT = "29500"
TRAINED = dict(
    dropout=0.2, optimizer="muon", gradient_accumulation_steps=2, max_iters=400, eval_interval=25, timeout=TIMEOUT
)


class Host:
    """A network namespace with one end of the cable, eth0."""

    def __init__(self, name: str, address: str):
        self.name, self.address, self.processes = name, address, []

    def popen(self, words: list, **options) -> subprocess.Popen:
        """A process on this host: `ip` becomes it, so the number is its own."""
        self.processes.append(subprocess.Popen(["ip", "netns", "exec", self.name, *words], **options))
        return self.processes[-1]

    def set_cable(self, state: str) -> None:
        """Pull the cable out ("down"), which the kernel does not tell to any connection, or plug it in ("up")."""
        ip("-n", self.name, "link", "set", "eth0", state)

    def kill_all(self) -> None:
        for number in ip("netns", "pids", self.name).split():
            os.kill(int(number), signal.SIGKILL)
        for process in self.processes:
            process.wait(PATIENCE)


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, encoding="utf-8").stdout


@pytest.fixture
def hosts():
    """Two hosts with a cable between them; skipped where namespaces cannot be made."""
    names = [f"llm{os.getpid()}{letter}" for letter in "ab"]
    found = [Host(name, f"10.77.0.{number}") for number, name in enumerate(names, 1)]
    if not shutil.which("ip"):
        pytest.skip("network namespaces need iproute2's command ip")
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for host in found:
            ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", host.name, "link", "set", device, "up")
        yield found
    except subprocess.CalledProcessError as e:
        pytest.skip(f"network namespaces cannot be made here: {e.stderr.strip()}")
    finally:
        for host in found:
            if Path("/run/netns", host.name).exists():
                host.kill_all()
                ip("netns", "delete", host.name)  # and its end of the cable, hence the cable


class Life:
    """One rank on each host, from a start to an end."""

    def __init__(self, hosts: list[Host], folder: Path, package: Path, out_dir: str, *, launchers=((), ()), **changes):
        self.hosts, self.logs, self.processes = hosts, [], []
        settings = dataclasses.asdict(TINY) | TRAINED | dict(out_dir=out_dir, init_from="auto") | changes
        words = [package / "train.py", *(f"--{name}={value}" for name, value in settings.items())]
        common = {"PYTHONPATH": str(package.parent), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        for rank, (host, launcher) in enumerate(zip(hosts, launchers, strict=True)):
            ranks = dict(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR=hosts[0].address, MASTER_PORT=PORT)
            environment = os.environ | common | {"GLOO_SOCKET_IFNAME": "eth0"} | ({} if launcher else ranks)
            self.logs.append(folder / f"{out_dir}-{rank}-{time.monotonic_ns()}.log")
            with open(self.logs[-1], "w") as log:
                streams = dict(stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                process = host.popen([sys.executable, *launcher, *words], cwd=folder, env=environment, **streams)
                self.processes.append(process)

    def wait_for_step(self, step: int) -> None:
        """Wait until update number `step` of the training is made."""
        deadline = time.monotonic() + PATIENCE
        while self.step() < step:
            assert all(p.poll() is None for p in self.processes) and time.monotonic() < deadline, self.texts()
            time.sleep(0.01)

    def step(self) -> int:
        """Number of the latest update in rank 0's log."""
        return max(map(int, re.findall(r"^step (\d+)/", self.logs[0].read_text(), re.M)), default=-1)

    def texts(self) -> str:
        return "\n".join(log.read_text() for log in self.logs)

    def ends(self, rank: int) -> tuple[int, str]:
        """(exit status, what the rank printed after its progress) once it has ended."""
        status = self.processes[rank].wait(PATIENCE)
        lines = self.logs[rank].read_text().splitlines()
        start = max((n for n, line in enumerate(lines) if line.startswith("step ")), default=-1)
        usual = ("evaluated: ", "[W")  # [W: a warning of torch's that a host has no name
        return status, "\n".join(line for line in lines[start + 1 :] if not line.startswith(usual))


def state(folder: Path):
    """Everything that a run leaves, except times."""
    content = checkpoint.read(folder / "ckpt.pt", checkpoint.PARTS)
    loop = {k: v for k, v in content["loop"].items() if k not in ("seconds", "metrics_bytes")}
    parts = {name: checkpoint.digest(content[name]) for name in checkpoint.PARTS}
    return parts, loop, content["iter_num"], timeless(read_metrics(folder))


DIED = "train.py: error: another process of this training has died; to go on, type the same with --init_from=auto"
SILENT = (
    "train.py: error: another process of this training has not answered in time (--timeout): it, its host or the "
    "network is down; to go on, type the same with --init_from=auto"
)


@pytest.mark.slow
def test_a_run_on_two_hosts_survives_what_happens_to_them(hosts, package, story, tmp_path):
    """In turns: a rank killed, a short cut, a long cut, a host gone. In the end, all equals an undisturbed run."""

    def life(out_dir, **changes):
        return Life(hosts, tmp_path, package, out_dir, **changes)

    def must_end(training, rank, expected, seconds):
        began = time.monotonic()
        status, said = training.ends(rank)
        took = time.monotonic() - began
        print(f"  rank {rank} ended {took:.1f} s later with status {status}: {said}")
        assert (status, said) == (1, expected) and took < seconds, said

    whole = life("whole")
    assert [whole.ends(rank)[0] for rank in (0, 1)] == [0, 0], whole.texts()
    print("\nundisturbed: 400 updates")

    first = life("parts")
    first.wait_for_step(30)
    print(f"rank 1 killed at step {first.step()}")
    first.processes[1].kill()
    must_end(first, 0, DIED, MARGIN)

    second = life("parts")
    second.wait_for_step(60)
    hosts[0].set_cable("down")
    time.sleep(TIMEOUT / 3)
    step = second.step()
    hosts[0].set_cable("up")
    second.wait_for_step(step + 30)
    print(f"cable out for {TIMEOUT / 3:.1f} s at step {step}: went on, to step {second.step()}")
    hosts[1].set_cable("down")
    print(f"cable out for good at step {second.step()}")
    must_end(second, 0, SILENT, TIMEOUT + MARGIN)
    must_end(second, 1, SILENT, MARGIN)
    hosts[1].set_cable("up")

    third = life("parts")
    third.wait_for_step(second.step() + 30)
    print(f"host of rank 0 gone at step {third.step()}")
    hosts[0].set_cable("down")  # first, or the kernel would tell the other host that the connections are closed
    hosts[0].kill_all()
    must_end(third, 1, SILENT, TIMEOUT + MARGIN)
    hosts[0].set_cable("up")

    last = life("parts")
    assert [last.ends(rank)[0] for rank in (0, 1)] == [0, 0], last.texts()
    resumed = [re.findall(r"^going on from .*", log.read_text(), re.M) for log in (second.logs[0], last.logs[0])]
    assert all(resumed)
    print(f"then: {resumed[1][0]}")
    assert state(tmp_path / "parts") == state(tmp_path / "whole")
    print("the result equals the undisturbed run's, bit for bit")


@pytest.mark.slow
def test_torchrun_starts_again_by_itself(hosts, package, story, tmp_path):
    """As docs/two_hosts.md has it: one torchrun on each host, which starts its process again if one is lost."""
    whole = Life(hosts, tmp_path, package, "whole")
    assert [whole.ends(rank)[0] for rank in (0, 1)] == [0, 0], whole.texts()
    launchers = [
        ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-id=book"]
        + ["--rdzv-backend=c10d", f"--rdzv-endpoint={hosts[0].address}:{PORT}", f"--local-addr={host.address}"]
        + [f"--rdzv-conf=is_host={int(host is hosts[0])}"]
        for host in hosts
    ]
    parts = Life(hosts, tmp_path, package, "parts", launchers=launchers)
    parts.wait_for_step(30)
    torchrun = parts.processes[1].pid
    [worker] = [number for number in map(int, ip("netns", "pids", hosts[1].name).split()) if parent(number) == torchrun]
    print(f"\nrank 1 killed at step {parts.step()}")
    os.kill(worker, signal.SIGKILL)
    began = time.monotonic()
    statuses = [process.wait(PATIENCE) for process in parts.processes]
    text = parts.logs[0].read_text()
    print(f"both ended {time.monotonic() - began:.1f} s later with status {statuses}; rank 0 said:")
    print("\n".join(re.findall(r"^(?:train.py: error|going on from).*", text, re.M)))
    assert statuses == [0, 0], parts.texts()
    assert DIED in text.splitlines() and "Traceback" not in parts.texts()
    assert re.search(r"^going on from parts/ckpt.pt, step \d+$", text, re.M)
    assert state(tmp_path / "parts") == state(tmp_path / "whole")


def parent(number: int) -> int:
    """The parent of a process."""
    return int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])
