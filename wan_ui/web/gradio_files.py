"""Access control for Gradio's own routes: uploaded files and sessions belong to the browser that they came from.

Gradio serves every file and every session to whoever knows its name. Here only the browser that uploaded a file, and
the owner, can read it, and only the browser that began a session can use it. Files of the page itself are public.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import anyio.to_thread
from starlette.types import ASGIApp, Receive, Scope, Send

from wan_ui.errors import RouteNotFound, WanUIError
from wan_ui.web.asgi import HeldResponse, error_response, read_body, replay
from wan_ui.web.auth import UPLOAD_PATH

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.jobs.service import JobService

MAX_EVENT_BYTES = 16 * 2**20  # of a page's event; files are uploaded separately
MAX_SESSIONS = 10_000
_FILE = re.compile(r"/(?:gradio_api/)?file[=/](?P<path>.+)", re.DOTALL)
_SESSION = re.compile(r"/gradio_api/heartbeat/(?P<session>[^/]+)")
_API = "/gradio_api/"


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
        self._sessions: OrderedDict[str, str | None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app."""
        if scope["type"] != "http" or self._access().identity.owner:
            return await self._app(scope, receive, send)
        path, method = scope["path"], scope["method"]
        try:
            if path.rstrip("/") == UPLOAD_PATH:
                response = HeldResponse()
                await self._app(scope, receive, response)
                await self._record_owner(response)
                return await response.release(send)
            await self._check_file(path)
            for session in _sessions_named_in(path, scope.get("query_string", b"")):
                self._check_session(session)
            if method == "POST" and path.startswith(_API):
                data = await read_body(receive, "An event of the page", MAX_EVENT_BYTES)
                self._check_session(_session_of(data))
                receive = replay(data, receive)
        except WanUIError as error:
            return await error_response(error)(scope, receive, send)
        await self._app(scope, receive, send)

    async def _check_file(self, path: str) -> None:
        """Raises RouteNotFound for a file that another browser sent."""
        match = _FILE.fullmatch(path)
        file_id = None if match is None else file_id_of(match["path"], self._folder)
        if file_id is not None and not await anyio.to_thread.run_sync(self._service.may_open, file_id, self._access()):
            raise RouteNotFound("There is no such file.")

    def _check_session(self, session: str | None) -> None:
        """Gives a new session to the browser that sends it. Raises RouteNotFound for another browser's session."""
        if session is None:
            return
        visitor = self._access().identity.visitor
        if self._sessions.setdefault(session, visitor) != visitor:
            raise RouteNotFound("There is no such session. Reload the page.")
        self._sessions.move_to_end(session)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)

    async def _record_owner(self, response: HeldResponse) -> None:
        """Records who uploaded the files that a response names, before it is sent."""
        for path in _paths(response.body) if response.status == 200 else ():
            file_id = file_id_of(path, self._folder)
            if file_id is not None:
                await anyio.to_thread.run_sync(partial(self._service.record_owner, file_id, self._access()))


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


def _sessions_named_in(path: str, query: bytes) -> list[str]:
    heartbeat = _SESSION.fullmatch(path)
    sessions = [] if heartbeat is None else [heartbeat["session"]]
    if path.startswith(_API):
        sessions += parse_qs(query.decode("latin-1")).get("session_hash", [])
    return sessions


def _session_of(data: bytes) -> str | None:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        return None  # not an event: Gradio answers with an error
    session = event.get("session_hash") if isinstance(event, dict) else None
    return session if isinstance(session, str) else None


def _paths(text: bytes) -> list[str]:
    paths = json.loads(text)
    return [path for path in paths if isinstance(path, str)] if isinstance(paths, list) else []
