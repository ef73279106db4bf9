"""Disk checks for Gradio's upload route: 507 instead of its 500, and no partial file is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from starlette.formparsers import MultiPartException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wan_ui.errors import DiskFull, WanUIError
from wan_ui.files import is_disk_full
from wan_ui.web.asgi import HeldResponse, error_response
from wan_ui.web.auth import UPLOAD_PATH

LOOK_BYTES = 1 << 20  # of a body between two checks of the disk
_PARTS = "tmp*"  # the names of Python's tempfile, which Gradio writes a body under until it is complete


class UploadQuota:
    """ASGI middleware around Gradio's app.

    `problem` returns why a file of so many bytes cannot be stored now, or None; `folder` is where Gradio keeps files.
    Partial files there are removed when no upload is running, so no other process may use the folder.
    """

    def __init__(self, app: ASGIApp, problem: Callable[[int], WanUIError | None], folder: Path) -> None:
        self._app = app
        self._problem = problem
        self._folder = folder
        self._running = 0
        self._has_partial_files = False
        self._remove_partial_files()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app."""
        if scope["type"] != "http" or scope["path"].rstrip("/") != UPLOAD_PATH:
            return await self._app(scope, receive, send)
        upload, response = _Upload(receive, self._problem), HeldResponse()
        self._running += 1
        is_complete = False
        try:
            await self._app(scope, upload.receive, response)
            is_complete = upload.error is None
        except OSError as error:
            if not is_disk_full(error):
                raise
            upload.error = DiskFull("The disk filled up during the upload. Make room on it and try again.")
        finally:
            self._running -= 1
            self._has_partial_files = self._has_partial_files or not is_complete
            if self._has_partial_files and self._running == 0:
                self._remove_partial_files()
            if upload.error is None:
                await response.release(send)
            else:
                await error_response(upload.error, {"Cache-Control": "no-store"})(scope, receive, send)

    def _remove_partial_files(self) -> None:
        # Not on a thread: an upload that starts meanwhile would lose its file.
        for part in self._folder.glob(_PARTS):
            if part.is_file():  # complete files are in folders
                part.unlink(missing_ok=True)
        self._has_partial_files = False


class _Upload:
    """The body of one upload, with a check of the disk after every LOOK_BYTES."""

    def __init__(self, receive: Receive, problem: Callable[[int], WanUIError | None]) -> None:
        self._receive = receive
        self._problem = problem
        self._unchecked = 0
        self.error: WanUIError | None = None

    async def receive(self) -> Message:
        """The next part of the body. Raises MultiPartException, at which Gradio stops reading, if the disk is full."""
        message = await self._receive()
        self._unchecked += len(message.get("body", b""))
        if self._unchecked >= LOOK_BYTES:
            self._unchecked = 0
            self.error = self._problem(0)
            if self.error is not None:
                raise MultiPartException(self.error.message)
        return message
