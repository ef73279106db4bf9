"""What is typed while the page still opens is kept: what the browser had kept comes after it and leaves it alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.ui.fake_app import App
from tests.ui.kept_values import kept, wait_for_draft, wait_for_tab
from tests.ui.page_object import axis_values, field, fill, filled, open_more, open_page, tab, type_values
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

OTHER = "Wan 2.1 T2V 1.3B"


def preview(page: Page) -> Locator:
    open_more(page)
    return page.get_by_role("radio", name="Match training samples", exact=True).locator("visible=true")


def with_width(page: Page, width: int, **values: Any) -> None:
    """Gives a width, and waits until the browser keeps it and these other values, by their names on the wire."""
    fill(page, Width=str(width))
    wait_for_draft(page, width=width, **values)


@contextmanager
def opening(page: Page, words: str, *, at_once: bool = True) -> Iterator[None]:
    """Loads the page again. The first event that says these words, of a draft, reaches the server after the block.

    What covers the page until its form is filled is taken away at once, or by the page itself after 15 seconds.
    """
    held: list[Route] = []

    def hold(route: Route) -> None:
        if not held and words in (route.request.post_data or ""):
            held.append(route)
        else:
            route.fallback()

    page.route("**/gradio_api/**", hold)
    with page.expect_request(lambda request: words in (request.post_data or "")):
        page.reload()
    if at_once:
        page.evaluate("document.dispatchEvent(new Event('wan-ui-shown'))")
    yield
    (route,) = held
    route.fallback()


def test_what_is_typed_before_the_drafts_are_there_wins(page: Page, app: App) -> None:
    open_page(page, app)
    fill(page, Prompt="kept words", Seed="11", Steps="7", **{"Negative prompt": "kept negative words"})
    with_width(page, 320, prompt="kept words", seed=11, sample_steps=7, neg="kept negative words")
    with opening(page, "kept negative words", at_once=False):
        field(page, "Prompt").press("ControlOrMeta+a")
        field(page, "Prompt").press_sequentially("typed at once")
        fill(page, Seed="12")
        preview(page).check()
    open_more(page)
    expect(field(page, "Negative prompt")).to_have_value("kept negative words")
    expect(field(page, "Steps")).to_have_value("7")
    expect(field(page, "Width")).to_have_value("320")
    expect(field(page, "Prompt")).to_have_value("typed at once")
    expect(field(page, "Seed")).to_have_value("12")
    expect(preview(page)).to_be_checked()
    with_width(page, 352, prompt="typed at once", seed=12, recipe="preview")
    page.reload()
    filled(page)
    open_more(page)
    expect(field(page, "Prompt")).to_have_value("typed at once")
    expect(field(page, "Negative prompt")).to_have_value("kept negative words")
    expect(field(page, "Seed")).to_have_value("12")
    expect(preview(page)).to_be_checked()


HOLD_FILLED = """() => {
    const filled = window.wanUi.filled;
    window.wanUi.filled = (form) => form !== '#form' ? filled(form)
        : new Promise((resolve) => { window.letFill = () => resolve(filled(form)); });
}"""
"""Lets what was typed come back only when `letFill` is called."""


def test_a_key_that_is_pressed_as_the_draft_comes_goes_into_what_was_typed(page: Page, app: App) -> None:
    open_page(page, app)
    fill(page, Prompt="kept words")
    with_width(page, 320, prompt="kept words")
    with opening(page, "kept words"):
        page.wait_for_function("() => window.wanUi && window.wanUi.filled")
        page.evaluate(HOLD_FILLED)
        field(page, "Prompt").press("ControlOrMeta+a")
        field(page, "Prompt").press_sequentially("a street")
    expect(field(page, "Prompt")).to_have_value("kept words")
    page.wait_for_function("() => window.letFill")
    page.keyboard.type("!")
    expect(field(page, "Prompt")).to_have_value("a street!")
    page.evaluate("window.letFill()")
    page.wait_for_function("() => !window.wanUi.isFilling('#form')")
    expect(field(page, "Prompt")).to_have_value("a street!")
    wait_for_draft(page, prompt="a street!")


def test_typing_goes_on_where_it_was(page: Page, app: App) -> None:
    open_page(page, app)
    fill(page, Prompt="kept words")
    with_width(page, 320, prompt="kept words")
    with opening(page, "kept words"):
        fill(page, Prompt="a street at night")
        for _ in "at night":
            field(page, "Prompt").press("ArrowLeft")
        page.keyboard.type("in the rain ")
    expect(field(page, "Width")).to_have_value("320")
    expect(field(page, "Prompt")).to_have_value("a street in the rain at night")
    page.keyboard.type("and ")
    expect(field(page, "Prompt")).to_have_value("a street in the rain and at night")


def test_the_model_that_was_chosen_meanwhile_stays(page: Page, app: App) -> None:
    open_page(page, app)
    fill(page, Prompt="kept words")
    with_width(page, 320, prompt="kept words")
    with opening(page, "kept words"):
        tab(page, OTHER).click()
        fill(page, Prompt="typed for the other model")
    page.wait_for_function("() => !window.wanUi.isFilling('#form')")  # by the draft, and then by the other model
    expect(page.get_by_role("tab", name=OTHER, exact=True)).to_have_attribute("aria-selected", "true")
    expect(field(page, "Prompt")).to_have_value("typed for the other model")
    expect(field(page, "Width")).to_have_value("320")


def test_what_is_typed_into_the_compare_tab_wins_too(page: Page, app: App) -> None:
    open_page(page, app)
    tab(page, "Compare").click()
    said, summary = page.locator(".count-line.block"), page.locator(".compare-form .summary")
    expect(summary).to_be_visible()
    type_values(page, "Columns", "0.25, none")
    wait_for_tab(page, "compare")
    wait_until(lambda: "0.25, none" in (kept(page, "draft:comparison") or {}).get("axes", ()))
    with opening(page, "0.25, none"):
        type_values(page, "Columns", "0.1, 0.2, 0.3")
        expect(summary).to_have_count(0)
    expect(summary).to_be_visible()
    expect(said).not_to_be_empty()
    expect(said).not_to_contain_text("none")
    expect(axis_values(page, "Columns")).to_have_text(["0.1", "0.2", "0.3"])
