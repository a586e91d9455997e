"""A process that is missing, lost or starts from another state ends a training with one line (test_two_hosts.py)."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from llm import configurator, processes
from llm.configurator import UserError
from llm.runtime import Runtime, Settings
from llm.storage.progress import Progress
from llm.training import start


@pytest.fixture
def alone_of_two(monkeypatch):
    """The environment of a process whose partner never comes."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    environment = dict(RANK="0", WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return port


def test_processes_that_do_not_find_each_other_are_told_where_they_looked(alone_of_two):
    with pytest.raises(UserError) as refused:
        processes.join("gloo", timeout=1)
    told = f"the 2 processes of this training did not find each other at 127.0.0.1:{alone_of_two} within 1 s ("
    assert str(refused.value).startswith(told)
    assert str(refused.value).endswith("; docs/two_hosts.md says what each host needs")
    assert not dist.is_initialized()


def test_a_process_that_is_not_told_where_to_look_says_so(alone_of_two, monkeypatch):
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(UserError, match="MASTER_ADDR expected, but not set"):
        processes.join("gloo", timeout=1)


def test_processes_that_start_again_do_not_read_what_those_before_them_wrote():
    """The store of torchrun outlives them, and the first to come back must wait for rank 0."""
    shared = dist.HashStore()
    shared.set_timeout(timedelta(seconds=20))
    seen = []

    def start(rank: int) -> dist.Store:
        return processes.new_store(shared, rank, 3, timeout=20)

    with ThreadPoolExecutor(3) as pool:
        for address in ("old", "new"):
            others = [pool.submit(start, rank) for rank in (1, 2)]
            time.sleep(0.1)
            assert not any(other.done() for other in others)
            store = start(0)
            assert not store.check(["address of rank 0"])
            store.set("address of rank 0", address)
            seen += [other.result().get("address of rank 0").decode() for other in others]
    assert seen == ["old", "old", "new", "new"]


def test_rank_0_says_who_did_not_come():
    shared = dist.HashStore()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(processes.new_store, shared, 1, 4, 20)
        with pytest.raises(RuntimeError, match="^waited for rank 2, 3$"):
            processes.new_store(shared, 0, 4, timeout=1)


GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/"
DIED = "has died; to go on"
SILENT = "has not answered in time (--timeout): it, its host or the network is down; to go on"


@pytest.mark.parametrize(
    "message, expected",
    [
        (f"{GLOO}pair.cc:553] Connection closed by peer [10.77.0.2]:32443", DIED),
        (f"{GLOO}pair.cc:534] Read error [10.77.0.2]:3512: Connection reset by peer", DIED),
        (f"{GLOO}unbound_buffer.cc:81] Timed out waiting 5000ms for recv operation to complete", SILENT),
        ("NCCL communicator was aborted on rank 0.", DIED),
        ("NCCL: Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3, Timeout(ms)=600000)", SILENT),
        ("mat1 and mat2 shapes cannot be multiplied", None),
    ],
)
def test_an_exchange_that_fails_is_told_from_other_errors(monkeypatch, message, expected):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    error = RuntimeError(message)
    found = processes.explained(error)
    if expected is None:
        assert found is error
    else:
        assert isinstance(found, UserError)
        assert str(found) == f"another process of this training {expected}, type the same with --init_from=auto"
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    assert processes.explained(error) is error


@pytest.mark.parametrize(
    "theirs, told",
    [
        (("a", 20, None), None),
        (("a", 0, None), "start from the same text at steps 20, 0: out_dir and the dataset must be the same folders"),
        (("b", 20, None), "start from different texts at steps 20, 20: out_dir"),
    ],
)
def test_ranks_must_start_from_the_same_state(monkeypatch, theirs, told):
    monkeypatch.setattr(Runtime, "gather", lambda self, items: [*items, theirs])
    rt = Runtime(torch.device("cpu"), torch.float32, compile=False, world_size=2)
    begin = start.Start(None, Progress(text_sha256="a", iter_num=20), None)
    if told is None:
        assert start.agreed(begin, rt) is begin
        return
    with pytest.raises(UserError, match=told):
        start.agreed(begin, rt)


@pytest.mark.parametrize("rank, local_rank, lines", [("0", "0", 1), ("1", "1", 0), ("1", "0", 1), ("2", None, 0)])
def test_a_mistake_is_printed_once_on_each_host(monkeypatch, capsys, rank, local_rank, lines):
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setenv("RANK", rank)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)

    def main(settings):
        raise UserError("no")

    assert configurator.exit_status(main, Settings, None) == 1
    assert capsys.readouterr().err == "train.py: error: no\n" * lines
