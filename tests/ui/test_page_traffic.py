"""The page that tests/load.py simulates asks for what a browser's page asks for, with the same values."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page

from tests.fakes import FakeRender
from tests.load import Seen, SimulatedPage
from tests.ui.fake_app import App
from tests.ui.page_object import open_page
from tests.waiting import SECONDS, wait_until
from wan_ui.access import LOCAL_ACCESS

pytestmark = pytest.mark.browser

EVENTS = "/gradio_api/run/predict"
SEED = 7301
PROMPT = {"prompt": "traffic", "width": 64, "height": 64, "num_frames": 1, "sample_steps": 2, "seed": SEED}


class Sent:
    """The events that a page sent: the id of each and the values that came with it."""

    def __init__(self) -> None:
        self.events: list[tuple[int, Any]] = []

    def note(self, url: str, body: str) -> None:
        if EVENTS in url:
            event = json.loads(body)
            self.events.append((event["fn_index"], event["data"]))

    def last(self, event: Any) -> Any:
        return next((data for number, data in reversed(self.events) if number == event["id"]), None)


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
    """Its looks, with what it was shown before, while a job starts and ends."""
    gate = held_render.gate(SEED, 1)
    open_page(page, app)
    browsers = Sent()
    page.on("request", lambda request: browsers.note(request.url, request.post_data or ""))
    with simulated(app, page.request.get(f"{app.url}config").json()) as (opened, sent):
        known_of_look = opened.look["inputs"].index(opened.known)
        known_of_sample = opened.sample["inputs"].index(opened.known)

        def both_know(name: str, job_id: str) -> bool:
            """Whether both pages asked for the sample with the same values, in which the job has this part."""
            page.evaluate("true")  # while the browser works, its requests arrive here
            asked = [each.last(opened.sample) for each in (browsers, sent)]
            return None not in asked and asked[0] == asked[1] and asked[0][known_of_sample][name] == job_id

        job = app.service.submit({"model": "wan21_1b", "prompts": [PROMPT]}, LOCAL_ACCESS)
        gate.await_arrival()
        wait_until(lambda: both_know("lead", job.id), state=lambda: (browsers.events, sent.events))
        gate.open()
        wait_until(lambda: both_know("shown", job.id), state=lambda: (browsers.events, sent.events))
        looks = [each.last(opened.look) for each in (browsers, sent)]
    assert all(look[known_of_look]["lead"] for look in looks)  # each sends back what it was shown before
    again = {opened.look["id"], opened.sample["id"]}
    assert {number for number, _ in sent.events} == again
    counted = Counter(number for number, _ in browsers.events)
    assert all(counted[number] == 1 for number in counted.keys() - again)  # what a page asks for as it opens
