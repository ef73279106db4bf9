"""Gradio's progress streams of uploads: names are short, few and one browser's, and few streams are open."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Receive, Scope, Send

from wan_ui.access import Access
from wan_ui.identity import Identity
from wan_ui.web.upload_progress import ProgressLimits, UploadProgress

ANN, BOB, OWNER = Identity("ann", False), Identity("bob", False), Identity("owner", True)
UPLOAD, PROGRESS = "/gradio_api/upload", "/gradio_api/upload_progress"


class Page:
    """The middleware over an app whose streams stay open until `ends` is set."""

    def __init__(self) -> None:
        self.who = ANN
        self.forgotten: list[str] = []
        self.ends = asyncio.Event()
        limits = ProgressLimits(names=2, streams=2, streams_of_guests=3)
        self.app = UploadProgress(self.gradio, lambda: Access(self.who, False), self.forgotten.append, limits)

    async def gradio(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == PROGRESS:
            await self.ends.wait()

    async def status(self, path: str, who: Identity = ANN) -> int:
        """The status of the response to a request that then goes on."""
        self.who = who
        path, _, query = path.partition("?")
        scope = {"type": "http", "path": path, "headers": [], "query_string": query.encode()}
        status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                status.set_result(message["status"])

        async def receive() -> Any:
            raise AssertionError("nothing is read")

        task = asyncio.create_task(self.app(scope, receive, send))
        answered = await status
        if self.ends.is_set():
            await task
        return answered


def test_names_are_short_and_the_oldest_are_forgotten() -> None:
    """Gradio keeps every name that was ever asked for, each of up to 60 kB."""

    async def run() -> None:
        page = Page()
        page.ends.set()
        assert await page.status(UPLOAD) == await page.status("/gradio_api/other") == 200
        for query in ("upload_id=" + "a" * 65, "upload_id=", "upload_id=a&upload_id=b", "upload_id=a.b"):
            assert await page.status(f"{PROGRESS}?{query}") == await page.status(f"{UPLOAD}?{query}") == 422
        assert await page.status(PROGRESS) == 422
        for name in ("one", "two", "one", "three"):
            assert await page.status(f"{UPLOAD}?upload_id={name}") == 200
        assert page.forgotten == ["two"]

    asyncio.run(run())


def test_a_name_is_for_the_browser_that_used_it_first() -> None:
    async def run() -> None:
        page = Page()
        page.ends.set()
        assert await page.status(f"{UPLOAD}?upload_id=one") == await page.status(f"{PROGRESS}?upload_id=one") == 200
        assert await page.status(f"{PROGRESS}?upload_id=one", BOB) == 404

    asyncio.run(run())


def test_few_streams_are_open() -> None:
    """Gradio looks twenty times a second after each; with 600 open ones health took 1.2 s."""

    async def run() -> None:
        page = Page()
        answers = [await page.status(f"{PROGRESS}?upload_id=a") for _ in range(3)]
        answers += [await page.status(f"{PROGRESS}?upload_id=b", BOB) for _ in range(2)]
        assert answers == [200, 200, 429, 200, 429]
        assert await page.status(f"{PROGRESS}?upload_id=c", OWNER) == 200
        page.ends.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert await page.status(f"{PROGRESS}?upload_id=a") == 200

    asyncio.run(run())
