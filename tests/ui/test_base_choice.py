"""The dialog that asks the owner once what a checkpoint file is."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.ui.fake_app import App
from tests.ui.held_requests import answered_late
from tests.ui.page_object import choose_model, open_more, open_page

pytestmark = pytest.mark.browser
PAIR = "wan22_14b_t2v"
OTHER, OTHER_LABEL = "wan22_14b_i2v", "Wan 2.2 I2V A14B"


def question(name: str) -> dict[str, Any]:
    halves = ("transformer", "transformer_2")
    return {"name": name, "candidates": [{"model": PAIR, "component": component} for component in halves]}


def test_an_answer_for_the_model_before_is_not_shown(page: Page, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.bases.notes, OTHER, ["of the other model"])
    open_page(page, app, "Wan 2.2 T2V A14B")
    open_more(page)
    said = page.locator("#field-base [data-part=said]")
    expect(said).not_to_be_empty()
    with answered_late(page, f"**/v1/models/{OTHER}/bases"):
        choose_model(page, OTHER_LABEL)
        with page.expect_response(f"**/v1/models/{PAIR}/bases"):
            choose_model(page, "Wan 2.2 T2V A14B")
    expect(said).not_to_be_empty()
    expect(said).not_to_contain_text("of the other model")


def test_the_owner_is_asked_what_a_file_is_and_the_answer_is_kept(page: Page, app: App) -> None:
    app.bases.answers.clear()
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
