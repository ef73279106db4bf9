"""Training jobs in, checklists and previews out: the routes of the trainer's side; it renders and compares nothing."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import FastAPI, Path, Query, Request
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from wan_ui.api import error_responses
from wan_ui.api.dependencies import CurrentAccess
from wan_ui.api.multipart import FIELD, receive_file
from wan_ui.errors import InvalidRequest, RequestNotFound
from wan_ui.files import PART_PREFIX
from wan_ui.request import MOST_CELLS, LoraItem
from wan_ui.trainer import imported_jobs
from wan_ui.trainer.sample_files import MOST_BYTES, media_type, thumbnail

if TYPE_CHECKING:
    from wan_ui.jobs.sample_comparisons import ChecklistResult, ComparedSample
    from wan_ui.jobs.service import JobService

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, max-age=3600",
}
_ERRORS = {
    400: "The body is not JSON.",
    404: "There is no such request, video, training job or sample, or nothing to compare this video with.",
    413: "The file, or what it unpacks to, is too large.",
    422: "The config, the ZIP, the folder or the preview cannot be read: details.fields says where.",
    507: "No disk space.",
}

RequestId = Annotated[str, Path(description="From the reply to POST /inference.", max_length=200)]
JobId = Annotated[str, Path(description="From the reply to POST /jobs/import.", max_length=200)]
Step = Annotated[int, Path(description="The training step in the file's name.", ge=0, le=10**9)]
Index = Annotated[int, Path(description="The sample's index in the file's name.", ge=0, le=10**6)]
Which = Annotated[int, Query(description="Which of the request's videos, from 0.", ge=0, le=1000)]


class ImportBody(BaseModel):
    """One of `config` and `folder`."""

    model_config = ConfigDict(extra="forbid")

    config: str | None = Field(None, description="The text of a job's config.yaml.")
    folder: str | None = Field(None, max_length=4096, description="A job's folder, as a path under the LoRA folder.")
    loras: list[LoraItem] = Field(
        default_factory=list, max_length=MOST_CELLS, description="With config: the job's LoRA files, for the requests."
    )


class SampleOf(BaseModel):
    index: int = Field(description="As in the names of its sample files.")
    network_multiplier: float
    missing_image: str | None = Field(description="The first frame that its request still needs, as the job names it.")


class CheckpointOf(BaseModel):
    name: str
    step: int | None = Field(description="null for the final one.")
    trained_step: int | None = Field(description="The step in the file's own metadata.")
    files: dict[str, str] = Field(description='LoRA sources for a request, by "high" and "low", or "whole".')


class SampleFileOf(BaseModel):
    step: int
    index: int
    url: str
    thumbnail_url: str


class ImportedJob(BaseModel):
    """A training job as requests for POST /inference, one per sample, with its last checkpoint."""

    id: str
    name: str | None
    model: str
    model_assumed: bool = Field(description="The config leaves open which of several models it was.")
    recipe: str
    recipe_known: bool = Field(description="Whether a LoRA file says which version of the trainer made the previews.")
    trigger_word: str | None
    slots: list[str]
    network_type: str
    quantised: str | None
    recovery_adapter: bool
    layer_offloading: bool
    tiled: bool
    requests: list[dict[str, Any]] = Field(description="Each one a body for POST /inference.")
    samples: list[SampleOf] = Field(description="What belongs to each of `requests`, in the same order.")
    checkpoints: list[CheckpointOf] = Field(description="By training step, the final one last.")
    sample_files: list[SampleFileOf] = Field(description="The previews in the job's folder.")
    notes: list[str]
    unknown: dict[str, str] = Field(description="Keys of the config that nothing here reads.")


class ChecklistRow(BaseModel):
    row: str
    state: Literal["green", "amber", "red"] = Field(description="amber: it cannot be known, or differs by rounding.")
    preview: str
    run: str
    message: str
    fixable: bool


class Cause(BaseModel):
    id: str
    message: str


class ComparisonOf(BaseModel):
    """The preview's file beside the video, frame by frame."""

    pairs: list[tuple[int, int]] = Field(description="Frame of the video and frame of the preview, aligned by fps.")
    psnr: list[float] = Field(description="Decibels, 100 for equal frames.")
    ssim: list[float]
    mean_psnr: float
    mean_ssim: float
    causes: list[Cause] = Field(description="Where they differ: what it most likely comes from.")
    exact: bool = Field(description="Of the render's own frames; false: of the MP4's, which are compressed.")
    width: int = Field(description="The preview's, in pixels.")
    height: int
    num_frames: int
    fps: int | None


