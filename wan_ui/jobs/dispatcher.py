"""Renders the queued jobs on several slots at once, clip by clip: a thread for each slot, and one that chooses."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from wan_ui.engine.result import Clip, Phase, Progress
from wan_ui.engine.split import split_of
from wan_ui.errors import Cancelled, HostError, QueueStopped, RenderTimedOut, SlotLost, WanUIError
from wan_ui.job import Job
from wan_ui.jobs.clip_writer import WriteVideo
from wan_ui.jobs.job_errors import affects_every_cell, attempt, cells_failed, prompt_error
from wan_ui.jobs.leases import Leases
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
from wan_ui.jobs.scheduler import Scheduler, Unit, units_of
from wan_ui.jobs.slot_use import ActiveJob, SlotRules, SlotState, SlotUse, Task
from wan_ui.jobs.store import Store
from wan_ui.jobs.writer import Writer
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
        self._active: dict[str, ActiveJob] = {}
        self._latest: Running | None = None
        self._writing: Running | None = None
        self._is_stale = True
        self._changed = threading.Condition(threading.RLock())
        self._writer = Writer("wan-ui-writer", self._check_stopped)
        self._threads = [
            threading.Thread(target=self._guarded, args=(self._dispatch,), name="wan-ui-dispatcher", daemon=True),
            *(
                threading.Thread(target=self._guarded, args=(partial(self._serve, use),), name=name, daemon=True)
                for name, use in self._uses.items()
            ),
        ]

    # The calls of Worker

    def start(self) -> None:
        """Recover and start the threads. Once per dispatcher."""
        self.recover()
        self._writer.start()
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
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._writer.close()
        ended = self._writer.join(max(0.0, end - time.monotonic()))
        ended = ended and not any(thread.is_alive() for thread in self._threads)
        for use in self._uses.values():
            use.slot.end()  # one that was being started when the others ended
        for job_id in tuple(self._active):
            log.warning("still running at the stop", extra={"request_id": job_id, "seconds": timeout})
            self._persist(partial(self._store.requeue, job_id))
        return ended

    def wake(self) -> None:
        """Notify the dispatcher that a job was added, or that one can run now, has ended or was moved."""
        with self._changed:
            self._is_stale = True
        self._announce()

    def cancel(self, job_id: str) -> None:
        """Cancel a waiting job at once and a running one before its next step; a finished job is unchanged."""
        self._store.request_cancel(job_id)
        with self._changed:
            self._is_stale = True
            active = self._active.get(job_id)
            if active is not None:
                active.canceled = True
                self._settle(active)
        self._announce()

    def running(self, job_id: str) -> Running | None:
        """What is being rendered of a job, the first of its clips at work, else what is being written of it."""
        uses = [use.running for use in self._uses.values()]
        rendering = [running for running in uses if running is not None and running.job_id == job_id]
        writing = self._writing
        if writing is not None and writing.job_id != job_id:
            writing = None
        if not rendering:
            return writing
        first = min(rendering, key=lambda running: running.index)
        return first if writing is None else replace(first, writing=writing.index)

    def at_work(self) -> Running | None:
        """The clip that progressed last."""
        return self._latest or self._writing

    def slots(self) -> tuple[SlotState, ...]:
        """The slots as they are now."""
        return tuple(
            SlotState(
                name,
                use.slot.device_name,
                use.slot.is_started,
                use.model if use.slot.is_started else None,
                use.running,
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
                self._lend_idle(self._uses[assignment.slot])
        return True

    def _idle(self) -> list[str]:
        now = time.monotonic()
        return [
            name
            for name, use in self._uses.items()
            if use.task is None and use.lent_to is None and use.paused_until <= now
        ]

    def _lend_idle(self, use: SlotUse) -> None:
        """Nothing else waits: lets idle slots help with a clip, where its bits stay the same."""
        task, idle = use.task, self._idle()
        if task is None or not idle:
            return
        generation = task.active.job.generations[task.unit.index]
        split = split_of(generation, min(1 + len(idle), self._rules.split))
        if split.ranks == 1:
            return
        fits = sorted(idle, key=lambda name: -task.unit.needs.fit(self._scheduler.loaded(name)))
        members = tuple(self._uses[name] for name in fits[: split.ranks - 1])
        for member in members:
            member.lent_to = use.slot.name
            self._scheduler.shares(member.slot.name, task.unit)
        use.task = replace(task, members=members, split=split)

    def _until_resumed(self) -> float | None:
        """Seconds until a paused slot may be used again; None if no clip waits for one."""
        now = time.monotonic()
        pauses = [use.paused_until - now for use in self._uses.values() if use.task is None and use.paused_until > now]
        return max(0.01, min(pauses)) if pauses and len(self._scheduler) else None

    def _read_queue(self) -> None:
        """Brings the scheduler to what waits in the store, and ends jobs of which nothing is left to render."""
        listed = [job_id for job_id, _ in self._leases.waiting_jobs()]
        known = self._scheduler.jobs()
        for job_id in known - set(listed):
            self._scheduler.discard(job_id)
        for job_id in listed:
            if job_id in known or job_id in self._active:
                continue
            job = self._store.job(job_id)
            units = units_of(job)
            self._scheduler.add(units)
            if not units and self._leases.claim(job_id):
                self._settle(self._activate(job))
        self._scheduler.reorder(listed)

    def _activate(self, job: Job) -> ActiveJob:
        active = self._active[job.id] = ActiveJob(job, time.monotonic(), failures=dict(job.failures))
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
        use.running = Running(unit.job_id, unit.index, len(active.job.generations), Progress("checking"), slot=name)
        self._changed.notify_all()

    # One slot

    def _serve(self, use: SlotUse) -> None:
        while not self._stopping.is_set() and self._broken is None:
            with self._changed:
                has_task = self._changed.wait_for(
                    lambda: use.task is not None or self._stopping.is_set() or self._broken is not None,
                    self._rules.idle if use.slot.is_started else None,
                )
                task = use.task
                if not has_task and use.lent_to is not None:
                    continue
                if not has_task:
                    self._scheduler.emptied(use.slot.name)
            if task is not None:
                self._render(use, task)
            elif not has_task:
                log.info("slot unused", extra={"slot": use.slot.name, "seconds": self._rules.idle})
                use.slot.end()

    def _render(self, use: SlotUse, task: Task) -> None:
        """Renders a clip and hands it to the writer, or records why there is none."""
        seconds: dict[str, float] = {}
        start = time.monotonic()
        unit, active = task.unit, task.active
        try:
            result = attempt(partial(self._render_clip, use, task, seconds), unit.job_id, unit.index)
            spent, phase = time.monotonic() - start, _phase(use)
            if isinstance(result, SlotLost) and not self._stopping.is_set():
                self._lose(use, task, result)
            elif isinstance(result, SlotLost):
                raise Cancelled("The server stops.")
            elif isinstance(result, WanUIError):
                self._record_failure(active, unit.index, result, phase)
                self._free(use, task, spent)
                self._leave(task)
            else:
                self._hand_over(use, task, result, seconds, spent)
        except Cancelled:
            active.canceled = True
            self._free(use, task, None)
            self._leave(task)

    def _render_clip(self, use: SlotUse, task: Task, seconds: dict[str, float]) -> Clip:
        """Raises Cancelled, also if the job failed meanwhile, and RenderTimedOut."""
        job, index = task.active.job, task.unit.index
        note, limit, started = cell_note(job, index), self._limits.timeout, time.monotonic()
        phase: tuple[Phase, float] = ("checking", started)
        shown = use.running or Running(job.id, index, len(job.generations), Progress("checking"), slot=use.slot.name)

        def check() -> None:
            if self._stopping.is_set() or self._broken is not None or task.active.is_stopped:
                raise Cancelled("Canceled.")
            if limit is not None and time.monotonic() - started > limit:
                raise RenderTimedOut(
                    f"This took longer than the {limit:g} s that a video may take. Try a smaller size, fewer frames or "
                    "fewer steps, or a longer --job-timeout.",
                    seconds=limit,
                )

        def enter(entered: Phase) -> None:
            nonlocal phase, started
            now = time.monotonic()
            if entered != phase[0]:
                seconds[phase[0]] = seconds.get(phase[0], 0.0) + now - phase[1]
                self._observe(phase[0], now - phase[1])
                phase = (entered, now)
            if entered == "downloading":
                started = now

        def on_progress(progress: Progress) -> None:
            nonlocal shown
            enter(progress.phase)
            text = " · ".join(filter(None, (note, progress.note)))
            use.running = self._latest = shown = reported(shown, replace(progress, note=text))
            check()

        on_progress(Progress("checking"))
        use.model = job.generations[index].model
        for member in task.members:
            member.model = use.model
        if task.members:
            group = SlotGroup([use.slot, *(member.slot for member in task.members)], task.split)
            clip = group.render(job.generations[index], on_progress, check)
        else:
            clip = use.slot.render(job.generations[index], on_progress, check)
        enter("encode")
        on_progress(Progress("encode", job.generations[index].sample_steps, job.generations[index].sample_steps))
        return clip

    def _lose(self, use: SlotUse, task: Task, error: SlotLost) -> None:
        """Gives a clip back whose slot ended, and lets the slot pause; its job fails at its last attempt."""
        unit, active = task.unit, task.active
        self._persist(partial(self._leases.void, task.lease))
        was_started = error.details.get("started", True)
        if was_started:
            last = self._persist(partial(self._leases.count_attempt, unit.job_id, self._limits.max_attempts))
            if last is not None:
                active.error = active.error or last
        with self._changed:
            use.failures += 1
            use.in_a_row += 1
            use.failed_starts = 0 if was_started else use.failed_starts + 1
            pause = min(self._rules.pause * 2 ** (use.in_a_row - 1), self._rules.longest_pause)
            use.paused_until = time.monotonic() + pause
            self._scheduler.emptied(use.slot.name)
            self._free(use, task, None)
            if not active.is_stopped:
                self._scheduler.requeue(unit)
        self._leave(task)
        if all(each.failed_starts >= self._rules.starts for each in self._uses.values()):
            self._broken = QueueStopped(f"No GPU can be used. {error.message}")
            self._announce()

    def _hand_over(self, use: SlotUse, task: Task, clip: Clip, seconds: Mapping[str, float], spent: float) -> None:
        """Queues a clip for the writer, once the one before is written; the slot is idle then."""
        running = use.running
        write = partial(self._write, task, clip, seconds)

        def taken() -> None:
            self._writing = running
            use.in_a_row = use.failed_starts = 0

        if not self._writer.hand_over(write, taken):
            raise Cancelled("No clip can be written any more.")
        self._free(use, task, spent)

    def _free(self, use: SlotUse, task: Task, spent: float | None) -> None:
        """Makes a slot idle again."""
        with self._changed:
            self._scheduler.ended(task.unit, spent)
            if self._latest is not None and self._latest == use.running:
                self._latest = None
            use.task = use.running = None
            for member in task.members:
                member.lent_to = None
                if not member.slot.is_started:
                    self._scheduler.emptied(member.slot.name)
            self._changed.notify_all()

    def _report_writing(self, fraction: float) -> None:
        """Called with the share of a clip's frames that are encoded."""
        writing = self._writing
        if writing is not None:
            self._writing = reported(writing, replace(writing.progress, phase="encode", fraction=fraction))

    def _write(self, task: Task, clip: Clip, seconds: Mapping[str, float]) -> None:
        """Writes a clip on the writer's thread and records what goes wrong."""
        active, index = task.active, task.unit.index
        start = time.monotonic()
        writer = self._clip_writer
        write = partial(writer.write, active.job, index, clip, seconds, self._report_writing, task.lease.epoch)
        try:
            error = attempt(write, active.job.id, index)
            if error is not None:
                self._record_failure(active, index, error, "encode")
            elif self._hooks.measured is not None:
                generation, encode = active.job.generations[index], time.monotonic() - start
                self._persist(partial(self._hooks.measured, generation, clip, seconds, encode), 1)
        except Cancelled:
            active.canceled = True
        finally:
            self._observe("encode", time.monotonic() - start)
            self._writing = None
            self._leave(task)

    # The end of a job

    def _record_failure(self, active: ActiveJob, index: int, error: WanUIError, phase: Phase) -> None:
        """Marks a cell as failed, or sets the error that ends the job."""
        job = active.job
        if not job.cells:
            active.error = active.error or prompt_error(error, index, len(job.generations))
        elif affects_every_cell(error, phase):
            active.error = active.error or error.body()
        else:
            active.failures[index] = error.body()
            self._persist(partial(self._store.add_failure, job.id, index, error.body()))

    def _leave(self, task: Task) -> None:
        """A clip is neither rendered nor written any more."""
        with self._changed:
            task.active.at_work.discard(task.unit.index)
            self._settle(task.active)

    def _settle(self, active: ActiveJob) -> None:
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

    def _end(self, active: ActiveJob) -> None:
        """Records the end of a job."""
        store, job = self._store, active.job
        error = active.error
        if error is None and active.failures and not active.canceled:
            error = cells_failed(job.cells, active.failures).body()
        end: Callable[[], object]
        if error is not None:
            event, end = "failed", partial(store.finish, job.id, "failed", error)
        elif not active.canceled:
            event, end = "succeeded", partial(store.finish, job.id, "succeeded")
        elif self._stopping.is_set() or self._broken is not None:
            event, end = "requeued: the server stops", partial(store.requeue, job.id)
        else:
            event, end = "canceled", partial(store.finish, job.id, "canceled")
        self._persist(end, LAST_WRITES if self._stopping.is_set() else None)
        with self._changed:
            del self._active[job.id]
            self._is_stale = True  # it may have been retried meanwhile
        log.info(event, extra={"request_id": job.id, "seconds": round(time.monotonic() - active.since, 3)})
        self._announce()
        if self._broken is None:
            self._tidy()

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
