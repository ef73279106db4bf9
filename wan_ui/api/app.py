"""The HTTP door: the routes of /v1 in the reference server's shapes; it knows the desk, not the page or the engine."""

from __future__ import annotations

import json
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, cast

import anyio
import anyio.to_thread
from fastapi import Depends, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import wan_ui
from wan_ui.access import Access
from wan_ui.api import comparisons, error_responses, gallery, training_jobs
from wan_ui.api.dependencies import CurrentAccess
from wan_ui.api.multipart import FIELD, receive_file
from wan_ui.engine.result import Progress
from wan_ui.errors import BadJson, InvalidRequest, PayloadTooLarge, RouteNotFound, ServerBusy, WanUIError
from wan_ui.files import PART_PREFIX
from wan_ui.job import lora_use_body
from wan_ui.lora.remote import without_queries
from wan_ui.models import DEFAULT_FPS, DEFAULT_GUIDANCE_SCALE, DEFAULT_NUM_FRAMES, DEFAULT_STEPS, MODELS
from wan_ui.request import Generation, InferenceRequest

if TYPE_CHECKING:
    from wan_ui.compare import PlannedCell
    from wan_ui.job import ClipRecord, Job
    from wan_ui.jobs.service import JobService
    from wan_ui.jobs.worker import Running

BODY_LIMIT = 80 * 2**20  # bytes; control images travel in the body as base64
FILE_LIMIT = 8 << 30  # bytes of a LoRA that is sent to be inspected
INSPECT_AT_ONCE = 4  # on threads of their own: each may wait minutes for a host, and must not starve the other routes
INSPECT_WAITING = 16
LARGEST_INDEX = 999  # a request has at most 1000 prompts

JobStatus = Literal["in_queue", "in_progress", "succeeded", "failed", "canceled"]
CellStatus = Literal["waiting", "running", "succeeded", "failed", "missing"]


class ErrorInfo(BaseModel):
    code: str = Field(description="What happened, for programs: REQUEST_NOT_FOUND and the like.")
    message: str = Field(description="What happened and what to do, for people.")
    details: dict[str, Any]


class ErrorDetail(BaseModel):
    error: ErrorInfo


class ErrorReply(BaseModel):
    """Every error of every route."""

    detail: ErrorDetail


class Submitted(BaseModel):
    request_id: str
    status: Literal["queued"]
    status_url: str
    result_url: str
    created_at: str = Field(description="ISO 8601, UTC, ending in Z; so are all times.")


class RequestStatus(BaseModel):
    request_id: str
    status: JobStatus
    created_at: str
    started_at: str | None
    finished_at: str | None
    error: ErrorInfo | None


class CellPlace(BaseModel):
    column: int = Field(description="From 0, from the left; metadata.compare has the columns.")
    row: int = Field(description="From 0, from the top.")
    column_label: str
    row_label: str


class VideoOutput(BaseModel):
    format: Literal["mp4"]
    width: int = Field(description="Pixels, effective.")
    height: int = Field(description="Pixels, effective.")
    num_frames: int
    fps: int
    file_path: str = Field(description="Relative to the server's data folder.")
    url: str
    seed: int
    cell: CellPlace | None = Field(None, description="Of a comparison only.")


class Outputs(BaseModel):
    images: list[dict[str, Any]] = Field(description="Always empty: these models make videos.")
    videos: list[VideoOutput] = Field(
        description="In prompt order; of a comparison one per finished cell, row by row. Equal cells share a file."
    )


class RequestResult(BaseModel):
    request_id: str
    status: JobStatus
    outputs: Outputs | None = Field(description="null before the end; of a failed or canceled request, what finished.")
    error: ErrorInfo | None
    created_at: str
    finished_at: str | None
    metadata: dict[str, Any] = Field(
        description="What was ignored and adjusted, and every value that was used. Of a comparison also `compare`, "
        "from the start: `columns` and `rows` (field, values, labels), `baseline`, and `cells` row by row (column, "
        "row, status, video and its url, error, progress); a status is waiting, running, succeeded, failed or missing."
    )


class ModelInfo(BaseModel):
    id: str
    base_model: str
    resolution_divisor: int
    default_steps: int
    default_guidance_scale: float
    requires_control_image: bool
    is_video_model: bool
    default_num_frames: int
    default_fps: int


