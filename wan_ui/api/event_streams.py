"""Open event streams: how many there may be, when they look for changes, and how they end when the server stops."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping

import anyio.to_thread

from wan_ui.errors import TooManyStreams
from wan_ui.identity import Identity
from wan_ui.turns import counted

MOST = 256  # streams of all clients
MOST_OF_GUESTS = 224  # of these, of all but the owner
MOST_OF_PROGRAMS = 96  # of these, of programs, which have no browser and so no identity of their own
MOST_EACH = 12  # of one browser
LOOKS_AT_ONCE = 2  # snapshots being read: more threads would only take the interpreter from the event loop
LOOK_SECONDS = 0.25  # between two looks for changes, and so between two events
LOOKS_A_SECOND = 40  # of all streams: where many are open, each looks less often, and so do the pages that it tells
HEARTBEAT_SECONDS = 15.0  # proxies close connections on which nothing was sent for half a minute or more
RETRY_MILLISECONDS = 2000  # after which a browser connects again
HEADERS = {
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",  # nginx would collect the events
}

Snapshot = Callable[[], Mapping[str, str]]
"""The data that each event would have now, as JSON text, by the event's name; it may read the database.

The key "end" ends the stream."""


class EventStreams:
    """The event streams of one server. To be used from its event loop, apart from `close`.

    `pulse` returns a text that changes with anything that a stream may show.
    """

    def __init__(
        self,
        pulse: Callable[[], str],
        look_seconds: float = LOOK_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._pulse = pulse
        self._look_seconds = look_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._closed = threading.Event()
        self._looks = anyio.CapacityLimiter(LOOKS_AT_ONCE)
        self._open: Counter[Identity] = Counter()

    def close(self) -> None:
        """Ends all streams within a quarter of a second, and refuses new ones. Any thread may call it."""
        self._closed.set()

    @property
    def count(self) -> int:
        """How many streams are open."""
        return self._open.total()

    def check(self, identity: Identity) -> None:
        """Raises TooManyStreams where a caller may open no further stream."""
        if self._is_full(identity):
            raise TooManyStreams(
                "Too many event streams are open. Close other tabs of this page, or read the status instead."
            )

    def _is_full(self, identity: Identity) -> bool:
        of_guests = sum(number for opener, number in self._open.items() if not opener.owner)
        return (
            self.count >= MOST
            or (not identity.owner and of_guests >= MOST_OF_GUESTS)
            or self._open[identity] >= (MOST_OF_PROGRAMS if identity.visitor is None else MOST_EACH)
        )

    @property
    def _pause(self) -> float:
        """Seconds between two looks of one stream, shortened by half of its sleep, which is never exact."""
        return self.count / LOOKS_A_SECOND - self._look_seconds / 2

    async def stream(self, identity: Identity, snapshot: Snapshot) -> AsyncGenerator[str, None]:
        """The text of one stream: each event of a snapshot when its data has changed, and heartbeats between them.

        It ends at once where `check` would refuse it now: many requests may have passed it at the same time, before
        the first of their streams began.
        """
        if self._is_full(identity):
            return
        with counted(self._open, identity):
            yield f"retry: {RETRY_MILLISECONDS}\n\n"
            sent: Mapping[str, str] = {}
            pulse, last = None, time.monotonic()
            looked = -math.inf
            while not self._closed.is_set():
                if time.monotonic() - looked >= self._pause and (now := self._pulse()) != pulse:
                    pulse, looked = now, time.monotonic()
                    texts = await anyio.to_thread.run_sync(snapshot, limiter=self._looks)
                    for name, text in texts.items():
                        if sent.get(name) != text:
                            last = time.monotonic()
                            yield f"event: {name}\ndata: {text}\n\n"
                    sent = {**sent, **texts}
                    if "end" in texts:
                        return
                elif time.monotonic() - last > self._heartbeat_seconds:
                    last = time.monotonic()
                    yield ": still here\n\n"
                await asyncio.sleep(self._look_seconds)
