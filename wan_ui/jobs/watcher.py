"""Watches training jobs: each new save is rendered with the job's sample prompts, as a column of one comparison.

Only while nothing else waits or runs, one clip at a time: any request goes first at the next clip's end.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from wan_ui.access import LOCAL_ACCESS, Access
from wan_ui.axes import OF_A_PROMPT, label
from wan_ui.compare import PlannedCell
from wan_ui.errors import HostError, JobNotWatchable, NotWatched, OwnerOnly, RequestError, WanUIError
from wan_ui.jobs.watch_store import StandingComparison, Watch, WatchStore
from wan_ui.jobs.writer import has_ended
from wan_ui.models import MODELS
from wan_ui.request import MOST_CELLS, InferenceRequest
from wan_ui.trainer.saves import CompleteSaves, save_label

if TYPE_CHECKING:
    from wan_ui.intake import PreparedRequest
    from wan_ui.job import Job
    from wan_ui.jobs.store import Store
    from wan_ui.trainer.folder import CheckpointFiles, JobFolder
    from wan_ui.trainer.imported_job import ImportedJob
    from wan_ui.trainer.imported_jobs import ImportedJobs

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
SEED_BITS = 31

Plan = Callable[[Any, Access], "PreparedRequest"]


@dataclass(frozen=True)
class WatchState:
    """A watch as its owner sees it. `comparison` is the id of the standing comparison's request, None before one.

    `rendered` counts its columns, `waiting` the complete saves that are not rendered completely. `problem`: why nothing
    is rendered now, or why a save was not.
    """

    job_id: str
    started_at: str
    comparison: str | None
    rendered: int
    waiting: int
    problem: str | None


@dataclass(frozen=True)
class _NextClip:
    """The clip that a watch renders next: a save, and the row of the job's sample."""

    watch: Watch
    found: JobFolder
    save: CheckpointFiles
    row: int


