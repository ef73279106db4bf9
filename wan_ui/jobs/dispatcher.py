"""Renders the queued jobs on several slots at once, clip by clip: a thread for each slot, and one that chooses."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from wan_ui.engine.result import Phase, Progress
from wan_ui.errors import (
    Cancelled,
    GroupLost,
    HostError,
    QueueStopped,
    RenderTimedOut,
    SlotLost,
    SlotUnfit,
    WanUIError,
)
from wan_ui.job import Job
from wan_ui.jobs.clip_writer import WriteVideo
from wan_ui.jobs.job_errors import attempt, prompt_error
from wan_ui.jobs.leases import Leases
from wan_ui.jobs.lending import Helper, LostGroups, choose_helpers
from wan_ui.jobs.queue_order import PlacedJobs
from wan_ui.jobs.runner import (
    ActiveJob,
    JobRunner,
    PhaseTimes,
    RenderedClip,
    RenderLimits,
    Running,
    SlotState,
    WorkerHooks,
    cell_note,
    model_in_use,
    reported,
)
from wan_ui.jobs.scheduler import Scheduler, Unit, units_of
from wan_ui.jobs.slot_use import LeasedJob, SlotRules, SlotUse, Task
from wan_ui.jobs.store import Store
from wan_ui.pool.groups import SlotGroup
from wan_ui.pool.slots import Slot

log = logging.getLogger(__name__)

T = TypeVar("T")


class Dispatcher(JobRunner):
    """Runs the store's jobs on slots, a clip at a time on each; the same calls as `Worker`, which has one slot.

    Clips are leased one by one and may be rendered in any order; a job ends when its last clip is written. A slot that
    ends in the middle of a clip gives its lease back: the clip is rendered elsewhere, and the job counts an attempt, as
    when a server ends. All other failures, cancellations and stops are those of `Worker`.
    """

    def __init__(
        self,
        store: Store,
        slots: Sequence[Slot],
        clips_dir: Path,
        write_video: WriteVideo,
        limits: RenderLimits | None = None,
        hooks: WorkerHooks | None = None,
        rules: SlotRules | None = None,
    ) -> None:
        super().__init__(store, clips_dir, write_video, limits, hooks)
        self._leases = Leases(store)
        self._rules = rules or SlotRules()
        self._scheduler = Scheduler(len(slots))
        self._uses = {slot.name: SlotUse(slot) for slot in slots}
        for slot in slots:
            self._scheduler.gpus.set_slot(slot.name, slot.device_name)
        self._lost_groups = LostGroups()
        self._active: dict[str, LeasedJob] = {}
        self._placed = PlacedJobs()
        self._is_stale = True
        self._changed = threading.Condition(threading.RLock())
        self._threads = [
            threading.Thread(target=self._guarded, args=(self._dispatch,), name="wan-ui-dispatcher", daemon=True),
            *(self._thread_of(use) for use in self._uses.values()),
        ]

    # The calls of Worker

    def start(self) -> None:
        """Recover and start the threads. Once per dispatcher."""
        self.recover()
        self._writer.start()
        with self._changed:
            for thread in self._threads:
                thread.start()

    def stop(self, timeout: float = 8.0) -> bool:
        """End the slots and requeue their jobs, no attempt counted; rendered clips are written.

        Returns False if that took longer than `timeout` seconds. The store may be closed only after True.
        """
        self._stopping.set()
        for use in self._uses.values():
            use.slot.end()
        self._announce()
        if self._threads[0].ident is None:
            return True
        end = time.monotonic() + timeout
        for thread in tuple(self._threads):
            thread.join(max(0.0, end - time.monotonic()))
        self._writer.close()
        ended = self._writer.join(max(0.0, end - time.monotonic()))
        ended = ended and not any(thread.is_alive() for thread in self._threads)
        for use in self._uses.values():
            use.slot.end()  # one that was being started when the others ended
        self._requeue_active(timeout)
        return ended

    def wake(self) -> None:
        """Notify the dispatcher that a job was added, or that one can run now, has ended or was moved."""
        with self._changed:
            self._is_stale = True
        self._announce()

    def place(self, job_id: str) -> None:
        """Notify that the owner moved a waiting job: what is behind it now is begun after it."""
        with self._changed:
            self._placed.add(job_id)
        self.wake()

    def cancel(self, job_id: str) -> None:
        """Cancel a waiting job at once and a running one before its next step; a finished job is unchanged."""
        self._store.request_cancel(job_id)
        with self._changed:
            self._is_stale = True
            self._placed.forget(job_id)  # if it is retried, it comes at the end
            active = self._active.get(job_id)
            if active is not None:
                active.canceled = True
                self._settle(active)
        self._announce()

    def slots(self) -> tuple[SlotState, ...]:
        """The slots as they are now; one that helps another renders that one's clip."""
        return tuple(
            SlotState(
                name,
                use.slot.device_name,
                use.slot.is_started,
                use.model if use.slot.is_started else None,
                self._uses.get(use.lent_to or name, use).running,
                use.failures,
            )
            for name, use in self._uses.items()
        )

    def models(self) -> tuple[str, ...]:
        """The ids of the models that the slots have loaded, each once."""
        return tuple(dict.fromkeys(slot.model for slot in self.slots() if slot.model is not None))

    def unload(self) -> None:
        """End the slots' processes, which hold the models. Raises ModelInUse while a clip is rendered."""
        with self._changed:
            uses = self._uses.values()
            if any(use.task is not None or use.lent_to is not None for use in uses):
                raise model_in_use()
            for use in uses:
                self._scheduler.emptied(use.slot.name)
                use.slot.end()
        self._announce()

    # Slots that come and go

    def add_slot(self, slot: Slot) -> None:
        """Use a further slot from now on."""
        with self._changed:
            use = SlotUse(slot)
            thread = self._thread_of(use)
            self._uses = {**self._uses, slot.name: use}
            self._scheduler.gpus.set_slot(slot.name, slot.device_name)
            self._threads = [*(each for each in self._threads if each.ident is None or each.is_alive()), thread]
            self._scheduler.resize(len(self._uses))
            if self._threads[0].ident is not None:
                thread.start()
        self._announce()

    def remove_slot(self, name: str) -> None:
        """Use a slot no more: it is ended, and the clip that it renders is rendered elsewhere."""
        with self._changed:
            use = self._uses.get(name)
            if use is None:
                return
            use.has_left = True
            self._uses = {key: other for key, other in self._uses.items() if key != name}
            self._scheduler.left(name)
            self._scheduler.resize(len(self._uses))
        use.slot.end()
        self._announce()

    def wanted_slots(self) -> int:
        """The number of clips that are rendered or wait."""
        with self._changed:
            return len(self._scheduler) + sum(use.task is not None for use in self._uses.values())

    def _thread_of(self, use: SlotUse) -> threading.Thread:
        return threading.Thread(target=self._serve_guarded, args=(use,), name=use.slot.name, daemon=True)

    def _rendering(self, job_id: str) -> Running | None:
        """The first of a job's clips at work."""
        uses = [use.running for use in self._uses.values()]
        rendering = [running for running in uses if running is not None and running.job_id == job_id]
        return min(rendering, key=lambda running: running.index, default=None)

    # Choosing

    def _dispatch(self) -> None:
        self._tidy()
        while not self._stopping.is_set() and self._broken is None:
            with self._changed:
                work = self._persist(self._assign_all, 1)
                pause = self._limits.retry_seconds if work is None else self._until_resumed()
                self._changed.wait(pause)

    def _assign_all(self) -> bool:
        """Reads the queue if it changed, and gives every idle slot its next clip."""
        if self._is_stale:
            self._read_queue()
            self._is_stale = False
        while idle := self._idle():
            assignment = self._scheduler.assign(idle)
            if assignment is None:
                break
            self._give(self._uses[assignment.slot], assignment.unit)
            if not len(self._scheduler):
                self._lend_idle(self._uses[assignment.slot], assignment.loads)
        return True

    def _idle(self) -> list[str]:
        now = time.monotonic()
        return [
            name
            for name, use in self._uses.items()
            if use.task is None and use.lent_to is None and use.paused_until <= now
        ]

    def _lend_idle(self, use: SlotUse, loads: bool) -> None:
        """Nothing else waits: lets idle slots help with a clip, where its bits stay the same."""
        task = use.task
        if task is None or not self._lost_groups.allow(task.unit, use.slot.machine):
            return
        unit = task.unit
        split, names = choose_helpers(
            task.active.job.generations[unit.index],
            self._helper(use.slot, unit),
            [
                self._helper(self._uses[name].slot, unit)
                for name in self._idle()
                if self._scheduler.may_take(name, unit)
            ],
            self._rules.split,
            self._scheduler.estimate(unit),
            loads,
        )
        if not names:
            return
        members = tuple(self._uses[name] for name in names)
        for member in members:
            member.lent_to = use.slot.name
            self._scheduler.shares(member.slot.name, unit)
        use.task = replace(task, members=members, split=split)

    def _helper(self, slot: Slot, unit: Unit) -> Helper:
        fit = unit.needs.fit(self._scheduler.loaded(slot.name))
        return Helper(slot.name, slot.device_name, fit, slot.machine, slot.joined)

    def _until_resumed(self) -> float | None:
        """Seconds until a paused slot may be used again; None if no clip waits for one."""
        now = time.monotonic()
        pauses = [use.paused_until - now for use in self._uses.values() if use.task is None and use.paused_until > now]
        return max(0.01, min(pauses)) if pauses and len(self._scheduler) else None

    def _read_queue(self) -> None:
        """Brings the scheduler to what waits in the store, and ends jobs of which nothing is left to render."""
        queue = self._leases.waiting_jobs()
        listed = [job_id for job_id, _ in queue]
        known = self._scheduler.jobs()
        for job_id in known - set(listed):
            self._scheduler.discard(job_id)
        for job_id in listed:
            if job_id in known or job_id in self._active:
                continue
            read = attempt(partial(self._read_job, job_id), job_id, 0)
            if isinstance(read, HostError):
                raise read
            if isinstance(read, WanUIError):
                self._refuse(job_id, read)
                continue
            job, units = read
            if job.cells:
                self._scheduler.gpus.begin(job_id, next(iter(job.gpu_models), None))
            self._scheduler.add(units)
            if not units and self._leases.claim(job_id):
                self._settle(self._activate(job))
        self._scheduler.reorder(listed)
        self._scheduler.place(self._placed.stages(queue))

    def _read_job(self, job_id: str) -> tuple[Job, tuple[Unit, ...]]:
        """A job and the clips that it lacks."""
        job = self._store.job(job_id)
        return job, units_of(job)

    def _refuse(self, job_id: str, error: WanUIError) -> None:
        """Fails a job that cannot be read, such as one that another version has left."""
        if self._leases.claim(job_id):
            self._store.finish(job_id, "failed", prompt_error(error, 0, 1))
            self._announce()

    def _activate(self, job: Job) -> LeasedJob:
        active = self._active[job.id] = LeasedJob(
            job_id=job.id, count=len(job.generations), cells=job.cells, failures=dict(job.failures), job=job
        )
        log.info("started", extra={"request_id": job.id})
        return active

    def _give(self, use: SlotUse, unit: Unit) -> None:
        """Leases a chosen clip to a slot; a job that was canceled or has ended meanwhile is forgotten."""
        name = use.slot.name
        try:
            is_claimed = self._leases.claim(unit.job_id)
            active = self._active.get(unit.job_id)
            if is_claimed and active is None:
                active = self._activate(self._store.job(unit.job_id))
            lease = self._leases.lease(unit.job_id, unit.index, name) if is_claimed else None
        except HostError:
            self._scheduler.ended(unit, None)
            self._scheduler.requeue(unit)
            raise
        if lease is None or active is None:
            self._scheduler.ended(unit, None)
            self._scheduler.discard(unit.job_id)
            return
        active.at_work.add(unit.index)
        use.task = Task(unit, lease, active)
        use.running = Running(unit.job_id, unit.index, active.count, Progress("checking"), slot=name)
        self._changed.notify_all()

    # One slot

    def _serve_guarded(self, use: SlotUse) -> None:
        has_left = False
        try:
            has_left = self._serve(use)
        finally:
            if not has_left:
                self._check_stopped()

    def _serve(self, use: SlotUse) -> bool:
        """Renders what the slot is given; whether it has left, else the dispatcher stops."""
        while not self._stopping.is_set() and self._broken is None:
            with self._changed:
                has_news = self._changed.wait_for(
                    lambda: self._has_news(use), self._rules.idle if use.slot.is_started else None
                )
                task, use.has_helped = use.task, False
                if use.has_left and task is None:
                    return True
                if not has_news and use.lent_to is None:
                    log.info("slot unused", extra={"slot": use.slot.name, "seconds": self._rules.idle})
                    self._scheduler.emptied(use.slot.name)
                    use.slot.end()
            if task is not None:
                self._render(use, task)
        return False

    def _has_news(self, use: SlotUse) -> bool:
        """Whether a slot's thread has something to do, or its time without work begins anew."""
        is_ending = use.has_left or self._stopping.is_set() or self._broken is not None
        return use.task is not None or use.has_helped or is_ending

    def _render(self, use: SlotUse, task: Task) -> None:
        """Renders a clip and hands it to the writer, or records why there is none."""
        start = time.monotonic()
        unit, active = task.unit, task.active
        try:
            result = attempt(partial(self._render_clip, use, task), unit.job_id, unit.index)
            spent, phase = time.monotonic() - start, _phase(use)
            if isinstance(result, SlotUnfit):
                self._give_elsewhere(use, task, result)
                return
            if isinstance(result, GroupLost) and not self._stopping.is_set():
                self._render_alone(use, task, result)
            elif isinstance(result, SlotLost) and not self._stopping.is_set():
                self._lose(use, task, result)
            elif isinstance(result, SlotLost):
                raise Cancelled("The server stops.")
            elif isinstance(result, WanUIError):
                self._record_failure(active, unit.index, result, phase)
                self._free(use, task, spent, is_whole=False)
                self._leave(task)
            else:
                self._hand_over(use, task, result, spent)
        except Cancelled:
            active.canceled = True
            self._free(use, task, time.monotonic() - start, is_whole=False)
            self._leave(task)

    def _render_clip(self, use: SlotUse, task: Task) -> RenderedClip:
        """Raises Cancelled, also if the job failed meanwhile, and RenderTimedOut."""
        job, index = task.active.job, task.unit.index
        generation, note = job.generations[index], cell_note(job, index)
        limit, started = self._limits.timeout, time.monotonic()
        times = PhaseTimes(self._observe)
        shown = use.running or Running(job.id, index, len(job.generations), Progress("checking"), slot=use.slot.name)
        shown = replace(shown, gpus=task.split.ranks)

        def check() -> None:
            if self._stopping.is_set() or self._broken is not None or task.active.is_stopped:
                raise Cancelled("Canceled.")
            if limit is not None and time.monotonic() - started > limit:
                raise RenderTimedOut(
                    f"This took longer than the {limit:g} s that a video may take. Try a smaller size, fewer frames or "
                    "fewer steps, or a longer --job-timeout.",
                    seconds=limit,
                )

        def on_progress(progress: Progress) -> None:
            nonlocal shown, started
            times.enter(progress.phase)
            if progress.phase == "downloading":
                started = time.monotonic()
            text = " · ".join(filter(None, (note, progress.note)))
            use.running = self._running = shown = reported(shown, replace(progress, note=text))
            check()

        on_progress(Progress("checking"))
        use.model = generation.model
        for member in task.members:
            member.model = use.model
        lossless = job.training_sample(index) is not None
        if task.members:
            group = SlotGroup([use.slot, *(member.slot for member in task.members)], task.split)
            clip = group.render(generation, on_progress, check, lossless)
        else:
            clip = use.slot.render(generation, on_progress, check, lossless=lossless)
        on_progress(Progress("encode", generation.sample_steps, generation.sample_steps))
        return RenderedClip(job, index, clip, times.seconds)

    def _give_elsewhere(self, use: SlotUse, task: Task, error: SlotUnfit) -> None:
        """Leaves a clip to slots that can render its model; its job fails when none of those in use can."""
        unit, active = task.unit, task.active
        self._persist(partial(self._leases.void, task.lease))
        with self._changed:
            log.warning("slot cannot render", extra={"slot": use.slot.name, "reason": error.message})
            self._scheduler.exclude(use.slot.name, unit)
            self._scheduler.emptied(use.slot.name)
            self._free(use, task, None)
            if self._uses and not self._scheduler.can_render(tuple(self._uses), unit):
                self._scheduler.readmit(unit)
                self._record_failure(active, unit.index, error, "checking")
            elif not active.is_stopped:
                self._scheduler.requeue(unit)
        self._leave(task)

    def _render_alone(self, use: SlotUse, task: Task, error: GroupLost) -> None:
        """Gives a clip back whose group failed: one slot renders it then. No attempt is counted for the group's."""
        self._persist(partial(self._leases.void, task.lease))
        with self._changed:
            log.warning("group failed", extra={"slot": use.slot.name, "reason": error.message})
            use.failures += 1
            self._lost_groups.add(task.unit, use.slot.machine)
            self._give_back(use, task)
        self._leave(task)

    def _lose(self, use: SlotUse, task: Task, error: SlotLost) -> None:
        """Gives a clip back whose slot ended, and lets the slot pause; its job fails at its last attempt."""
        self._persist(partial(self._leases.void, task.lease))
        was_started = error.details.get("started", True)
        if was_started:
            last = self._persist(partial(self._leases.count_attempt, task.unit.job_id, self._limits.max_attempts))
            if last is not None:
                task.active.error = task.active.error or last
        with self._changed:
            use.failures += 1
            use.in_a_row += 1
            use.failed_starts = 0 if was_started else use.failed_starts + 1
            pause = min(self._rules.pause * 2 ** (use.in_a_row - 1), self._rules.longest_pause)
            use.paused_until = time.monotonic() + pause
            self._give_back(use, task)
        self._leave(task)
        starts = self._rules.starts
        if starts is not None and all(each.failed_starts >= starts for each in self._uses.values()):
            self._broken = QueueStopped(f"No GPU can be used. {error.message}")
            self._announce()

    def _give_back(self, use: SlotUse, task: Task) -> None:
        """Another slot, or the same one later, renders the clip of one that has no model any more."""
        self._scheduler.emptied(use.slot.name)
        self._free(use, task, None)
        if not task.active.is_stopped:
            self._scheduler.requeue(task.unit)

    def _hand_over(self, use: SlotUse, task: Task, rendered: RenderedClip, spent: float) -> None:
        """Queues a clip for the writer, once the one before is written; the slot is idle then."""
        running = use.running

        def write() -> None:
            try:
                self._write(task.active, rendered, task.lease.epoch)
            finally:
                self._leave(task)

        def taken() -> None:
            self._writing = running
            use.in_a_row = use.failed_starts = 0
            if task.members:
                self._lost_groups.succeeded(use.slot.machine)

        if not self._writer.hand_over(write, taken):
            raise Cancelled("No clip can be written any more.")
        self._free(use, task, spent)

    def _free(self, use: SlotUse, task: Task, spent: float | None, is_whole: bool = True) -> None:
        """Makes a slot idle again, whose GPU's model is known once it was started.

        Its visitor was given the seconds `spent` on each of the clip's slots; None: they are not counted.
        """
        with self._changed:
            self._scheduler.ended(task.unit, None if spent is None else spent * task.split.ranks, is_whole)
            if not use.has_left:
                self._scheduler.gpus.set_slot(use.slot.name, use.slot.device_name)
            if task.active.cells and spent is not None:
                self._scheduler.gpus.begin(task.unit.job_id, use.slot.device_name)
            if self._running is not None and self._running == use.running:
                self._running = None
            use.task = use.running = None
            for member in task.members:
                member.lent_to, member.has_helped = None, True
                if not member.slot.is_started:
                    self._scheduler.emptied(member.slot.name)
            self._changed.notify_all()

    # The end of a job

    def _leave(self, task: Task) -> None:
        """A clip is neither rendered nor written any more."""
        with self._changed:
            task.active.at_work.discard(task.unit.index)
            self._settle(task.active)

    def _settle(self, active: LeasedJob) -> None:
        """Ends a job when nothing of it is at work and nothing waits, or nothing may be rendered any more."""
        job_id = active.job.id
        with self._changed:
            if self._stopping.is_set() and job_id in self._scheduler.jobs():
                active.canceled = True
            if active.is_stopped:
                self._scheduler.discard(job_id)
            if active.at_work or active.is_settled or job_id in self._scheduler.jobs():
                return
            active.is_settled = True
        self._writer.add(partial(self._end, active))

    def _forget(self, active: ActiveJob) -> None:
        with self._changed:
            del self._active[active.job_id]
            self._placed.forget(active.job_id)
            self._scheduler.gpus.forget(active.job_id)
            self._lost_groups.forget(active.job_id)
            self._is_stale = True  # it may have been retried meanwhile

    # Helpers

    def _guarded(self, work: Callable[[], None]) -> None:
        """Runs a thread's work; sets `broken` if it ends without being asked to."""
        try:
            work()
        finally:
            self._check_stopped()

    def _announce(self) -> None:
        with self._changed:
            self._changed.notify_all()
        super()._announce()


def _phase(use: SlotUse) -> Phase:
    return "checking" if use.running is None else use.running.progress.phase
