"""Renders the queued jobs one after another on a thread, while a second thread writes the finished clips."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from wan_ui.engine.result import Clip, OnProgress, Progress
from wan_ui.errors import (
    Cancelled,
    DeviceLost,
    RenderTimedOut,
    WanUIError,
)
from wan_ui.job import Job
from wan_ui.jobs.clip_writer import WriteVideo
from wan_ui.jobs.job_errors import attempt, prompt_error
from wan_ui.jobs.runner import (
    LAST_WRITES,
    ActiveJob,
    JobRunner,
    PhaseTimes,
    RenderedClip,
    RenderLimits,
    Running,
    WorkerHooks,
    cell_note,
    model_in_use,
    reported,
)
from wan_ui.jobs.store import Store
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
        self._active: dict[str, ActiveJob] = {}
        self._wake = threading.Event()
        self._engine_turn = threading.Lock()  # of whoever uses the engine: a job, or the one who frees its model
        self._thread = threading.Thread(target=self._loop, name="wan-ui-worker", daemon=True)

    def start(self) -> None:
        """Recover and start the threads. Once per worker."""
        self.recover()
        self._writer.start()
        self._thread.start()
        if self._limits.timeout is not None:
            watch = partial(self.watch, self._limits.timeout)
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
        if not ended:
            self._requeue_active(timeout)
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
        super()._writer_ended()
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

    def watch(self, timeout: float) -> None:
        """Fail the first job whose clip takes longer than `timeout` seconds; until then, or until the stop."""
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
        active = self._active[job_id] = ActiveJob(job_id=job_id)
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

    def _forget(self, active: ActiveJob) -> None:
        if self._active.get(active.job_id) is active:
            del self._active[active.job_id]

    def _render_all(self, job: Job, active: ActiveJob) -> DeviceLost | None:
        """Renders the clips that the job lacks and records failures. Returns the error of a lost device.

        Raises Cancelled.
        """
        active.failures.update(job.failures)
        active.count, active.cells = len(job.generations), job.cells
        finished = {clip.index for clip in job.clips}
        for index in range(active.count):
            if index in finished or index in job.failures:
                continue
            self._running = running = Running(job.id, index, active.count, Progress("checking"))
            self._timed = _TimedClip(running, time.monotonic())
            rendered = attempt(partial(self._render_clip, job, running, active), job.id, running.index)
            if isinstance(rendered, WanUIError):
                lost = self._lost_device(running, rendered)
                self._timed = None
                if lost is not None:
                    active.error = prompt_error(lost, running.index, running.of)
                    return lost
                self._record_failure(active, running.index, rendered, self._running.progress.phase)
            else:
                taken = partial(self._hand_on, self._timed)
                if not self._writer.hand_over(partial(self._write, active, rendered), taken):
                    raise Cancelled("No clip can be written any more.")
            self._timed = None
            del rendered  # its frames
            if active.error is not None:
                return None
        return None

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

    def _render_clip(self, job: Job, running: Running, active: ActiveJob) -> RenderedClip:
        """Raises Cancelled, also if the job failed meanwhile."""
        generation, cell = job.generations[running.index], cell_note(job, running.index)
        times = PhaseTimes(self._observe)
        looked_ahead = False
        shown = running

        def publish(progress: Progress) -> None:
            nonlocal shown
            note = " · ".join(filter(None, (cell, progress.note)))
            self._running = shown = reported(shown, replace(progress, note=note))
            stopped = self._stopping.is_set() or self._broken is not None or active.error is not None
            if stopped or self._store.cancel_requested(job.id):
                raise Cancelled("Canceled.")

        def on_progress(progress: Progress) -> None:
            nonlocal looked_ahead
            times.enter(progress.phase)
            if progress.phase == "downloading":
                self._timed = _TimedClip(running, time.monotonic())
            publish(progress)
            if progress.phase == "denoise" and not looked_ahead:
                looked_ahead = True
                self._look_ahead()

        try:
            on_progress(running.progress)
            clip = self._render(generation, on_progress)
        finally:
            times.enter(None)
        publish(Progress("encode", generation.sample_steps, generation.sample_steps))
        return RenderedClip(job, running.index, clip, times.seconds)

    def _look_ahead(self) -> None:
        if self._hooks.next_up is None:
            return
        waiting = (job for job in self._store.unfinished(JOBS_AHEAD) if job.status == "in_queue" and job.ready)
        job = next(waiting, None)
        if job is not None:
            self._hooks.next_up(job.generations[0])

    def _hand_on(self, timed: _TimedClip | None) -> None:
        """Called when the writer takes a clip: from then on it counts as written, no longer as rendered."""
        self._writing, self._timed_writing = self._running, timed

    def _write(self, active: ActiveJob, rendered: RenderedClip, epoch: int | None = None) -> None:
        try:
            super()._write(active, rendered, epoch)
        finally:
            self._timed_writing = None
