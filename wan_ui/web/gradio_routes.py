"""The allow-list of Gradio's routes: those that the page uses are served, and every other one is answered with 404."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from starlette.routing import BaseRoute, Match, compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from wan_ui.errors import RouteNotFound
from wan_ui.web.asgi import refuse

# An address in place of a path: Gradio would fetch it.
_ADDRESS = re.compile(r"/gradio_api/file=\s*[a-z][a-z0-9+.-]*:", re.IGNORECASE)

# Gradio would read a page's stored state from a folder of this name, or fail for a page that there is not; %64 is "d".
_DEEP_LINK = re.compile(rb"(?:^|&)(?:page|[^=&]*(?:deep|%)[^=&]*)=", re.IGNORECASE)


@dataclass(frozen=True)
class ServedRoute:
    """A route of Gradio that the page uses.

    `template` is its path in Gradio's route table; `path`, where given, is the only one of its paths that is served.
    """

    template: str
    methods: frozenset[str]
    path: str | None = None

    def serves(self, method: str, path: str) -> bool:
        """Whether a request with this method and path is for this route."""
        return method in self.methods and self._pattern.match(path) is not None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(re.escape(self.path) + r"\Z") if self.path else compile_path(self.template)[0]


def _served(template: str, methods: str = "GET", path: str | None = None) -> ServedRoute:
    return ServedRoute(template, frozenset(methods.split()), path)


SERVED: tuple[ServedRoute, ...] = (
    # The page, and what it is made of.
    _served("/", "GET HEAD"),
    _served("/config"),
    _served("/theme.css"),
    _served("/assets/{path:path}"),
    _served("/static/{path:path}"),
    _served("/favicon.ico"),
    _served("/robots.txt"),
    # Its events: queued ones, and those that Gradio handles at once.
    _served("/gradio_api/queue/join", "POST"),
    _served("/gradio_api/queue/data"),
    _served("/gradio_api/run/{api_name}", "POST", "/gradio_api/run/predict"),
    _served("/gradio_api/heartbeat/{session_hash}"),
    # Its files.
    _served("/gradio_api/upload", "POST"),
    _served("/gradio_api/upload_progress"),
    _served("/gradio_api/file={path_or_url:path}", "GET HEAD"),
    # A request that Gradio sends to its own server at the start.
    _served("/gradio_api/startup-events"),
)
"""To serve one more route of Gradio, add it here; tests/web/test_gradio_routes.py lists the others by name."""


class GradioRoutes:
    """ASGI middleware around Gradio's app that lets pass the routes of SERVED and `own`, the routes of this project."""

    def __init__(self, app: ASGIApp, own: Sequence[BaseRoute]) -> None:
        self._app = app
        self._own = tuple(own)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app."""
        if scope["type"] == "lifespan" or self._is_served(scope):
            return await self._app(scope, receive, send)
        await refuse(RouteNotFound("There is no such route."), scope, receive, send)

    def _is_served(self, scope: Scope) -> bool:
        if scope["type"] != "http":
            return False  # the page opens no websocket
        if any(route.matches(scope)[0] != Match.NONE for route in self._own):
            return True
        if _ADDRESS.match(scope["path"]) or _DEEP_LINK.search(scope.get("query_string", b"")):
            return False
        return any(route.serves(scope["method"], scope["path"]) for route in SERVED)
