"""Downloads of a comparison: its grid as one MP4, a contact sheet, all its cells as a ZIP file."""

from __future__ import annotations

import json
import pathlib
import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, Response
from starlette.background import BackgroundTask

from wan_ui.api.dependencies import ApiState, CurrentAccess, RequestId, Service, State
from wan_ui.api.openapi import content, errors
from wan_ui.api.serializers import judging_body, mark_of
from wan_ui.compare import stacked_rows
from wan_ui.errors import InvalidRequest, VideoEncodingFailed, VideoInvalid, VideoNotFound
from wan_ui.lora.remote import without_queries
from wan_ui.media import grid
from wan_ui.media import video as mp4
from wan_ui.media.grid import Board
from wan_ui.provenance import embedded_metadata
from wan_ui.request import MOST_CELLS
from wan_ui.web.stored_file import FILE_HEADERS, video_deleted
from wan_ui.wire import without_training_samples

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.compare import PlannedCell
    from wan_ui.job import Job
    from wan_ui.jobs.judging import Judgement
    from wan_ui.jobs.service import JobService

MAX_FRAME = 9999
Page = Annotated[
    int | None,
    Query(description="One page of the grid, from 0. Left out: all pages below one another.", ge=0, lt=MOST_CELLS),
]
Frame = Annotated[int, Query(description="From 0; a shorter clip shows its last frame.", ge=0, le=MAX_FRAME)]

router = APIRouter()


def board(service: JobService, job: Job, access: Access, page: int | None = None) -> Board:
    """The grid of a comparison: a clip's path for each finished cell, a word for each other.

    The pages of a third axis stand below one another; with `page`, only that one is there.
    Raises VideoNotFound for a job that is not a comparison, has no such page or no finished cell.
    """
    if not job.cells:
        raise VideoNotFound("This request is not a comparison: it has videos, but no grid.")
    finished = {clip.index for clip in job.clips}
    cells = [cell for cell in job.cells if page in (None, cell.page)]
    if not cells:
        raise VideoNotFound(f"This comparison has no page {page}.")
    if not any(cell.generation in finished for cell in cells):
        raise VideoNotFound("No cell of this comparison is finished yet.")

    def content_of(cell: PlannedCell) -> pathlib.Path | str:
        if cell.generation in finished:
            return service.clip_path(job.id, cell.generation, access)
        return "failed" if cell.generation in job.failures else "not made"

    columns = {cell.column: cell.column_label for cell in cells}
    rows = stacked_rows(cells)
    row_of = {place: index for index, place in enumerate(rows)}
    return Board(
        columns=tuple(columns[index] for index in sorted(columns)),
        rows=tuple(rows.values()),
        cells={(cell.column, row_of[cell.page, cell.row]): content_of(cell) for cell in cells},
    )


def _clips_on(board: Board) -> list[pathlib.Path]:
    return [content for content in board.cells.values() if isinstance(content, pathlib.Path)]


def clips_of(service: JobService, job: Job, access: Access) -> dict[int, pathlib.Path]:
    """The files of a comparison's finished generations. Raises VideoNotFound as `board` does."""
    board(service, job, access)
    return {clip.index: service.clip_path(job.id, clip.index, access) for clip in job.clips}


@contextmanager
def deletion_mapped(clips: Collection[pathlib.Path]) -> Iterator[None]:
    """Raises VideoNotFound for what fails because one of these files was deleted while they were being read."""
    try:
        yield
    except (OSError, VideoEncodingFailed, VideoInvalid, VideoNotFound) as error:
        if all(clip.exists() for clip in clips):
            raise
        raise video_deleted() from error


def file_name(cell: PlannedCell) -> str:
    """A cell's file name without extension: position and labels, in characters that every file system accepts."""
    label = re.sub(r"[^A-Za-z0-9.+-]+", "_", "_".join(cell.labels)).strip("._")
    page = f"page{cell.page + 1}_" if cell.page_label else ""
    return f"{page}row{cell.row + 1}_column{cell.column + 1}{'_' + label[:80] if label else ''}"


