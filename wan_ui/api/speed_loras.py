"""GET /speed-loras: the known speed LoRAs, what they set, and whether they can be used here."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from wan_ui.api.dependencies import CurrentAccess, Service
from wan_ui.api.openapi import errors
from wan_ui.api.schemas import SpeedLoraList
from wan_ui.lora.speed_files import speed_lora_bodies

router = APIRouter()


@router.get(
    "/speed-loras",
    summary="List the speed LoRAs, and whether their files are here",
    response_model=SpeedLoraList,
    responses=errors(),
)
def speed_loras(service: Service, access: CurrentAccess) -> dict[str, Any]:
    """The ids that a request's `speed_lora` takes; the usual one of a model comes first."""
    return {"speed_loras": speed_lora_bodies(service.library, access)}
