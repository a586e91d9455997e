"""Attack serve.py as a stranger on the network could, and print what happens. By hand, on this machine alone.

    python tests/attack_server.py                 # all but load and fuzz, about two minutes
    python tests/attack_server.py idle stall      # some of them
    python tests/attack_server.py load --seconds=120
    python tests/attack_server.py load --out_dir=llm/out-tale
    python tests/attack_server.py fuzz --seconds=600

Each attack starts a server of its own, with a small random model or a copy of that in out_dir, and prints one line of
figures for each thing that it tries. The attacks are functions of a running server; tests/serving/test_attacks.py runs
them in small.
"""

import collections
import concurrent.futures
import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from conftest import STORY, save_trained

from llm.configurator import PACKAGE
from llm.model import GPT, GPTConfig
from llm.storage import pretrained
from llm.text import dataset, tokenizer

COMPLETIONS = "/v1/completions"
PROMPT = "The echo had been ill"


class Client:
    """What a client can do to a server on this machine."""

    def __init__(self, port: int):
        self.port = port

    def ask(self, method: str, path: str, body=None, *, timeout: float = 300, **headers) -> tuple[int, str]:
        """(status, answer); a body that is no bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def health(self, timeout: float = 60) -> float:
        """Seconds that /healthz takes."""
        began = time.perf_counter()
        assert self.ask("GET", "/healthz", timeout=timeout)[0] == 200
        return time.perf_counter() - began

    def jobs(self) -> tuple[int, int]:
        """How many samples run and wait."""
        health = json.loads(self.ask("GET", "/healthz")[1])
        return health["running"], health["waiting"]

    def connect(self, data: bytes = b"", *, receive_buffer: int | None = None) -> socket.socket:
        """A connection on which this has been sent."""
        client = socket.socket()
        client.settimeout(20)
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.connect(("127.0.0.1", self.port))
        client.sendall(data)
        return client

    def raw(self, data: bytes, timeout: float = 5) -> bytes:
        """All that the server answers to these bytes until it closes the connection, or for so many seconds."""
        answer = b""
        with self.connect(data) as client, contextlib.suppress(TimeoutError, ConnectionError):
            client.settimeout(timeout)
            while piece := client.recv(65536):
                answer += piece
        return answer


class Server(Client):
    """A running serve.py."""

    def __init__(self, process: subprocess.Popen, port: int):
        super().__init__(port)
        self.process, self.stderr = process, []
        threading.Thread(target=self._read_stderr, daemon=True).start()

    def _read_stderr(self) -> None:
        with contextlib.suppress(ValueError):  # closed
            self.stderr.extend(self.process.stderr)

    def memory(self) -> int:
        """Resident memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024

    def cpu_seconds(self) -> float:
        """CPU time that the process has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def files(self) -> int:
        """Open file descriptors."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self, signal_number: int = signal.SIGINT, timeout: float = 25) -> tuple[int | None, float]:
        """(exit status, seconds until then); None = it did not end, and was killed."""
        began = time.perf_counter()
        self.process.send_signal(signal_number)
        try:
            return self.process.wait(timeout), time.perf_counter() - began
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None, time.perf_counter() - began