class Watcher:
    """Watches the training jobs of `imported_jobs` on a thread of its own; what is watched is kept in the database.

    `plan` makes a request body ready to be queued, `disk_problem` says why nothing more may be stored, and `wake` wakes
    the worker. Only the owner begins, reads and ends a watch: the methods raise OwnerOnly for others, PreviewNotFound
    for an unknown training job, and HostError when the database cannot be used.
    """

    def __init__(
        self,
        store: Store,
        imported_jobs: ImportedJobs,
        plan: Plan,
        disk_problem: Callable[[], WanUIError | None],
        wake: Callable[[], None],
        saves: CompleteSaves | None = None,
    ) -> None:
        self._watches = WatchStore(store)
        self._imported_jobs = imported_jobs
        self._plan = plan
        self._disk_problem = disk_problem
        self._wake = wake
        self._saves = saves or CompleteSaves()
        self._lock = threading.Lock()  # of the memory of saves, which the API's threads use too
        self._last_turn: dict[str, int] = {}
        self._turn = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wan-ui-watcher", daemon=True)
        self._poll_seconds = POLL_SECONDS

    def start(self, poll_seconds: float = POLL_SECONDS) -> None:
        """Start the thread. Once per watcher."""
        self._poll_seconds = poll_seconds
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Stop watching until the next start. Returns whether the thread ended within `timeout` seconds."""
        self._stopping.set()
        return has_ended(self._thread, timeout)

    # The owner's calls

    def begin(self, job_id: str, existing: bool, access: Access) -> WatchState:
        """Watch a training job that was imported as a folder; with `existing`, render the saves that are there too.

        A job that is watched already is unchanged. Raises JobNotWatchable.
        """
        _check_owner(access)
        job = self._imported_jobs.job(job_id)
        found = self._imported_jobs.folder_now(job)
        if not _rows(job):
            raise JobNotWatchable("This job has no sample that can be rendered: its first frames are missing.")
        skipped = [] if existing else [save_label(checkpoint) for checkpoint in found.checkpoints]
        self._watches.add(job_id, access.identity.visitor, skipped)
        log.info("watching a training job", extra={"job": job_id})
        return self.state(job_id, access)

    def end(self, job_id: str, access: Access) -> None:
        """End a watch; the comparison and a clip that is being rendered stay. Raises NotWatched."""
        _check_owner(access)
        if not self._watches.remove(job_id):
            raise _not_watched()

    def is_watched(self, job_id: str) -> bool:
        """Whether a training job is watched; for the page, which shows it to the owner alone."""
        return any(watch.job_id == job_id for watch in self._watches.all())

    def state(self, job_id: str, access: Access) -> WatchState:
        """A watch as it is now. Raises NotWatched."""
        _check_owner(access)
        watch = next((watch for watch in self._watches.all() if watch.job_id == job_id), None)
        if watch is None:
            raise _not_watched()
        comparisons = self._watches.comparisons(job_id)
        problem = self._disk_problem()
        waiting: set[str] = set()
        message = watch.problem if problem is None else problem.message
        try:
            waiting = {save_label(clip.save) for clip in self._clips(watch)}
        except WanUIError as error:
            message = error.message
        if comparisons and comparisons[-1].status == "canceled":
            message = "The comparison was canceled: retry it to continue."
        rendered = len({cell.column_label for comparison in comparisons for cell in comparison.cells} - waiting)
        return WatchState(
            job_id, watch.started_at, comparisons[-1].id if comparisons else None, rendered, len(waiting), message
        )

    # The thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._watches.is_idle() and self._disk_problem() is None:
                    self.render_next()
            except HostError as error:  # of the database or the disk: the next turn tries again
                log.error("%s Watching goes on.", error.message)
            self._stopping.wait(self._poll_seconds)

    def render_next(self) -> str | None:
        """Queue the next clip of the watch whose turn it is, and return its comparison's id; None if there is none."""
        for watch in sorted(self._watches.all(), key=lambda watch: self._last_turn.get(watch.job_id, 0)):
            try:
                clip = next(iter(self._clips(watch)), None)
            except RequestError as error:  # the folder or its config is gone, or being replaced
                log.warning("%s", error.message, extra={"job": watch.job_id})
                continue
            queued = None if clip is None else self._queue(clip)
            if queued is not None:
                self._turn += 1
                self._last_turn[watch.job_id] = self._turn
                self._wake()
                return queued
        return None

    def _clips(self, watch: Watch) -> list[_NextClip]:
        """What is to be rendered: the newest save first, its samples in their order. Raises RequestError."""
        comparisons = self._watches.comparisons(watch.job_id)
        if comparisons and comparisons[-1].status == "canceled":
            return []
        job = self._imported_jobs.job(watch.job_id)
        found = self._imported_jobs.folder_now(job)
        with self._lock:
            saves = self._saves.of(found, job.imported.slots)
        planned = {(cell.column_label, cell.row) for comparison in comparisons for cell in comparison.cells}
        return [
            _NextClip(watch, found, save, row)
            for save in saves
            if save_label(save) not in watch.skipped
            for row in range(len(_rows(job)))
            if (save_label(save), row) not in planned
        ]

    def _queue(self, clip: _NextClip) -> str | None:
        """Queue a clip if nothing else waits or runs; a save that cannot be rendered is skipped with its reason."""
        watch, name = clip.watch, save_label(clip.save)
        job = self._imported_jobs.job(watch.job_id)
        try:
            request = self._request(job, clip)
            prepared = self._plan(request.model_dump(mode="json", exclude_none=True), LOCAL_ACCESS)
        except RequestError as error:
            log.warning("%s", error.message, extra={"job": watch.job_id, "save": name})
            self._watches.skip(watch.job_id, name, f"{name}: {error.message}")
            return None
        cell = PlannedCell(0, clip.row, name, label("prompt", {"prompt": request.prompts[0].prompt}), 0, prepared.wire)
        standing = comparison_for(self._watches.comparisons(watch.job_id), name, len(_rows(job)))
        if standing is None:
            return self._watches.begin_comparison(watch, grown(None, cell, prepared))
        return self._watches.extend_comparison(standing.id, grown(standing, cell, prepared))

    def _request(self, job: ImportedJob, clip: _NextClip) -> InferenceRequest:
        """The request of one clip: the job's sample with the save's files, its seed fixed."""
        checkpoint = self._imported_jobs.save(clip.found, clip.save)
        sample = _rows(job)[clip.row]
        samples = self._imported_jobs.with_checkpoint(job, checkpoint).samples
        request = next(each.request for each in samples if each.index == sample)
        item = request.prompts[0]
        if item.seed in (None, -1):
            item = item.model_copy(update={"seed": fixed_seed(job.id, sample)})
        return request.model_copy(update={"prompts": (item,)})