class Checklist(BaseModel):
    rows: list[ChecklistRow]
    text: str = Field(description="The same as plain text, to paste into a forum.")
    comparison: ComparisonOf | None


def _job_body(service: JobService, job: imported_jobs.ImportedJob, root: str) -> dict[str, Any]:
    last = job.checkpoint(None)
    requests = [service.imported_jobs.request(job, one.index, last) for one in job.imported.samples]
    where = f"{root}/jobs/{job.id}/samples"
    return {
        **job.imported.body(),
        "id": job.id,
        "requests": [one.model_dump(mode="json", exclude_none=True) for one in requests],
        "checkpoints": [
            {"name": one.name, "step": one.step, "trained_step": one.trained, "files": dict(one.files)}
            for one in job.checkpoints
        ],
        "sample_files": [
            {
                "step": one.step,
                "index": one.index,
                "url": f"{where}/{one.step}/{one.index}",
                "thumbnail_url": f"{where}/{one.step}/{one.index}/thumbnail",
            }
            for one in job.samples
        ],
        "notes": [*job.imported.notes, *job.notes],
    }


def _beside_body(beside: ComparedSample) -> dict[str, Any]:
    facts = beside.facts
    size = {"width": facts.width, "height": facts.height, "num_frames": facts.num_frames, "fps": facts.fps}
    return {**beside.comparison, "exact": beside.exact, **size}


def _checklist_body(checked: ChecklistResult) -> dict[str, Any]:
    return {
        "rows": [row.body() for row in checked.rows],
        "text": checked.text,
        "comparison": None if checked.beside is None else _beside_body(checked.beside),
    }


def _import_body(data: Any) -> ImportBody:
    try:
        found = ImportBody.model_validate(data)
    except ValidationError as error:
        items = error.errors(include_url=False, include_input=False, include_context=False)
        fields = [{"loc": ".".join(str(part) for part in item["loc"]) or "body", "msg": item["msg"]} for item in items]
        raise InvalidRequest(f"{fields[0]['loc']}: {fields[0]['msg']}", fields=fields) from None
    if (found.config is None) == (found.folder is None):
        raise InvalidRequest(
            "Give config, the text of a job's config.yaml, or folder, a path under the LoRA folder.",
            fields=[{"loc": "config", "msg": "one of config and folder is needed"}],
        )
    return found


