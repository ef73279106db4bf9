"""GET /machine: device, loaded models, free memory and disk. POST /models/unload frees the loaded models."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from wan_ui._version import __version__
from wan_ui.api.dependencies import CurrentAccess, Service, State
from wan_ui.api.openapi import errors
from wan_ui.api.schemas import MachineInfo
from wan_ui.jobs.machine import MachineState
from wan_ui.models import MODELS

router = APIRouter()


@router.get(
    "/machine",
    summary="The device, the loaded models, and how much memory and disk is free",
    response_model=MachineInfo,
    responses=errors(503),
)
def machine(state: State, service: Service, access: CurrentAccess) -> dict[str, Any]:
    """Guests see the device and the models only."""
    return _body(state.health().get("device"), service.machine.state(access))


@router.post(
    "/models/unload",
    summary="Free the loaded models",
    response_model=MachineInfo,
    responses=errors(409, 503),
)
def unload_models(state: State, service: Service, access: CurrentAccess) -> dict[str, Any]:
    """Owner only; refused while a video is rendered. The next request loads its model again."""
    return _body(state.health().get("device"), service.machine.unload(access))


def _body(device: str | None, machine: MachineState) -> dict[str, Any]:
    memory = machine.memory
    return {
        "version": __version__,
        "device": device,
        "models": [{"id": model, "label": MODELS[model].label} for model in machine.models],
        "owner": machine.is_owner,
        "memory_free": None if memory is None else memory.free,
        "memory_total": None if memory is None else memory.total,
        "disk_free": machine.disk_free,
    }
