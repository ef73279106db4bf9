"""The page in a real browser over the real job service, store, worker, LoRA library and HTTP API; fake renders."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser_fixture import new_context
from tests.fakes import FakeRender
from tests.jobs.helpers import body
from tests.lora_files import write_lora
from tests.ui.fake_app import App, running
from tests.ui.kept_values import wait_for_draft
from tests.ui.page_object import (
    answered,
    choose_lora,
    choose_model,
    field,
    fill,
    filled,
    form,
    generate,
    give_file,
    lora,
    lora_block,
    now,
    open_more,
    open_page,
    open_tab,
    problem,
    recipe,
    small,
    tab,
    type_lora,
    upload_lora,
    used,
)
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.errors import OutOfMemory
from wan_ui.models import MODELS
from wan_ui.ui import form_schema
from wan_ui.ui.texts import text_of

pytestmark = pytest.mark.browser

PLAYED = """size => {
    const video = document.querySelector('#result video');
    return video && video.readyState >= 1 && [video.videoWidth, video.videoHeight].join('x') === size;
}"""


def test_the_tabs_and_each_model_s_fields_which_all_have_a_label(page: Page, app: App):
    open_page(page, app)
    models = [model.label for model in MODELS.values()]
    tabs = ["Generate", "Compare", "Training job", "Gallery"]
    expect(page.get_by_role("tablist", name="Model").get_by_role("tab")).to_have_text(models)
    expect(page.locator("#top > .tab-wrapper").get_by_role("tab")).to_have_text(tabs)
    assert not page.locator("body").evaluate("body => body.classList.contains('dark')")
    open_more(page)
    for model in MODELS.values():
        choose_model(page, model.label)
        expected = {f"field-{control.name.replace('_', '-')}" for control in form_schema.controls(model)
                    if control.kind not in ("lora", "scale")}  # fmt: skip
        expect(page.locator("[id^=field-]").locator("visible=true")).to_have_count(len(expected))
        nameless = page.evaluate(
            """() => [...document.querySelectorAll('input, textarea, select, button, video')]
                .filter((e) => e.offsetParent && e.type !== 'file')
                .filter((e) => !(e.ariaLabel || e.textContent.trim() || (e.labels && e.labels.length)))
                .map((e) => e.outerHTML)"""
        )
        assert nameless == []
        shown = page.evaluate(
            "() => [...document.querySelectorAll('[id^=field-]')].filter((e) => e.offsetParent).map((e) => e.id)"
        )
        assert set(shown) == expected
    for label in ("Prompt", "Negative prompt", "Trigger word", "Seed", "Guidance scale"):
        expect(field(page, label)).to_have_count(1)
    expect(recipe(page, "Standard")).to_be_checked()
    for label in tabs[1:]:
        open_tab(page, label)
        expect(page.get_by_role("tabpanel").locator("visible=true")).to_have_count(1)
    assert page.locator("footer:not(#footer *)").locator("visible=true").count() == 0  # of Gradio


def test_what_is_typed_stays_with_another_model_and_what_is_hidden_comes_back(page: Page, app: App, wide_image: Path):
    open_page(page, app)
    fill(page, Prompt="one prompt for all", Seed="77", Steps="7", Width="640", **{"Negative prompt": "blur"})
    give_file(page, "First frame", wide_image)
    expect(form(page)).to_contain_text("The image will be distorted")
    choose_model(page, "Wan 2.1 T2V 14B")
    expect(page.locator("#field-ctrl-img")).to_be_hidden()
    for label, value in (("Prompt", "one prompt for all"), ("Seed", "77"), ("Steps", "7"), ("Width", "640")):
        expect(field(page, label)).to_have_value(value)
    expect(field(page, "Negative prompt")).to_have_value("blur")
    choose_model(page, "Wan 2.1 T2V 1.3B")
    expect(field(page, "Width")).to_have_value("640")
    expect(field(page, "Height")).to_have_value("480")  # untouched: what this model starts with
    choose_model(page, "Wan 2.1 I2V 14B 720P")
    expect(form(page)).to_contain_text("The image will be distorted: 160 × 60 → 640 × 1024.")


def test_the_effective_size_is_said_while_typing(page: Page, app: App):
    open_page(page, app)
    panel = form(page)
    size = page.locator("#form .effective")
    field(page, "Width").press("ControlOrMeta+a")
    field(page, "Width").press_sequentially("1000")
    field(page, "Height").press("ControlOrMeta+a")
    field(page, "Height").press_sequentially("700")
    fill(page, Frames="40")
    expect(panel).to_contain_text("1000 × 700 → 992 × 672")
    expect(panel).to_contain_text("40 → 37 frames")
    fill(page, Width="20")
    expect(panel).to_contain_text("Width must be a whole number between 64 and 4096.")
    choose_model(page, "Wan 2.2 T2V A14B")
    fill(page, Width="848", Height="480")
    expect(panel).to_contain_text("848 × 480 → 832 × 480")
    recipe(page, "Match training samples").check()
    expect(size).to_contain_text("848 × 480")
    expect(size).not_to_contain_text("832 × 480")


def test_the_480p_model_has_its_sizes_and_its_note(page: Page, app: App):
    open_page(page, app, "Wan 2.1 I2V 14B 480P")
    note = page.get_by_text("This checkpoint is tuned for 480p-ish sizes").locator("visible=true")
    expect(note).to_have_count(0)
    fill(page, Width="1280", Height="720")
    expect(note).to_be_visible()
    page.get_by_role("radio", name="848 × 480").click()
    expect(field(page, "Width")).to_have_value("848")
    expect(field(page, "Height")).to_have_value("480")
    expect(note).to_have_count(0)


def test_generating_with_two_models(page: Page, app: App):
    open_page(page, app)
    small(page, "a red kite", 101)
    fill(page, Width="100", Frames="8")
    generate(page)
    expect(now(page)).to_contain_text("Done")
    expect(used(page, "Size")).to_have_text("100 × 64 → 96 × 64")
    expect(used(page, "Frames")).to_have_text("8 → 5")
    expect(used(page, "Seed")).to_have_text("101")
    choose_model(page, "Wan 2.1 T2V 1.3B")
    small(page, "a blue boat", 102)
    answered(page)
    field(page, "Prompt").press("ControlOrMeta+Enter")
    expect(now(page)).to_contain_text("Wan 2.1 T2V 1.3B")
    expect(now(page)).to_contain_text("Done")
    expect(used(page, "Seed")).to_have_text("102")
    page.wait_for_function(PLAYED, arg="64x64")
    page.locator(".jobs button.show").filter(has_text="a red kite").first.click()
    expect(used(page, "Seed")).to_have_text("101")


def test_a_reload_in_mid_run_goes_on(page: Page, app: App, held_render: FakeRender):
    gate = held_render.gate(201, 3)
    open_page(page, app, "Wan 2.1 T2V 14B")
    small(page, "reloaded", 201)
    fill(page, **{"Negative prompt": "blur", "Trigger word": "sks"})
    generate(page)
    expect(now(page)).to_contain_text("step 2 of 4")
    wait_for_draft(page, neg="blur")
    page.reload()
    expect(now(page)).to_contain_text("step 2 of 4")
    expect(tab(page, "Wan 2.1 T2V 14B")).to_have_attribute("aria-selected", "true")
    expect(field(page, "Prompt")).to_have_value("reloaded")
    expect(field(page, "Steps")).to_have_value("4")
    open_more(page)
    expect(field(page, "Negative prompt")).to_have_value("blur")
    gate.open()
    expect(now(page)).to_contain_text("Done")
    expect(used(page, "Seed")).to_have_text("201")


def test_cancel_a_running_and_a_waiting_job(page: Page, app: App, held_render: FakeRender):
    first, second = held_render.gate(301, 2), held_render.gate(302, 2)
    open_page(page, app)
    small(page, "runs", 301)
    generate(page)
    expect(now(page)).to_contain_text("step 1 of 4")
    for prompt, seed in (("waits", 303), ("runs after", 302)):
        small(page, prompt, seed)
        generate(page)
        expect(page.locator("#side .jobs").first).to_contain_text(prompt)
    waiting = page.locator("#side ol.jobs li")
    expect(waiting.first).to_contain_text("waits")
    expect(page.get_by_role("button", name=re.compile("^Run next"))).to_have_count(1)  # the first one has none
    page.get_by_role("button", name=re.compile("^Run next.*runs after")).click()
    expect(waiting.first).to_contain_text("runs after")
    page.get_by_role("button", name=re.compile("Remove from the queue.*waits")).click()
    expect(page.locator(".jobs button.show").filter(has_text="waits")).to_contain_text("Cancelled")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(now(page)).to_contain_text("Cancelling")
    first.open()
    expect(now(page)).to_contain_text("runs after")
    expect(now(page)).to_contain_text("step 1 of 4")
    page.get_by_role("button", name="Cancel", exact=True).click()
    second.open()
    expect(now(page)).to_contain_text("Cancelled")
    expect(page.locator("#cancel")).to_be_hidden()
    assert held_render.steps(303) == []


def test_cancel_while_waiting_behind_another_visitors_job(page: Page, browser: Browser, app: App, held_render):
    gate = held_render.gate(311, 2)
    app.service.submit(
        {"model": "wan22_5b", "prompts": [{"prompt": "theirs", "width": 64, "height": 64, "seed": 311}]}, LOCAL_ACCESS
    )
    gate.await_arrival()
    open_page(page, app)
    small(page, "mine", 312)
    generate(page)
    expect(now(page)).to_contain_text("Queued")
    expect(now(page)).to_contain_text("position 1 · now: Wan 2.2 TI2V 5B, denoising")
    page.get_by_role("button", name="Cancel", exact=True).click()
    wait_until(lambda: all(job.status != "in_queue" for job in app.service.recent(9, LOCAL_ACCESS)))
    gate.open()
    expect(page.locator(".jobs button.show").filter(has_text="theirs")).to_contain_text("Done")
    assert held_render.steps(312) == []


def copied_request(page: Page) -> str:
    request_box = page.get_by_role("button", name="Request as JSON")
    if not page.get_by_label("This form's request").is_visible():
        request_box.click()
    page.evaluate("navigator.clipboard.writeText('')")
    page.locator("#json").get_by_role("button", name="Copy").click()
    return str(page.wait_for_function("() => navigator.clipboard.readText()").json_value())


def paste(page: Page, text: str) -> None:
    if not page.get_by_label("Paste a request").is_visible():
        page.get_by_role("button", name="Request as JSON").click()
    page.get_by_label("Paste a request").fill(text)
    page.get_by_role("button", name="Load into the form").click()


def test_a_copied_request_pasted_in_a_second_browser_is_the_same_form(
    page: Page, context: BrowserContext, browser: Browser, app: App, wide_image: Path, tmp_path: Path
):
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_page(page, app, "Wan 2.2 I2V A14B")
    panel = form(page)
    fill(
        page,
        **{"Prompt": "[trigger] in the rain", "Negative prompt": "blur", "Trigger word": "sks", "Width": "1000"},
        **{"Height": "700", "Frames": "40", "FPS": "24", "Steps": "12", "Guidance scale": "3.5", "Seed": "7"},
    )
    give_file(page, "First frame", wide_image)
    expect(panel).to_contain_text("The image will be distorted: 160 × 60 → 992 × 688.")
    choose_lora(page, "job/job_high_noise.safetensors")
    expect(lora_block(page)).to_contain_text(text_of("lora_card.one_side"))
    write_lora(tmp_path / "mine_low_noise.safetensors", seed=9)
    upload_lora(page, tmp_path / "mine_low_noise.safetensors")
    expect(lora(page, "mine_low_noise.safetensors (uploaded)", "low")).to_have_count(1)
    expect(lora_block(page)).not_to_contain_text(text_of("lora_card.one_side"))
    strength = lora(page, "mine_low_noise").get_by_role("spinbutton")
    strength.fill("0.5")
    recipe(page, "Match training samples").check()
    page.get_by_role("button", name="Request as JSON").click()
    expect(page.get_by_label("This form's request")).to_have_value(re.compile('"recipe": "preview"'))
    expect(page.get_by_label("This form's request")).to_have_value(re.compile('"network_multiplier": 0.5'))
    text = copied_request(page)

    other_context = new_context(browser)
    other_context.grant_permissions(["clipboard-read", "clipboard-write"])
    other = other_context.new_page()
    open_page(other, app)
    paste(other, text)
    expect(other.get_by_role("tab", name="Wan 2.2 I2V A14B")).to_have_attribute("aria-selected", "true")
    expect(field(other, "Prompt")).to_have_value("[trigger] in the rain")
    expect(lora(other, "mine_low_noise.safetensors (uploaded)", "low")).to_have_count(1)
    expect(lora(other, "job_high_noise.safetensors", "high")).to_have_count(1)
    expect(form(other)).to_contain_text("The image will be distorted")
    expect(other.get_by_label("This form's request")).to_have_value(text)
    assert json.loads(copied_request(other)) == json.loads(text)
    # And what the form holds, not only what it says, is that request: a change shows in an otherwise equal one.
    field(other, "Seed").fill("8")
    expect(other.get_by_label("This form's request")).to_have_value(text.replace('"seed": 7', '"seed": 8'))
    other_context.close()


def test_use_the_images_aspect_ratio(page: Page, app: App, wide_image: Path):
    open_page(page, app, "Wan 2.1 I2V 14B 720P")
    panel = form(page)
    button = page.get_by_role("button", name="Use image aspect ratio")
    expect(button).to_have_count(0)  # there is no image yet
    give_file(page, "First frame", wide_image)
    expect(panel).to_contain_text("The image will be distorted: 160 × 60 → 1024 × 1024.")
    button.click()
    expect(field(page, "Width")).to_have_value("1664")
    expect(field(page, "Height")).to_have_value("624")
    expect(panel).to_contain_text("Image: 160 × 60, resized to 1664 × 624.")
    expect(button).to_be_disabled()


def test_several_prompts_choose_one_or_run_all(page: Page, app: App):
    small_clip = {"width": 64, "height": 64, "num_frames": 5, "sample_steps": 2}
    prompts = [{"prompt": f"clip {index}", "seed": 400 + index, **small_clip} for index in (1, 2)]
    body = {"model": "wan21_1b", "prompts": prompts}
    open_page(page, app)
    paste(page, json.dumps(body))
    expect(page.get_by_role("tab", name="Wan 2.1 T2V 1.3B")).to_have_attribute("aria-selected", "true")
    expect(field(page, "Prompt")).to_have_value("clip 1")
    page.get_by_label("Prompt to show in the form").click()
    page.get_by_role("option", name="2. clip 2").click()
    expect(field(page, "Prompt")).to_have_value("clip 2")
    expect(field(page, "Seed")).to_have_value("402")
    page.get_by_role("button", name="Run all 2 prompts as one job").click()
    expect(now(page)).to_contain_text("Done")
    expect(now(page)).to_contain_text("2 videos")
    expect(page.locator("#result video")).to_have_count(2)
    expect(used(page, "Seed")).to_have_text(["401", "402"])


def test_the_settings_of_a_result_come_back_with_the_seed_that_was_drawn(page: Page, app: App):
    open_page(page, app)
    small(page, "drawn", -1)
    generate(page)
    expect(page.locator("#result")).to_contain_text("drawn")
    expect(used(page, "Seed")).to_have_text(re.compile(r"\d+"))
    seed = used(page, "Seed").inner_text()
    fill(page, Prompt="something else")
    page.get_by_role("button", name="Use settings", exact=True).click()
    expect(field(page, "Prompt")).to_have_value("drawn")
    expect(field(page, "Seed")).to_have_value(seed)


def test_a_speedup_is_chosen_named_and_kept_and_does_not_go_with_a_preview(page: Page, app: App):
    def choose(name: str) -> None:
        open_more(page)
        page.get_by_role("radio", name=name, exact=True).locator("visible=true").check()

    def open_request() -> None:
        open_more(page)
        expect(page.get_by_role("radio", name="Step cache").locator("visible=true")).to_have_count(1)

    open_page(page, app)
    small(page, "in a hurry", 611)
    open_request()
    expect(form(page)).to_contain_text("half the memory for the transformers' weights")
    choose("Step cache")
    generate(page)
    expect(used(page, "Speed-up")).to_have_text("Step cache")
    wait_for_draft(page, speedup="step_cache")
    page.reload()
    filled(page)
    expect(field(page, "Prompt")).to_have_value("in a hurry")
    fill(page, Seed="612")
    generate(page)
    expect(used(page, "Seed")).to_have_text("612")
    expect(used(page, "Speed-up")).to_have_text("Step cache")
    recipe(page, "Match training samples").check()
    generate(page)
    expect(problem(page)).to_contain_text("Speed-up: step_cache cannot be combined with the recipe preview")
    open_request()
    expect(page.get_by_role("radio", name="Step cache").locator("visible=true")).to_be_checked()
    choose("None")
    fill(page, Seed="613")
    generate(page)
    expect(used(page, "Seed")).to_have_text("613")
    expect(used(page, "Speed-up")).to_have_count(0)


def test_wrong_input_shows_its_message_and_loses_nothing(page: Page, app: App):
    open_page(page, app)
    wrong: tuple[tuple[str, dict[str, str], str], ...] = (
        ("Wan 2.2 TI2V 5B", {"Width": "20", "Steps": "500"}, "Steps must be between 1 and 150."),
        ("Wan 2.1 T2V 1.3B", {"Width": ""}, "Width is empty: enter a number."),
        ("Wan 2.2 T2V A14B", {"Seed": "1.5"}, "Seed must be a whole number."),
        ("Wan 2.1 I2V 14B 720P", {}, "needs a first frame"),
    )
    usual = {"Width": "64", "Steps": "4", "Seed": "5"}
    for model, values, message in wrong:
        choose_model(page, model)
        fill(page, **{"Prompt": "kept", **usual, **values})
        generate(page)
        expect(page.locator("#form .at-field", has_text=message)).to_be_visible()
        expect(field(page, "Prompt")).to_have_value("kept")
    choose_model(page, "Wan 2.1 T2V 14B")
    type_lora(page, "nowhere.safetensors")
    expect(lora(page, "nowhere.safetensors")).to_contain_text("There is no LoRA")
    generate(page)
    expect(page.locator("#lora-problem .problem")).to_contain_text("nowhere.safetensors")


def test_files_that_are_not_what_they_should_be(page: Page, app: App, tmp_path: Path):
    open_page(page, app)
    panel = form(page)
    (tmp_path / "no.png").write_text("no image")
    give_file(page, "First frame", tmp_path / "no.png")
    expect(panel).to_contain_text("Cannot read the first frame")
    generate(page)
    expect(page.locator("#wrong-ctrl_img")).to_contain_text("Cannot read the first frame")
    (tmp_path / "no.safetensors").write_text("no LoRA")
    upload_lora(page, tmp_path / "no.safetensors")
    expect(page.locator("#lora-problem .problem")).to_contain_text("it is empty or its download is incomplete")
    for text, message in (
        ("", "Paste a request first"),
        ("{", "This is not JSON"),
        ('{"model": "x", "prompts": [{"prompt": "a"}]}', "There is no model 'x'"),
        ('{"model": "wan22_5b", "prompts": [{"prompt": "a", "cfg": 3}]}', "prompts.0.cfg"),
    ):
        paste(page, text)
        expect(page.locator("#json .problem")).to_contain_text(message)


def test_a_failed_job_says_what_happened_and_what_to_do(page: Page, app: App, held_render: FakeRender):
    held_render.errors[501] = OutOfMemory("The GPU has not enough memory. Try a smaller size.")
    open_page(page, app)
    small(page, "too big", 501)
    generate(page)
    expect(now(page).locator(".chip")).to_have_text("Failed")
    expect(now(page)).to_contain_text("Try a smaller size.")
    page.reload()
    filled(page)
    expect(now(page)).to_contain_text("Try a smaller size.")
    small(page, "fits", 502)
    generate(page)
    expect(now(page)).to_contain_text("Done")


def test_a_poll_leaves_a_playing_video_alone(page: Page, app: App):
    open_page(page, app)
    small(page, "looped", 601)
    generate(page)
    expect(used(page, "Seed")).to_have_text("601")
    page.locator("#result video").evaluate("video => { video.dataset.mark = 'same'; }")
    for seed in (602, 603):
        app.service.submit(body(seed), LOCAL_ACCESS)  # another's, which the page's lists show
        expect(page.locator(".jobs button.show").filter(has_text=f"clip {seed}")).to_contain_text("Done")
    assert page.locator("#result video").get_attribute("data-mark") == "same"


def test_no_sideways_scrolling_on_a_phone_and_the_scheme_of_the_system(page: Page, app: App):
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme="dark")
    open_page(page, app)
    assert page.locator("body").evaluate("body => body.classList.contains('dark')")
    for model in MODELS.values():
        choose_model(page, model.label)
        widths = page.evaluate(
            """() => [document.documentElement.scrollWidth,
                ...[...document.querySelectorAll('#workspace *')]
                    .filter((e) => e.offsetParent && !e.closest('.jobs, .chips, #result .acts, svg'))
                    .map((e) => Math.ceil(e.getBoundingClientRect().right))]"""
        )
        assert max(widths) <= 390


def test_the_page_says_that_the_server_is_gone_and_goes_on_when_it_is_back(refused_page: Page, tmp_path: Path):
    page = refused_page
    with running(tmp_path, FakeRender()) as app:
        open_page(page, app)
        fill(page, Prompt="kept over a restart")
        wait_for_draft(page, prompt="kept over a restart")
        port = int(app.url.rstrip("/").rsplit(":", 1)[1])
    expect(page.locator("#server-gone")).to_contain_text("The server does not answer")
    with running(tmp_path, FakeRender(), port=port):
        expect(page.locator("#server-gone")).to_have_count(1)
        expect(page.locator("#server-gone")).to_be_hidden()
        expect(field(page, "Prompt")).to_have_value("kept over a restart")


def test_the_header_leads_to_the_prompt_and_keeps_light_or_dark(page: Page, app: App):
    open_page(page, app)
    page.get_by_role("link", name="Skip to prompt").focus()
    page.keyboard.press("Enter")
    expect(field(page, "Prompt")).to_be_focused()
    before = page.locator("body").evaluate("body => body.classList.contains('dark')")
    page.get_by_role("button", name="Light or dark").click()
    page.reload()
    filled(page)
    assert page.locator("body").evaluate("body => body.classList.contains('dark')") is not before
    page.get_by_role("button", name="Keyboard shortcuts").click()
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_contain_text("Generate")
