"""ASGI middleware that decides which language a request is answered in, and states it in the page's document."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wan_ui import language

MESSAGES_SECONDS = 3600  # that a browser keeps them
_GRADIO = b"window.gradio_config"
"""What tells Gradio's document, whose template is its own, from the page to sign in."""
_LANG = b'lang="en"'
_HEAD, _PAGE = b"<head>", b"<gradio-app"
_NAVIGATOR = '<script>Object.defineProperty(navigator, "language", {value: "%s"})</script>'
"""Gradio's own words, such as those of an empty image, follow the browser's language: the page's in its stead."""


@dataclass(frozen=True)
class Additions:
    """HTML that the page's document has beside Gradio's: at the head's start, and in the body before Gradio's page."""

    head: str = ""
    body: str = ""


class PageLanguage:
    """Notes each request's language for what answers it, see wan_ui.language; the API's answers stay English."""

    def __init__(self, app: ASGIApp, additions: Additions = Additions()) -> None:
        """`app` renders the page and the pages to sign in; `additions` are put into the page's document."""
        self._app = app
        self._additions = additions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        chosen = language.preferred(headers.getlist("cookie"), headers.get("accept-language", ""))
        with language.in_language(chosen):
            sent = _stating(language.tag(chosen), self._additions, send) if scope["path"] == "/" else send
            await self._app({**scope, language.SCOPE_KEY: chosen}, receive, sent)


def messages_route() -> Route:
    """GET /texts/{code}.json: the API's messages in a language, for the page's scripts."""

    def messages(request: Request) -> JSONResponse:
        code = request.path_params["code"]
        known = language.messages(code) if code in language.languages() else {}
        return JSONResponse(known, headers={"Cache-Control": f"private, max-age={MESSAGES_SECONDS}"})

    return Route("/" + language.messages_path("{code}"), messages)


def _stating(tag: str, additions: Additions, send: Send) -> Send:
    """A `send` that writes a language tag and the additions into Gradio's document, which arrives in one piece."""
    start: Message | None = None

    async def stated(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start" and _is_html(message):
            start = message
            return
        if start is not None:
            body = message.get("body", b"")
            if _GRADIO in body and not message.get("more_body"):
                body = body.replace(_LANG, f'lang="{tag}"'.encode(), 1)
                body = body.replace(_HEAD, _HEAD + (_NAVIGATOR % tag + additions.head).encode(), 1)
                body = body.replace(_PAGE, additions.body.encode() + _PAGE, 1)
                MutableHeaders(scope=start)["content-length"] = str(len(body))
            await send(start)
            start, message = None, {**message, "body": body}
        await send(message)

    return stated


def _is_html(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    return headers.get("content-type", "").startswith("text/html") and "content-encoding" not in headers
