"""What the ASGI middleware and the API share: error responses, changed headers, bodies read and responses held back."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import anyio
import anyio.to_thread
from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from wan_ui.errors import PayloadTooLarge, WanUIError

REST_BYTES = 1 << 20  # of a body, between two rests
REST_SECONDS = 0.005  # in which others are answered
_POLICY_VIOLATION = 1008  # RFC 6455's close code


def error_response(error: WanUIError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error as every route answers it: `{"detail": {"error": {code, message, details}}}`."""
    return JSONResponse({"detail": {"error": error.body()}}, error.status, dict(headers or {}))


async def refuse(error: WanUIError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers a request with an error; a websocket is closed before it is accepted, which the server answers by 403."""
    if scope["type"] == "websocket":
        await receive()  # the connect message
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": error.code})
    else:
        await error_response(error)(scope, receive, send)


def with_headers(send: Send, change: Callable[[MutableHeaders], object]) -> Send:
    """A send that passes the response's headers to `change` before they leave."""

    async def changed(message: Message) -> None:
        if message["type"] == "http.response.start":
            change(MutableHeaders(scope=message))
        await send(message)

    return changed


class HeldResponse:
    """A response that is kept until `release`: to be passed to an app as its `send`."""

    def __init__(self) -> None:
        self._messages: list[Message] = []

    async def __call__(self, message: Message) -> None:
        """Keeps a message of the response."""
        self._messages.append(message)

    @property
    def status(self) -> int | None:
        """The status code; None for a response that has not begun."""
        return self._messages[0].get("status") if self._messages else None

    @property
    def body(self) -> bytes:
        """The bytes of the body so far."""
        return b"".join(message.get("body", b"") for message in self._messages)

    async def release(self, send: Send) -> None:
        """Sends what was kept."""
        for message in self._messages:
            await send(message)


class BodyPieces:
    """A body as it arrives. Receiving a large one rests after each MiB, so that others are answered meanwhile."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._unrested = 0
        self.size = 0

    async def add(self, piece: bytes) -> None:
        """Adds the next bytes."""
        self._pieces.append(piece)
        self.size += len(piece)
        self._unrested += len(piece)
        if self._unrested >= REST_BYTES:
            self._unrested = 0
            await anyio.sleep(REST_SECONDS)

    async def whole(self) -> bytes:
        """All bytes. Joining many of them takes tens of milliseconds, so a thread does it."""
        if self.size < REST_BYTES:
            return b"".join(self._pieces)
        return await anyio.to_thread.run_sync(b"".join, self._pieces)


async def read_body(receive: Receive, what: str, limit: int) -> bytes:
    """All bytes of a request's body; `what` names it. Raises PayloadTooLarge as soon as they are more than `limit`."""
    pieces = BodyPieces()
    while True:
        message = await receive()
        await pieces.add(message.get("body", b""))
        if pieces.size > limit:
            raise PayloadTooLarge(f"{what} may have at most {limit} bytes.", limit=limit)
        if not message.get("more_body"):
            return await pieces.whole()


def replay(body: bytes, receive: Receive) -> Receive:
    """A receive that gives a body that was read already, and then what follows it."""
    is_given = False

    async def replayed() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
