"""Moving a waiting job: the owner anywhere, a visitor among their own, and the jobs run in that order."""

from __future__ import annotations

import pytest

from tests.fakes import PATIENCE, FakeRender
from tests.jobs.helpers import body
from wan_ui.access import Access
from wan_ui.errors import NotWaiting, RequestNotFound
from wan_ui.identity import Identity
from wan_ui.jobs.queue_order import WaitingJob, moved
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
