"""One at a time, with few in line: for slow answers whose wait holds a thread that other routes want."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from wan_ui.errors import ServerBusy


class OneAtATime:
    """Blocks of code of which one runs at a time and at most `seats` run or wait; the next is refused."""

    def __init__(self, seats: int, refusal: str) -> None:
        self._one = threading.Lock()
        self._seats = threading.BoundedSemaphore(seats)
        self._refusal = refusal

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits for its turn. Raises ServerBusy, with the refusal as its message, when all seats are taken."""
        if not self._seats.acquire(blocking=False):
            raise ServerBusy(self._refusal)
        try:
            with self._one:
                yield
        finally:
            self._seats.release()
