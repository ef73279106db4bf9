"""The gallery: finished clips page by page, favourites, deletion, posters and settings."""

from __future__ import annotations

import json
import pathlib
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import FileResponse, Response
from pydantic import StringConstraints

from wan_ui.api import comparisons
from wan_ui.api.dependencies import CurrentAccess, Json, Service, State
from wan_ui.api.openapi import content, errors, request_body
from wan_ui.api.schemas import GalleryChoices, GalleryEntry, GalleryPage, KeepBody
from wan_ui.api.serializers import entry_body
from wan_ui.errors import InvalidRequest, VideoEncodingFailed, VideoInvalid, VideoNotFound
from wan_ui.jobs.gallery import LARGEST_PAGE, PAGE, Entry, Filter, Kind
from wan_ui.media import video as mp4
from wan_ui.models import label_of
from wan_ui.provenance import embedded_metadata
from wan_ui.web.stored_file import FILE_HEADERS, StoredFile

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.jobs.service import JobService

MAX_WORDS_LENGTH = 200
MAX_INDEX = 999
EntryId = Annotated[str, Path(description="`id` of an entry of the gallery.", max_length=200)]
Cursor = Annotated[
    str | None, Query(description="`older` or `newer` of another page; left out: the newest.", max_length=40)
]
Limit = Annotated[int, Query(description="Entries of a page.", ge=1, le=LARGEST_PAGE)]
ModelId = Annotated[str | None, Query(description="Only entries of this model id.", max_length=200)]
LoraNames = Annotated[
    list[Annotated[str, StringConstraints(max_length=400)]] | None,
    Query(
        description="Only entries made with this LoRA: its file's name or SHA-256. Several: with one of them.",
        max_length=LARGEST_PAGE,
    ),
]
JobId = Annotated[str | None, Query(description="Only entries of this request.", max_length=200)]
Words = Annotated[
    str | None, Query(description="Only entries whose prompt has all of these words.", max_length=MAX_WORDS_LENGTH)
]
Kept = Annotated[bool, Query(description="Only favourites.")]
OfKind = Annotated[Kind | None, Query(description="Only single videos, or only comparisons.")]
Order = Annotated[
    Literal["newest", "oldest"], Query(description="With `oldest`, `older` of a page is the cursor of the next one.")
]
OfVideo = Annotated[
    int | None, Query(description="Of a comparison: the clip's number; left out, its first.", ge=0, le=MAX_INDEX)
]
Ids = Annotated[str, Query(description="`id`s of entries, separated by commas.", max_length=5000)]

router = APIRouter()


def _filter(
    model: ModelId = None,
    lora: LoraNames = None,
    job: JobId = None,
    q: Words = None,
    kept: Kept = False,
    kind: OfKind = None,
    order: Order = "newest",
) -> Filter:
    return Filter(model or None, tuple(filter(None, lora or ())), job or None, q or None, kept, kind, order == "oldest")


def settings_of(service: JobService, entry: Entry, access: Access) -> dict[str, Any]:
    """The metadata embedded in an entry's file, or in a comparison's grid. Raises VideoNotFound."""
    if entry.index is not None:
        try:
            return mp4.read_metadata(service.clip_path(entry.job_id, entry.index, access))
        except (VideoInvalid, VideoEncodingFailed) as error:
            raise VideoNotFound("The file of this video cannot be read.") from error
    return embedded_metadata.of_grid(service.job(entry.job_id, access))


def _body(service: JobService, entry: Entry, access: Access) -> dict[str, Any]:
    return entry_body(entry, service.may_change_entry(entry, access), service.shares.may_share(access))


@router.get(
    "/gallery",
    summary="Finished clips, newest first, a page at a time; comparisons are one entry each",
    response_model=GalleryPage,
    responses=errors(422, 503),
)
def gallery(
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
    summary="What the gallery can be filtered by",
    response_model=GalleryChoices,
    responses=errors(503),
)
def gallery_choices(service: Service, access: CurrentAccess) -> dict[str, Any]:
    """The models and LoRAs of the entries, with their numbers."""
    found = service.entry_choices(access)
    return {
        "entries": found.entries,
        "kept": found.kept,
        "models": [{"id": model, "label": label_of(model), "entries": count} for model, count in found.models],
        "loras": [{**asdict(lora), "entries": count} for lora, count in found.loras],
    }


