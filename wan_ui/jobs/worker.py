"""The one thread that renders, job after job, and stops for a cancel; it knows no door, model or file format."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from wan_ui import __version__
from wan_ui.compare import PlannedCell
from wan_ui.engine.clip import Clip, OnProgress, Phase, Progress
from wan_ui.errors import (
    Cancelled,
    CellsFailed,
    HostError,
    OutOfMemory,
    RenderFailed,
    VideoEncodingFailed,
    WanUIError,
)
from wan_ui.jobs.store import FINAL, MAX_ATTEMPTS, ClipRecord, Job, Store
from wan_ui.request import Generation

log = logging.getLogger(__name__)

Render = Callable[[Generation, OnProgress], Clip]
WriteVideo = Callable[[Path, npt.NDArray[np.uint8], int, Mapping[str, Any]], None]
"""The file, uint8 frames (T, H, W, 3), frames per second, what to keep inside the file."""

T = TypeVar("T")


@dataclass(frozen=True)
class Running:
    """What the thread is at: the job's generation `index` of `of`. Replaced whole: one consistent moment."""

    job_id: str
    index: int
    of: int
    progress: Progress


class Worker:
    """Runs the store's jobs one by one, oldest first, on a thread of its own.

    `clips_dir` is a folder of the data folder; clips get random names in it. A job with several prompts keeps the
    clips finished before a failure, a cancel or the end of the process, and they are not rendered again. A failure
    ends the job, except in a comparison: there the cell is marked and the rest goes on, unless the others would fail
    the same way.
    While the list of jobs cannot be written the worker tries again every `retry_seconds` rather than lose a job.
    """

    def __init__(
        self,
        store: Store,
        render: Render,
        clips_dir: Path,
        write_video: WriteVideo,
        *,
        max_attempts: int = MAX_ATTEMPTS,
        retry_seconds: float = 5.0,
    ) -> None:
        self._store = store
        self._render = render
        self._clips_dir = clips_dir
        self._write_video = write_video
        self._max_attempts = max_attempts
        self._retry_seconds = retry_seconds
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._ended = threading.Condition()
        self._running: Running | None = None
        self._thread = threading.Thread(target=self._loop, name="wan-ui-worker", daemon=True)

    def start(self) -> None:
        """Puts jobs that a dead process left running back in line, then begins. Once per worker."""
        for job_id, status in self._store.recover(self._max_attempts).items():
            log.warning("request %s: the process ended while running it; now %s", job_id, status)
        self._thread.start()

    def stop(self, timeout: float = 8.0) -> bool:
        """Ends the thread between two steps and puts the running job back in line, no attempt counted.

        False if the render did not come to a step's end within `timeout` seconds: its job waits in line all the
        same, and whatever that render still yields is dropped. The store may be closed only after True.
        """
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is None:
            return True
        self._thread.join(timeout)
        running = self._running
        if self._thread.is_alive() and running is not None:
            log.warning("request %s: still in a step after %s s, put back in line", running.job_id, timeout)
            self._persist(partial(self._store.put_back, running.job_id))
        return not self._thread.is_alive()

    def wake(self) -> None:
        """Says that a job was added, or that one which waited for its files can run or has ended."""
        self._wake.set()
        self._announce()

    def cancel(self, job_id: str) -> None:
        """Cancels a waiting job at once and a running one before its next step; a finished one stays as it is."""
        # The store alone knows of the cancel and the render asks it at each step, so no claim can slip between.
        self._store.request_cancel(job_id)
        self._announce()

    def running(self, job_id: str) -> Running | None:
        """What is being rendered of the job if it is the one running."""
        running = self._running
        return running if running is not None and running.job_id == job_id else None

    def progress(self, job_id: str) -> Progress | None:
        """The latest moment of the job if it is the one running."""
        running = self.running(job_id)
        return None if running is None else running.progress

    def wait(self, job_id: str, timeout: float) -> bool:
        """Whether the job reached a final status within `timeout` seconds. Raises RequestNotFound."""
        with self._ended:
            return self._ended.wait_for(lambda: self._store.job(job_id).status in FINAL, timeout)

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()  # before looking, so that a job added after the look wakes the wait
            job_id = self._persist(self._store.claim_next)
            if job_id is None:
                self._wake.wait()
                continue
            self._persist(self._run(job_id))
            self._running = None
            self._announce()

    def _persist(self, write: Callable[[], T]) -> T | None:
        """Writes to the store, again and again while the host prevents it; None when stopped meanwhile."""
        while True:
            try:
                return write()
            except HostError as error:
                log.error("%s Trying again in %s s.", error.message, self._retry_seconds)
                if self._stopping.wait(self._retry_seconds):
                    return None

    def _announce(self) -> None:
        with self._ended:
            self._ended.notify_all()

    def _run(self, job_id: str) -> Callable[[], object]:
        """Runs a claimed job to its end and returns the write that records this end."""
        self._running = running = Running(job_id, 0, 1, Progress("checking"))
        log.info("request %s: started", job_id)
        try:
            job = self._attempt(running, partial(self._store.job, job_id))
            error = _of_prompt(job, running) if isinstance(job, WanUIError) else self._render_all(job)
        except Cancelled:
            if self._stopping.is_set():
                log.info("request %s: stopped with the server, put back in line", job_id)
                return partial(self._store.put_back, job_id)
            log.info("request %s: canceled", job_id)
            return partial(self._store.finish, job_id, "canceled")
        if error is not None:
            return partial(self._store.finish, job_id, "failed", error)
        log.info("request %s: done", job_id)
        return partial(self._store.finish, job_id, "succeeded")

    def _render_all(self, job: Job) -> Mapping[str, Any] | None:
        """Makes the clips that the job lacks; the error that ends it, as a body, or None. Raises Cancelled."""
        failures = dict(job.failures)
        done = {clip.index for clip in job.clips}
        for index, generation in enumerate(job.generations):
            if index in done or index in failures:
                continue
            self._running = running = Running(job.id, index, len(job.generations), Progress("checking"))
            error = self._attempt(running, partial(self._make_clip, job, running, generation))
            if error is None:
                continue
            if not job.cells:
                return _of_prompt(error, running)
            reached = self.progress(job.id)
            if reached is None or _hits_every_cell(error, reached.phase):
                return error.body()
            failures[index] = error.body()
            self._persist(partial(self._store.add_failure, job.id, index, failures[index]))
        return _cells_failed(job.cells, failures).body() if failures else None

    def _attempt(self, running: Running, work: Callable[[], T]) -> T | WanUIError:
        """What the work gave, or what went wrong in it, logged. Raises Cancelled."""
        try:
            return work()
        except Cancelled:
            raise
        except WanUIError as error:
            log.warning("request %s: prompt %d failed: %s %s", running.job_id, running.index, error.code, error.message)
            return error
        except Exception:  # the one broad catch: whatever a job does, the line goes on
            log.exception("request %s: prompt %d failed", running.job_id, running.index)
            return RenderFailed(
                "The render broke for a reason that has no name yet. Try again, or with other values; the server's "
                "log has the trace."
            )

    def _make_clip(self, job: Job, running: Running, generation: Generation) -> None:
        where = _place(job, running.index)

        def on_progress(progress: Progress) -> None:
            said = replace(progress, note=" · ".join(filter(None, (where, progress.note))))
            self._running = replace(running, progress=said)
            if self._stopping.is_set() or self._store.cancel_requested(job.id):
                raise Cancelled("Canceled.")

        on_progress(running.progress)
        clip = self._render(generation, on_progress)
        on_progress(Progress("encode", generation.sample_steps, generation.sample_steps))
        path = self._clips_dir / f"{secrets.token_hex(16)}.mp4"
        try:
            self._clips_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HostError(f"The folder for clips cannot be made ({error.strerror}).") from error
        self._write_video(path, clip.frames, clip.fps, _inside_file(job, running.index, generation, clip))
        stored = False
        try:
            stored = self._store.add_clip(
                job.id,
                ClipRecord(
                    index=running.index,
                    width=clip.width,
                    height=clip.height,
                    num_frames=clip.num_frames,
                    fps=clip.fps,
                    seed=clip.seed,
                    file=f"{self._clips_dir.name}/{path.name}",
                    metadata=clip.metadata,
                ),
            )
        finally:
            if not stored:
                path.unlink(missing_ok=True)
        if not stored:
            raise Cancelled("The job was taken back while this clip was being made.")


