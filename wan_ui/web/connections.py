"""Deadlines and a limit for connections: slow clients are disconnected, and waiting ones make room for new ones.

uvicorn waits for the rest of a request, and for a client to take its response, for as long as the connection lasts. It
also takes bodies in chunks of one byte, each of which costs some 20 microseconds of the event loop.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import h11
from uvicorn import Server
from uvicorn.protocols.http.h11_impl import H11Protocol

SLOW_SECONDS = 30.0
MAX_CONNECTIONS = 1000
MOST_DESCRIPTORS = 65_536  # that are asked for at the start
_BYTES_A_SECOND = 1024  # at which a request has to arrive after its first SLOW_SECONDS
FREE_CHUNKS, CHUNK_BYTES = 500, 256  # of a body: its chunks after the first ones have at least so many bytes on average
_HEAD_BYTES = 16 << 10  # of a head that is not complete yet, as h11 has it
_ACCEPTED_AT_ONCE = 8  # connections, before the server does anything else: a request takes it some milliseconds
# Of slow_seconds: how long an idle connection is kept for the next request. With uvicorn's 5 s, a program that asks
# every few seconds on a busy machine sends one just as the connection ends, and sees it reset.
_KEPT = 0.6
_LOOKS = 8  # at all connections, within SLOW_SECONDS
_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"


@dataclass(frozen=True)
class ConnectionLimits:
    """How many connections there may be, and the seconds without a byte after which a slow client's is closed."""

    connections: int = MAX_CONNECTIONS
    slow_seconds: float = SLOW_SECONDS


