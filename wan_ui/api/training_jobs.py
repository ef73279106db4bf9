"""AI Toolkit training jobs: import one as requests, its samples, and a clip compared with a sample."""

from __future__ import annotations

import pathlib
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import FileResponse, Response
from starlette.concurrency import run_in_threadpool

from wan_ui.api.bodies import parse_json, receive_file
from wan_ui.api.dependencies import CurrentAccess, FileOfForm, Json, RequestId, Root, Service, State
from wan_ui.api.openapi import content, errors, request_body
from wan_ui.api.serializers import checklist_body, imported_job_body, sample_render_body
from wan_ui.api.training_job_schemas import Checklist, ImportBody, ImportedJob, RendersOfSamples
from wan_ui.errors import InvalidRequest, PreviewNotFound, RequestNotFound
from wan_ui.jobs.service import JobService
from wan_ui.trainer import imported_job
from wan_ui.trainer.sample_files import MOST_BYTES, media_type
from wan_ui.web.stored_file import FILE_HEADERS, StoredFile

JobId = Annotated[str, Path(description="From the response to POST /jobs/import.", max_length=200)]
Step = Annotated[int, Path(description="The training step in the file's name.", ge=0, le=10**9)]
Index = Annotated[int, Path(description="The sample's index in the file's name.", ge=0, le=10**6)]
VideoNumber = Annotated[int, Query(description="Which of the request's videos, from 0.", ge=0, le=1000)]
_UNTRUSTED = {**FILE_HEADERS, "Content-Security-Policy": "sandbox; default-src 'none'"}
_HEADERS = {**_UNTRUSTED, "Cache-Control": "private, max-age=3600"}
_SAMPLE_GONE = partial(PreviewNotFound, "This job has no such sample file.")
_COMPARED_GONE = partial(PreviewNotFound, "The sample of this video was deleted: upload it again.")

router = APIRouter()


def _import_schema() -> dict[str, Any]:
    schema = ImportBody.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)  # LoraItem is among the document's schemas already
    return schema


def _import_body(body: Any) -> ImportBody:
    parsed = parse_json(ImportBody, body)
    if (parsed.config is None) == (parsed.folder is None):
        raise InvalidRequest(
            "Give config, the text of a job's config.yaml, or folder, a path under the LoRA folder.",
            fields=[{"loc": "config", "msg": "one of config and folder is needed"}],
        )
    return parsed


def _imported(root: str, service: JobService, job: imported_job.ImportedJob) -> dict[str, Any]:
    last = job.checkpoint(None)
    requests = [service.imported_jobs.request(job, sample.index, last) for sample in job.imported.samples]
    return imported_job_body(root, job, requests)


@router.post(
    "/jobs/import",
    summary="An AI Toolkit job's config.yaml, its folder as a ZIP, or its folder, as requests",
    response_model=ImportedJob,
    responses=errors(400, 413, 422, 503, 507),
    openapi_extra=request_body(_import_schema(), file=True),
)
async def import_job(
    state: State, service: Service, access: CurrentAccess, root: Root, file: FileOfForm, body: Json
) -> dict[str, Any]:
    """The imported job stays readable by its id."""
    jobs = service.imported_jobs
    if file is not None:
        path, name = file.path, file.name
        job = await state.imports.run(lambda: jobs.import_file(path, name, access))
        return await run_in_threadpool(_imported, root, service, job)
    parsed = _import_body(body)
    if parsed.folder is not None:
        job = await run_in_threadpool(jobs.import_folder, parsed.folder, access)
    else:
        config = (parsed.config or "").encode("utf-8", "surrogatepass")
        job = await run_in_threadpool(jobs.import_config, config, "config.yaml", parsed.loras, access)
    return await run_in_threadpool(_imported, root, service, job)


@router.get(
    "/jobs/{job_id}/samples/{step}/{index}",
    summary="A sample of an imported job",
    response_class=FileResponse,
    responses=errors(404, 422),
)
def sample_file(service: Service, job_id: JobId, step: Step, index: Index) -> Response:
    """The file as the trainer wrote it."""
    path = service.imported_jobs.sample_file(service.imported_jobs.job(job_id), step, index)
    return StoredFile(path, media_type(path), _HEADERS, gone=_SAMPLE_GONE)


