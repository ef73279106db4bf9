"""Beside the form's fields and the result: the fast look, errors at their fields, a clip's buttons, and tools."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.fakes import FakeRender
from tests.ui.fake_app import App, running
from tests.ui.held_requests import UPLOADS, HeldRequest
from tests.ui.lora_fixtures import configs, write_loras
from tests.ui.lora_fixtures import lora as write_lora
from tests.ui.page_object import (
    FRAMES,
    answered,
    choose_model,
    field,
    fill,
    generate,
    lora,
    now,
    open_more,
    open_page,
    open_tab,
    problem,
    small,
    type_lora,
    used,
    waits_with,
)
from wan_ui.access import LOCAL_ACCESS
from wan_ui.models import MODELS
from wan_ui.speed_loras import SPEED_LORAS
from wan_ui.ui.form_layout import negative_prompt

pytestmark = pytest.mark.browser

FAST = SPEED_LORAS["fastwan_22_5b"]
FAST_FILE = FAST.files["single"].hub.rpartition("/")[2]


@pytest.fixture(scope="module")
def tools_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("tools")
    write_loras(folder / "loras")
    write_lora(folder / "loras" / "fast" / FAST_FILE, 48, 9)
    with running(folder, FakeRender(), configs=configs) as app:
        yield app


def first_frame(page: Page) -> Locator:
    return page.locator("#field-ctrl-img .image-frame img")


def act(page: Page, name: str) -> Locator:
    return page.locator("#result .acts").get_by_role("button", name=name, exact=True)


def done(page: Page, seed: int) -> None:
    expect(used(page, "Seed")).to_have_text(str(seed))


def jobs(app: App) -> int:
    return len(app.service.recent(1000, LOCAL_ACCESS))


def newest(app: App) -> dict:
    job = app.service.recent(1, LOCAL_ACCESS)[0]
    return dict(job.request)


def test_a_fast_look_sets_its_settings_and_is_rendered_in_full_by_one_press(page: Page, tools_app: App):
    open_page(page, tools_app)
    small(page, "fast", 71)
    chip = page.get_by_role("button", name="Fast look (3 steps)")
    chip.click()
    about = page.locator(".speed-about")
    expect(about).to_contain_text("3 steps · guidance 1 · lcm · shift 3")
    expect(about).to_contain_text(f"On this server: {FAST_FILE}")
    expect(field(page, "Steps")).to_have_value("3")
    expect(field(page, "Guidance scale")).to_have_value("1")
    generate(page)
    done(page, 71)
    expect(used(page, "Fast look")).to_have_text(FAST.label)
    made = newest(tools_app)
    assert made["speed_lora"] == FAST.id and "sample_steps" not in made["prompts"][0]
    act(page, "Render in full").click()
    expect(page.locator("#toast")).to_have_text("Added to the queue: the same request in full.")
    expect(used(page, "Fast look")).to_have_count(0)
    full = newest(tools_app)
    assert "speed_lora" not in full and (full["prompts"][0]["sample_steps"], full["prompts"][0]["seed"]) == (4, 71)
    chip.click()
    expect(about).to_be_hidden()
    expect(field(page, "Steps")).to_have_value("4")
    chip.click()
    expect(about).to_be_visible()
    choose_model(page, "Wan 2.2 T2V A14B")  # which has others
    expect(page.get_by_role("button", name="Fast look (4 steps)")).to_have_attribute("aria-pressed", "false")
    expect(field(page, "Steps")).to_have_value("4")
    page.get_by_role("button", name="Fast look (4 steps)").click()
    expect(page.get_by_label("Speed LoRA").locator("option")).to_have_count(2)
    expect(about.locator(".missing")).to_contain_text("wan2.2_t2v_lightx2v_4steps")


def test_errors_stand_at_their_fields_until_they_change(page: Page, tools_app: App):
    open_page(page, tools_app)
    small(page, "wrong", 72)
    fill(page, Steps="500", Seed="1.5")
    generate(page)
    expect(page.locator("#wrong-sample_steps")).to_have_text("Steps must be between 1 and 150.")
    expect(page.locator("#wrong-seed")).to_have_text("Seed must be a whole number.")
    expect(field(page, "Seed")).to_be_focused()
    expect(field(page, "Seed")).to_be_in_viewport()
    expect(field(page, "Seed")).to_have_attribute("aria-describedby", "wrong-seed")
    expect(field(page, "Steps")).to_have_attribute("aria-invalid", "true")
    expect(problem(page)).to_contain_text("Please change the marked fields")
    answered(page)
    fill(page, Seed="72")
    expect(page.locator("#wrong-seed")).to_have_count(0)
    generate(page)
    expect(field(page, "Steps")).to_be_focused()
    answered(page)
    fill(page, Steps="4")
    expect(problem(page)).to_be_hidden()
    choose_model(page, "Wan 2.2 I2V A14B")
    generate(page)
    expect(page.locator("#form #wrong-ctrl_img")).to_contain_text("needs a first frame")
    choose_model(page, "Wan 2.2 T2V A14B")
    fill(page, **{"High-noise steps": "9"})  # in a fold
    page.locator("#more > button.label-wrap").click()
    generate(page)
    expect(page.locator("#wrong-switch_step")).to_contain_text("must be at most")
    expect(page.locator("#wrong-switch_step")).to_be_visible()
    answered(page)
    in_size_note = page.locator('#form .size [data-wrong="width"]')
    fill(page, **{"High-noise steps": "2", "Width": "20"})
    expect(in_size_note).to_be_visible()
    generate(page)
    expect(page.locator("#wrong-width")).to_be_visible()
    expect(in_size_note).to_be_hidden()


def test_an_answer_is_looked_at_once(page: Page, tools_app: App):
    open_page(page, tools_app)
    small(page, "looked at", 79)
    fill(page, Steps="500")
    page.evaluate(
        """() => {
            window.placed = 0;
            new MutationObserver((changes) => {
                const added = changes.flatMap((change) => [...change.addedNodes]);
                window.placed += added.filter((node) => node.matches && node.matches('.at-field')).length;
            }).observe(document.getElementById('form'), { childList: true, subtree: true });
        }"""
    )
    for presses in (1, 2):  # the second one is answered with the same message
        generate(page)
        answered(page)
        page.wait_for_function("presses => window.placed >= presses", arg=presses)
        page.evaluate(FRAMES, 6)
        expect(field(page, "Steps")).to_be_focused()
        assert page.evaluate("() => window.placed") == presses
        field(page, "Prompt").focus()


def test_an_error_about_a_lora_is_in_the_lora_block(page: Page, tools_app: App):
    open_page(page, tools_app)
    small(page, "twice", 73)
    page.get_by_role("button", name="Fast look (3 steps)").click()
    expect(page.locator(".speed-about")).to_be_visible()
    type_lora(page, f"fast/{FAST_FILE}")
    expect(lora(page, FAST_FILE)).to_be_visible()
    generate(page)
    expect(page.locator("#lora-problem .problem")).to_contain_text("is the file of the speed LoRA")
    expect(problem(page)).to_have_count(0)


def test_a_clip_is_continued_and_joined_with_the_part_before(page: Page, tools_app: App):
    open_page(page, tools_app)
    small(page, "first part", 74)
    generate(page)
    done(page, 74)
    act(page, "Continue").click()
    expect(first_frame(page)).to_be_visible()
    expect(field(page, "Prompt")).to_have_value("first part")
    expect(field(page, "Seed")).not_to_have_value("74")
    fill(page, Seed="75")
    generate(page)
    done(page, 75)
    link = page.get_by_role("link", name="Join with the part before")
    joined = page.request.get(f"{tools_app.url}{link.get_attribute('href')}")
    assert joined.ok and joined.headers["content-type"] == "video/mp4"
    workflow = page.get_by_role("link", name="ComfyUI workflow").get_attribute("href")
    assert page.request.get(f"{tools_app.url}{workflow}").ok
    act(page, "API").click()
    code = page.locator("#code pre")
    expect(code).to_contain_text(f"curl -s '{tools_app.url}v1/inference'")
    sent = json.loads(code.inner_text().split("<<'JSON'\n")[1].split("\nJSON\n")[0])
    assert sent["prompts"][0]["seed"] == 75
    page.locator("#code").get_by_role("button", name="Python").click()
    expect(code).to_contain_text("import ")
    expect(code).to_contain_text('"seed": 75,')
    compile(code.inner_text(), "code", "exec")


def test_the_last_frame_of_a_result_and_the_strengths_of_its_lora(page: Page, tools_app: App):
    open_page(page, tools_app)
    small(page, "striped", 76)
    type_lora(page, "small.safetensors")
    expect(lora(page, "small.safetensors")).to_be_visible()
    generate(page)
    done(page, 76)
    act(page, "Use last frame").click()
    expect(first_frame(page)).to_be_visible()
    expect(page.locator("#toast")).to_have_text("The last frame is the first frame now.")
    act(page, "Compare strengths").click()
    expect(page.get_by_role("tab", name="Compare", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page.locator("#player .cell")).to_have_count(4)


def test_seed_recent_prompts_negative_prompt_and_seconds(page: Page, tools_app: App):
    open_page(page, tools_app)
    small(page, "a prompt to come back", 77)
    generate(page)
    done(page, 77)
    page.get_by_role("button", name="Random seed (−1)").click()
    expect(field(page, "Seed")).to_have_value("-1")
    page.get_by_role("button", name="Reuse the seed of the result").click()
    expect(field(page, "Seed")).to_have_value("77")
    fill(page, Prompt="another")
    page.get_by_role("button", name="Recent prompts").click()
    page.locator("#recent-prompts").get_by_role("button", name="a prompt to come back").click()
    expect(field(page, "Prompt")).to_have_value("a prompt to come back")
    open_more(page)
    page.get_by_role("button", name="Insert Wan's default").click()
    expect(field(page, "Negative prompt")).to_have_value(negative_prompt(MODELS["wan22_5b"]))
    seconds = page.get_by_label("Length in seconds")
    fill(page, FPS="16", Frames="81")
    expect(seconds).to_have_value("5.1")
    seconds.fill("2.6")
    expect(field(page, "Frames")).to_have_value("41")
    expect(page.locator(".effective")).to_contain_text("41 frames")


def sent_image(page: Page, app: App, seed: int) -> Image.Image:
    fill(page, Seed=str(seed))
    generate(page)
    done(page, seed)
    reference = newest(app)["prompts"][0]["ctrl_img"].removeprefix("upload://")
    return Image.open(io.BytesIO(app.service.images.data(reference, LOCAL_ACCESS)))


def test_the_first_frame_is_cropped_fitted_and_stretched_in_the_browser(page: Page, tools_app: App, wide_image: Path):
    open_page(page, tools_app)
    small(page, "shaped", 78)
    page.locator("#field-ctrl-img input[type=file]").set_input_files(wide_image)
    fit = page.get_by_role("group", name="Fit the first frame to the size")
    expect(fit.get_by_role("button", name="Stretch")).to_have_attribute("aria-pressed", "true")
    remarks = page.locator("#form .first-frame .remarks.block")
    expect(remarks).to_contain_text("160 × 60")
    fit.get_by_role("button", name="Crop").click()
    expect(fit.get_by_role("button", name="Crop")).to_have_attribute("aria-pressed", "true")
    assert sent_image(page, tools_app, 79).size == (60, 60)  # the press waits for the picture
    expect(remarks).to_contain_text("Image: 60 × 60")
    fill(page, Width="128")  # the crop follows the size, and a press waits for it
    assert sent_image(page, tools_app, 85).size == (120, 60)
    fit.get_by_role("button", name="Fit").click()
    expect(remarks).to_contain_text("160 × 80")
    fitted = sent_image(page, tools_app, 80)
    assert fitted.size == (160, 80) and fitted.convert("RGB").getpixel((80, 5)) == (0, 0, 0)
    fit.get_by_role("button", name="Stretch").click()
    expect(remarks).to_contain_text("160 × 60")
    assert sent_image(page, tools_app, 81).tobytes() == Image.open(wide_image).tobytes()


def test_generate_waits_for_a_picture_on_its_way(page: Page, tools_app: App, wide_image: Path):
    open_page(page, tools_app)
    small(page, "waits", 83)
    upload = HeldRequest(page, "", UPLOADS)
    page.locator("#field-ctrl-img input[type=file]").set_input_files(wide_image)
    button = waits_with(page, "Waiting for the picture…")
    button.click()  # pressed twice, submitted once
    upload.await_request()
    before = jobs(tools_app)
    upload.let_go()
    done(page, 83)
    assert newest(tools_app)["prompts"][0]["ctrl_img"].startswith("upload://")
    assert jobs(tools_app) == before + 1


def test_a_picture_that_cannot_be_uploaded_ends_the_press(refused_page: Page, tools_app: App, wide_image: Path):
    page = refused_page
    open_page(page, tools_app)
    small(page, "refused", 84)
    upload = HeldRequest(page, "", UPLOADS)
    page.locator("#field-ctrl-img input[type=file]").set_input_files(wide_image)
    button = waits_with(page, "Waiting for the picture…")
    before = jobs(tools_app)
    upload.refuse()
    expect(button).not_to_have_attribute("aria-busy", "true")
    expect(page.locator("#toast > span")).not_to_be_empty()
    assert jobs(tools_app) == before


PASTE = """async () => {
  const canvas = new OffscreenCanvas(96, 64);
  canvas.getContext('2d').fillRect(0, 0, 96, 64);
  const data = new DataTransfer();
  data.items.add(new File([await canvas.convertToBlob()], 'pasted.png', {type: 'image/png'}));
  document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true, cancelable: true}));
}"""


def test_a_pasted_picture_and_a_dragged_result_become_the_first_frame(page: Page, tools_app: App):
    open_page(page, tools_app)
    page.evaluate(PASTE)
    remarks = page.locator("#form .first-frame .remarks.block")
    expect(remarks).to_contain_text("96 × 64")
    small(page, "dragged", 82)
    fill(page, Width="128")
    generate(page)
    done(page, 82)
    expect(remarks).to_contain_text("Image: 96 × 64, resized to 128 × 64")
    page.wait_for_function("document.querySelector('#result video').readyState >= 2")  # there is a frame to be dragged
    page.locator("#result video").drag_to(page.locator("#field-ctrl-img"))
    expect(remarks).to_contain_text("Image: 128 × 64")
    choose_model(page, "Wan 2.1 T2V 1.3B")
    page.evaluate(PASTE)
    expect(page.locator("#toast")).to_contain_text("takes no first frame")
    open_tab(page, "Gallery")
    expect(now(page)).to_be_hidden()
