"""The attacks of tests/attack_server.py in small: one test for each kind of defect that an audit found."""

import json
import signal
import socket
import time

import pytest
from attack_server import (
    COMPLETIONS,
    MESSAGES,
    PROMPT,
    Server,
    half_open,
    large_bodies,
    leave_at_once,
    limit_files,
    overwrite,
    request,
    stalled_reader,
    while_probed,
)
from conftest import STORY

from llm.serving import connections
from llm.serving.access import WRONG_KEYS

pytestmark = pytest.mark.slow

SLOW = 1.0  # seconds; each of these attacks took many times as long, and a busy machine takes a fraction of it


@pytest.fixture(scope="module")
def server(start_server):
    return Server(*start_server())


@pytest.mark.parametrize("prompt", [["a"] * 3000, "ab " * 240_000, ["ab " * 5000] * 64], ids=["many", "long", "both"])
def test_prompts_are_counted_and_sized_before_they_are_encoded(server, prompt):
    """5,000 prompts of one letter, 25 KB, kept all clients waiting for 12.7 s, and were then refused."""
    (status, answer), seconds, worst = while_probed(
        server, lambda: server.ask("POST", COMPLETIONS, {"prompt": prompt, "max_tokens": 1})
    )
    assert status == 400 and json.loads(answer)["error"]["param"] == "prompt"
    assert seconds < SLOW and worst < SLOW


def test_a_text_to_cite_takes_linear_time_and_has_a_limit(server):
    """120 KB took 5.7 s, 360 KB 66.7 s."""
    (status, _), seconds, worst = while_probed(server, lambda: server.ask("POST", "/cite", {"text": "ab " * 80_000}))
    assert status == 200 and seconds < SLOW and worst < SLOW
    status, answer = server.ask("POST", "/cite", {"text": "ab " * 120_000})
    assert status == 400 and "at most 262,144 are allowed" in answer


@pytest.mark.parametrize("between", ["ab ", "the and of "], ids=["other words", "words of the book"])
def test_a_text_to_compare_with_the_book_takes_linear_time(server, between):
    """What lies between two recited passages is compared word by word, which is quadratic; so its length is limited."""
    passage = " ".join(STORY[:6000].split()[100:110])
    text = f"{passage} {between * 35}"
    text *= 262_000 // len(text)
    (status, answer), seconds, worst = while_probed(server, lambda: server.ask("POST", "/compare", {"text": text}))
    assert status == 200 and "".join(piece["text"] for piece in json.loads(answer)["pieces"]) == text
    assert seconds < 5 * SLOW and worst < SLOW


@pytest.mark.parametrize("name, body", [pytest.param(name, body, id=name) for name, body in large_bodies().items()])
def test_a_megabyte_of_anything_is_answered_at_once(server, name, body):
    path = "/cite" if "cite" in name else "/v1/chat/completions" if name == "messages" else COMPLETIONS
    (status, answer), seconds, worst = while_probed(server, lambda: server.ask("POST", path, body))
    assert status in (200, 400, 404) and json.loads(answer)
    assert seconds < 5 * SLOW and worst < SLOW


@pytest.mark.parametrize("environment", [{}, {"LLM_API_KEY": "secret"}], ids=["", "with a key"])
def test_half_open_connections_keep_nobody_out(start_server, environment):
    """400 of them took all files: nobody else was answered, and a million lines of traceback were printed."""
    server = Server(*start_server(preexec_fn=limit_files, **environment))
    n, seconds = half_open(server, 300)
    assert n == 300 and seconds < SLOW
    assert server.stderr == []


def test_unfinished_bodies_are_limited_together(server):
    """Each of 200 connections kept 1 MB for as long as it liked."""
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999\r\n\r\n".encode()
    held, before = [], server.memory()
    for _ in range(connections.MAX_BODIES_BYTES // 999_000 + 10):
        held.append(server.connect(head + b"x" * 999_000))
    assert server.ask("POST", COMPLETIONS, {"prompt": PROMPT, "max_tokens": 1})[0] == 200
    assert server.memory() - before < 2.5 * connections.MAX_BODIES_BYTES / 1e6
    closed = 0
    for client in held:
        client.settimeout(0.05)
        try:
            closed += client.recv(100) == b""
        except ConnectionError:
            closed += 1
        except TimeoutError:
            pass
        client.close()
    assert 3 <= closed < len(held)  # the oldest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_although_a_client_does_not_read(start_server, number):
    """Neither signal ended it for as long as the client stayed."""
    server = Server(*start_server())
    with stalled_reader(server, 1500):
        status, seconds = server.stop(number)
    assert status == {signal.SIGINT: 130, signal.SIGTERM: -signal.SIGTERM}[number]
    assert seconds < connections.SHUTDOWN_SECONDS + 5
    assert not any("Traceback" in line for line in server.stderr)


def test_a_second_ctrl_c_ends_it_without_a_traceback(start_server):
    server = Server(*start_server())
    with server.connect(request({"prompt": "Keep", "n": 64, "max_tokens": 4000})):
        while server.jobs()[0] == 0:
            time.sleep(0.05)
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert server.stop()[0] == 130
    assert not any("Traceback" in line for line in server.stderr)


def test_clients_that_leave_are_no_errors(start_server):
    server = Server(*start_server())
    leave_at_once(server, 10)
    deadline = time.monotonic() + 30
    while server.jobs() != (0, 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.jobs() == (0, 0) and server.stderr == []


@pytest.mark.parametrize("how", ["truncated", "overwritten"])
def test_a_checkpoint_that_is_overwritten_changes_nothing(start_server, served, tmp_path, how):
    """The weights were read from the file as they were needed: SIGBUS, or an answer of nonsense."""
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "ckpt.pt"
    path.write_bytes((served / "out" / "ckpt.pt").read_bytes())
    before, after = overwrite(Server(*start_server(cwd=tmp_path)), path, how)
    assert before == after


ANSWERS = {  # to MESSAGES: the status, and how many answers there may be
    "Content-Length and Transfer-Encoding": (400, 1),
    "HTTP/1.0 without Host": (200, 1),
    "Host in capitals": (200, 1),
    "HEAD": (200, 1),
    "too large a body": (413, 1),
    "a lone surrogate": (400, 1),
    "a lone surrogate's key": (400, 1),
    "a lone surrogate to cite": (400, 1),
    "no HTTP": (400, 1),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_an_odd_request_gets_one_answer(server, name):
    status, n_answers = ANSWERS[name]
    n_lines = len(server.stderr)
    answer = server.raw(MESSAGES[name], timeout=0.5)
    assert answer.startswith(b"HTTP/1.1 %d " % status) and answer.count(b"HTTP/1.1 ") == n_answers
    assert (answer.partition(b"\r\n\r\n")[2] == b"") == (name == "HEAD")
    assert len(server.stderr) == n_lines


def test_a_request_that_is_cut_off_while_it_is_answered_is_no_error(server):
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.raw(head + b"2\r\n{}\r\nnonsense\r\n\r\n", timeout=0.5)
    assert server.stderr == [] and server.health() < SLOW


def test_wrong_keys_are_slowed_down(start_server):
    server = Server(*start_server(LLM_API_KEY="sécret"))
    statuses = [server.ask("GET", "/v1/models", Authorization="Bearer wrong")[0] for _ in range(WRONG_KEYS + 10)]
    assert statuses[:WRONG_KEYS] == [401] * WRONG_KEYS and 429 in statuses
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /v1/models HTTP/1.0\r\nAuthorization: bearer " + "sécret".encode() + b"\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 429 ")  # not compared either