class ModelList(BaseModel):
    models: list[ModelInfo]


class InspectBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: str = Field(
        min_length=1,
        max_length=4096,
        description="As in a request: a path under the LoRA folder, upload://, http(s):// or hf://org/name/file.",
    )


class Spread(BaseModel):
    min: float
    median: float
    max: float


class Inspection(BaseModel):
    """What a LoRA file is, from its header."""

    family: str | None = Field(description="null when the header cannot tell which.")
    candidates: list[str] = Field(description="Ids of the models it was made for, as far as the header tells.")
    slot: str = Field(description="high, low, combined or unknown.")
    type: str
    rank: Spread | None
    alpha: Spread | None
    dtype: str
    modules: int
    blocks: str = Field(description="Ranges, such as 0-29.")
    trainer: str | None
    step: int | None
    trigger_word: str | None
    partner: str | None = Field(description="The other half of a pair, as a path for a request.")
    fits: dict[str, Literal["yes", "no", "unknown"]] = Field(description="By model id.")
    messages: list[str]


class Pulse(BaseModel):
    pulse: str = Field(description="Stays the same while no request has changed; for clients that poll many.")


class RestoredSettings(BaseModel):
    """The settings that a video carries, held against what is here now."""

    request: dict[str, Any] = Field(description="A body for POST /inference, without what is not here.")
    comparison: dict[str, Any] | None = Field(description="The whole comparison, where the video is one of its cells.")
    cell: str | None = Field(description="Which cell that is, by the heads of its column and row.")
    notes: list[str] = Field(description="What is not as it was, one sentence each; empty: all is here.")
    first_frame: Literal["none", "here", "missing", "from_video"] = Field(
        description="Whether the request needs no first frame, has its own, lacks it, or has the video's own instead."
    )
    made: dict[str, Any] = Field(description="By what: wan_ui, versions, device, checkpoint, seconds by phase.")


class Health(BaseModel):
    status: str = Field(description="starting, ready, or failed just before the server ends to be started again.")
    version: str
    device: str | None
    queue: int = Field(description="Requests waiting.")


FromVideo = Annotated[
    bool,
    Query(
        description="Where the first frame is not here, keep the video's own (not a grid's) and put it in its place."
    ),
]
RequestId = Annotated[str, Path(description="From the reply to POST /inference.", max_length=200)]
VideoIndex = Annotated[
    int, Path(description="From 0, in prompt order; of a comparison, the cell's `video`.", ge=0, le=LARGEST_INDEX)
]

_ERRORS = {
    400: "The body is not JSON, or the request cannot be run as it stands.",
    404: "There is no such request or video.",
    413: "The body is too large.",
    416: "The range lies outside the file.",
    422: "A field is missing, unknown, of the wrong type or out of bounds: details.fields lists {loc, msg}.",
    503: "The machine is not able to take the request now.",
    507: "No disk space.",
}


_FILE_FORM: dict[str, Any] = {
    "type": "object",
    "properties": {FIELD: {"type": "string", "format": "binary"}},
    "required": [FIELD],
}

_documented = partial(error_responses.documented, ErrorReply, _ERRORS)


def error_reply(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """An error in the reference's shape; `body` is `{code, message, details}`."""
    return JSONResponse({"detail": {"error": dict(body)}}, status, dict(headers or {}))


async def _our_error(_request: Request, error: WanUIError) -> Response:
    return error_reply(error.status, error.body())


async def _framework_error(_request: Request, error: HTTPException) -> Response:
    if error.status_code == HTTPStatus.NOT_FOUND:
        body = RouteNotFound("There is no such route; /v1/openapi.json lists those there are.").body()
    else:
        status = HTTPStatus(error.status_code)
        body = {"code": status.name, "message": f"{status.description or status.phrase}.", "details": {}}
    return error_reply(error.status_code, body, error.headers)


async def _wrong_parameter(_request: Request, error: RequestValidationError) -> Response:
    fields = [{"loc": ".".join(str(part) for part in item["loc"]), "msg": item["msg"]} for item in error.errors()]
    wrong = InvalidRequest(f"{fields[0]['loc']}: {fields[0]['msg']}", fields=fields)
    return error_reply(wrong.status, wrong.body())


async def _last_resort(_request: Request, _error: Exception) -> Response:
    # Starlette raises the error again after this reply, and the server writes the trace to its log.
    return error_reply(
        500, {"code": "INTERNAL_ERROR", "message": "The server failed; its log says where.", "details": {}}
    )


async def read_body(request: Request) -> bytes:
    """The whole body. Raises PayloadTooLarge as soon as the app's limit is passed, or BadJson if it breaks off."""
    limit: int = request.app.state.body_limit
    too_large = PayloadTooLarge(f"The body is larger than {limit} bytes.", limit=limit)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > limit):
        raise too_large
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > limit:
                raise too_large
    except ClientDisconnect:
        raise BadJson("The connection closed before the body was whole.") from None
    return bytes(data)


