"""The Range header of a request for a video file."""

from __future__ import annotations

import re
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request

_RANGE = re.compile(r"bytes=(?P<first>[0-9]{0,18})-(?P<last>[0-9]{0,18})")


def check_range(request: Request, size: int) -> None:
    """Removes a Range header that is malformed or has several parts, so that the whole file is sent (RFC 9110, 14.2).

    FileResponse would answer a malformed one with 400 in plain text. Raises HTTPException 416 for a range outside the
    file of `size` bytes, so that the response has the form of every other error.
    """
    header = request.headers.get("range")
    if header is None:
        return
    match = _RANGE.fullmatch(header.strip())
    first, last = (match["first"], match["last"]) if match else ("", "")
    is_outside = (int(first) >= size) if first else (bool(last) and int(last) == 0)
    is_malformed = not (first or last) or bool(first and last and int(last) < int(first))
    if is_malformed or (is_outside and "if-range" in request.headers):
        request.scope["headers"] = [pair for pair in request.scope["headers"] if pair[0] != b"range"]
    elif is_outside:
        raise HTTPException(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers={"Content-Range": f"bytes */{size}"})


def range_of(request: Request, size: int) -> tuple[int, int] | None:
    """The first and last byte that a Range header asks for, after `check_range`; None for the whole file."""
    headers = Headers(scope=request.scope)  # `request.headers` may still have what check_range removed
    match = _RANGE.fullmatch(headers.get("range", "").strip())
    if match is None or "if-range" in headers:
        return None
    if not match["first"]:
        return max(0, size - int(match["last"])), size - 1
    return int(match["first"]), min(int(match["last"] or size - 1), size - 1)
