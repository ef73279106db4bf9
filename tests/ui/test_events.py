"""Errors as toasts: what Gradio is given, and what a browser shows of it."""

from __future__ import annotations

import gradio as gr
import pytest
from playwright.sync_api import Page, expect

from wan_ui.errors import HostError
from wan_ui.ui.events import error_toast

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
