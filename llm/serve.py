"""Serve a trained model: a page to read its book in, and OpenAI's API.

    python serve.py --out_dir=out-prince
    python serve.py --out_dir=out-prince --watch=True

The second one shows a model that is being trained: its page has the book, what is known of it by now, and the curves.
Then open http://127.0.0.1:8000, or point any client of OpenAI's API to http://127.0.0.1:8000/v1. Needs the
extra serve. Only this machine is answered, unless LLM_API_KEY holds a key that all requests must then bring along.
The routes are in serving/app.py.
"""

import contextlib
import gc
import os
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package, installed or not
from llm import runtime
from llm.configurator import PositiveInt, UserError, require, run_script
from llm.reading.load import LoadedModel, load_reader
from llm.runtime import notice
from llm.serving.access import LOOPBACK, Access, host_name
from llm.serving.service import Before, Service
from llm.serving.watching import Watcher
from llm.training.run import Run
from llm.training.watching import Watched


@dataclass(frozen=True)
class Settings(runtime.Settings):
    # which model
    out_dir: str = "out"  # the folder that train.py wrote
    checkpoint_name: str = "ckpt.pt"  # which of its checkpoints
    watch: bool = False  # show a training that is running (or over) in out_dir, without a model
    # where to listen
    host: str = "127.0.0.1"  # any other than this machine's own needs a key in LLM_API_KEY
    port: int = 8000  # 0 = any that is free
    allow_host: str = ""  # other names of this server, as of a proxy in front of it: book.example,www.book.example
    # limits
    max_prompt_tokens: PositiveInt = 4096  # of a request; the model sees the last block_size of them
    max_new_tokens: PositiveInt = 4096  # of a request's max_tokens
    queue: PositiveInt = 64  # samples that may wait; beyond it, requests are answered with 429


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on host and port. UserError if that is not possible."""
    if not 0 <= port < 2**16:
        raise UserError(f"port={port}: expected a number from 0 to 65535; type --port=0 for one that is free")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as e:
        reason = os.strerror(e.errno) if getattr(e, "errno", None) else e
        raise UserError(f"cannot listen on {host}, port {port}: {reason}; type another --port, or --port=0") from None


FIRST = "ckpt_init.pt"  # the model before it learned


def load_service(cfg: Settings) -> Service:
    """The model that the settings name, with its engine running."""
    rt = runtime.start(cfg, use="sample")
    name, out_dir = Path(cfg.out_dir).resolve().name, Path(cfg.out_dir)
    options = dict(max_prompt_tokens=cfg.max_prompt_tokens, max_new_tokens=cfg.max_new_tokens, max_waiting=cfg.queue)

    def load(checkpoint_name: str) -> LoadedModel:
        return load_reader(cfg.out_dir, checkpoint_name, rt=rt, seed=cfg.seed)

    has_first = cfg.checkpoint_name != FIRST and (out_dir / FIRST).is_file()
    before = Before(lambda: Service(name, load(FIRST), **options, of_same_book=service)) if has_first else None
    service = Service(name, load(cfg.checkpoint_name), **options, out_dir=out_dir, before=before)
    if service.room:
        service.room.map_windows(service.model, out_dir, cfg.checkpoint_name, lambda: not service.is_idle())
    return service


def free_port(cfg: Settings) -> int:
    """The port of the settings, or 0 (any that is free) if it is taken."""
    try:
        listen(cfg.host, cfg.port).close()
        return cfg.port
    except UserError:
        return 0


def make_access(cfg: Settings, key: str | None) -> Access:
    """Who may send requests. UserError if that would be anybody."""
    if cfg.host.lower() not in LOOPBACK and not (key and key.strip()):
        raise UserError(
            f"host={cfg.host} is open to others: put a key into LLM_API_KEY, which they must then bring along"
        )
    access = Access(cfg.host, key, cfg.allow_host)
    for name in access.allowed:
        if host_name(name) is None:
            raise UserError(f"allow_host={cfg.allow_host}: {name} is no host; type --allow_host=book.example")
    return access


def main(cfg: Settings, on_start: Callable[[str], object] | None = None) -> None:
    """Serve until Ctrl-C. on_start: called with the page's address as soon as it listens."""
    require("uvicorn", "serve")
    require("fastapi", "serve")
    from llm.serving.app import make_app  # imports fastapi
    from llm.serving.connections import Server  # imports uvicorn

    access = make_access(cfg, os.environ.get("LLM_API_KEY"))
    with listen(cfg.host, cfg.port) as server_socket:
        service = Watcher(Path(cfg.out_dir).resolve().name, Path(cfg.out_dir)) if cfg.watch else load_service(cfg)
        host, port = f"[{cfg.host}]" if ":" in cfg.host else cfg.host, server_socket.getsockname()[1]
        address = f"http://{host}:{port}"
        server = Server(make_app(service, access), is_idle=service.is_idle)
        gc.freeze()  # what is there now stays: collecting garbage would search it again and again
        what = "watching" if cfg.watch else "serving"
        notice(f"{what} {service.name} at {address}; Ctrl-C finishes what runs and ends")
        if on_start:
            on_start(address)
        try:
            server.run(sockets=[server_socket])
        finally:
            service.close()


def watch(run: Run, stack: contextlib.ExitStack) -> None:
    """Show how a run learns, until the stack is closed."""
    stack.enter_context(page_of_training(run.out_dir, run.display.line))
    run.watched = Watched(run.out_dir, run.data, allowed=run.allowed, rt=run.rt)


@contextlib.contextmanager
def page_of_training(out_dir: Path, report: Callable[[str], object]) -> Iterator[None]:
    """Serve the page that shows the training in out_dir, in a thread of this process, until the block ends.

    So nothing of torch is loaded twice, which would take longer than a short training. The server is made when somebody
    first asks for the page: until then it costs nothing. report: gets the address.
    """
    cfg = Settings(out_dir=str(out_dir), watch=True)
    access, stopped, servers = make_access(cfg, os.environ.get("LLM_API_KEY")), threading.Event(), []
    server_socket, (waiting, waking) = listen(cfg.host, free_port(cfg)), socket.socketpair()

    def run() -> None:
        select.select([server_socket, waiting], [], [])
        if stopped.is_set():
            return
        from llm.serving.app import make_app
        from llm.serving.connections import Server

        try:
            watcher = Watcher(out_dir.resolve().name, out_dir)
        except UserError as e:
            report(str(e))
            return
        servers.append(Server(make_app(watcher, access), is_idle=watcher.is_idle))
        if not stopped.is_set():
            servers[0].run(sockets=[server_socket])

    thread = threading.Thread(target=run, name="page", daemon=True)
    with server_socket, waiting, waking:
        thread.start()
        report(f"watch it learn at http://{cfg.host}:{server_socket.getsockname()[1]}")
        try:
            yield
        finally:
            stopped.set()
            waking.send(b"0")
            for server in servers:
                server.should_exit = True
            thread.join(5)


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
