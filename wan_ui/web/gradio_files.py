"""Access control for the files that Gradio keeps: an uploaded file belongs to the browser that it came from.

Gradio serves every file to whoever knows its name. Here only the browser that uploaded a file, and the owner, can read
it. Files of the page itself are public.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from starlette.types import ASGIApp, Receive, Scope, Send

from wan_ui.errors import RouteNotFound, WanUIError
from wan_ui.web.asgi import HeldResponse, error_response
from wan_ui.web.auth import UPLOAD_PATH

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.jobs.service import JobService

# What Gradio may know of a request for a file: it repeats all headers in its answer to a range, Cookie among them.
_FILE_HEADERS = frozenset({b"host", b"range", b"if-range", b"if-none-match", b"if-modified-since"})
_RANGE = re.compile(rb"bytes=[0-9]{1,18}-[0-9]{0,18}")  # Gradio fails at others
_FILE = re.compile(r"/(?:gradio_api/)?file[=/](?P<path>.+)", re.DOTALL)


class GradioFiles:
    """ASGI middleware inside Auth.

    `folder` is where Gradio keeps files, each in a folder with a random name. `access` returns the access of the
    request that is being answered.
    """

    def __init__(self, app: ASGIApp, service: JobService, access: Callable[[], Access], folder: Path) -> None:
        self._app = app
        self._service = service
        self._access = access
        self._folder = folder.resolve()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = scope["path"]
        if _FILE.fullmatch(path) is not None:
            scope = _for_file(scope)
        if self._access().identity.owner:
            return await self._app(scope, receive, send)
        try:
            if path.rstrip("/") == UPLOAD_PATH:
                response = HeldResponse()
                await self._app(scope, receive, response)
                await self._record_owner(response)
                return await response.release(send)
            await self._check_file(path)
        except WanUIError as error:
            return await error_response(error)(scope, receive, send)
        await self._app(scope, receive, send)

    async def _check_file(self, path: str) -> None:
        """Raises RouteNotFound for a file that another browser sent."""
        match = _FILE.fullmatch(path)
        file_id = None if match is None else file_id_of(match["path"], self._folder)
        if file_id is not None and not await anyio.to_thread.run_sync(self._service.may_open, file_id, self._access()):
            raise RouteNotFound("There is no such file.")

    async def _record_owner(self, response: HeldResponse) -> None:
        """Records who uploaded the files that a response names, before it is sent."""
        if response.status != 200:
            return
        access = self._access()

        def record() -> None:
            file_ids = [file_id_of(path, self._folder) for path in _paths(response.body)]
            self._service.record_owners([each for each in file_ids if each is not None], access)

        await anyio.to_thread.run_sync(record)  # all at once: an upload has up to a thousand files


def _for_file(scope: Scope) -> Scope:
    """A request for a file with the headers that Gradio needs. The whole file answers an odd range (RFC 9110, 14.2)."""
    pairs = [(name.lower(), value) for name, value in scope["headers"] if name.lower() in _FILE_HEADERS]
    return {**scope, "headers": [pair for pair in pairs if pair[0] != b"range" or _RANGE.fullmatch(pair[1])]}


def file_id_of(path: str, folder: Path) -> str | None:
    """The name of the folder that Gradio keeps a file in; None for a path outside `folder`."""
    try:
        resolved = Path(path).resolve()
    except (OSError, ValueError, RuntimeError):
        return None  # not a valid path
    return resolved.relative_to(folder).parts[0] if folder in resolved.parents else None


def files_named_in(config: Any, folder: Path) -> frozenset[str]:
    """Ids of the files that the page's own configuration names, which are public."""
    file_ids: set[str] = set()
    if isinstance(config, dict):
        path = config.get("path")
        file_id = file_id_of(path, folder.resolve()) if isinstance(path, str) else None
        file_ids |= set() if file_id is None else {file_id}
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            file_ids |= files_named_in(value, folder)
    return frozenset(file_ids)


def _paths(text: bytes) -> list[str]:
    paths = json.loads(text)
    return [path for path in paths if isinstance(path, str)] if isinstance(paths, list) else []
