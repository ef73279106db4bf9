"""The header's line about the machine: model and memory, Unload with its refusal, the visitor's uploads."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.fakes import FakeRender
from tests.lora_files import write_lora
from tests.ui.fake_app import App
from tests.ui.page_object import generate, lora, now, open_page, small, upload_lora
from wan_ui.ui.templating import render_template

pytestmark = pytest.mark.browser


def test_the_owner_sees_the_machine_and_unloads_the_model(
    refused_page: Page, app: App, held_render: FakeRender
) -> None:
    page = refused_page
    gate = held_render.gate(1851, 2)
    open_page(page, app)
    line, panel = page.locator("#machine"), page.locator("#machine-panel")
    expect(line).to_contain_text("cpu")
    small(page, "loaded", 1851)
    generate(page)
    gate.await_arrival()
    expect(line).to_contain_text("cpu · TI2V 5B · 6.0 GB free")
    line.click()
    expect(panel).to_contain_text("6.0 GB of 24 GB free")
    panel.get_by_role("button", name="Unload").click()
    expect(panel.get_by_role("status")).to_contain_text("is being rendered")
    gate.open()
    expect(now(page)).to_contain_text("Done")
    panel.get_by_role("button", name="Unload").click()
    expect(panel.locator("[data-part=model]")).to_have_text("none loaded")
    expect(line).not_to_contain_text("TI2V")
    expect(line).to_be_focused()
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(panel.get_by_role("link", name="API docs", include_hidden=True)).to_have_attribute("href", "v1/docs")


def test_uploads_are_listed_and_deleted(page: Page, app: App, tmp_path: Path) -> None:
    open_page(page, app)
    upload_lora(page, write_lora(tmp_path / "to_delete.safetensors", seed=77))
    expect(lora(page, "to_delete")).to_be_visible()
    page.locator("#machine").click()
    page.get_by_text("Your uploads").click()
    entry = page.locator("#machine-panel li").filter(has_text="to_delete.safetensors")
    expect(entry).to_contain_text("kB")
    entry.get_by_role("button").click()
    expect(entry).to_contain_text("Delete?")
    with page.expect_response(lambda answer: "/v1/uploads/loras/" in answer.url) as deleted:
        entry.get_by_role("button").click()
    assert deleted.value.status == 204
    expect(entry).to_have_count(0)


def header(signs_in: bool) -> str:
    return render_template("page_tools", version="1", signs_in=signs_in, languages=[], chosen="en")


def test_signing_out_is_offered_where_there_is_a_password() -> None:
    assert 'href="logout"' in header(True)
    assert 'href="logout"' not in header(False)
