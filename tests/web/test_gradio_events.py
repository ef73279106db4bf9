"""Whose a Gradio session is, what an event may look like, and how much a browser may keep waiting."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from wan_ui.access import Access
from wan_ui.identity import Identity
from wan_ui.web.gradio_events import IDLE_SECONDS, LARGE_BYTES, MAX_DEPTH, EventLimits, EventRule, GradioEvents

QUEUED, AT_ONCE, LARGE = 1, 2, 3
RULES = {QUEUED: EventRule(1000, True), AT_ONCE: EventRule(1000, False), LARGE: EventRule(LARGE_BYTES, True)}
LIMITS = EventLimits(
    sessions=2, sessions_of_all=4, undelivered=3, undelivered_bytes=2000, streams=1, streams_of_guests=2
)
ANN, BOB, OWNER = Identity("ann", False), Identity("bob", False), Identity("owner", True)


class Page:
    """The middleware over an app that takes every event, numbers it, and answers those that were named as done."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.who = ANN
        self.forgotten: list[tuple[str, bool]] = []
        self.done: list[str] = []
        self.count = 0
        self.stays_open = asyncio.Event()
        self.app = GradioEvents(
            self.gradio, lambda: Access(self.who, False), RULES, self.forget, LIMITS, lambda: self.now
        )

    async def forget(self, session: str, with_state: bool) -> None:
        self.forgotten.append((session, with_state))

    async def gradio(self, scope: Scope, receive: Receive, send: Send) -> None:
        response: Response = JSONResponse({"data": []})
        if scope["path"].endswith("/join"):
            self.count += 1
            response = JSONResponse({"event_id": f"event-{self.count}"})
        if scope["method"] == "GET":
            messages = [
                f'data: {{"msg":"process_completed","event_id":"{name}","output":{{}}}}\n\n' for name in self.done
            ]
            response = StreamingResponse(self.stream(messages))
        await response(scope, receive, send)

    async def stream(self, messages: list[str]) -> Any:
        for message in messages:
            yield message
        await self.stays_open.wait()

    async def send(self, method: str, path: str, body: bytes = b"", who: Identity = ANN) -> tuple[int, str]:
        """Status and error code of a request."""
        self.who = who
        path, _, query = path.partition("?")
        scope = {"type": "http", "method": method, "path": f"/gradio_api/{path}", "headers": [],
                 "query_string": query.encode()}  # fmt: skip
        sent: list[Any] = []
        pieces = [body[at : at + 4096] for at in range(0, len(body), 4096)] or [b""]

        async def receive() -> Any:
            if not pieces:
                await asyncio.Event().wait()
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

        async def take(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, take)
        body = b"".join(message.get("body", b"") for message in sent)
        status = int(sent[0]["status"])
        return status, "" if status == 200 else str(json.loads(body)["detail"]["error"]["code"])

    async def join(self, session: str = "s", who: Identity = ANN, event: int = QUEUED, **more: Any) -> tuple[int, str]:
        body = {"data": [], "fn_index": event, "session_hash": session, **more}
        return await self.send("POST", "queue/join", json.dumps(body).encode(), who)

    def listen(self, session: str, who: Identity = ANN) -> asyncio.Task[tuple[int, str]]:
        """A stream that stays open until the end."""
        return asyncio.ensure_future(self.send("GET", f"queue/data?session_hash={session}", who=who))


class Loop:
    """Runs coroutines in a thread: that of the tests may have an event loop already, the browser's."""

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, coroutine).result()


@pytest.fixture
def loop() -> Loop:
    return Loop()


def test_a_session_belongs_to_the_browser_that_began_it(loop: Loop) -> None:
    async def check() -> None:
        page = Page()
        assert await page.join("mine") == (200, "")
        assert await page.join("owners", OWNER) == (200, "")
        for name in ("mine", "owners"):
            assert await page.join(name, BOB) == (404, "ROUTE_NOT_FOUND")
            for path in (f"queue/data?session_hash={name}", f"heartbeat/{name}"):
                assert await page.send("GET", path, who=BOB) == (404, "ROUTE_NOT_FOUND")
        assert await page.join("mine", OWNER) == (200, "")

    loop.run(check())


@pytest.mark.parametrize("name", ["", "a" * 65, "a b", "a/b", "é", "a\n", "../a", "a" * 100_000])
def test_names_are_short(loop: Loop, name: str) -> None:
    async def check() -> None:
        page = Page()
        assert (await page.join(name, more=1))[0] in (413, 422)
        assert (await page.send("GET", f"heartbeat/{name}"))[0] == 422
        assert page.count == 0

    loop.run(check())


@pytest.mark.parametrize(
    "query",
    ["", "session_hash=a&session_hash=b", "session_hash=", "x=1&" * 20, "session_hash=a&session_hash=",
     "session_hash=&session_hash=a", "session_hash=a;session_hash=b", "session_hash=a%00", "session_hash=a+b",
     "session_hash=%C3%A9", "session_hash=a%26session_hash=b", "Session_Hash=a", "session_hash", "session_hash[]=a"],
)  # fmt: skip
def test_a_stream_is_of_one_session(loop: Loop, query: str) -> None:
    assert loop.run(Page().send("GET", f"queue/data?{query}"))[0] == 422


