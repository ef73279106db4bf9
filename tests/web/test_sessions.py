"""Sessions from sign-in to their end: signing out, "Sign all others out", age, a new password; cookies over https."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from wan_ui.identity import ENDED_FILE, IDENTITY_SCOPE_KEY, EndedSessions, Sessions
from wan_ui.web.auth import Auth, AuthRules, Credentials, OwnerAddress
from wan_ui.web.cookies import SECURE_PREFIX
from wan_ui.web.login import Login

KEY = b"k" * 32
DAY = 24 * 3600.0
HTTP, HTTPS = "http://testserver", "https://testserver"


def show(request: Request) -> Response:
    """Who the request is made by."""
    identity = request.scope[IDENTITY_SCOPE_KEY]
    return JSONResponse({"visitor": identity.visitor, "owner": identity.owner})


@dataclass
class Clock:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Gate:
    """A server with a password and a data folder. A second one of the same folder is its next start."""

    folder: Path
    clock: Clock = field(default_factory=Clock)
    password: str = "first"
    session_days: float = 30.0
    moved: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sessions = Sessions(KEY, EndedSessions(self.folder), self.clock)
        self.address = OwnerAddress()
        self.app = Auth(
            Starlette(routes=[Route("/{path:path}", show)]),
            self.sessions,
            Credentials(Login("ann", self.password), self.address),
            rules=AuthRules(self.session_days),
            move_records=lambda old, new: self.moved.append((old, new)),
        )

    def client(self, address: str = HTTP, cookies: dict[str, str] | None = None) -> TestClient:
        return TestClient(self.app, address, cookies=cookies, follow_redirects=False)

    def guest(self, address: str = HTTP) -> TestClient:
        client = self.client(address)
        assert client.post("/login", data={"user": "ann", "password": self.password}).status_code == 303
        assert status(client) == 200
        return client

    def owner(self, address: str = HTTP) -> TestClient:
        client = self.client(address)
        assert self.address.path is not None
        assert client.get(self.address.path).status_code == 303
        assert client.get("/v1/models").json()["owner"]
        return client


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def status(client: TestClient) -> int:
    return client.get("/v1/models").status_code


def copy_of(gate: Gate, client: TestClient) -> TestClient:
    """Another browser with the same cookies, as somebody has who copied them."""
    return gate.client(str(client.base_url), dict(client.cookies))


# Signing out


def test_signing_out_ends_the_session_on_the_server_too(gate: Gate) -> None:
    guest, other = gate.guest(), gate.guest()
    copied = copy_of(gate, guest)
    assert "Sign out" in guest.get("/logout").text
    assert status(guest) == 200  # looking at the page ends nothing, nor does a link to it
    reply = guest.post("/logout")
    assert reply.status_code == 303 and "Max-Age=0" in reply.headers["set-cookie"]
    assert reply.headers["cache-control"] == "no-store"
    assert list(guest.cookies) == [] and status(guest) == status(copied) == 401
    assert status(other) == 200


def test_a_session_that_was_signed_out_stays_so_after_a_restart(gate: Gate) -> None:
    guest, other = gate.guest(), gate.guest()
    copied = copy_of(gate, guest)
    guest.post("/logout")
    after = Gate(gate.folder)
    assert status(copy_of(after, copied)) == 401 and status(copy_of(after, other)) == 200


def test_what_belonged_to_a_session_that_was_signed_out_does_not_come_back(gate: Gate) -> None:
    """The cookie of a session that has ended gives nothing to the session that the next sign-in begins."""
    guest = gate.guest()
    copied = copy_of(gate, guest)
    guest.post("/logout")
    gate.moved.clear()
    assert copied.post("/login", data={"user": "ann", "password": "first"}).status_code == 303
    assert gate.moved == []


def test_signing_out_needs_a_session(gate: Gate) -> None:
    for method in ("GET", "POST"):
        assert gate.client().request(method, "/logout").status_code == 401
    assert not (gate.folder / ENDED_FILE).exists()


# Everybody


def test_the_owner_signs_all_others_out(gate: Gate) -> None:
    guest, other, owner = gate.guest(), gate.guest(), gate.owner()
    copied = copy_of(gate, owner)
    assert "Sign all others out" in owner.get("/logout").text
    assert owner.post("/logout", data={"everybody": "1"}).status_code == 303
    assert [status(client) for client in (guest, other, copied)] == [401] * 3
    assert owner.get("/v1/models").json()["owner"]
    after = Gate(gate.folder)
    assert status(copy_of(after, guest)) == 401 and copy_of(after, owner).get("/v1/models").json()["owner"]
    assert status(gate.guest()) == 200


def test_a_guest_signs_out_nobody_else(gate: Gate) -> None:
    guest, other, owner = gate.guest(), gate.guest(), gate.owner()
    assert "Sign all others out" not in guest.get("/logout").text
    assert guest.post("/logout", data={"everybody": "1"}).status_code == 303
    assert [status(client) for client in (guest, other, owner)] == [401, 200, 200]


# Age and passwords


@pytest.mark.parametrize("role", ["guest", "owner"])
def test_a_session_ends_with_its_days(gate: Gate, role: str) -> None:
    client = gate.guest() if role == "guest" else gate.owner()
    gate.clock.now += 30 * DAY - 60
    assert status(client) == 200
    client.get("/")  # the page does not make a session younger
    gate.clock.now += 61
    assert status(client) == 401
    gate.clock.now -= 40 * DAY  # a clock that was set back
    assert status(client) == 200


def test_the_days_of_a_session_are_a_setting(tmp_path: Path) -> None:
    gate = Gate(tmp_path, session_days=0.5)
    guest = gate.guest()
    gate.clock.now += DAY / 2 - 1
    assert status(guest) == 200
    gate.clock.now += 2
    assert status(guest) == 401


def test_a_new_password_ends_all_sessions(gate: Gate) -> None:
    guest, owner = gate.guest(), gate.owner()
    renamed = Gate(gate.folder, password="second")
    assert [status(copy_of(renamed, client)) for client in (guest, owner)] == [401, 401]
    again = Gate(gate.folder)
    assert [status(copy_of(again, client)) for client in (guest, owner)] == [200, 200]


# https


def attributes(set_cookie: str) -> tuple[str, set[str]]:
    """The name of the cookie in a Set-Cookie header, and its attributes."""
    pair, *rest = set_cookie.split("; ")
    return pair.partition("=")[0], set(rest)


def test_over_https_the_cookie_is_of_this_host_alone(gate: Gate) -> None:
    safe, plain = gate.client(HTTPS), gate.client(HTTP)
    for client, prefix in ((safe, SECURE_PREFIX), (plain, "")):
        login = {"user": "ann", "password": "first"}
        for reply in (client.post("/login", data=login), client.post("/logout")):
            name, attached = attributes(reply.headers["set-cookie"])
            assert name == f"{prefix}wan_ui_{gate.sessions.name}"
            assert {"HttpOnly", "SameSite=Lax", "Path=/"} < attached
            assert ("Secure" in attached) == (client is safe)
            assert not any(attribute.startswith("Domain") for attribute in attached)


def test_over_https_no_cookie_of_another_name_signs_in(gate: Gate) -> None:
    """Any host beside this one, and any page over http, can set a cookie without the prefix."""
    session = gate.sessions.text(gate.sessions.new("guest", gate.sessions.mark("ann:first")))
    name = f"wan_ui_{gate.sessions.name}"
    for address, sent, expected in (
        (HTTPS, name, 401),
        (HTTPS, SECURE_PREFIX + name, 200),
        (HTTP, SECURE_PREFIX + name, 401),
        (HTTP, name, 200),
    ):
        reply = gate.client(address).get("/v1/models", headers={"cookie": f"{sent}={session}"})
        assert reply.status_code == expected, (address, sent)
