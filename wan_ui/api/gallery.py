"""The routes of /v1 about finished clips: listed by pages, kept, deleted, their stills and JSON; no line of jobs."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import anyio.to_thread
from fastapi import FastAPI, Path, Query, Request
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, Field

from wan_ui.api import error_responses
from wan_ui.api.dependencies import CurrentAccess
from wan_ui.api.one_at_a_time import OneAtATime
from wan_ui.errors import InvalidRequest, VideoEncodingFailed, VideoInvalid, VideoNotFound
from wan_ui.jobs.gallery import LARGEST_PAGE, PAGE, Entry, Filter
from wan_ui.lora.remote import shown_name
from wan_ui.media import video
from wan_ui.models import MODELS
from wan_ui.provenance import embedded_metadata

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.jobs.service import JobService

AT_WORK = 8  # stills, which take a program of their own; one being made and the others waiting for it
LONGEST_WORDS = 200
EntryId = Annotated[str, Path(description="`id` of an entry of the gallery.", max_length=200)]
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-store",
}
_ERRORS = {
    400: "The body is not JSON.",
    404: "There is no such entry, or its file is gone.",
    409: "Its request still waits or runs.",
    413: "The body is too large.",
    422: "A parameter or field is of the wrong type or out of bounds: details.fields lists {loc, msg}.",
    503: "The machine is not able to do this now.",
}


class LoraShown(BaseModel):
    name: str
    sha256: str = Field(description="Empty where it is not known.")


class LoraWorn(LoraShown):
    slot: str | None = Field(description="Which transformer wears it; null of a comparison.")
    network_multiplier: float | None = Field(description="Its scale; null of a comparison.")


class GalleryEntry(BaseModel):
    """A finished clip, or a comparison with all its clips; then the values are those of its first clip."""

    id: str
    request_id: str
    kind: Literal["video", "comparison"]
    video: int | None = Field(description="The clip's number in its request; null of a comparison.")
    model: str
    model_label: str
    recipe: str
    speedup: str
    prompt: str
    neg: str
    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")
    num_frames: int
    fps: int
    seed: int
    sample_steps: int
    guidance_scale: float
    has_first_frame: bool
    loras: list[LoraWorn]
    cells: int = Field(description="Of a comparison; 0 of a video.")
    videos: int = Field(description="What its request is to make.")
    made: int = Field(description="What is left of what its request made.")
    kept: bool = Field(description="Never let go of by itself.")
    may_change: bool = Field(description="Whether it is for you to keep or delete.")
    finished: bool = Field(description="Whether its request has come to its end.")
    made_at: str
    url: str = Field(description="The clip, relative to /v1; of a comparison its labelled grid.")
    poster_url: str = Field(description="Relative to /v1.")
    json_url: str = Field(description="What the clip was made with, relative to /v1.")


class GalleryPage(BaseModel):
    entries: list[GalleryEntry] = Field(description="Newest first.")
    older: str | None = Field(description="The cursor of the next page.")
    newer: str | None = Field(description="The cursor of the page before; null on the first.")


class ModelChoice(BaseModel):
    id: str
    label: str
    entries: int


class LoraChoice(LoraShown):
    entries: int


class GalleryChoices(BaseModel):
    entries: int
    kept: int
    models: list[ModelChoice]
    loras: list[LoraChoice]


class KeepBody(BaseModel):
    kept: bool


ReadJson = Callable[[Request], Awaitable[Any]]


def model_label(model: str) -> str:
    """A model's name; the wire id where the table no longer has it."""
    return MODELS[model].label if model in MODELS else model


def shown(entry: Entry, may_change: bool) -> dict[str, Any]:
    """An entry on the wire. Of a LoRA's address nothing behind a question mark."""
    one, job, is_comparison = entry.generation, entry.job_id, entry.index is None
    return {
        "id": entry.id,
        "request_id": job,
        "kind": "comparison" if is_comparison else "video",
        "video": entry.index,
        "model": entry.model,
        "model_label": model_label(entry.model),
        "recipe": one.recipe,
        "speedup": one.speedup,
        "prompt": one.prompt,
        "neg": one.neg,
        "width": entry.width,
        "height": entry.height,
        "num_frames": entry.num_frames,
        "fps": entry.fps,
        "seed": entry.seed,
        "sample_steps": one.sample_steps,
        "guidance_scale": one.guidance_scale,
        "has_first_frame": one.image is not None,
        "loras": _loras(entry),
        "cells": entry.cells,
        "videos": entry.videos,
        "made": entry.made,
        "kept": entry.kept,
        "may_change": may_change,
        "finished": entry.final,
        "made_at": entry.made_at,
        "url": f"requests/{job}/grid.mp4" if is_comparison else f"requests/{job}/videos/{entry.index}",
        "poster_url": f"gallery/{entry.id}/poster.jpg",
        "json_url": f"gallery/{entry.id}/settings.json",
    }


def _loras(entry: Entry) -> list[dict[str, Any]]:
    """Each use of a file in a clip; each file of a comparison."""
    if entry.index is None:
        return [{**asdict(lora), "slot": None, "network_multiplier": None} for lora in entry.loras]
    names = {lora.sha256: lora.name for lora in entry.loras if lora.sha256}
    return [
        {
            "name": names.get(use.sha256 or "") or shown_name(use.path),
            "sha256": use.sha256 or "",
            "slot": use.slot,
            "network_multiplier": use.scale,
        }
        for use in entry.generation.loras
    ]


