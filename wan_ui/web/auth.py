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
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import parse_qs

import anyio.to_thread
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from wan_ui.errors import LoginLocked, LoginRequired, RouteNotFound, WanUIError
from wan_ui.identity import IDENTITY_SCOPE_KEY, Identity, Role, Session, Sessions, current_identity
from wan_ui.web import login as sign_in
from wan_ui.web.asgi import error_response, read_body, refuse, with_headers
from wan_ui.web.cookies import SessionCookies
from wan_ui.web.guest_pages import SHARED_PATH
from wan_ui.web.login import MAX_SIGN_INS, Login, LoginThrottle, SignInRate

OWNER_PATH = "/owner/"
LOGIN_PATH = "/login"
LOGOUT_PATH = "/logout"
# Without a password: health, and a request that Gradio sends to itself at the start, whose response says nothing.
OPEN_PATHS = frozenset({"/v1/health", "/health", "/gradio_api/startup-events"})
UPLOAD_PATH = "/gradio_api/upload"
# Gradio would take the page's own address from these.
_DROPPED_HEADERS = ("x-forwarded-host", "x-gradio-server")
_SHARE_METHODS = frozenset({"GET", "HEAD"})
MAX_FORM_BYTES = 4096  # of a sign-in
SESSION_DAYS = 30.0
_DAY = 24 * 3600.0  # seconds
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


@dataclass(frozen=True)
class Credentials:
    """What a browser signs in with: as a guest with name and password, as the owner with the owner address."""

    login: Login
    owner: OwnerAddress


@dataclass(frozen=True)
class AuthRules:
    """What sessions and sign-ins are limited to: days until a session ends, and sign-ins of all a minute."""

    session_days: float = SESSION_DAYS
    sign_ins: int = MAX_SIGN_INS


def _keep_records(old: str, new: str) -> None:
    """Without a job store nothing belongs to a browser."""


