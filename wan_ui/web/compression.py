"""ASGI middleware that compresses complete HTML and JSON responses with brotli or gzip."""

from __future__ import annotations

import gzip
from typing import Literal

import brotli
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SMALLEST = 1000  # bytes; below this, the headers cost more than compression saves
GZIP_LEVEL = 6
BROTLI_QUALITY = 5  # 0 to 11; 5 takes 9 ms for the page's document, 9 takes 45 and gives 5 % fewer bytes
TYPES = ("text/html", "application/json")


class Compression:
    """Compresses responses of the types `TYPES` that arrive in one piece, for clients that accept it.

    Streams, files with ranges and responses that are encoded already pass through unchanged. brotli is preferred;
    browsers offer it over HTTPS and to localhost only.
    """

    def __init__(self, app: ASGIApp) -> None:
        """`app` is the application whose responses are compressed."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        encoding = _encoding(scope)
        if encoding is None:
            await self._app(scope, receive, send)
            return
        start: Message | None = None

        async def compressed(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _is_compressible(message):
                start = message  # sent with the body, whose size it states
                return
            if start is not None:
                body = message.get("body", b"")
                if not message.get("more_body") and len(body) >= SMALLEST:
                    body = compress(body, encoding)
                    headers = MutableHeaders(scope=start)
                    headers["content-encoding"] = encoding
                    headers["content-length"] = str(len(body))
                    message = {**message, "body": body}
                held, start = start, None
                MutableHeaders(scope=held).add_vary_header("Accept-Encoding")
                await send(held)
            await send(message)

        await self._app(scope, receive, compressed)


def _encoding(scope: Scope) -> Literal["br", "gzip"] | None:
    """The encoding for a request's response; None where it must stay as it is."""
    if scope["type"] != "http" or scope["method"] == "HEAD":
        return None
    return accepted_encoding(Headers(scope=scope))


def accepted_encoding(headers: Headers) -> Literal["br", "gzip"] | None:
    """The encoding for the response to a request with these headers; None where its client takes neither."""
    header = headers.get("accept-encoding", "")
    accepted = {name.strip() for name, _, weight in (part.partition(";") for part in header.lower().split(","))
                if weight.replace(" ", "") not in ("q=0", "q=0.0")}  # fmt: skip
    return "br" if "br" in accepted else "gzip" if "gzip" in accepted else None


def _is_compressible(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    kind = headers.get("content-type", "").partition(";")[0].strip()
    return kind in TYPES and "content-encoding" not in headers and "content-range" not in headers


def compress(body: bytes, encoding: str) -> bytes:
    """Text in a content encoding, "br" or "gzip"."""
    if encoding == "br":
        return bytes(brotli.compress(body, mode=brotli.MODE_TEXT, quality=BROTLI_QUALITY))
    return gzip.compress(body, GZIP_LEVEL, mtime=0)
