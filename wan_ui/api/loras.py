"""POST /loras/inspect: what a LoRA file is and which models it fits."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter

from wan_ui.api.bodies import parse_json
from wan_ui.api.dependencies import CurrentAccess, FileOfForm, Json, Service, State
from wan_ui.api.openapi import errors, request_body
from wan_ui.api.schemas import InspectBody, Inspection

router = APIRouter()


@router.post(
    "/loras/inspect",
    operation_id="inspect_lora",
    summary="What a LoRA file is and which models it fits",
    response_model=Inspection,
    responses=errors(400, 413, 422, 503, 507),
    openapi_extra=request_body(InspectBody.model_json_schema(), file=True),
)
async def inspect_lora(
    state: State, service: Service, access: CurrentAccess, file: FileOfForm, body: Json
) -> dict[str, Any]:
    """Reads the header of an uploaded file or of a LoRA source; nothing is kept."""
    if file is not None:
        return await state.inspections.run(partial(service.inspect_file, file.path, file.name))
    source = parse_json(InspectBody, body).path
    return await state.inspections.run(partial(service.inspect, source, access))
