"""The other processes of a training, on this machine or on others: joining them, and noticing that one is lost.

torchrun or a job scheduler starts the processes and sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT
(docs/two_hosts.md). A process that is killed closes its connections, and the next exchange fails at once in all others.
A host without power, or a network that is cut, closes nothing: there, an exchange fails once it has waited for
`timeout` seconds. Both end a training, which then goes on from its last save.
"""

import importlib
import os
import re
import secrets
import time
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from llm.configurator import UserError

DEFAULT_TIMEOUT = 1800.0  # seconds: torch's own for gloo


def join(backend: str, timeout: float) -> None:
    """Join the other processes; every exchange with them fails after `timeout` seconds. UserError if one is missing."""
    # DistributedDataParallel imports this module, whose default arguments then hold the process group: imported
    # before there is one, they do not, and `runtime.stop` releases it
    importlib.import_module("torch.distributed.nn")
    limit = timedelta(seconds=timeout)
    try:
        store, rank, world_size = next(rendezvous("env://", timeout=limit))
        store = new_store(store, rank, world_size, timeout)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=limit)
    except (RuntimeError, ValueError) as error:
        master = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise UserError(
            f"the {os.environ.get('WORLD_SIZE')} processes of this training did not find each other at {master} within "
            f"{timeout:g} s ({reason}); docs/two_hosts.md says what each host needs"
        ) from None


def new_store(store: dist.Store, rank: int, world_size: int, timeout: float) -> dist.Store:
    """Part of `store` that no earlier start of the processes has written to; RuntimeError after `timeout` seconds.

    torchrun keeps one store while it starts its processes again and again, with the addresses of those that have died.
    Rank 0 draws a name for this part and sends it to whoever asks, until all others have confirmed that they know it.
    """
    if rank:
        name = store.get(f"answer {store.add('questions', 1)}").decode()
        store.set(f"{name} {rank}", "")
        return dist.PrefixStore(name, store)
    name, answered, deadline = secrets.token_hex(8), 0, time.monotonic() + timeout
    confirmed = [f"{name} {other}" for other in range(1, world_size)]
    while confirmed and not store.check(confirmed):
        if time.monotonic() > deadline:
            missing = ", ".join(str(other) for other, key in enumerate(confirmed, 1) if not store.check([key]))
            raise RuntimeError(f"waited for rank {missing}")
        questions = store.add("questions", 0)
        for number in range(answered + 1, questions + 1):
            store.set(f"answer {number}", name)
        answered = questions
        time.sleep(0.01)
    return dist.PrefixStore(name, store)


def explained(error: RuntimeError) -> Exception:
    """UserError if an exchange failed because another process or the network is gone, else the error itself."""
    message = str(error)
    lost = isinstance(error, dist.DistError) or any(
        words in message for words in ("by peer", "NCCL", "gloo", "Broken pipe")
    )
    if not (dist.is_initialized() and lost):
        return error
    what = "has died"
    if re.search(r"tim(ed|e) ?out", message, re.I):
        what = "has not answered in time (--timeout): it, its host or the network is down"
    return UserError(f"another process of this training {what}; to go on, type the same with --init_from=auto")
