"""Connections: how many, how slow, and when they are closed. What uvicorn has no limits for.

A client owes the server the rest of a request: its head, or its body. Whoever takes too long is closed; where there are
too many connections, whoever has owed the longest is closed to let the next one in. So half-open connections, however
many, keep nobody out who sends a request in one go.
"""

import asyncio
import contextlib
import time

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from llm.runtime import notice

MAX_CONNECTIONS = 1000
HEAD_SECONDS = 10  # for the head of a request, from the first moment on
BODY_SECONDS = 30  # for its body
STALL_SECONDS = 60  # in which a client reads nothing of its answer
SHUTDOWN_SECONDS = 3  # for clients to read the rest of their answers, once all of it is there
KEEP_ALIVE_SECONDS = 5  # until an idle connection is closed
MAX_HEAD_BYTES = 32_768
MAX_BODIES_BYTES = 64_000_000  # of all bodies that are being received
MAX_REQUEST_BYTES = 4_000_000  # of one request, refused or not; beyond it the connection is cut
LISTEN_QUEUE = 1024  # connections that the system keeps for us
ACCEPTED_AT_ONCE = 20  # of them, in one turn of the event loop
# file descriptors beyond the limit of connections: accepted and not yet counted, the model's, the log's
SPARE_FILES = 4 * ACCEPTED_AT_ONCE + 50
TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def max_connections() -> int:
    """How many connections are accepted: MAX_CONNECTIONS, or what the limit of open files allows.

    Raises that limit where the system lets us.
    """
    try:
        import resource  # not on Windows
    except ImportError:
        return 400
    needed = MAX_CONNECTIONS + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(8, min(MAX_CONNECTIONS, soft - SPARE_FILES))


class LimitedProtocol(H11Protocol):
    """uvicorn's protocol for one connection, with deadlines, and with limits for all of them together."""

    limit = MAX_CONNECTIONS
    received_bytes = 0  # of the bodies that are being received, over all connections

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.phase: str | None = None  # "head" or "body": what the client owes
        self.since = time.monotonic()  # when this phase began
        self.n_bytes = 0  # of the body that is being received
        self.deadline: asyncio.TimerHandle | None = None
        self.stalled: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        if len(self.connections) > self.limit and not self._evict_one():
            transport.write(BUSY)
            transport.close()
            return
        self._update_phase()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_phase()
        if self.stalled:
            self.stalled.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self.n_bytes += len(data)
        if self.phase == "body":
            LimitedProtocol.received_bytes += len(data)
            if self.n_bytes > MAX_REQUEST_BYTES:
                self.transport.abort()
                return
        try:
            super().data_received(data)
        except h11.ProtocolError:  # bytes that are no HTTP, while an answer is under way
            self.transport.abort()
            return
        self._update_phase()
        if LimitedProtocol.received_bytes > MAX_BODIES_BYTES:
            self._evict_one("body")

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update_phase()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.stalled = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.stalled:
            self.stalled.cancel()
            self.stalled = None

    def _update_phase(self) -> None:
        """Set the deadline for what the client owes now, if that has changed."""
        phase = {h11.IDLE: "head", h11.SEND_BODY: "body"}.get(self.conn.their_state)
        if phase == self.phase or self.transport.is_closing():
            return
        self._end_phase()
        self.phase, self.since = phase, time.monotonic()
        if phase == "body":
            self.n_bytes = len(self.cycle.body)  # what came together with the head
            LimitedProtocol.received_bytes += self.n_bytes
        if phase:
            self.deadline = self.loop.call_later(HEAD_SECONDS if phase == "head" else BODY_SECONDS, self._time_out)

    def _end_phase(self) -> None:
        """Forget what the client owed."""
        if self.phase == "body":
            LimitedProtocol.received_bytes -= self.n_bytes
        self.phase, self.n_bytes = None, 0
        if self.deadline:
            self.deadline.cancel()
            self.deadline = None

    def _time_out(self) -> None:
        """Close the connection of a client that has taken too long."""
        self.deadline = None
        unanswered = self.conn.our_state is h11.IDLE and self.n_bytes > 0
        if unanswered and not self.transport.get_write_buffer_size():
            self.transport.write(TIMEOUT)
            self.transport.close()
        else:
            self.transport.abort()

    def _evict_one(self, phase: str | None = None) -> bool:
        """Close the connection that has owed the longest; whether there was one. phase: only those that owe this."""
        others = [c for c in self.connections if c is not self and (c.phase or c.transport.is_closing())]
        others = [c for c in others if phase in (None, c.phase)]
        if others:
            oldest = min(others, key=lambda connection: connection.since)
            oldest.transport.abort()
            oldest._end_phase()
            self.connections.discard(oldest)
        return bool(others)


class Server(uvicorn.Server):
    """uvicorn's server, which ends a few seconds after the last answer is there, whether or not clients read it."""

    def __init__(self, app, *, is_idle):
        """is_idle(): whether all answers that are under way have been drawn."""
        protocol = type("Protocol", (LimitedProtocol,), {"limit": max_connections()})
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_level="error",  # not a line for each request that is no HTTP
                access_log=False,
                server_header=False,
                backlog=ACCEPTED_AT_ONCE,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            )
        )
        self.is_idle = is_idle

    async def startup(self, sockets=None) -> None:
        asyncio.get_running_loop().set_exception_handler(handle_loop_error)
        await super().startup(sockets=sockets)
        for listening in sockets or []:
            listening.listen(LISTEN_QUEUE)  # asyncio has one number for both

    async def shutdown(self, sockets=None) -> None:
        closing = asyncio.create_task(self._close_stalled())
        await super().shutdown(sockets=sockets)
        closing.cancel()
        self._abort_all()  # after a second Ctrl-C
        if self.server_state.tasks:
            await asyncio.wait(list(self.server_state.tasks), timeout=1)

    async def _close_stalled(self) -> None:
        """Close what is still open SHUTDOWN_SECONDS after the last answer is there."""
        while not self.is_idle():
            await asyncio.sleep(0.05)
        await asyncio.sleep(SHUTDOWN_SECONDS)
        self._abort_all()

    def _abort_all(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


last_notice = {"at": -1e9}  # of a lack of files, so that a flood of connections is no flood of lines


def handle_loop_error(loop: asyncio.AbstractEventLoop, context: dict) -> None:
    """Report an error of the event loop: connections that break are none, a lack of files is one line a minute."""
    error = context.get("exception")
    if isinstance(error, OSError) and "socket" in context and not isinstance(error, ConnectionError):
        if time.monotonic() - last_notice["at"] > 60:
            last_notice["at"] = time.monotonic()
            notice(
                f"connections cannot be accepted for now: {error.strerror}; raise the limit of open files (ulimit -n)"
            )
    elif not isinstance(error, ConnectionError):
        loop.default_exception_handler(context)
