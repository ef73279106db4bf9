"""What the two that run the store's jobs share: `Worker` on one slot, `Dispatcher` on several."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from wan_ui.compare import PlannedCell
from wan_ui.engine.result import Clip, Phase, Progress
from wan_ui.errors import Cancelled, HostError, ModelInUse, QueueStopped, RestartNeeded, WanUIError
from wan_ui.job import FINAL, Job
from wan_ui.jobs.clip_writer import ClipWriter, WriteVideo
from wan_ui.jobs.job_errors import affects_every_cell, attempt, cells_failed, prompt_error
from wan_ui.jobs.store import MAX_ATTEMPTS, Store
from wan_ui.jobs.writer import Writer
from wan_ui.pool.slots import Memory
from wan_ui.request import Generation

log = logging.getLogger(__name__)

Measured = Callable[[Generation, Clip, Mapping[str, float], float], None]
"""Called after a clip was written, with its seconds by phase and those of its encoding."""
LAST_WRITES = 3  # tries to record a job's end before the process ends; an end that is not recorded counts as an attempt

T = TypeVar("T")


@dataclass(frozen=True)
class RenderLimits:
    """`timeout`: seconds that one clip may take until its file is written, downloads excluded; None for no limit.

    A job fails after `max_attempts` processes ended while running it. While the database cannot be written, a write is
    tried again every `retry_seconds`.
    """

    timeout: float | None = None
    max_attempts: int = MAX_ATTEMPTS
    retry_seconds: float = 5.0


@dataclass(frozen=True)
class WorkerHooks:
    """What a worker calls beside the render, each where it is given.

    `check_device` after every failed render, when its tensors are released; it raises DeviceLost for a device that
    can no longer be used. `observe` after each phase, with its seconds. `next_up` while a clip denoises, with the
    first generation of the job that waits next. `tidy` before the first job and after each, to delete old clips.
    `measured` after each written clip, with its seconds by phase and those of its encoding. `unload` frees the model
    that is loaded, `loaded` returns that model's id, `memory` what memory is free; None where that is not known.
    """

    check_device: Callable[[], None] | None = None
    observe: Callable[[Phase, float], None] | None = None
    next_up: Callable[[Generation], None] | None = None
    tidy: Callable[[], None] | None = None
    measured: Measured | None = None
    unload: Callable[[], None] | None = None
    loaded: Callable[[], str | None] | None = None
    memory: Callable[[], Memory | None] | None = None


@dataclass(frozen=True)
class Running:
    """A moment of a job that runs: generation `index` of `of` and its progress.

    `writing`: the generation of the same job whose file is being written meanwhile. `slot` names the GPU, where several
    are in use, and `gpus` is how many render this clip together. `picture` is the generation's latest live picture, an
    animated WebP, and `pictures` how many there were.
    `phase_since` and `reported_at` are the start of the phase and the time of the report on the monotonic clock.
    """

    job_id: str
    index: int
    of: int
    progress: Progress
    writing: int | None = None
    slot: str = ""
    picture: bytes | None = field(default=None, repr=False)
    pictures: int = 0
    phase_since: float = field(default=0.0, repr=False, compare=False)
    reported_at: float = field(default=0.0, repr=False, compare=False)
    gpus: int = 1


@dataclass(frozen=True)
class SlotState:
    """A slot as the page, /v1/health and /metrics show it.

    `model` is what it has loaded, as far as its clips tell. `failures`: how often its process ended in a render.
    """

    name: str
    device: str | None
    is_started: bool
    model: str | None
    running: Running | None
    failures: int

    def body(self) -> dict[str, Any]:
        """The slot as it is sent: it names no job, since health is answered without a password."""
        seconds_left = None if self.running is None else self.running.progress.seconds_left
        return {
            "name": self.name,
            "device": self.device,
            "state": "rendering" if self.running is not None else "idle" if self.is_started else "stopped",
            "model": self.model,
            "seconds_left": None if seconds_left is None else round(seconds_left, 1),
            "failures": self.failures,
        }


@dataclass(kw_only=True)
class ActiveJob:
    """A claimed job until its end is recorded, and what has gone wrong so far.

    It has `count` generations. `failures` are error bodies of a comparison's generations, by index. `error` is the body
    of the error that ends the job: no further generation is started then.
    """

    job_id: str
    since: float = field(default_factory=time.monotonic)
    count: int = 1
    cells: Sequence[PlannedCell] = ()
    failures: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None
    canceled: bool = False

    @property
    def is_stopped(self) -> bool:
        """Whether no further clip of it is to be rendered."""
        return self.canceled or self.error is not None


@dataclass(frozen=True)
class RenderedClip:
    """A clip whose file is not written yet, of generation `index`. `seconds` by phase."""

    job: Job
    index: int
    clip: Clip
    seconds: Mapping[str, float]

    @property
    def generation(self) -> Generation:
        """What was rendered."""
        return self.job.generations[self.index]


class PhaseTimes:
    """How long the phases of a clip took, in `seconds`; `observe` is called with each as it ends."""

    def __init__(self, observe: Callable[[Phase, float], None]) -> None:
        self.seconds: dict[str, float] = {}
        self._observe = observe
        self._current: tuple[Phase, float] | None = None

    def enter(self, phase: Phase | None) -> None:
        """A report of a phase, which begins unless it lasts already; None: the last one ends."""
        now, current = time.monotonic(), self._current
        if current is not None and current[0] == phase:
            return
        if current is not None:
            self._observe(current[0], now - current[1])
            self.seconds[current[0]] = self.seconds.get(current[0], 0.0) + now - current[1]
        self._current = None if phase is None else (phase, now)


class JobRunner(ABC):
    """Renders the store's jobs; any thread may call any public method.

    After a lost device, a timeout or the unexpected end of a thread, `broken` is set: no further job is started, and
    the process should end with the error's exit code.
    """

    def __init__(
        self,
        store: Store,
        clips_dir: Path,
        write_video: WriteVideo,
        limits: RenderLimits | None = None,
        hooks: WorkerHooks | None = None,
    ) -> None:
        self._store = store
        self._clip_writer = ClipWriter(store, clips_dir, write_video)
        self._limits = limits or RenderLimits()
        self._hooks = hooks or WorkerHooks()
        self._active: Mapping[str, ActiveJob] = {}
        self._running: Running | None = None
        self._writing: Running | None = None
        self._broken: RestartNeeded | None = None
        self._stopping = threading.Event()
        self._ended = threading.Condition()
        self._writer = Writer("wan-ui-writer", self._writer_ended)

    @property
    def is_stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stopping.is_set()

    @property
    def broken(self) -> RestartNeeded | None:
        """Why this process can render no more, None while it can. The job that it happened to has ended by then."""
        return self._broken

    def recover(self) -> None:
        """Requeue the jobs that a dead process left running. Only before the start."""
        self._clip_writer.remove_incomplete_files()
        for job_id, status in self._store.recover(self._limits.max_attempts).items():
            log.warning("the process ended while running this", extra={"request_id": job_id, "status": status})

    @abstractmethod
    def start(self) -> None:
        """Recover and start the threads. Once per runner."""

    @abstractmethod
    def stop(self, timeout: float = 8.0) -> bool:
        """Stop, with the running jobs back in the queue; whether that took at most `timeout` seconds."""

    @abstractmethod
    def wake(self) -> None:
        """Notify that a job was added, can run now, has ended or was moved."""

    def place(self, job_id: str) -> None:
        """Notify that the owner moved a waiting job: what is behind it now is begun after it."""
        self.wake()

    @abstractmethod
    def cancel(self, job_id: str) -> None:
        """Cancel a waiting job at once and a running one before its next step; a finished job is unchanged."""

    def running(self, job_id: str) -> Running | None:
        """What is being rendered of a job if it runs, else what is being written of it."""
        rendering, writing = self._rendering(job_id), self._writing  # in this order: a clip goes from first to second
        if writing is None or writing.job_id != job_id:
            return rendering
        return writing if rendering is None else replace(rendering, writing=writing.index)

    def at_work(self) -> Running | None:
        """What is being rendered, of whichever job, else what is being written; of several the one that moved last."""
        running, writing = self._running, self._writing
        return writing if running is None else running

    def slots(self) -> tuple[SlotState, ...]:
        """The slots as they are now; none where the process itself renders."""
        return ()

    @abstractmethod
    def models(self) -> tuple[str, ...]:
        """The ids of the models that are loaded."""

    @abstractmethod
    def unload(self) -> None:
        """Free the loaded models; the next job loads its own again. Raises ModelInUse while a clip is rendered."""

    def memory(self) -> Memory | None:
        """The memory that models are loaded into, as measured now; None where it cannot be measured."""
        return None if self._hooks.memory is None else self._hooks.memory()

    def progress(self, job_id: str) -> Progress | None:
        """The latest progress of a job if it runs."""
        running = self.running(job_id)
        return None if running is None else running.progress

    def wait(self, job_id: str, timeout: float) -> bool:
        """Whether the job reached a final status within `timeout` seconds. Raises RequestNotFound."""
        with self._ended:
            return self._ended.wait_for(lambda: self._store.job(job_id).status in FINAL, timeout)

    def _rendering(self, job_id: str) -> Running | None:
        """What is being rendered of a job."""
        running = self._running
        return running if running is not None and running.job_id == job_id else None

    def _report_writing(self, fraction: float) -> None:
        """Called with the share of a clip's frames that are encoded."""
        writing = self._writing
        if writing is not None:
            self._writing = reported(writing, replace(writing.progress, phase="encode", fraction=fraction))

    def _write(self, active: ActiveJob, rendered: RenderedClip, epoch: int | None = None) -> None:
        """Writes a clip on the writer's thread, rendered under a lease's `epoch`, and records what goes wrong."""
        job, index, clip, seconds = rendered.job, rendered.index, rendered.clip, rendered.seconds
        write = partial(self._clip_writer.write, job, index, clip, seconds, self._report_writing, epoch)
        start = time.monotonic()
        try:
            error = attempt(write, job.id, index)
            if error is not None:
                self._record_failure(active, index, error, "encode")
            elif self._hooks.measured is not None:
                encode = time.monotonic() - start
                self._persist(partial(self._hooks.measured, rendered.generation, clip, seconds, encode), 1)
        except Cancelled:
            active.canceled = True
        finally:
            self._observe("encode", time.monotonic() - start)
            self._writing = None

    def _record_failure(self, active: ActiveJob, index: int, error: WanUIError, phase: Phase) -> None:
        """Marks a cell as failed, or sets the error that ends the job."""
        if not active.cells:
            active.error = active.error or prompt_error(error, index, active.count)
        elif affects_every_cell(error, phase):
            active.error = active.error or error.body()
        else:
            active.failures[index] = error.body()
            self._persist(partial(self._store.add_failure, active.job_id, index, error.body()))

    def _end(self, active: ActiveJob, tries: int | None = None) -> None:
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
        self._forget(active)
        log.info(event, extra={"request_id": job_id, "seconds": round(time.monotonic() - active.since, 3)})
        self._announce()
        if self._broken is None:
            self._tidy()

    @abstractmethod
    def _forget(self, active: ActiveJob) -> None:
        """Called when the end of a job is recorded; it may have been queued again already."""

    def _requeue_active(self, timeout: float) -> None:
        """Puts the jobs back in the queue that still run at the stop."""
        for job_id in tuple(self._active):
            log.warning("still running at the stop", extra={"request_id": job_id, "seconds": timeout})
            self._persist(partial(self._store.requeue, job_id))

    def _persist(self, write: Callable[[], T], tries: int | None = None) -> T | None:
        """Writes to the store, again and again while that fails. None when stopped meanwhile, or after `tries`."""
        while True:
            try:
                return write()
            except HostError as error:
                log.error("%s Trying again in %s s.", error.message, self._limits.retry_seconds)
                tries = None if tries is None else tries - 1
                if tries == 0 or self._stopping.wait(self._limits.retry_seconds):
                    return None

    def _check_stopped(self) -> None:
        """Sets `broken` if a thread ends that was not asked to."""
        if self._broken is None and not self._stopping.is_set():
            self._broken = QueueStopped("The queue stopped after an unexpected error. Details are in the server log.")
        self._announce()

    def _writer_ended(self) -> None:
        """Called when the writer's thread ends."""
        self._check_stopped()

    def _tidy(self) -> None:
        if self._hooks.tidy is not None:
            self._persist(self._hooks.tidy, 1)

    def _observe(self, phase: Phase, seconds: float) -> None:
        if self._hooks.observe is not None:
            self._hooks.observe(phase, seconds)

    def _announce(self) -> None:
        with self._ended:
            self._ended.notify_all()


def reported(running: Running, progress: Progress) -> Running:
    """The moment after a report: its progress, the latest live picture, and since when its phase lasts.

    Loading lasts since the checkpoint is checked, as in the timings that it is compared with.
    """
    now, phases = time.monotonic(), (running.progress.phase, progress.phase)
    is_same_phase = running.phase_since and (phases[0] == phases[1] or phases == ("checking", "loading"))
    return replace(
        running,
        progress=replace(progress, picture=None),
        picture=progress.picture or running.picture,
        pictures=running.pictures + (progress.picture is not None),
        phase_since=running.phase_since if is_same_phase else now,
        reported_at=now,
    )


def model_in_use() -> ModelInUse:
    """The error for unloading while a clip is rendered."""
    return ModelInUse("A video is being rendered with this model. Unload it when the video is finished, or cancel it.")


def cell_note(job: Job, index: int) -> str:
    """Which cell of a comparison is being rendered, in the order of rendering; empty for another job."""
    if not job.cells:
        return ""
    before = sum(cell.generation < index for cell in job.cells)
    return f"cell {before + 1} of {len(job.cells)}"
