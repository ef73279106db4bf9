"""Renders the queued jobs one after another on a thread, while a second thread writes the finished clips."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from wan_ui.compare import PlannedCell
from wan_ui.engine.result import Clip, OnProgress, Phase, Progress
from wan_ui.errors import (
    Cancelled,
    DeviceLost,
    RenderTimedOut,
    WanUIError,
)
from wan_ui.job import Job
from wan_ui.jobs.clip_writer import WriteVideo
from wan_ui.jobs.job_errors import affects_every_cell, attempt, cells_failed, prompt_error
from wan_ui.jobs.runner import (
    LAST_WRITES,
    JobRunner,
    RenderLimits,
    Running,
    WorkerHooks,
    cell_note,
    model_in_use,
    reported,
)
from wan_ui.jobs.store import Store
from wan_ui.jobs.writer import Writer
from wan_ui.request import Generation

log = logging.getLogger(__name__)

Render = Callable[[Generation, OnProgress], Clip]
CHECKS_PER_TIMEOUT = 10
LEAVING_SECONDS = 0.5  # until the thread whose job has just ended frees the engine
JOBS_AHEAD = 3  # one that is rendered, one whose last file is written, and the next


@dataclass(frozen=True)
class _TimedClip:
    """A clip in the making and when it was started, on the monotonic clock."""

    running: Running
    since: float


@dataclass
class _ActiveJob:
    """A claimed job until its end is recorded, and what has gone wrong so far.

    `failures` are error bodies of a comparison's generations, by index. `error` is the body of the error that ends
    the job: no further generation is started then.
    """

    job_id: str
    since: float
    failures: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None
    cells: Sequence[PlannedCell] = ()
    canceled: bool = False


@dataclass(frozen=True)
class _RenderedClip:
    """A clip whose file is not written yet. `seconds` by phase. `started` and `rendered` on the monotonic clock."""

    job: Job
    running: Running
    clip: Clip
    seconds: Mapping[str, float]
    started: float
    rendered: float


class Worker(JobRunner):
    """Runs the store's jobs one by one, oldest first, on one thread; a second thread writes the clips.

    A clip counts once its file and its database row are written. A job's end is recorded after its last clip's, and
    jobs end in the order in which they started. While a clip is written the next one, of this job or the next, is
    rendered: at most one clip waits with its frames for the one before to be written. A clip that cannot be written
    ends its job like any failure, or marks its cell, and stops the job's render.

    A job keeps the clips finished before a failure, a cancellation or the end of the process, and they are not
    rendered again. A failure ends the job, except in a comparison: there the cell is marked and the other cells are
    rendered, unless they would fail in the same way.

    After a lost device, a timeout or the unexpected end of a thread, `broken` is set: no further job is started, and
    the process should end with the error's exit code.
    """

    def __init__(
        self,
        store: Store,
        render: Render,
        clips_dir: Path,
        write_video: WriteVideo,
        limits: RenderLimits | None = None,
        hooks: WorkerHooks | None = None,
    ) -> None:
        super().__init__(store, clips_dir, write_video, limits, hooks)
        self._render = render
        self._timed: _TimedClip | None = None
        self._timed_writing: _TimedClip | None = None
        self._wake = threading.Event()
        self._engine_turn = threading.Lock()  # of whoever uses the engine: a job, or the one who frees its model
        self._running: Running | None = None
        self._writing: Running | None = None
        self._active: dict[str, _ActiveJob] = {}
        self._writer = Writer("wan-ui-writer", self._writer_ended)
        self._thread = threading.Thread(target=self._loop, name="wan-ui-worker", daemon=True)

    def start(self) -> None:
        """Recover and start the threads. Once per worker."""
        self.recover()
        self._writer.start()
        self._thread.start()
        if self._limits.timeout is not None:
            watch = partial(self._watch, self._limits.timeout)
            threading.Thread(target=watch, name="wan-ui-watch", daemon=True).start()

    def stop(self, timeout: float = 8.0) -> bool:
        """Stop the render between two steps and requeue its job, no attempt counted; rendered clips are written.

        Returns False if that took longer than `timeout` seconds: the jobs are requeued all the same, and whatever
        their threads still produce is dropped. The store may be closed only after True.
        """
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is None:
            return True
        end = time.monotonic() + (0 if isinstance(self._broken, RenderTimedOut) else timeout)
        self._thread.join(max(0.0, end - time.monotonic()))
        ended = self._writer.join(max(0.0, end - time.monotonic())) and not self._thread.is_alive()
        for job_id in () if ended else tuple(self._active):
            log.warning("still running at the stop", extra={"request_id": job_id, "seconds": timeout})
            self._persist(partial(self._store.requeue, job_id))
        return ended

    def wake(self) -> None:
        """Notify the worker that a job was added, or that one which waited for its files can run or has ended."""
        self._wake.set()
        self._announce()

    def cancel(self, job_id: str) -> None:
        """Cancel a waiting job at once and a running one before its next step; a finished job is unchanged."""
        # Only the store knows of a cancellation, and the render asks it at each step, so no claim can come between.
        self._store.request_cancel(job_id)
        self._announce()

    def running(self, job_id: str) -> Running | None:
        """What is being rendered of a job if it is the one running, else what is being written of it."""
        running, writing = self._running, self._writing  # in this order: a clip goes from the first to the second
        if writing is not None and writing.job_id != job_id:
            writing = None
        if running is None or running.job_id != job_id:
            return writing
        return running if writing is None else replace(running, writing=writing.index)

    def at_work(self) -> Running | None:
        """What is being rendered, of whichever job, else what is being written."""
        running, writing = self._running, self._writing
        return writing if running is None else running

    def models(self) -> tuple[str, ...]:
        """The id of the loaded model, if there is one."""
        model = None if self._hooks.loaded is None else self._hooks.loaded()
        return () if model is None else (model,)

    def unload(self) -> None:
        """Free the loaded model. Raises ModelInUse while a clip is rendered."""
        if not self._engine_turn.acquire(timeout=LEAVING_SECONDS):
            raise model_in_use()
        try:
            if self._hooks.unload is not None:
                self._hooks.unload()
        finally:
            self._engine_turn.release()
        self._announce()

    # Threads

    def _loop(self) -> None:
        try:
            self._run_queue()
        finally:
            self._check_stopped()
            self._writer.close()

    def _writer_ended(self) -> None:
        self._check_stopped()
        self._wake.set()

    def _run_queue(self) -> None:
        self._tidy()
        while not self._stopping.is_set() and self._broken is None:
            self._wake.clear()  # before the claim, so that a job added after it ends the wait
            if self._stopping.is_set():  # the event that was cleared may have been the stop's
                return
            job_id = self._persist(self._store.claim_next)
            if job_id is None:
                self._wake.wait()
                continue
            with self._engine_turn:
                lost = self._run(job_id)
            self._running = None
            if lost is not None:
                self._writer.drain()  # whoever sees `broken` finds the job ended
                self._broken = self._broken or lost
                self._announce()

    def _watch(self, timeout: float) -> None:
        while self._broken is None and not self._stopping.wait(min(1.0, timeout / CHECKS_PER_TIMEOUT)):
            timed = min(filter(None, (self._timed, self._timed_writing)), key=lambda clip: clip.since, default=None)
            if timed is not None and time.monotonic() - timed.since > timeout:
                self._give_up(timed, timeout)

    def _give_up(self, timed: _TimedClip, timeout: float) -> None:
        """Fails the job whose clip takes too long. Its thread cannot be killed, so this process must end."""
        running = timed.running
        error = RenderTimedOut(
            f"This took longer than the {timeout:g} s that a video may take, and the server restarted to end it. Try a "
            "smaller size, fewer frames or fewer steps, or a longer --job-timeout.",
            seconds=timeout,
        )
        body = prompt_error(error, running.index, running.of)
        end = partial(self._store.finish, running.job_id, "failed", body)
        if self._persist(end, LAST_WRITES) is None and timed not in (self._timed, self._timed_writing):
            return  # it ended by itself meanwhile
        log.error("took too long", extra={"request_id": running.job_id, "prompt": running.index, "seconds": timeout})
        self._broken = error
        self._announce()

    # One job

    def _run(self, job_id: str) -> DeviceLost | None:
        """Renders a claimed job and queues the recording of its end; the error after which no other job can run."""
        self._running = running = Running(job_id, 0, 1, Progress("checking"))
        active = self._active[job_id] = _ActiveJob(job_id, time.monotonic())
        log.info("started", extra={"request_id": job_id})
        lost = None
        try:
            job = attempt(partial(self._store.job, job_id), running.job_id, running.index)
            if isinstance(job, WanUIError):
                active.error = prompt_error(job, running.index, running.of)
            else:
                lost = self._render_all(job, active)
        except Cancelled:
            active.canceled = True
        self._writer.add(partial(self._end, active, None if lost is None else LAST_WRITES))
        return lost

    def _end(self, active: _ActiveJob, tries: int | None) -> None:
        """Records the end of a job of which nothing is rendered or written any more."""
        store, job_id = self._store, active.job_id
        error = active.error
        if error is None and active.failures and not active.canceled:
            error = cells_failed(active.cells, active.failures).body()
        end: Callable[[], object]
        if error is not None:
            event, end = "failed", partial(store.finish, job_id, "failed", error)
        elif not active.canceled:
            event, end = "succeeded", partial(store.finish, job_id, "succeeded")
        elif self._stopping.is_set() or self._broken is not None:
            event, end = "requeued: the server stops", partial(store.requeue, job_id)
        else:
            event, end = "canceled", partial(store.finish, job_id, "canceled")
        self._persist(end, tries)
        if self._active.get(job_id) is active:  # else it was queued again and runs already
            del self._active[job_id]
        log.info(event, extra={"request_id": job_id, "seconds": round(time.monotonic() - active.since, 3)})
        self._announce()
        if self._broken is None:
            self._tidy()

    def _render_all(self, job: Job, active: _ActiveJob) -> DeviceLost | None:
        """Renders the clips that the job lacks and records failures. Returns the error of a lost device.

        Raises Cancelled.
        """
        active.failures.update(job.failures)
        active.cells = job.cells
        finished = {clip.index for clip in job.clips}
        for index, generation in enumerate(job.generations):
            if index in finished or index in job.failures:
                continue
            self._running = running = Running(job.id, index, len(job.generations), Progress("checking"))
            self._timed = _TimedClip(running, time.monotonic())
            rendered = attempt(partial(self._render_clip, job, running, generation, active), job.id, running.index)
            if isinstance(rendered, WanUIError):
                lost = self._lost_device(running, rendered)
                self._timed = None
                if lost is not None:
                    active.error = prompt_error(lost, running.index, running.of)
                    return lost
                self._record_failure(active, running, rendered, self._running.progress.phase)
            elif not self._writer.hand_over(partial(self._write, rendered, active), partial(self._hand_on, rendered)):
                raise Cancelled("No clip can be written any more.")
            self._timed = None
            del rendered  # its frames
            if active.error is not None:
                return None
        return None

    def _record_failure(self, active: _ActiveJob, running: Running, error: WanUIError, phase: Phase) -> None:
        """Marks a cell as failed, or sets the error that ends the job."""
        if not active.cells:
            active.error = active.error or prompt_error(error, running.index, running.of)
        elif affects_every_cell(error, phase):
            active.error = active.error or error.body()
        else:
            active.failures[running.index] = error.body()
            self._persist(partial(self._store.add_failure, active.job_id, running.index, error.body()))

    def _lost_device(self, running: Running, error: WanUIError) -> DeviceLost | None:
        """The error of a device that a failure has made unusable; None if it still works."""
        if self._hooks.check_device is None:
            return None
        try:
            self._hooks.check_device()
        except DeviceLost as lost:
            lost.details["after"] = error.code
            log.error("%s", lost.message, extra={"request_id": running.job_id, "code": lost.code})
            return lost
        return None

    # One clip

    @contextmanager
    def _phases(self, seconds: dict[str, float]) -> Iterator[Callable[[Phase], None]]:
        """Gives a function to be called with each phase as it starts; adds the phases' durations to `seconds`."""
        current: tuple[Phase, float] | None = None

        def enter(phase: Phase | None) -> None:
            nonlocal current
            now = time.monotonic()
            if current is not None and current[0] != phase:
                self._observe(current[0], now - current[1])
                seconds[current[0]] = seconds.get(current[0], 0.0) + now - current[1]
            if current is None or current[0] != phase:
                current = None if phase is None else (phase, now)

        try:
            yield enter
        finally:
            enter(None)

    def _render_clip(self, job: Job, running: Running, generation: Generation, active: _ActiveJob) -> _RenderedClip:
        """Raises Cancelled, also if the job failed meanwhile."""
        cell = cell_note(job, running.index)
        seconds: dict[str, float] = {}
        looked_ahead = False
        shown = running

        def publish(progress: Progress) -> None:
            nonlocal shown
            note = " · ".join(filter(None, (cell, progress.note)))
            shown = reported(shown, replace(progress, note=note))
            self._running = shown
            stopped = self._stopping.is_set() or self._broken is not None or active.error is not None
            if stopped or self._store.cancel_requested(job.id):
                raise Cancelled("Canceled.")

        with self._phases(seconds) as enter:

            def on_progress(progress: Progress) -> None:
                enter(progress.phase)
                if progress.phase == "downloading":
                    self._timed = _TimedClip(running, time.monotonic())
                publish(progress)
                nonlocal looked_ahead
                if progress.phase == "denoise" and not looked_ahead:
                    looked_ahead = True
                    self._look_ahead()

            on_progress(running.progress)
            clip = self._render(generation, on_progress)
        rendered = time.monotonic()
        publish(Progress("encode", generation.sample_steps, generation.sample_steps))
        timed = self._timed
        return _RenderedClip(job, running, clip, seconds, rendered if timed is None else timed.since, rendered)

    def _look_ahead(self) -> None:
        if self._hooks.next_up is None:
            return
        waiting = (job for job in self._store.unfinished(JOBS_AHEAD) if job.status == "in_queue" and job.ready)
        job = next(waiting, None)
        if job is not None:
            self._hooks.next_up(job.generations[0])

    def _hand_on(self, rendered: _RenderedClip) -> None:
        """Called when the writer takes a clip: from then on it counts as written, no longer as rendered."""
        self._writing = self._running
        self._timed_writing = _TimedClip(rendered.running, rendered.started)

    def _report_writing(self, fraction: float) -> None:
        """Called with the share of a clip's frames that are encoded."""
        writing = self._writing
        if writing is not None:
            self._writing = reported(writing, replace(writing.progress, phase="encode", fraction=fraction))

    def _write(self, rendered: _RenderedClip, active: _ActiveJob) -> None:
        """Writes a clip on the writer's thread and records what goes wrong."""
        job, running = rendered.job, rendered.running
        write = partial(
            self._clip_writer.write, job, running.index, rendered.clip, rendered.seconds, self._report_writing
        )
        start = time.monotonic()
        try:
            error = attempt(write, running.job_id, running.index)
            if error is not None:
                self._record_failure(active, running, error, "encode")
            elif self._hooks.measured is not None:
                generation, seconds = job.generations[running.index], rendered.seconds
                encode = time.monotonic() - start
                self._persist(partial(self._hooks.measured, generation, rendered.clip, seconds, encode), 1)
        except Cancelled:
            active.canceled = True
        finally:
            self._observe("encode", time.monotonic() - rendered.rendered)
            self._writing = self._timed_writing = None
