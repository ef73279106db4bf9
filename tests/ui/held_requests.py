"""Requests of the page that wait, so that a test decides which of two answers comes first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import APIResponse, Page, Request, Route

from tests.waiting import wait_until

EVENTS = "**/gradio_api/**"


@contextmanager
def held(page: Page, words: str) -> Iterator[None]:
    """The page's first event that says these words, which the block must cause, reaches the server after the block."""
    routes: list[Route] = []

    def says(request: Request) -> bool:
        return words.encode() in (request.post_data_buffer or b"")

    def hold(route: Route) -> None:
        if not routes and says(route.request):
            routes.append(route)
        else:
            route.fallback()

    page.route(EVENTS, hold)
    with page.expect_request(says):
        yield
    wait_until(lambda: page.evaluate("true") and routes)
    routes[0].fallback()


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