@pytest.mark.parametrize("name", ["mine", "%6dine", "mi%6Ee"])
def test_an_encoded_name_is_the_name_that_gradio_reads(loop: Loop, name: str) -> None:
    """Gradio decodes the query too: another spelling opens no other way to a session."""

    async def check() -> None:
        page = Page()
        assert await page.join("mine") == (200, "")
        for query in (f"session_hash={name}", f"session%5Fhash={name}", f"x=1&session_hash={name}"):
            assert await page.send("GET", f"queue/data?{query}", who=BOB) == (404, "ROUTE_NOT_FOUND")

    loop.run(check())


@pytest.mark.parametrize(
    "fields",
    [{"event_id": {}}, {"event_id": "a" * 65}, {"event_id": 1}, {"session_hash": {}}, {"session_hash": None},
     {"fn_index": "1"}, {"fn_index": True}, {"fn_index": None}, {"data": {}}, {"data": None}, {"trigger_id": "x"},
     {"batched": True}, {"simple_format": True}, {"oauth_token": "x"}, {"event_data": "\ud800"}],
    ids=str,
)  # fmt: skip
def test_events_have_the_form_that_the_page_sends(loop: Loop, fields: dict[str, Any]) -> None:
    assert loop.run(Page().join(**{"session": "s", **fields} if "session_hash" not in fields else fields))[0] == 422


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"data": [NaN]}', b"[" * 400, b"{}", b"null"])
def test_other_bodies_are_no_events(loop: Loop, body: bytes) -> None:
    assert loop.run(Page().send("POST", "queue/join", body))[0] == 422


def test_events_are_not_nested_deeply(loop: Loop) -> None:
    data: list[Any] = []
    for _ in range(MAX_DEPTH):
        data = [data]
    assert loop.run(Page().join(data=data))[0] == 422
    assert loop.run(Page().join(data=data[0][0]))[0] == 200


def test_only_the_pages_events_each_on_its_own_way_and_within_its_size(loop: Loop) -> None:
    async def check() -> None:
        page = Page()
        assert await page.join(event=9) == (404, "ROUTE_NOT_FOUND")
        assert await page.join(event=AT_ONCE) == (404, "ROUTE_NOT_FOUND")
        body = json.dumps({"data": [], "fn_index": QUEUED, "session_hash": "s"}).encode()
        assert await page.send("POST", "run/predict", body) == (404, "ROUTE_NOT_FOUND")
        assert await page.send("POST", "run/predict", body.replace(b"1", b"2")) == (200, "")
        assert await page.join(data=["x" * 1000]) == (413, "PAYLOAD_TOO_LARGE")
        assert (await page.join(event=LARGE, data=["x" * 1_000_000], who=OWNER))[0] == 200
        assert (await page.join(event=LARGE, data=["x" * LARGE_BYTES], who=OWNER))[0] == 413

    loop.run(check())


def test_few_answers_wait_for_a_browser_until_they_are_sent(loop: Loop) -> None:
    async def check() -> None:
        page = Page()
        assert [await page.join() for _ in range(LIMITS.undelivered + 1)][-1] == (429, "TOO_MANY_REQUESTS")
        assert await page.join("other") == (429, "TOO_MANY_REQUESTS")
        assert await page.join("bobs", BOB) == (200, "")
        page.done = ["event-1"]
        page.stays_open.set()
        assert await page.send("GET", "queue/data?session_hash=s") == (200, "")
        assert await page.join() == (200, "")
        assert await page.join() == (429, "TOO_MANY_REQUESTS")
        page.now += IDLE_SECONDS + 1
        assert await page.join() == (200, "")
        assert page.forgotten == [("bobs", False), ("s", False)]
        assert [(await page.join("o", OWNER))[0] for _ in range(9)] == [200] * 9

    loop.run(check())


def test_their_bytes_count_too(loop: Loop) -> None:
    async def check() -> None:
        page = Page()
        assert [(await page.join(data=["x" * 900]))[0] for _ in range(3)] == [200, 200, 429]

    loop.run(check())


def test_a_browser_has_few_sessions_and_the_oldest_closed_one_goes(loop: Loop) -> None:
    async def check() -> None:
        page = Page()
        open_page = page.listen("one")
        for name in ("two", "three"):
            await asyncio.sleep(0)
            assert await page.join(name) == (200, "")
        assert page.forgotten == [("two", True)]
        assert await page.send("GET", "queue/data?session_hash=one") == (429, "TOO_MANY_REQUESTS")
        second = page.listen("three")
        await asyncio.sleep(0)
        assert await page.join("four") == (429, "TOO_MANY_REQUESTS")
        third = page.listen("bobs", BOB)
        assert await third == (429, "TOO_MANY_REQUESTS")
        page.stays_open.set()
        assert await open_page == await second == (200, "")

    loop.run(check())