def request(body: dict, path: str = COMPLETIONS) -> bytes:
    """The bytes of a POST request."""
    data = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def while_probed(server: Server, attack) -> tuple[object, float, float]:
    """(result of attack(), its seconds, the slowest /healthz meanwhile)."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        began, worst = time.perf_counter(), 0.0
        running = pool.submit(attack)
        time.sleep(0.02)
        while not running.done():
            worst = max(worst, server.health(timeout=400))
            time.sleep(0.02)
        return running.result(), time.perf_counter() - began, worst


def report(name: str, server: Server, attack) -> None:
    """Run an attack and print its figures."""
    server.health()
    (status, answer), seconds, worst = while_probed(server, attack)
    memory = server.memory()
    print(
        f"{name}: {status} in {seconds:.2f} s, slowest /healthz {worst:.3f} s, {memory} MB; {answer[:90]!r}", flush=True
    )


def prompts(start) -> None:
    """Many short prompts, and one long one: all of them were encoded before they were counted."""
    with start() as server:
        for n in (1000, 5000):
            report(f"{n:,} prompts", server, lambda n=n: server.ask("POST", COMPLETIONS, {"prompt": ["a"] * n}))
        report("240,000 words", server, lambda: server.ask("POST", COMPLETIONS, {"prompt": "ab " * 240_000}))
        report("128,000 letters", server, lambda: server.ask("POST", COMPLETIONS, {"prompt": "a" * 128_000}))
        body = {"prompt": ["a" * 4000] * 64, "max_tokens": 0}
        report("64 prompts of 4,000 letters", server, lambda: server.ask("POST", COMPLETIONS, body))


def cite(start) -> None:
    """Long texts to /cite, which was quadratic."""
    with start() as server:
        for n in (5000, 40_000, 80_000, 120_000):
            report(f"/cite of {3 * n:,} bytes", server, lambda n=n: server.ask("POST", "/cite", {"text": "ab " * n}))
        one = {"prompt": PROMPT, "max_tokens": 200, "temperature": 0}
        threads = [
            threading.Thread(target=server.ask, args=("POST", "/cite", {"text": "ab " * 60_000})) for _ in "1234"
        ]
        for thread in threads:
            thread.start()
        report("200 tokens beside 4 of 180,000 bytes", server, lambda: server.ask("POST", COMPLETIONS, one))
        for thread in threads:
            thread.join()


def large_bodies() -> dict[str, bytes]:
    """Bodies of about 1 MB, each expensive in another way."""
    number = b"1," * 490_000
    return {
        "lists": b'{"prompt":[' + b"[]," * 330_000 + b"[]]}",
        "numbers": b'{"prompt":[' + number + b"1]}",
        "texts": b'{"prompt":[' + b'"a",' * 245_000 + b'"a"]}',
        "keys": b"{" + b",".join(b'"%x":1' % n for n in range(100_000)) + b"}",
        "objects": b'{"prompt":[' + b"{}," * 330_000 + b"{}]}",
        "unknown key": b'{"' + b"k" * 990_000 + b'":1}',
        "stop": b'{"prompt":"a","stop":"' + b"a" * 990_000 + b'"}',
        "model": b'{"prompt":"a","model":"' + b"a" * 990_000 + b'"}',
        "temperature": b'{"prompt":"a","temperature":[' + number + b"1]}",
        "digits": b'{"prompt":"a","max_tokens":' + b"9" * 990_000 + b"}",
        "float": b'{"prompt":"a","temperature":0.' + b"9" * 990_000 + b"}",
        "escapes": b'{"prompt":"' + b"\\u00e9" * 160_000 + b'"}',
        "half pairs": b'{"prompt":"' + b"\\ud83d" * 160_000 + b'"}',
        "letters": b'{"prompt":"' + b"a" * 500_000 + b'"}',
        "spaces": b'{"prompt":"' + b" " * 500_000 + b'"}',
        "user": b'{"prompt":"a","max_tokens":0,"user":"' + b"a" * 990_000 + b'"}',
        "nested": b'{"prompt":' + b"[" * 500_000 + b"}",
        "no JSON": b"{" * 999_000,
        "text to cite": b'{"text":"' + b"a " * 131_000 + b'"}',
        "letters to cite": b'{"text":"' + b"a" * 262_000 + b'"}',
        "messages": b'{"messages":[' + b'{"role":"user","content":"a"},' * 33_000 + b'{"role":"user","content":"a"}]}',
    }


def large(start) -> None:
    """Requests of 1 MB of every kind."""
    with start() as server:
        for name, body in large_bodies().items():
            path = "/cite" if "cite" in name else "/v1/chat/completions" if name == "messages" else COMPLETIONS
            report(f"1 MB of {name}", server, lambda path=path, body=body: server.ask("POST", path, body))


def half_open(server: Server, n: int) -> tuple[int, float]:
    """(connections made, seconds of /healthz beside them): n connections that send half a head."""
    held = []
    for _ in range(n):
        with contextlib.suppress(OSError):
            held.append(server.connect(b"GET /healthz HTTP/1.1\r\nHost: loc"))
    try:
        return len(held), server.health(timeout=10)
    finally:
        for client in held:
            client.close()


def limit_files() -> None:
    """In the server's process: 256 open files at most, fewer than the connections that follow."""
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


def idle(start) -> None:
    """400 half-open connections to a server that may have 256 open files, without and with a key; unfinished bodies."""
    for environment in ({}, {"LLM_API_KEY": "secret"}):
        with start(preexec=limit_files, **environment) as server:
            try:
                found = half_open(server, 400)
            except OSError as e:
                found = f"a proper client gets {type(e).__name__}"
            print(f"idle, {environment}: {found}; lines of stderr {len(server.stderr):,}", flush=True)
        with start(**environment) as server:
            before, held = server.memory(), []
            head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999\r\n\r\n".encode()
            for _ in range(200):
                with contextlib.suppress(OSError):
                    held.append(server.connect(head + b"x" * 999_000))
            time.sleep(1)
            print(
                f"200 unfinished bodies, {environment}: {before} -> {server.memory()} MB, "
                f"/healthz {server.health():.3f} s, {server.files()} files",
                flush=True,
            )


