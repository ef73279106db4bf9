"""How far each unfinished job is and when it will be finished, with the jobs before it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wan_ui.jobs.estimates import JobWork, Outlook, RunningClip, outlook
from wan_ui.jobs.timings import UNKNOWN_DEVICE, Timings

if TYPE_CHECKING:
    from wan_ui.job import Job
    from wan_ui.jobs.runner import JobRunner, Running
    from wan_ui.jobs.store import Store
    from wan_ui.provenance.restoring import Environment

FRESH_SECONDS = 0.2  # for which a computed outlook of the queue is given again
QUEUE_READ = 200  # unfinished jobs whose times are added up; what waits behind them has no estimate


@dataclass(frozen=True)
class JobOutlook:
    """The outlook of one unfinished job. `wait` is how long it waits until it starts, None where that is unknown."""

    own: Outlook
    wait: float | None
    running: Running | None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until it is finished."""
        return None if self.wait is None or self.own.seconds_left is None else self.wait + self.own.seconds_left


@dataclass(frozen=True)
class QueueOutlook:
    """The outlooks of the unfinished jobs by id, and the seconds until all of them are finished."""

    jobs: Mapping[str, JobOutlook]
    seconds_left: float | None
    about: bool


class Outlooks:
    """Estimates from this machine's own timings. Any thread may call any method.

    Raises HostError when the database cannot be read.
    """

    def __init__(
        self, store: Store, worker: JobRunner, environment: Environment, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.timings = Timings(store)
        self._store = store
        self._worker = worker
        self._environment = environment
        self._clock = clock
        self._lock = threading.Lock()
        self._read: tuple[int, tuple[Job, ...]] | None = None
        self._computed: tuple[float, tuple[int, Running | None], QueueOutlook] | None = None

    def queue(self) -> QueueOutlook:
        """The running job and those that wait, in their order."""
        # What is compared is read first, as the event streams do: an outlook is never older than what it is kept under.
        now, state = self._clock(), (self._store.changes, self._worker.at_work())
        known = self._computed
        if known is None or known[1] != state or now - known[0] > FRESH_SECONDS:
            known = self._computed = now, state, self._queue()
        return known[2]

    def _queue(self) -> QueueOutlook:
        outlooks: dict[str, JobOutlook] = {}
        wait: float | None = 0.0
        about, before = False, None
        for job in self._jobs():
            model = (job.generations[0].model, job.generations[0].base)
            running = self._worker.running(job.id)
            loads = model[0] not in self._worker.models() if before is None else model != before
            own = self._outlook(job, running, loads)
            outlooks[job.id] = JobOutlook(own, wait, running)
            wait = None if wait is None or own.seconds_left is None else wait + own.seconds_left
            about = about or own.about
            before = model
        return QueueOutlook(outlooks, wait, about)

    def of(self, job_id: str) -> JobOutlook | None:
        """The outlook of one job; None for a finished one."""
        return self.queue().jobs.get(job_id)

    def _jobs(self) -> tuple[Job, ...]:
        """The unfinished jobs, read again only after the database has changed."""
        with self._lock:
            changes = self._store.changes
            if self._read is None or self._read[0] != changes:
                self._read = changes, self._store.unfinished(QUEUE_READ)
            return self._read[1]

    def _outlook(self, job: Job, running: Running | None, loads: bool) -> Outlook:
        ended = frozenset({clip.index for clip in job.clips} | set(job.failures))
        work = JobWork(job.generations, ended, None if running is None else self._clip(running), loads)
        device = None if self._environment.device is None else self._environment.device()
        return outlook(work, self.timings.known, device or UNKNOWN_DEVICE)

    def _clip(self, running: Running) -> RunningClip:
        now = self._clock()
        return RunningClip(
            running.index,
            running.progress,
            now - running.phase_since if running.phase_since else 0.0,
            now - running.reported_at if running.reported_at else 0.0,
        )
