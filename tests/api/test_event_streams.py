"""Event streams: what is sent when, heartbeats, the cap of each browser, their end, and those of real requests."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.fakes import FakeRender, fake_service, fake_write_video
from tests.jobs.helpers import body
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS, Access
from wan_ui.api import event_streams
from wan_ui.api.app import create_api
from wan_ui.api.event_streams import EventStreams
from wan_ui.engine.result import Clip, OnProgress, Progress
from wan_ui.errors import PictureNotFound, RequestNotFound, TooManyStreams
from wan_ui.identity import Identity
from wan_ui.jobs.service import JobService
from wan_ui.jobs.shared_views import SharedViews
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.request import Generation

pytestmark = pytest.mark.slow

WEBP = b"RIFF....WEBP"
GUEST, OTHER = Identity("a" * 32, owner=False), Identity("b" * 32, owner=False)
PROGRAM, OWNER = Identity(None, owner=False), Identity("c" * 32, owner=True)


def parsed(text: str) -> list[tuple[str, Any]]:
    """The events of a stream's text: their names and data."""
    events = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "event" in lines:
            events.append((lines["event"], json.loads(lines["data"])))
    return events


async def read(stream: AsyncIterator[str], count: int) -> list[str]:
    return [await anext(stream) for _ in range(count)]


class Snapshots:
    """What a stream shows; its pulse follows its content."""

    def __init__(self, **events: dict[str, Any]) -> None:
        self.events = events

    def __call__(self) -> dict[str, str]:
        return {name: json.dumps(data) for name, data in self.events.items()}

    def pulse(self) -> str:
        return json.dumps(self.events)


def test_an_event_is_sent_when_its_data_has_changed() -> None:
    shown = Snapshots(state={"status": "in_queue"}, progress={"step": 0})
    streams = EventStreams(shown.pulse, look_seconds=0)

    async def follow() -> list[tuple[str, Any]]:
        stream = streams.stream(GUEST, shown)
        first = await read(stream, 3)
        assert first[0].startswith("retry: ")
        assert streams.count == 1
        shown.events = {**shown.events, "progress": {"step": 1}}
        second = await read(stream, 1)
        shown.events = {"state": {"status": "succeeded"}, "end": {}}
        rest = [text async for text in stream]
        return parsed("".join([*first, *second, *rest]))

    assert asyncio.run(follow()) == [
        ("state", {"status": "in_queue"}),
        ("progress", {"step": 0}),
        ("progress", {"step": 1}),
        ("state", {"status": "succeeded"}),
        ("end", {}),
    ]
    assert streams.count == 0


def test_streams_of_the_same_view_read_one_snapshot_for_each_change(store: Store) -> None:
    """Each of 250 streams once read the database for itself."""
    shown, looks = Snapshots(state={"number": 0}), list[str]()
    streams, views = EventStreams(shown.pulse, look_seconds=0), SharedViews(store, shown.pulse)

    def look(key: str, viewer: Access) -> dict[str, str]:
        looks.append(key)
        return shown()

    async def follow() -> None:
        snapshots = [partial(views.of_progress, LOCAL_ACCESS, key, partial(look, key)) for key in "aaaaab"]
        opened = [streams.stream(GUEST, snapshot) for snapshot in snapshots]
        for stream in opened:
            await anext(stream)
        for number in (0, 1):
            shown.events = {"state": {"number": number}}
            texts = await asyncio.gather(*(anext(stream) for stream in opened))
            assert [parsed(text) for text in texts] == [[("state", {"number": number})]] * len(opened)
        for stream in opened:
            await stream.aclose()

    asyncio.run(follow())
    assert sorted(looks) == ["a", "a", "b", "b"]


def test_where_many_streams_are_open_each_looks_less_often() -> None:
    """Forty pages that each looked four times a second left little of two cores for the answers."""
    streams = EventStreams(lambda: str(next(numbers)), look_seconds=0)
    numbers = itertools.count()

    async def changes(seconds: float) -> int:
        """How often one stream looks in this time, while its data changes at every look."""
        stream, counted = streams.stream(OWNER, lambda: {"state": str(next(numbers))}), 0
        await anext(stream)
        try:
            async with asyncio.timeout(seconds):
                while True:
                    await anext(stream)
                    counted += 1
        except TimeoutError:
            return counted

    async def follow() -> tuple[int, int]:
        alone = await changes(0.5)
        others = await open_streams(streams, (PROGRAM, 90))
        counted = await changes(0.5)
        for other in others:
            await other.aclose()
        return alone, counted

    alone, beside_others = asyncio.run(follow())
    assert beside_others == 1 < alone  # the first look is at once, the next after 91 / 40 seconds


def test_a_quiet_stream_has_heartbeats_and_ends_when_the_server_stops() -> None:
    shown = Snapshots(state={})
    streams = EventStreams(shown.pulse, look_seconds=0, heartbeat_seconds=0)

    async def follow() -> list[str]:
        stream = streams.stream(GUEST, shown)
        texts = await read(stream, 4)
        streams.close()
        assert [text async for text in stream] in ([], [texts[-1]])
        return texts

    _, _, *heartbeats = asyncio.run(follow())
    assert heartbeats == [": still here\n\n"] * 2


