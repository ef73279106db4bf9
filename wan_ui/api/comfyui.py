"""GET /requests/{id}/comfyui.json: a request as a ComfyUI workflow."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from wan_ui.api.dependencies import CurrentAccess, RequestId, Service
from wan_ui.api.openapi import content, errors
from wan_ui.api.requests import MAX_INDEX
from wan_ui.errors import VideoNotFound
from wan_ui.provenance.comfy_workflow import workflow
from wan_ui.web.stored_file import FILE_HEADERS

Video = Annotated[
    int, Query(description="Which of its videos, from 0; of a comparison, the cell's `video`.", ge=0, le=MAX_INDEX)
]

router = APIRouter()


@router.get(
    "/requests/{request_id}/comfyui.json",
    summary="A request as a ComfyUI workflow of core nodes",
    response_class=Response,
    responses={**errors(404, 422), 200: content("application/json", is_described=False)},
)
def comfyui(service: Service, access: CurrentAccess, request_id: RequestId, video: Video = 0) -> Response:
    """In API format, with the very files and scales, and a note of what cannot be equal."""
    job = service.job(request_id, access)
    if video >= len(job.generations):
        raise VideoNotFound(f"This request has no video {video}.")
    clip = next((clip.metadata for clip in job.clips if clip.index == video), None)
    return Response(
        json.dumps(workflow(job.generations[video], clip), indent=2),
        media_type="application/json",
        headers={
            **FILE_HEADERS,
            "Content-Disposition": f'attachment; filename="wan-ui-{request_id[:8]}-{video}-comfyui.json"',
        },
    )
