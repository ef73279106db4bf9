"""Two browsers at one page: each knows its own jobs, whatever it forgets of them, and ends no other's by the card."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser_fixture import new_context
from tests.fakes import FakeRender
from tests.ui.fake_app import App
from tests.ui.page_object import generate, now, open_page, small

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_reload_at_the_very_moment_of_generate_loses_nothing(
    refused_page: Page, app: App, held_render: FakeRender
) -> None:
    gate = held_render.gate(901, 2)
    page = refused_page  # whose console may tell of the requests that the reload breaks off
    open_page(page, app)
    small(page, "reloaded at once", 901)
    generate(page)
    gate.await_arrival()
    page.reload()
    expect(now(page)).to_contain_text("reloaded at once")
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_be_enabled()
    page.evaluate("localStorage.clear()")
    page.reload()
    expect(now(page)).to_contain_text("reloaded at once")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(now(page)).to_contain_text("Cancelling")
    expect(page.locator("#cancel")).to_be_disabled()  # by the answer, while the page says so at once
    gate.open()
    expect(now(page)).to_contain_text("Cancelled")


def test_the_card_of_another_browser_ends_nothing(
    page: Page, browser: Browser, app: App, held_render: FakeRender
) -> None:
    gate = held_render.gate(902, 2)
    open_page(page, app)
    small(page, "not yours", 902)
    generate(page)
    gate.await_arrival()
    context = new_context(browser)
    other = context.new_page()
    open_page(other, app)
    expect(now(other)).to_contain_text("not yours")
    expect(other.locator("#cancel")).to_be_hidden()
    expect(other.get_by_role("button", name="Cancel: Wan 2.2 TI2V 5B, not yours")).to_be_visible()
    gate.open()
    expect(now(page)).to_contain_text("Done")
    context.close()
