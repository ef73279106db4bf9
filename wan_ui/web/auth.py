"""Authentication: passwords, session cookies, and the identity of every request.

On a server that only this machine reaches (no public link, no other host, no password) every browser is the owner.
Otherwise a browser becomes a guest by signing in and the owner by opening the owner address that the start prints. IP
addresses and host names decide nothing.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from wan_ui.errors import LoginLocked, LoginRequired, RouteNotFound, WanUIError
from wan_ui.identity import IDENTITY_SCOPE_KEY, Identity, Session, Sessions, current_identity
from wan_ui.web import login as sign_in
from wan_ui.web.asgi import error_response, read_body, refuse, with_headers
from wan_ui.web.guest_pages import SHARED_PATH
from wan_ui.web.login import Login, LoginThrottle

OWNER_PATH = "/owner/"
LOGIN_PATH = "/login"
# Without a password: health, and a request that Gradio sends to itself at the start, whose response says nothing.
OPEN_PATHS = frozenset({"/v1/health", "/health", "/gradio_api/startup-events"})
UPLOAD_PATH = "/gradio_api/upload"
_SHARE_METHODS = frozenset({"GET", "HEAD"})
# Gradio's routes for developers, and those that fetch or stream for others: the page uses none of them.
_NOT_SERVED = re.compile(
    r"/(?:gradio_api/(?:dev|vibe|undo-vibe|profiling|process_recording|proxy|deep_link|stream|runs|run-history|token)\b"
    r"|gradio_api/file=\s*[a-z][a-z0-9+.-]*:|monitoring\b|proxy=|deep_link\b)",
    re.IGNORECASE,
)
MAX_FORM_BYTES = 4096  # of a sign-in
_YEAR = 365 * 24 * 3600  # seconds
_QUERY = re.compile(r"(?:compare=[0-9a-f]{32})?")


def around(wrap: Callable[[ASGIApp], ASGIApp]) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """A lifespan that wraps all of an app.

    Gradio adds its CORS middleware outside the middleware that it is given; this wraps that one too.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        assert app.middleware_stack is not None
        app.middleware_stack = wrap(app.middleware_stack)
        yield

    return lifespan


class OwnerAddress:
    """A one-time address: the browser that opens it becomes the owner's."""

    def __init__(self) -> None:
        self._token: str | None = secrets.token_urlsafe(32)

    @property
    def path(self) -> str | None:
        """The path to print; None after it was opened."""
        return None if self._token is None else OWNER_PATH + self._token

    def open(self, path: str) -> bool:
        """Whether the path is this address; after a yes it is no longer valid."""
        token = path.removeprefix(OWNER_PATH).encode("utf-8", "surrogatepass")
        if self._token is None or not hmac.compare_digest(token, self._token.encode()):
            return False
        self._token = None
        return True


