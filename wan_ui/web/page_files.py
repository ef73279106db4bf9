"""The page's own files and those of Gradio's that it opens with, served from memory and compressed once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from wan_ui.web.compression import accepted_encoding, compress
from wan_ui.web.security_headers import IMMUTABLE

HASH_DIGITS = 16  # of the SHA-256 in a file's name
MEDIA_TYPES = {"js": "text/javascript", "css": "text/css", "woff2": "font/woff2"}
COMPRESSIBLE = ("js", "css")


@dataclass(frozen=True)
class PageFile:
    """A file that browsers keep for good, because its address changes with its bytes. `path` is below the page's."""

    path: str
    body: bytes

    @classmethod
    def named_by_content(cls, folder: str, stem: str, suffix: str, body: bytes) -> PageFile:
        """A file whose name has the hash of its bytes."""
        return cls(f"{folder}/{stem}-{hashlib.sha256(body).hexdigest()[:HASH_DIGITS]}.{suffix}", body)

    @property
    def suffix(self) -> str:
        """What the name ends with, without the dot."""
        return self.path.rpartition(".")[2]

    @cached_property
    def _compressed(self) -> dict[str, bytes]:
        return {}

    def body_in(self, encoding: str | None) -> bytes:
        """Its bytes in a content encoding: "br", "gzip" or None. They are compressed once, in 0.1 to 5 ms."""
        if encoding is None:
            return self.body
        if encoding not in self._compressed:
            self._compressed[encoding] = compress(self.body, encoding)
        return self._compressed[encoding]


class PageFiles(BaseRoute):
    """A route to these files. Every other path is left to the routes that come after it."""

    def __init__(self, files: Iterable[PageFile]) -> None:
        self.files: Mapping[str, PageFile] = {f"/{file.path}": file for file in files}

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the request is for one of the files."""
        is_read = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        return (Match.FULL if is_read and scope["path"] in self.files else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers with the file."""
        file = self.files[scope["path"]]
        is_text = file.suffix in COMPRESSIBLE
        encoding = accepted_encoding(Headers(scope=scope)) if is_text else None
        body = file.body_in(encoding)
        headers = {"Cache-Control": IMMUTABLE, **({"Vary": "Accept-Encoding"} if is_text else {})}
        if encoding is not None:
            headers["Content-Encoding"] = encoding
        await Response(body, media_type=MEDIA_TYPES[file.suffix], headers=headers)(scope, receive, send)
