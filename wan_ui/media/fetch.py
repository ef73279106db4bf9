"""Downloads a file from a public web address, bounded in size and time, and safe against SSRF.

The client chooses the address, so it must not reach hosts inside the operator's network: every name is resolved here,
every IP address is checked, and the connection goes to the address that was checked, at each redirect. No proxy is
used, because a proxy would resolve the name a second time.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from email.message import Message
from functools import cache
from threading import Thread
from urllib.parse import unquote

import httpcore
import httpx

from wan_ui.errors import FetchFailed

Resolver = Callable[[str, int], Sequence[str]]
"""(host, port) -> its IP addresses as text. May raise OSError or UnicodeError."""

MAX_REDIRECTS = 5
BEAT_SECONDS = 0.2  # while waiting for bytes, `beat` is called this often: a cancelled download ends
RENEWING_BYTES = 1 << 20  # every MiB received restarts the timeout: large files finish, trickling hosts fail
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = (("User-Agent", "wan-ui"), ("Accept", "*/*"), ("Accept-Encoding", "identity"))
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_IPV6_PUBLIC = ipaddress.IPv6Network("2000::/3")
# Inside 2000::/3 and yet not the public internet, or a tunnel with another address inside: IETF protocol assignments
# with Teredo, 6to4, documentation. The running Python's own table differs from version to version.
_IPV6_REFUSED = tuple(ipaddress.IPv6Network(net) for net in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
_IPV4_REFUSED = tuple(ipaddress.IPv4Network(net) for net in ("192.0.0.0/24", "192.88.99.0/24"))


def resolve_host(host: str, port: int) -> tuple[str, ...]:
    """The addresses that the system's resolver gives. Raises OSError or UnicodeError."""
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in entries))


def is_public(address: str) -> bool:
    """Whether an IP address, as text, is on the public internet; for a mapped one, the address inside counts.

    Raises ValueError for another text.
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


@dataclass(frozen=True)
class Answer:
    """What a response states about a file before its bytes. `size` in bytes, None when it is not stated.

    `etag` is "" when there is none; `name` is the stated file name, or the last part of the requested address.
    """

    host: str
    name: str
    content_type: str
    size: int | None
    etag: str


@dataclass(frozen=True)
class DownloadLimits:
    """Bounds of a download; `allow_hosts` are names or addresses that may be reached although they are not public."""

    max_bytes: int
    seconds: float
    allow_hosts: tuple[str, ...] = ()


def fetch(
    url: str,
    *,
    max_bytes: int,
    seconds: float,
    allow_hosts: Sequence[str] = (),
    resolver: Resolver = resolve_host,
    backend: httpcore.NetworkBackend | None = None,
) -> bytes:
    """Downloads the body of an http(s) address: at most `max_bytes`, within `seconds` in all.

    `allow_hosts` are names or addresses that may be reached although they are not public. `backend` opens the
    connections (a socket, unless given). Raises FetchFailed; its message names the host and never the whole address,
    which may hold a signature.
    """
    data = bytearray()
    line = _CheckedBackend(resolver, allow_hosts, _Deadline(seconds), backend or httpcore.SyncBackend())
    _follow(url, "", line, _Taker(max_bytes, _any_answer, data.extend))
    return bytes(data)


def download(
    url: str,
    write: Callable[[bytes], object],
    limits: DownloadLimits,
    *,
    begin: Callable[[Answer], None],
    beat: Callable[[], None],
    etag: str = "",
    resolver: Resolver = resolve_host,
) -> Answer | None:
    """Downloads a file of any size, piece by piece, to `write`; None, and nothing written, if it still has `etag`.

    `limits.seconds` is the time allowed for the first MiB, and for each MiB after it. `begin` is given the response
    before the first piece and may refuse it by raising; `beat` is called several times a second while bytes are
    awaited and may raise to cancel. The rest is as in fetch.
    """
    deadline = _Deadline(limits.seconds, beat)
    line = _CheckedBackend(resolver, limits.allow_hosts, deadline, httpcore.SyncBackend())
    taken = 0

    def take(piece: bytes) -> None:
        nonlocal taken
        before, taken = taken, taken + len(piece)
        if taken // RENEWING_BYTES > before // RENEWING_BYTES:
            deadline.renew()
        write(piece)

    return _follow(url, etag, line, _Taker(limits.max_bytes, begin, take))


def check_address(url: str) -> None:
    """Raises FetchFailed for an address that is never fetched: another scheme, no host, a password in it."""
    _parse(url.strip())


def _any_answer(answer: Answer) -> None:
    """Accepts any response."""


@dataclass(frozen=True)
class _Taker:
    """Receives a body of at most `max_bytes`."""

    max_bytes: int
    begin: Callable[[Answer], None]
    write: Callable[[bytes], object]


def _follow(url: str, etag: str, line: _CheckedBackend, taker: _Taker) -> Answer | None:
    """Follows redirects, each checked, to the file. None: it still has `etag`."""
    first = where = _parse(url.strip())
    with httpcore.ConnectionPool(ssl_context=_tls(), network_backend=line, max_connections=1) as pool:
        for _ in range(MAX_REDIRECTS + 1):
            answer = _get(pool, where, first, etag, taker)
            if not isinstance(answer, httpx.URL):
                return answer
            where = answer
    raise FetchFailed(f"{where.host} redirects more than {MAX_REDIRECTS} times.", host=where.host)


def _parse(url: str, base: httpx.URL | None = None) -> httpx.URL:
    try:
        where = base.join(url) if base else httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError, ValueError) as error:
        raise FetchFailed("Invalid URL.") from error
    if where.scheme not in ("http", "https") or not where.host:
        raise FetchFailed("Only http:// and https:// URLs can be downloaded.")
    if where.port is not None and not 0 < where.port < 2**16:
        raise FetchFailed("Invalid port in URL.")
    if where.userinfo:
        raise FetchFailed("The URL must not contain a user name or a password.")
    return where


def _get(
    pool: httpcore.ConnectionPool, where: httpx.URL, first: httpx.URL, etag: str, taker: _Taker
) -> Answer | httpx.URL | None:
    """One request: the response, with its body received; the redirect's URL; or None for an unchanged `etag`."""
    host = where.host
    target = httpcore.URL(scheme=where.raw_scheme, host=where.raw_host, port=where.port, target=where.raw_path)
    request_headers = (*_HEADERS, ("If-None-Match", etag)) if etag else _HEADERS
    try:
        with pool.stream("GET", target, headers=request_headers) as response:
            headers = {name.lower(): value for name, value in response.headers}
            if response.status in _REDIRECTS and b"location" in headers:
                return _parse(headers[b"location"].decode("utf-8", "replace"), where)
            if response.status == 304 and etag:
                return None
            if response.status != 200:
                raise FetchFailed(f"{host} answered with status {response.status}.", host=host, status=response.status)
            if headers.get(b"content-encoding", b"identity").lower() != b"identity":
                raise FetchFailed(f"{host} sent a compressed response, which is not supported.", host=host)
            answer = _answer(host, headers, first)
            _take(response, answer, taker)
            return answer
    except httpcore.TimeoutException as error:
        raise FetchFailed(f"{host} took too long to answer.", host=host) from error
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, ssl.SSLError) as error:
        raise FetchFailed(f"{host} could not be reached, or closed the connection: {error}", host=host) from error


