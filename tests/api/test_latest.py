"""The latest result of a call, when the call is slow."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from wan_ui.api.concurrency import Latest


class Counting:
    """A call that returns how often it was made, once it may."""

    def __init__(self) -> None:
        self.may_return = threading.Event()
        self.may_return.set()
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        count = self.count
        assert self.may_return.wait(40)
        return count


def run(check: Coroutine[Any, Any, None]) -> None:
    """In a loop of its own: a browser of another test may hold this thread's."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, check).result()


def test_a_slow_call_is_answered_with_the_result_before_while_that_is_recent() -> None:
    call, results = Counting(), list[int]()

    async def check() -> None:
        latest = Latest(call, seconds=0.01, oldest=40.0, clock=lambda: 0.0)
        results.append(await latest.get())
        call.may_return.clear()
        results.append(await latest.get())
        call.may_return.set()

    run(check())
    assert results == [1, 1]


def test_a_result_that_is_old_is_not_used_while_the_call_takes_a_moment() -> None:
    """On a busy machine health was that of minutes ago, when nobody had asked since."""
    call, results, now = Counting(), list[int](), 0.0

    async def check() -> None:
        nonlocal now
        latest = Latest(call, seconds=0.001, oldest=40.0, clock=lambda: now)
        results.append(await latest.get())
        now = 100.0
        call.may_return.clear()
        asyncio.get_running_loop().call_later(0.05, call.may_return.set)
        results.append(await latest.get())

    run(check())
    assert results == [1, 2]
