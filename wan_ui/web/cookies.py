"""The session cookie: its name and attributes, and the session that a request's cookies carry."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Scope

from wan_ui.identity import Session, Sessions

_YEAR = 365 * 24 * 3600  # seconds
_MOST_VALUES = 8  # of cookies of one name that are looked at: each takes some 40 microseconds
SECURE_PREFIX = "__Host-"
"""Over https. Browsers take a cookie of such a name only from this very host, with Secure and without a Domain."""


class SessionCookies:
    """Reads and writes the cookie of `sessions`. Over https it is another one than over http, see SECURE_PREFIX."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._name = f"wan_ui_{sessions.name}"

    def session(self, scope: Scope) -> Session | None:
        """The session of a request; None without one, and where cookies of one name carry several different ones.

        Other servers of the same host or of a parent domain can add a cookie of this name, and nothing tells theirs.
        """
        found = self._sessions_of(scope, self._name_over(scope))
        return found.pop() if len(found) == 1 else None

    def any_session(self, scope: Scope) -> Session | None:
        """As `session`, but over https also that of the cookie for http, which earlier versions gave there too."""
        return self.session(scope) or next(iter(self._sessions_of(scope, self._name)), None)

    def header(self, session: Session, scope: Scope) -> str:
        """The value of a Set-Cookie header that gives the browser this session."""
        return self._header(self._sessions.text(session), _YEAR, scope)

    def removal(self, scope: Scope) -> str:
        """The value of a Set-Cookie header that takes the cookie away."""
        return self._header("", 0, scope)

    def _header(self, value: str, seconds: int, scope: Scope) -> str:
        secure = "; Secure" if _is_https(scope) else ""
        return f"{self._name_over(scope)}={value}; HttpOnly; SameSite=Lax; Path=/; Max-Age={seconds}{secure}"

    def _name_over(self, scope: Scope) -> str:
        return (SECURE_PREFIX if _is_https(scope) else "") + self._name

    def _sessions_of(self, scope: Scope, name: str) -> set[Session]:
        pairs = (pair.partition("=") for header in Headers(scope=scope).getlist("cookie") for pair in header.split(";"))
        values = {value.strip().strip('"') for key, _, value in pairs if key.strip() == name}
        if len(values) > _MOST_VALUES:
            return set()
        return {session for value in values if (session := self._sessions.read(value)) is not None}


def _is_https(scope: Scope) -> bool:
    return scope.get("scheme") in ("https", "wss")
