"""Guest pages: what a share link opens, one video or comparison with its clips, rendered here and without a password.

They show only what the link's gallery entry is. No id of a job is in them, so nothing else can be asked for with what
they reveal; the token in the address is checked at each request and decides alone, whoever sends it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from wan_ui.access import LOCAL_ACCESS
from wan_ui.compare import NO_LORA, short_labels, stacked_rows
from wan_ui.errors import RequestNotFound, ShareEnded, ShareNotFound, VideoNotFound, WanUIError
from wan_ui.language import choices, current_language, tag, text_of, translate
from wan_ui.lora.remote import shown_name
from wan_ui.models import label_of
from wan_ui.scale import scale_words
from wan_ui.web.ranges import check_range
from wan_ui.web.stored_file import FILE_HEADERS, StoredFile

if TYPE_CHECKING:
    from wan_ui.compare import PlannedCell
    from wan_ui.job import ClipRecord, Job
    from wan_ui.jobs.gallery import Entry
    from wan_ui.jobs.service import JobService
    from wan_ui.jobs.shares import Share

SHARED_PATH = "/shared/"
CLIP_SECONDS = 600  # that a browser may keep a clip: the grid and the large player show the same one
_INDEX = re.compile(r"[0-9]{1,3}")
_LONGEST_TITLE = 80  # characters
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
)
_TEMPLATES.globals |= {"text_of": text_of, "lang": lambda: tag(current_language.get()), "languages": choices}


@dataclass(frozen=True)
class Cell:
    """A video of the page: its index in the request, what tells it from the others, its column and row from 0.

    `index` None: this cell has no video.
    """

    label: str
    index: int | None
    column: int
    row: int


@dataclass(frozen=True)
class GuestPage:
    """What a page shows. `shown` is the cell that is large at first, `baseline` the index of the video without LoRA.

    `facts` are (name, value) pairs. `columns` and `rows` are the labels of a comparison's axes, empty for a video.
    Where there are both, `corner` says what all labels of each have in common, which they are without.
    """

    title: str
    prompt: str
    until: str
    width: int
    height: int
    facts: tuple[tuple[str, str], ...]
    cells: tuple[Cell, ...]
    shown: Cell
    columns: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    corner: tuple[str, ...] = ()
    baseline: int | None = None


def mount(service: JobService, make_posters: Callable[[], AbstractContextManager[None]]) -> Mount:
    """The guest pages below SHARED_PATH. `make_posters` bounds how many posters are made at once."""
    pages = GuestPages(service, make_posters)
    app = Starlette(
        routes=[
            Route("/{token}", pages.page),
            Route("/{token}/video/{index}", pages.video),
            Route("/{token}/poster/{index}", pages.poster),
        ],
        exception_handlers={WanUIError: _closed, HTTPException: _http_error},
    )
    mounted = Mount(SHARED_PATH.rstrip("/"), app=app)
    mounted.path_regex = re.compile(rf"{SHARED_PATH}(?P<path>.*)", re.DOTALL)  # Mount's own stops at a newline
    return mounted


class GuestPages:
    """The routes. Each of them opens the link by its token anew."""

    def __init__(self, service: JobService, make_posters: Callable[[], AbstractContextManager[None]]) -> None:
        self._service = service
        self._make_posters = make_posters

    def page(self, request: Request) -> Response:
        """The page of a link."""
        share, entry, job = self._open(request)
        view = _page_of(share, entry, job)
        # Relative, so that a proxy may serve all of it below a path of its own.
        return _html("guest.html", 200, page=view, address=request.path_params["token"])

    def video(self, request: Request) -> Response:
        """One of its clips, whole or by range."""
        _, entry, job = self._open(request)
        clip = _clip(entry, job, request.path_params["index"])
        path = self._service.clip_path(job.id, clip.index, LOCAL_ACCESS)
        response = StoredFile(path, "video/mp4", _FILE_HEADERS, filename=f"wan-ui-{clip.index}.mp4")
        check_range(request, response.size)
        return response

    def poster(self, request: Request) -> Response:
        """A still of one of its clips."""
        _, entry, job = self._open(request)
        clip = _clip(entry, job, request.path_params["index"])
        of_clip = self._service.gallery.of_clip(entry, job, clip.index)
        path = self._service.poster(of_clip)
        if path is None:
            with self._make_posters():
                path = self._service.make_poster(of_clip)
        return StoredFile(path, "image/jpeg", _FILE_HEADERS)

    def _open(self, request: Request) -> tuple[Share, Entry, Job]:
        """What the link of this request shows. Raises ShareNotFound, ShareEnded."""
        share = self._service.shares.open(request.path_params["token"])
        try:
            entry = self._service.entry(share.entry, LOCAL_ACCESS)
            return share, entry, self._service.job(entry.job_id, LOCAL_ACCESS)
        except (VideoNotFound, RequestNotFound) as error:
            raise ShareEnded("What this link showed was deleted.") from error


_FILE_HEADERS = {
    **FILE_HEADERS,
    "Referrer-Policy": "no-referrer",
    "Cache-Control": f"private, max-age={CLIP_SECONDS}",
}


def _html(template: str, status: int, **values: Any) -> Response:
    """A page with a content policy that allows its own style and script by a nonce, its own images and videos."""
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' data:; "
        "media-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",  # the token is in the address
        "X-Content-Type-Options": "nosniff",
    }
    return HTMLResponse(_TEMPLATES.get_template(template).render(nonce=nonce, **values), status, headers)


async def _closed(_request: Request, error: Exception) -> Response:
    """The page for a link that shows nothing (any more)."""
    assert isinstance(error, WanUIError)
    titles: dict[type[WanUIError], str] = {ShareNotFound: "guest.not_found", ShareEnded: "guest.closed"}
    title = text_of(titles.get(type(error), "guest.cannot_be_shown"))
    return _html(
        "guest_closed.html", error.status, title=title, reason=translate(current_language.get(), error.message)
    )


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return await _closed(request, ShareNotFound("There is nothing at this address."))
    return PlainTextResponse(f"{error.detail}.", error.status_code, error.headers)


def _clip(entry: Entry, job: Job, index: str) -> ClipRecord:
    """The clip of this index, if it is one that the entry has. Raises VideoNotFound."""
    for clip in job.clips:
        if _INDEX.fullmatch(index) and clip.index == int(index) and entry.index in (None, clip.index):
            return clip
    raise VideoNotFound("This link has no such video.")


def _page_of(share: Share, entry: Entry, job: Job) -> GuestPage:
    prompt = " ".join(entry.generation.prompt.split())
    title = prompt[:_LONGEST_TITLE] or text_of("guest.a_video")
    until = _day(share.ends_at)
    if entry.index is not None:
        cell = Cell(title, entry.index, 0, 0)
        facts = (*_lora_facts(entry), *_facts(entry))
        return GuestPage(title, prompt, until, entry.width, entry.height, facts, (cell,), cell)
    finished = {clip.index for clip in job.clips}
    columns = _labels({cell.column: cell.column_label for cell in job.cells})
    rows = stacked_rows(job.cells)
    row_of = {place: index for index, place in enumerate(rows)}
    cells = tuple(_cell(cell, row_of[cell.page, cell.row], finished) for cell in job.cells)
    with_video = [cell for cell in cells if cell.index is not None]
    without_lora = (cell.generation for cell in job.cells if NO_LORA in cell.labels)
    baseline = next((index for index in without_lora if index in finished), None)
    axes = [
        (name, ", ".join(labels))
        for name, labels in (
            ("X", columns),
            ("Y", _labels({cell.row: cell.row_label for cell in job.cells})),
            ("Z", _labels({cell.page: cell.page_label for cell in job.cells})),
        )
    ]
    heads, row_labels, corner = columns, _labels({row_of[place]: label for place, label in rows.items()}), []
    if heads and row_labels:
        (column_title, short_columns), (row_title, short_rows) = short_labels(heads), short_labels(row_labels)
        heads, row_labels = tuple(short_columns), tuple(short_rows)
        corner = [f"{title} {arrow}" for title, arrow in ((column_title, "→"), (row_title, "↓")) if title]
    return GuestPage(
        title=text_of("guest.comparison", number=len({cell.index for cell in with_video})),
        prompt=prompt,
        until=until,
        width=entry.width,
        height=entry.height,
        facts=(*((name, labels) for name, labels in axes if labels), *_facts(entry, _shared_values(job))),
        cells=cells,
        shown=next((cell for cell in with_video if cell.index != baseline), with_video[0]),
        columns=heads,
        rows=row_labels,
        corner=tuple(corner),
        baseline=baseline,
    )


def _cell(cell: PlannedCell, row: int, finished: set[int]) -> Cell:
    label = ", ".join(filter(None, (cell.page_label, cell.row_label, cell.column_label)))
    index = cell.generation if cell.generation in finished else None
    return Cell(label or text_of("player.the_video"), index, cell.column, row)


def _labels(labels: Mapping[int, str]) -> tuple[str, ...]:
    return tuple(labels[index] for index in sorted(labels)) if any(labels.values()) else ()


def _shared_values(job: Job) -> frozenset[str]:
    """The names of the values that all videos of a comparison have in common."""
    values: dict[str, set[Any]] = {}
    for generation in job.generations:
        size = (generation.width, generation.height)
        named = {
            "size": size,
            "length": (generation.num_frames, generation.fps),
            "seed": generation.seed,
            "steps": generation.sample_steps,
            "guidance": generation.guidance_scale,
            "model": generation.model,
        }
        for name, value in named.items():
            values.setdefault(name, set()).add(value)
    return frozenset(name for name, known in values.items() if len(known) == 1)


def _facts(entry: Entry, only: frozenset[str] | None = None) -> tuple[tuple[str, str], ...]:
    """The values of an entry's video; `only` those of these keys."""
    generation = entry.generation
    facts = (
        ("model", label_of(entry.model)),
        ("size", f"{entry.width} × {entry.height}"),
        ("length", text_of("guest.length", count=entry.num_frames, seconds=f"{entry.num_frames / entry.fps:.1f}")),
        ("seed", str(entry.seed)),
        ("steps", str(generation.sample_steps)),
        ("guidance", f"{generation.guidance_scale:g}"),
    )
    return tuple((text_of(f"script.fact.{name}"), value) for name, value in facts if only is None or name in only)


def _lora_facts(entry: Entry) -> tuple[tuple[str, str], ...]:
    names = {lora.sha256: lora.name for lora in entry.loras if lora.sha256}
    return tuple(
        (
            text_of(f"slot.{use.slot}.lora"),
            f"{(names.get(use.sha256 or '') or shown_name(use.path)).removesuffix('.safetensors')}"
            f" × {scale_words(use.scale)}",
        )
        for use in entry.generation.loras
    )


def _day(time: str) -> str:
    """`3 December` of an ISO 8601 time."""
    day = datetime.fromisoformat(time)
    return text_of("guest.day", day=day.day, month=text_of(f"month.{day.month}"))
