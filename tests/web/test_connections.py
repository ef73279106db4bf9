"""The deadlines of slow clients and the room for new connections, at a real server on sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
import uvicorn
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from wan_ui.web.connections import CHUNK_BYTES, FREE_CHUNKS, ConnectionLimits, guard_connections

pytestmark = pytest.mark.slow

SLOW = 0.6  # seconds
MOST = 6


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the length of the body, or with more than a socket holds."""
    early = scope["path"] == "/early"  # answers before the body is there
    body = await Request(scope, receive).body() if scope["type"] == "http" and not early else b""
    piece = b"x" * 65536
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if early:
        await send({"type": "http.response.body", "body": piece[:10], "more_body": True})
        await Request(scope, receive).body()
    for _ in range(1000 if scope["path"] == "/long" else 0):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": str(len(body)).encode()})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    loop = asyncio.new_event_loop()
    started = threading.Event()

    async def serve() -> None:
        serving = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        started.set()
        await serving

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert started.wait(20)
    guard_connections(server, loop, ConnectionLimits(MOST, SLOW))
    yield int(server.servers[0].sockets[0].getsockname()[1])
    server.should_exit = server.force_exit = True
    thread.join(20)


def opened(port: int, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(data)
    return connection


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    data = b""
    with connection, suppress(ConnectionError):
        while piece := connection.recv(65536):
            data += piece
    return data


GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HTTP/1.1\r\nHost", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"],
    ids=["nothing", "half a head", "half a body"],
)
def test_a_client_that_stops_is_disconnected(port: int, sent: bytes) -> None:
    data = rest(opened(port, sent))
    assert data.startswith(b"HTTP/1.1 408 ") or (data == b"" and b"POST" in sent)


def test_one_that_sends_byte_by_byte_is_too(port: int) -> None:
    connection = opened(port, b"GET / HTTP/1.1\r\nX: ")
    never = threading.Event()
    with suppress(ConnectionError):
        for _ in range(200):
            connection.sendall(b"x")
            never.wait(SLOW / 10)
        pytest.fail("it was never disconnected")
    connection.close()


def test_one_that_takes_nothing_is_too(port: int) -> None:
    connection = opened(port, b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
    never = threading.Event()
    with suppress(ConnectionError):
        for _ in range(200):  # a reset shows when something is sent
            connection.sendall(b"x")
            never.wait(SLOW / 5)
        pytest.fail("it was never disconnected")
    connection.close()


def test_whole_requests_are_answered_and_waiting_connections_make_room(port: int) -> None:
    held = [opened(port, b"GET / HTTP/1.1\r\n") for _ in range(3 * MOST)]
    data = rest(opened(port, GET))
    assert data.startswith(b"HTTP/1.1 200 ")
    body = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 300000\r\n\r\n" + bytes(300_000)
    assert rest(opened(port, body)).endswith(b"300000\r\n0\r\n\r\n")
    for connection in held:
        connection.close()


def test_an_upgrade_is_an_ordinary_request(port: int) -> None:
    upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n"
    assert rest(opened(port, upgrade)).startswith(b"HTTP/1.1 200 ")


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunks(count: int, size: int) -> bytes:
    return b"%x\r\n%s\r\n" % (size, b"x" * size) * count + b"0\r\n\r\n"


def test_a_body_of_very_many_small_chunks_is_refused(port: int) -> None:
    data = rest(opened(port, CHUNKED + chunks(FREE_CHUNKS + 10, 1)))
    assert data.startswith(b"HTTP/1.1 400 ") and b"200" not in data
    for count, size in ((FREE_CHUNKS, 1), (4 * FREE_CHUNKS, CHUNK_BYTES)):
        assert rest(opened(port, CHUNKED + chunks(count, size))).endswith(b"%d\r\n0\r\n\r\n" % (count * size))


def test_chunks_in_the_midst_of_a_response_end_the_connection(port: int) -> None:
    with opened(port, CHUNKED.replace(b" / ", b" /early ") + chunks(1, 1).removesuffix(b"0\r\n\r\n")) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        with suppress(ConnectionError):
            connection.sendall(chunks(FREE_CHUNKS + 10, 1))
        data = rest(connection)
        assert b"400" not in data and not data.endswith(b"0\r\n\r\n")


def test_those_that_take_their_response_slowly_make_room(port: int) -> None:
    """A guest could hold all connections with a few bytes a second of each."""
    held = []
    try:
        for _ in range(MOST):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", port))
            connection.sendall(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
            held.append(connection)
        assert rest(opened(port, GET)).startswith(b"HTTP/1.1 200 ")
    finally:
        for connection in held:
            connection.close()
