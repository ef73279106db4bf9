"""The dispatcher over slots: jobs shared out, cancel's four races, failures, lost slots, stops. Gates, no sleeps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.fakes import PATIENCE, FakeRender, Gate, fake_service, fake_write_video
from tests.jobs.helpers import body, until_made
from tests.pool.helpers import FakeSlot
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.errors import OutOfMemory, QueueStopped, SlotLost
from wan_ui.job import Job
from wan_ui.jobs.dispatcher import Dispatcher
from wan_ui.jobs.runner import RenderLimits
from wan_ui.jobs.service import JobService
from wan_ui.jobs.slot_use import SlotRules
from wan_ui.jobs.store import Store

SLOTS = ("GPU 0", "GPU 1", "GPU 2")
QUICK = SlotRules(pause=0.01, longest_pause=0.02)

Make = Callable[..., tuple[Dispatcher, JobService, list[FakeSlot]]]


@pytest.fixture
def make(store: Store, render: FakeRender, tmp_path: Path) -> Iterator[Make]:
    """Makes a dispatcher that is not started; it is stopped at the end."""
    made: list[Dispatcher] = []

    def build(count: int = 2, **options: Any) -> tuple[Dispatcher, JobService, list[FakeSlot]]:
        slots = [FakeSlot(name, render) for name in SLOTS[:count]]
        write = options.pop("write", fake_write_video)
        dispatcher = Dispatcher(store, slots, tmp_path / "clips", write, **{"rules": QUICK, **options})
        made.append(dispatcher)
        return dispatcher, fake_service(store, dispatcher, tmp_path), slots

    yield build
    for gate in render.gates.values():
        gate.open()
    for dispatcher in made:
        assert dispatcher.stop()


def test_a_slot_that_joins_takes_work_and_one_that_leaves_gives_it_back(make: Make, render: FakeRender) -> None:
    dispatcher, service, (first,) = make(1, rules=SlotRules(starts=None))
    gates = [render.gate(1, 1), render.gate(2, 1)]
    job = service.submit(body(1, 2, 3), LOCAL_ACCESS)
    dispatcher.start()
    gates[0].await_arrival()
    second = FakeSlot("GPU 1", render)
    dispatcher.add_slot(second)
    gates[1].await_arrival()
    assert dispatcher.wanted_slots() == 3
    dispatcher.remove_slot(first.name)
    assert first.ended.is_set() and [state.name for state in dispatcher.slots()] == [second.name]
    for gate in gates:
        gate.open()
    assert ended(service, dispatcher, job).status == "succeeded"
    assert dispatcher.broken is None
    job = service.submit(body(4), LOCAL_ACCESS)
    assert ended(service, dispatcher, job).status == "succeeded" and second.rendered[-1] == 4


def test_a_job_waits_for_a_first_slot(make: Make) -> None:
    dispatcher, service, slots = make(1, rules=SlotRules(starts=None))
    dispatcher.remove_slot(slots[0].name)
    dispatcher.start()
    job = service.submit(body(1), LOCAL_ACCESS)
    assert dispatcher.wanted_slots() <= 1
    dispatcher.add_slot(slots[0])
    assert ended(service, dispatcher, job).status == "succeeded"


def test_a_slot_that_lacks_the_checkpoint_leaves_the_clips_to_others(make: Make) -> None:
    dispatcher, service, (first, second) = make(2)
    first.lacks.add("wan21_1b")
    dispatcher.start()
    job = ended(service, dispatcher, service.submit(body(1, 2, 3), LOCAL_ACCESS))
    assert (job.status, job.attempts, first.rendered, sorted(second.rendered)) == ("succeeded", 0, [], [1, 2, 3])
    second.lacks.add("wan21_1b")
    failed = ended(service, dispatcher, service.submit(body(4), LOCAL_ACCESS))
    assert failed.status == "failed" and failed.error is not None and failed.error["code"] == "SLOT_UNFIT"
    first.lacks.clear()  # its owner has copied the files: it is asked again
    assert ended(service, dispatcher, service.submit(body(5), LOCAL_ACCESS)).status == "succeeded"


def ended(service: JobService, dispatcher: Dispatcher, job: Job) -> Job:
    assert dispatcher.wait(job.id, PATIENCE), f"still {service.job(job.id, LOCAL_ACCESS).status}"
    return service.job(job.id, LOCAL_ACCESS)


def test_a_jobs_clips_are_shared_out(make: Make, render: FakeRender) -> None:
    dispatcher, service, slots = make(2)
    gates = [render.gate(1, 1), render.gate(2, 1)]
    job = service.submit(body(1, 2, 3), LOCAL_ACCESS)
    dispatcher.start()
    for gate in gates:
        gate.await_arrival()  # both at once
    running = service.running(job.id, LOCAL_ACCESS)
    assert running is not None and (running.index, running.of, running.slot in SLOTS) == (0, 3, True)
    assert {state.running.index for state in dispatcher.slots() if state.running is not None} == {0, 1}
    for gate in gates:
        gate.open()
    done = ended(service, dispatcher, job)
    assert (done.status, [clip.index for clip in done.clips]) == ("succeeded", [0, 1, 2])
    assert sorted(seed for slot in slots for seed in slot.rendered) == [1, 2, 3]
    assert all(slot.rendered for slot in slots)


def test_two_jobs_run_at_once_and_a_short_one_ends_first(make: Make, render: FakeRender) -> None:
    dispatcher, service, _ = make(2)
    gate = render.gate(1, 1)
    long, short = service.submit(body(1), LOCAL_ACCESS), service.submit(body(2), LOCAL_ACCESS)
    dispatcher.start()
    gate.await_arrival()
    assert ended(service, dispatcher, short).status == "succeeded"
    assert service.job(long.id, LOCAL_ACCESS).status == "in_progress"
    gate.open()
    assert ended(service, dispatcher, long).status == "succeeded"


@pytest.mark.parametrize("slot", [0, 1])
def test_cancel_before_the_start_and_after_the_end(make: Make, render: FakeRender, slot: int) -> None:
    dispatcher, service, _ = make(slot + 1)
    first, second = service.submit(body(1), LOCAL_ACCESS), service.submit(body(2), LOCAL_ACCESS)
    assert service.cancel(first.id, LOCAL_ACCESS).status == "canceled"
    dispatcher.start()
    assert ended(service, dispatcher, second).status == "succeeded"
    assert service.cancel(second.id, LOCAL_ACCESS).status == "succeeded"
    assert render.steps(1) == []


@pytest.mark.parametrize("index", [0, 1])
def test_cancel_while_running_stops_each_slots_clip_before_its_next_step(
    make: Make, render: FakeRender, index: int
) -> None:
    dispatcher, service, _ = make(2)
    gates = [render.gate(1, 2), render.gate(2, 2)]
    job, other = service.submit(body(1, 2, 3, steps=3), LOCAL_ACCESS), service.submit(body(4), LOCAL_ACCESS)
    dispatcher.start()
    for gate in gates:
        gate.await_arrival()
    service.cancel(job.id, LOCAL_ACCESS)
    gates[index].open()
    gates[1 - index].open()
    done = ended(service, dispatcher, job)
    assert (done.status, done.clips, render.steps(1), render.steps(2)) == ("canceled", (), [1], [1])
    assert ended(service, dispatcher, other).status == "succeeded"
    assert render.steps(3) == []


def test_cancel_while_a_file_is_written_keeps_the_clip(make: Make) -> None:
    gate = Gate()

    def write(path: Path, frames: npt.NDArray[np.uint8], fps: int, metadata: Mapping[str, Any], **_: Any) -> None:
        gate.hold()
        fake_write_video(path, frames, fps, metadata)

    dispatcher, service, _ = make(2, write=write)
    job = service.submit(body(1), LOCAL_ACCESS)
    dispatcher.start()
    gate.await_arrival()
    running = dispatcher.running(job.id)
    assert running is not None and running.progress.phase == "encode"
    assert service.cancel(job.id, LOCAL_ACCESS).cancel_requested
    gate.open()
    done = ended(service, dispatcher, job)
    assert (done.status, len(done.clips)) == ("canceled", 1)


def test_a_failed_prompt_ends_its_job_and_the_slots_go_on(make: Make, render: FakeRender) -> None:
    dispatcher, service, _ = make(2)
    render.errors[1] = OutOfMemory("Not enough memory.")
    job, other = service.submit(body(1, 2, 3), LOCAL_ACCESS), service.submit(body(4), LOCAL_ACCESS)
    dispatcher.start()
    assert ended(service, dispatcher, other).status == "succeeded"
    done = ended(service, dispatcher, job)
    assert done.error is not None
    assert (done.status, done.error["code"], done.error["details"]["prompt"]) == ("failed", "OUT_OF_MEMORY", 0)
    del render.errors[1]
    service.retry(job.id, LOCAL_ACCESS)
    assert ended(service, dispatcher, job).status == "succeeded"


def test_a_failed_cell_is_marked_and_the_others_are_rendered(make: Make, render: FakeRender) -> None:
    dispatcher, service, _ = make(2)
    render.errors[2] = ValueError("unexpected")
    request = {**body(1), "compare": {"columns": {"field": "seed", "values": [1, 2, 3]}}}
    job = service.submit(request, LOCAL_ACCESS)
    dispatcher.start()
    done = ended(service, dispatcher, job)
    assert done.error is not None
    assert (done.status, done.error["code"], len(done.clips), list(done.failures)) == ("failed", "CELLS_FAILED", 2, [1])


def test_a_lost_slots_clip_is_rendered_elsewhere_and_counts_an_attempt(make: Make) -> None:
    dispatcher, service, slots = make(2)
    slots[0].lose = slots[1].lose = 1
    job = service.submit(body(1, 2, 3), LOCAL_ACCESS)
    dispatcher.start()
    done = ended(service, dispatcher, job)
    assert (done.status, done.attempts, [clip.index for clip in done.clips]) == ("succeeded", 2, [0, 1, 2])
    assert [state.failures for state in dispatcher.slots()] == [1, 1]
    assert dispatcher.broken is None


def test_a_job_fails_at_its_last_attempt_and_the_next_one_runs(make: Make) -> None:
    dispatcher, service, slots = make(1, limits=RenderLimits(max_attempts=2))
    slots[0].lose = 2
    job, other = service.submit(body(1), LOCAL_ACCESS), service.submit(body(2), LOCAL_ACCESS)
    dispatcher.start()
    done = ended(service, dispatcher, job)
    assert done.error is not None
    assert (done.status, done.error["code"], done.attempts) == ("failed", "RENDER_FAILED", 2)
    assert ended(service, dispatcher, other).status == "succeeded"


class Unusable(FakeSlot):
    """Cannot be started."""

    def render(self, *_: Any, **__: Any) -> Any:
        raise SlotLost("It cannot be used.", started=False)


def test_the_server_ends_when_no_slot_can_be_started(store: Store, render: FakeRender, tmp_path: Path) -> None:
    slots = [Unusable(name, render) for name in SLOTS[:2]]
    dispatcher = Dispatcher(store, slots, tmp_path / "clips", fake_write_video, rules=QUICK)
    service = fake_service(store, dispatcher, tmp_path)
    job = service.submit(body(1), LOCAL_ACCESS)
    dispatcher.start()
    wait_until(lambda: dispatcher.broken is not None)
    assert isinstance(dispatcher.broken, QueueStopped)
    assert dispatcher.stop()
    again = store.job(job.id)
    assert (again.status, again.attempts) == ("in_queue", 0)


def test_a_stop_puts_the_jobs_back_and_counts_no_attempt(make: Make, render: FakeRender, store: Store) -> None:
    dispatcher, service, _ = make(2)
    gate = render.gate(2, 1)
    job, waiting = service.submit(body(1, 2, 3), LOCAL_ACCESS), service.submit(body(4), LOCAL_ACCESS)
    third = render.gate(3, 1)
    dispatcher.start()
    gate.await_arrival()
    third.await_arrival()
    until_made(store, job.id, 1)
    stopped: list[bool] = []
    stopping = threading.Thread(target=lambda: stopped.append(dispatcher.stop()))
    stopping.start()
    gate.open()
    third.open()
    stopping.join(PATIENCE)
    done = store.job(job.id)
    assert (stopped, done.status, done.attempts, len(done.clips)) == ([True], "in_queue", 0, 1)
    assert store.job(waiting.id).status == "in_queue"


def test_an_unused_slot_is_emptied_and_used_again(make: Make) -> None:
    dispatcher, service, slots = make(1, rules=SlotRules(idle=0.01))
    dispatcher.start()
    first = ended(service, dispatcher, service.submit(body(1), LOCAL_ACCESS))
    assert slots[0].ended.wait(PATIENCE)
    second = ended(service, dispatcher, service.submit(body(2), LOCAL_ACCESS))
    assert (first.status, second.status, slots[0].rendered) == ("succeeded", "succeeded", [1, 2])


def test_a_slot_that_only_helped_is_emptied_too(make: Make) -> None:
    dispatcher, service, slots = make(2, rules=SlotRules(idle=0.01, split=2))
    dispatcher.start()
    assert ended(service, dispatcher, service.submit(body(1), LOCAL_ACCESS)).status == "succeeded"
    assert [len(slot.places) for slot in slots] == [1, 1]
    for slot in slots:
        assert slot.ended.wait(PATIENCE), slot.name
    assert not any(slot.is_started for slot in slots)


def test_a_job_that_cannot_be_read_fails_and_the_next_one_runs(make: Make, store: Store) -> None:
    dispatcher, service, _ = make(2)
    job, other = service.submit(body(1), LOCAL_ACCESS), service.submit(body(2), LOCAL_ACCESS)
    store.rows("UPDATE jobs SET generations = '[{}]' WHERE id = :id", {"id": job.id})
    dispatcher.start()
    assert ended(service, dispatcher, other).status == "succeeded"
    (row,) = store.rows("SELECT status, json_extract(error, '$.code') AS code FROM jobs WHERE id = :id", {"id": job.id})
    assert (row["status"], row["code"], dispatcher.broken) == ("failed", "RENDER_FAILED", None)


def test_a_retried_job_that_lacks_nothing_ends_at_once(make: Make, store: Store, render: FakeRender) -> None:
    dispatcher, service, _ = make(2)
    job = service.submit(body(1), LOCAL_ACCESS)
    dispatcher.start()
    assert ended(service, dispatcher, job).status == "succeeded"
    rendered = len(render.steps(1))
    store.rows("UPDATE jobs SET status = 'canceled' WHERE id = :id", {"id": job.id})
    service.retry(job.id, LOCAL_ACCESS)
    wait_until(lambda: store.job(job.id).status == "succeeded")
    assert len(render.steps(1)) == rendered


def test_idle_slots_help_with_the_only_clip_and_not_when_others_wait(make: Make, render: FakeRender) -> None:
    dispatcher, service, slots = make(3, rules=SlotRules(split=3))
    gate = render.gate(1, 1)
    job = service.submit(body(1), LOCAL_ACCESS)
    dispatcher.start()
    gate.await_arrival()
    leader = next(slot for slot in slots if slot.places and slot.places[0] is not None and slot.places[0].rank == 0)
    wait_until(lambda: sum(bool(slot.places) for slot in slots) == 2)
    assert [state.running is not None for state in dispatcher.slots()].count(True) == 2  # the one that helps too
    assert [str(slot.places[0].split) for slot in slots if slot.places and slot.places[0]] == ["guidance 2"] * 2
    other = service.submit(body(2), LOCAL_ACCESS)  # the third slot, alone
    assert ended(service, dispatcher, other).status == "succeeded"
    gate.open()
    assert ended(service, dispatcher, job).status == "succeeded"
    gates = [render.gate(seed, 1) for seed in (3, 4, 5)]
    several = service.submit(body(3, 4, 5), LOCAL_ACCESS)
    for each in gates:
        each.await_arrival()
    assert [slot.places[-1] for slot in slots] == [None] * 3
    for each in gates:
        each.open()
    assert ended(service, dispatcher, several).status == "succeeded"
    assert leader.rendered[0] == 1


def test_a_clip_whose_group_fails_is_rendered_by_one_slot_and_no_attempt_is_counted(make: Make) -> None:
    dispatcher, service, slots = make(2, rules=SlotRules(split=2))
    for slot in slots:
        slot.fails_in_groups = True
    dispatcher.start()
    done = ended(service, dispatcher, service.submit(body(1), LOCAL_ACCESS))
    assert (done.status, len(done.clips), done.attempts) == ("succeeded", 1, 0)
    led = [place for slot in slots for place in slot.places if place is None or place.rank == 0]
    assert len(led) == 2 and led.count(None) == 1
    assert sum(state.failures for state in dispatcher.slots()) == 1


@pytest.mark.parametrize("other", [{"device_name": "another GPU"}, {"device_name": None}, {"machine": "another"}])
def test_a_gpu_of_another_kind_or_machine_does_not_help(make: Make, other: dict[str, str | None]) -> None:
    dispatcher, service, slots = make(2, rules=SlotRules(split=2))
    for name, value in other.items():
        setattr(slots[1], name, value)
    dispatcher.start()
    assert ended(service, dispatcher, service.submit(body(1), LOCAL_ACCESS)).status == "succeeded"
    assert [place for slot in slots for place in slot.places] == [None]
