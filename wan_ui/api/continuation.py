"""Continuing a clip: its last frame, the request of the next part, and several parts as one MP4."""

from __future__ import annotations

import pathlib
import re
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, Response

from wan_ui.api.comparisons import deletion_mapped, download
from wan_ui.api.dependencies import CurrentAccess, RequestId, Service, State
from wan_ui.api.openapi import content, errors
from wan_ui.api.requests import VideoIndex
from wan_ui.api.schemas import ContinuedRequest
from wan_ui.errors import InvalidRequest, VideoEncodingFailed, VideoInvalid, VideoNotFound
from wan_ui.media import clip_frames, video
from wan_ui.media.clip_frames import MOST_PARTS
from wan_ui.provenance import embedded_metadata
from wan_ui.web.stored_file import FILE_HEADERS

_PART = re.compile(r"([0-9a-zA-Z]{1,64})-([0-9]{1,3})")
Parts = Annotated[
    list[str],
    Query(
        description="A clip as `<request id>-<its number>`, as in the gallery; in the order to play them.",
        min_length=2,
        max_length=MOST_PARTS,
    ),
]

router = APIRouter()


@router.get(
    "/requests/{request_id}/videos/{n}/last_frame.png",
    summary="The last frame of a finished clip",
    response_class=Response,
    responses={**errors(404, 422), 200: content("image/png", is_described=False)},
)
def last_frame(state: State, service: Service, access: CurrentAccess, request_id: RequestId, n: VideoIndex) -> Response:
    """The rendered pixels; of clips made before they were kept, decoded from the MP4."""
    with state.posters.hold():
        png, _ = _last_frame(service.clip_path(request_id, n, access))
    return Response(png, media_type="image/png", headers={**FILE_HEADERS, "Cache-Control": "private"})


@router.post(
    "/requests/{request_id}/videos/{n}/continue",
    summary="The request that continues a finished clip from its last frame",
    response_model=ContinuedRequest,
    responses=errors(400, 404, 422, 503, 507),
)
def continue_video(
    state: State, service: Service, access: CurrentAccess, request_id: RequestId, n: VideoIndex
) -> dict[str, Any]:
    """A body for POST /inference: the clip's settings with a new seed. Nothing is queued."""
    with state.posters.hold():
        made = service.continue_clip(request_id, n, access)
    return {"request": dict(made.request), "notes": list(made.notes), "lossless": made.is_lossless}


@router.get(
    "/joined.mp4",
    summary="Several clips as one video, without the frame that a continued one repeats",
    response_class=FileResponse,
    responses={**errors(404, 422, 503, 507), 200: content("video/mp4", is_described=False)},
)
def joined(state: State, service: Service, access: CurrentAccess, part: Parts) -> Response:
    """Encoded once, with the settings of all parts in its metadata. The parts stay."""
    clips = [service.clip_path(*_part(text), access) for text in part]
    try:
        with deletion_mapped(clips):
            metadata = embedded_metadata.of_parts([video.read_metadata(clip) for clip in clips])
        return download(
            state,
            f"{part[0][:8]}-joined.mp4",
            "video/mp4",
            lambda path: clip_frames.join(path, clips, metadata),
            clips,
        )
    except VideoInvalid as error:
        raise VideoNotFound("The file of one of these videos cannot be read.") from error


def _part(text: str) -> tuple[str, int]:
    match = _PART.fullmatch(text)
    if match is None:
        message = "must be <request id>-<number of the clip>"
        raise InvalidRequest(f"part {message}.", fields=[{"loc": "query.part", "msg": message}])
    return match[1], int(match[2])


def _last_frame(clip: pathlib.Path) -> tuple[bytes, bool]:
    try:
        return clip_frames.last_frame(clip)
    except VideoEncodingFailed as error:
        raise VideoNotFound("The file of this video cannot be read.") from error
