"""What the OpenAPI document says beyond what FastAPI derives: errors, bodies that routes read themselves, files."""

from __future__ import annotations

from typing import Any, cast

from fastapi import FastAPI

from wan_ui.api.bodies import FIELD
from wan_ui.api.schemas import ErrorReply
from wan_ui.models import MODELS
from wan_ui.request import InferenceRequest

ERRORS = {
    400: "The body is not JSON, or the request cannot be run as it stands.",
    404: "Not found: there is no such request, video, entry, training job or sample.",
    409: "The request is still queued or running, or does not wait any more.",
    413: "The body, or what it unpacks to, is too large.",
    416: "The range lies outside the file.",
    422: "A field is missing, unknown, of the wrong type or out of bounds: details.fields has {loc, msg}.",
    503: "The server cannot do this now.",
    507: "No disk space.",
}
ERRORS_OF_ALL = {
    401: "A password is needed: see the login.",
    403: "The request comes from another site's page, or has an unknown host name.",
    429: "Too many wrong passwords or open event streams, or the queue is full.",
    500: "Internal error.",
}
"""Errors of the middleware and of the server itself, which any route may answer with."""

_REF = "#/components/schemas/{model}"
_BOUNDS = {"ge": "minimum", "le": "maximum"}
_FILE: dict[str, Any] = {"type": "string", "format": "binary"}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """A route's `responses`: these error statuses and ERRORS_OF_ALL.

    They refer to the schema by name, and Api adds the schema. Given the class, FastAPI would build the model again for
    each status of each route: half of the time that create_api takes.
    """
    content = {"application/json": {"schema": {"$ref": _REF.format(model=ErrorReply.__name__)}}}
    meanings = {**{status: ERRORS[status] for status in statuses}, **ERRORS_OF_ALL}
    return {status: {"description": meaning, "content": content} for status, meaning in meanings.items()}


def content(media_type: str, is_described: bool = True) -> dict[str, Any]:
    """A successful response that is a file of this type."""
    return {"content": {media_type: {"schema": _FILE} if is_described else {}}}


def request_body(json: dict[str, Any] | None = None, file: bool = False) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads its body itself: JSON of this schema, a form with one file, or both."""
    kinds: dict[str, Any] = {}
    if json is not None:
        kinds["application/json"] = {"schema": json}
    if file:
        form = {"type": "object", "properties": {FIELD: _FILE}, "required": [FIELD]}
        kinds["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "content": kinds}}


def reference(model: type) -> dict[str, Any]:
    """A reference to a schema that Api adds to the document."""
    return {"$ref": _REF.format(model=model.__name__)}


def _request_schemas() -> dict[str, Any]:
    """The request's JSON schemas by name, made to allow exactly what the parser allows, including null."""
    whole = InferenceRequest.model_json_schema(ref_template=_REF)
    whole["properties"]["model"]["enum"] = list(MODELS)
    schemas = {**whole.pop("$defs"), InferenceRequest.__name__: whole}
    for schema in schemas.values():
        required = schema.get("required", [])
        schema["additionalProperties"] = {"type": "null"}
        for name, field in schema["properties"].items():
            for kind in field.get("anyOf", []):  # pydantic leaves the bounds of an optional number under its own names
                kind.update({_BOUNDS[key]: kind.pop(key) for key in list(kind) if key in _BOUNDS})
            if name not in required and {"type": "null"} not in field.get("anyOf", []):
                about = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
                schema["properties"][name] = {"anyOf": [field, {"type": "null"}], **about}
    return schemas


def _error_schemas() -> dict[str, Any]:
    whole = ErrorReply.model_json_schema(ref_template=_REF)
    return {**whole.pop("$defs"), ErrorReply.__name__: whole}


class Api(FastAPI):
    """FastAPI with the schemas that the routes refer to by name: the request's and the errors'."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, built at the first call."""
        if self.openapi_schema is None:
            schema = super().openapi()
            schema["components"]["schemas"].update({**_request_schemas(), **_error_schemas()})
        return cast(dict[str, Any], self.openapi_schema)
