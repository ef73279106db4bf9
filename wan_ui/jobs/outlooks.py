"""How far each unfinished job is and when it will be finished, with the jobs before it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import TYPE_CHECKING

from wan_ui.jobs.estimates import JobWork, Known, Outlook, RunningClip, outlook
from wan_ui.jobs.queue_times import SlotTime, WaitingClip, queue_times
from wan_ui.jobs.timings import UNKNOWN_DEVICE, Timings

if TYPE_CHECKING:
    from wan_ui.job import Job
    from wan_ui.jobs.runner import JobRunner, Running, SlotState
    from wan_ui.jobs.store import Store
    from wan_ui.provenance.restoring import Environment
    from wan_ui.request import Generation

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


@dataclass
class _Untouched:
    """The outlooks of jobs of which no clip has begun, which stay the same as long as `known` and `device` do.

    Each is kept with the clips that it was computed for, under the job's id and whether it loads a model.
    """

    known: Known
    device: str
    outlooks: dict[tuple[str, bool], tuple[Sequence[Generation], Outlook]] = field(default_factory=dict)

    def of(self, job: Job, loads: bool) -> Outlook:
        """The outlook of such a job."""
        kept = self.outlooks.get((job.id, loads))
        if kept is None or kept[0] != job.generations:
            work = JobWork(job.generations, frozenset(), None, loads)
            kept = self.outlooks[job.id, loads] = job.generations, outlook(work, self.known, self.device)
        return kept[1]


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
        self._untouched = _Untouched(self.timings.known, UNKNOWN_DEVICE)
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
        known, device = self.timings.known, self._device()
        if self._untouched.known is not known or self._untouched.device != device:
            self._untouched = _Untouched(known, device)
        slots = self._worker.slots()
        return self._one_after_another() if not slots else self._on_slots(slots)

    def _on_slots(self, slots: Sequence[SlotState]) -> QueueOutlook:
        """The outlooks where several slots render: clips start in the queue's order, each on the slot that is free."""
        at_work: dict[str, list[Running]] = {}
        for slot in slots:
            if slot.running is not None and slot.running not in at_work.setdefault(slot.running.job_id, []):
                at_work[slot.running.job_id].append(slot.running)
        jobs = self._jobs()
        owns: dict[str, Outlook] = {}
        for job in jobs:
            shown = self._worker.running(job.id)
            others = [each for each in at_work.get(job.id, ()) if shown is None or each.index != shown.index]
            owns[job.id] = self._outlook(job, shown, False, others)
        known = list(takewhile(lambda job: owns[job.id].seconds_left is not None, jobs))
        waiting = {job.id: self._waiting(job, owns[job.id], at_work.get(job.id, ())) for job in known}
        times = queue_times([self._slot_time(slot, owns) for slot in slots], list(waiting.values()))
        outlooks = {job.id: JobOutlook(owns[job.id], None, self._worker.running(job.id)) for job in jobs}
        for job, time_of in zip(known, times, strict=True):
            own, running = owns[job.id], outlooks[job.id].running
            ends = [own.clips.get(each.index, 0.0) for each in at_work.get(job.id, ())]
            if running is not None:
                ends.append(own.clips.get(running.index, 0.0))
            wait = 0.0 if ends else time_of.start
            left = max(time_of.end, *ends, 0.0) - wait
            outlooks[job.id] = JobOutlook(replace(own, seconds_left=left), wait, running)
        ended = [each.seconds_left for each in outlooks.values()]
        left_of_all = None if None in ended else max((each for each in ended if each is not None), default=0.0)
        return QueueOutlook(outlooks, left_of_all, any(own.about for own in owns.values()))

    def _waiting(self, job: Job, own: Outlook, at_work: Sequence[Running]) -> list[WaitingClip]:
        busy = {running.index for running in at_work}
        shown = self._worker.running(job.id)
        if shown is not None:
            busy.add(shown.index)
        return [
            WaitingClip(seconds, job.generations[index].model, own.load)
            for index, seconds in own.clips.items()
            if index not in busy
        ]

    def _slot_time(self, slot: SlotState, owns: Mapping[str, Outlook]) -> SlotTime:
        running = slot.running
        own = None if running is None else owns.get(running.job_id)
        busy = 0.0 if own is None or running is None else own.clips.get(running.index, 0.0)
        return SlotTime(busy, slot.model)

    def _one_after_another(self) -> QueueOutlook:
        """The outlooks where one slot renders everything."""
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

    def expected(self, generations: Sequence[Generation]) -> float | None:
        """Seconds for all these clips, which are in no job yet, one after another; None while nothing is known."""
        loads = generations[0].model not in self._worker.models()
        return outlook(JobWork(generations, loads=loads), self.timings.known, self._device()).seconds_left

    def _device(self) -> str:
        return (None if self._environment.device is None else self._environment.device()) or UNKNOWN_DEVICE

    def _jobs(self) -> tuple[Job, ...]:
        """The unfinished jobs, read again only after the database has changed."""
        with self._lock:
            changes = self._store.changes
            if self._read is None or self._read[0] != changes:
                self._read = changes, self._store.unfinished(QUEUE_READ)
            return self._read[1]

    def _outlook(self, job: Job, running: Running | None, loads: bool, others: Sequence[Running] = ()) -> Outlook:
        ended = frozenset({clip.index for clip in job.clips} | set(job.failures))
        beside = tuple(self._clip(each) for each in others)
        untouched = self._untouched
        if running is None and not ended and not beside:
            return untouched.of(job, loads)
        work = JobWork(job.generations, ended, None if running is None else self._clip(running), loads, beside)
        return outlook(work, untouched.known, untouched.device)

    def _clip(self, running: Running) -> RunningClip:
        now = self._clock()
        return RunningClip(
            running.index,
            running.progress,
            now - running.phase_since if running.phase_since else 0.0,
            now - running.reported_at if running.reported_at else 0.0,
            running.gpus,
        )
