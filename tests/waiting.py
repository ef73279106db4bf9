"""Waits for something to happen: the one loop of the tests that polls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

SECONDS = 90.0  # no machine that does any work at all takes so long; only a test that fails does
POLL_SECONDS = 0.01

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T], seconds: float = SECONDS, *, every: float = POLL_SECONDS, state: Callable[[], Any] = str
) -> T:
    """Returns what `condition` returns as soon as that is true; fails the test after `seconds`, and says `state()`.

    A test that drives a browser waits with Playwright's own assertions instead, which let the browser work meanwhile.
    """
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not so within {seconds:g} s: {state()}"
        time.sleep(every)
    return result
