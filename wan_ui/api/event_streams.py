"""Open event streams: how many there may be, when they look for changes, and how they end when the server stops."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import anyio.to_thread

from wan_ui.errors import TooManyStreams

MOST = 256  # streams of all clients
MOST_EACH = 12  # streams of one browser; programs without a browser share `MOST`
LOOK_SECONDS = 0.25  # between two looks for changes, and so between two events
HEARTBEAT_SECONDS = 15.0  # proxies close connections on which nothing was sent for half a minute or more
RETRY_MILLISECONDS = 2000  # after which a browser connects again
HEADERS = {
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",  # nginx would collect the events
}

Event = tuple[str, Mapping[str, Any]]
"""The name of an event and its data, JSON-ready."""

Snapshot = Callable[[], Mapping[str, Mapping[str, Any]]]
"""The data that each event would have now, by its name; it may read the database. The key "end" ends the stream."""


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
        self._open: Counter[str | None] = Counter()

    def close(self) -> None:
        """Ends all streams within a quarter of a second, and refuses new ones. Any thread may call it."""
        self._closed.set()

    @property
    def count(self) -> int:
        """How many streams are open."""
        return self._open.total()

    def check(self, visitor: str | None) -> None:
        """Raises TooManyStreams where a browser, None for a program, may open no further stream."""
        if self.count >= MOST or (visitor is not None and self._open[visitor] >= MOST_EACH):
            raise TooManyStreams(
                "Too many event streams are open. Close other tabs of this page, or read the status instead."
            )

    @contextmanager
    def _counted(self, visitor: str | None) -> Iterator[None]:
        self._open[visitor] += 1
        try:
            yield
        finally:
            self._open[visitor] -= 1
            self._open += Counter()  # without those at zero

    async def stream(self, visitor: str | None, snapshot: Snapshot) -> AsyncGenerator[str, None]:
        """The text of one stream: each event of a snapshot when its data has changed, and heartbeats between them."""
        with self._counted(visitor):
            yield f"retry: {RETRY_MILLISECONDS}\n\n"
            sent: dict[str, str] = {}
            pulse, last = None, time.monotonic()
            while not self._closed.is_set():
                now = self._pulse()
                if now != pulse:
                    pulse = now
                    events = await anyio.to_thread.run_sync(snapshot)
                    for name, data in events.items():
                        text = json.dumps(data, allow_nan=False)
                        if sent.get(name) != text:
                            sent[name], last = text, time.monotonic()
                            yield f"event: {name}\ndata: {text}\n\n"
                    if "end" in events:
                        return
                elif time.monotonic() - last > self._heartbeat_seconds:
                    last = time.monotonic()
                    yield ": still here\n\n"
                await asyncio.sleep(self._look_seconds)