def _rows(job: ImportedJob) -> tuple[int, ...]:
    """The indices of the job's samples that can be rendered: the rows of its comparison."""
    return tuple(sample.index for sample in job.imported.samples if sample.missing_image is None)


def fixed_seed(job_id: str, sample: int) -> int:
    """The seed of a sample whose seed the trainer draws anew each time: the same for all saves of a job."""
    digest = hashlib.sha256(f"{job_id}-{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS)


def comparison_for(comparisons: Sequence[Job], column: str, rows: int) -> Job | None:
    """The comparison that has a column, else the newest if it has space for one more; a grid has at most 64 cells."""
    for comparison in comparisons:
        if column in {cell.column_label for cell in comparison.cells}:
            return comparison
    newest = comparisons[-1] if comparisons else None
    if newest is None or (len({cell.column for cell in newest.cells}) + 1) * rows > MOST_CELLS:
        return None
    return newest


def grown(comparison: Job | None, cell: PlannedCell, prepared: PreparedRequest) -> StandingComparison:
    """A comparison's content with one cell more, its columns by training step; generations keep their indices."""
    generations = () if comparison is None else comparison.generations
    cells = () if comparison is None else comparison.cells
    notes = () if comparison is None else comparison.notes
    names = sorted({each.column_label for each in (*cells, cell)}, key=_by_step)
    placed = [
        replace(each, column=names.index(each.column_label))
        for each in (*cells, replace(cell, generation=len(generations)))
    ]
    placed.sort(key=lambda each: (each.row, each.column))
    columns = {each.column: each for each in reversed(placed)}
    rows = {each.row: each for each in reversed(placed)}
    compare = {
        "columns": {"field": "lora", "values": [_files(columns[column].request) for column in sorted(columns)]},
        "rows": {"field": "prompt", "values": [_prompt(rows[row].request) for row in sorted(rows)]},
        "baseline": False,
    }
    request = {**placed[0].request, "compare": compare}
    return StandingComparison(
        request,
        (*generations, *prepared.generations),
        placed,
        tuple(dict.fromkeys((*notes, *prepared.notes))),
    )


def _by_step(name: str) -> tuple[bool, int]:
    return (False, int(name.removeprefix("step "))) if name.startswith("step ") else (True, 0)


def _files(request: Mapping[str, Any]) -> Any:
    """The LoRA files of a cell as the value of its column."""
    loras = request.get("loras", [])
    if MODELS[request["model"]].two_transformers:
        return {item["transformer"]: item["path"] for item in loras if item.get("transformer") is not None}
    return loras[0]["path"] if loras else None


def _prompt(request: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt of a cell as the value of its row."""
    item = request["prompts"][0]
    return {name: item[name] for name in ("prompt", *OF_A_PROMPT) if name in item}


def _check_owner(access: Access) -> None:
    if not access.identity.owner:
        raise OwnerOnly("Only the owner of this server may watch training jobs.")


def _not_watched() -> NotWatched:
    return NotWatched("This training job is not watched.")
