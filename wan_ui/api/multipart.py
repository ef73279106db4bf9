"""One file out of a multipart body, written to disk as it comes and within a limit; it knows not what the file is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from wan_ui.errors import DiskFull, InvalidRequest, PayloadTooLarge
from wan_ui.files import is_disk_full

FIELD = "file"
_AROUND = 64 * 1024  # bytes of a body that are no file: boundaries and headers


@dataclass(frozen=True)
class Received:
    """A file that came whole: where it is, and the name it has at its sender."""

    path: Path
    name: str


async def receive_file(request: Request, folder: Path, limit: int) -> Received:
    """The field `file` of a multipart body, as a file in `folder`, at most `limit` bytes.

    Raises InvalidRequest for a body that is no such form or breaks off, PayloadTooLarge as soon as it is known,
    DiskFull.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > limit + _AROUND):
        raise _too_large(limit)
    _, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= 200:
        raise _wrong("the multipart body states no boundary")
    with (folder / "upload").open("wb") as out:
        form = _Form(out, limit)
        try:
            async for chunk in request.stream():
                await run_in_threadpool(form.write, boundary, chunk)
        except ClientDisconnect:
            raise _wrong("the connection closed before the body was whole") from None
        except MultipartParseError as error:
            raise _wrong("the body is not the multipart form that its header says") from error
        except OSError as error:
            if is_disk_full(error):
                raise DiskFull("There is no disk space for this file: make room and try again.") from error
            raise
    if form.name is None or not form.whole:
        raise _wrong("the form has no file, or is not whole" if form.name is None else "the body is not whole", FIELD)
    return Received(folder / "upload", form.name)


class _Form:
    """Takes a body piece by piece: the one field goes to `out`, any other is refused by name."""

    def __init__(self, out: BinaryIO, limit: int) -> None:
        self._out = out
        self._limit = limit
        self._taken = 0
        self._parser: MultipartParser | None = None
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self.name: str | None = None
        self.whole = False

    def write(self, boundary: bytes, piece: bytes) -> None:
        if self._parser is None:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part,
                    "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers,
                    "on_part_data": self._data,
                    "on_end": self._end,
                },
            )
        self._parser.write(piece)

    def _part(self) -> None:
        self._disposition = b""

    def _header_end(self) -> None:
        name, value = (bytes(part) for part in self._header)
        self._header = (bytearray(), bytearray())
        if name.lower() == b"content-disposition":
            self._disposition = value

    def _headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        field = options.get(b"name", b"").decode("utf-8", "replace")[:80]
        if field != FIELD or self.name is not None:
            raise _wrong(f"the form takes one field, {FIELD}", field or "body")
        self.name = options.get(b"filename", b"").decode("utf-8", "replace")[:1000]

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._taken += end - start
        if self._taken > self._limit:
            raise _too_large(self._limit)
        self._out.write(data[start:end])

    def _end(self) -> None:
        self.whole = True


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The file is larger than {limit} bytes.", limit=limit)


def _wrong(what: str, loc: str = "body") -> InvalidRequest:
    return InvalidRequest(f"{loc}: {what}.", fields=[{"loc": loc, "msg": what}])
