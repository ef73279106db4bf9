"""GET /health at the root of the server, where clients of the reference server look for it."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from wan_ui.api.concurrency import Latest

HEALTH_PATH = "/health"


def health_route(latest: Latest[Mapping[str, Any]]) -> Route:
    """The route; `latest` gives the body of GET /v1/health."""

    async def answer_health(_request: Request) -> Response:
        """Healthy from the start of the server on; 503 when it can render no more and is about to end."""
        if (await latest.get())["status"] == "failed":
            return JSONResponse({"status": "unhealthy"}, HTTPStatus.SERVICE_UNAVAILABLE)
        return JSONResponse({"status": "healthy"})

    return Route(HEALTH_PATH, answer_health)
