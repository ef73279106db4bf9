"""Limits on Gradio's progress streams of uploads: whose they are, how many are open, and how many names are kept.

Gradio keeps every name of an upload that is ever asked for, of any length, and looks twenty times a second after each
stream. Here a name is short and belongs to the browser that used it first, and Gradio forgets the oldest names.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Receive, Scope, Send

from wan_ui.errors import InvalidRequest, RouteNotFound, TooManyRequests, WanUIError
from wan_ui.turns import counted
from wan_ui.web.asgi import error_response
from wan_ui.web.auth import UPLOAD_PATH

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.identity import Identity

PROGRESS_PATH = "/gradio_api/upload_progress"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class ProgressLimits:
    """The most names that Gradio keeps, and the most open streams of one browser and of all guests."""

    names: int = 1000
    streams: int = 6
    streams_of_guests: int = 60


class UploadProgress:
    """ASGI middleware inside Auth. To be used from the event loop alone.

    `access` returns the access of the request that is being answered; `forget` lets Gradio forget a name.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: Callable[[], Access],
        forget: Callable[[str], None],
        limits: ProgressLimits = ProgressLimits(),
    ) -> None:
        self._app = app
        self._access = access
        self._forget = forget
        self._limits = limits
        self._names: OrderedDict[str, str | None] = OrderedDict()  # each with its browser, the latest one last
        self._streams: Counter[str | None] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app."""
        path = scope["path"].rstrip("/") if scope["type"] == "http" else ""
        if path not in (UPLOAD_PATH, PROGRESS_PATH):
            return await self._app(scope, receive, send)
        identity, is_stream = self._access().identity, path == PROGRESS_PATH
        try:
            name = _name(scope)
            if name is None and not is_stream:
                return await self._app(scope, receive, send)
            self._use(name, identity)
            if is_stream:
                self._check_streams(identity)
        except WanUIError as error:
            return await error_response(error)(scope, receive, send)
        with counted(self._streams, identity.visitor, int(is_stream)):
            await self._app(scope, receive, send)

    def _use(self, name: str | None, identity: Identity) -> None:
        """Notes that a browser uses a name. Raises InvalidRequest for a wrong one, RouteNotFound for another's."""
        if name is None or not _NAME.fullmatch(name):
            raise InvalidRequest(
                "upload_id: 1 to 64 letters, digits, - and _.", fields=[{"loc": "upload_id", "msg": "not a name"}]
            )
        if self._names.setdefault(name, identity.visitor) != identity.visitor:
            raise RouteNotFound("There is no such upload.")
        self._names.move_to_end(name)
        while len(self._names) > self._limits.names:
            self._forget(self._names.popitem(last=False)[0])

    def _check_streams(self, identity: Identity) -> None:
        mine, all_streams = self._streams[identity.visitor], self._streams.total()
        if mine >= self._limits.streams or (not identity.owner and all_streams >= self._limits.streams_of_guests):
            raise TooManyRequests("Many uploads are being watched. Try again in a few seconds.")


def _name(scope: Scope) -> str | None:
    """The name in a request's query; None without one, and "" for several."""
    try:
        query = scope.get("query_string", b"").decode("latin-1")
        names = parse_qs(query, keep_blank_values=True, max_num_fields=10).get("upload_id", [])
    except ValueError:  # more fields than that
        return ""
    return None if not names else names[0] if len(names) == 1 else ""