def mount(
    door: FastAPI,
    service: JobService,
    error_model: Any,
    read_json: Callable[[Request], Awaitable[Any]],
    root_of: Callable[[Request], str],
    file_limit: int,
    scratch: pathlib.Path | None = None,
) -> None:
    """Adds the routes to the door of /v1.

    `read_json` gives a request's JSON body, `root_of` where the door is for its sender. A ZIP may have `file_limit`
    bytes; what is sent lies in `scratch` (None: the system's folder) until it is taken in.
    """

    documented = partial(error_responses.documented, error_model, _ERRORS)

    form = {
        "schema": {
            "type": "object",
            "properties": {FIELD: {"type": "string", "format": "binary"}},
            "required": [FIELD],
        }
    }
    whole = ImportBody.model_json_schema(ref_template="#/components/schemas/{model}")
    whole.pop("$defs", None)  # LoraItem is among the document's schemas already

    @door.post(
        "/jobs/import",
        operation_id="import_job",
        summary="An AI Toolkit job's config.yaml, its folder as a ZIP, or its folder, as requests",
        response_model=ImportedJob,
        responses=documented(400, 413, 422, 507),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": whole}, "multipart/form-data": form},
            }
        },
    )
    async def import_job(request: Request, access: CurrentAccess) -> dict[str, Any]:
        if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            with tempfile.TemporaryDirectory(prefix=PART_PREFIX, dir=scratch) as folder:
                file = await receive_file(request, pathlib.Path(folder), file_limit)
                job = await run_in_threadpool(service.imported_jobs.import_file, file.path, file.name, access)
        else:
            body = _import_body(await read_json(request))
            if body.folder is not None:
                job = await run_in_threadpool(service.imported_jobs.import_folder, body.folder, access)
            else:
                text = (body.config or "").encode("utf-8", "surrogatepass")
                job = await run_in_threadpool(service.imported_jobs.import_config, text, "config.yaml", body.loras)
        return await run_in_threadpool(_job_body, service, job, root_of(request))

    @door.get(
        "/jobs/{job_id}/samples/{step}/{index}",
        operation_id="sample_file",
        summary="A preview of an imported job",
        response_class=FileResponse,
        responses=documented(404, 422),
    )
    def sample_file(job_id: JobId, step: Step, index: Index) -> Response:
        path = service.imported_jobs.sample_file(service.imported_jobs.job(job_id), step, index)
        return FileResponse(path, media_type=media_type(path), headers=_HEADERS)

    @door.get(
        "/jobs/{job_id}/samples/{step}/{index}/thumbnail",
        operation_id="sample_thumbnail",
        summary="The first frame of such a preview, small",
        response_class=Response,
        responses={**documented(404, 422), 200: {"content": {"image/webp": {}}}},
    )
    def sample_thumbnail(job_id: JobId, step: Step, index: Index) -> Response:
        path = service.imported_jobs.sample_file(service.imported_jobs.job(job_id), step, index)
        return Response(thumbnail(path), media_type="image/webp", headers=_HEADERS)

    @door.get(
        "/requests/{request_id}/checklist",
        operation_id="checklist",
        summary="A video against the trainer's preview, row by row",
        response_model=Checklist,
        responses=documented(404, 413, 422, 507),
    )
    def checklist(request_id: RequestId, access: CurrentAccess, video: Which = 0) -> dict[str, Any]:
        return _checklist_body(service.sample_comparisons.check(service.job(request_id, access), video))

    @door.post(
        "/requests/{request_id}/preview",
        operation_id="bring_preview",
        summary="Give the trainer's WebP, or a GIF or MP4, to compare a video with",
        response_model=Checklist,
        responses=documented(404, 413, 422, 507),
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": form}}},
    )
    async def bring_preview(
        request: Request, request_id: RequestId, access: CurrentAccess, video: Which = 0
    ) -> dict[str, Any]:
        job = await run_in_threadpool(service.job, request_id, access)
        if not service.may_change(job, access):
            raise RequestNotFound("There is no request with this id that is yours.")
        with tempfile.TemporaryDirectory(prefix=PART_PREFIX, dir=scratch) as folder:
            file = await receive_file(request, pathlib.Path(folder), min(file_limit, MOST_BYTES))
            await run_in_threadpool(service.sample_comparisons.attach, job, video, file.path, access)
        return _checklist_body(await run_in_threadpool(service.sample_comparisons.check, job, video))

    film = {"content": {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}}

    @door.get(
        "/requests/{request_id}/preview.mp4",
        operation_id="preview_film",
        summary="The preview's frames, aligned with the video's",
        response_class=FileResponse,
        responses={**documented(404, 413, 422, 507), 200: film},
    )
    def preview_film(request_id: RequestId, access: CurrentAccess, video: Which = 0) -> Response:
        return _film(service.sample_comparisons.film(service.job(request_id, access), video, "preview"))

    @door.get(
        "/requests/{request_id}/difference.mp4",
        operation_id="difference_film",
        summary="How far the preview's frames and the video's are apart, four times as bright",
        response_class=FileResponse,
        responses={**documented(404, 413, 422, 507), 200: film},
    )
    def difference_film(request_id: RequestId, access: CurrentAccess, video: Which = 0) -> Response:
        return _film(service.sample_comparisons.film(service.job(request_id, access), video, "difference"))


def _film(path: pathlib.Path) -> Response:
    # Another preview may take its place under the same address.
    headers = {**_HEADERS, "Cache-Control": "private, no-store"}
    return FileResponse(path, media_type="video/mp4", headers=headers)
