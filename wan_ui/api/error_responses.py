"""Exceptions of the routes as error responses, all of one form."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from anyio import to_thread
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from wan_ui.errors import InvalidRequest, RouteNotFound, TooManyOpenFiles, WanUIError
from wan_ui.field_errors import invalid_request
from wan_ui.files import check_descriptors
from wan_ui.web.asgi import error_response


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
    """What the machine lacks, as 503 or 507: file descriptors, disk space, the data folder. Others are unexpected."""
    try:
        check_descriptors(error)
    except TooManyOpenFiles as too_many:
        return error_response(too_many)
    problem = await to_thread.run_sync(request.app.state.api.service.quota_problem, 0)
    if problem is None:
        raise error
    return error_response(problem)


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
