"""Request bodies, read within limits: JSON, or one file of a multipart form, written to disk as it arrives."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from wan_ui import large_json
from wan_ui.errors import BadJson, InvalidRequest, PayloadTooLarge, WanUIError
from wan_ui.field_errors import check_count, invalid_request, items_of
from wan_ui.files import disk_full_mapped
from wan_ui.web.asgi import BodyPieces
from wan_ui.web.form_parts import PartHeaders

FIELD = "file"
_OVERHEAD = 64 * 1024  # bytes of a form that are not the file: boundaries and headers
_MAX_BOUNDARY = 200
LOOK_BYTES = 1 << 20  # of a body between two checks of the disk
MOST_MARKS = 1_200_000  # commas and opening brackets of a JSON body, those of its shorter texts too
_MARKS = (b",", b"[", b"{")

Model = TypeVar("Model", bound=BaseModel)


def is_form(request: Request) -> bool:
    """Whether the body is a multipart form, by its Content-Type."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


def _is_longer(request: Request, limit: int) -> bool:
    """Whether the Content-Length is more than `limit`; False without one."""
    length = request.headers.get("content-length", "")
    return length.isdecimal() and (len(length) > 18 or int(length) > limit)


def most_bytes(request: Request, limit: int) -> int:
    """How large a body may become: its Content-Length, or `limit` without one."""
    return min(_length(request), limit) if "content-length" in request.headers else limit


def _length(request: Request) -> int:
    """The Content-Length; 0 without one."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() and len(length) <= 18 else 0


def _no_problem(_size: int) -> None:
    """Any file can be stored."""


async def _check(problem: Callable[[int], WanUIError | None], size: int) -> None:
    error = await run_in_threadpool(problem, size)
    if error is not None:
        raise error


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises PayloadTooLarge as soon as it passes `limit` bytes, BadJson if the connection closes.

    BadJson too as soon as it has more commas than `decode_json` takes.
    """
    too_large = PayloadTooLarge(f"The body is larger than {limit} bytes.", limit=limit)
    if _is_longer(request, limit):
        raise too_large
    pieces, commas = BodyPieces(), 0
    try:
        async for chunk in request.stream():
            await pieces.add(chunk)
            commas += chunk.count(b",")  # brackets are counted when the whole is decoded, in a thread
            if pieces.size > limit:
                raise too_large
            if commas > MOST_MARKS:
                raise _too_many_values()
    except ClientDisconnect:
        raise BadJson("The connection closed before the body was complete.") from None
    return await pieces.whole()


def decode_json(data: bytes) -> Any:
    """A body's bytes as JSON values. Raises BadJson, also for NaN and infinities, which JSON does not have.

    And for millions of values: Python decodes them in one go, during which no other thread runs, not even that of
    the server's health. Large texts are decoded in pieces for the same reason. Raises InvalidRequest for too many
    values to validate, and PayloadTooLarge for a large body whose bytes are not those of a few long texts.
    """

    def refuse(literal: str) -> NoReturn:
        raise BadJson(f"The body is not JSON: {literal} is not a JSON number.")

    if not data.strip():
        raise BadJson("The body is empty: send the request as a JSON object.")
    try:
        if len(data) > large_json.PIECE:
            body = large_json.decode(data, refuse, _check_marks)
        else:
            body = json.loads(data.decode("utf-8-sig"), parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise BadJson(f"The body is not JSON: byte {error.start} is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise BadJson(
            f"The body is not JSON: {error.msg}, line {error.lineno}, column {error.colno}.",
            line=error.lineno,
            column=error.colno,
        ) from None
    except RecursionError:
        raise BadJson("The body is nested too deeply.") from None
    except ValueError:
        raise BadJson("The body has a number with too many digits.") from None
    check_count(body)
    return body


def _check_marks(data: bytes) -> None:
    """Raises BadJson for millions of values. `data` is what is decoded in one go, a large body's long texts aside."""
    starts = range(0, len(data), LOOK_BYTES)  # no other thread runs within one count
    if sum(data.count(mark, start, start + LOOK_BYTES) for mark in _MARKS for start in starts) > MOST_MARKS:
        raise _too_many_values()


def _too_many_values() -> BadJson:
    return BadJson(f"The body has too many values: more than {MOST_MARKS:,} commas and brackets.")


def parse_json(model: type[Model], body: Any) -> Model:
    """JSON values as a model. Raises InvalidRequest with one `{loc, msg}` per wrong field."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise invalid_request(items_of(error)) from None


@dataclass(frozen=True)
class Received:
    """An uploaded file: where it is, and the name that its sender gave it."""

    path: Path
    name: str


async def receive_file(
    request: Request, folder: Path, limit: int, problem: Callable[[int], WanUIError | None] = _no_problem
) -> Received:
    """The field `file` of a multipart form as a file in `folder`, of at most `limit` bytes.

    `problem` returns why a file of so many bytes cannot be stored now; it is asked before the first byte, and after
    each LOOK_BYTES. Raises InvalidRequest for a body that is not such a form or is not complete, PayloadTooLarge as
    soon as it is known, DiskFull, and what `problem` returns.
    """
    await _check(problem, _length(request))
    if _is_longer(request, limit + _OVERHEAD):
        raise _too_large(limit)
    _, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= _MAX_BOUNDARY:
        raise _invalid("the body is not a multipart form with a boundary")
    with disk_full_mapped("this file"), (folder / "upload").open("wb") as out:
        form = _Form(out, limit, boundary)
        try:
            unchecked = 0
            async for chunk in request.stream():
                await run_in_threadpool(form.write, chunk)
                unchecked += len(chunk)
                if unchecked >= LOOK_BYTES:
                    unchecked = 0
                    await _check(problem, 0)
        except ClientDisconnect:
            raise _invalid("the connection closed before the body was complete") from None
        except MultipartParseError as error:
            raise _invalid("the body is not a valid multipart form") from error
    if form.name is None:
        raise _invalid("the form has no file, or is not complete", FIELD)
    if not form.is_complete:
        raise _invalid("the body is not complete", FIELD)
    return Received(folder / "upload", form.name)


class _Form:
    """Writes the one field of a form to `out` as its body arrives; refuses every other field by name.

    python-multipart's FormParser keeps fields without a file name in memory, without a limit; this refuses them as
    soon as their headers are read.
    """

    def __init__(self, out: BinaryIO, limit: int, boundary: bytes) -> None:
        self._out = out
        self._limit = limit
        self._size = 0
        self._part = PartHeaders()
        self._parser = MultipartParser(
            boundary,
            {
                **self._part.callbacks(self._check_field),
                "on_part_data": self._write_data,
                "on_end": self._end,
            },
        )
        self.name: str | None = None
        self.is_complete = False

    def write(self, chunk: bytes) -> None:
        """Parses the next bytes of the body."""
        self._parser.write(chunk)

    def _check_field(self) -> None:
        options = self._part.options()
        field = options.get(b"name", b"").decode("utf-8", "replace")[:80]
        if field != FIELD or self.name is not None:
            raise _invalid(f"the form takes one field, {FIELD}", field or "body")
        self.name = options.get(b"filename", b"").decode("utf-8", "replace")[:1000]

    def _write_data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if self._size > self._limit:
            raise _too_large(self._limit)
        self._out.write(data[start:end])

    def _end(self) -> None:
        self.is_complete = True


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The file is larger than {limit} bytes.", limit=limit)


def _invalid(problem: str, loc: str = "body") -> InvalidRequest:
    return InvalidRequest(f"{loc}: {problem}.", fields=[{"loc": loc, "msg": problem}])
