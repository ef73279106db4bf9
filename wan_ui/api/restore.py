"""POST /restore: the settings that a video of this program carries."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query

from wan_ui.api.dependencies import CurrentAccess, Service, State, UploadedFile
from wan_ui.api.openapi import errors, request_body
from wan_ui.api.schemas import RestoredSettings

router = APIRouter()
FromVideo = Annotated[
    bool, Query(description="If the first or last frame is not found, take the video's own one (not a grid's).")
]


@router.post(
    "/restore",
    summary="The settings that a video carries, and what differs on this server",
    response_model=RestoredSettings,
    responses=errors(400, 413, 422, 503, 507),
    openapi_extra=request_body(file=True),
)
async def restore(
    state: State, service: Service, access: CurrentAccess, file: UploadedFile, from_video: FromVideo = False
) -> dict[str, Any]:
    """Reads an MP4 that this program wrote."""
    return await state.inspections.run(lambda: asdict(service.restore(file.path, access, from_video)))
