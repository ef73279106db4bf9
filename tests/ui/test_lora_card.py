"""The LoRA card: its HTML, and in a real browser what choosing a file says, fills in and opens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser_fixture import listening, new_context
from tests.fakes import FakeRender
from tests.lora.writers import FORMATS, Width
from tests.ui.fake_app import App, running
from tests.ui.held_requests import held
from tests.ui.kept_values import wait_for_draft
from tests.ui.lora_fixtures import EVIL, LARGE, configs, write_loras
from tests.ui.lora_fixtures import lora as write_lora
from tests.ui.page_object import (
    choose_lora,
    choose_model,
    field,
    fill,
    filled,
    generate,
    lora,
    lora_block,
    now,
    open_page,
    problem,
    small,
    tab,
    type_lora,
    upload_lora,
    used,
)
from tests.ui.test_render import job
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.engine.result import Progress
from wan_ui.models import MODELS, WanModel
from wan_ui.request import parse
from wan_ui.ui import form_schema, job_lists, lora_card, lora_strength, render
from wan_ui.ui.texts import text_of

T2V, SMALL, TINY = MODELS["wan22_14b_t2v"], MODELS["wan22_5b"], MODELS["wan21_1b"]


@pytest.fixture(scope="module")
def lora_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("cards")
    write_loras(folder / "loras")
    with running(folder, FakeRender(), configs=configs) as app:
        yield app


@pytest.mark.browser
def test_the_picker_shows_a_video_of_each_lora_and_asks_for_none_before_it_opens(page: Page, lora_app: App) -> None:
    request = {
        "model": SMALL.id,
        "prompts": [{"prompt": "a cat", "width": 64, "height": 64, "num_frames": 5, "sample_steps": 2, "seed": 5}],
        "loras": [{"path": "small.safetensors"}],
    }
    made = lora_app.service.submit(request, LOCAL_ACCESS)
    wait_until(lambda: lora_app.service.job(made.id, LOCAL_ACCESS).status == "succeeded")
    asked: list[str] = []
    with listening(page, "request", lambda request: asked.append(request.url.removeprefix(lora_app.url))):
        open_page(page, lora_app)
    assert [path for path in asked if path.startswith(("v1/gallery?", "v1/loras"))] == []
    lora_block(page).get_by_role("button", name="Browse").locator("visible=true").first.click()
    picture = page.locator(f"img[src='v1/gallery/{made.id}-0/poster.jpg'][loading=lazy]")
    group = page.locator(".picker .job").filter(has=picture)
    expect(group).to_contain_text("small")
    assert group.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    expect(page.locator(".picker .thumb img")).to_have_count(1)


def shown(app: App, model: WanModel, slot: str, source: str) -> str:
    return lora_card.html(lora_card.look(app.service, model, slot, source, LOCAL_ACCESS), 0)


@pytest.mark.parametrize(
    ("model", "slot", "source", "state", "texts"),
    [
        (SMALL, "single", "small.safetensors", "good", ["Compatible", "Made for Wan 2.2 TI2V 5B", "rank 4"]),
        (SMALL, "single", "small.safetensors", "good", ["30 modules", "blocks 0–2", "ai-toolkit 0.12.26", "step 2000"]),
        (
            TINY,
            "single",
            "small.safetensors",
            "bad",
            ["Incompatible with this model", "hidden size of 48", "Switch to Wan 2.2 TI2V 5B"],
        ),
        (SMALL, "single", "any_14b.safetensors", "bad", [f"Switch to {T2V.label}", "Switch to Wan 2.1 T2V 14B"]),
        (T2V, "high", "any_14b.safetensors", "warn", ["Probably compatible", "Switch to Wan 2.1 T2V 14B"]),
        (T2V, "high", "cat_high_noise.safetensors", "warn", ["swapped names cannot be detected"]),
        (T2V, "high", "cat_low_noise.safetensors", "warn", ["name says low noise", "Move to low noise"]),
        (T2V, "low", "both.safetensors", "warn", ["high and low noise in one file", "60 modules"]),
        (SMALL, "single", "page.safetensors", "bad", ["Cannot be used", "HTML page"]),
        (SMALL, "single", "gone.safetensors", "bad", ["Cannot be used", "There is no LoRA"]),
        (SMALL, "single", "https://example.org/a.safetensors?key=secret", "plain", ["Not checked yet"]),
        (SMALL, "single", "hf://only-one-part", "bad", ["hf://org/name/path"]),
    ],
)
def test_the_card_says_what_a_file_is_and_whether_it_fits(lora_app: App, model, slot, source, state, texts):
    html = shown(lora_app, model, slot, source)
    assert f'class="lora-card {state}"' in html
    for text in texts:
        assert text in html
    assert "secret" not in html


def test_the_card_escapes_what_a_file_says(lora_app: App):
    html = shown(lora_app, SMALL, "single", "evil.safetensors")
    assert "<img" not in html and html.count("&lt;img") == 3  # trainer, its version, trigger word


def test_no_file_has_no_card(lora_app: App):
    assert shown(lora_app, SMALL, "single", "") == ""


def pair(app: App, high: str, low: str) -> str:
    sources = {"high": high, "low": low}
    cards = {slot: lora_card.look(app.service, T2V, slot, source, LOCAL_ACCESS) for slot, source in sources.items()}
    return lora_card.pair(app.service, T2V, sources, cards, LOCAL_ACCESS)


@pytest.mark.parametrize(
    ("high", "low", "said"),
    [
        ("", "", ""),
        ("cat_high_noise", "", "Only one of two LoRAs"),
        ("cat_high_noise", "cat_low_noise", ""),
        ("dog_high_noise", "cat_low_noise", "not from the same save"),
        ("cat_high_noise", "cat_high_noise", "The same file is chosen"),
        ("both", "", "holds both halves"),
        ("both", "both", "holds both halves"),
    ],
)
def test_what_is_said_of_a_pair(lora_app: App, high, low, said):
    html = pair(lora_app, *(f"{name}.safetensors" if name else "" for name in (high, low)))
    assert said in html if said else html == ""


def report(**changes: Any) -> dict[str, Any]:
    standard = {
        "modules_in_file": 300,
        "modules_in_use": 300,
        "dropped": [],
        "weight_change": {"median": 0.012, "max": 0.3},
        "first_step_change": 0.08,
        "files": [{"name": EVIL, "sha256": "0" * 64, "network_multiplier": 1.0}],
    }
    return {**standard, **changes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "300 of 300 modules, weights changed by 1.2 % (median), first prediction by 8 %."),
        ({"first_step_change": None}, "weights changed by 1.2 % (median)."),
        ({"first_step_change": 0.0}, 'class="dead"'),
        ({"modules_in_use": 299, "dropped": [{"module": "x", "why": EVIL}]}, "1 module left out"),
        ({"files": [{"name": "a", "sha256": "0", "network_multiplier": 0}]}, "not attached: its scale is 0"),
    ],
)
def test_the_effect_of_a_lora_in_one_line(changes, said):
    html = render.effect({"high": report(**changes)})
    assert "<b>High:</b>" in html and said in html and "<img" not in html


def test_a_clip_without_a_report_has_no_line():
    assert render.effect(None) == render.effect({}) == ""


def test_while_a_lora_is_fetched_the_card_and_the_queue_say_so():
    waiting = job(position=2)
    progress = Progress("downloading", bytes_done=40, bytes_total=100, note="downloading LoRA cat.safetensors, 40 %")
    for html in (render.now(waiting, progress, None), job_lists.queue([waiting], (), None, {waiting.id: progress})):
        assert "downloading LoRA cat.safetensors, 40 %" in html
    assert 'max="100" value="40"' in render.now(waiting, progress, None)


def test_a_stack_of_the_form_is_one_on_the_wire_and_comes_back():
    values = {control.name: control.default for control in form_schema.controls(T2V)}
    values |= {"lora_high": "a.safetensors", "lora_high_2": "b.safetensors", "scale_high_2": 0.5}
    body = form_schema.body(T2V, values)
    assert body["stack"] is True
    assert [(item["transformer"], item["path"]) for item in body["loras"]] == [
        ("high", "a.safetensors"),
        ("high", "b.safetensors"),
    ]
    assert form_schema.values(parse(body)) == (T2V, values)


# In the browser


@pytest.mark.browser
def test_a_chosen_file_chooses_its_model_and_says_so(page: Page, lora_app: App):
    open_page(page, lora_app, TINY.label)
    choose_lora(page, "small.safetensors")
    expect(tab(page, SMALL.label)).to_have_attribute("aria-selected", "true")
    expect(lora_block(page)).to_contain_text("Switched to Wan 2.2 TI2V 5B, which this LoRA was made for.")
    expect(lora(page, "small")).to_contain_text("Compatible")
    small(page, "the right model", 901)
    generate(page)
    expect(now(page)).to_contain_text("Done")
    expect(used(page, "Seed")).to_have_text("901")
    newest = lora_app.service.recent(1, LOCAL_ACCESS)[0]
    assert newest.request["model"] == "wan22_5b"
    assert [item["path"] for item in newest.request["loras"]] == ["small.safetensors"]


@pytest.mark.browser
def test_a_lora_that_another_model_cannot_take_is_set_aside_and_comes_back(page: Page, lora_app: App):
    open_page(page, lora_app)
    choose_lora(page, "small.safetensors")
    lora(page, "small").get_by_role("spinbutton").fill("0.4")
    choose_model(page, TINY.label)
    expect(page.locator("#loras .lcard")).to_have_count(0)
    expect(lora_block(page)).to_contain_text("Not for this model, kept for the others: small.safetensors")
    choose_model(page, SMALL.label)
    expect(lora(page, "small").get_by_role("spinbutton")).to_have_value("0.4")


@pytest.mark.browser
def test_what_is_typed_while_a_lora_is_read_stays(page: Page, lora_app: App):
    open_page(page, lora_app, TINY.label)
    with held(page, "small.safetensors"):
        lora_block(page).get_by_role("button", name="Browse").locator("visible=true").first.click()
        page.locator('#loras .picker .step[data-source="small.safetensors"]').click()
        fill(page, Prompt="typed meanwhile", Width="320")
    expect(tab(page, SMALL.label)).to_have_attribute("aria-selected", "true")
    expect(lora(page, "small")).to_contain_text("Compatible")
    page.wait_for_function("() => !window.wanUi.isFilling('#form')")
    expect(field(page, "Prompt")).to_have_value("typed meanwhile")
    expect(field(page, "Width")).to_have_value("320")
    wait_for_draft(page, prompt="typed meanwhile", width=320, lora_single="small.safetensors")


@pytest.mark.browser
def test_a_strength_that_is_set_before_an_answer_comes_stays_with_the_focus(page: Page, lora_app: App):
    open_page(page, lora_app)
    choose_lora(page, "small.safetensors")
    card = lora(page, "small")
    offer = card.get_by_role("button", name="Use trigger word")
    with held(page, '"do":"trigger"'):
        offer.click()
        card.get_by_role("spinbutton").fill("0.4")
    expect(offer).to_have_count(0)  # the answer is in
    expect(field(page, "Trigger word")).to_have_value("sks cat")
    expect(card.get_by_role("spinbutton")).to_have_value("0.4")
    expect(card.get_by_role("spinbutton")).to_be_focused()
    page.keyboard.type("5")
    wait_for_draft(page, trigger_word="sks cat", scale_single=0.45)


@pytest.mark.browser
def test_a_trigger_word_is_an_edit_like_others(page: Page, lora_app: App):
    open_page(page, lora_app)
    choose_lora(page, "small.safetensors")
    strength = lora(page, "small").get_by_role("spinbutton")
    offer = lora(page, "small").get_by_role("button", name="Use trigger word")
    wait_for_draft(page, lora_single="small.safetensors")
    with held(page, "a word"):
        field(page, "Trigger word").fill("a word")
        expect(offer).to_have_count(0)  # at once
        strength.fill("0.")
    wait_for_draft(page, trigger_word="a word", scale_single=0)
    strength.press_sequentially("6")  # goes on where it was
    wait_for_draft(page, trigger_word="a word", scale_single=0.6)
    with held(page, "0.45"):
        strength.fill("0.45")
        field(page, "Trigger word").fill("")
        expect(offer).to_be_visible()
    wait_for_draft(page, trigger_word="", scale_single=0.45)


@pytest.mark.browser
def test_a_strength_is_a_number_or_changes_over_the_steps(page: Page, lora_app: App):
    open_page(page, lora_app)
    choose_lora(page, "small.safetensors")
    card = lora(page, "small")
    strength, slider = card.get_by_role("spinbutton"), card.get_by_role("slider")
    page.get_by_role("button", name="Request as JSON").click()
    request = page.get_by_label("This form's request")
    for typed in ("-4", "4", "0.333"):
        strength.fill(typed)
        expect(request).to_have_value(re.compile(f'"network_multiplier": {re.escape(typed)}[.0]*\\n'))
    strength.fill("1")
    strength.press("ArrowUp")
    expect(strength).to_have_value("1.05")
    strength.fill("4.5")
    small(page, "too strong", 906)
    generate(page)
    wrong = card.locator(".at-field")
    expect(wrong).to_have_text(text_of("error.must_be", label=text_of("form.lora_scale"), bounds="between -4 and 4"))
    expect(strength).to_be_focused()
    expect(strength).to_have_attribute("aria-invalid", "true")
    strength.fill("1 and 0")
    expect(wrong).to_have_count(0)
    generate(page)
    expect(wrong).to_contain_text(lora_strength.WRONG)
    strength.fill("1, 0.5, 0")
    expect(card).to_contain_text(text_of("script.lora.over_steps"))
    expect(slider).to_be_hidden()
    expect(request).to_have_value(re.compile(r'"network_multiplier": \[\s*1.0,\s*0.5,\s*0.0\s*\]'))
    generate(page)
    expect(now(page)).to_contain_text("Done")
    expect(used(page, "Seed")).to_have_text("906")
    newest = lora_app.service.recent(1, LOCAL_ACCESS)[0]
    assert [item["network_multiplier"] for item in newest.request["loras"]] == [[1.0, 0.5, 0.0]]
    wait_for_draft(page, seed=906, scale_single="1, 0.5, 0")
    page.reload()  # its draft comes back
    filled(page)
    expect(lora(page, "small").get_by_role("spinbutton")).to_have_value("1, 0.5, 0")
    lora(page, "small").get_by_role("spinbutton").fill("1 to 0.2")
    page.get_by_role("button", name="Request as JSON").click()
    expect(page.get_by_label("This form's request")).to_have_value(re.compile(r'"from": 1.0,\s*"to": 0.2'))
    page.get_by_role("button", name=text_of("result.use_settings"), exact=True).click()
    expect(lora(page, "small").get_by_role("spinbutton")).to_have_value("1, 0.5, 0")


@pytest.mark.browser
def test_a_half_goes_to_its_side_of_the_model_that_is_chosen_for_it(page: Page, lora_app: App):
    open_page(page, lora_app)
    choose_lora(page, "cat_low_noise.safetensors")
    expect(tab(page, "Wan 2.2 I2V A14B")).to_have_attribute("aria-selected", "true")
    expect(lora(page, "cat_low_noise", "low")).to_have_count(1)
    expect(lora(page, "cat_high_noise", "high")).to_have_count(1)
    choose_model(page, T2V.label)
    expect(lora(page, "cat_low_noise", "low")).to_have_count(1)
    expect(lora(page, "cat_high_noise", "high")).to_have_count(1)


@pytest.mark.browser
def test_the_other_half_is_filled_in_and_what_was_chosen_is_never_replaced(page: Page, lora_app: App):
    open_page(page, lora_app, T2V.label)
    choose_lora(page, "cat_high_noise.safetensors")
    expect(lora(page, "cat_low_noise", "low")).to_have_count(1)
    expect(lora_block(page)).not_to_contain_text(text_of("lora_card.one_side"))
    choose_lora(page, "dog_high_noise.safetensors")
    expect(page.locator("#loras .lcard")).to_have_count(1)  # the other half came with the cat
    choose_lora(page, "cat_low_noise.safetensors")
    expect(lora_block(page)).to_contain_text("These two files are not from the same save")
    expect(lora(page, "dog_high_noise", "high")).to_have_count(1)
    lora(page, "cat_low_noise").get_by_role("button", name="Use it").click()
    expect(lora(page, "cat_high_noise", "high")).to_have_count(1)
    expect(lora(page, "dog_high_noise")).to_have_count(0)


@pytest.mark.browser
def test_a_half_on_the_wrong_side_is_moved_by_one_click(page: Page, lora_app: App):
    open_page(page, lora_app, T2V.label)
    choose_lora(page, "cat_high_noise.safetensors")
    expect(page.locator("#loras .lcard")).to_have_count(2)
    lora(page, "cat_low_noise").get_by_role("button", name="Remove LoRA").click()
    expect(page.locator("#loras .lcard")).to_have_count(1)
    sides = lora(page, "cat_high_noise").get_by_role("group", name="Side of cat_high_noise.safetensors")
    sides.get_by_role("button", name="Low noise").click()
    expect(lora(page, "cat_high_noise", "low")).to_contain_text("name says high noise")
    lora(page, "cat_high_noise").get_by_role("button", name="Move to high noise").click()
    expect(lora(page, "cat_high_noise", "high")).to_have_count(1)


@pytest.mark.browser
def test_a_combined_file_fills_both_sides(page: Page, lora_app: App):
    open_page(page, lora_app, T2V.label)
    choose_lora(page, "both.safetensors")
    expect(lora_block(page)).to_contain_text(text_of("lora_card.both_sides"))
    small(page, "both sides", 902)
    generate(page)
    expect(now(page)).to_contain_text("Done")
    expect(used(page, "Seed")).to_have_text("902")
    assert [use.slot for use in lora_app.service.recent(1, LOCAL_ACCESS)[0].generations[0].loras] == ["high", "low"]


@pytest.mark.browser
def test_hostile_metadata_is_text_and_the_trigger_word_is_filled_in_only_on_a_press(page: Page, lora_app: App):
    open_page(page, lora_app)
    choose_lora(page, "evil.safetensors")
    expect(lora(page, "evil")).to_contain_text(EVIL)
    expect(page.locator("#loras .items img")).to_have_count(0)
    expect(field(page, "Trigger word")).to_have_value("")
    lora(page, "evil").get_by_role("button", name="Use trigger word").click()
    expect(field(page, "Trigger word")).to_have_value(EVIL)
    expect(lora(page, "evil").get_by_role("button", name="Use trigger word")).to_have_count(0)
    choose_lora(page, "small.safetensors")
    expect(lora(page, "small")).to_contain_text("sks cat")
    expect(lora(page, "small").get_by_role("button", name="Use trigger word")).to_have_count(0)
    field(page, "Trigger word").fill("")
    lora(page, "small").get_by_role("button", name="Use trigger word").click()
    expect(field(page, "Trigger word")).to_have_value("sks cat")


@pytest.mark.browser
def test_an_upload_finds_its_other_half_among_this_browsers_uploads(
    page: Page, browser: Browser, lora_app: App, tmp_path: Path
):
    for side, seed in (("high", 21), ("low", 22)):
        write_lora(tmp_path / f"mine_{side}_noise.safetensors", LARGE, seed, ss_base_model_version="wan_2.2_14b")
    open_page(page, lora_app, T2V.label)
    upload_lora(page, tmp_path / "mine_high_noise.safetensors")
    expect(lora(page, "mine_high_noise.safetensors (uploaded)", "high")).to_contain_text("rank 4")
    expect(lora_block(page)).to_contain_text(text_of("lora_card.one_side"))
    stranger = new_context(browser)
    other = stranger.new_page()
    open_page(other, lora_app, T2V.label)
    upload_lora(other, tmp_path / "mine_low_noise.safetensors")
    expect(lora(other, "mine_low_noise", "low")).to_contain_text("rank 4")
    expect(other.locator("#loras .lcard")).to_have_count(1)
    stranger.close()
    upload_lora(page, tmp_path / "mine_low_noise.safetensors")
    expect(lora(page, "mine_low_noise.safetensors (uploaded)", "low")).to_have_count(1)
    expect(lora_block(page)).not_to_contain_text(text_of("lora_card.one_side"))


@pytest.mark.browser
def test_a_file_that_is_no_lora_and_an_address(page: Page, lora_app: App):
    open_page(page, lora_app)
    choose_lora(page, "page.safetensors")
    expect(lora(page, "page")).to_contain_text("Cannot be used")
    expect(lora(page, "page")).to_contain_text("This is an HTML page")
    type_lora(page, "hf://someone/wan-lora/style.safetensors")
    expect(lora(page, "style")).to_contain_text("Not checked yet")
    lora(page, "style").get_by_role("button", name="Download and check now").click()
    expect(page.locator("#lora-problem")).to_contain_text("This server downloads no LoRAs")
    expect(lora(page, "style").get_by_role("button", name="Download and check now")).to_be_enabled()


@pytest.mark.browser
def test_it_is_asked_once_before_a_lora_runs_on_a_model_it_was_not_made_for(page: Page, lora_app: App):
    open_page(page, lora_app, "Wan 2.1 T2V 14B")
    choose_lora(page, "any_14b.safetensors")
    choose_lora(page, "cat_high_noise.safetensors")
    expect(tab(page, "Wan 2.2 I2V A14B")).to_have_attribute("aria-selected", "true")  # the file chose its model
    choose_model(page, "Wan 2.1 T2V 14B")
    expect(lora(page, "cat_high_noise")).to_contain_text("Probably for another model")
    small(page, "on purpose", 904)
    generate(page)
    expect(problem(page)).to_contain_text("cat_high_noise.safetensors was made for")
    expect(problem(page).get_by_role("button", name="Switch to Wan 2.2 I2V A14B")).to_be_visible()
    problem(page).get_by_role("button", name="Run anyway").click()
    expect(used(page, "Seed")).to_have_text("904")
    expect(problem(page)).to_have_count(0)
    fill(page, Seed="905")
    generate(page)  # it is not asked again
    expect(used(page, "Seed")).to_have_text("905")
    page.reload()
    filled(page)
    generate(page)
    problem(page).get_by_role("button", name="Switch to Wan 2.2 I2V A14B").click()
    expect(tab(page, "Wan 2.2 I2V A14B")).to_have_attribute("aria-selected", "true")
    expect(problem(page)).to_have_count(0)
    assert lora_app.service.recent(1, LOCAL_ACCESS)[0].generations[0].seed == 905


@pytest.mark.browser
def test_a_second_lora_in_a_stack_of_its_own_scale(page: Page, lora_app: App):
    open_page(page, lora_app)
    choose_lora(page, "small.safetensors")
    expect(lora(page, "small")).to_contain_text("Compatible")
    choose_lora(page, "speed.safetensors", add=True)
    expect(lora(page, "speed")).to_contain_text("Compatible")
    lora(page, "speed").get_by_role("spinbutton").fill("0.5")
    small(page, "stacked", 903)
    generate(page)
    expect(now(page)).to_contain_text("Done")
    expect(used(page, "Seed")).to_have_text("903")
    newest = lora_app.service.recent(1, LOCAL_ACCESS)[0]
    assert newest.request["stack"] is True
    assert [(item["path"], item["network_multiplier"]) for item in newest.request["loras"]] == [
        ("small.safetensors", 1.0),
        ("speed.safetensors", 0.5),
    ]
    wait_for_draft(page, scale_single_2=0.5)
    page.reload()  # what was in the form is there again
    filled(page)
    expect(lora(page, "speed")).to_contain_text("Compatible")
    expect(lora(page, "speed").get_by_role("spinbutton")).to_have_value("0.5")


@pytest.mark.browser
def test_cards_on_a_phone(page: Page, lora_app: App):
    page.set_viewport_size({"width": 390, "height": 844})
    open_page(page, lora_app, T2V.label)
    choose_lora(page, "cat_high_noise.safetensors")
    expect(page.locator("#loras .lcard")).to_have_count(2)
    choose_lora(page, "any_14b.safetensors", add=True)
    expect(lora(page, "any_14b")).to_contain_text("Probably compatible")
    widths = page.evaluate(
        """() => [document.documentElement.scrollWidth, ...[...document.querySelectorAll('#workspace *')]
            .filter((e) => e.offsetParent && !e.closest('.jobs, svg, #size-chips .chips, #result .acts'))
            .map((e) => Math.ceil(e.getBoundingClientRect().right))]"""
    )
    assert max(widths) <= 390


@pytest.mark.parametrize(("image_only_blocks", "share", "state"), [(0, "83%", "warn"), (2, "45%", "bad")])
def test_u06_a_file_of_which_some_layers_exist_says_how_many(
    lora_app: App, image_only_blocks: int, share: str, state: str
) -> None:
    """Blocks of which only the image layers were trained leave fewer layers that Wan 2.2 has."""
    written = FORMATS["ai-toolkit"](Width(LARGE, 2, 2 * LARGE, 3, image=16))
    for block in range(image_only_blocks):
        dropped = [key for key in written.tensors if f".blocks.{block}." in key and "_img" not in key]
        written.tensors = {key: value for key, value in written.tensors.items() if key not in dropped}
    if image_only_blocks:
        dropped = [key for key in written.tensors if ".self_attn." in key or ".cross_attn.o." in key]
        written.tensors = {key: value for key, value in written.tensors.items() if key not in dropped}
    written.save(lora_app.service.library.lora_dir / "partly.safetensors")
    card = lora_card.look(lora_app.service, T2V, "high", "partly.safetensors", LOCAL_ACCESS)
    assert card is not None and (card.state, card.head) == (state, f"Applies in part: {share} of its layers")
