"""The scheduler: affinity, the bound on overtaking, fair turns; and the leases that keep a late clip out."""

from __future__ import annotations

import heapq
import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.jobs.helpers import body
from wan_ui.job import ClipRecord, Job
from wan_ui.jobs.leases import Leases
from wan_ui.jobs.scheduler import Affinity, Candidate, Elsewhere, Scheduler, SchedulerRules, Unit, choose, units_of
from wan_ui.jobs.store import Store
from wan_ui.request import parse, resolve

RULES = SchedulerRules()


def unit(job: str, model: str = "a", visitor: str | None = None, **keys: str) -> Unit:
    return Unit(job, 0, visitor, Affinity(model, **keys))


def candidates(*units: Unit) -> list[Candidate]:
    return [Candidate(one) for one in units]


@pytest.mark.parametrize(
    ("waiting", "index"),
    [
        ([("b", {}), ("a", {})], 1),
        ([("a", {}), ("a", {"loras": "x"})], 1),
        ([("a", {"high_noise": "h"}), ("a", {"loras": "x"})], 1),
        ([("a", {"prompt": "p"}), ("a", {"high_noise": "h"})], 1),
        ([("a", {"low_loras": "y"}), ("a", {"prompt": "p"})], 1),
        ([("b", {"loras": "x", "high_noise": "h", "prompt": "p"}), ("a", {})], 1),
        ([("a", {}), ("a", {})], 0),
        ([("b", {}), ("c", {})], 1),  # another slot holds b
        ([("a", {"high_noise": "elsewhere"}), ("a", {})], 1),
    ],
)
def test_what_is_loaded_decides_in_the_order_of_what_it_costs(
    waiting: list[tuple[str, dict[str, str]]], index: int
) -> None:
    loaded = Affinity("a", "x", "h", "p", "y")
    units = [Unit(str(number), 0, None, Affinity(model, **keys)) for number, (model, keys) in enumerate(waiting)]
    assert choose(candidates(*units), loaded, Elsewhere({"a": 1, "b": 1}, {"elsewhere": 1}), 8) == index


@pytest.mark.parametrize("slots", [1, 3])
def test_a_clip_is_overtaken_at_most_as_often_as_stated(slots: int) -> None:
    scheduler = Scheduler(slots, RULES)
    scheduler.add([unit("first", "a")])
    assert scheduler.assign(["gpu"]) is not None
    scheduler.add([unit("starved", "b")])
    order = []
    for number in range(3 * slots * RULES.passes):  # a stream of clips that fit better
        scheduler.add([unit(f"stream {number}", "a"), unit(f"more {number}", "a")])
        assignment = scheduler.assign(["gpu"])
        assert assignment is not None
        order.append(assignment.unit.job_id)
    assert order.index("starved") == slots * RULES.passes


def test_the_bound_holds_behind_a_comparison_that_waits_for_other_slots() -> None:
    scheduler = Scheduler(1, RULES)
    for slot, model in (("gpu 0", "H200"), ("gpu 1", "L40S")):
        scheduler.gpus.set_slot(slot, model)
    scheduler.add([replace(unit("grid", "b"), index=index, is_compared=True) for index in range(2)])
    assert scheduler.assign(["gpu 0"]) is not None
    scheduler.add([unit("first", "a")])
    assert scheduler.assign(["gpu 1"]) is not None
    scheduler.add([unit("starved", "b")])
    order = []
    for number in range(3 * RULES.passes):  # the comparison's second cell waits in front all the time
        scheduler.add([unit(f"stream {number}", "a")])
        assignment = scheduler.assign(["gpu 1"])
        assert assignment is not None
        order.append(assignment.unit.job_id)
    assert order.index("starved") == RULES.passes


