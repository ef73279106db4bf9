"""GET /loras: the LoRA files by training job. POST /loras/inspect: what a file is and which models it fits."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from wan_ui.api.bodies import parse_json
from wan_ui.api.dependencies import CurrentAccess, FileOfForm, Json, Service, State
from wan_ui.api.openapi import errors, request_body
from wan_ui.api.schemas import InspectBody, Inspection

router = APIRouter()


class ListedLora(BaseModel):
    """One file of a group."""

    source: str = Field(description="What a request's loras take as path.")
    label: str = Field(description='Its training step, or "final".')
    slot: str | None = Field(description="high or low for one half of a pair, by its name.")


class LoraGroup(BaseModel):
    """The checkpoints of one training job, in training order."""

    name: str
    folder: str
    files: list[ListedLora]
    models: list[str] = Field(description="The models it was made for, as far as its header tells.")
    fits: bool = Field(description="Whether the asked model is one of them.")
    type: str | None
    rank: float | None
    trigger_word: str | None


class LoraListing(BaseModel):
    """The LoRA files in the server's folders; uploads are not listed."""

    files: int = Field(description="How many files match.")
    groups: list[LoraGroup]
    left: int = Field(description="How many groups follow these.")


@router.get(
    "/loras",
    summary="List the LoRA files by training job",
    response_model=LoraListing,
    responses=errors(422, 503),
)
async def loras(
    state: State,
    service: Service,
    search: Annotated[str, Query(max_length=200, description="Words that a path must hold.")] = "",
    model: Annotated[str, Query(max_length=200, description="LoRAs made for this model come first.")] = "",
    offset: Annotated[int, Query(ge=0, le=100_000)] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 60,
) -> dict[str, Any]:
    """Reads one header of each group; no weights."""
    return await state.inspections.run(partial(service.lora_groups.listing, search, model, offset, limit))


@router.post(
    "/loras/inspect",
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
