"""How far the Tab key is from what is used most, on the page as the demo opens it."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.ui.fake_app import App
from tests.ui.page_object import field, filled, open_page, tab

pytestmark = pytest.mark.browser

MOST_TO_PROMPT, MOST_TO_GENERATE = 7, 16


def stops(page: Page, selector: str, most: int) -> int | None:
    """How often Tab is pressed until an element has the focus; None if it is more often than `most`."""
    for count in range(1, most + 1):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return count
    return None


def test_prompt_and_generate_are_near_and_a_skip_link_and_arrow_keys_work(page: Page, app: App) -> None:
    open_page(page, app)
    expect(tab(page, "Gallery")).to_have_attribute("tabindex", "-1")  # the tabs are one stop
    page.evaluate("document.activeElement.blur()")
    to_prompt = stops(page, "#field-prompt textarea", MOST_TO_PROMPT)
    assert to_prompt is not None
    assert stops(page, "button.generate", MOST_TO_GENERATE - to_prompt) is not None

    page.reload()
    filled(page)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(field(page, "Prompt")).to_be_focused()

    tab(page, "Generate").focus()
    for key, name in (
        ("ArrowRight", "Compare"),
        ("End", "Gallery"),
        ("ArrowRight", "Generate"),
        ("ArrowLeft", "Gallery"),
    ):
        page.keyboard.press(key)
        expect(tab(page, name)).to_be_focused()
        expect(tab(page, name)).to_have_attribute("tabindex", "0")
    expect(tab(page, "Compare")).to_have_attribute("tabindex", "-1")
    page.keyboard.press("Enter")
    expect(tab(page, "Gallery")).to_have_attribute("aria-selected", "true")
