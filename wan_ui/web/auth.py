"""The gate in front of page and HTTP door: asks for the password, gives each browser its badge, says who asks.

It knows no job. Where nobody else can come in (no link, no other host, no password) every browser that the guard lets
pass is the owner's. Else a browser is a guest's once it gave the password, and the owner's once it opened the owner's
address; nothing is decided by an address or by the name of a host.
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
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wan_ui.errors import LoginLocked, LoginRequired, PayloadTooLarge, RouteNotFound, WanUIError
from wan_ui.identity import IDENTITY_SCOPE_KEY, Identity, Session, Sessions, current_identity
from wan_ui.web import login as sign_in
from wan_ui.web.login import Login, LoginThrottle

OWNER_PATH = "/owner/"
LOGIN_PATH = "/login"
# Open to all: health, and what Gradio asks of itself when it starts, which answers nothing but yes.
OPEN_PATHS = frozenset({"/v1/health", "/gradio_api/startup-events"})
UPLOAD_PATH = "/gradio_api/upload"
# What Gradio has for its developers, and what fetches or streams for others: the page uses none of it.
_NOT_SERVED = re.compile(
    r"/(?:gradio_api/(?:dev|vibe|undo-vibe|profiling|process_recording|proxy|deep_link|stream|runs|run-history|token)\b"
    r"|gradio_api/file=\s*[a-z][a-z0-9+.-]*:|monitoring\b|proxy=|deep_link\b)",
    re.IGNORECASE,
)
LARGEST_FORM = 4096  # bytes of a login
_YEAR = 365 * 24 * 3600  # seconds
_QUERY = re.compile(r"(?:compare=[0-9a-f]{32})?")
_POLICY_VIOLATION = 1008  # RFC 6455's close code


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


class OwnerAddress:
    """The address that makes a browser the owner's, once."""

    def __init__(self) -> None:
        self._token: str | None = secrets.token_urlsafe(32)

    @property
    def path(self) -> str | None:
        """The path to print; None once it was opened."""
        return None if self._token is None else OWNER_PATH + self._token

    def open(self, path: str) -> bool:
        """Whether the path is the address, which then is used up."""
        said = path.removeprefix(OWNER_PATH).encode("utf-8", "surrogatepass")
        if self._token is None or not hmac.compare_digest(said, self._token.encode()):
            return False
        self._token = None
        return True


