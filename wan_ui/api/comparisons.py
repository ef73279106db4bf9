"""A comparison to take along: its grid as one MP4, a contact sheet, all its cells; it renders and plays nothing."""

from __future__ import annotations

import json
import pathlib
import re
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Path, Query
from fastapi.responses import FileResponse, Response
from starlette.background import BackgroundTask

from wan_ui.api import error_responses
from wan_ui.api.dependencies import CurrentAccess
from wan_ui.api.one_at_a_time import OneAtATime
from wan_ui.errors import InvalidRequest, VideoInvalid, VideoNotFound
from wan_ui.files import PART_PREFIX
from wan_ui.lora.remote import without_queries
from wan_ui.media import grid, video
from wan_ui.media.grid import Board
from wan_ui.provenance import embedded_metadata
from wan_ui.request import without_training_samples

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.compare import PlannedCell
    from wan_ui.job import Job
    from wan_ui.jobs.service import JobService

LARGEST_FRAME = 9999
AT_WORK = 8  # downloads, one being made and the others waiting for it
RequestId = Annotated[str, Path(description="Of a comparison, from the reply to POST /inference.", max_length=200)]
Frame = Annotated[int, Query(description="From 0; a shorter clip shows its last one.", ge=0, le=LARGEST_FRAME)]
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-store",  # it changes as cells finish
}
_ERRORS = {
    404: "There is no such request, or it is no comparison, or none of its cells is finished.",
    422: "The frame is no number, or later than the last one.",
    503: "Too many downloads are being made.",
    507: "No disk space.",
}


def board(service: JobService, job: Job, access: Access) -> Board:
    """A comparison's finished clips in their places, the others as words.

    Raises VideoNotFound for a job that is no comparison or has no finished cell.
    """
    if not job.cells:
        raise VideoNotFound("This request is no comparison: it has videos, but no grid.")
    made = {clip.index for clip in job.clips}
    if not made:
        raise VideoNotFound("None of the cells of this comparison is finished yet.")
    columns = {cell.column: cell.column_label for cell in job.cells}
    rows = {cell.row: cell.row_label for cell in job.cells}
    return Board(
        columns=tuple(columns[index] for index in sorted(columns)),
        rows=tuple(rows[index] for index in sorted(rows)),
        cells={
            (cell.column, cell.row): service.clip_path(job.id, cell.generation, access)
            if cell.generation in made
            else "failed"
            if cell.generation in job.failures
            else "not made"
            for cell in job.cells
        },
    )


def file_name(cell: PlannedCell) -> str:
    """What a cell's files are called, without extension: its place, then its labels, as any file system takes them."""
    label = re.sub(r"[^A-Za-z0-9.+-]+", "_", "_".join(filter(None, (cell.column_label, cell.row_label)))).strip("._")
    return f"row{cell.row + 1}_column{cell.column + 1}{'_' + label[:80] if label else ''}"


def zip_cells(path: pathlib.Path, whole: Board, job: Job) -> None:
    """The finished cells' clips, each with the JSON that it carries: its request and what it was resolved to."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for cell in job.cells:
            clip = whole.cells[cell.column, cell.row]
            if isinstance(clip, pathlib.Path):
                name = file_name(cell)
                about = {
                    "column": cell.column_label,
                    "row": cell.row_label,
                    **_carried(clip, cell),
                    "request": without_queries(without_training_samples(cell.request)),
                }
                archive.write(clip, f"{name}.mp4")
                archive.writestr(f"{name}.json", json.dumps(about, indent=2, ensure_ascii=False))


def _carried(clip: pathlib.Path, cell: PlannedCell) -> dict[str, Any]:
    try:
        return video.read_metadata(clip)
    except VideoInvalid as error:
        place = f"row {cell.row + 1}, column {cell.column + 1}"
        raise VideoNotFound(f"The file of {place} cannot be read: {error.message}") from error


def mount(door: FastAPI, service: JobService, error_model: Any, scratch: pathlib.Path | None = None) -> None:
    """Adds the routes to the door of /v1. Files that are being made lie in `scratch` (None: the system's folder)."""
    # Each takes whole processors and, for a while, much disk.
    turns = OneAtATime(AT_WORK, "Several downloads of comparisons are being made. Ask again in a few seconds.")

    documented = partial(error_responses.documented, error_model, _ERRORS)

    def made(name: str, kind: str, request_id: str, make: Callable[[pathlib.Path], None]) -> Response:
        folder = tempfile.TemporaryDirectory(prefix=PART_PREFIX, dir=scratch)
        path = pathlib.Path(folder.name, name)
        with ExitStack() as undo:
            undo.callback(folder.cleanup)
            with turns.turn():
                make(path)
            undo.pop_all()
        return FileResponse(
            path,
            media_type=kind,
            filename=f"wan-ui-{request_id[:8]}-{name}",
            headers=_HEADERS,
            background=BackgroundTask(folder.cleanup),
        )

    @door.get(
        "/requests/{request_id}/grid.mp4",
        operation_id="comparison_grid",
        summary="A comparison's finished cells as one labelled video",
        response_class=FileResponse,
        responses=documented(404, 422, 503, 507),
    )
    def grid_video(request_id: RequestId, access: CurrentAccess) -> Response:
        job = service.job(request_id, access)
        whole = board(service, job, access)
        about = embedded_metadata.of_grid(job)
        return made("grid.mp4", "video/mp4", request_id, lambda path: grid.write(path, whole, about))

    @door.get(
        "/requests/{request_id}/sheet.png",
        operation_id="comparison_sheet",
        summary="One frame of all finished cells as a labelled picture",
        response_class=Response,
        responses={**documented(404, 422, 503), 200: {"content": {"image/png": {}}}},
    )
    def contact_sheet(request_id: RequestId, access: CurrentAccess, frame: Frame = 0) -> Response:
        job = service.job(request_id, access)
        whole = board(service, job, access)
        last = max(clip.num_frames for clip in job.clips) - 1
        if frame > last:
            raise InvalidRequest(
                f"The last frame is {last}.", fields=[{"loc": "query.frame", "msg": f"must be at most {last}"}]
            )
        with turns.turn():
            data = grid.sheet(whole, frame)
        name = f"wan-ui-{request_id[:8]}-frame-{frame}.png"
        return Response(
            data, media_type="image/png", headers={**_HEADERS, "Content-Disposition": f'attachment; filename="{name}"'}
        )

    @door.get(
        "/requests/{request_id}/cells.zip",
        operation_id="comparison_cells",
        summary="A comparison's finished clips with their JSON",
        response_class=FileResponse,
        responses=documented(404, 422, 503, 507),
    )
    def all_cells(request_id: RequestId, access: CurrentAccess) -> Response:
        job = service.job(request_id, access)
        whole = board(service, job, access)
        return made("cells.zip", "application/zip", request_id, lambda path: zip_cells(path, whole, job))
