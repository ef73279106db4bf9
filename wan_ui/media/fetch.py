"""A file from the public web, bounded in size, time and reach; it knows nothing of what the file is for.

A sender names the address, so this server must not become their hand inside the operator's network: every name is
resolved here, every address checked, and the connection goes to the very address that was checked, at each redirect.
No proxy is used, because a proxy would resolve the name a second time.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import cache
from threading import Thread

import httpcore
import httpx

from wan_ui.errors import FetchFailed

Resolver = Callable[[str, int], Sequence[str]]
"""(host, port) -> its addresses as text. It may raise OSError or UnicodeError."""

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = (("User-Agent", "wan-ui"), ("Accept", "*/*"), ("Accept-Encoding", "identity"))
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_IPV6_PUBLIC = ipaddress.IPv6Network("2000::/3")
# Inside 2000::/3 and yet not the public internet, or a tunnel with another address inside: IETF protocol assignments
# with Teredo, 6to4, documentation. The running Python's own table differs from version to version.
_IPV6_REFUSED = tuple(ipaddress.IPv6Network(net) for net in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
_IPV4_REFUSED = tuple(ipaddress.IPv4Network(net) for net in ("192.0.0.0/24", "192.88.99.0/24"))


def resolve_host(host: str, port: int) -> tuple[str, ...]:
    """The system's answer. Raises OSError or UnicodeError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: str) -> bool:
    """Whether an IP address, as text, is one of the public internet; the address inside counts for mapped ones.

    Raises ValueError for what is no address.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.is_global and not ip.is_multicast and not any(ip in net for net in _IPV4_REFUSED)
    if ip.scope_id is not None:
        return False
    if ip.ipv4_mapped is not None:
        return is_public(str(ip.ipv4_mapped))
    if ip in _NAT64:
        return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    return ip in _IPV6_PUBLIC and ip.is_global and not any(ip in net for net in _IPV6_REFUSED)


def fetch(
    url: str,
    *,
    max_bytes: int,
    seconds: float,
    allow_hosts: Sequence[str] = (),
    resolver: Resolver = resolve_host,
    backend: httpcore.NetworkBackend | None = None,
) -> bytes:
    """The body behind an http(s) address, at most `max_bytes`, within `seconds` from start to end.

    `allow_hosts` are names or addresses that may be reached although they are not public. `backend` opens the
    connections (a socket, unless given). Raises FetchFailed; its message names the host and never the whole address,
    which may hold a signature.
    """
    line = _CheckedBackend(resolver, allow_hosts, _Deadline(seconds), backend or httpcore.SyncBackend())
    where = _parse(url.strip())
    with httpcore.ConnectionPool(ssl_context=_tls(), network_backend=line, max_connections=1) as pool:
        for _ in range(MAX_REDIRECTS + 1):
            answer = _get(pool, where, max_bytes)
            if isinstance(answer, bytes):
                return answer
            where = answer
    raise FetchFailed(f"{where.host} redirects more than {MAX_REDIRECTS} times.", host=where.host)


def _parse(url: str, base: httpx.URL | None = None) -> httpx.URL:
    try:
        where = base.join(url) if base else httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError, ValueError) as error:
        raise FetchFailed("This is not a web address.") from error
    if where.scheme not in ("http", "https") or not where.host:
        raise FetchFailed("Only http:// and https:// addresses can be fetched.")
    if where.port is not None and not 0 < where.port < 2**16:
        raise FetchFailed("The address has a port that is none.")
    if where.userinfo:
        raise FetchFailed("The address holds a user name or a password: leave them out.")
    return where


def _get(pool: httpcore.ConnectionPool, where: httpx.URL, max_bytes: int) -> bytes | httpx.URL:
    """One hop: the body, or the address to go to next."""
    host = where.host
    target = httpcore.URL(scheme=where.raw_scheme, host=where.raw_host, port=where.port, target=where.raw_path)
    try:
        with pool.stream("GET", target, headers=_HEADERS) as response:
            headers = {name.lower(): value for name, value in response.headers}
            if response.status in _REDIRECTS and b"location" in headers:
                return _parse(headers[b"location"].decode("utf-8", "replace"), where)
            if response.status != 200:
                raise FetchFailed(f"{host} answered with status {response.status}.", host=host, status=response.status)
            if headers.get(b"content-encoding", b"identity").lower() != b"identity":
                raise FetchFailed(f"{host} sent a compressed answer, which is not read here.", host=host)
            return _body(response, headers.get(b"content-length", b""), host, max_bytes)
    except httpcore.TimeoutException as error:
        raise FetchFailed(f"{host} took too long to answer.", host=host) from error
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, ssl.SSLError) as error:
        raise FetchFailed(f"{host} could not be reached, or broke off: {error}", host=host) from error


def _body(response: httpcore.Response, stated: bytes, host: str, max_bytes: int) -> bytes:
    too_large = FetchFailed(f"{host} sends more than {max_bytes} bytes, the most that is taken.", host=host)
    if stated.isdigit() and int(stated) > max_bytes:
        raise too_large
    data = bytearray()
    for chunk in response.iter_stream():
        data += chunk
        if len(data) > max_bytes:
            raise too_large
    return bytes(data)


@cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


class _Deadline:
    """A point in time that all of a fetch's waits share, so that a slow drip does not renew its time."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, above 0. Raises httpcore.ReadTimeout when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("out of time")
        return left


class _CheckedBackend(httpcore.NetworkBackend):
    """Connects to checked addresses only. TLS still asks for, and Host still carries, the name of the address."""

    def __init__(
        self, resolver: Resolver, allow_hosts: Sequence[str], deadline: _Deadline, inner: httpcore.NetworkBackend
    ) -> None:
        self._resolver = resolver
        self._allowed = frozenset(_plain(host) for host in allow_hosts)
        self._deadline = deadline
        self._inner = inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = self._addresses(host, port)
        failure: httpcore.NetworkError | httpcore.TimeoutException = httpcore.ConnectError("no address")
        for index, address in enumerate(addresses):
            share = self._deadline.left() / (len(addresses) - index)  # a dead address leaves time for the next one
            try:
                stream = self._inner.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _TimedStream(stream, self._deadline)
        raise failure

    def _addresses(self, host: str, port: int) -> list[str]:
        answer: Future[Sequence[str]] = Future()

        def ask() -> None:
            try:
                answer.set_result(self._resolver(host, port))
            except (OSError, UnicodeError) as error:
                answer.set_exception(error)

        # The system's resolver takes no timeout, so it is asked beside the line, by a thread that ends on its own.
        Thread(target=ask, name="resolve", daemon=True).start()
        try:
            found = answer.result(self._deadline.left())
        except TimeoutError as error:
            raise httpcore.ConnectTimeout("the name was not resolved in time") from error
        except (OSError, UnicodeError) as error:
            raise FetchFailed(f"{host} is not a name that can be found.", host=host) from error
        checked = [address for address in found if _plain(host) in self._allowed or is_public(address)]
        if not checked:
            raise FetchFailed(
                f"{host} is not on the public internet, so this server does not fetch from it. "
                "Its operator can allow that with --allow-url-host.",
                host=host,
            )
        return checked


class _TimedStream(httpcore.NetworkStream):
    """A connection whose every wait ends at the deadline."""

    def __init__(self, inner: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._deadline.left())

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        inner = self._inner.start_tls(ssl_context, server_hostname, self._deadline.left())
        return _TimedStream(inner, self._deadline)

    def get_extra_info(self, info: str) -> object:
        return self._inner.get_extra_info(info)


def _plain(host: str) -> str:
    return host.strip().strip("[]").rstrip(".").lower()
