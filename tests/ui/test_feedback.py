"""What the page shows at once when a button is pressed, and what the browser's tab says while a job runs."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.fakes import FakeRender
from tests.ui.fake_app import App
from tests.ui.page_object import field, generate, now, open_page, small

pytestmark = pytest.mark.browser

PRESS = """name => {
    const buttons = [...document.querySelectorAll('button')].filter((one) => one.offsetParent);
    const button = buttons.find((one) => one.textContent.trim() === name && one.matches('.generate, #cancel'));
    button.click();
    return {
        chip: document.querySelector('#now .chip').textContent,
        busy: button.getAttribute('aria-busy'),
    };
}"""
ICON = "(document.querySelector('link[rel~=\"icon\"]') || {href: ''}).href"


def press(page: Page, name: str) -> dict[str, Any]:
    """Presses a button: what the page shows in the same task, and the processor time of its scripts meanwhile."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        metrics = devtools.send("Performance.getMetrics")["metrics"]
        return next(1000 * each["value"] for each in metrics if each["name"] == "ScriptDuration")

    before = spent()
    pressed = page.evaluate(PRESS, name)
    pressed["milliseconds"] = spent() - before
    devtools.detach()
    return dict(pressed)


def test_a_press_of_generate_and_of_cancel_is_answered_in_the_same_frame(page: Page, app: App, held_render: FakeRender):
    gate = held_render.gate(1701, 2)
    open_page(page, app)
    small(page, "pressed", 1701)
    expect(now(page).locator(".card:not(.running)")).to_have_count(1)
    pressed = press(page, "Generate")
    assert (pressed["chip"], pressed["busy"]) == ("Adding to the queue…", "true")
    assert pressed["milliseconds"] < 100
    gate.await_arrival()
    expect(now(page)).to_contain_text("step 1 of 4")
    expect(page.locator("button.generate[aria-busy]")).to_have_count(0)
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_be_enabled()
    field(page, "Prompt").press("Escape")  # is of the field
    expect(now(page)).to_contain_text("step 1 of 4")
    cancelled = press(page, "Cancel")
    assert cancelled["chip"] == "Cancelling…" and cancelled["milliseconds"] < 100
    expect(now(page)).to_contain_text("after this step")
    gate.open()
    expect(now(page)).to_contain_text("Cancelled")


def test_escape_cancels_where_nothing_has_the_focus(page: Page, app: App, held_render: FakeRender):
    gate = held_render.gate(1703, 2)
    open_page(page, app)
    small(page, "escaped", 1703)
    generate(page)
    gate.await_arrival()
    expect(page.locator("#cancel")).to_be_enabled()
    page.keyboard.press("Escape")  # the focus is on Generate
    expect(now(page)).to_contain_text("after this step")
    gate.open()
    expect(now(page)).to_contain_text("Cancelled")


def test_a_refused_press_gives_the_card_back(page: Page, app: App):
    open_page(page, app)
    expect(now(page).locator(".card:not(.running)")).to_have_count(1)
    before = now(page).locator(".card").inner_text()
    field(page, "Width").fill("20")
    assert press(page, "Generate")["chip"] == "Adding to the queue…"
    expect(page.locator(".problem").locator("visible=true")).to_contain_text("Width must be")
    expect(page.locator("button.generate[aria-busy]")).to_have_count(0)
    assert now(page).locator(".card").inner_text() == before


def test_the_tab_says_how_far_a_job_is_and_that_it_is_done(page: Page, app: App, held_render: FakeRender):
    gate = held_render.gate(1702, 2)
    open_page(page, app)
    assert page.title() == "wan-ui"
    usual = page.evaluate(ICON)
    small(page, "watched", 1702)
    generate(page)
    gate.await_arrival()
    expect(page).to_have_title(re.compile(r"^25 % .*– wan-ui$"))
    assert page.evaluate(ICON).startswith("data:image/png")
    gate.open()
    expect(page).to_have_title("✓ Done – wan-ui")
    page.mouse.click(1, 1)
    expect(page).to_have_title("wan-ui")
    assert page.evaluate(ICON) == usual


def test_a_page_that_opens_later_says_nothing_of_what_was_done_before(page: Page, app: App, held_render: FakeRender):
    open_page(page, app)
    small(page, "before", 1703)
    generate(page)
    expect(now(page)).to_contain_text("Done")
    page.reload()
    expect(now(page)).to_contain_text("Done")
    assert page.title() == "wan-ui"
