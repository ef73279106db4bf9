"""Limits on slow responses, so that they never take all threads of the server."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

import anyio
import anyio.to_thread

from wan_ui.errors import ServerBusy
from wan_ui.identity import Identity
from wan_ui.turns import counted

Result = TypeVar("Result")


class ByteBudget:
    """Memory for what is being received: at most `total` bytes at a time, and `each` of one caller.

    The owner is not limited. To be used from the event loop alone.
    """

    def __init__(self, total: int, each: int, refusal: str) -> None:
        self._total = total
        self._each = each
        self._refusal = refusal
        self._taken: Counter[str | None] = Counter()

    @contextmanager
    def hold(self, identity: Identity, size: int) -> Iterator[None]:
        """Takes so many bytes for the block. Raises ServerBusy."""
        taken, visitor = self._taken, identity.visitor
        if size and not identity.owner and (taken[visitor] + size > self._each or taken.total() + size > self._total):
            raise ServerBusy(self._refusal)
        with counted(taken, visitor, size):
            yield


class BoundedThreads:
    """Threads of their own for calls that may take minutes. To be used from the event loop alone."""

    def __init__(self, threads: int, waiting: int, refusal: str) -> None:
        self._limiter = anyio.CapacityLimiter(threads)
        self._free = threads + waiting
        self._refusal = refusal

    async def run(self, call: Callable[[], Result]) -> Result:
        """The call's result. Raises ServerBusy if all threads are taken and as many calls wait as may."""
        if not self._free:
            raise ServerBusy(self._refusal)
        self._free -= 1
        try:
            return await anyio.to_thread.run_sync(call, limiter=self._limiter)
        finally:
            self._free += 1


class Latest(Generic[Result]):
    """The latest result of a call that should be quick: it is made in a thread of its own, one at a time.

    If it takes longer than `seconds`, the result of the call before is used, unless that is older than `oldest`
    seconds: then the call gets so long. To be used from one event loop. `clock` returns seconds.
    """

    def __init__(
        self,
        call: Callable[[], Result],
        seconds: float = 0.05,
        oldest: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._call = call
        self._seconds = seconds
        self._oldest = oldest
        self._clock = clock
        self._made = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="wan-ui-health")
        self._running: Future[Result] | None = None
        self._result: Result | None = None

    async def get(self) -> Result:
        """The result. Raises what the call raises."""
        if self._running is None or self._running.done():
            self._running = self._thread.submit(self._call)
        running = asyncio.wrap_future(self._running)
        is_recent = self._clock() - self._made < self._oldest
        seconds = None if self._result is None else self._seconds if is_recent else self._oldest
        done, _ = await asyncio.wait({running}, timeout=seconds)
        if done:
            self._result, self._made = running.result(), self._clock()
        assert self._result is not None
        return self._result