def raise_descriptor_limit() -> int:
    """Raises this process's limit of open files as far as it may, and returns it."""
    if sys.platform == "win32":
        return MOST_DESCRIPTORS
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def guard_connections(server: Server, loop: asyncio.AbstractEventLoop, limits: ConnectionLimits) -> None:
    """Lets a server that runs on `loop` use GuardedConnection for all new connections, and accept few at a time.

    Half of the file descriptors stay for files. To be called from another thread.
    """
    most = min(limits.connections, raise_descriptor_limit() // 2)
    guard = ConnectionGuard(ConnectionLimits(most, limits.slow_seconds))
    server.config.timeout_keep_alive = max(1, int(limits.slow_seconds * _KEPT))
    server.config.http_protocol_class = partial(GuardedConnection, guard)  # type: ignore[assignment]
    asyncio.run_coroutine_threadsafe(_listen_anew(server), loop).result()


async def _listen_anew(server: Server) -> None:
    """Replaces the listeners: asyncio accepts as many connections at once as its queue holds, 2,048 with uvicorn.

    Then a burst of them takes all descriptors before the first can be refused.
    """
    loop = asyncio.get_running_loop()

    def connection() -> asyncio.Protocol:
        made: asyncio.Protocol = server.config.http_protocol_class(  # type: ignore[call-arg]
            config=server.config, server_state=server.server_state, app_state=server.lifespan.state, _loop=loop
        )
        return made

    sockets = [listening.dup() for listener in server.servers for listening in listener.sockets]
    former, server.servers = server.servers, []
    for listening in sockets:
        server.servers.append(await loop.create_server(connection, sock=listening, backlog=_ACCEPTED_AT_ONCE))
        listening.listen(server.config.backlog)  # the system's own queue stays as long as it was
    for listener in former:
        listener.close()


class ConnectionGuard:
    """The connections of one server. To be used from its event loop alone. `clock` returns seconds."""

    def __init__(self, limits: ConnectionLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.clock = clock
        self._connections: dict[GuardedConnection, None] = {}  # in the order of their beginning
        self._next_look: asyncio.TimerHandle | None = None

    def admit(self, connection: GuardedConnection) -> bool:
        """Whether a new connection may stay. Where there are too many, one that waits for its client has to go."""
        if len(self._connections) >= self.limits.connections:
            waiting = self._waiting_for_its_client()
            if waiting is None:
                return False
            self.remove(waiting)
            waiting.transport.abort()
        self._connections[connection] = None
        if self._next_look is None:
            self._look_later()
        return True

    def _waiting_for_its_client(self) -> GuardedConnection | None:
        """The connection that makes room: without a request, with half of one, or whose client takes least."""
        waiting = next((each for each in self._connections if each.awaits_head), None)
        waiting = waiting or next((each for each in self._connections if each.awaits_body), None)
        if waiting is not None:
            return waiting
        untaken = {each: each.untaken_since for each in self._connections if each.untaken_since is not None}
        return min(untaken, key=untaken.__getitem__, default=None)

    def remove(self, connection: GuardedConnection) -> None:
        """Forgets a connection that has ended, or is about to."""
        self._connections.pop(connection, None)

    def _look_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._next_look = loop.call_later(self.limits.slow_seconds / _LOOKS, self._look)

    def _look(self) -> None:
        """Closes the connections whose clients are too slow."""
        self._next_look = None
        now = self.clock()
        for connection in list(self._connections):
            connection.check(now)
        if self._connections:
            self._look_later()


class ChunkLimit(h11.Connection):
    """The server's side of a connection, which takes no body that is cut into very many small chunks."""

    def __init__(self, max_incomplete_event_size: int) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size)
        self._chunks = self._bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """As h11's own. Raises h11.RemoteProtocolError for one chunk too many."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._bytes += len(event.data)
            if self._chunks > FREE_CHUNKS + self._bytes // CHUNK_BYTES:
                raise h11.RemoteProtocolError("the body comes in very many small chunks")
        return event


class GuardedConnection(H11Protocol):
    """A connection of a ConnectionGuard.

    A request may take slow_seconds and a second more for each KiB of it, and may pause for at most slow_seconds; so
    may the client in taking its response. The time in which the server itself does not read does not count.
    """

    def __init__(self, guard: ConnectionGuard, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = ChunkLimit(self.config.h11_max_incomplete_event_size or _HEAD_BYTES)
        self._guard = guard
        self._began = self._received_at = self._taken_at = self._looked_at = guard.clock()
        self._received = 0
        self._untaken = 0
        self.untaken_since: float | None = None
        """Since when the client has not taken what waits for it; None while it does. A fast client takes it at once."""

    @property
    def awaits_head(self) -> bool:
        """Whether the head of a request is missing, or not complete."""
        return self.conn.their_state is h11.IDLE and (self.cycle is None or self.cycle.response_complete)

    @property
    def awaits_body(self) -> bool:
        """Whether the head of a request is complete and its body is not."""
        return self.conn.their_state is h11.SEND_BODY

    def check(self, now: float) -> None:
        """Closes the connection if its client is too slow. To be called several times within slow_seconds."""
        since_last, self._looked_at = now - self._looked_at, now
        most = self._guard.limits.slow_seconds
        if self._is_stuck(now, most):
            self.transport.abort()
        elif self.awaits_head or self.awaits_body:
            if self.flow.read_paused:
                self._began += since_last
                self._received_at = now
            is_late = now - self._began > most + self._received / _BYTES_A_SECOND
            if is_late or now - self._received_at > most:
                self._time_out()

    def _is_stuck(self, now: float, most: float) -> bool:
        """Whether the client has taken nothing of what waits for it for too long."""
        untaken = self.transport.get_write_buffer_size()
        if not self.flow.write_paused or untaken != self._untaken:
            self._untaken, self._taken_at = untaken, now
        return now - self._taken_at > most

    def _time_out(self) -> None:
        if self.awaits_head:
            self.transport.write(_TIMED_OUT)
            self.transport.close()
        else:
            self.transport.abort()  # the app is told that the client has gone

    # Called by asyncio and by uvicorn

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by asyncio for a new connection."""
        super().connection_made(transport)
        if not self._guard.admit(self):
            transport.write(_BUSY)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio at the end of a connection."""
        self._guard.remove(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Called by asyncio when much waits to be taken by the client."""
        self.untaken_since = self._guard.clock()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Called by asyncio when the client has taken it."""
        self.untaken_since = None
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio with bytes of the client."""
        self._received_at = self._guard.clock()
        self._received += len(data)
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for a malformed request; in the midst of a response the connection just ends."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def on_response_complete(self) -> None:
        """Called by uvicorn when a response has been sent: the next request has its own time."""
        self._began = self._received_at = self._guard.clock()
        self._received = 0
        super().on_response_complete()

    def _should_upgrade(self) -> bool:
        return False  # no route is a websocket, and uvicorn would log each attempt
