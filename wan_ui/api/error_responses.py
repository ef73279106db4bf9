"""Exceptions of the routes as error responses, all of one form."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from wan_ui.errors import HostError, InvalidRequest, RouteNotFound, WanUIError
from wan_ui.field_errors import invalid_request
from wan_ui.files import disk_full, is_disk_full
from wan_ui.web.asgi import error_response

log = logging.getLogger(__name__)


async def _wan_ui_error(request: Request, error: WanUIError) -> Response:
    if isinstance(error, InvalidRequest) and request.app.state.api.reference_errors:
        return JSONResponse(
            {"detail": [_field_error(field, "body") for field in error.details["fields"]]}, error.status
        )
    return error_response(error)


def _field_error(field: Mapping[str, str], *within: str) -> dict[str, Any]:
    """A wrong field as FastAPI's own validation errors are, `loc` as a list; the value is not repeated."""
    path = [part for part in field["loc"].split(".") if field["loc"] != "body"]
    loc = [int(part) if part.isdecimal() else part for part in path]
    return {"type": "value_error", "loc": [*within, *loc], "msg": field["msg"], "input": None}


async def _http_exception(_request: Request, error: HTTPException) -> Response:
    """Starlette's own errors: an unknown route, a method that a route does not have."""
    if error.status_code == HTTPStatus.NOT_FOUND:
        return error_response(RouteNotFound("There is no such route. See /v1/openapi.json."), error.headers)
    status = HTTPStatus(error.status_code)
    body = {"code": status.name, "message": f"{status.description or status.phrase}.", "details": {}}
    return _json(error.status_code, body, error.headers)


async def _wrong_parameter(request: Request, error: RequestValidationError) -> Response:
    wrong = invalid_request(error.errors())
    if request.app.state.api.reference_errors:
        return JSONResponse({"detail": [_field_error(field) for field in wrong.details["fields"]]}, wrong.status)
    return error_response(wrong)


async def _os_error(request: Request, error: OSError) -> Response:
    """A disk, folder or descriptor that fails where nothing more exact is known."""
    log.error("a file of the server cannot be used", exc_info=error)
    problem = HostError(
        f"The server's files cannot be used ({error.strerror or 'an error of the system'}). The operator has to check "
        "the data folder, its disk and the limit of open files."
    )
    return await _wan_ui_error(request, disk_full("this request") if is_disk_full(error) else problem)


async def _unexpected(_request: Request, _error: Exception) -> Response:
    # Starlette raises the error again after this response, so the server logs the trace.
    message = "Unexpected error. Details are in the server log."
    return _json(500, {"code": "INTERNAL_ERROR", "message": message, "details": {}})


def _json(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"detail": {"error": dict(body)}}, status, dict(headers or {}))


EXCEPTION_HANDLERS: dict[Any, Any] = {
    WanUIError: _wan_ui_error,
    HTTPException: _http_exception,
    RequestValidationError: _wrong_parameter,
    OSError: _os_error,
    Exception: _unexpected,
}
