"""The check of the headers that say where a request goes, where it comes from and where it ends.

Only this server's own page may send requests through a browser.

A web page of another site could use this server through its visitor's browser in three ways: by a cross-origin request
(the Origin header names the other site), by DNS rebinding (the Host header does), or by naming an address of it as an
image, script or frame, which browsers request without an Origin (Sec-Fetch-Site says that it was another site).

A page of http is another site for a server that is reached over https: whoever controls the network can write it. A
request that states its length in two ways may end at different places for this server and for a proxy before it (RFC
9112, 6.1).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from wan_ui.errors import OriginRefused, RequestError
from wan_ui.web.asgi import error_response, refuse

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
_ORIGIN = re.compile(r"(?P<scheme>https?)://" + _HOST.pattern)
_OTHER_SITES = frozenset({"cross-site", "same-site"})  # the latter: another port or subdomain of this host
_DEFAULT_PORTS = {"http": 80, "https": 443}


_OTHER_PAGE = OriginRefused(
    "The request comes from a page of another site; only this server's own page may send requests."
)


def refusal(
    headers: Iterable[tuple[bytes, bytes]], hosts: Iterable[str] = (), addresses: bool = False, *, scheme: str = "http"
) -> OriginRefused | None:
    """Why a request with these raw headers is refused; None if it is allowed.

    `hosts` are further host names, without port, that this server is reached under. With `addresses`, any IP address
    is allowed as the host too: DNS rebinding needs a name. `scheme` is http or https, by which the request came as far
    as this server knows: a TLS proxy may not say that it was https.
    """
    pairs = [(name.lower(), value.decode("latin-1").strip().lower()) for name, value in headers]
    named = [value for name, value in pairs if name == b"host"]
    origins = [value for name, value in pairs if name == b"origin"]
    host = _HOST.fullmatch(named[0]) if len(named) == 1 else None
    if host is None:
        return OriginRefused("The request needs exactly one Host header, with a host name and optionally a port.")
    known = host["name"] in LOCAL_HOSTS or host["name"] in {name.lower() for name in hosts}
    if not known and not (addresses and _is_address(host["name"])):
        return OriginRefused(
            "The host name in the request is not allowed: open this server as localhost or 127.0.0.1, or start it with "
            "--allow-host and that name."
        )
    if not origins:
        return _OTHER_PAGE if _is_part_of_another_page(pairs) else None
    origin = _ORIGIN.fullmatch(origins[0]) if len(origins) == 1 else None
    if origin is None or not _is_same_site(origin, host, scheme):
        return _OTHER_PAGE
    return None


def _is_part_of_another_page(pairs: Iterable[tuple[bytes, str]]) -> bool:
    """Whether a browser says that another site's page needs this, and not that its user follows a link to here."""
    values = dict(pairs)
    is_link = values.get(b"sec-fetch-mode") == "navigate" and values.get(b"sec-fetch-dest", "document") == "document"
    return values.get(b"sec-fetch-site") in _OTHER_SITES and not is_link


def _is_same_site(origin: re.Match[str], host: re.Match[str], scheme: str) -> bool:
    """Whether an Origin is the page that a server at this Host serves.

    Behind a TLS proxy that does not say so, a request of an https page comes as http. For this machine's own names no
    such proxy is assumed: http://localhost and https://localhost are ports 80 and 443, which may be two servers.
    """
    if scheme == "https" and origin["scheme"] == "http":
        return False
    reached = scheme if host["name"] in LOCAL_HOSTS else origin["scheme"]
    return _address(origin, origin["scheme"]) == _address(host, reached)


def _states_two_lengths(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    names = {name.lower() for name, _ in headers}
    return {b"content-length", b"transfer-encoding"} <= names


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _address(match: re.Match[str], scheme: str) -> tuple[str, int]:
    return match["name"], int(match["port"] or _DEFAULT_PORTS[scheme])


class OriginCheck:
    """ASGI middleware that answers 403 ORIGIN_REFUSED to HTTP requests and websockets that `refusal` refuses."""

    def __init__(
        self,
        app: ASGIApp,
        hosts: Collection[str] | Callable[[], Collection[str]] = (),
        addresses: bool = False,
        *,
        secure_host: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`hosts` may be a function, called at each request: a public link opens and closes.

        `secure_host` returns the host of the public link, which is reached by https although its tunnel sends http.
        """
        self._app = app
        self._hosts = hosts
        self._addresses = addresses
        self._secure_host = secure_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app."""
        if scope["type"] == "http" and _states_two_lengths(scope["headers"]):
            both = RequestError("Send either Content-Length or Transfer-Encoding, not both.")
            return await error_response(both, {"Connection": "close"})(scope, receive, send)
        error = None if scope["type"] == "lifespan" else self._refusal(scope)
        if error is None:
            await self._app(scope, receive, send)
        else:
            await refuse(error, scope, receive, send)

    def _refusal(self, scope: Scope) -> OriginRefused | None:
        hosts = self._hosts() if callable(self._hosts) else self._hosts
        is_secure = scope.get("scheme") in ("https", "wss")
        is_secure = is_secure or Headers(scope=scope).get("host", "").lower() == self._secure_host()
        return refusal(scope["headers"], hosts, self._addresses, scheme="https" if is_secure else "http")