def decode_json(data: bytes) -> Any:
    """A body's bytes as JSON values. Raises BadJson, also for NaN and infinities, which JSON does not have."""

    def refuse(literal: str) -> NoReturn:
        raise BadJson(f"The body is not JSON: {literal} is not a JSON number.")

    if not data.strip():
        raise BadJson("The body is empty: send the request as a JSON object.")
    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise BadJson(f"The body is not JSON: byte {error.start} is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise BadJson(
            f"The body is not JSON: {error.msg}, line {error.lineno}, column {error.colno}.",
            line=error.lineno,
            column=error.colno,
        ) from None
    except RecursionError:
        raise BadJson("The body is nested too deeply.") from None
    except ValueError:
        raise BadJson("The body holds a number with too many digits.") from None


def _inspect_body(data: bytes) -> InspectBody:
    try:
        return InspectBody.model_validate(decode_json(data))
    except ValidationError as error:
        items = error.errors(include_url=False, include_input=False, include_context=False)
        fields = [{"loc": ".".join(str(part) for part in item["loc"]) or "body", "msg": item["msg"]} for item in items]
        raise InvalidRequest(f"{fields[0]['loc']}: {fields[0]['msg']}", fields=fields) from None


def _root(request: Request) -> str:
    """Where this door is, from the request's own scheme and Host: `http://127.0.0.1:7860/v1`."""
    return f"{request.url.scheme}://{request.url.netloc}{request.scope.get('root_path', '').rstrip('/')}"


def _status(job: Job) -> dict[str, Any]:
    return {
        "request_id": job.id,
        "status": job.status,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "error": job.error,
    }


def _video_url(root: str, job: Job, index: int) -> str:
    return f"{root}/requests/{job.id}/videos/{index}"


def _video(root: str, job: Job, clip: ClipRecord) -> dict[str, Any]:
    return {
        "format": "mp4",
        "width": clip.width,
        "height": clip.height,
        "num_frames": clip.num_frames,
        "fps": clip.fps,
        "file_path": clip.file,
        "url": _video_url(root, job, clip.index),
        "seed": clip.seed,
    }


def _outputs(root: str, job: Job) -> dict[str, Any] | None:
    if job.finished_at is None or not job.clips:
        return None
    if not job.cells:
        return {"images": [], "videos": [_video(root, job, clip) for clip in job.clips]}
    clips = {clip.index: clip for clip in job.clips}
    return {
        "images": [],
        "videos": [
            {**_video(root, job, clips[cell.generation]), "cell": _cell_place(cell)}
            for cell in job.cells
            if cell.generation in clips
        ],
    }


def _cell_place(cell: PlannedCell) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in ("column", "row", "column_label", "row_label")}


def _compare(root: str, job: Job, running: Running | None) -> dict[str, Any]:
    """A comparison's grid as it stands, to be drawn before the end too."""
    asked = without_queries(job.request["compare"])
    clips = {clip.index for clip in job.clips}

    def axis(name: str, labels: list[str]) -> dict[str, Any]:
        found = asked.get(name, {})
        values = list(found.get("values", ()))
        # The baseline's column, or the only one where nothing changes, has no value.
        without = [None] * (len(labels) - len(values))
        return {"field": found.get("field") if values else None, "values": [*without, *values], "labels": labels}

    def cell(one: PlannedCell) -> dict[str, Any]:
        at = _progress(running, one.generation)
        status = _cell_status(job, one, one.generation in clips, at is not None)
        made = status == "succeeded"
        return {
            "column": one.column,
            "row": one.row,
            "status": status,
            "video": one.generation if made else None,
            "url": _video_url(root, job, one.generation) if made else None,
            "error": job.failures.get(one.generation),
            "progress": asdict(at) if at is not None and status == "running" else None,
        }

    return {
        "columns": axis("columns", list({one.column: one.column_label for one in job.cells}.values())),
        "rows": axis("rows", list({one.row: one.row_label for one in job.cells}.values())),
        "baseline": asked.get("baseline", True),
        "cells": [cell(one) for one in job.cells],
    }