def test_several_idle_slots_take_the_first_clip_where_it_fits_best() -> None:
    scheduler = Scheduler()
    scheduler.add([unit("1", "a"), unit("2", "b"), unit("3", "b"), unit("4", "a")])
    first = scheduler.assign(["gpu 0", "gpu 1"])
    assert first is not None and (first.unit.job_id, first.loads) == ("1", True)
    other = "gpu 1" if first.slot == "gpu 0" else "gpu 0"
    second = scheduler.assign([other])
    assert second is not None and (second.unit.job_id, second.loads) == ("2", True)
    third = scheduler.assign(["gpu 0", "gpu 1"])
    assert third is not None and (third.unit.job_id, third.slot, third.loads) == ("3", other, False)
    scheduler.emptied(first.slot)
    last = scheduler.assign([first.slot])
    assert last is not None and last.loads


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_three_visitors_with_full_queues_get_the_same_seconds(slots: int) -> None:
    seconds_of = {"x": 1.0, "y": 1.5, "z": 2.0}
    scheduler = Scheduler(slots)
    for number in range(60):
        for visitor in seconds_of:
            scheduler.add([unit(f"{visitor}{number}", f"model of {visitor}", visitor)])
    given = dict.fromkeys(seconds_of, 0.0)
    draws = random.Random(7)
    running: list[tuple[float, str, Unit]] = []
    idle = [f"gpu {number}" for number in range(slots)]
    now, done = 0.0, 0
    while done < 60:
        while idle and (assignment := scheduler.assign(idle)) is not None:
            idle.remove(assignment.slot)
            visitor = str(assignment.unit.visitor)
            end = now + seconds_of[visitor] * draws.uniform(0.95, 1.05)
            heapq.heappush(running, (end, assignment.slot, assignment.unit))
            given[visitor] += end - now
        now, slot, rendered = heapq.heappop(running)
        scheduler.ended(rendered, seconds_of[str(rendered.visitor)])
        idle.append(slot)
        done += 1
    assert max(given.values()) - min(given.values()) <= 0.1 * max(given.values()), given


def test_who_comes_later_starts_level_with_the_others() -> None:
    scheduler = Scheduler()
    scheduler.add([unit(str(number), visitor="early") for number in range(20)])
    for _ in range(10):
        assignment = scheduler.assign(["gpu"])
        assert assignment is not None
        scheduler.ended(assignment.unit, 5.0)
    scheduler.add([unit(f"late {number}", visitor="late") for number in range(20)])
    served = []
    for _ in range(8):
        assignment = scheduler.assign(["gpu"])
        assert assignment is not None
        served.append(assignment.unit.visitor)
        scheduler.ended(assignment.unit, 5.0)
    assert served.count("late") == served.count("early") == 4


def test_a_stream_of_new_visitors_whose_model_is_loaded_does_not_keep_another_waiting() -> None:
    scheduler = Scheduler(1, RULES)
    scheduler.add([unit("first", "a", "first")])
    assert scheduler.assign(["gpu"]) is not None
    scheduler.add([unit("starved", "b", "starved")])
    order = []
    for number in range(3 * RULES.passes):
        scheduler.add([unit(f"new {number}", "a", f"new {number}")])
        assignment = scheduler.assign(["gpu"])
        assert assignment is not None
        order.append(assignment.unit.job_id)
        scheduler.ended(assignment.unit, 10.0)
    assert order.index("starved") == RULES.passes


def test_who_cancels_is_given_the_seconds_and_no_rate_is_learned_from_them() -> None:
    scheduler = Scheduler()
    for visitor in ("patient", "other"):
        scheduler.add([unit(f"{visitor} {number}", visitor=visitor) for number in range(20)])
    whole = scheduler.assign(["gpu"])
    assert whole is not None
    scheduler.ended(whole.unit, 10.0)
    given = {"patient": 0.0, "other": 0.0, str(whole.unit.visitor): 10.0}
    for _ in range(12):  # one visitor's clips are all canceled after half of their time
        assignment = scheduler.assign(["gpu"])
        assert assignment is not None
        visitor = str(assignment.unit.visitor)
        seconds = 5.0 if visitor == "other" else 10.0
        scheduler.ended(assignment.unit, seconds, is_whole=visitor == "patient")
        given[visitor] += seconds
        assert scheduler.estimate(assignment.unit) == 10.0
    assert abs(given["patient"] - given["other"]) <= 10.0, given


def test_a_job_placed_by_hand_comes_before_what_is_behind_it_whoevers_turn_it_is() -> None:
    scheduler = Scheduler()
    scheduler.add([unit("a1", visitor="a")])
    first = scheduler.assign(["gpu"])
    assert first is not None
    scheduler.ended(first.unit, 100.0)
    scheduler.add([unit("b1", visitor="b"), unit("b2", visitor="b"), unit("a2", visitor="a"), unit("a3", visitor="a")])
    scheduler.add([replace(unit("a2", visitor="a"), index=1)])
    scheduler.reorder(["a2", "b1", "b2", "a3"])
    scheduler.place([frozenset({"a2"}), frozenset({"b1", "b2", "a3"})])
    order = []
    while (assignment := scheduler.assign(["gpu"])) is not None:
        order.append(assignment.unit.job_id)
        scheduler.ended(assignment.unit, 1.0)
    assert order == ["a2", "a2", "b1", "b2", "a3"]


