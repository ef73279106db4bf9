"""Errors as toasts: what Gradio is given, and what a browser shows of it."""

from __future__ import annotations

import gradio as gr
import pytest
from playwright.sync_api import Page, expect

from tests.ui.fake_app import App
from tests.ui.page_object import open_page
from wan_ui.errors import HostError
from wan_ui.ui.events import error_toast

REFUSED = """() => {
    const button = document.createElement('button');
    button.dataset.job = 'unknown';
    document.querySelector('#side .list ol.jobs, #side .list p.none').append(button);
    button.click();
}"""
"""Presses Remove for a job that is not there."""
EVIL = "it's <img src=x onerror=\"document.title='owned'\"> & more"


def test_a_toast_has_no_markup():
    assert "<" not in error_toast(HostError(EVIL)).message


@pytest.mark.browser
def test_a_browser_shows_a_toasts_message_as_it_is(page: Page):
    def fail() -> None:
        raise error_toast(HostError(EVIL))

    with gr.Blocks(title="toasts", analytics_enabled=False) as blocks:
        gr.Button("Fail").click(fail)
    try:
        _, url, _ = blocks.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, share=False)
        page.goto(url)
        page.get_by_role("button", name="Fail").click()
        expect(page.get_by_text(EVIL, exact=True)).to_be_visible()
        assert page.locator("img[src='x']").count() == 0
        assert page.title() == "toasts"
    finally:
        blocks.close(verbose=False)


@pytest.mark.browser
def test_the_pages_toasts_and_gradios_have_one_style(page: Page, app: App):
    open_page(page, app)
    toast = page.locator("#toast")
    page.evaluate("() => window.wanUi.toast('It is done.')")
    expect(toast).to_have_attribute("role", "status")
    expect(toast).to_have_text("It is done.")
    expect(toast.get_by_role("button")).to_be_hidden()
    page.evaluate(REFUSED)  # Gradio's own toast is taken over
    expect(toast).to_have_attribute("role", "alert")
    expect(toast).to_contain_text("There is no request with this id")
    expect(page.locator(".toast-wrap")).to_be_hidden()
    toast.get_by_role("button", name="Close").click()
    expect(toast).to_be_hidden()