def stalled_reader(server: Server, max_tokens: int = 4000) -> socket.socket:
    """A client that has asked for 8 streams and reads nothing of them; returns when all of it is drawn."""
    body = {"prompt": "Keep", "n": 8, "max_tokens": max_tokens, "stream": True}
    client = server.connect(request(body), receive_buffer=4096)
    time.sleep(0.5)
    while server.jobs() != (0, 0):
        time.sleep(0.2)
    return client


def stall(start) -> None:
    """Ctrl-C and SIGTERM while a client does not read."""
    for number in (signal.SIGINT, signal.SIGTERM):
        with start() as server:
            client = stalled_reader(server)
            status, seconds = server.stop(number)
            print(f"{number.name} beside a client that does not read: exit status {status} after {seconds:.1f} s")
            client.close()
    with start() as server, concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(server.ask, "POST", COMPLETIONS, {"prompt": "Keep", "n": 64, "max_tokens": 4000})
        time.sleep(2)
        server.process.send_signal(signal.SIGINT)
        time.sleep(1)
        status, seconds = server.stop()
        print(f"second Ctrl-C: exit status {status} after {seconds:.1f} s; stderr {server.stderr[-3:]}")


def leave_at_once(server: Server, n: int) -> None:
    """n clients of each kind that reset the connection: in the body, right after it, and a moment later."""
    data = request({"prompt": "Keep", "n": 4, "max_tokens": 4000, "stream": False})
    for k in range(3 * n):
        client = server.connect()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(data[: -5 if k % 3 == 0 else None])
        time.sleep(0.005 * (k % 3))
        client.close()


def leave(start) -> None:
    """Clients that leave: no traceback, no sample that goes on."""
    with start() as server:
        leave_at_once(server, 100)
        time.sleep(2)
        print(f"300 clients left at once: samples {server.jobs()}, lines of stderr {len(server.stderr)}")


MESSAGES = {  # what a server must say to these bytes
    "Content-Length and Transfer-Encoding": b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/1.0 without Host": b"GET /healthz HTTP/1.0\r\n\r\n",
    "Host in capitals": b"GET /healthz HTTP/1.1\r\nHost: LOCALHOST:1\r\nConnection: close\r\n\r\n",
    "HEAD": b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "too large a body": b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n{}",
    "a lone surrogate": request({"prompt": "\ud800", "echo": True, "max_tokens": 1}),
    "a lone surrogate's key": request({"\ud800": 1}),
    "a lone surrogate to cite": request({"text": "\ud800"}, "/cite"),
    "no HTTP": bytes(range(256)) * 10,
}


def messages(start) -> None:
    """Odd requests."""
    with start() as server:
        for name, data in MESSAGES.items():
            answer = server.raw(data, timeout=1)
            print(f"{name}: {answer[:30]!r} ... {answer[-90:]!r}, {answer.count(b'HTTP/1.1 ')} answers")
        print(f"lines of stderr: {len(server.stderr)}")


def overwrite(server: Server, path: Path, how: str) -> tuple[str, str]:
    """(greedy text before, after) a checkpoint is changed in place under a running server."""

    def draw(prompt: str) -> str:
        body = {"prompt": prompt, "max_tokens": 8, "temperature": 0}
        return json.loads(server.ask("POST", COMPLETIONS, body, timeout=20)[1])["choices"][0]["text"]

    before = draw("the kettle sang")
    draw(PROMPT)
    with open(path, "r+b") as file:
        file.truncate(0) if how == "truncated" else file.write(os.urandom(path.stat().st_size))
    return before, draw("the kettle sang")


def checkpoint(start) -> None:
    """The checkpoint is overwritten under a running server."""
    for how in ("truncated", "overwritten"):
        with start() as server:
            try:
                found = overwrite(server, Path(server.folder) / "out" / "ckpt.pt", how)
            except (OSError, http.client.HTTPException) as e:
                found = f"{type(e).__name__}; exit status {server.process.wait(5)}"
            print(f"checkpoint {how}: {found}")


def keys(start) -> None:
    """How many keys can be tried, and which forms are accepted."""
    with start(LLM_API_KEY="sécret key") as server:
        forms = {"as curl sends it": "Bearer sécret key".encode(), "small letters": "bearer sécret key".encode()}
        for name, value in forms.items():
            head = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: " + value
            answer = server.raw(head + b"\r\n\r\n")
            print(f"{name}: {answer[:15]!r}")
        began, found = time.perf_counter(), collections.Counter()
        while time.perf_counter() - began < 5:
            found[server.ask("GET", "/v1/models", Authorization=f"Bearer {random.random()}")[0]] += 1
        print(f"wrong keys in 5 s: {dict(found)}; {'no limit' if 429 not in found else 'most were not compared'}")