def test_a_job_placed_by_hand_that_no_idle_slot_may_render_holds_nothing_up() -> None:
    scheduler = Scheduler(2)
    scheduler.add([unit("a", "x"), unit("b", "y")])
    scheduler.exclude("gpu 0", unit("a", "x"))
    scheduler.place([frozenset("a"), frozenset("b")])
    found = scheduler.assign(["gpu 0"]), scheduler.assign(["gpu 1"])
    assert [one.unit.job_id if one else None for one in found] == ["b", "a"]


def test_a_clip_that_is_requeue_is_next_and_a_discarded_job_is_gone() -> None:
    scheduler = Scheduler()
    scheduler.add([unit("1"), unit("2"), unit("3")])
    first = scheduler.assign(["gpu"])
    assert first is not None
    scheduler.ended(first.unit, None)
    scheduler.requeue(first.unit)
    scheduler.discard("2")
    assert len(scheduler) == 2 and scheduler.jobs() == {"1", "3"}
    again = [scheduler.assign(["gpu"]) for _ in range(3)]
    assert [one.unit.job_id if one else None for one in again] == ["1", "3", None]


def test_jobs_are_put_in_another_order() -> None:
    scheduler = Scheduler()
    scheduler.add([unit("1"), unit("2"), unit("3")])
    scheduler.reorder(["3", "1", "2"])
    order = [scheduler.assign(["gpu"]) for _ in range(3)]
    assert [one.unit.job_id for one in order if one] == ["3", "1", "2"]


def add(store: Store, *seeds: int) -> Job:
    request = body(*seeds)
    return store.add(request, resolve(parse(request), store_image=str))


def clip(job: Job, index: int) -> ClipRecord:
    return ClipRecord(index, 64, 64, 1, 16, job.generations[index].seed, f"clips/{job.id}-{index}.mp4", {})


def test_a_jobs_units_are_the_clips_that_it_lacks(store: Store) -> None:
    job = add(store, 1, 2, 3)
    leases = Leases(store)
    assert leases.claim(job.id)
    assert store.add_clip(job.id, clip(job, 1))
    units = units_of(store.job(job.id))
    assert [one.index for one in units] == [0, 2]
    assert units[0].needs.fit(units[1].needs) & 16  # the same model


def leased(store: Store) -> list[int]:
    """The epochs of all leases."""
    return [row["epoch"] for row in store.rows("SELECT epoch FROM leases ORDER BY epoch", {})]


def test_the_clip_of_a_stale_epoch_is_dropped(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    leases, job = Leases(store), add(store, 1, 2)
    assert leases.lease(job.id, 0, "gpu 0") is None  # it does not run
    assert leases.claim(job.id) and leases.claim(job.id)
    first = leases.lease(job.id, 0, "gpu 0")
    assert first is not None
    assert leases.lease(job.id, 0, "gpu 1") is None  # leased already
    leases.void(first)
    second = leases.lease(job.id, 0, "gpu 1")
    assert second is not None and second.epoch > first.epoch
    assert not store.add_clip(job.id, clip(job, 0), first.epoch)
    assert store.job(job.id).clips == ()
    assert store.add_clip(job.id, clip(job, 0), second.epoch)
    assert leased(store) == []
    assert leases.lease(job.id, 0, "gpu 0") is None  # the clip is there
    other = leases.lease(job.id, 1, "gpu 0")
    assert other is not None and leased(store) == [other.epoch]
    store.requeue(job.id)
    assert leased(store) == []
    store.close()


def test_a_canceled_job_is_not_claimed_and_the_last_attempt_names_an_error(store: Store) -> None:
    leases, canceled, job = Leases(store), add(store, 1), add(store, 2)
    store.request_cancel(canceled.id)
    assert not leases.claim(canceled.id)
    assert leases.waiting_jobs() == ((job.id, "in_queue"),)
    assert leases.claim(job.id)
    assert leases.count_attempt(job.id, 2) is None
    error = leases.count_attempt(job.id, 2)
    assert error is not None and error["code"] == "RENDER_FAILED" and store.job(job.id).attempts == 2
