"""The Host and Origin guard: as a table, and in front of an app on HTTP and on websockets."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from wan_ui.web.origin import OriginCheck, refusal

PASSING = [
    ("localhost:7860", None),
    ("LOCALHOST:7860", None),
    ("localhost", None),
    ("127.0.0.1:7860", None),
    ("[::1]:7860", None),
    ("localhost:7860", "http://localhost:7860"),
    ("Localhost:7860", "HTTP://LOCALHOST:7860"),
    ("127.0.0.1:9", "http://127.0.0.1:9"),
    ("[::1]:7860", "http://[::1]:7860"),
    ("localhost", "http://localhost"),
    ("localhost:80", "http://localhost"),
    ("localhost:443", "https://localhost"),
    ("localhost:8443", "https://localhost:8443"),
    ("studio.example", "https://studio.example"),
    ("studio.example:8443", "https://studio.example:8443"),
    ("studio.example", "http://studio.example"),
]

REFUSED = [
    ("evil.example", None),
    ("evil.example:7860", None),
    ("localhost.evil.example", None),
    ("evil-localhost", None),
    ("studio.example.evil", None),
    ("127.0.0.1.evil.example:7860", None),
    ("127.0.0.2:7860", None),
    ("0.0.0.0:7860", None),
    ("10.0.0.1", None),
    ("localhost:7860@evil.example", None),
    ("evil.example@localhost:7860", None),
    ("localhost:", None),
    ("localhost:x", None),
    ("localhost:123456", None),
    ("localhost.", None),
    ("[::1", None),
    ("", None),
    (None, None),
    (None, "http://localhost:7860"),
    ("localhost:7860", "null"),
    ("localhost:7860", ""),
    ("localhost:7860", "http://evil.example"),
    ("localhost:7860", "http://localhost"),
    ("localhost:7860", "http://localhost:7861"),
    ("localhost:7860", "https://localhost"),
    ("localhost", "https://localhost"),
    ("localhost:80", "https://localhost"),
    ("[::1]", "https://[::1]"),
    ("localhost:7860", "http://127.0.0.1:7860"),
    ("127.0.0.1:7860", "http://localhost:7860"),
    ("localhost:7860", "http://localhost:7860.evil.example"),
    ("localhost:7860", "http://localhost:7860@evil.example"),
    ("localhost:7860", "http://localhost:7860/"),
    ("localhost:7860", "file://"),
    ("localhost:7860", "chrome-extension://abcdef"),
    ("localhost:7860", "http://localhost:7860, http://evil.example"),
    ("evil.example", "http://evil.example"),
]


def headers(host: str | None, origin: str | None) -> list[tuple[bytes, bytes]]:
    pairs = (("host", host), ("origin", origin))
    return [(name.encode(), value.encode("latin-1")) for name, value in pairs if value is not None]


@pytest.mark.parametrize(("host", "origin"), PASSING)
def test_own_pages_and_programs_pass(host: str, origin: str | None) -> None:
    assert refusal(headers(host, origin), ["Studio.example"]) is None


@pytest.mark.parametrize(("host", "origin"), REFUSED)
def test_other_sites_and_unknown_hosts_are_refused(host: str | None, origin: str | None) -> None:
    assert refusal(headers(host, origin), ["studio.example"]) is not None


@pytest.mark.parametrize(
    ("host", "origin", "passes"),
    [
        ("studio.example", "https://studio.example", True),
        ("studio.example:8443", "https://studio.example:8443", True),
        ("localhost", "https://localhost", True),
        ("studio.example", "http://studio.example", False),
        ("studio.example:443", "http://studio.example:443", False),
        ("localhost", "http://localhost", False),
        ("localhost:80", "https://localhost", False),
    ],
)
def test_a_page_of_http_is_another_site_over_https(host: str, origin: str, passes: bool) -> None:
    assert (refusal(headers(host, origin), ["studio.example"], scheme="https") is None) is passes


def test_a_link_that_is_reached_by_https_takes_no_page_of_http(client: TestClient) -> None:
    for origin, status in (("https://link.example", 200), ("http://link.example", 403)):
        assert client.get("/", headers={"Host": "link.example", "Origin": origin}).status_code == status
        assert client.get("/", headers={"Host": "studio.example", "Origin": "http://studio.example"}).status_code == 200


@pytest.mark.parametrize(
    ("site", "mode", "passes"),
    [
        ("cross-site", "no-cors", False),
        ("same-site", "no-cors", False),
        ("cross-site", "cors", False),
        ("Cross-Site", "websocket", False),
        ("cross-site", None, False),
        ("cross-site", "navigate", True),
        ("same-origin", "no-cors", True),
        ("none", "navigate", True),
        (None, None, True),
    ],
)
def test_a_part_of_another_sites_page_is_refused(site: str | None, mode: str | None, passes: bool) -> None:
    """An image, a script, a style: browsers send no Origin for them."""
    given = {b"sec-fetch-site": site, b"sec-fetch-mode": mode}
    sent = [(name, value.encode()) for name, value in given.items() if value is not None]
    assert (refusal([*headers("localhost:7860", None), *sent]) is None) is passes


def test_a_frame_in_another_sites_page_is_refused() -> None:
    for kind in (b"iframe", b"object", b"embed"):
        sent = [(b"sec-fetch-site", b"cross-site"), (b"sec-fetch-mode", b"navigate"), (b"sec-fetch-dest", kind)]
        assert refusal([*headers("localhost:7860", None), *sent]) is not None


@pytest.mark.parametrize("name", [b"host", b"origin"])
def test_a_doubled_header_is_refused(name: bytes) -> None:
    given = headers("localhost:7860", "http://localhost:7860")
    assert refusal([*given, *[pair for pair in given if pair[0] == name]]) is not None


def test_header_names_count_in_any_case() -> None:
    assert refusal([(b"Host", b"localhost"), (b"ORIGIN", b"http://evil.example")]) is not None


def test_a_port_too_large_for_tcp_matches_nothing_else() -> None:
    assert refusal(headers("localhost:7860", "http://localhost:99999")) is not None


async def _page(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("inside")


async def _socket(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("inside")
    await socket.close()


@pytest.fixture
def client() -> TestClient:
    app = Starlette(routes=[Route("/", _page, methods=["GET", "POST"]), WebSocketRoute("/ws", _socket)])
    return TestClient(
        OriginCheck(app, ["studio.example", "link.example"], secure_host=lambda: "link.example"),
        base_url="http://localhost:7860",
    )


def test_a_request_passes(client: TestClient) -> None:
    assert client.get("/").text == "inside"
    assert client.get("/", headers={"Host": "studio.example"}).text == "inside"


@pytest.mark.parametrize("sent", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}])
def test_a_refusal_has_the_shape_of_every_error(client: TestClient, sent: dict[str, str]) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        reply = client.request(method, "/", headers=sent)
        assert reply.status_code == 403
        error = reply.json()["detail"]["error"]
        assert error["code"] == "ORIGIN_REFUSED"
        assert error["details"] == {}
        assert "evil" not in error["message"]


def test_a_request_that_states_its_length_in_two_ways_is_refused(client: TestClient) -> None:
    both = {"Content-Length": "2", "Transfer-Encoding": "chunked"}
    reply = client.post("/", content=b"{}", headers=both)
    assert reply.status_code == 400 and reply.headers["connection"] == "close"
    assert reply.json()["detail"]["error"]["code"] == "BAD_REQUEST"


def test_a_websocket_passes_or_is_refused(client: TestClient) -> None:
    url = "ws://localhost:7860/ws"
    with client.websocket_connect(url) as socket:
        assert socket.receive_text() == "inside"
    for sent in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
        with pytest.raises(WebSocketDisconnect) as caught, client.websocket_connect(url, headers=sent):
            pass
        assert caught.value.code == 1008


def test_startup_and_shutdown_reach_the_app() -> None:
    seen: list[str] = []

    async def app(scope: object, receive: object, send: object) -> None:
        seen.append(scope["type"])  # type: ignore[index]
        for kind in ("startup", "shutdown"):
            await receive()  # type: ignore[operator]
            await send({"type": f"lifespan.{kind}.complete"})  # type: ignore[operator]

    with TestClient(OriginCheck(app)):
        pass
    assert seen == ["lifespan"]
