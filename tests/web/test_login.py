"""The brake on guessing with a clock of the test's own, what an Authorization header says, and the login's page."""

from __future__ import annotations

import base64
import re

import pytest
from playwright.sync_api import Browser, expect

from tests.browser_fixture import new_context
from wan_ui.errors import LoginFailed, LoginLocked
from wan_ui.web.login import (
    TRIES,
    TRIES_OF_ALL,
    TRY_SECONDS,
    TRY_SECONDS_OF_ALL,
    Login,
    LoginThrottle,
    credentials,
    page,
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def wrong(throttle: LoginThrottle, visitor: str | None) -> bool:
    """A wrong try; whether it was looked at."""
    try:
        throttle.check(visitor)
    except LoginLocked:
        return False
    assert isinstance(throttle.failed(visitor), LoginFailed)
    return True


def test_a_visitor_waits_after_some_wrong_tries_and_then_for_each() -> None:
    clock = Clock()
    throttle = LoginThrottle(clock)
    assert [wrong(throttle, "a") for _ in range(TRIES + 2)] == [True] * TRIES + [False] * 2
    assert wrong(throttle, "b")
    with pytest.raises(LoginLocked) as caught:
        throttle.check("a")
    assert 0 < caught.value.details["seconds"] <= TRY_SECONDS
    clock.now += TRY_SECONDS + 1
    assert [wrong(throttle, "a") for _ in range(2)] == [True, False]


def test_a_new_visitor_each_time_waits_too() -> None:
    clock = Clock()
    throttle = LoginThrottle(clock)
    tried = [wrong(throttle, str(index)) for index in range(TRIES_OF_ALL + 10)]
    assert tried == [True] * TRIES_OF_ALL + [False] * 10
    clock.now += 10 * TRY_SECONDS_OF_ALL + 1
    assert sum(wrong(throttle, f"later {index}") for index in range(50)) == 10


def test_the_right_one_forgives_a_visitor_and_not_all() -> None:
    throttle = LoginThrottle(Clock())
    for _ in range(TRIES_OF_ALL):
        throttle.passed("a")
        assert wrong(throttle, "a")
    throttle.passed("a")
    assert not wrong(throttle, "a")


def test_only_this_name_and_password() -> None:
    login = Login("ann", "päss:word")
    assert login.fits("ann", "päss:word") and login.fits(None, "päss:word")
    for user, password in (("ann", "pass:word"), ("Ann", "päss:word"), ("", "päss:word"), ("ann", ""), (None, "")):
        assert not login.fits(user, password)
    assert "päss" not in repr(login)


def test_what_a_header_says() -> None:
    def basic(text: bytes) -> str:
        return "Basic " + base64.b64encode(text).decode()

    assert credentials(basic("ann:päss:word".encode())) == ("ann", "päss:word")
    assert credentials("bearer secret") == (None, "secret")
    for none in ("", "Basic", "Basic %%%", basic(b"no colon"), basic(b"\xff:\xfe"), "Digest x", "Bearer", "Bearer "):
        assert credentials(none) is None


def test_the_page_escapes_and_asks_nobody_else() -> None:
    html = page('"><script>', "<b>wrong</b>", '"><script>')
    assert '"><script>' not in html and "<b>" not in html and "://" not in html


@pytest.mark.browser
def test_the_locked_page_counts_down_and_opens_by_itself(browser: Browser) -> None:
    shown = new_context(browser).new_page()  # of its own: the clock is that of all pages of a profile
    shown.clock.install()
    shown.set_content(page("ann", "Too many wrong passwords. Try again in 59 s.", seconds=59))
    button = shown.get_by_role("button", name=re.compile("Try again|Sign in"))
    expect(button).to_have_text("Try again in 59 s")
    expect(button).to_be_disabled()
    shown.clock.run_for(40_000)
    expect(button).to_have_text("Try again in 19 s")
    shown.clock.run_for(20_000)
    expect(button).to_have_text("Sign in")
    expect(button).to_be_enabled()
    expect(shown.get_by_role("alert")).to_have_count(0)
