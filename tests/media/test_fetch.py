"""The fetch of a named address: what is refused, before a byte goes out, and what is bounded."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpcore
import pytest

from wan_ui.errors import Cancelled, FetchFailed
from wan_ui.media.fetch import MAX_REDIRECTS, Answer, DownloadLimits, download, fetch, is_public

pytestmark = pytest.mark.slow

PUBLIC = "93.184.215.14"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Wire(httpcore.NetworkBackend):
    """Stands for the network: remembers who was connected to and what was said, answers from a list."""

    def __init__(self, *answers: bytes, dead: Sequence[str] = ()) -> None:
        self.answers = list(answers)
        self.dead = dead
        self.connected: list[tuple[str, int]] = []
        self.tls_names: list[str | None] = []
        self.sent = b""

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, *rest: Any) -> httpcore.NetworkStream:
        self.connected.append((host, port))
        if host in self.dead:
            raise httpcore.ConnectTimeout("dead")
        return Line(self, self.answers.pop(0))


class Line(httpcore.MockStream):
    def __init__(self, wire: Wire, answer: bytes) -> None:
        super().__init__([answer])
        self.wire = wire

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.wire.sent += buffer

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        self.wire.tls_names.append(server_hostname)
        return self


def redirect(location: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


def names(**table: Sequence[str]) -> Callable[[str, int], Sequence[str]]:
    return lambda host, port: table[host.replace(".", "_").replace("-", "_")]


def get(url: str, wire: Wire, resolver: Callable[[str, int], Sequence[str]], **options: Any) -> bytes:
    return fetch(url, max_bytes=1000, seconds=5, resolver=resolver, backend=wire, **options)


@pytest.mark.parametrize(
    "address", [PUBLIC, "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "100.63.255.255"]
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


PRIVATE = [
    "127.0.0.1",
    "127.8.9.10",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.127.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1",
    "2002:7f00:1::1",
    "2002:808:808::1",
    "2001::1",
    "2001:db8::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "100::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_that_leads_inside_is_refused_before_any_connection(address: str) -> None:
    wire = Wire()
    with pytest.raises(FetchFailed, match="not on the public internet") as caught:
        get("http://cdn.example/a.png", wire, names(cdn_example=[address]))
    assert wire.connected == []
    assert address not in caught.value.message


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "[::1]", "[::ffff:7f00:1]", "localhost"],
)
def test_the_system_s_spellings_of_loopback_are_refused(host: str) -> None:
    wire = Wire()
    with pytest.raises(FetchFailed):
        fetch(f"http://{host}:8080/", max_bytes=10, seconds=5, backend=wire)
    assert wire.connected == []


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://cdn.example/a",
        "gopher://cdn.example/a",
        "//cdn.example/a",
        "cdn.example/a",
        "http://",
        "http:///a",
        "http://cdn.example:99999/",
        "http://cdn.example/\x00",
        "http://[::1/",
        "http://" + "a" * 70_000,
        "http://user@cdn.example/",
        "http://user:word@cdn.example/",
        "http://:word@cdn.example/",
    ],
)
def test_an_address_of_another_kind_is_refused(url: str) -> None:
    wire = Wire()
    with pytest.raises(FetchFailed) as caught:
        get(url, wire, names(cdn_example=[PUBLIC]))
    assert wire.connected == []
    assert caught.value.status == 400
    assert caught.value.code == "FETCH_FAILED"
    assert "word" not in caught.value.message.replace("password", "")


def test_it_connects_to_the_checked_address_under_the_name_s_own_host_header() -> None:
    wire = Wire(OK)
    assert get("http://cdn.example:8081/a.png?x=1", wire, names(cdn_example=[PUBLIC])) == b"hello"
    assert wire.connected == [(PUBLIC, 8081)]
    assert b"GET /a.png?x=1 HTTP/1.1\r\n" in wire.sent
    assert b"Host: cdn.example:8081\r\n" in wire.sent


def test_tls_asks_for_the_name_and_not_for_the_address() -> None:
    wire = Wire(OK)
    assert get("https://cdn.example/a.png", wire, names(cdn_example=[PUBLIC])) == b"hello"
    assert wire.connected == [(PUBLIC, 443)]
    assert wire.tls_names == ["cdn.example"]


def test_of_a_mixed_answer_only_the_public_addresses_are_used_and_a_dead_one_is_passed_over() -> None:
    wire = Wire(OK, dead=["8.8.8.8"])
    assert get("http://cdn.example/", wire, names(cdn_example=["10.0.0.1", "8.8.8.8", PUBLIC])) == b"hello"
    assert wire.connected == [("8.8.8.8", 80), (PUBLIC, 80)]


def test_when_every_address_is_dead_it_says_so() -> None:
    wire = Wire(dead=[PUBLIC])
    with pytest.raises(FetchFailed, match="too long"):
        get("http://cdn.example/", wire, names(cdn_example=[PUBLIC]))


def test_a_name_is_resolved_once_for_check_and_connection() -> None:
    asked: list[str] = []

    def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return [PUBLIC] if len(asked) == 1 else ["127.0.0.1"]

    wire = Wire(OK)
    assert get("http://rebind.example/", wire, rebinding) == b"hello"
    assert asked == ["rebind.example"]
    assert wire.connected == [(PUBLIC, 80)]


@pytest.mark.parametrize(
    "location",
    [
        "http://inside.example/",
        "http://inside.example:22/",
        "https://inside.example/",
        "//inside.example/",
        "file:///etc/passwd",
        "ftp://cdn.example/",
        "http://user:word@cdn.example/",
        "http://[::1/",
    ],
)
def test_each_redirect_is_checked_anew(location: str) -> None:
    wire = Wire(redirect(location))
    with pytest.raises(FetchFailed):
        get("http://cdn.example/", wire, names(cdn_example=[PUBLIC], inside_example=["169.254.169.254"]))
    assert wire.connected == [(PUBLIC, 80)]


def test_a_public_page_may_send_on_to_another_public_one() -> None:
    wire = Wire(redirect("https://b.example/next"), redirect("/last"), OK)
    table = names(a_example=[PUBLIC], b_example=["8.8.8.8"])
    # The second connection's answer is one list item, so the third request opens another line: both to b's address.
    assert get("http://a.example/", wire, table) == b"hello"
    assert wire.connected == [(PUBLIC, 80), ("8.8.8.8", 443), ("8.8.8.8", 443)]


def test_an_allowed_host_is_reached_and_no_other() -> None:
    table = names(nas_local=["192.168.1.5"], other_local=["192.168.1.6"])
    assert get("http://nas.local/", Wire(OK), table, allow_hosts=["NAS.local"]) == b"hello"
    with pytest.raises(FetchFailed, match="--allow-url-host"):
        get("http://other.local/", Wire(), table, allow_hosts=["nas.local"])
    with pytest.raises(FetchFailed):
        get("http://nas.local/", Wire(redirect("http://other.local/")), table, allow_hosts=["nas.local"])


def test_a_name_that_is_none() -> None:
    def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    with pytest.raises(FetchFailed, match=r"nowhere\.example was not found"):
        get("http://nowhere.example/", Wire(), unknown)


def test_the_message_names_the_host_and_keeps_the_rest_of_the_address_to_itself() -> None:
    wire = Wire(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(FetchFailed, match=r"cdn\.example answered with status 403") as caught:
        get("http://cdn.example/a?signature=s3cr3t", wire, names(cdn_example=[PUBLIC]))
    assert "s3cr3t" not in str(caught.value.body())
    assert caught.value.details == {"host": "cdn.example", "status": 403}


def test_a_resolver_that_hangs_is_left_at_the_deadline() -> None:
    release = threading.Event()

    def hangs(host: str, port: int) -> Sequence[str]:
        release.wait(30)
        return [PUBLIC]

    try:
        with pytest.raises(FetchFailed, match="too long"):
            fetch("http://cdn.example/", max_bytes=10, seconds=0.2, resolver=hangs, backend=Wire())
    finally:
        release.set()


# A real server on a real socket, allowed by name.


class Handler(BaseHTTPRequestHandler):
    stop: threading.Event

    def do_GET(self) -> None:
        kind, _, rest = self.path.lstrip("/").partition("/")
        if kind == "bytes":
            self.answer(200, b"x" * int(rest))
        elif kind == "hops":
            left = int(rest)
            self.answer(302, b"", Location=f"/hops/{left - 1}") if left else self.answer(200, b"arrived")
        elif kind == "unstated":  # no Content-Length: the end of the connection is the end of the body
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * int(rest))
        elif kind == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)
        elif kind == "zipped":
            self.answer(200, b"x", **{"Content-Encoding": "gzip"})
        elif kind == "drip":
            self.send_response(200)
            self.end_headers()
            while not self.stop.wait(0.02):
                self.wfile.write(b"x")
        elif kind == "silent":
            self.stop.wait(30)
        else:
            self.answer(404, b"")

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def base() -> Iterator[str]:
    stop = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Once", (Handler,), {"stop": stop}))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hangs up is the point here
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    stop.set()
    server.shutdown()
    server.server_close()
    thread.join(5)


def local(url: str, **options: Any) -> bytes:
    return fetch(url, **{"max_bytes": 1000, "seconds": 10, "allow_hosts": ["127.0.0.1"], **options})


def test_a_file_of_exactly_the_bound_arrives(base: str) -> None:
    assert local(f"{base}/bytes/1000") == b"x" * 1000
    assert local(f"{base}/unstated/1000") == b"x" * 1000


@pytest.mark.parametrize("path", ["bytes/1001", "unstated/1001", "unstated/5000000"])
def test_a_larger_one_is_refused(base: str, path: str) -> None:
    with pytest.raises(FetchFailed, match="more than 1000 bytes"):
        local(f"{base}/{path}")


def test_redirects_are_counted(base: str) -> None:
    assert local(f"{base}/hops/{MAX_REDIRECTS}") == b"arrived"
    with pytest.raises(FetchFailed, match="redirects more than 5 times"):
        local(f"{base}/hops/{MAX_REDIRECTS + 1}")


@pytest.mark.parametrize("path", ["drip", "silent"])
def test_the_deadline_holds_for_the_whole_fetch(base: str, path: str) -> None:
    with pytest.raises(FetchFailed, match="too long"):
        local(f"{base}/{path}", seconds=0.4, max_bytes=10**6)


@pytest.mark.parametrize(
    ("path", "message"), [("cut", "closed the connection"), ("zipped", "compressed"), ("elsewhere", "status 404")]
)
def test_answers_that_are_no_file(base: str, path: str, message: str) -> None:
    with pytest.raises(FetchFailed, match=message):
        local(f"{base}/{path}")


def test_a_closed_port() -> None:
    with socket.socket() as held:  # bound and not listening: nobody else can take the port meanwhile
        held.bind(("127.0.0.1", 0))
        with pytest.raises(FetchFailed, match="could not be reached"):
            local(f"http://127.0.0.1:{held.getsockname()[1]}/")


def test_plain_http_on_a_tls_address(base: str) -> None:
    with pytest.raises(FetchFailed):
        local(base.replace("http://", "https://") + "/bytes/1")


# A download: any size, piece by piece.


def take(url: str, **options: Any) -> tuple[Answer | None, bytes]:
    data = bytearray()
    bounds = {"max_bytes": 10**7, "seconds": 10.0, "allow_hosts": ("127.0.0.1",)}
    limits = DownloadLimits(**{name: options.pop(name, bound) for name, bound in bounds.items()})
    answer = download(url, data.extend, limits, **{"begin": lambda answer: None, "beat": lambda: None, **options})
    return answer, bytes(data)


def test_a_download_says_what_comes_before_it_comes(base: str) -> None:
    seen: list[Answer] = []
    answer, data = take(f"{base}/bytes/3000000", begin=seen.append)
    assert data == b"x" * 3_000_000
    assert [answer] == seen and seen[0] == Answer("127.0.0.1", "3000000", "", 3_000_000, "")


def test_a_download_is_refused_before_its_first_piece(base: str) -> None:
    def refuse(answer: Answer) -> None:
        raise FetchFailed("No.")

    with pytest.raises(FetchFailed, match="No"):
        take(f"{base}/bytes/10", begin=refuse)
    with pytest.raises(FetchFailed, match="more than 9 bytes"):
        take(f"{base}/bytes/10", max_bytes=9)


def test_a_silent_host_leaves_time_to_change_one_s_mind(base: str) -> None:
    beats = iter(range(3))

    def beat() -> None:
        if next(beats, None) is None:
            raise Cancelled("Enough.")

    with pytest.raises(Cancelled):
        take(f"{base}/silent", beat=beat, seconds=30.0)


def test_a_drip_does_not_renew_a_download_s_time(base: str) -> None:
    with pytest.raises(FetchFailed, match="too long"):
        take(f"{base}/drip", seconds=0.5)
