"""Turns at something that only few may do at once: whoever waits too long is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore

from wan_ui.errors import ServerBusy


class Turns:
    """At most `places` threads are inside `hold`; another waits up to `seconds`, and is refused with `refusal` then."""

    def __init__(self, seconds: float, refusal: str, places: int = 1) -> None:
        self._seconds = seconds
        self._refusal = refusal
        self._places = BoundedSemaphore(places)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Waits for a place. Raises ServerBusy."""
        if not self._places.acquire(timeout=self._seconds):
            raise ServerBusy(self._refusal)
        try:
            yield
        finally:
            self._places.release()
