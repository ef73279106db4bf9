"""The gallery: finished clips page by page, favourites, deletion, posters and settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import FileResponse, Response

from wan_ui.api.dependencies import CurrentAccess, Json, Service, State
from wan_ui.api.openapi import content, errors, request_body
from wan_ui.api.schemas import GalleryChoices, GalleryEntry, GalleryPage, KeepBody
from wan_ui.api.serializers import entry_body, model_label
from wan_ui.errors import InvalidRequest, VideoEncodingFailed, VideoInvalid, VideoNotFound
from wan_ui.jobs.gallery import LARGEST_PAGE, PAGE, Entry, Filter
from wan_ui.media import video
from wan_ui.provenance import embedded_metadata

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.jobs.service import JobService

MAX_WORDS_LENGTH = 200
EntryId = Annotated[str, Path(description="`id` of an entry of the gallery.", max_length=200)]
Cursor = Annotated[
    str | None, Query(description="`older` or `newer` of another page; left out: the newest.", max_length=40)
]
Limit = Annotated[int, Query(description="Entries of a page.", ge=1, le=LARGEST_PAGE)]
ModelId = Annotated[str | None, Query(description="Only entries of this model id.", max_length=200)]
LoraName = Annotated[
    str | None, Query(description="Only entries made with this LoRA: its file's name or SHA-256.", max_length=400)
]
JobId = Annotated[str | None, Query(description="Only entries of this request.", max_length=200)]
Words = Annotated[
    str | None, Query(description="Only entries whose prompt has all of these words.", max_length=MAX_WORDS_LENGTH)
]
Kept = Annotated[bool, Query(description="Only favourites.")]
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-store",
}

router = APIRouter()


def _filter(
    model: ModelId = None, lora: LoraName = None, job: JobId = None, q: Words = None, kept: Kept = False
) -> Filter:
    return Filter(model or None, lora or None, job or None, q or None, kept)


def settings_of(service: JobService, entry: Entry, access: Access) -> dict[str, Any]:
    """The metadata embedded in an entry's file, or in a comparison's grid. Raises VideoNotFound."""
    if entry.index is not None:
        try:
            return video.read_metadata(service.clip_path(entry.job_id, entry.index, access))
        except (VideoInvalid, VideoEncodingFailed) as error:
            raise VideoNotFound("The file of this video cannot be read.") from error
    return embedded_metadata.of_grid(service.job(entry.job_id, access))


def _body(service: JobService, entry: Entry, access: Access) -> dict[str, Any]:
    return entry_body(entry, service.may_change_entry(entry, access), service.shares.may_share(access))


@router.get(
    "/gallery",
    operation_id="gallery",
    summary="Finished clips, newest first, a page at a time; comparisons are one entry each",
    response_model=GalleryPage,
    responses=errors(422, 503),
)
def page(
    service: Service,
    access: CurrentAccess,
    wanted: Annotated[Filter, Depends(_filter)],
    cursor: Cursor = None,
    limit: Limit = PAGE,
) -> dict[str, Any]:
    """Only entries that the sender may see."""
    found = service.entries(wanted, access, cursor or None, limit)
    entries = [_body(service, entry, access) for entry in found.entries]
    return {"entries": entries, "older": found.older, "newer": found.newer}


@router.get(
    "/gallery/choices",
    operation_id="gallery_choices",
    summary="What the gallery can be filtered by",
    response_model=GalleryChoices,
    responses=errors(503),
)
def choices(service: Service, access: CurrentAccess) -> dict[str, Any]:
    """The models and LoRAs of the entries, with their numbers."""
    found = service.entry_choices(access)
    return {
        "entries": found.entries,
        "kept": found.kept,
        "models": [{"id": model, "label": model_label(model), "entries": count} for model, count in found.models],
        "loras": [{**asdict(lora), "entries": count} for lora, count in found.loras],
    }


@router.get(
    "/gallery/{entry_id}",
    operation_id="gallery_entry",
    summary="One entry",
    response_model=GalleryEntry,
    responses=errors(404, 422, 503),
)
def entry(service: Service, access: CurrentAccess, entry_id: EntryId) -> dict[str, Any]:
    """A clip, or a comparison with all its clips."""
    return _body(service, service.entry(entry_id, access), access)


@router.patch(
    "/gallery/{entry_id}",
    operation_id="keep_entry",
    summary="Make an entry a favourite, which is never deleted automatically, or undo that",
    response_model=GalleryEntry,
    responses=errors(400, 404, 413, 422, 503),
    openapi_extra=request_body({**KeepBody.model_json_schema(), "additionalProperties": False}),
)
async def keep(service: Service, access: CurrentAccess, entry_id: EntryId, body: Json) -> dict[str, Any]:
    """Only for entries that the sender may change."""
    kept = _kept(body)
    return await anyio.to_thread.run_sync(lambda: _body(service, service.keep_entry(entry_id, kept, access), access))


@router.delete(
    "/gallery/{entry_id}",
    operation_id="delete_entry",
    summary="Delete an entry with all its files, and its request if nothing else is left of it",
    status_code=204,
    response_class=Response,
    responses=errors(404, 409, 422, 503),
)
def delete(service: Service, access: CurrentAccess, entry_id: EntryId) -> Response:
    """Only for entries that the sender may change."""
    service.delete_entry(entry_id, access)
    return Response(status_code=204)


@router.get(
    "/gallery/{entry_id}/poster.jpg",
    operation_id="entry_poster",
    summary="A still of the clip",
    response_class=FileResponse,
    responses={**errors(404, 422, 503), 200: content("image/jpeg", is_described=False)},
)
def poster(state: State, service: Service, access: CurrentAccess, entry_id: EntryId) -> Response:
    """Made at the first request and kept."""
    found = service.entry(entry_id, access)
    path = service.poster(found)
    if path is None:
        with state.posters.hold():
            path = service.make_poster(found)
    headers = {**_HEADERS, "Cache-Control": "private"}
    return FileResponse(path, media_type="image/jpeg", stat_result=path.stat(), headers=headers)


@router.get(
    "/gallery/{entry_id}/settings.json",
    operation_id="entry_settings",
    summary="The settings of an entry, as its file carries them",
    response_class=Response,
    responses={**errors(404, 422, 503), 200: content("application/json", is_described=False)},
)
def settings(service: Service, access: CurrentAccess, entry_id: EntryId) -> Response:
    """The metadata embedded in the MP4."""
    found = service.entry(entry_id, access)
    return Response(
        json.dumps(settings_of(service, found, access), indent=2),
        media_type="application/json",
        headers={**_HEADERS, "Content-Disposition": f'attachment; filename="wan-ui-{found.id[:8]}.json"'},
    )


def _kept(body: Any) -> bool:
    if not isinstance(body, Mapping) or set(body) != {"kept"} or not isinstance(body["kept"], bool):
        problem = {"loc": "kept", "msg": "must be true or false"}
        raise InvalidRequest('Send {"kept": true} or {"kept": false}.', fields=[problem])
    return body["kept"]
