"""The dialog that asks the owner once what a checkpoint file is."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.ui.fake_app import App
from tests.ui.page_object import choose_model, open_page

pytestmark = pytest.mark.browser
PAIR = "wan22_14b_t2v"


def question(name: str) -> dict[str, Any]:
    halves = ("transformer", "transformer_2")
    return {"name": name, "candidates": [{"model": PAIR, "component": component} for component in halves]}


def test_the_owner_is_asked_what_a_file_is_and_the_answer_is_kept(page: Page, app: App) -> None:
    app.bases.unknown[PAIR] = [question("first.safetensors"), question("second.safetensors")]
    open_page(page, app)
    choose_model(page, "Wan 2.2 T2V A14B")
    page.locator("#more > button").click()
    dialog = page.get_by_role("dialog", name="What is this file?")
    expect(dialog).to_contain_text("first.safetensors")
    keep = dialog.get_by_role("button", name="Keep the answer")
    expect(keep).to_be_disabled()
    dialog.get_by_role("radio", name="high-noise half").check()
    keep.click()
    expect(dialog).to_contain_text("second.safetensors")
    dialog.get_by_role("button", name="Later").click()
    expect(dialog).to_be_hidden()
    page.get_by_role("button", name="Say what 1 checkpoint file is").click()
    dialog.get_by_role("radio", name="low-noise half").check()
    keep.click()
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="Say what")).to_have_count(0)
    assert app.bases.answers == [
        (PAIR, "transformer", "first.safetensors"),
        (PAIR, "transformer_2", "second.safetensors"),
    ]
