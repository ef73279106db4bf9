"""Visitors take turns in the queue, whatever each of them has sent before."""

from __future__ import annotations

from tests.jobs.helpers import body
from wan_ui.jobs.queue_order import QueueOrder
from wan_ui.jobs.store import Store
from wan_ui.request import parse, resolve


def add(store: Store, visitor: str | None, ready: bool = True) -> str:
    return store.add(
        {}, resolve(parse(body(1)), store_image=str), visitor=visitor, ready=ready, from_guest=visitor is not None
    ).id


def test_a_visitors_first_job_comes_before_anothers_second(store: Store) -> None:
    ann = [add(store, "ann") for _ in range(3)]
    assert store.claim_next() == ann[0]
    bob = [add(store, "bob") for _ in range(2)]
    program = add(store, None)
    expected = [bob[0], program, ann[1], bob[1], ann[2]]
    assert [job.id for job in store.unfinished()] == [ann[0], *expected]
    assert [store.job(job_id).position for job_id in expected] == [1, 2, 3, 4, 5]
    assert [job.position for job in store.recent(3)] == [2, 4, 1]
    assert [store.claim_next() for _ in expected] == expected


def test_one_visitors_jobs_keep_their_order_and_a_retry_is_the_last(store: Store) -> None:
    ann = [add(store, "ann") for _ in range(3)]
    store.request_cancel(ann[0])
    store.retry(ann[0])
    assert [job.id for job in store.unfinished()] == [ann[1], ann[2], ann[0]]


def test_who_comes_later_has_no_turns_left_over(store: Store) -> None:
    ann = [add(store, "ann") for _ in range(3)]
    for job_id in ann:
        assert store.claim_next() == job_id
        store.finish(job_id, "succeeded")
    later = [add(store, visitor) for visitor in ("ann", "ann", "bob")]
    assert [job.id for job in store.unfinished()] == [later[0], later[2], later[1]]


def test_guests_are_counted_and_a_moved_job_stays_where_it_was_put(store: Store) -> None:
    ann = [add(store, "ann") for _ in range(3)]
    owner = add(store, None)
    assert store.waiting_of_guests() == 3
    QueueOrder(store).move(ann[2], 1, own_only=False)
    assert [job.id for job in store.unfinished()] == [ann[2], ann[0], owner, ann[1]]


def test_what_belongs_to_a_browser_moves_to_its_new_id(store: Store) -> None:
    job_id = add(store, "ann")
    store.record_owner("ann", "image", "a" * 64)
    store.move_records("ann", "new")
    assert store.job(job_id).visitor == "new" and store.recent(9, "ann") == ()
    assert store.is_owner("new", "image", "a" * 64) and not store.is_owner("ann", "image", "a" * 64)
