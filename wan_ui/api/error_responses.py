"""What any route may answer, for the API document; it knows no route."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

ALWAYS: Mapping[int, str] = MappingProxyType(
    {
        401: "A password is asked for: see the login.",
        403: "The request comes from another site's page, or under an unknown host name.",
        429: "Too many wrong passwords, or too many requests wait already.",
        500: "A failure of the server.",
    }
)
"""Status and meaning of the gate's, the guard's and the server's own answers."""


def documented(model: type[Any], meanings: Mapping[int, str], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """A route's `responses`: these statuses and those of ALWAYS, each with the error model and what it means.

    The model is named only, and the document has to hold its schema: given the class, FastAPI would build it anew for
    each status of each route, in half of the time that the whole door takes to build.
    """
    said = {**meanings, **ALWAYS}
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
    return {status: {"description": said[status], "content": content} for status in (*statuses, *ALWAYS)}