class Auth:
    """ASGI middleware: a signed random cookie for each browser that opens the page, and a Who in every scope.

    `login` None: nobody else can come in, all are the owner's. `secure_host` names the host that is reached by https
    although this server is asked by http: the link's. `upload_problem` says why no upload of so many bytes is taken
    now, if so.
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
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        headers = MutableHeaders(scope=scope)
        del headers["x-forwarded-host"]  # Gradio would take the page's own address from it
        if headers.get("host", "").lower() == self._secure_host():
            scope["scheme"] = "https"
            headers["x-forwarded-proto"] = "https"
        session = self._session(scope)
        try:
            answer = await self._answer(scope, receive, session)
            who = self._who(scope, session) if answer is None else None
        except WanUIError as error:
            return await self._refuse(error, scope, receive, send)
        if answer is not None:
            return await answer(scope, receive, send)
        if _opens_the_page(scope) or (session is not None and session.outdated):
            send = self._giving(session or self._sessions.new(), scope, send)
        scope[IDENTITY_SCOPE_KEY] = who
        assert who is not None
        current_identity.set(who)
        await self._app(scope, receive, send)

    # Who asks

    def _who(self, scope: Scope, session: Session | None) -> Identity:
        """Raises LoginRequired, LoginFailed, LoginLocked."""
        visitor = None if session is None else session.visitor
        if self._login is None:
            return Identity(visitor, owner=True)
        if session is not None and session.role == "owner":
            return Identity(visitor, owner=True)
        if scope["path"] in OPEN_PATHS or self._is_guest(session):
            return Identity(visitor, owner=False)
        given = sign_in.credentials(Headers(scope=scope).get("authorization", ""))
        if given is None:
            raise LoginRequired("This server asks for a password: sign in on its page, or send it as HTTP Basic.")
        self._give(visitor, *given)
        return Identity(visitor, owner=False)

    def _is_guest(self, session: Session | None) -> bool:
        return session is not None and session.role == "guest" and hmac.compare_digest(session.password, self._mark)

    def _give(self, visitor: str | None, user: str | None, password: str) -> None:
        """Tries a password. Raises LoginFailed, LoginLocked."""
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

    # What the gate answers itself

    async def _answer(self, scope: Scope, receive: Receive, session: Session | None) -> Response | None:
        """Its own answer, or None where the request is for the app. Raises what is wrong with a login."""
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
            self._who(scope, session)  # the password first
            raise RouteNotFound("There is no such route.")
        problem = self._upload_problem(_length(scope)) if path.rstrip("/") == UPLOAD_PATH else None
        if problem is not None:
            self._who(scope, session)  # the password first
            raise problem
        return None

    def _become_owner(self, path: str, session: Session | None, scope: Scope) -> Response:
        # No brake: 256 random bits cannot be guessed, and no guesser shall keep the owner out.
        assert self._owner is not None
        if not self._owner.open(path):
            raise RouteNotFound("This address was opened already, or is none: each start prints a new one.")
        known = session is not None and (session.role == "owner" or self._is_guest(session))
        mine = replace(session, role="owner") if session is not None and known else self._sessions.new("owner")
        return self._with_cookie(RedirectResponse("/", 303), mine, scope)

    def _signed_in(self, form: dict[str, str], session: Session | None, scope: Scope) -> Response:
        visitor = None if session is None else session.visitor
        self._give(visitor, form.get("user", ""), form.get("password", ""))
        # A badge from before a password is not kept: somebody else may have put it there.
        kept = session is not None and session.role in ("guest", "owner")
        mine = self._sessions.new("guest", self._mark)
        if session is not None and kept:
            mine = session if session.role == "owner" else replace(session, password=self._mark)
        query = form.get("query", "")
        target = f"/?{query}" if query and _QUERY.fullmatch(query) else "/"
        return self._with_cookie(RedirectResponse(target, 303), mine, scope)

    async def _refuse(self, error: WanUIError, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()  # the connect message; closing before accepting it makes the server answer 403
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": error.code})
            return
        headers = {"Cache-Control": "no-store"}
        if isinstance(error, LoginLocked):
            headers["Retry-After"] = str(error.details["seconds"])
        door = scope["path"].startswith("/v1") or scope["path"] == "/metrics"
        if error.status == 401 and door:
            headers["WWW-Authenticate"] = 'Basic realm="wan-ui", charset="UTF-8"'
        answer: Response
        wants_page = "text/html" in Headers(scope=scope).get("accept", "") or scope["path"] in ("/", LOGIN_PATH)
        if self._login is not None and error.status in (401, 429) and wants_page and not door:
            said = "" if isinstance(error, LoginRequired) else error.message
            query = scope.get("query_string", b"").decode("latin-1")
            seconds = error.details["seconds"] if isinstance(error, LoginLocked) else 0
            text = sign_in.page(self._login.user, said, query if _QUERY.fullmatch(query) else "", seconds)
            answer = HTMLResponse(text, error.status, headers)
            session = self._session(scope)
            if session is None:
                answer = self._with_cookie(answer, self._sessions.new(), scope)
        else:
            answer = JSONResponse({"detail": {"error": error.body()}}, error.status, headers)
        await answer(scope, receive, send)

    # The cookie

    def _with_cookie(self, answer: Response, session: Session, scope: Scope) -> Response:
        answer.headers.append("set-cookie", self._cookie_of(session, scope))
        answer.headers["cache-control"] = "no-store"
        return answer

    def _cookie_of(self, session: Session, scope: Scope) -> str:
        return (
            f"{self._cookie}={self._sessions.text(session)}; HttpOnly; SameSite=Lax; Path=/; Max-Age={_YEAR}"
            f"{'; Secure' if scope.get('scheme') == 'https' else ''}"
        )

    def _giving(self, session: Session, scope: Scope, send: Send) -> Send:
        """A send that adds the badge's cookie to the reply."""
        cookie = self._cookie_of(session, scope)

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("set-cookie", cookie)
            await send(message)

        return with_cookie


async def whole_body(receive: Receive, what: str, limit: int) -> bytes:
    """All bytes of a body, `what` says whose. Raises PayloadTooLarge as soon as they are more than `limit`."""
    data = bytearray()
    while True:
        message = await receive()
        data += message.get("body", b"")
        if len(data) > limit:
            raise PayloadTooLarge(f"{what} has at most {limit} bytes.", limit=limit)
        if not message.get("more_body"):
            return bytes(data)


async def _form(receive: Receive) -> dict[str, str]:
    """A short urlencoded form. Raises PayloadTooLarge."""
    data = await whole_body(receive, "A login", LARGEST_FORM)
    try:
        found = parse_qs(data.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=10)
    except ValueError:  # more fields than that
        return {}
    return {name: values[0] for name, values in found.items()}


def _length(scope: Scope) -> int:
    """Bytes of the body as its sender says; 0 where that is not said."""
    said = Headers(scope=scope).get("content-length", "")
    return int(said) if said.isdecimal() and len(said) <= 18 else 0


def _opens_the_page(scope: Scope) -> bool:
    return (scope["type"], scope.get("method"), scope["path"]) == ("http", "GET", "/")
