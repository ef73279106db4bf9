"""The gate over a small app, asked as a browser and as another program would."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from wan_ui.identity import IDENTITY_SCOPE_KEY, Sessions, current_identity
from wan_ui.web.auth import Auth

BADGES = Sessions(b"k" * 32)


def say(request: Request) -> Response:
    who = request.scope[IDENTITY_SCOPE_KEY]
    assert current_identity.get() == who
    return JSONResponse({"visitor": who.visitor, "owner": who.owner})


@pytest.fixture
def client() -> TestClient:
    return TestClient(Auth(Starlette(routes=[Route("/{path:path}", say)]), BADGES))


def test_the_page_gives_a_signed_cookie_that_no_script_reads(client: TestClient) -> None:
    cookie = client.get("/").headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and "Path=/" in cookie and "Secure" not in cookie
    session = BADGES.read(cookie.split(";")[0].split("=", 1)[1])
    assert session is not None and session.role == "visitor"
    assert client.get("/v1/models").json()["visitor"] == session.visitor


def test_it_stays_the_same_browser(client: TestClient) -> None:
    client.get("/")
    first = client.get("/x").json()["visitor"]
    client.get("/")
    assert client.get("/x").json()["visitor"] == first


def test_only_the_page_gives_one(client: TestClient) -> None:
    for path in ("/v1/models", "/config", "/gradio_api/info"):
        reply = client.get(path)
        assert "set-cookie" not in reply.headers and reply.json()["visitor"] is None


def test_a_cookie_that_was_not_signed_here_is_none_and_the_page_gives_another(client: TestClient) -> None:
    forged = Sessions(b"l" * 32)
    for value in (forged.text(forged.new("owner")), "x", '"', "a=b"):
        client.cookies.clear()
        headers = {"cookie": f"wan_ui_{BADGES.name}={value}"}
        assert client.get("/x", headers=headers).json()["visitor"] is None
        assert "set-cookie" in client.get("/", headers=headers).headers
