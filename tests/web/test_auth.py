"""The gate over a small app, asked as a browser and as another program would."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from wan_ui.identity import IDENTITY_SCOPE_KEY, Sessions, current_identity
from wan_ui.web.auth import Auth, Credentials, OwnerAddress
from wan_ui.web.login import TRIES, TRIES_OF_ALL, Login

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


LOGIN = Login("ann", "of her own")


def guess(auth: Auth, how: str, password: str) -> int:
    """One try of a guesser who comes without a cookie each time."""
    client = TestClient(auth, headers={"accept": "text/html"}, follow_redirects=False)
    form = {"user": LOGIN.user, "password": password}
    if how == "form":
        return client.post("/login", data=form).status_code
    if how == "form with a fresh cookie":
        client.get("/")
        return client.post("/login", data=form).status_code
    if how == "bearer":
        return client.get("/v1/models", headers={"authorization": f"Bearer {password}"}).status_code
    return client.get("/" if how == "page" else "/v1/models", auth=(LOGIN.user, password)).status_code


@pytest.mark.parametrize("how", ["form", "form with a fresh cookie", "basic", "bearer", "page"])
def test_guessing_is_locked_out(how: str) -> None:
    """Also with a fresh cookie for each guess. The right password passes meanwhile, and who is in stays in."""
    auth = Auth(Starlette(routes=[Route("/{path:path}", say)]), BADGES, Credentials(LOGIN, OwnerAddress()))
    inside = TestClient(auth, follow_redirects=False)
    assert inside.post("/login", data={"user": LOGIN.user, "password": LOGIN.password}).status_code == 303
    answers = [guess(auth, how, f"wrong-{index}") for index in range(TRIES_OF_ALL + 5)]
    wrong = answers.count(401)
    assert wrong <= TRIES_OF_ALL + 1 and answers[-1] == 429
    if how != "form with a fresh cookie":
        assert wrong <= TRIES + 1
    assert guess(auth, how, LOGIN.password) in (200, 303)
    assert inside.get("/v1/models").status_code == 200