class Load:
    """Clients that ask at random and check what they get."""

    def __init__(self, client: Client):
        self.client, self.counts, self.lost = client, collections.Counter(), []

    def expected(self) -> list[list[str]]:
        """The answers to 20 requests, asked one at a time before the load."""
        found = []
        for n in range(20):
            status, answer = self.client.ask("POST", COMPLETIONS, self.body(n))
            assert status == 200, answer
            found.append([choice["text"] for choice in json.loads(answer)["choices"]])
        return found

    def body(self, n: int) -> dict:
        """Request n, whose answer depends on nothing but its seed."""
        chance = random.Random(n)
        words = " ".join(chance.choice(STORY.split()[:200]) for _ in range(chance.randrange(1, 80)))
        options = {"temperature": chance.choice([0, 0.3, 1, 2]), "top_p": chance.choice([1, 0.9, 0.1])}
        sizes = {"max_tokens": chance.randrange(0, 60), "n": chance.choice([1, 1, 1, 2, 4])}
        return {"prompt": words, "seed": n, **options, **sizes}

    def ask_until(self, end: float, number: int, expected: list[list[str]]) -> None:
        """Ask until the end; a fifth of the requests is left midway."""
        chance = random.Random(number)
        while time.monotonic() < end:
            n = chance.randrange(len(expected))
            body = self.body(n) | {"stream": chance.random() < 0.5}
            try:
                if chance.random() < 0.2:
                    with self.client.connect(request(body)):
                        time.sleep(chance.random() * 0.2)
                    self.counts["left"] += 1
                    continue
                status, answer = self.client.ask("POST", COMPLETIONS, body, timeout=120)
                self.counts[status] += 1
                if status == 200:
                    self.check(answer, body, expected[n])
                else:
                    time.sleep(chance.random())
            except Exception as e:
                self.lost.append(f"{type(e).__name__}: {e}")

    def check(self, answer: str, body: dict, expected: list[str]) -> None:
        """Count an answer that is not whole, or not the one that came without load."""
        if body["stream"]:
            if not answer.endswith("data: [DONE]\n\n"):
                self.lost.append("a stream without its end")
            texts = [""] * body["n"]
            for line in answer.split("\n\n")[:-2]:
                choice = json.loads(line.removeprefix("data: "))["choices"][0]
                texts[choice["index"]] += choice["text"]
        else:
            texts = [choice["text"] for choice in json.loads(answer)["choices"]]
        self.counts["right" if texts == expected else "wrong"] += 1


def ask_together(port: int, seconds: float, n_clients: int, expected: list[list[str]]) -> tuple[dict, list[str]]:
    """(counts, answers lost) of so many clients at once. For a process of its own."""
    load, end = Load(Client(port)), time.monotonic() + seconds
    with concurrent.futures.ThreadPoolExecutor(n_clients) as pool:
        for client in [pool.submit(load.ask_until, end, number, expected) for number in range(n_clients)]:
            client.result()
    return dict(load.counts), load.lost


def keep_open(clients: list[socket.socket], again) -> int:
    """Read what has come on these connections, 100 bytes each; replace those that were closed. How many were."""
    n_closed = 0
    for k, client in enumerate(clients):
        client.setblocking(False)
        try:
            closed = client.recv(100) == b""
        except BlockingIOError:
            closed = False
        except ConnectionError:
            closed = True
        if closed:
            client.close()
            clients[k] = again()
            n_closed += 1
    return n_closed