def settings_of(service: JobService, entry: Entry, access: Access) -> dict[str, Any]:
    """What an entry was made with: what its file, or that of its grid, carries. Raises VideoNotFound."""
    if entry.index is not None:
        try:
            return video.read_metadata(service.clip_path(entry.job_id, entry.index, access))
        except (VideoInvalid, VideoEncodingFailed) as error:
            raise VideoNotFound("The file of this video cannot be read.") from error
    return embedded_metadata.of_grid(service.job(entry.job_id, access))


def mount(door: FastAPI, service: JobService, error_model: Any, read_json: ReadJson) -> None:
    """Adds the routes to the door of /v1."""
    documented = partial(error_responses.documented, error_model, _ERRORS)
    turns = OneAtATime(AT_WORK, "Many stills are being made. Ask again in a few seconds.")

    def reply(entry: Entry, access: Access) -> dict[str, Any]:
        return shown(entry, service.may_change_entry(entry, access))

    @door.get(
        "/gallery",
        operation_id="gallery",
        summary="Finished clips, newest first, a page at a time; comparisons are one entry each",
        response_model=GalleryPage,
        responses=documented(422, 503),
    )
    def page(
        access: CurrentAccess,
        cursor: Annotated[
            str | None, Query(description="`older` or `newer` of another page; left out: the newest.", max_length=40)
        ] = None,
        limit: Annotated[int, Query(description="Entries of a page.", ge=1, le=LARGEST_PAGE)] = PAGE,
        model: Annotated[str | None, Query(description="Of this model id.", max_length=200)] = None,
        lora: Annotated[
            str | None, Query(description="Made with this LoRA: its file's name or SHA-256.", max_length=400)
        ] = None,
        job: Annotated[str | None, Query(description="Of this request.", max_length=200)] = None,
        q: Annotated[
            str | None, Query(description="Whose prompt holds all of these words.", max_length=LONGEST_WORDS)
        ] = None,
        kept: Annotated[bool, Query(description="Only those that are kept.")] = False,
    ) -> dict[str, Any]:
        wanted = Filter(model or None, lora or None, job or None, q or None, kept)
        found = service.entries(wanted, access, cursor or None, limit)
        return {
            "entries": [reply(entry, access) for entry in found.entries],
            "older": found.older,
            "newer": found.newer,
        }

    @door.get(
        "/gallery/choices",
        operation_id="gallery_choices",
        summary="What the gallery can be filtered by",
        response_model=GalleryChoices,
        responses=documented(503),
    )
    def choices(access: CurrentAccess) -> dict[str, Any]:
        found = service.entry_choices(access)
        return {
            "entries": found.entries,
            "kept": found.kept,
            "models": [{"id": one, "label": model_label(one), "entries": count} for one, count in found.models],
            "loras": [{**asdict(one), "entries": count} for one, count in found.loras],
        }

    @door.get(
        "/gallery/{entry_id}",
        operation_id="gallery_entry",
        summary="One entry",
        response_model=GalleryEntry,
        responses=documented(404, 422, 503),
    )
    def entry(entry_id: EntryId, access: CurrentAccess) -> dict[str, Any]:
        return reply(service.entry(entry_id, access), access)

    @door.patch(
        "/gallery/{entry_id}",
        operation_id="keep_entry",
        summary="Keep an entry, or let it be let go of again",
        response_model=GalleryEntry,
        responses=documented(400, 404, 413, 422, 503),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": _strict(KeepBody.model_json_schema())}},
            }
        },
    )
    async def keep(request: Request, entry_id: EntryId, access: CurrentAccess) -> dict[str, Any]:
        kept = _kept(await read_json(request))
        return await anyio.to_thread.run_sync(lambda: reply(service.keep_entry(entry_id, kept, access), access))

    @door.delete(
        "/gallery/{entry_id}",
        operation_id="delete_entry",
        summary="Delete an entry with all its files; its request too where nothing else is left of it",
        status_code=204,
        response_class=Response,
        responses=documented(404, 409, 422, 503),
    )
    def delete(entry_id: EntryId, access: CurrentAccess) -> Response:
        service.delete_entry(entry_id, access)
        return Response(status_code=204)

    @door.get(
        "/gallery/{entry_id}/poster.jpg",
        operation_id="entry_poster",
        summary="A still of the clip",
        response_class=FileResponse,
        responses={**documented(404, 422, 503), 200: {"content": {"image/jpeg": {}}}},
    )
    def poster(entry_id: EntryId, access: CurrentAccess) -> Response:
        found = service.entry(entry_id, access)
        path = service.poster(found)
        if path is None:
            with turns.turn():
                path = service.make_poster(found)
        return FileResponse(
            path, media_type="image/jpeg", stat_result=os.stat(path), headers={**_HEADERS, "Cache-Control": "private"}
        )

    @door.get(
        "/gallery/{entry_id}/settings.json",
        operation_id="entry_settings",
        summary="What an entry was made with, as its file carries it",
        response_class=Response,
        responses={**documented(404, 422, 503), 200: {"content": {"application/json": {}}}},
    )
    def settings(entry_id: EntryId, access: CurrentAccess) -> Response:
        found = service.entry(entry_id, access)
        return Response(
            json.dumps(settings_of(service, found, access), indent=2),
            media_type="application/json",
            headers={**_HEADERS, "Content-Disposition": f'attachment; filename="wan-ui-{found.id[:8]}.json"'},
        )


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "additionalProperties": False}


def _kept(body: Any) -> bool:
    if not isinstance(body, Mapping) or set(body) != {"kept"} or not isinstance(body["kept"], bool):
        raise InvalidRequest(
            'Send {"kept": true} or {"kept": false}.', fields=[{"loc": "kept", "msg": "must be true or false"}]
        )
    return body["kept"]