def _place(job: Job, index: int) -> str:
    """Which cell of a comparison is being made, in the order of making; nothing for another job."""
    if not job.cells:
        return ""
    before = sum(cell.generation < index for cell in job.cells)
    return f"cell {before + 1} of {len(job.cells)}"


def _of_prompt(error: WanUIError, running: Running) -> Mapping[str, Any]:
    """The body of the error that ends an ordinary job, with the prompt it is about."""
    body = {**error.body(), "details": {**error.details, "prompt": running.index}}
    if running.of > 1:
        body["message"] = f"Prompt {running.index + 1} of {running.of}: {error.message}"
    return body


def _hits_every_cell(error: WanUIError, phase: Phase) -> bool:
    """Whether the other cells of a comparison would fail the same way: the machine's fault, and no cell's own.

    A cell's own are the memory that its frames take, once the model is loaded, and a file that could not be written.
    """
    if isinstance(error, OutOfMemory):
        return phase in ("checking", "downloading", "loading")
    return isinstance(error, HostError) and not isinstance(error, VideoEncodingFailed)


def _cells_failed(cells: Sequence[PlannedCell], failures: Mapping[int, Mapping[str, Any]]) -> CellsFailed:
    failed = [cell for cell in cells if cell.generation in failures]
    first = ", ".join(filter(None, (failed[0].column_label, failed[0].row_label)))
    kept = " The others are kept, and a retry renders only what failed." if len(failed) < len(cells) else ""
    return CellsFailed(
        f"{len(failed)} of {len(cells)} cells failed{f'; {first}' if first else ''}: "
        f"{failures[failed[0].generation]['message']}{kept}",
        cells=[
            {
                "column": cell.column,
                "row": cell.row,
                "column_label": cell.column_label,
                "row_label": cell.row_label,
                "error": failures[cell.generation],
            }
            for cell in failed
        ],
    )


def _inside_file(job: Job, index: int, generation: Generation, clip: Clip) -> dict[str, Any]:
    """What a clip's file carries: the request that makes this one clip again, and all that it was resolved to.

    Never the request's id: whoever holds a clip must not be able to read or cancel its job with it.
    """
    request = next((cell.request for cell in job.cells if cell.generation == index), job.request)
    prompt = {**request["prompts"][0 if job.cells else index], "seed": generation.seed}
    return {
        "wan_ui": __version__,
        "request": {**request, "prompts": [prompt]},
        "generation": asdict(generation),
        "render": dict(clip.metadata),
    }
