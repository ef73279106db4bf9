"""Checks of Gradio's upload route: 507 instead of its 500 for a full disk, no partial file left, parts that are files.

Gradio keeps a part of a form that is no file in memory, whatever its size.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wan_ui.errors import DiskFull, InvalidRequest, WanUIError
from wan_ui.files import is_disk_full
from wan_ui.web.asgi import HeldResponse, error_response
from wan_ui.web.auth import UPLOAD_PATH
from wan_ui.web.form_parts import PartHeaders

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
        form = _FormCheck(Headers(scope=scope).get("content-type", ""))
        upload, response = _Upload(receive, self._problem, form), HeldResponse()
        self._running += 1
        is_complete = False
        try:
            await self._app(scope, upload.receive, response)
            is_complete = upload.error is None
        except ClientDisconnect:
            return None  # nobody waits for the response
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
                await response.release(send)  # nothing, after a client has gone
            else:
                await error_response(upload.error, {"Cache-Control": "no-store"})(scope, receive, send)

    def _remove_partial_files(self) -> None:
        # Not on a thread: an upload that starts meanwhile would lose its file.
        for part in self._folder.glob(_PARTS):
            if part.is_file():  # complete files are in folders
                part.unlink(missing_ok=True)
        self._has_partial_files = False


class _Upload:
    """The body of one upload, with a check of the disk after every LOOK_BYTES and of each part's head."""

    def __init__(self, receive: Receive, problem: Callable[[int], WanUIError | None], form: _FormCheck) -> None:
        self._receive = receive
        self._problem = problem
        self._form = form
        self._unchecked = 0
        self.error: WanUIError | None = None

    async def receive(self) -> Message:
        """The next part of the body. Raises MultiPartException, at which Gradio stops reading, for `error`."""
        message = await self._receive()
        self._unchecked += len(message.get("body", b""))
        self.error = self._form.error_after(message.get("body", b""))
        if self.error is None and self._unchecked >= LOOK_BYTES:
            self._unchecked = 0
            self.error = self._problem(0)
        if self.error is not None:
            raise MultiPartException(self.error.message)
        return message


class _FormCheck:
    """Finds the parts of a form that are no files, as its body arrives. What is no form, Gradio refuses itself."""

    def __init__(self, content_type: str) -> None:
        self._part = PartHeaders()
        self._error: WanUIError | None = None
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        try:
            self._parser = MultipartParser(boundary, self._part.callbacks(self._check_part)) if boundary else None
        except MultipartParseError:  # a boundary that is too long
            self._parser = None

    def error_after(self, data: bytes) -> WanUIError | None:
        """What is wrong with the form up to the end of the next bytes of it."""
        if self._parser is not None and self._error is None:
            try:
                self._parser.write(data)
            except MultipartParseError as error:
                self._parser = None
                problem = f"not a valid form: {error}"
                self._error = InvalidRequest(f"The body is {problem}.", fields=[{"loc": "body", "msg": problem}])
        return self._error

    def _check_part(self) -> None:
        if b"filename" not in self._part.options():
            problem = "every part of the form must be a file"
            self._error = InvalidRequest(f"body: {problem}.", fields=[{"loc": "body", "msg": problem}])