def _answer(host: str, headers: dict[bytes, bytes], first: httpx.URL) -> Answer:
    message = Message()
    for name in (b"content-disposition", b"content-type"):
        if name in headers:
            message[name.decode()] = headers[name].decode("utf-8", "replace")
    length = headers.get(b"content-length", b"")
    return Answer(
        host=host,
        name=message.get_filename() or unquote(first.path.rstrip("/").rsplit("/", 1)[-1]),
        content_type=message.get_content_type() if "content-type" in message else "",
        size=int(length) if length.isdigit() else None,
        etag=headers.get(b"etag", b"").decode("latin-1"),
    )


def _take(response: httpcore.Response, answer: Answer, taker: _Taker) -> None:
    host, most = answer.host, taker.max_bytes
    too_large = FetchFailed(f"{host} sends more than {most} bytes, which is the limit.", host=host)
    if answer.size is not None and answer.size > most:
        raise too_large
    taker.begin(answer)
    taken = 0
    for piece in response.iter_stream():
        taken += len(piece)
        if taken > most:
            raise too_large
        taker.write(piece)


@cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _no_beat() -> None:
    """A small download is not cancelled."""


class _Deadline:
    """A point in time that all waits of a download share, so that single bytes do not renew it."""

    def __init__(self, seconds: float, beat: Callable[[], None] = _no_beat) -> None:
        self._seconds = seconds
        self.beat = beat
        self.renew()

    def renew(self) -> None:
        """Restarts the timeout."""
        self._end = time.monotonic() + self._seconds

    def left(self) -> float:
        """Seconds left, above 0. Raises httpcore.ReadTimeout when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("out of time")
        return left


class _CheckedBackend(httpcore.NetworkBackend):
    """Connects to checked IP addresses only; TLS and the Host header keep the name of the URL."""

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
            share = self._deadline.left() / (len(addresses) - index)  # leaves time for the next one
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

        # The system's resolver takes no timeout, so it runs in a thread of its own, which is not waited for.
        Thread(target=ask, name="resolve", daemon=True).start()
        try:
            resolved = answer.result(self._deadline.left())
        except TimeoutError as error:
            raise httpcore.ConnectTimeout("the name was not resolved in time") from error
        except (OSError, UnicodeError) as error:
            raise FetchFailed(f"The host name {host} was not found.", host=host) from error
        checked = [address for address in resolved if _plain(host) in self._allowed or is_public(address)]
        if not checked:
            raise FetchFailed(
                f"{host} is not on the public internet, so this server does not download from it. "
                "The operator can allow it with --allow-url-host.",
                host=host,
            )
        return checked


class _TimedStream(httpcore.NetworkStream):
    """A connection whose reads and writes end at the deadline."""

    def __init__(self, inner: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        while True:
            self._deadline.beat()
            wait = min(self._deadline.left(), BEAT_SECONDS)
            try:
                return self._inner.read(max_bytes, wait)
            except httpcore.ReadTimeout:
                continue  # nothing yet: left() says when it is too late

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
