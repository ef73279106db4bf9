"""Watching training jobs: each new save becomes a column of one standing comparison."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from wan_ui.api.bodies import decode_json, parse_json, read_body
from wan_ui.api.dependencies import CurrentAccess, Service, State
from wan_ui.api.openapi import errors, request_body
from wan_ui.api.training_job_schemas import WatchBody, WatchInfo
from wan_ui.api.training_jobs import JobId

_OPTIONAL_BODY = request_body(WatchBody.model_json_schema())
_OPTIONAL_BODY["requestBody"]["required"] = False

router = APIRouter()


@router.post(
    "/jobs/{job_id}/watch",
    summary="Watch a training job's folder and render each new save in idle time",
    response_model=WatchInfo,
    responses=errors(400, 404, 409, 413, 422, 503),
    openapi_extra=_OPTIONAL_BODY,
)
async def watch_job(request: Request, state: State, access: CurrentAccess, job_id: JobId) -> dict[str, Any]:
    """Owner only, for a job that was imported as a folder. The body may be left out."""
    data = await read_body(request, state.limits.small_body)
    wanted = parse_json(WatchBody, decode_json(data) if data.strip() else {})
    return asdict(await run_in_threadpool(state.service.watcher.begin, job_id, wanted.existing, access))


@router.get(
    "/jobs/{job_id}/watch",
    summary="The state of a watched training job",
    response_model=WatchInfo,
    responses=errors(404, 422, 503),
)
def watch_state(service: Service, access: CurrentAccess, job_id: JobId) -> dict[str, Any]:
    """Owner only."""
    return asdict(service.watcher.state(job_id, access))


@router.delete(
    "/jobs/{job_id}/watch",
    summary="End watching a training job; its comparison stays",
    status_code=204,
    response_class=Response,
    responses=errors(404, 422, 503),
)
def end_watch(service: Service, access: CurrentAccess, job_id: JobId) -> Response:
    """Owner only."""
    service.watcher.end(job_id, access)
    return Response(status_code=204)