def _progress(running: Running | None, generation: int) -> Progress | None:
    """The latest moment of a cell that is rendered or, while the next one is, written."""
    if running is not None and running.index == generation:
        return running.progress
    return Progress("encode") if running is not None and running.writing == generation else None


def _cell_status(job: Job, cell: PlannedCell, is_made: bool, is_running: bool) -> CellStatus:
    if is_made:
        return "succeeded"
    if cell.generation in job.failures:
        return "failed"
    if job.finished_at is not None:
        return "missing"
    return "running" if is_running else "waiting"


def _adjusted(generations: tuple[Generation, ...]) -> list[dict[str, Any]]:
    """What flooring and rounding changed: one entry per prompt and field."""
    return [
        {"prompt": index, "field": name, "requested": asked, "effective": used}
        for index, one in enumerate(generations)
        for name, asked, used in (
            ("width", one.requested_width, one.width),
            ("height", one.requested_height, one.height),
            ("num_frames", one.requested_num_frames, one.num_frames),
        )
        if asked != used
    ]


def _prompt(one: Generation, clip: ClipRecord | None, is_cell: bool) -> dict[str, Any]:
    names = ("prompt", "neg", "width", "height", "num_frames", "fps", "seed", "sample_steps", "guidance_scale", "image")
    used = {name: getattr(one, name) for name in names} | {"clip": None if clip is None else dict(clip.metadata)}
    return (
        used
        | {
            "recipe": one.recipe,
            "speedup": one.speedup,
            "lora": without_queries([lora_use_body(use) for use in one.loras]),
        }
        if is_cell
        else used
    )


def _metadata(root: str, job: Job, running: Running | None) -> dict[str, Any]:
    clips = {clip.index: clip for clip in job.clips}
    first = job.generations[0]
    said = {
        "model": first.model,
        "recipe": first.recipe,
        "speedup": first.speedup,
        "ignored": sorted({name for one in job.generations for name in one.ignored}),
        "adjusted": _adjusted(job.generations),
        "notes": list(job.notes),
        "lora": without_queries([lora_use_body(use) for use in first.loras]),
        "prompts": [_prompt(one, clips.get(index), bool(job.cells)) for index, one in enumerate(job.generations)],
    }
    return said | {"compare": _compare(root, job, running)} if job.cells else said


_RANGE = re.compile(r"bytes=(?P<first>[0-9]{0,18})-(?P<last>[0-9]{0,18})")


def _settle_range(request: Request, size: int) -> None:
    """Leaves only a Range header that the file response can serve.

    A malformed one, or one of several parts, is dropped, so the whole file is sent (RFC 9110, 14.2).
    Raises HTTPException 416 for one outside the file.
    """
    given = request.headers.get("range")
    if given is None:
        return
    match = _RANGE.fullmatch(given.strip())
    first, last = (match["first"], match["last"]) if match else ("", "")
    outside = (int(first) >= size) if first else (bool(last) and int(last) == 0)
    malformed = not (first or last) or bool(first and last and int(last) < int(first))
    if malformed or (outside and "if-range" in request.headers):
        request.scope["headers"] = [pair for pair in request.scope["headers"] if pair[0] != b"range"]
    elif outside:
        raise HTTPException(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers={"Content-Range": f"bytes */{size}"})


_BOUNDS = {"ge": "minimum", "le": "maximum"}


def _request_schemas() -> dict[str, Any]:
    """The request's JSON schemas by name, made to allow what the parser lets pass, null for one, and no more."""
    whole = InferenceRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    whole["properties"]["model"]["enum"] = list(MODELS)
    schemas = {**whole.pop("$defs"), "InferenceRequest": whole}
    for schema in schemas.values():
        required = schema.get("required", [])
        schema["additionalProperties"] = {"type": "null"}
        for name, field in schema["properties"].items():
            for kind in field.get("anyOf", []):  # pydantic leaves the bounds of an optional number as it names them
                kind.update({_BOUNDS[key]: kind.pop(key) for key in list(kind) if key in _BOUNDS})
            if name not in required and {"type": "null"} not in field.get("anyOf", []):
                about = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
                schema["properties"][name] = {"anyOf": [field, {"type": "null"}], **about}
    return schemas


