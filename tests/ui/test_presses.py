"""No press is lost or works with old values, however late the answers to those before it come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser_fixture import listening
from tests.fakes import FakeRender
from tests.jobs.helpers import body
from tests.lora_files import write_lora
from tests.ui.fake_app import App
from tests.ui.held_requests import UPLOADS, HeldRequest
from tests.ui.kept_values import wait_for_tab
from tests.ui.page_object import (
    answered,
    choose_lora,
    field,
    fill,
    filled,
    generate,
    lora,
    lora_block,
    open_page,
    open_tab,
    small,
    tab,
    type_lora,
    type_values,
    upload_lora,
    used,
    waits_with,
)
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.job import Job

pytestmark = pytest.mark.browser


def jobs(app: App) -> tuple[Job, ...]:
    return app.service.recent(1000, LOCAL_ACCESS)


def request_of(page: Page, app: App, seed: int) -> dict[str, Any]:
    """The request of the video with this seed, once the page shows it."""
    expect(used(page, "Seed")).to_have_text(str(seed))
    return dict(jobs(app)[0].request)


def test_a_comparison_that_is_started_as_soon_as_its_tab_opens_has_the_forms_values(page: Page, app: App) -> None:
    open_page(page, app)
    small(page, "the words before", 1861)
    open_tab(page, "Compare")
    expect(page.locator(".summary")).to_contain_text("the words before")
    field(page, "Columns").select_option(label="Seed")
    type_values(page, "Columns", "1861, 1862")
    expect(page.locator(".block.count-line")).to_contain_text("2 videos")
    open_tab(page, "Generate")
    fill(page, Prompt="the words now")
    held = HeldRequest(page, '"data":[{"tab":')  # the tab's opening
    tab(page, "Compare").click()
    held.await_request()
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator('#player td[data-state="done"]')).to_have_count(2)
    made = app.service.recent(1, LOCAL_ACCESS)[0]
    assert made.request["prompts"][0]["prompt"] == "the words now"
    held.let_go()
    expect(page.locator(".summary")).to_contain_text("the words now")


def test_two_waiting_jobs_are_removed_by_two_quick_presses(page: Page, app: App, held_render: FakeRender) -> None:
    gate = held_render.gate(1863, 1)
    app.service.submit(body(1863), LOCAL_ACCESS)
    gate.await_arrival()
    waiting = [app.service.submit(body(seed), LOCAL_ACCESS).id for seed in (1864, 1865, 1866)]
    open_page(page, app)
    removing = [page.locator(f"#side ol.jobs button.small[data-job='{job}']:not([data-do])") for job in waiting]
    held = HeldRequest(page, f'"job":"{waiting[0]}"')
    removing[0].click()
    held.await_request()
    removing[1].dblclick()
    removing[2].click()
    held.let_go()
    for remove in removing:
        expect(remove).to_have_count(0)
    assert [app.service.job(job, LOCAL_ACCESS).status for job in waiting] == ["canceled"] * 3
    expect(page.locator("#toast")).to_have_text("")
    gate.open()


def test_two_lora_files_that_are_given_at_once_are_both_chosen(page: Page, app: App, tmp_path: Path) -> None:
    files = [write_lora(tmp_path / f"at_once_{number}.safetensors", seed=number) for number in (1, 2)]
    open_page(page, app)
    held = HeldRequest(page, '"do":"upload"')
    uploads: list[str] = []
    with listening(page, "response", lambda answer: uploads.append(answer.url) if "/upload" in answer.url else None):
        page.locator("#loras input[type=file]").set_input_files(files)
        held.await_request()
        wait_until(lambda: page.evaluate("true") and len(uploads) == len(files))
    held.let_go()
    for file in files:
        expect(lora(page, file.name)).to_be_visible()


def test_a_video_is_made_with_the_lora_that_is_still_uploaded(page: Page, app: App, tmp_path: Path) -> None:
    open_page(page, app)
    small(page, "uploaded", 1871)
    before = jobs(app)
    held = HeldRequest(page, "", UPLOADS)
    upload_lora(page, write_lora(tmp_path / "late.safetensors", width=3072, ffn=14336, seed=31))
    held.await_request()
    button = waits_with(page, "Waiting for the LoRA…")
    button.click()  # pressed twice, submitted once
    assert jobs(app) == before
    held.let_go()
    (chosen,) = request_of(page, app, 1871)["loras"]
    assert chosen["path"].startswith("upload://")
    assert len(jobs(app)) == len(before) + 1


def test_a_lora_that_cannot_be_uploaded_ends_the_press(refused_page: Page, app: App, tmp_path: Path) -> None:
    page = refused_page
    open_page(page, app)
    small(page, "refused", 1872)
    before = jobs(app)
    held = HeldRequest(page, "", UPLOADS)
    upload_lora(page, write_lora(tmp_path / "refused.safetensors", seed=32))
    held.await_request()
    button = waits_with(page, "Waiting for the LoRA…")
    held.refuse()
    expect(lora_block(page)).to_contain_text("refused.safetensors could not be uploaded")
    expect(button).not_to_have_attribute("aria-busy", "true")
    assert jobs(app) == before


def test_a_file_that_is_no_lora_ends_the_press(page: Page, app: App, tmp_path: Path) -> None:
    open_page(page, app)
    small(page, "no LoRA", 1873)
    before = jobs(app)
    (tmp_path / "text.safetensors").write_text("no LoRA at all")
    held = HeldRequest(page, '"do":"upload"')
    upload_lora(page, tmp_path / "text.safetensors")
    held.await_request()
    button = waits_with(page, "Waiting for the form…")
    held.let_go()
    expect(page.locator("#lora-problem .problem")).to_be_visible()
    expect(button).not_to_have_attribute("aria-busy", "true")
    assert jobs(app) == before


def test_a_press_says_that_it_waits_for_a_lora_that_is_downloaded(page: Page, app: App) -> None:
    open_page(page, app)
    small(page, "downloaded", 1876)
    before = jobs(app)
    type_lora(page, "https://example.org/style.safetensors")  # this server downloads none
    fetch = lora(page, "style.safetensors").get_by_role("button", name="Download and check now")
    held = HeldRequest(page, '"do":"fetch"')
    fetch.click()
    held.await_request()
    button = waits_with(page, "Waiting for the LoRA to download…")
    held.let_go()
    expect(page.locator("#lora-problem .problem")).to_be_visible()
    expect(button).not_to_have_attribute("aria-busy", "true")
    expect(fetch).to_be_enabled()
    assert jobs(app) == before


def test_a_double_click_removes_one_lora(page: Page, app: App) -> None:
    open_page(page, app)
    choose_lora(page, "job/style.safetensors")
    choose_lora(page, "job/job_low_noise.safetensors", add=True)
    held = HeldRequest(page, '"do":"remove"')
    lora_block(page).locator(".remove").first.dblclick()
    held.let_go()
    expect(lora_block(page).locator(".lcard")).to_have_count(1)
    expect(lora(page, "job_low_noise.safetensors")).to_be_visible()


def test_another_model_brings_its_values_before_a_press_counts(page: Page, app: App) -> None:
    open_page(page, app)
    small(page, "another model", 1874)
    held = HeldRequest(page, '"previous":"wan22_5b"')
    tab(page, "Wan 2.1 T2V 1.3B").click()
    held.await_request()
    waits_with(page, "Waiting for the form…")
    held.let_go()
    assert request_of(page, app, 1874)["model"] == "wan21_1b"


BUTTON = "() => window.gradio_config.components.find((one) => (one.props.elem_classes || []).includes('generate')).id"


def test_a_press_that_gets_no_answer_can_be_made_again(refused_page: Page, app: App) -> None:
    page = refused_page
    open_page(page, app)
    small(page, "pressed again", 1875)
    held = HeldRequest(page, f'"trigger_id":{page.evaluate(BUTTON)},')
    generate(page)
    expect(page.locator("#bench button.generate")).to_have_attribute("aria-busy", "true")
    held.refuse()
    answered(page)
    generate(page)
    assert request_of(page, app, 1875)["prompts"][0]["prompt"] == "pressed again"


TAB = "id => window.gradio_config.components.find((one) => one.type === 'tabitem' && one.props.id === id).id"


def press_held(page: Page, label: str, name: str) -> HeldRequest:
    """Opens a tab of this label and id; the request for its values is held."""
    held = HeldRequest(page, f'"trigger_id":{page.evaluate(TAB, name)},')
    tab(page, label).click()
    held.await_request()
    return held


@pytest.mark.parametrize(("label", "name"), [("Compare", "compare"), ("Training job", "trainer")])
def test_a_tab_stays_open_over_a_reload_before_it_is_answered(page: Page, app: App, label: str, name: str) -> None:
    open_page(page, app)
    press_held(page, label, name)
    wait_for_tab(page, name)
    page.reload()
    expect(tab(page, label)).to_have_attribute("aria-selected", "true")
    wait_for_tab(page, name)


def test_a_tab_that_was_left_before_its_answer_is_not_open_any_more(page: Page, app: App) -> None:
    open_page(page, app)
    small(page, "as the tab opened", 1881)
    held = press_held(page, "Compare", "compare")
    open_tab(page, "Generate")
    held.let_go()
    expect(page.locator(".summary")).to_contain_text("as the tab opened")
    wait_for_tab(page, "generate")
    page.reload()
    filled(page)
    expect(tab(page, "Generate")).to_have_attribute("aria-selected", "true")


def test_a_tab_that_is_opened_again_before_its_answer_has_the_forms_last_values(page: Page, app: App) -> None:
    open_page(page, app)
    small(page, "as the tab opened", 1882)
    held = press_held(page, "Compare", "compare")
    open_tab(page, "Generate")
    fill(page, Prompt="as it opened again")
    open_tab(page, "Compare")
    held.let_go()
    expect(page.locator(".summary")).to_contain_text("as it opened again")
    field(page, "Columns").select_option(label="Seed")
    type_values(page, "Columns", "1882, 1883")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator('#player td[data-state="done"]')).to_have_count(2)
    assert app.service.recent(1, LOCAL_ACCESS)[0].request["prompts"][0]["prompt"] == "as it opened again"
