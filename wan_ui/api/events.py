"""GET /requests/{id}/events and GET /events: progress as Server-Sent Events, of one request or of all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import anyio.to_thread
from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from wan_ui.access import Access
from wan_ui.api.dependencies import ApiState, CurrentAccess, RequestId, Root, State
from wan_ui.api.event_streams import HEADERS
from wan_ui.api.openapi import errors
from wan_ui.api.serializers import job_progress, listed_job, picture_of, queue_of, status_of
from wan_ui.job import FINAL
from wan_ui.jobs.service import JobService, hidden_id

QUEUE_LISTED = 60
RECENT_LISTED = 40
_EVENT = {
    "type": "object",
    "properties": {
        "event": {"type": "string", "description": "What the data is about."},
        "data": {"type": "string", "description": "A JSON object as text."},
        "retry": {"type": "integer", "description": "Milliseconds until a client that lost the stream connects again."},
    },
}
"""One event of a stream, in OpenAPI's terms."""

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "The events.", "content": {"text/event-stream": {"schema": _EVENT}}}
}

_Events = dict[str, dict[str, Any]]
"""The data of each event, JSON-ready, by the event's name."""

router = APIRouter()


@router.get(
    "/requests/{request_id}/events",
    summary="What happens to a request, as Server-Sent Events",
    response_class=StreamingResponse,
    responses={**errors(404, 422), **_STREAM},
)
async def request_events(state: State, access: CurrentAccess, root: Root, request_id: RequestId) -> StreamingResponse:
    """Events `state` (as the status), `progress`, `picture` (a live picture: its `number` and `url`), and `end`.

    Each comes when its data has changed, at most four times a second; `end` is the last one. Comments in between keep
    the connection open.
    """
    state.streams.check(access.identity)
    snapshot = partial(
        _shared, state.service, access, (root, request_id), partial(_of_request, state, root, request_id)
    )
    await anyio.to_thread.run_sync(snapshot)  # a request that is not there is answered with 404, not with a stream
    return StreamingResponse(
        state.streams.stream(access.identity, snapshot), media_type="text/event-stream", headers=HEADERS
    )


@router.get(
    "/events",
    summary="What happens to all requests that you may see, as Server-Sent Events",
    response_class=StreamingResponse,
    responses={**errors(), **_STREAM},
)
async def events(state: State, access: CurrentAccess, root: Root) -> StreamingResponse:
    """Events `jobs` (the queue and the latest finished requests), `progress` by request, `pictures`, `queue`,
    and `server`, whose `id` is another after a restart.

    The stream has no end; a page keeps one of it open instead of asking again and again.
    """
    state.streams.check(access.identity)
    snapshot = partial(_shared, state.service, access, (root,), partial(_of_all, state.service, root))
    return StreamingResponse(
        state.streams.stream(access.identity, snapshot), media_type="text/event-stream", headers=HEADERS
    )


def _shared(
    service: JobService, access: Access, name: tuple[str, ...], events_of: Callable[[Access], _Events]
) -> Mapping[str, str]:
    """The data of events as JSON text, computed once for all streams that show the same."""

    def texts(viewer: Access) -> dict[str, str]:
        return {event: json.dumps(data, allow_nan=False) for event, data in events_of(viewer).items()}

    return service.views.of_progress(access, ("events", *name), texts)


def _of_request(state: ApiState, root: str, request_id: str, access: Access) -> _Events:
    service = state.service
    # The outlook first: what runs then has no clip yet in the job that is read after it, or is seen as finished.
    outlook = service.outlook(request_id)
    job = service.job(request_id, access)
    found: _Events = {"state": status_of(job, state.reference_errors)}
    if job.status in FINAL:
        return {**found, "end": {"request_id": job.id, "status": job.status}}
    progress = job_progress(outlook, service.progress(job.id))
    if progress is not None:
        found["progress"] = {"request_id": job.id, **progress}
    picture = picture_of(root, job.id, outlook)
    if picture is not None:
        found["picture"] = {"request_id": job.id, **picture}
    return found


def _of_all(service: JobService, root: str, access: Access) -> _Events:
    queue = service.queue_outlook()
    waiting = service.queue(access, QUEUE_LISTED)
    recent = [job for job in service.recent(RECENT_LISTED, access) if job.status in FINAL]
    outlooks = {**queue.jobs, **{hidden_id(job_id): outlook for job_id, outlook in queue.jobs.items()}}
    progress, pictures = {}, {}
    for job in waiting:
        outlook = outlooks.get(job.id)
        found = job_progress(outlook, service.progress(job.id))
        if found is not None:
            progress[job.id] = found
        picture = None if job.hidden else picture_of(root, job.id, outlook)
        if picture is not None:
            pictures[job.id] = picture
    return {
        "jobs": {"jobs": [listed_job(root, job, access.is_from(job.visitor)) for job in (*waiting, *recent)]},
        "progress": progress,
        "pictures": pictures,
        "queue": queue_of(queue),
        "server": {"id": service.process_id},
    }
