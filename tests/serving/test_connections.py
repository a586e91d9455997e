"""Connections have deadlines, and there are only so many of them."""

import asyncio
import socket
import threading
import time

import pytest

from llm.serving import connections

pytestmark = pytest.mark.slow


async def app(scope, receive, send):
    """Reads the body, answers 10 MB for /large and "ok" for all else."""
    while (message := await receive()).get("more_body"):
        pass
    if message["type"] == "http.disconnect":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(100 if scope["path"] == "/large" else 0):
        await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def start(monkeypatch):
    """start(NAME=value, ...) runs a server with these constants in a thread; returns (server, connect).

    limit: how many connections it accepts.
    """
    threads = []

    def start(limit=1000, **constants):
        monkeypatch.setattr(connections, "max_connections", lambda: limit)
        for name, value in constants.items():
            monkeypatch.setattr(connections, name, value)
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        server = connections.Server(app, is_idle=lambda: True)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        threads.append((server, thread))

        def connect(data, receive_buffer=None):
            client = socket.socket()
            client.settimeout(20)
            if receive_buffer:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            client.connect(("127.0.0.1", port))
            client.sendall(data)
            return client

        return server, connect

    yield start
    for server, thread in threads:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"


def all_from(client):
    """(all that the server sends until it closes, seconds)."""
    received, began = b"", time.monotonic()
    try:
        while piece := client.recv(100_000):
            received += piece
    except ConnectionError:
        pass
    return received, time.monotonic() - began


@pytest.mark.parametrize(
    "data, answer",
    [(b"", b""), (b"GET / HTTP/1.1\r\nHost: loc", b"HTTP/1.1 408 "), (POST + b"half", b""), (GET, b"HTTP/1.1 200 OK")],
    ids=["nothing", "half a head", "half a body", "idle after a request"],
)
def test_whoever_takes_too_long_is_closed(start, data, answer):
    _, connect = start(HEAD_SECONDS=0.5, BODY_SECONDS=0.5, KEEP_ALIVE_SECONDS=1)
    with connect(data) as client:
        received, seconds = all_from(client)
    assert received.startswith(answer) and bool(received) == bool(answer) and 0.3 < seconds < 10


def test_a_deadline_is_for_the_whole_head_not_from_byte_to_byte(start):
    _, connect = start(HEAD_SECONDS=1)
    with connect(b"GET / HTTP/1.1\r\n") as client, pytest.raises(ConnectionError):
        for _ in range(100):
            client.sendall(b"X: y\r\n")
            time.sleep(0.1)


def test_requests_one_after_the_other_have_a_deadline_each(start):
    _, connect = start(HEAD_SECONDS=1)
    with connect(b"") as client:
        for _ in range(4):
            client.sendall(GET)
            received = b""
            while b"ok" not in received:
                received += client.recv(1000)
            time.sleep(0.4)


def test_a_client_that_does_not_read_is_closed(start):
    server, connect = start(STALL_SECONDS=0.5)
    with connect(GET.replace(b"/ ", b"/large "), receive_buffer=4096) as client:
        deadline = time.monotonic() + 20
        while not server.server_state.tasks and time.monotonic() < deadline:
            time.sleep(0.01)
        while server.server_state.tasks and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not server.server_state.tasks
        received, _ = all_from(client)
    assert len(received) < 10_000_000


def test_too_many_connections_close_the_one_that_owes_a_request_longest(start):
    _, connect = start(limit=3)
    held = []
    for _ in range(3):
        held.append(connect(b"GET / HTTP"))
        time.sleep(0.05)
    with connect(GET) as client:
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert all_from(held[0]) == (b"", pytest.approx(0, abs=1))
    held[1].sendall(b"/1.1\r\nHost: a\r\n\r\n")
    assert held[1].recv(1000).startswith(b"HTTP/1.1 200 ")
    for client in held:
        client.close()


def test_connections_that_are_being_answered_are_not_closed_for_others(start):
    _, connect = start(limit=2)
    large = GET.replace(b"/ ", b"/large ")
    with connect(large, 4096) as one, connect(large, 4096) as other:
        time.sleep(0.3)
        with connect(GET) as client:
            assert all_from(client)[0].startswith(b"HTTP/1.1 503 ")
        for busy in (one, other):
            received = b""
            while not received.endswith(b"2\r\nok\r\n0\r\n\r\n"):
                received += busy.recv(1_000_000)
            assert received.count(b"x") == 10_000_000


def test_a_request_that_sends_on_and_on_is_cut(start):
    _, connect = start(MAX_REQUEST_BYTES=1_000_000)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n"
    with connect(head) as client, pytest.raises(ConnectionError):
        for _ in range(1000):
            client.sendall(b"x" * 100_000)


def test_the_limit_of_open_files_is_heeded(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 256))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: None)
    assert connections.max_connections() == 256 - connections.SPARE_FILES
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert connections.max_connections() == connections.MAX_CONNECTIONS