def zip_cells(
    path: pathlib.Path,
    clips: Mapping[int, pathlib.Path],
    job: Job,
    mine: Judgement,
    everybody: Judgement | None,
) -> None:
    """Writes the finished cells to a ZIP file, each as its MP4 and as JSON: labels, embedded metadata, request, mark.

    `clips` are the files of the finished generations. `judging.json` has the marks and the ranking as GET …/judging
    does, if anything was judged.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for cell in job.cells:
            clip = clips.get(cell.generation)
            if clip is not None:
                about = {
                    "column": cell.column_label,
                    "row": cell.row_label,
                    **({"page": cell.page_label} if cell.page_label else {}),
                    **_embedded_metadata(clip, cell),
                    "request": without_queries(without_training_samples(cell.request)),
                    "mark": mark_of(mine, cell.generation),
                }
                archive.write(clip, f"{file_name(cell)}.mp4")
                archive.writestr(f"{file_name(cell)}.json", json.dumps(about, indent=2, ensure_ascii=False))
        if not mine.is_empty or (everybody is not None and not everybody.is_empty):
            judged = json.dumps(judging_body(mine, everybody), indent=2, ensure_ascii=False)
            archive.writestr("judging.json", judged)


def _embedded_metadata(clip: pathlib.Path, cell: PlannedCell) -> dict[str, Any]:
    try:
        return mp4.read_metadata(clip)
    except VideoInvalid as error:
        position = f"row {cell.row + 1}, column {cell.column + 1}"
        raise VideoNotFound(f"The file of {position} cannot be read: {error.message}") from error


def download(
    state: ApiState,
    shown_name: str,
    media_type: str,
    write: Callable[[pathlib.Path], None],
    clips: Collection[pathlib.Path],
) -> Response:
    """A file that is written for this response from `clips`, as `wan-ui-<shown_name>`, and removed after it.

    Raises ServerBusy, and VideoNotFound if a clip is deleted meanwhile.
    """
    folder = state.folder()
    path = pathlib.Path(folder.name, f"file{pathlib.Path(shown_name).suffix}")
    with ExitStack() as undo:
        undo.callback(folder.cleanup)
        with state.downloads.hold(), deletion_mapped(clips):
            write(path)
        undo.pop_all()
    return FileResponse(
        path,
        media_type=media_type,
        filename=f"wan-ui-{shown_name}",
        headers=FILE_HEADERS,
        background=BackgroundTask(folder.cleanup),
    )


@router.get(
    "/requests/{request_id}/grid.mp4",
    summary="A comparison's finished cells as one labelled video",
    response_class=FileResponse,
    responses=errors(404, 422, 503, 507),
)
def comparison_grid(
    state: State, service: Service, access: CurrentAccess, request_id: RequestId, page: Page = None
) -> Response:
    """With the comparison's settings in its metadata."""
    job = service.job(request_id, access)
    cells, about = board(service, job, access, page), embedded_metadata.of_grid(job)
    name = f"{request_id[:8]}-grid.mp4"
    return download(state, name, "video/mp4", lambda path: grid.write(path, cells, about), _clips_on(cells))


@router.get(
    "/requests/{request_id}/sheet.png",
    summary="One frame of all finished cells as a labelled picture",
    response_class=Response,
    responses={**errors(404, 422, 503), 200: content("image/png", is_described=False)},
)
def comparison_sheet(
    state: State, service: Service, access: CurrentAccess, request_id: RequestId, frame: Frame = 0, page: Page = None
) -> Response:
    """A PNG at the clips' own size."""
    job = service.job(request_id, access)
    cells = board(service, job, access, page)
    last = max(clip.num_frames for clip in job.clips) - 1
    if frame > last:
        problem = {"loc": "query.frame", "msg": f"must be at most {last}"}
        raise InvalidRequest(f"The last frame is {last}.", fields=[problem])
    with state.downloads.hold(), deletion_mapped(_clips_on(cells)):
        data = grid.sheet(cells, frame)
    name = f"wan-ui-{request_id[:8]}-frame-{frame}.png"
    headers = {**FILE_HEADERS, "Content-Disposition": f'attachment; filename="{name}"'}
    return Response(data, media_type="image/png", headers=headers)


@router.get(
    "/requests/{request_id}/cells.zip",
    summary="A comparison's finished clips with their JSON",
    response_class=FileResponse,
    responses=errors(404, 422, 503, 507),
)
def comparison_cells(state: State, service: Service, access: CurrentAccess, request_id: RequestId) -> Response:
    """Each cell as an MP4 and a JSON file, named by position and labels."""
    job = service.job(request_id, access)
    clips = clips_of(service, job, access)
    mine, everybody = service.judging.judgement(job, access), service.judging.judgement_of_all(job, access)
    name = f"{request_id[:8]}-cells.zip"
    return download(
        state, name, "application/zip", lambda path: zip_cells(path, clips, job, mine, everybody), clips.values()
    )