def load(start, seconds: float = 120, n_clients: int = 200, n_idle: int = 400, n_slow: int = 20) -> None:
    """200 clients, a fifth of the requests left midway, 400 idle connections, 20 slow readers, all at once."""
    n_clients, n_idle, n_slow = int(n_clients), int(n_idle), int(n_slow)
    with start() as server, concurrent.futures.ProcessPoolExecutor(1) as process:
        expected = Load(server).expected()
        slow_request = request({"prompt": PROMPT, "max_tokens": 300, "stream": True})
        slow = [server.connect(slow_request, receive_buffer=4096) for _ in range(n_slow)]
        idle = [server.connect(b"GET /hea") for _ in range(n_idle)]
        running = process.submit(ask_together, server.port, seconds, n_clients, expected)
        times, memory, n_closed, n_slow_closed = [], [], 0, 0
        while not running.done():
            times.append(server.health())
            memory.append(server.memory())
            n_slow_closed += keep_open(slow, lambda: server.connect(slow_request, receive_buffer=4096))
            n_closed += keep_open(idle, lambda: server.connect(b"GET /hea"))
            time.sleep(0.05)
        counts, lost = running.result()
        times.sort()
        print(f"{n_clients} clients, {seconds:.0f} s: {counts}, lost {len(lost)} {lost[:3]}")
        print(
            f"{n_idle} idle connections, closed and made anew {n_closed}; {n_slow} slow readers, anew {n_slow_closed}"
        )
        print(
            f"/healthz: median {times[len(times) // 2]:.3f} s, p99 {times[int(len(times) * 0.99)]:.3f} s, slowest "
            f"{times[-1]:.3f} s of {len(times)}"
        )
        tenths = [memory[len(memory) * k // 10] for k in range(10)]
        print(f"memory in MB, by tenths of the time: {tenths}, at the end {memory[-1]}; stderr {server.stderr[-3:]}")


def fuzz(start, seconds: float = 600) -> None:
    """Random requests (tests/serving/test_fuzz.py) for so long."""
    sys.path.insert(0, str(Path(__file__).parent / "serving"))
    import test_fuzz

    with start() as server:
        print(test_fuzz.fuzz_for(server, seconds))
        print(f"memory {server.memory()} MB, samples {server.jobs()}, stderr {server.stderr[-3:]}")


def make_served(folder: Path, out_dir: str | None) -> Path:
    """A copy of the package with a dataset, and folder/out with a model of it; returns serve.py.

    out_dir: of a trained model, whose dataset is prepared here; None = a small random model.
    """
    package = folder / "checkout" / "llm"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("*.bin", "out", "out-*", "__pycache__"))
    if out_dir:
        (folder / "out").mkdir()
        shutil.copy(Path(out_dir) / "ckpt.pt", folder / "out")
        name = pretrained.load_model(out_dir)[2].dataset
        shutil.copytree(dataset.DATA / name, package / "data" / name, dirs_exist_ok=True)
        return package / "serve.py"
    dataset.DATA, encoder = package / "data", tokenizer.gpt2()
    dataset.write_dataset(dataset.DATA / "served", STORY, encoder, val_fraction=0, source={}, train_command=("x",))
    shape = dict(n_layer=2, n_head=2, n_embd=32, block_size=64, bias=False, vocab_size=50304, dropout=0.0, gelu="tanh")
    torch.manual_seed(0)
    model = GPT(GPTConfig(**shape))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3) if p.dim() > 1 else torch.nn.init.normal_(p, mean=1.0, std=0.1)
    (folder / "out").mkdir()
    split, ids = dataset.Dataset("served").train, sorted(set(encoder.encode(STORY)))
    save_trained(folder / "out" / "ckpt.pt", model, split, ids, dataset="served")
    return package / "serve.py"


@contextlib.contextmanager
def started(script: Path, folder: Path, *, preexec=None, **environment):
    """A server on a copy of the model, which ends with the block."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        shutil.copytree(folder / "out", Path(own) / "out")
        process = subprocess.Popen(
            [sys.executable, str(script), "--out_dir=out", "--port=0", "--dtype=float32"],
            cwd=own,
            env=os.environ | {"PYTHONPATH": str(script.parents[1]), "OMP_NUM_THREADS": "1"} | environment,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            preexec_fn=preexec,
        )
        try:
            for line in process.stderr:
                if found := re.search(r"serving out at http://127.0.0.1:(\d+); Ctrl-C", line):
                    server = Server(process, int(found[1]))
                    server.folder = own
                    yield server
                    break
            else:
                raise SystemExit("the server did not start")
        finally:
            process.kill()
            process.wait()


ATTACKS = {f.__name__: f for f in (prompts, cite, large, idle, stall, leave, messages, checkpoint, keys, load, fuzz)}


def main(arguments: list[str]) -> None:
    options = dict(argument.removeprefix("--").split("=") for argument in arguments if argument.startswith("--"))
    out_dir = options.pop("out_dir", None)
    options = {name: float(value) for name, value in options.items()}
    names = [argument for argument in arguments if not argument.startswith("--")]
    with tempfile.TemporaryDirectory() as folder:
        script = make_served(Path(folder), out_dir)
        for name in names or [name for name in ATTACKS if name not in ("load", "fuzz")]:
            print(f"-- {name}: {' '.join(ATTACKS[name].__doc__.split())}", flush=True)
            ATTACKS[name](lambda **changes: started(script, Path(folder), **changes), **options)


if __name__ == "__main__":
    main(sys.argv[1:])
