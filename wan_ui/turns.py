"""Turns at something that only few may do at once, of whom others are refused; and counts of who is at it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore, Lock
from typing import TypeVar

from wan_ui.errors import ServerBusy

Key = TypeVar("Key")
MOST_WAITING = 8  # fewer than the threads that serve all routes, one of which each that waits may hold


@contextmanager
def counted(counter: Counter[Key], key: Key, amount: int = 1) -> Iterator[None]:
    """Counts a key while the block runs. Keys of which nothing is counted are left out."""
    counter[key] += amount
    try:
        yield
    finally:
        counter[key] -= amount
        if not counter[key]:
            del counter[key]


class Turns:
    """At most `places` threads are inside `hold`; another waits up to `seconds`, and is refused with `refusal` then.

    One is refused at once while `waiting` wait. `seconds` None: however long it takes.
    """

    def __init__(self, seconds: float | None, refusal: str, places: int = 1, waiting: int = MOST_WAITING) -> None:
        self._seconds = seconds
        self._refusal = refusal
        self._places = BoundedSemaphore(places)
        self._inside_or_waiting = BoundedSemaphore(places + waiting)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Waits for a place. Raises ServerBusy."""
        if not self._inside_or_waiting.acquire(blocking=False):
            raise ServerBusy(self._refusal)
        try:
            if not self._places.acquire(timeout=self._seconds):
                raise ServerBusy(self._refusal)
            try:
                yield
            finally:
                self._places.release()
        finally:
            self._inside_or_waiting.release()


class TurnsEach:
    """At most `places` threads are inside `hold`, and at most `each` of one caller; a further one is refused."""

    def __init__(self, places: int, each: int, refusal: str) -> None:
        self._each = each
        self._left = places
        self._inside: Counter[str | None] = Counter()
        self._lock = Lock()
        self._refusal = refusal

    @contextmanager
    def hold(self, caller: str | None, is_limited: bool = True) -> Iterator[None]:
        """Takes a place; `is_limited` False: however many this caller has. Raises ServerBusy."""
        with self._lock:
            if self._left <= 0 or (is_limited and self._inside[caller] >= self._each):
                raise ServerBusy(self._refusal)
            self._left -= 1
            self._inside[caller] += 1
        try:
            yield
        finally:
            with self._lock:
                self._left += 1
                self._inside[caller] -= 1
                self._inside += Counter()  # drops those at zero