@router.get(
    "/gallery/clips.zip",
    summary="Several entries as a ZIP file: each clip as its MP4, a comparison's in a folder",
    response_class=FileResponse,
    responses={**errors(404, 422, 503, 507), 200: content("application/zip", is_described=False)},
)
def gallery_zip(state: State, service: Service, access: CurrentAccess, ids: Ids) -> Response:
    """At most 100 entries."""
    wanted = list(dict.fromkeys(filter(None, ids.split(","))))
    if not 0 < len(wanted) <= LARGEST_PAGE:
        problem = {"loc": "query.ids", "msg": f"must name 1 to {LARGEST_PAGE} entries"}
        raise InvalidRequest(f"Name 1 to {LARGEST_PAGE} entries.", fields=[problem])
    clips: dict[str, pathlib.Path] = {}
    for number, entry_id in enumerate(wanted, 1):
        found = service.entry(entry_id, access)
        name = f"{number:03}_{_file_name(found.generation.prompt)}"
        if found.index is not None:
            clips[f"{name}.mp4"] = service.clip_path(found.job_id, found.index, access)
            continue
        job = service.job(found.job_id, access)
        finished = {clip.index for clip in job.clips}
        for cell in job.cells:
            if cell.generation in finished:
                path = service.clip_path(job.id, cell.generation, access)
                clips[f"{name}/{comparisons.file_name(cell)}.mp4"] = path

    def write(path: pathlib.Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for file_name, clip in clips.items():
                archive.write(clip, file_name)

    return comparisons.download(state, "gallery.zip", "application/zip", write, clips.values())


def _file_name(prompt: str) -> str:
    """A prompt's start in characters that every file system accepts."""
    return re.sub(r"[^A-Za-z0-9]+", "_", prompt[:60]).strip("_") or "video"


@router.get(
    "/gallery/{entry_id}",
    summary="One entry",
    response_model=GalleryEntry,
    responses=errors(404, 422, 503),
)
def gallery_entry(service: Service, access: CurrentAccess, entry_id: EntryId) -> dict[str, Any]:
    """A clip, or a comparison with all its clips."""
    return _body(service, service.entry(entry_id, access), access)


@router.patch(
    "/gallery/{entry_id}",
    summary="Make an entry a favourite, which is never deleted automatically, or undo that",
    response_model=GalleryEntry,
    responses=errors(400, 404, 413, 422, 503),
    openapi_extra=request_body({**KeepBody.model_json_schema(), "additionalProperties": False}),
)
async def keep_entry(service: Service, access: CurrentAccess, entry_id: EntryId, body: Json) -> dict[str, Any]:
    """Only for entries that the sender may change."""
    kept = _kept(body)
    return await anyio.to_thread.run_sync(lambda: _body(service, service.keep_entry(entry_id, kept, access), access))


@router.delete(
    "/gallery/{entry_id}",
    summary="Delete an entry with all its files, and its request if nothing else is left of it",
    status_code=204,
    response_class=Response,
    responses=errors(404, 409, 422, 503),
)
def delete_entry(service: Service, access: CurrentAccess, entry_id: EntryId) -> Response:
    """Only for entries that the sender may change. A request that ended without a video is deleted by its id."""
    service.delete_entry(entry_id, access)
    return Response(status_code=204)


@router.get(
    "/gallery/{entry_id}/poster.jpg",
    summary="A still of the clip",
    response_class=FileResponse,
    responses={**errors(404, 422, 503), 200: content("image/jpeg", is_described=False)},
)
def entry_poster(
    state: State, service: Service, access: CurrentAccess, entry_id: EntryId, video: OfVideo = None
) -> Response:
    """The clip's middle frame; made at the first request and kept."""
    found = service.entry(entry_id, access)
    if video is not None:
        found = service.gallery.of_clip(found, service.job(found.job_id, access), video)
    path = service.poster(found)
    if path is None:
        with state.posters.hold():
            path = service.make_poster(found)
    headers = {**FILE_HEADERS, "Cache-Control": "private"}
    return StoredFile(path, "image/jpeg", headers)


@router.get(
    "/gallery/{entry_id}/settings.json",
    summary="The settings of an entry, as its file carries them",
    response_class=Response,
    responses={**errors(404, 422, 503), 200: content("application/json", is_described=False)},
)
def entry_settings(service: Service, access: CurrentAccess, entry_id: EntryId) -> Response:
    """The metadata embedded in the MP4."""
    found = service.entry(entry_id, access)
    return Response(
        json.dumps(settings_of(service, found, access), indent=2),
        media_type="application/json",
        headers={**FILE_HEADERS, "Content-Disposition": f'attachment; filename="wan-ui-{found.id[:8]}.json"'},
    )


def _kept(body: Any) -> bool:
    if not isinstance(body, Mapping) or set(body) != {"kept"} or not isinstance(body["kept"], bool):
        problem = {"loc": "kept", "msg": "must be true or false"}
        raise InvalidRequest('Send {"kept": true} or {"kept": false}.', fields=[problem])
    return body["kept"]
