"""A comparison stays on one model of GPU where it can, and says when it did not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.fakes import PATIENCE, FakeRender, fake_service, fake_write_video
from tests.jobs.helpers import body
from tests.pool.helpers import FAKE_PROGRAM, FakeSlot, options
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.api.serializers import gpu_notes
from wan_ui.engine.result import Clip
from wan_ui.jobs.comparison_gpus import ComparisonGpus
from wan_ui.jobs.dispatcher import Dispatcher
from wan_ui.jobs.scheduler import Affinity, Scheduler, Unit
from wan_ui.jobs.store import Store
from wan_ui.pool.processes import ProcessSlot
from wan_ui.pool.slots import SlotDevice

SLOTS = {"a1": "H200", "a2": "H200", "b1": "L40S", "b2": "L40S"}


def cell(index: int, job: str = "grid") -> Unit:
    return Unit(job, index, None, Affinity("model"), is_compared=True)


def scheduler_of(*units: Unit, slots: dict[str, str | None] | None = None) -> Scheduler:
    scheduler = Scheduler(len(slots or SLOTS))
    for slot, model in (slots or SLOTS).items():
        scheduler.gpus.set_slot(slot, model)
    scheduler.add(units)
    return scheduler


def given(scheduler: Scheduler, *idle: str) -> tuple[str, str] | None:
    assignment = scheduler.assign(idle)
    return None if assignment is None else (assignment.slot, assignment.unit.job_id)


def test_preferred_slots() -> None:
    gpus = ComparisonGpus()
    for slot, model in {**SLOTS, "new": None}.items():
        gpus.set_slot(slot, model)
    assert [gpus.preferred("grid", slot) for slot in SLOTS] == [frozenset()] * 4  # not begun yet
    gpus.begin_on("grid", "new")  # of a model that is not known yet
    gpus.begin_on("grid", "b1")
    gpus.begin("grid", "H200")  # too late
    assert [gpus.preferred("grid", slot) for slot in ("b2", "new", "a1")] == [set(), set(), {"b1", "b2"}]
    gpus.set_slot("b1", None)
    assert gpus.preferred("grid", "a1") == {"b2"}
    gpus.set_slot("b2", None)
    assert gpus.preferred("grid", "a1") == frozenset()  # none is left: it is finished elsewhere
    gpus.set_slot("b3", "L40S")
    gpus.forget("grid")
    assert gpus.preferred("grid", "a1") == frozenset()


def test_cells_wait_for_the_model_that_the_first_was_given_to() -> None:
    scheduler = scheduler_of(*map(cell, range(4)))
    assert given(scheduler, "b1") == ("b1", "grid")
    assert given(scheduler, "a1", "a2") is None
    assert given(scheduler, "a1") is None
    assert given(scheduler, "a1", "b2") == ("b2", "grid")
    scheduler.left("b1")
    assert given(scheduler, "a1", "a2") is None  # b2 is still there
    scheduler.left("b2")
    assert given(scheduler, "a1", "a2") == ("a1", "grid")


def test_other_work_goes_to_the_slots_that_a_comparison_leaves_idle() -> None:
    scheduler = scheduler_of(*map(cell, range(4)), replace(cell(0, "video"), is_compared=False), cell(0, "grid 2"))
    assert given(scheduler, "b1") == ("b1", "grid")
    assert given(scheduler, "a1", "a2") == ("a1", "video")
    assert given(scheduler, "a2") == ("a2", "grid 2")
    assert given(scheduler, "a1") is None


def test_where_the_models_slots_lack_the_checkpoint_others_finish() -> None:
    scheduler = scheduler_of(*map(cell, range(3)))
    assert given(scheduler, "b1") == ("b1", "grid")
    scheduler.exclude("b1", cell(0))
    assert given(scheduler, "a1") is None
    scheduler.exclude("b2", cell(0))
    assert given(scheduler, "a1") == ("a1", "grid")


def compared(*seeds: int) -> dict[str, Any]:
    return {**body(1), "compare": {"columns": {"field": "seed", "values": list(seeds)}}}


def test_of_two_process_slots_of_different_models_one_renders_the_comparison(tmp_path: Path, store: Store) -> None:
    slots = [
        ProcessSlot(SlotDevice(name, device=name, model=name), options(tmp_path), program=FAKE_PROGRAM)
        for name in ("fake A", "fake B")
    ]
    dispatcher = Dispatcher(store, slots, tmp_path / "clips", fake_write_video)
    job = fake_service(store, dispatcher, tmp_path).submit(compared(1, 2, 3, 4), LOCAL_ACCESS)
    dispatcher.start()
    try:
        assert dispatcher.wait(job.id, PATIENCE)
        done = store.job(job.id)
        assert (done.status, len(done.clips), done.attempts) == ("succeeded", 4, 0)
        assert len({clip.metadata["pid"] for clip in done.clips}) == 1
        assert sum(slot.is_started for slot in slots) == 1
    finally:
        assert dispatcher.stop()


class NamedSlot(FakeSlot):
    """Renders in this process and names a model of GPU."""

    def __init__(self, model: str, render: FakeRender) -> None:
        super().__init__(f"slot {model}", render)
        self.device_name = model

    def render(self, *args: Any, **options: Any) -> Clip:
        clip = super().render(*args, **options)
        return replace(clip, metadata={**clip.metadata, "device": self.device_name})


def test_a_comparison_whose_model_is_gone_is_finished_and_says_so(
    tmp_path: Path, store: Store, render: FakeRender
) -> None:
    """Its first cell on A, which leaves while it renders the second; B, idle until then, renders the others."""
    first, second = NamedSlot("A", render), NamedSlot("B", render)
    dispatcher = Dispatcher(store, [first], tmp_path / "clips", fake_write_video)
    job = fake_service(store, dispatcher, tmp_path).submit(compared(1, 2, 3), LOCAL_ACCESS)
    gate = render.gate(2, 1)
    dispatcher.start()
    try:
        gate.await_arrival()
        dispatcher.add_slot(second)
        wait_until(lambda: store.job(job.id).gpu_models == ("A",))
        assert gpu_notes(store.job(job.id)) == []
        dispatcher.remove_slot(first.name)
        gate.open()
        assert dispatcher.wait(job.id, PATIENCE)
    finally:
        gate.open()
        assert dispatcher.stop()
    done = store.job(job.id)
    assert (done.status, first.rendered, done.gpu_models) == ("succeeded", [1, 2], ("A", "B"))
    assert second.rendered == [3]
    (note,) = gpu_notes(done)
    assert "(A, B)" in note