def _error_schemas() -> dict[str, Any]:
    """The JSON schemas of an error's body by name; the routes name it (always.documented)."""
    whole = ErrorReply.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**whole.pop("$defs"), ErrorReply.__name__: whole}


class _Api(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """FastAPI's document plus what it cannot see: the request's schema (request.parse reads it) and the errors'."""
        if self.openapi_schema is None:
            schema = super().openapi()
            schema["components"]["schemas"].update({**_request_schemas(), **_error_schemas()})
        return cast(dict[str, Any], self.openapi_schema)


def create_api(
    service: JobService,
    health: Callable[[], Mapping[str, Any]],
    access: Callable[[], Access],
    body_limit: int = BODY_LIMIT,
    *,
    file_limit: int = FILE_LIMIT,
    scratch: pathlib.Path | None = None,
) -> FastAPI:
    """The app to mount at /v1.

    `health` says `{status, version, device, queue}`, `access` whose request is being
    answered. `body_limit` and `file_limit` are in bytes; files that are sent
    lie in the folder `scratch` (None: the system's) until they are answered for.
    """
    door = _Api(
        title="wan-ui",
        version=wan_ui.__version__,
        description="LoRA inference for Wan video models.",
        docs_url=None,  # FastAPI's pages load their scripts from another site
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            WanUIError: _our_error,
            HTTPException: _framework_error,
            RequestValidationError: _wrong_parameter,
            Exception: _last_resort,
        },
    )

    door.state.body_limit = body_limit
    door.state.access = access

    @door.post(
        "/inference",
        operation_id="submit",
        summary="Queue a request",
        response_model=Submitted,
        responses=_documented(400, 413, 422, 503, 507),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/InferenceRequest"}}},
            }
        },
    )
    def submit(request: Request, data: Annotated[bytes, Depends(read_body)], access: CurrentAccess) -> dict[str, Any]:
        job = service.submit(decode_json(data), access)
        here = f"{_root(request)}/requests/{job.id}"
        return {
            "request_id": job.id,
            "status": "queued",
            "status_url": f"{here}/status",
            "result_url": f"{here}/result",
            "created_at": job.created_at,
        }

    @door.get(
        "/requests/{request_id}/status",
        operation_id="status",
        summary="Where a request stands",
        response_model=RequestStatus,
        responses=_documented(404, 422),
    )
    def status(request_id: RequestId, access: CurrentAccess) -> dict[str, Any]:
        return _status(service.job(request_id, access))

    @door.get(
        "/requests/{request_id}/result",
        operation_id="result",
        summary="What a request made",
        response_model=RequestResult,
        response_model_exclude_unset=True,  # so that `cell` stands on a comparison's videos alone
        responses=_documented(404, 422),
    )
    def result(request: Request, request_id: RequestId, access: CurrentAccess) -> dict[str, Any]:
        running = service.running(
            request_id, access
        )  # before the job: what then runs has no clip yet, or is seen to be done
        job, root = service.job(request_id, access), _root(request)
        return {
            "request_id": job.id,
            "status": job.status,
            "outputs": _outputs(root, job),
            "error": job.error,
            "created_at": job.created_at,
            "finished_at": job.finished_at,
            "metadata": _metadata(root, job, running),
        }

    @door.delete(
        "/requests/{request_id}",
        operation_id="cancel",
        summary="Cancel a request; a finished one stays as it is",
        response_model=RequestStatus,
        responses=_documented(404, 422),
    )
    def cancel(request_id: RequestId, access: CurrentAccess) -> dict[str, Any]:
        return _status(service.cancel(request_id, access))

    @door.post(
        "/requests/{request_id}/retry",
        operation_id="retry",
        summary="Put a failed or canceled request back in line for what it lacks; any other stays as it is",
        response_model=RequestStatus,
        responses=_documented(404, 422, 507),
    )
    def retry(request_id: RequestId, access: CurrentAccess) -> dict[str, Any]:
        return _status(service.retry(request_id, access))

    def video(request: Request, request_id: RequestId, n: VideoIndex, access: CurrentAccess) -> Response:
        path = service.clip_path(request_id, n, access)
        state = os.stat(path)
        _settle_range(request, state.st_size)
        return FileResponse(
            path,
            media_type="video/mp4",
            filename=f"wan-ui-{request_id[:8]}-{n}.mp4",
            content_disposition_type="inline",
            stat_result=state,
            headers={
                "X-Content-Type-Options": "nosniff",
                "Cross-Origin-Resource-Policy": "same-origin",
                "Cache-Control": "private",
            },
        )

    binary = {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}
    door.get(
        "/requests/{request_id}/videos/{n}",
        operation_id="video",
        summary="One finished clip, whole or by range",
        response_class=FileResponse,
        responses={
            **_documented(404, 416, 422),
            200: {"description": "The clip.", "content": binary},
            206: {"description": "The range asked for.", "content": binary},
        },
    )(video)
    door.head("/requests/{request_id}/videos/{n}", include_in_schema=False)(video)

    comparisons.mount(door, service, ErrorReply, scratch)
    inspecting = anyio.CapacityLimiter(INSPECT_AT_ONCE)
    seats = INSPECT_AT_ONCE + INSPECT_WAITING

    async def looked_into(look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        nonlocal seats  # the event loop's alone
        if not seats:
            raise ServerBusy("Many files are being looked into already. Ask again in a few seconds.")
        seats -= 1
        try:
            return await anyio.to_thread.run_sync(look, limiter=inspecting)
        finally:
            seats += 1

    async def read_json(request: Request) -> Any:
        return decode_json(await read_body(request))

    gallery.mount(door, service, ErrorReply, read_json)
    training_jobs.mount(door, service, ErrorReply, read_json, _root, file_limit, scratch)

    @door.post(
        "/loras/inspect",
        operation_id="inspect_lora",
        summary="What a LoRA file is and which models it fits",
        response_model=Inspection,
        responses=_documented(400, 413, 422, 503, 507),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": InspectBody.model_json_schema()},
                    "multipart/form-data": {"schema": _FILE_FORM},
                },
            }
        },
    )
    async def inspect_lora(request: Request, access: CurrentAccess) -> dict[str, Any]:
        if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            with tempfile.TemporaryDirectory(prefix=PART_PREFIX, dir=scratch) as folder:
                file = await receive_file(request, pathlib.Path(folder), file_limit)
                return await looked_into(partial(service.inspect_file, file.path, file.name))
        path = _inspect_body(await read_body(request)).path
        return await looked_into(partial(service.inspect, path, access))

    @door.post(
        "/restore",
        operation_id="restore",
        summary="The settings that a video made here carries, and what differs now",
        response_model=RestoredSettings,
        responses=_documented(400, 413, 422, 503, 507),
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FILE_FORM}}}},
    )
    async def restore(request: Request, access: CurrentAccess, from_video: FromVideo = False) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix=PART_PREFIX, dir=scratch) as folder:
            file = await receive_file(request, pathlib.Path(folder), file_limit)
            return await looked_into(lambda: asdict(service.restore(file.path, access, from_video)))

    @door.get(
        "/pulse",
        operation_id="pulse",
        summary="Whether anything has changed",
        response_model=Pulse,
        responses=_documented(),
    )
    def pulse() -> dict[str, str]:
        return {"pulse": service.pulse()}

    @door.get(
        "/models",
        operation_id="models",
        summary="The models there are",
        response_model=ModelList,
        responses=_documented(),
    )
    def models() -> dict[str, Any]:
        return {
            "models": [
                {
                    "id": row.id,
                    "base_model": row.base_model,
                    "resolution_divisor": row.divisor["reference"],
                    "default_steps": DEFAULT_STEPS,
                    "default_guidance_scale": DEFAULT_GUIDANCE_SCALE,
                    "requires_control_image": row.control_image == "required",
                    "is_video_model": True,
                    "default_num_frames": DEFAULT_NUM_FRAMES,
                    "default_fps": DEFAULT_FPS,
                }
                for row in MODELS.values()
            ]
        }

    @door.get(
        "/health",
        operation_id="health",
        summary="Whether the server is up",
        response_model=Health,
        responses=_documented(),
    )
    def say_health() -> dict[str, Any]:
        return dict(health())

    return door
