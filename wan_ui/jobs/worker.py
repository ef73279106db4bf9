"""One thread that renders, job after job, and stops for a cancel, and one that writes what it made meanwhile.

It knows no door, model or file format.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from wan_ui.compare import PlannedCell
from wan_ui.engine.result import Clip, OnProgress, Phase, Progress
from wan_ui.errors import (
    Cancelled,
    CellsFailed,
    DeviceLost,
    DiskFull,
    HostError,
    OutOfMemory,
    QueueStopped,
    RenderFailed,
    RenderTimedOut,
    RestartNeeded,
    VideoEncodingFailed,
    WanUIError,
)
from wan_ui.files import is_disk_full, remove_parts
from wan_ui.jobs import embedded_metadata
from wan_ui.jobs.sample_comparisons import KEPT, sample_of
from wan_ui.jobs.store import FINAL, MAX_ATTEMPTS, ClipRecord, Job, Store
from wan_ui.jobs.writer import Writer
from wan_ui.media import poster, video
from wan_ui.request import Generation

log = logging.getLogger(__name__)

Render = Callable[[Generation, OnProgress], Clip]
WriteVideo = Callable[[Path, npt.NDArray[np.uint8], int, Mapping[str, Any]], None]
"""The file, uint8 frames (T, H, W, 3), frames per second, what to keep inside the file."""

KeepFrames = Callable[[Path, npt.NDArray[np.uint8]], None]
"""The file, uint8 frames (T, H, W, 3), to be read back bit for bit."""

Observe = Callable[[Phase, float], None]
"""A phase of a render that ended, and its seconds."""

LAST_WRITES = 3  # tries to record a job's end before this process ends; what is not recorded counts as an attempt
LOOKS_PER_LIMIT = 10
LOOKED_AHEAD = 3  # jobs: one that is rendered, one whose last file is written, and the next

T = TypeVar("T")


@dataclass(frozen=True)
class Running:
    """What is worked at: the job's generation `index` of `of`. Replaced whole: one consistent moment.

    `writing`: the generation of the same job whose file is being written meanwhile.
    """

    job_id: str
    index: int
    of: int
    progress: Progress
    writing: int | None = None


@dataclass(frozen=True)
class _Timed:
    """A clip in the making and when it began, on the monotonic clock. Replaced whole."""

    running: Running
    since: float


@dataclass
class _Claim:
    """A job that was taken out of the line, until its end is recorded. What has gone wrong so far.

    `failures`: of a comparison's generations, by index. `error`: what ends the job, as a body; the rest is not begun.
    """

    job_id: str
    begun: float
    failures: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None
    cells: Sequence[PlannedCell] = ()
    canceled: bool = False


@dataclass(frozen=True)
class _Made:
    """A clip without its file, the seconds by phase that it took, and when its frames were there and its render began,
    both on the monotonic clock."""

    job: Job
    running: Running
    clip: Clip
    spent: Mapping[str, float]
    ready: float
    since: float


def _nothing_to_check() -> None:
    """A device that cannot die, such as the CPU."""


def _nothing_to_tidy() -> None:
    """Where clips stay for ever."""


def _nothing_to_prepare(generation: Generation) -> None:
    """A job that waits needs nothing before its turn."""


def _unobserved(phase: Phase, seconds: float) -> None:
    """Seconds that nobody asked for."""


class Worker:
    """Runs the store's jobs one by one, oldest first, on a thread of its own; on another it writes what came out.

    A clip counts once its file and its row are there; its job's end is recorded after its last clip's, and jobs end in
    the order in which they began. Meanwhile the next clip, of this job or the next, is rendered: at most one clip
    waits with its frames for the one before to be written. A clip that cannot be written ends its job as any failure
    does, or marks its cell, and stops what is rendered of that job.

    `clips_dir` is a folder of the data folder; clips get random names in it. A job with several prompts keeps the
    clips finished before a failure, a cancel or the end of the process, and they are not rendered again. A failure
    ends the job, except in a comparison: there the cell is marked and the rest goes on, unless the others would fail
    the same way.
    A clip that is to be compared with a training preview keeps its own frames beside its MP4.
    While the list of jobs cannot be written the worker tries again every `retry_seconds` rather than lose a job.

    `check_device` is called after every failure of a render, when nothing of it is held any more; it raises
    DeviceLost if the device is of no use any more. `timeout` are the seconds that one clip may take until its file is
    there, downloads left out, None for no limit. After either, and when a thread itself ends, `broken` says so: no
    further job is begun, and the process should end with the error's exit code.

    `next_up` is told, while a clip denoises, the first generation of the job that waits next, if one does.
    `tidy` is called before the first job and after each, to let go of old clips.
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
        timeout: float | None = None,
        check_device: Callable[[], None] = _nothing_to_check,
        observe: Observe = _unobserved,
        keep_frames: KeepFrames = video.write_lossless,
        tidy: Callable[[], None] = _nothing_to_tidy,
        next_up: Callable[[Generation], None] = _nothing_to_prepare,
    ) -> None:
        self._store = store
        self._render = render
        self._clips_dir = clips_dir
        self._write_video = write_video
        self._max_attempts = max_attempts
        self._retry_seconds = retry_seconds
        self._timeout = timeout
        self._check_device = check_device
        self._observe = observe
        self._keep_frames = keep_frames
        self._tidy = tidy
        self._next_up = next_up
        self._broken: RestartNeeded | None = None
        self._timed: _Timed | None = None
        self._timed_writing: _Timed | None = None
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._ended = threading.Condition()
        self._running: Running | None = None
        self._writing: Running | None = None
        self._claims: dict[str, _Claim] = {}
        self._after = Writer("wan-ui-writer", self._writer_ended)
        self._thread = threading.Thread(target=self._loop, name="wan-ui-worker", daemon=True)

    def recover(self) -> None:
        """Puts jobs that a dead process left running back in line. Only before the start."""
        self._sweep()
        for job_id, status in self._store.recover(self._max_attempts).items():
            log.warning("the process ended while running this", extra={"request_id": job_id, "status": status})

    def start(self) -> None:
        """Recovers, where that was not done before, and begins. Once per worker."""
        self.recover()
        self._after.start()
        self._thread.start()
        if self._timeout is not None:
            threading.Thread(target=self._watch, args=(self._timeout,), name="wan-ui-watch", daemon=True).start()

    @property
    def broken(self) -> RestartNeeded | None:
        """Why this process can render no more; None while it can. The job that it struck has its end by then."""
        return self._broken

    def stop(self, timeout: float = 8.0) -> bool:
        """Ends the render between two steps and puts its job back in line, no attempt counted; clips that are rendered
        are written.

        False if that took longer than `timeout` seconds: their jobs wait in line all the same, and whatever still
        comes of them is dropped. The store may be closed only after True.
        """
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is None:
            return True
        end = time.monotonic() + (0 if isinstance(self._broken, RenderTimedOut) else timeout)
        self._thread.join(max(0.0, end - time.monotonic()))
        ended = self._after.join(max(0.0, end - time.monotonic())) and not self._thread.is_alive()
        for job_id in () if ended else tuple(self._claims):
            log.warning("still at work at the stop", extra={"request_id": job_id, "seconds": timeout})
            self._persist(partial(self._store.put_back, job_id))
        return ended

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
        """What is being rendered of the job if it is the one running, else what is being written of it."""
        running, writing = self._running, self._writing  # in this order: a clip goes from the first to the second
        if writing is not None and writing.job_id != job_id:
            writing = None
        if running is None or running.job_id != job_id:
            return writing
        return running if writing is None else replace(running, writing=writing.index)

    def at_work(self) -> Running | None:
        """What is being rendered, of whichever job; else what is being written."""
        running, writing = self._running, self._writing
        return writing if running is None else running

    def progress(self, job_id: str) -> Progress | None:
        """The latest moment of the job if it is the one running."""
        running = self.running(job_id)
        return None if running is None else running.progress

    def wait(self, job_id: str, timeout: float) -> bool:
        """Whether the job reached a final status within `timeout` seconds. Raises RequestNotFound."""
        with self._ended:
            return self._ended.wait_for(lambda: self._store.job(job_id).status in FINAL, timeout)

    def _sweep(self) -> None:
        """Removes what a killed process was writing."""
        try:
            remove_parts(self._clips_dir)
            for file in self._store.strays():
                (self._clips_dir.parent / file).unlink(missing_ok=True)
                for suffix in (KEPT, poster.SUFFIX):
                    (self._clips_dir.parent / file).with_suffix(suffix).unlink(missing_ok=True)
        except OSError as error:
            log.warning("what a killed process was writing cannot be removed", extra={"reason": error.strerror})
            return
        self._store.forget_strays()

    def _loop(self) -> None:
        try:
            self._run_line()
        finally:
            self._say_if_stopped()
            self._after.close()

    def _writer_ended(self) -> None:
        self._say_if_stopped()
        self._wake.set()

    def _say_if_stopped(self) -> None:
        """Says that the line is broken, when a thread ends that was not asked to."""
        if self._broken is None and not self._stopping.is_set():
            self._broken = QueueStopped(
                "The line of jobs stopped for a reason that has no name yet; the server's log has the trace."
            )
        self._announce()

    def _run_line(self) -> None:
        self._persist(self._tidy, 1)
        while not self._stopping.is_set() and self._broken is None:
            self._wake.clear()  # before looking, so that a job added after the look wakes the wait
            if self._stopping.is_set():  # the wake that was cleared may have been the stop's
                return
            job_id = self._persist(self._store.claim_next)
            if job_id is None:
                self._wake.wait()
                continue
            lost = self._run(job_id)
            self._running = None
            if lost is not None:
                self._after.drain()  # whoever sees that this broke finds its job ended
                self._broken = self._broken or lost
                self._announce()

    def _watch(self, limit: float) -> None:
        while self._broken is None and not self._stopping.wait(min(1.0, limit / LOOKS_PER_LIMIT)):
            timed = min(filter(None, (self._timed, self._timed_writing)), key=lambda one: one.since, default=None)
            if timed is not None and time.monotonic() - timed.since > limit:
                self._give_up(timed, limit)

    def _give_up(self, timed: _Timed, limit: float) -> None:
        """Fails the job whose clip takes too long. Its thread cannot be killed, so this process must end."""
        running = timed.running
        error = RenderTimedOut(
            f"This took longer than the {limit:g} s that a video may take here, and the server started again to end "
            "it. Try a smaller size, fewer frames or fewer steps, or a longer --job-timeout.",
            seconds=limit,
        )
        end = partial(self._store.finish, running.job_id, "failed", _of_prompt(error, running))
        if self._persist(end, LAST_WRITES) is None and timed not in (self._timed, self._timed_writing):
            return  # it came to its end by itself meanwhile
        log.error("took too long", extra={"request_id": running.job_id, "prompt": running.index, "seconds": limit})
        self._broken = error
        self._announce()

    def _persist(self, write: Callable[[], T], tries: int | None = None) -> T | None:
        """Writes to the store, again and again while the host prevents it.

        None when stopped meanwhile, or after so many `tries`.
        """
        while True:
            try:
                return write()
            except HostError as error:
                log.error("%s Trying again in %s s.", error.message, self._retry_seconds)
                tries = None if tries is None else tries - 1
                if tries == 0 or self._stopping.wait(self._retry_seconds):
                    return None

    def _announce(self) -> None:
        with self._ended:
            self._ended.notify_all()

    def _run(self, job_id: str) -> DeviceLost | None:
        """Renders a claimed job and lets its end be recorded; the error after which no other job can run."""
        self._running = running = Running(job_id, 0, 1, Progress("checking"))
        claim = self._claims[job_id] = _Claim(job_id, time.monotonic())
        log.info("started", extra={"request_id": job_id})
        lost = None
        try:
            job = self._attempt(running, partial(self._store.job, job_id))
            if isinstance(job, WanUIError):
                claim.error = _of_prompt(job, running)
            else:
                lost = self._render_all(job, claim)
        except Cancelled:
            claim.canceled = True
        self._after.add(partial(self._end, claim, None if lost is None else LAST_WRITES))
        return lost

    def _end(self, claim: _Claim, tries: int | None) -> None:
        """Records the end of a job of which nothing is worked at any more."""
        store, job_id = self._store, claim.job_id
        error = claim.error
        if error is None and claim.failures and not claim.canceled:
            error = _cells_failed(claim.cells, claim.failures).body()
        end: Callable[[], object]
        if error is not None:
            said, end = "failed", partial(store.finish, job_id, "failed", error)
        elif not claim.canceled:
            said, end = "succeeded", partial(store.finish, job_id, "succeeded")
        elif self._stopping.is_set() or self._broken is not None:
            said, end = "put back in line: the server stops", partial(store.put_back, job_id)
        else:
            said, end = "canceled", partial(store.finish, job_id, "canceled")
        self._persist(end, tries)
        del self._claims[job_id]
        log.info(said, extra={"request_id": job_id, "seconds": round(time.monotonic() - claim.begun, 3)})
        self._announce()
        if self._broken is None:
            self._persist(self._tidy, 1)

    def _render_all(self, job: Job, claim: _Claim) -> DeviceLost | None:
        """Makes the clips that the job lacks, and notes in the claim what goes wrong. Raises Cancelled.

        The error if it leaves no device to run on.
        """
        claim.failures.update(job.failures)
        claim.cells = job.cells
        done = {clip.index for clip in job.clips}
        for index, generation in enumerate(job.generations):
            if index in done or index in job.failures:
                continue
            self._running = running = Running(job.id, index, len(job.generations), Progress("checking"))
            self._timed = _Timed(running, time.monotonic())
            made = self._attempt(running, partial(self._render_clip, job, running, generation, claim))
            if isinstance(made, WanUIError):
                lost = self._lost(running, made)
                self._timed = None
                if lost is not None:
                    claim.error = _of_prompt(lost, running)
                    return lost
                reached = self._running.progress
                self._note(claim, running, made, reached.phase)
            elif not self._after.hand_over(partial(self._keep, made, claim), partial(self._turn_to_writing, made)):
                raise Cancelled("Nothing can be written any more.")
            self._timed = None
            del made  # its frames
            if claim.error is not None:
                return None
        return None

    def _note(self, claim: _Claim, running: Running, error: WanUIError, phase: Phase) -> None:
        """What a failure means for its job: a mark on a cell, or the end."""
        if not claim.cells:
            claim.error = claim.error or _of_prompt(error, running)
        elif _hits_every_cell(error, phase):
            claim.error = claim.error or error.body()
        else:
            claim.failures[running.index] = error.body()
            self._persist(partial(self._store.add_failure, claim.job_id, running.index, error.body()))

    def _attempt(self, running: Running, work: Callable[[], T]) -> T | WanUIError:
        """What the work gave, or what went wrong in it, logged. Raises Cancelled."""
        about = {"request_id": running.job_id, "prompt": running.index}
        try:
            return work()
        except Cancelled:
            raise
        except WanUIError as error:
            log.warning("%s", error.message, extra={**about, "code": error.code})
            # Its traces hold the frames in which it happened, and those hold the tensors of a whole render.
            error.__cause__ = error.__context__ = None
            return error.with_traceback(None)
        except Exception:  # the one broad catch: whatever a job does, the line goes on
            log.exception("a failure without a name", extra=about)
            return RenderFailed(
                "The render broke for a reason that has no name yet. Try again, or with other values; the server's "
                "log has the trace."
            )

    def _lost(self, running: Running, error: WanUIError) -> DeviceLost | None:
        """What a failure has made of the device: None when it is as good as before."""
        try:
            self._check_device()
        except DeviceLost as lost:
            lost.details["after"] = error.code
            log.error("%s", lost.message, extra={"request_id": running.job_id, "code": lost.code})
            return lost
        return None

    @contextmanager
    def _phases(self, spent: dict[str, float]) -> Iterator[Callable[[Phase], None]]:
        """Tells the observer, and adds to `spent`, the seconds of each phase that is entered in the block."""
        at: tuple[Phase, float] | None = None

        def enter(phase: Phase | None) -> None:
            nonlocal at
            now = time.monotonic()
            if at is not None and at[0] != phase:
                self._observe(at[0], now - at[1])
                spent[at[0]] = spent.get(at[0], 0.0) + now - at[1]
            if at is None or at[0] != phase:
                at = None if phase is None else (phase, now)

        try:
            yield enter
        finally:
            enter(None)

    def _render_clip(self, job: Job, running: Running, generation: Generation, claim: _Claim) -> _Made:
        """Raises Cancelled, also where the job failed meanwhile."""
        where = _place(job, running.index)
        spent: dict[str, float] = {}
        looked = False

        def note(progress: Progress) -> None:
            said = replace(progress, note=" · ".join(filter(None, (where, progress.note))))
            self._running = replace(running, progress=said)
            stopped = self._stopping.is_set() or self._broken is not None or claim.error is not None
            if stopped or self._store.cancel_requested(job.id):
                raise Cancelled("Canceled.")

        with self._phases(spent) as entered:

            def on_progress(progress: Progress) -> None:
                entered(progress.phase)
                if progress.phase == "downloading":
                    self._timed = _Timed(running, time.monotonic())
                note(progress)
                nonlocal looked
                if progress.phase == "denoise" and not looked:
                    looked = True
                    self._look_ahead()

            on_progress(running.progress)
            clip = self._render(generation, on_progress)
        ready = time.monotonic()
        note(Progress("encode", generation.sample_steps, generation.sample_steps))
        timed = self._timed
        return _Made(job, running, clip, spent, ready, ready if timed is None else timed.since)

    def _look_ahead(self) -> None:
        waiting = (job for job in self._store.unfinished(LOOKED_AHEAD) if job.status == "in_queue" and job.ready)
        job = next(waiting, None)
        if job is not None:
            self._next_up(job.generations[0])

    def _turn_to_writing(self, made: _Made) -> None:
        """From here on the clip is written, and no more rendered."""
        self._writing = self._running
        self._timed_writing = _Timed(made.running, made.since)

    def _keep(self, made: _Made, claim: _Claim) -> None:
        """Writes a clip that was handed over, and notes what goes wrong."""
        try:
            failed = self._attempt(made.running, partial(self._write, made))
            if failed is not None:
                self._note(claim, made.running, failed, "encode")
        except Cancelled:
            claim.canceled = True
        finally:
            self._observe("encode", time.monotonic() - made.ready)
            self._writing = self._timed_writing = None

    def _write(self, made: _Made) -> None:
        """The clip's file, its still and its row. Raises Cancelled where the job does not run any more."""
        job, index, clip = made.job, made.running.index, made.clip
        path = self._clips_dir / f"{secrets.token_hex(16)}.mp4"
        try:
            # Not its parents: a data folder that is gone took the list of jobs with it, and a new one would hide that.
            self._clips_dir.mkdir(exist_ok=True)
        except OSError as error:
            if is_disk_full(error):
                raise DiskFull("There is no disk space left for the video. Free some and try again.") from error
            raise HostError(
                f"The folder for clips cannot be made ({error.strerror}). Check the data folder and its disk."
            ) from error
        self._store.begin_clip(job.id, f"{self._clips_dir.name}/{path.name}")
        self._write_video(path, clip.frames, clip.fps, embedded_metadata.of_clip(job, index, clip, made.spent))
        stored = False
        kept, still = path.with_suffix(KEPT), path.with_suffix(poster.SUFFIX)
        try:
            _write_poster(still, clip.frames)
            if sample_of(job, index) is not None:
                self._keep_frames(kept, clip.frames)
            stored = self._store.add_clip(
                job.id,
                ClipRecord(
                    index=index,
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
                kept.unlink(missing_ok=True)
                still.unlink(missing_ok=True)
        if not stored:
            raise Cancelled("The job was taken back while this clip was being made.")


def _write_poster(path: Path, frames: npt.NDArray[np.uint8]) -> None:
    """Beside the clip; a disk without room for it has none for the clip either."""
    try:
        poster.write(path, frames)
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull("There is no disk space left for the video. Free some and try again.") from error
        raise HostError(f"The still of a video cannot be written ({error.strerror}). Check the data folder.") from error


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
