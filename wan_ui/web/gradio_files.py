"""Gradio's own routes as each browser's own: the files it sent and the sessions of its pages; it knows no page.

Gradio gives every file it keeps, and every session's answers, to whoever knows their name. Here a file that a browser
sent is for that browser and the owner, and a session for the browser that began it. Files that Gradio keeps for the
page itself belong to nobody and are left to it.
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
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wan_ui.errors import RouteNotFound, WanUIError
from wan_ui.web.auth import UPLOAD_PATH, whole_body

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.jobs.service import JobService

LARGEST_EVENT = 16 * 2**20  # bytes of a page's event; files travel by themselves
MOST_SESSIONS = 10_000
_FILE = re.compile(r"/(?:gradio_api/)?file[=/](?P<path>.+)", re.DOTALL)
_SESSION = re.compile(r"/gradio_api/heartbeat/(?P<session>[^/]+)")
_API = "/gradio_api/"


class GradioFiles:
    """ASGI middleware behind the gate. `folder` is where Gradio keeps files, each in a folder of a random name.

    `access` says whose request is being answered.
    """

    def __init__(self, app: ASGIApp, service: JobService, access: Callable[[], Access], folder: Path) -> None:
        self._app = app
        self._service = service
        self._access = access
        self._folder = folder.resolve()
        self._sessions: OrderedDict[str, str | None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._access().identity.owner:
            return await self._app(scope, receive, send)
        path, method = scope["path"], scope["method"]
        try:
            if path.rstrip("/") == UPLOAD_PATH:
                return await self._app(scope, receive, self._noting(send))
            await self._check_file(path)
            for session in _named_in(path, scope.get("query_string", b"")):
                self._check_session(session)
            if method == "POST" and path.startswith(_API):
                data = await whole_body(receive, "An event of the page", LARGEST_EVENT)
                self._check_session(_session_of(data))
                receive = _again(data, receive)
        except WanUIError as error:
            return await JSONResponse({"detail": {"error": error.body()}}, error.status)(scope, receive, send)
        await self._app(scope, receive, send)

    async def _check_file(self, path: str) -> None:
        """Raises RouteNotFound for a file that another browser sent."""
        asked = _FILE.fullmatch(path)
        file_id = None if asked is None else file_id_of(asked["path"], self._folder)
        if file_id is not None and not await anyio.to_thread.run_sync(self._service.may_open, file_id, self._access()):
            raise RouteNotFound("There is no such file.")

    def _check_session(self, session: str | None) -> None:
        """Notes whose a session is when it is heard of first. Raises RouteNotFound for another browser's."""
        if session is None:
            return
        visitor = self._access().identity.visitor
        if self._sessions.setdefault(session, visitor) != visitor:
            raise RouteNotFound("There is no such session: load the page again.")
        self._sessions.move_to_end(session)
        if len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)

    def _noting(self, send: Send) -> Send:
        """A send that notes whose the files are before their sender learns where they are."""
        held: list[Message] = []

        async def note(message: Message) -> None:
            held.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                text = b"".join(one.get("body", b"") for one in held)
                for path in _paths(text) if held[0].get("status") == 200 else ():
                    file_id = file_id_of(path, self._folder)
                    if file_id is not None:
                        await anyio.to_thread.run_sync(partial(self._service.record_owner, file_id, self._access()))
                for one in held:
                    await send(one)

        return note


def file_id_of(path: str, folder: Path) -> str | None:
    """The name of the folder that Gradio keeps a file in; None for a path that lies elsewhere."""
    try:
        found = Path(path).resolve()
    except (OSError, ValueError, RuntimeError):
        return None  # a name that no file can have
    return found.relative_to(folder).parts[0] if folder in found.parents else None


def files_named_in(config: Any, folder: Path) -> frozenset[str]:
    """Ids of the files that a page's own configuration names, and so shows to everybody."""
    found: set[str] = set()
    if isinstance(config, dict):
        path = config.get("path")
        file_id = file_id_of(path, folder.resolve()) if isinstance(path, str) else None
        found |= set() if file_id is None else {file_id}
        config = list(config.values())
    if isinstance(config, list):
        for one in config:
            found |= files_named_in(one, folder)
    return frozenset(found)


def _named_in(path: str, query: bytes) -> list[str]:
    beat = _SESSION.fullmatch(path)
    named = [] if beat is None else [beat["session"]]
    if path.startswith(_API):
        named += parse_qs(query.decode("latin-1")).get("session_hash", [])
    return named


def _session_of(data: bytes) -> str | None:
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return None  # no event; Gradio says so
    session = said.get("session_hash") if isinstance(said, dict) else None
    return session if isinstance(session, str) else None


def _paths(text: bytes) -> list[str]:
    said = json.loads(text)
    return [path for path in said if isinstance(path, str)] if isinstance(said, list) else []


def _again(data: bytes, receive: Receive) -> Receive:
    """A receive that gives the body first, and then what comes."""
    given = False

    async def once_more() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": data, "more_body": False}

    return once_more