async def open_streams(streams: EventStreams, *openers: tuple[Identity, int]) -> list[AsyncGenerator[str, None]]:
    """So many streams of each caller, each begun after its check."""
    opened = []
    for identity, number in openers:
        for _ in range(number):
            streams.check(identity)
            stream = streams.stream(identity, dict)
            await anext(stream)
            opened.append(stream)
    return opened


def test_a_browser_has_a_cap_of_its_own() -> None:
    streams = EventStreams(lambda: "0")

    async def open_many() -> None:
        opened = await open_streams(streams, (GUEST, event_streams.MOST_EACH))
        with pytest.raises(TooManyStreams):
            streams.check(GUEST)
        streams.check(OTHER)
        streams.check(PROGRAM)
        for stream in opened:
            await stream.aclose()
        streams.check(GUEST)

    asyncio.run(open_many())
    assert streams.count == 0


def test_programs_and_guests_leave_streams_for_the_owner() -> None:
    """Programs have no identity of their own: 270 of their streams once kept everybody else without any."""
    streams = EventStreams(lambda: "0")
    most, each = event_streams.MOST_OF_GUESTS - event_streams.MOST_OF_PROGRAMS, event_streams.MOST_EACH
    guests = [(Identity(f"{number:032}", owner=False), each) for number in range(most // each)]

    async def open_many() -> None:
        opened = await open_streams(streams, (PROGRAM, event_streams.MOST_OF_PROGRAMS))
        with pytest.raises(TooManyStreams):
            streams.check(PROGRAM)
        opened += await open_streams(streams, *guests, (OTHER, most % each))
        with pytest.raises(TooManyStreams):
            streams.check(GUEST)
        opened += await open_streams(streams, (OWNER, each))
        for stream in opened:
            await stream.aclose()

    asyncio.run(open_many())


def test_streams_that_passed_their_check_at_once_are_counted_when_they_begin() -> None:
    streams = EventStreams(lambda: "0")

    async def open_many() -> list[str]:
        begun = [streams.stream(GUEST, dict) for _ in range(3 * event_streams.MOST_EACH)]
        texts = [await anext(stream, "ended") for stream in begun]
        for stream in begun:
            await stream.aclose()
        return texts

    assert asyncio.run(open_many()).count("ended") == 2 * event_streams.MOST_EACH
    assert streams.count == 0


class PicturedRender:
    """A render whose second step brings a live picture."""

    def __init__(self, render: FakeRender) -> None:
        self.render = render

    def __call__(self, generation: Generation, on_progress: OnProgress) -> Clip:
        def pictured(progress: Progress) -> None:
            picture = WEBP if (progress.phase, progress.step) == ("denoise", 2) else None
            on_progress(Progress(progress.phase, progress.step, progress.steps, picture=picture))

        return self.render(generation, pictured)


@pytest.fixture
def pictured(store: Store, render: FakeRender, tmp_path: Path) -> Iterator[JobService]:
    worker = Worker(store, PicturedRender(render), tmp_path / "clips", fake_write_video)
    service = fake_service(store, worker, tmp_path)
    worker.start()
    yield service
    for gate in render.gates.values():
        gate.open()
    assert worker.stop()


def client_of(service: JobService, access: Access = LOCAL_ACCESS) -> TestClient:
    streams = EventStreams(service.pulse, look_seconds=0.001)
    return TestClient(create_api(service, dict, lambda: access, streams=streams))


def test_a_request_can_be_followed_to_its_end(pictured: JobService, render: FakeRender) -> None:
    gate = render.gate(1, 3)
    job = pictured.submit(body(1, steps=4), LOCAL_ACCESS)
    gate.await_arrival()
    with client_of(pictured) as client:
        status = client.get(f"/requests/{job.id}/status").json()
        assert status["progress"]["phase"] == "denoise"
        assert (status["progress"]["steps_done"], status["progress"]["steps_total"]) == (2, 4)
        picture = client.get(f"/requests/{job.id}/live.webp")
        assert (picture.content, picture.headers["content-type"]) == (WEBP, "image/webp")
        assert picture.headers["cache-control"] == "no-store"
        gate.open()
        answer = client.get(f"/requests/{job.id}/events")
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = parsed(answer.text)
        assert events[-1] == ("end", {"request_id": job.id, "status": "succeeded"})
        assert {name for name, _ in events} <= {"state", "progress", "picture", "end"}
        wait_until(lambda: client.get(f"/requests/{job.id}/live.webp").status_code == 404)
        assert client.get(f"/requests/{job.id}/status").json()["progress"] is None


def test_nobody_follows_another_browsers_request(pictured: JobService, render: FakeRender) -> None:
    gate = render.gate(1, 3)
    mine = Access(Identity("a" * 32, owner=False), shared=False)
    job = pictured.submit(body(1, steps=4), mine)
    gate.await_arrival()
    assert pictured.live_picture(job.id, mine) == WEBP
    other = Access(Identity("b" * 32, owner=False), shared=False)
    with pytest.raises(RequestNotFound):
        pictured.live_picture(job.id, other)
    with client_of(pictured, other) as client:
        for path in ("events", "live.webp", "status"):
            assert client.get(f"/requests/{job.id}/{path}").status_code == 404
    waiting = pictured.submit(body(2), mine)
    with pytest.raises(PictureNotFound):
        pictured.live_picture(waiting.id, mine)
    outlook = pictured.outlook(waiting.id)
    assert outlook is not None and outlook.running is None
