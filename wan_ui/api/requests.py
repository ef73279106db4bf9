"""Requests: submit, status, result, cancel, retry, and the finished clips."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import FileResponse, Response

from wan_ui.api.bodies import parse_json
from wan_ui.api.dependencies import CurrentAccess, Json, LargeJson, RequestId, Root, Service, State
from wan_ui.api.openapi import content, errors, reference, request_body
from wan_ui.api.schemas import RequestMove, RequestMoved, RequestResult, RequestStatus, Submitted
from wan_ui.api.serializers import add_judging, job_progress, result_of, status_of
from wan_ui.job import FINAL
from wan_ui.request import InferenceRequest
from wan_ui.web.ranges import check_range
from wan_ui.web.stored_file import FILE_HEADERS, StoredFile

MAX_INDEX = 999  # a request has at most 1000 prompts
VideoIndex = Annotated[
    int, Path(description="From 0, in prompt order; of a comparison, the cell's `video`.", ge=0, le=MAX_INDEX)
]
_VIDEO_HEADERS = {**FILE_HEADERS, "Cache-Control": "private"}
_PICTURE_HEADERS = {**FILE_HEADERS, "Cache-Control": "private, max-age=3600"}
_LIVE_HEADERS = {**FILE_HEADERS, "Cache-Control": "no-store"}

router = APIRouter()


@router.post(
    "/inference",
    summary="Queue a request",
    response_model=Submitted,
    responses=errors(400, 413, 422, 503, 507),
    openapi_extra=request_body(reference(InferenceRequest)),
)
def submit(service: Service, access: CurrentAccess, root: Root, body: LargeJson) -> dict[str, Any]:
    """Checks a request whole, then puts it in the queue."""
    job = service.submit(body, access)
    return {
        "request_id": job.id,
        "status": "queued",
        "status_url": f"{root}/requests/{job.id}/status",
        "result_url": f"{root}/requests/{job.id}/result",
        "created_at": job.created_at,
    }


@router.get(
    "/requests/{request_id}/status",
    summary="The state of a request",
    response_model=RequestStatus,
    responses=errors(404, 422),
)
def status(state: State, access: CurrentAccess, request_id: RequestId) -> dict[str, Any]:
    """Cheap enough to be polled; `/events` sends the same when it changes."""
    # The outlook first: what runs then has no clip yet in the job that is read after it, or is seen as finished.
    outlook = state.service.outlook(request_id)
    job = state.service.job(request_id, access)
    progress = job_progress(outlook, state.service.progress(job.id)) if job.status not in FINAL else None
    return {**status_of(job, state.reference_errors), "progress": progress}


@router.get(
    "/requests/{request_id}/result",
    summary="The videos of a request and what they were made with",
    response_model=RequestResult,
    response_model_exclude_unset=True,  # so that only a comparison's videos have `cell`
    responses=errors(404, 422),
)
def result(state: State, access: CurrentAccess, root: Root, request_id: RequestId) -> dict[str, Any]:
    """Before the end too: of a comparison with the state of every cell."""
    # `running` first: what runs then has no clip yet in the job that is read after it, or is seen as finished.
    running = state.service.running(request_id, access)
    job = state.service.job(request_id, access)
    body = result_of(root, job, running, state.reference_errors)
    if job.cells:
        judging = state.service.judging
        add_judging(body["metadata"]["compare"], judging.judgement(job, access), judging.judgement_of_all(job, access))
    return body


@router.delete(
    "/requests/{request_id}",
    summary="Cancel a request; a finished one stays as it is",
    response_model=RequestStatus,
    responses=errors(404, 422),
)
def cancel(state: State, access: CurrentAccess, request_id: RequestId) -> dict[str, Any]:
    """A running request stops between two denoising steps."""
    return {**status_of(state.service.cancel(request_id, access), state.reference_errors), "progress": None}


@router.patch(
    "/requests/{request_id}",
    summary="Move a waiting request to another position of the queue",
    response_model=RequestMoved,
    responses=errors(400, 404, 409, 413, 422),
    openapi_extra=request_body(RequestMove.model_json_schema()),
)
def move(service: Service, access: CurrentAccess, request_id: RequestId, body: Json) -> dict[str, Any]:
    """The owner moves any request; everybody else their own ones among each other."""
    wanted = parse_json(RequestMove, body)
    job = service.move(request_id, wanted.position, access)
    return {"request_id": job.id, "status": job.status, "position": job.position}


@router.post(
    "/requests/{request_id}/retry",
    summary="Queue a failed or canceled request again for what it lacks; any other stays as it is",
    response_model=RequestStatus,
    responses=errors(404, 422, 507),
)
def retry(state: State, access: CurrentAccess, request_id: RequestId) -> dict[str, Any]:
    """Finished videos are kept."""
    return {**status_of(state.service.retry(request_id, access), state.reference_errors), "progress": None}


@router.get(
    "/requests/{request_id}/live.webp",
    summary="A small moving picture of the video that is being denoised",
    response_class=Response,
    responses={**errors(404, 422), 200: {"description": "An animated WebP.", **content("image/webp")}},
)
def live_picture(service: Service, access: CurrentAccess, request_id: RequestId) -> Response:
    """Changes at most twice a second. 404 before the first one and after the end."""
    return Response(service.live_picture(request_id, access), media_type="image/webp", headers=_LIVE_HEADERS)


@router.get(
    "/requests/{request_id}/first_frame.jpg",
    summary="A small picture of the first frame that a request starts from",
    response_class=Response,
    responses={**errors(404, 422, 503), 200: {"description": "A JPEG.", **content("image/jpeg")}},
)
def first_frame(state: State, service: Service, access: CurrentAccess, request_id: RequestId) -> Response:
    """Of several prompts, that of the first one that has one. 404 for a request without."""
    with state.posters.hold():
        picture = service.first_frame(request_id, access)
    return Response(picture, media_type="image/jpeg", headers=_PICTURE_HEADERS)


@router.get(
    "/requests/{request_id}/videos/{n}",
    summary="One finished clip, whole or by range",
    response_class=FileResponse,
    responses={
        **errors(404, 416, 422),
        200: {"description": "The clip.", **content("video/mp4")},
        206: {"description": "The range of the clip.", **content("video/mp4")},
    },
)
@router.head("/requests/{request_id}/videos/{n}", include_in_schema=False)
def video(request: Request, service: Service, access: CurrentAccess, request_id: RequestId, n: VideoIndex) -> Response:
    """An MP4 with the settings it was made with in its metadata."""
    path = service.clip_path(request_id, n, access)
    response = StoredFile(path, "video/mp4", _VIDEO_HEADERS, filename=f"wan-ui-{request_id[:8]}-{n}.mp4")
    check_range(request, response.size)
    return response
