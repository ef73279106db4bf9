"""Requests of the page that wait, so that a test decides which of two answers comes first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import APIResponse, Page, Route

from tests.waiting import wait_until

EVENTS = "**/gradio_api/**"
UPLOADS = re.compile(r"/gradio_api/upload(\?|$)")


class HeldRequest:
    """The first request to an address whose body says these words: it is kept from the server until it is let go."""

    def __init__(self, page: Page, words: str, address: str | re.Pattern[str] = EVENTS) -> None:
        self._page = page
        self._words = words.encode()
        self._routes: list[Route] = []
        page.route(address, self._hold)

    def _hold(self, route: Route) -> None:
        if not self._routes and self._words in (route.request.post_data_buffer or b""):
            self._routes.append(route)
        else:
            route.fallback()

    def await_request(self) -> None:
        """Returns once the request is held."""
        wait_until(lambda: self._page.evaluate("true") and self._routes)  # while the browser works, it arrives here

    def let_go(self) -> None:
        """Sends it."""
        self.await_request()
        self._routes[0].continue_()

    def refuse(self) -> None:
        """Answers it as a server that takes no such file."""
        self.await_request()
        self._routes[0].fulfill(status=413, body="too large")


@contextmanager
def held(page: Page, words: str) -> Iterator[None]:
    """The page's first event that says these words, which the block must cause, reaches the server after the block."""
    request = HeldRequest(page, words)
    yield
    request.let_go()


@contextmanager
def answered_late(page: Page, address: str | re.Pattern[str]) -> Iterator[None]:
    """The first request for an address is answered at once, and the page hears it only after the block."""
    routes: list[Route] = []
    answers: list[APIResponse] = []

    def hold(route: Route) -> None:
        if routes:
            route.fallback()
        else:
            routes.append(route)
            answers.append(route.fetch())

    page.route(address, hold)
    yield
    wait_until(lambda: page.evaluate("true") and answers)
    routes[0].fulfill(response=answers[0])
    page.evaluate("() => new Promise((resolve) => setTimeout(resolve))")
