"""Views of the jobs: computed once for all callers who are shown the same, and again after each change."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.jobs.helpers import body
from tests.waiting import SECONDS
from wan_ui.access import Access
from wan_ui.errors import RequestNotFound
from wan_ui.identity import Identity
from wan_ui.jobs.shared_views import PROGRESS_SECONDS, VIEWS_KEPT, SharedViews
from wan_ui.jobs.store import Store
from wan_ui.request import parse, resolve

GUEST, OTHER = (Access(Identity(letter * 32, owner=False), shared=False) for letter in "ab")
OWNER, OWNERS_PHONE = (Access(Identity(letter * 32, owner=True), shared=False) for letter in "cd")


class Clock:
    """Seconds that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Listing:
    """The ids of the jobs that a caller may see; notes for whom it was computed."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.viewers: list[Access] = []

    def __call__(self, viewer: Access) -> tuple[str, ...]:
        self.viewers.append(viewer)
        return tuple(job.id for job in self.store.unfinished() if viewer.may_list(job.visitor))


def add(store: Store, access: Access | None) -> str:
    visitor = None if access is None else access.identity.visitor
    return store.add(body(1), resolve(parse(body(1)), store_image=str), visitor=visitor).id


def views_of(store: Store) -> SharedViews:
    return SharedViews(store, lambda: str(store.changes), Clock())


def test_browsers_without_a_job_share_one_result(store: Store) -> None:
    views, listing = views_of(store), Listing(store)
    job_id = add(store, None)
    assert [views.of_jobs(access, "list", listing) for access in (OWNER, OWNERS_PHONE)] == [(job_id,)] * 2
    assert [views.of_jobs(access, "list", listing) for access in (GUEST, OTHER)] == [()] * 2
    assert [viewer.identity for viewer in listing.viewers] == [Identity(None, True), Identity(None, False)]


def test_a_browser_with_a_job_has_a_result_of_its_own_from_that_moment_on(store: Store) -> None:
    views, listing = views_of(store), Listing(store)
    assert views.of_jobs(GUEST, "list", listing) == views.of_jobs(OTHER, "list", listing) == ()
    job_id = add(store, GUEST)
    assert views.of_jobs(OTHER, "list", listing) == ()
    assert views.of_jobs(GUEST, "list", listing) == (job_id,)
    assert views.of_jobs(OWNER, "list", listing) == (job_id,)


def test_a_result_is_computed_again_after_a_change_and_when_its_progress_is_old(store: Store) -> None:
    clock = Clock()
    views, listing = SharedViews(store, lambda: "unused", clock), Listing(store)
    for _ in range(3):
        views.of_jobs(OWNER, "list", listing)
    assert len(listing.viewers) == 1
    job_id = add(store, OWNER)
    assert views.of_jobs(OWNER, "list", listing) == (job_id,)
    views.of_jobs(OWNER, "list", listing)
    assert len(listing.viewers) == 2
    clock.now += PROGRESS_SECONDS
    views.of_jobs(OWNER, "list", listing)
    assert len(listing.viewers) == 3


def test_with_progress_a_result_follows_the_pulse(store: Store) -> None:
    pulses = iter("aab")
    views, listing = SharedViews(store, lambda: next(pulses), Clock()), Listing(store)
    for _ in range(3):
        views.of_progress(OWNER, "list", listing)
    assert len(listing.viewers) == 2


def test_those_who_ask_at_once_wait_for_one_result(store: Store) -> None:
    views, begun, go_on = views_of(store), threading.Event(), threading.Event()
    computed: list[Access] = []

    def compute(viewer: Access) -> str:
        computed.append(viewer)
        begun.set()
        assert go_on.wait(SECONDS)
        return "shown"

    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(views.of_jobs, GUEST, "list", compute) for _ in range(4)]
        assert begun.wait(SECONDS)
        go_on.set()
        assert [each.result(SECONDS) for each in asked] == ["shown"] * 4
    assert len(computed) == 1


def test_an_error_is_raised_and_not_kept(store: Store) -> None:
    views = views_of(store)

    def fail(viewer: Access) -> str:
        raise RequestNotFound("There is no request with this id.")

    with pytest.raises(RequestNotFound):
        views.of_jobs(GUEST, "list", fail)
    assert views.of_jobs(GUEST, "list", lambda viewer: "shown") == "shown"


def test_few_results_are_kept(store: Store) -> None:
    views, listing = views_of(store), Listing(store)
    for name in range(VIEWS_KEPT + 1):
        views.of_jobs(GUEST, name, listing)
    views.of_jobs(GUEST, VIEWS_KEPT, listing)
    assert len(listing.viewers) == VIEWS_KEPT + 1
    views.of_jobs(GUEST, 0, listing)
    assert len(listing.viewers) == VIEWS_KEPT + 2