class Auth:
    """ASGI middleware: a session cookie for each browser that opens the page, and an Identity in every scope.

    `credentials` None: only this machine reaches the server, and every request is the owner's. `secure_host`: the host
    of the public link, which is reached by https although its tunnel sends http. `upload_problem` returns why an
    upload of so many bytes cannot be stored now, or None. `move_records` gives what belongs to one browser to another:
    a browser gets a new id when it signs in, so that nobody who knew the old one has a part in what follows.
    """

    def __init__(
        self,
        app: ASGIApp,
        sessions: Sessions,
        credentials: Credentials | None = None,
        *,
        rules: AuthRules = AuthRules(),
        secure_host: Callable[[], str | None] = lambda: None,
        upload_problem: Callable[[int], WanUIError | None] = lambda size: None,
        move_records: Callable[[str, str], None] = _keep_records,
    ) -> None:
        self._app = app
        self._sessions = sessions
        self._cookies = SessionCookies(sessions)
        self._login = None if credentials is None else credentials.login
        self._owner = None if credentials is None else credentials.owner
        self._rules = rules
        self._throttle = LoginThrottle()
        self._sign_ins = SignInRate(rules.sign_ins)
        self._secure_host = secure_host
        self._upload_problem = upload_problem
        self._move_records = move_records

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        headers = MutableHeaders(scope=scope)
        for name in _DROPPED_HEADERS:
            del headers[name]
        if headers.get("host", "").lower() == self._secure_host():
            scope["scheme"] = "https"
            headers["x-forwarded-proto"] = "https"
        session = self._cookies.session(scope)
        try:
            response = await self._response(scope, receive, session)
            if response is None:
                identity = self._identity(scope, session)
        except WanUIError as error:
            return await self._refuse(error, scope, receive, send)
        if response is not None:
            return await response(scope, receive, send)
        if _opens_the_page(scope) or (session is not None and session.outdated):
            cookie = self._cookies.header(self._renewed(session), scope)
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
        if session is not None and self._is_signed_in(session):
            return Identity(visitor, owner=session.role == "owner")
        if scope["path"] in OPEN_PATHS:
            return Identity(visitor, owner=False)
        credentials = sign_in.credentials(Headers(scope=scope).get("authorization", ""))
        if credentials is None:
            raise LoginRequired(
                "This server needs a password: sign in on its page, or send name and password as HTTP Basic."
            )
        self._try_password(visitor, *credentials)
        return Identity(visitor, owner=False)

    def _is_signed_in(self, session: Session) -> bool:
        """Whether a session was given for today's password, as a guest's or the owner's, and is not too old."""
        is_current = session.outdated or self._sessions.age(session) < self._rules.session_days * _DAY
        return session.role != "visitor" and is_current and hmac.compare_digest(session.password, self._mark())

    def _mark(self) -> str:
        return "" if self._login is None else self._sessions.mark(f"{self._login.user}:{self._login.password}")

    def _renewed(self, session: Session | None) -> Session:
        """The session to give to a browser: its own, in today's form, or a new one."""
        if session is None:
            return self._sessions.new()
        return replace(session, outdated=False, issued=self._sessions.now()) if session.outdated else session

    def _try_password(self, visitor: str | None, user: str | None, password: str) -> None:
        """Raises LoginFailed for a wrong password, LoginLocked for one after too many others. A right one passes."""
        assert self._login is not None
        if self._login.fits(user, password):
            return self._throttle.passed(visitor)
        self._throttle.check(visitor)
        raise self._throttle.failed(visitor)

    # Requests that are answered here

    async def _response(self, scope: Scope, receive: Receive, session: Session | None) -> Response | None:
        """The response to a request that is not for the app; None for all others. Raises LoginFailed, LoginLocked."""
        if scope["type"] != "http":
            return None
        path, method = scope["path"], scope["method"]
        if path.startswith(OWNER_PATH) and method == "GET" and self._owner is not None:
            return await self._become_owner(path, scope)
        if path == LOGIN_PATH and self._login is not None:
            if method == "POST":
                return await self._signed_in(await _form(receive), session, scope)
            return RedirectResponse("/", 303)
        if path == LOGOUT_PATH and self._login is not None:
            identity = self._identity(scope, session)  # raises first if nobody is signed in
            if method == "POST" and session is not None:
                return await self._signed_out(await _form(receive), session, identity, scope)
            return HTMLResponse(sign_in.sign_out_page(identity.owner))
        problem = self._upload_problem(_length(scope)) if path.rstrip("/") == UPLOAD_PATH else None
        if problem is not None:
            self._identity(scope, session)
            raise problem
        return None

    async def _become_owner(self, path: str, scope: Scope) -> Response:
        # Not throttled: 256 random bits cannot be guessed, and an attacker must not be able to lock the owner out.
        assert self._owner is not None
        if not self._owner.open(path):
            raise RouteNotFound(
                "This owner address is wrong or was opened already. Each start of the server prints a new one."
            )
        return await self._begin("owner", "/", scope)

    async def _signed_in(self, form: dict[str, str], session: Session | None, scope: Scope) -> Response:
        visitor = None if session is None else session.visitor
        self._try_password(visitor, form.get("user", ""), form.get("password", ""))
        query = form.get("query", "")
        target = f"/?{query}" if query and _QUERY.fullmatch(query) else "/"
        if session is not None and session.role == "owner" and self._is_signed_in(session):
            return RedirectResponse(target, 303)
        self._sign_ins.take()
        return await self._begin("guest", target, scope)

    async def _begin(self, role: Role, target: str, scope: Scope) -> Response:
        """Gives the browser a session with a new id, and what belongs to its former one."""
        former, session = self._cookies.any_session(scope), self._sessions.new(role, self._mark())
        if former is not None:
            await anyio.to_thread.run_sync(partial(self._move_records, former.visitor, session.visitor))
        return self._with_cookie(RedirectResponse(target, 303), self._cookies.header(session, scope))

    async def _signed_out(self, form: dict[str, str], session: Session, identity: Identity, scope: Scope) -> Response:
        if form.get("everybody") and identity.owner:
            await anyio.to_thread.run_sync(self._sessions.end_all)
            stays = replace(session, password=self._mark(), issued=self._sessions.now(), outdated=False)
            return self._with_cookie(RedirectResponse("/", 303), self._cookies.header(stays, scope))
        await anyio.to_thread.run_sync(self._sessions.end, session)
        return self._with_cookie(RedirectResponse("/", 303), self._cookies.removal(scope))

    async def _refuse(self, error: WanUIError, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return await refuse(error, scope, receive, send)
        headers = {"Cache-Control": "no-store"}
        if isinstance(error, LoginLocked):
            headers["Retry-After"] = str(error.details["seconds"])
        is_for_programs = scope["path"].startswith("/v1") or scope["path"] in ("/metrics", "/mcp")
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
        if self._cookies.session(scope) is None:
            response.headers.append("set-cookie", self._cookies.header(self._sessions.new(), scope))
        return response

    @staticmethod
    def _with_cookie(response: Response, header: str) -> Response:
        response.headers.append("set-cookie", header)
        response.headers["cache-control"] = "no-store"
        return response


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
