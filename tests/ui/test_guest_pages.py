"""Guest pages in a browser: they play by themselves, in step, and without a request to anything but themselves."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser_fixture import heard, new_context
from tests.ui.fake_app import App
from tests.ui.test_autoplay import GRID, PROMPT
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS

pytestmark = pytest.mark.browser

PLAYS = (
    "() => { const video = document.querySelector('#player video'); return !video.paused && video.currentTime > 0; }"
)
IN_STEP = """() => {
    const large = document.querySelector('#player video'), cells = [...document.querySelectorAll('.matrix video')];
    const away = (cell) => Math.abs(cell.currentTime - large.currentTime % cell.duration);
    const near = (cell) => Math.min(away(cell), cell.duration - away(cell)) < 0.15;
    return cells.length === 2 && cells.every((cell) => !cell.paused && near(cell));
}"""


def address_of(app: App, *, compare: bool) -> str:
    body = {"model": "wan22_5b", "prompts": [PROMPT], **({"compare": GRID} if compare else {})}
    job = app.service.submit(body, LOCAL_ACCESS)
    wait_until(lambda: app.service.job(job.id, LOCAL_ACCESS).status == "succeeded")
    _, token = app.service.shares.create(job.id if compare else f"{job.id}-0", 7, LOCAL_ACCESS)
    return f"{app.url}shared/{token}"


def guest(browser: Browser, address: str, **options: object) -> tuple[Page, list[str], list[str]]:
    page = new_context(browser, **options).new_page()
    errors, requests = heard(page), []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    return page, errors, requests


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_video_plays_at_once_on_a_phone(browser: Browser, app: App, theme: str) -> None:
    address = address_of(app, compare=False)
    page, errors, requests = guest(browser, address, viewport={"width": 390, "height": 844}, color_scheme=theme)
    page.wait_for_function(PLAYS)
    assert all(url.startswith((address, "data:")) for url in requests), requests
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.get_by_role("button", name="Light or dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "light" if theme == "dark" else "dark")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    expect(page.get_by_role("link", name="Make your own").locator("visible=true")).to_have_attribute("href", "../")
    assert errors == []
    page.context.close()


def test_a_comparison_plays_in_step_and_enlarges_a_cell(browser: Browser, app: App) -> None:
    address = address_of(app, compare=True)
    page, errors, _ = guest(browser, address, viewport={"width": 1440, "height": 900})
    page.wait_for_function(IN_STEP)
    second = page.locator(".matrix a").nth(1)
    second.click()
    expect(second).to_have_attribute("aria-current", "true")
    expect(page.locator("#player video")).to_have_attribute("src", re.compile("/video/1$"))
    expect(page.locator("#label")).to_have_text(second.get_attribute("aria-label") or "")
    page.wait_for_function(PLAYS)
    assert errors == []
    page.context.close()


def test_reduced_motion_stands_still_and_no_script_plays_still(browser: Browser, app: App) -> None:
    address = address_of(app, compare=True)
    page, errors, _ = guest(browser, address, reduced_motion="reduce")
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    assert (
        page.evaluate("document.querySelector('#player video').paused") and page.locator(".matrix video").count() == 0
    )
    page.context.close()
    page, more, _ = guest(browser, address, java_script_enabled=False)
    expect(page.locator("#player video")).to_have_attribute("autoplay", "")
    page.locator(".matrix a").nth(1).click()
    assert page.url.endswith("/video/1")
    assert errors == more == []
    page.context.close()
