"""What any route may answer, for the API document; it knows no route."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

ALWAYS: Mapping[int, str] = MappingProxyType(
    {
        401: "A password is asked for: see the login.",
        403: "The request comes from another site's page, or under an unknown host name.",
        429: "Too many wrong passwords, or too many requests wait already.",
        500: "A failure of the server.",
    }
)
"""Status and meaning of the gate's, the guard's and the server's own answers."""
