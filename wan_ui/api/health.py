"""GET /health and GET /pulse: whether the server is up, and whether any request has changed."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from wan_ui.api.dependencies import Service, State
from wan_ui.api.openapi import errors
from wan_ui.api.schemas import Health, Pulse

router = APIRouter()


@router.get(
    "/health",
    summary="Whether the server is up",
    response_model=Health,
    responses=errors(),
)
async def health(state: State) -> dict[str, Any]:
    """Answered without a password, for health checks, and by none of the threads that answer the other routes."""
    return dict(await state.latest_health.get())


@router.get("/pulse", summary="Whether anything has changed", response_model=Pulse, responses=errors())
def pulse(service: Service) -> dict[str, str]:
    """A value that stays the same until a request changes."""
    return {"pulse": service.pulse()}
