"""The gate in front of page and HTTP door: gives each browser its badge, says who asks; it knows no job."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http.cookies import CookieError, SimpleCookie

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wan_ui.visitors import IN_SCOPE, Badge, Badges, Who, asking

_YEAR = 365 * 24 * 3600  # seconds


def around(wrap: Callable[[ASGIApp], ASGIApp]) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """A lifespan that puts `wrap` around all of an app.

    Gradio puts its own cross-origin answers outside every middleware it is given, so this goes around them too.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        assert app.middleware_stack is not None
        app.middleware_stack = wrap(app.middleware_stack)
        yield

    return lifespan


class Gate:
    """ASGI middleware: a signed random cookie for each browser that opens the page, and a Who in every scope.

    Where nobody else can come in (no link, no other host) every browser that the guard lets pass is the owner's.
    """

    def __init__(self, app: ASGIApp, badges: Badges) -> None:
        self._app = app
        self._badges = badges
        self._cookie = f"wan_ui_{badges.name}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        badge = self._badge(scope)
        who = Who(None if badge is None else badge.visitor, owner=True)
        if _opens_the_page(scope):
            send = self._giving(badge or self._badges.new(), scope, send)
        scope[IN_SCOPE] = who
        asking.set(who)
        await self._app(scope, receive, send)

    def _badge(self, scope: Scope) -> Badge | None:
        for header in Headers(scope=scope).getlist("cookie"):
            try:
                cookies = SimpleCookie(header)
            except CookieError:
                continue
            if self._cookie in cookies:
                return self._badges.read(cookies[self._cookie].value)
        return None

    def _giving(self, badge: Badge, scope: Scope, send: Send) -> Send:
        """A send that adds the badge's cookie to the reply."""
        cookie = (
            f"{self._cookie}={self._badges.text(badge)}; HttpOnly; SameSite=Lax; Path=/; Max-Age={_YEAR}"
            f"{'; Secure' if scope.get('scheme') == 'https' else ''}"
        )

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("set-cookie", cookie)
            await send(message)

        return with_cookie


def _opens_the_page(scope: Scope) -> bool:
    return (scope["type"], scope.get("method"), scope["path"]) == ("http", "GET", "/")
