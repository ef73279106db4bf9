"""The page that tests/load.py simulates asks for what a browser's page asks for, with the same values."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser_fixture import listening
from tests.fakes import FakeRender
from tests.load import Seen, SimulatedPage
from tests.ui.fake_app import App
from tests.ui.page_object import open_page
from tests.waiting import SECONDS, wait_until
from wan_ui.access import LOCAL_ACCESS

pytestmark = pytest.mark.browser

EVENTS = "/gradio_api/run/predict"
SEEDS = (7301, 7302)
PROMPTS = [
    {"prompt": "traffic", "width": 64, "height": 64, "num_frames": 1, "sample_steps": 2, "seed": seed} for seed in SEEDS
]


class Sent:
    """The events that a page sent: the id of each and the values that came with it."""

    def __init__(self) -> None:
        self.events: list[tuple[int, Any]] = []

    def note(self, url: str, body: str) -> None:
        if EVENTS in url:
            event = json.loads(body)
            self.events.append((event["fn_index"], event["data"]))

    def all(self, event: Any) -> list[Any]:
        return [data for number, data in self.events if number == event["id"]]


@contextmanager
def simulated(app: App, config: Any) -> Iterator[tuple[SimulatedPage, Sent]]:
    """A simulated page that is open until the block ends, in a thread with an event loop of its own."""
    sent, loop = Sent(), asyncio.new_event_loop()

    async def note(request: httpx.Request) -> None:
        sent.note(str(request.url), request.content.decode())

    hooks = {"request": [note]}
    client = httpx.AsyncClient(base_url=app.url, timeout=SECONDS, trust_env=False, event_hooks=hooks)
    opened = SimulatedPage(Seen(), client, config, "simulated")

    async def live() -> None:
        async with client:
            await opened.live()

    living = loop.create_task(live())
    thread = threading.Thread(target=loop.run_until_complete, args=[asyncio.wait([living])])
    thread.start()
    try:
        yield opened, sent
    finally:
        loop.call_soon_threadsafe(living.cancel)
        thread.join(SECONDS)
        loop.close()


def test_the_load_tests_page_sends_what_a_browser_sends(page: Page, app: App, held_render: FakeRender):
    """Its looks, with what it was shown before, when a job ends and when the next one begins."""
    gates = [held_render.gate(seed, 1) for seed in SEEDS]
    open_page(page, app)
    browsers, card = Sent(), page.locator("#now .card")
    config = page.request.get(f"{app.url}config").json()
    hearing = listening(page, "request", lambda request: browsers.note(request.url, request.post_data or ""))
    with hearing, simulated(app, config) as (opened, sent):
        known_of_look = opened.look["inputs"].index(opened.known)

        def both_sent(shown: dict[str, str | None]) -> bool:
            """Whether both pages looked with the same values, after these parts were shown."""
            page.evaluate("true")  # while the browser works, its requests arrive here
            looks = [each.all(opened.look) for each in (browsers, sent)]
            return any(look in looks[1] and shown.items() <= look[known_of_look].items() for look in looks[0])

        def next_look(shown: dict[str, str | None], change: Callable[[], object]) -> None:
            """A change after both pages show these parts."""
            wait_until(lambda: shown.items() <= opened.values[opened.known].items(), state=lambda: opened.values)
            change()
            wait_until(lambda: both_sent(shown), state=lambda: (browsers.events, sent.events))

        job = app.service.submit({"model": "wan21_1b", "prompts": PROMPTS[:1]}, LOCAL_ACCESS)
        gates[0].await_arrival()
        expect(card).to_have_class("card running")
        next_look({"lead": job.id}, gates[0].open)
        expect(page.locator("#result video")).to_be_visible()
        expect(card).not_to_have_class("card running")
        request = {"model": "wan21_1b", "prompts": PROMPTS[1:]}
        next_look({"lead": None, "shown": job.id}, lambda: app.service.submit(request, LOCAL_ACCESS))
        gates[1].open()
    again = opened.look["id"]
    assert {number for number, _ in sent.events} == {again}
    counted = Counter(number for number, _ in browsers.events)
    assert all(counted[number] == 1 for number in counted.keys() - {again})  # what a page asks for as it opens
