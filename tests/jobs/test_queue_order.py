"""Moving a waiting job: the owner anywhere, a visitor among their own, and the jobs run in that order."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import PATIENCE, FakeRender, fake_service, fake_write_video
from tests.jobs.helpers import body
from tests.pool.helpers import FakeSlot
from wan_ui.access import Access
from wan_ui.errors import NotWaiting, RequestNotFound
from wan_ui.identity import Identity
from wan_ui.job import Status
from wan_ui.jobs.dispatcher import Dispatcher
from wan_ui.jobs.queue_order import PlacedJobs, WaitingJob, moved
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker

OWNER = Access(Identity("3" * 32, True), shared=False)
ONE, OTHER = (Access(Identity(letter * 32, False), shared=False) for letter in "12")


@pytest.mark.parametrize(
    ("job", "position", "own_only", "order"),
    [
        ("c", 1, False, "cabde"),
        ("a", 5, False, "bcdea"),
        ("a", 99, False, "bcdea"),
        ("b", 2, False, "abcde"),
        ("b", 4, False, "acdbe"),
        ("c", 1, True, "cbade"),  # a, c and e are of one visitor, b and d of another
        ("e", 1, True, "ebadc"),
        ("e", 2, True, "abedc"),
        ("a", 2, True, "abcde"),
        ("a", 5, True, "cbeda"),
        ("d", 1, True, "adcbe"),
        ("b", 3, True, "abcde"),
    ],
)
def test_where_a_job_goes(job: str, position: int, own_only: bool, order: str) -> None:
    queue = [WaitingJob(name, "x" if name in "ace" else "y") for name in "abcde"]
    assert "".join(moved(queue, job, position, own_only)) == order


def test_jobs_run_in_the_order_that_they_were_moved_to(
    service: JobService, worker: Worker, render: FakeRender, store: Store
) -> None:
    one, first_other, two, second_other = (
        service.submit(body(seed), access) for seed, access in ((1, ONE), (2, OTHER), (3, ONE), (4, OTHER))
    )
    assert service.move(two.id, 1, ONE).position == 1
    assert [job.id for job in store.unfinished()] == [two.id, first_other.id, one.id, second_other.id]
    with pytest.raises(RequestNotFound):
        service.move(two.id, 4, OTHER)
    assert service.move(second_other.id, 1, OWNER).position == 1
    added = service.submit(body(5), ONE)
    assert added.position == 5
    worker.start()
    assert worker.wait(added.id, PATIENCE)
    assert list(dict.fromkeys(seed for seed, _, _ in render.seen)) == [4, 3, 2, 1, 5]
    with pytest.raises(NotWaiting):
        service.move(one.id, 1, OWNER)


def test_a_visitors_move_leaves_the_turn_of_another_whose_files_are_not_there_yet(
    service: JobService, store: Store
) -> None:
    waiting = service.submit(body(1), OTHER)
    store.rows("UPDATE jobs SET ready = 0 WHERE id = :id", {"id": waiting.id})
    one, two, three = (service.submit(body(seed), ONE) for seed in (2, 3, 4))
    assert service.move(three.id, 1, ONE).position == 1
    assert [job.id for job in store.unfinished()] == [three.id, one.id, two.id, waiting.id]
    store.rows("UPDATE jobs SET ready = 1 WHERE id = :id", {"id": waiting.id})
    assert [job.id for job in store.unfinished()] == [waiting.id, three.id, one.id, two.id]


@pytest.mark.parametrize(
    ("job", "position", "order"),
    [
        (None, 0, [3, 4, 5, 2, 6]),  # the turns of the visitor who has no clip at work
        (6, 1, [6, 3, 4, 5, 2]),
        (2, 1, [2, 3, 4, 5, 6]),
        (3, 99, [4, 5, 2, 6, 3]),
    ],
)
def test_slots_begin_jobs_in_the_order_that_the_owner_gave_them(
    store: Store, render: FakeRender, tmp_path: Path, job: int | None, position: int, order: list[int]
) -> None:
    slots = [FakeSlot(name, render) for name in ("GPU 0", "GPU 1")]
    dispatcher = Dispatcher(store, slots, tmp_path / "clips", fake_write_video)
    service, gates = fake_service(store, dispatcher, tmp_path), [render.gate(1, 1), render.gate(7, 1)]
    long, short = service.submit(body(1), ONE), service.submit(body(7), OTHER)
    dispatcher.start()
    for gate in gates:
        gate.await_arrival()
    jobs = {seed: service.submit(body(seed), ONE if seed in (2, 6) else OTHER).id for seed in (3, 2, 4, 6, 5)}
    if job is not None:
        service.move(jobs[job], position, OWNER)
    gates[1].open()
    for job_id in (short.id, *jobs.values()):
        assert dispatcher.wait(job_id, PATIENCE)
    gates[0].open()
    assert dispatcher.wait(long.id, PATIENCE)
    assert dispatcher.stop()
    assert [seed for seed, phase, _ in render.seen if phase == "loading" and seed in jobs] == order


def test_the_parts_of_a_queue_in_which_jobs_were_moved() -> None:
    placed = PlacedJobs()
    placed.add("c")
    placed.add("late")
    queue: list[tuple[str, Status]] = [("run", "in_progress"), *((name, "in_queue") for name in "abcd")]
    assert [*map(set, placed.stages(queue))] == [{"a", "b"}, {"c"}, {"d"}]
    queue = [("run", "in_progress"), ("c", "in_progress"), ("d", "in_queue"), ("late", "in_queue"), ("e", "in_queue")]
    assert [*map(set, placed.stages(queue))] == [{"c"}, {"d"}, {"late"}, {"e"}]
    placed.forget("c")
    assert [*map(set, placed.stages(queue[2:]))] == [{"d"}, {"late"}, {"e"}]
    assert placed.stages([]) == ()
