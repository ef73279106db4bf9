"""A comparison's link opens on its grid."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.browser_fixture import new_context
from tests.ui.fake_app import App
from tests.ui.test_autoplay import GRID, PROMPT
from wan_ui.access import LOCAL_ACCESS

pytestmark = pytest.mark.browser

TOP = "selector => document.querySelector(selector).getBoundingClientRect().top"


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_the_grid_is_above_the_form_and_in_view(browser: Browser, app: App, width: int, height: int):
    job = app.service.submit({"model": "wan22_5b", "prompts": [PROMPT], "compare": GRID}, LOCAL_ACCESS)
    with new_context(browser, viewport={"width": width, "height": height}, reduced_motion="reduce") as context:
        page = context.new_page()
        page.goto(f"{app.url}?compare={job.id}")
        expect(page.locator('#player td[data-state="done"]')).to_have_count(2)
        expect(page.locator(".compare-form .summary")).to_be_visible()
        page.wait_for_function(f"selector => ({TOP})(selector) >= 0 && ({TOP})(selector) < 200", arg="#player")
        assert page.evaluate(TOP, ".compare-form") > page.evaluate(TOP, "#player")


def test_without_a_link_the_form_comes_first(browser: Browser, app: App):
    with new_context(browser, viewport={"width": 1440, "height": 900}) as context:
        page = context.new_page()
        page.goto(app.url)
        page.get_by_role("tab", name="Compare", exact=True).click()
        expect(page.locator(".compare-form .summary")).to_be_visible()
        assert page.evaluate(TOP, ".compare-form") < page.evaluate(TOP, ".compare-board")