class Auth:
    """ASGI middleware: a session cookie for each browser that opens the page, and an Identity in every scope.

    `login` None: only this machine reaches the server, and every request is the owner's. `secure_host` returns the host
    of the public link, which is reached by https although its tunnel sends http. `upload_problem` returns why an
    upload of so many bytes cannot be stored now, or None.
    """

    def __init__(
        self,
        app: ASGIApp,
        sessions: Sessions,
        login: Login | None = None,
        owner: OwnerAddress | None = None,
        *,
        throttle: LoginThrottle | None = None,
        secure_host: Callable[[], str | None] = lambda: None,
        upload_problem: Callable[[int], WanUIError | None] = lambda size: None,
    ) -> None:
        self._app = app
        self._sessions = sessions
        self._login = login
        self._owner = owner
        self._throttle = throttle or LoginThrottle()
        self._secure_host = secure_host
        self._upload_problem = upload_problem
        self._cookie = f"wan_ui_{sessions.name}"
        self._mark = "" if login is None else sessions.mark(f"{login.user}:{login.password}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        headers = MutableHeaders(scope=scope)
        del headers["x-forwarded-host"]  # Gradio would take the page's own address from it
        if headers.get("host", "").lower() == self._secure_host():
            scope["scheme"] = "https"
            headers["x-forwarded-proto"] = "https"
        session = self._session(scope)
        try:
            response = await self._response(scope, receive, session)
            if response is None:
                identity = self._identity(scope, session)
        except WanUIError as error:
            return await self._refuse(error, scope, receive, send)
        if response is not None:
            return await response(scope, receive, send)
        if _opens_the_page(scope) or (session is not None and session.outdated):
            cookie = self._cookie_of(session or self._sessions.new(), scope)
            send = with_headers(send, lambda headers: headers.append("set-cookie", cookie))
        scope[IDENTITY_SCOPE_KEY] = identity
        current_identity.set(identity)
        await self._app(scope, receive, send)

    # Identity

    def _identity(self, scope: Scope, session: Session | None) -> Identity:
        """Raises LoginRequired, LoginFailed, LoginLocked."""
        visitor = None if session is None else session.visitor
        if _opens_a_share(scope):
            return Identity(None, owner=False)  # the token in the address decides alone, see web.guest_pages
        if self._login is None:
            return Identity(visitor, owner=True)
        if session is not None and session.role == "owner":
            return Identity(visitor, owner=True)
        if scope["path"] in OPEN_PATHS or self._is_guest(session):
            return Identity(visitor, owner=False)
        credentials = sign_in.credentials(Headers(scope=scope).get("authorization", ""))
        if credentials is None:
            raise LoginRequired(
                "This server needs a password: sign in on its page, or send name and password as HTTP Basic."
            )
        self._try_password(visitor, *credentials)
        return Identity(visitor, owner=False)

    def _is_guest(self, session: Session | None) -> bool:
        return session is not None and session.role == "guest" and hmac.compare_digest(session.password, self._mark)

    def _try_password(self, visitor: str | None, user: str | None, password: str) -> None:
        """Raises LoginFailed for a wrong password, LoginLocked while no further one is tried."""
        assert self._login is not None
        self._throttle.check(visitor)
        if not self._login.fits(user, password):
            raise self._throttle.failed(visitor)
        self._throttle.passed(visitor)

    def _session(self, scope: Scope) -> Session | None:
        for header in Headers(scope=scope).getlist("cookie"):
            try:
                cookies = SimpleCookie(header)
            except CookieError:
                continue
            if self._cookie in cookies:
                return self._sessions.read(cookies[self._cookie].value)
        return None

    # Requests that are answered here

    async def _response(self, scope: Scope, receive: Receive, session: Session | None) -> Response | None:
        """The response to a request that is not for the app; None for all others. Raises LoginFailed, LoginLocked."""
        if scope["type"] != "http":
            return None
        path, method = scope["path"], scope["method"]
        if path.startswith(OWNER_PATH) and method == "GET" and self._owner is not None:
            return self._become_owner(path, session, scope)
        if path == LOGIN_PATH and self._login is not None:
            if method == "POST":
                return self._signed_in(await _form(receive), session, scope)
            return RedirectResponse("/", 303)
        if _NOT_SERVED.match(path):
            self._identity(scope, session)  # raises first if there is no password
            raise RouteNotFound("There is no such route.")
        problem = self._upload_problem(_length(scope)) if path.rstrip("/") == UPLOAD_PATH else None
        if problem is not None:
            self._identity(scope, session)
            raise problem
        return None

    def _become_owner(self, path: str, session: Session | None, scope: Scope) -> Response:
        # Not throttled: 256 random bits cannot be guessed, and an attacker must not be able to lock the owner out.
        assert self._owner is not None
        if not self._owner.open(path):
            raise RouteNotFound(
                "This owner address is wrong or was opened already. Each start of the server prints a new one."
            )
        is_signed_in = session is not None and (session.role == "owner" or self._is_guest(session))
        owner = replace(session, role="owner") if session is not None and is_signed_in else self._sessions.new("owner")
        return self._with_cookie(RedirectResponse("/", 303), owner, scope)

    def _signed_in(self, form: dict[str, str], session: Session | None, scope: Scope) -> Response:
        visitor = None if session is None else session.visitor
        self._try_password(visitor, form.get("user", ""), form.get("password", ""))
        # A session from before the sign-in is not kept: somebody else may have planted its cookie.
        signed_in = self._sessions.new("guest", self._mark)
        if session is not None and session.role == "owner":
            signed_in = session
        elif session is not None and session.role == "guest":
            signed_in = replace(session, password=self._mark)
        query = form.get("query", "")
        target = f"/?{query}" if query and _QUERY.fullmatch(query) else "/"
        return self._with_cookie(RedirectResponse(target, 303), signed_in, scope)

    async def _refuse(self, error: WanUIError, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return await refuse(error, scope, receive, send)
        headers = {"Cache-Control": "no-store"}
        if isinstance(error, LoginLocked):
            headers["Retry-After"] = str(error.details["seconds"])
        is_for_programs = scope["path"].startswith("/v1") or scope["path"] == "/metrics"
        if error.status == 401 and is_for_programs:
            headers["WWW-Authenticate"] = 'Basic realm="wan-ui", charset="UTF-8"'
        wants_page = "text/html" in Headers(scope=scope).get("accept", "") or scope["path"] in ("/", LOGIN_PATH)
        response: Response = error_response(error, headers)
        if self._login is not None and error.status in (401, 429) and wants_page and not is_for_programs:
            response = self._sign_in_page(self._login, error, scope, headers)
        await response(scope, receive, send)

    def _sign_in_page(self, login: Login, error: WanUIError, scope: Scope, headers: dict[str, str]) -> Response:
        query = scope.get("query_string", b"").decode("latin-1")
        page = sign_in.page(
            login.user,
            "" if isinstance(error, LoginRequired) else error.message,
            query if _QUERY.fullmatch(query) else "",
            error.details["seconds"] if isinstance(error, LoginLocked) else 0,
        )
        response = HTMLResponse(page, error.status, headers)
        if self._session(scope) is None:
            response.headers.append("set-cookie", self._cookie_of(self._sessions.new(), scope))
        return response

    # The cookie

    def _with_cookie(self, response: Response, session: Session, scope: Scope) -> Response:
        response.headers.append("set-cookie", self._cookie_of(session, scope))
        response.headers["cache-control"] = "no-store"
        return response

    def _cookie_of(self, session: Session, scope: Scope) -> str:
        return (
            f"{self._cookie}={self._sessions.text(session)}; HttpOnly; SameSite=Lax; Path=/; Max-Age={_YEAR}"
            f"{'; Secure' if scope.get('scheme') == 'https' else ''}"
        )


async def _form(receive: Receive) -> dict[str, str]:
    """A short urlencoded form. Raises PayloadTooLarge."""
    data = await read_body(receive, "A sign-in", MAX_FORM_BYTES)
    try:
        fields = parse_qs(data.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=10)
    except ValueError:  # more fields than that
        return {}
    return {name: values[0] for name, values in fields.items()}


def _length(scope: Scope) -> int:
    """Bytes of the body by its Content-Length header; 0 without one."""
    length = Headers(scope=scope).get("content-length", "")
    return int(length) if length.isdecimal() and len(length) <= 18 else 0


def _opens_the_page(scope: Scope) -> bool:
    return (scope["type"], scope.get("method"), scope["path"]) == ("http", "GET", "/")


def _opens_a_share(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] in _SHARE_METHODS and bool(scope["path"].startswith(SHARED_PATH))