@router.get(
    "/jobs/{job_id}/samples/{step}/{index}/thumbnail",
    summary="The first frame of a sample, small",
    response_class=FileResponse,
    responses={**errors(404, 422, 503, 507), 200: content("image/webp", is_described=False)},
)
async def sample_thumbnail(state: State, service: Service, job_id: JobId, step: Step, index: Index) -> Response:
    """A WebP picture."""
    jobs = service.imported_jobs
    path = await state.samples.run(lambda: jobs.thumbnail(jobs.job(job_id), step, index))
    return StoredFile(path, "image/webp", _HEADERS, gone=_SAMPLE_GONE)


@router.get(
    "/jobs/{job_id}/renders",
    operation_id="sample_renders",
    summary="What you have rendered of a job's samples: the newest video of each sample at each step",
    response_model=RendersOfSamples,
    responses=errors(404, 422, 503),
)
def renders(service: Service, access: CurrentAccess, root: Root, job_id: JobId) -> dict[str, Any]:
    """Requests that name the job in `training_sample`, of the 200 newest that you may list; those that wait, too."""
    return {"renders": [sample_render_body(root, each) for each in service.sample_renders(job_id, access)]}


@router.get(
    "/requests/{request_id}/checklist",
    summary="A video against the trainer's sample, row by row",
    response_model=Checklist,
    responses=errors(404, 413, 422, 507),
)
def checklist(service: Service, access: CurrentAccess, request_id: RequestId, video: VideoNumber = 0) -> dict[str, Any]:
    """Every setting that decides the frames, and the comparison of the frames if there is a sample file."""
    return checklist_body(service.sample_comparisons.check(service.job(request_id, access), video))


@router.post(
    "/requests/{request_id}/preview",
    summary="Upload the trainer's sample, a WebP, GIF or MP4, to compare a video with",
    response_model=Checklist,
    responses=errors(404, 413, 422, 503, 507),
    openapi_extra=request_body(file=True),
)
async def bring_preview(
    request: Request,
    state: State,
    service: Service,
    access: CurrentAccess,
    request_id: RequestId,
    video: VideoNumber = 0,
) -> dict[str, Any]:
    """Only for requests that the sender may change."""
    job = await run_in_threadpool(service.job, request_id, access)
    if not service.may_change(job, access):
        raise RequestNotFound("There is no request of yours with this id.")
    with state.folder() as folder:
        file = await receive_file(
            request, pathlib.Path(folder), min(state.limits.file, MOST_BYTES), service.quota_problem
        )
        await state.samples.run(lambda: service.sample_comparisons.attach(job, video, file.path, access))
    return checklist_body(await run_in_threadpool(service.sample_comparisons.check, job, video))


@router.get(
    "/requests/{request_id}/preview.mp4",
    summary="The sample's frames, aligned with the video's",
    response_class=FileResponse,
    responses={**errors(404, 413, 422, 507), 200: content("video/mp4")},
)
def preview_film(service: Service, access: CurrentAccess, request_id: RequestId, video: VideoNumber = 0) -> Response:
    """An MP4 to play beside the video."""
    return _film(service, access, request_id, video, "preview")


@router.get(
    "/requests/{request_id}/difference.mp4",
    summary="The difference of the sample's frames and the video's, four times as bright",
    response_class=FileResponse,
    responses={**errors(404, 413, 422, 507), 200: content("video/mp4")},
)
def difference_film(service: Service, access: CurrentAccess, request_id: RequestId, video: VideoNumber = 0) -> Response:
    """An MP4 to play beside the video."""
    return _film(service, access, request_id, video, "difference")


def _film(service: Service, access: CurrentAccess, request_id: str, video: int, kind: str) -> Response:
    path = service.sample_comparisons.film(service.job(request_id, access), video, kind)
    # Not stored: another sample may be uploaded and take its place under the same address.
    return StoredFile(path, "video/mp4", _UNTRUSTED, gone=_COMPARED_GONE)
