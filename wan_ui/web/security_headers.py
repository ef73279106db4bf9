"""Security headers that are added to every response."""

from __future__ import annotations

import re
from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        # Gradio has inline scripts and compiles its templates to functions; all scripts come from this server.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Robots-Tag": "noindex, nofollow",
    "Cache-Control": "no-store",
}
AN_HOUR = "private, max-age=3600"
IMMUTABLE = "private, max-age=31536000, immutable"
# Files of Gradio's page whose names change with their content.
_HASHED = re.compile(r"/assets/[^/]+-[\w-]{8,}\.(?:js|css|woff2?|svg|png)", re.ASCII)
# Others that change with Gradio's version alone, which a browser may therefore keep for an hour.
_KEPT = re.compile(r"/static/.*|/favicon\.ico|/theme\.css")


class SecurityHeaders:
    """ASGI middleware that adds `HEADERS` to every response; a header that the response has already is kept."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app."""
        path = scope["path"] if scope["type"] == "http" else ""
        kept = IMMUTABLE if _HASHED.fullmatch(path) else AN_HOUR if _KEPT.fullmatch(path) else None

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if kept is not None and message["status"] in (200, 304):
                    headers["cache-control"] = kept
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, sent)
