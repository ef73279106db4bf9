"""What many callers are shown alike, computed once for all of them until it changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from cachetools import LRUCache

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.jobs.store import Store

Result = TypeVar("Result")

VIEWS_KEPT = 64
PROGRESS_SECONDS = 0.25  # how old the progress and the estimates in a view of jobs may be


@dataclass
class _View:
    """The latest result of one computation and the version of the data that it was computed from."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    version: Hashable = None
    result: Any = None


class SharedViews:
    """Results that several callers ask for at once, such as the lists of jobs on forty open pages.

    Browsers without a job of their own are shown the same by the rules of `wan_ui.access`, so they share one result.
    Any thread may call any method. `pulse` is that of the job service; `clock` returns seconds.
    """

    def __init__(self, store: Store, pulse: Callable[[], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._pulse = pulse
        self._clock = clock
        self._lock = threading.Lock()
        self._views: LRUCache[Hashable, _View] = LRUCache(VIEWS_KEPT)

    def of_jobs(self, access: Access, name: Hashable, compute: Callable[[Access], Result]) -> Result:
        """A view of the jobs, no older than their last change; progress in it is up to PROGRESS_SECONDS old.

        `compute` gets an access with the same rights and lists as the caller's. Raises what it raises, and HostError.
        """
        return self._get(access, name, compute, lambda: (self._store.changes, self._clock() // PROGRESS_SECONDS))

    def of_progress(self, access: Access, name: Hashable, compute: Callable[[Access], Result]) -> Result:
        """As `of_jobs`, with the latest progress."""
        return self._get(access, name, compute, self._pulse)

    def _get(
        self,
        access: Access,
        name: Hashable,
        compute: Callable[[Access], Result],
        version: Callable[[], Hashable],
    ) -> Result:
        viewer = self._viewer(access)
        with self._lock:
            view = self._views.setdefault((viewer, name), _View())
        with view.lock:
            # The version is read before the data, so that a result is never older than the version it is kept under.
            now = version()
            if view.version != now:
                result = compute(viewer)
                view.result, view.version = result, now
            shared: Result = view.result
            return shared

    def _viewer(self, access: Access) -> Access:
        """The caller as far as lists depend on it: without the browser's id where no job came from that browser."""
        visitor = access.identity.visitor
        sql = "SELECT 1 FROM jobs WHERE visitor = :visitor LIMIT 1"
        if visitor is None or self._store.rows(sql, {"visitor": visitor}):
            return access
        return replace(access, identity=replace(access.identity, visitor=None))
