"""A comparison's link opens on its grid."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.ui.fake_app import App
from tests.ui.page_object import open_page, open_tab
from tests.ui.test_autoplay import GRID, PROMPT
from wan_ui.access import LOCAL_ACCESS

pytestmark = pytest.mark.browser

TOP = "selector => document.querySelector(selector).getBoundingClientRect().top"


def is_above(page: Page, first: str, second: str) -> bool:
    """Whether an element begins above another one, at one moment of a page that may still scroll."""
    return bool(page.evaluate(f"([first, second]) => ({TOP})(first) < ({TOP})(second)", [first, second]))


def test_the_grid_is_above_the_form_and_in_view(page: Page, app: App):
    job = app.service.submit({"model": "wan22_5b", "prompts": [PROMPT], "compare": GRID}, LOCAL_ACCESS)
    page.emulate_media(reduced_motion="reduce")
    for width, height in ((1440, 900), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        page.goto(f"{app.url}?compare={job.id}")
        expect(page.locator('#player td[data-state="done"]')).to_have_count(2)
        expect(page.locator(".compare-form .summary")).to_be_visible()
        page.wait_for_function(f"selector => ({TOP})(selector) >= 0 && ({TOP})(selector) < 200", arg="#player")
        assert is_above(page, "#player", ".compare-form")


def test_its_own_facts_are_below_it_and_the_form_is_headed(page: Page, app: App):
    prompts = [{**PROMPT, "sample_steps": 6}]
    job = app.service.submit({"model": "wan22_5b", "prompts": prompts, "compare": GRID}, LOCAL_ACCESS)
    page.goto(f"{app.url}?compare={job.id}")
    shared, form = page.locator("#player .shared"), page.locator(".compare-form")
    expect(shared.locator(".words")).to_have_text("plays")
    expect(shared.locator("div").filter(has=page.get_by_text("Steps", exact=True)).locator("dd")).to_have_text("6")
    expect(shared).not_to_contain_text("Seed")  # which the columns change
    expect(form.locator(".summary dd").nth(2)).to_have_text("25")
    expect(form.get_by_role("heading", name="New comparison")).to_be_visible()


def test_without_a_link_the_form_comes_first(page: Page, app: App):
    open_page(page, app)
    open_tab(page, "Compare")
    expect(page.locator(".compare-form .summary")).to_be_visible()
    assert is_above(page, ".compare-form", ".compare-board")
