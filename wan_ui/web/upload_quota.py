"""Gradio's upload route on a disk that fills up: 507 instead of its 500, and no half a file stays; it knows no page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from starlette.formparsers import MultiPartException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wan_ui.errors import DiskFull, WanUIError
from wan_ui.files import is_disk_full
from wan_ui.web.auth import UPLOAD_PATH

LOOK_BYTES = 1 << 20  # of a body between two looks at the disk
_PARTS = "tmp*"  # the names of Python's tempfile, which Gradio writes a body under until it is whole


class UploadQuota:
    """ASGI middleware right around Gradio's app.

    `problem` says why no file may be stored now, if so; `folder` is where Gradio keeps files. What a body left there
    that broke off is removed when no upload is going on; so make one only where no other process uses the folder.
    """

    def __init__(self, app: ASGIApp, problem: Callable[[int], WanUIError | None], folder: Path) -> None:
        self._app = app
        self._problem = problem
        self._folder = folder
        self._running = 0
        self._broken = False
        self._remove_parts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].rstrip("/") != UPLOAD_PATH:
            return await self._app(scope, receive, send)
        upload = _Upload(receive, self._problem)
        self._running += 1
        whole = False
        try:
            await self._app(scope, upload.receive, upload.hold)
            whole = upload.refused is None
        except OSError as error:
            if not is_disk_full(error):
                raise
            upload.refused = DiskFull("The disk filled up during the upload. Make room on it and try again.")
        finally:
            self._running -= 1
            self._broken = self._broken or not whole
            if self._broken and self._running == 0:
                self._remove_parts()
            await upload.answer(scope, receive, send)

    def _remove_parts(self) -> None:
        # Not on a thread: an upload that began meanwhile would lose its file.
        for part in self._folder.glob(_PARTS):
            if part.is_file():  # whole files are in folders
                part.unlink(missing_ok=True)
        self._broken = False


class _Upload:
    """One body on its way in, and the app's answer to it, which is held back until the app is done."""

    def __init__(self, receive: Receive, problem: Callable[[int], WanUIError | None]) -> None:
        self._receive = receive
        self._problem = problem
        self._held: list[Message] = []
        self._unseen = 0
        self.refused: WanUIError | None = None

    async def receive(self) -> Message:
        message = await self._receive()
        self._unseen += len(message.get("body", b""))
        if self._unseen >= LOOK_BYTES:
            self._unseen = 0
            self.refused = self._problem(0)
            if self.refused is not None:
                raise MultiPartException(self.refused.message)  # at which Gradio ends reading
        return message

    async def hold(self, message: Message) -> None:
        self._held.append(message)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.refused is not None:
            body = {"detail": {"error": self.refused.body()}}
            return await JSONResponse(body, self.refused.status, {"Cache-Control": "no-store"})(scope, receive, send)
        for message in self._held:
            await send(message)
