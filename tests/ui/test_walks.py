"""Three people from beginning to end: a newcomer with a LoRA file, a power user with a grid, a guest on a phone."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser_fixture import heard, new_context
from tests.fakes import FakeRender
from tests.lora_files import write_lora
from tests.ui.fake_app import App, running
from tests.ui.page_object import field, form, generate, lora, now, open_page, small, tab, upload_lora
from tests.ui.test_autoplay import PLAYING, PROMPT
from tests.ui.test_compare_tab import axis, cells, compare_tab, start
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.web.login import Login

pytestmark = pytest.mark.browser
MODEL = "Wan 2.1 T2V 1.3B"
VOTES = 6
CLIPS = 8


def test_a_newcomer_drops_a_lora_compares_four_scales_and_picks_one(page: Page, app: App, tmp_path: Path) -> None:
    file = write_lora(tmp_path / "mine.safetensors", width=1536, ffn=8960, blocks=1, rank=1, seed=9)
    open_page(page, app)
    upload_lora(page, file)
    expect(tab(page, MODEL)).to_have_attribute("aria-selected", "true")  # which the file chose
    expect(lora(page, "mine.safetensors")).to_be_visible()
    page.wait_for_function("() => !window.wanUi.isFilling('#form')")
    small(page, "a newcomer's video", 1861)
    generate(page)
    expect(now(page)).to_contain_text("Done")
    page.wait_for_function(PLAYING, arg="#result video")

    form(page).get_by_role("button", name="Compare strengths").click()
    expect(field(page, "Strengths to compare")).to_have_value("0, 0.5, 1, 1.5")
    form(page).get_by_role("button", name="Compare", exact=True).click()
    expect(cells(page, "done")).to_have_count(4)
    player = page.locator("#player")
    expect(page.locator(".board-line")).to_contain_text("Done")  # which moves the grid a last time
    player.get_by_role("button", name="Enlarge scale 0.5").focus()
    page.keyboard.press("s")
    expect(player.locator(".best")).to_contain_text("scale 0.5")
    player.locator("td[data-mark=favourite] figcaption").hover()
    player.locator("[data-part=pop]").get_by_role("button", name=re.compile("Use settings")).click()
    expect(tab(page, "Generate")).to_have_attribute("aria-selected", "true")
    expect(lora(page, "mine.safetensors").get_by_role("spinbutton")).to_have_value("0.5")


def test_a_power_user_votes_takes_the_zip_and_the_winners_settings(page: Page, app: App, tmp_path: Path) -> None:
    page.emulate_media(reduced_motion="reduce")
    open_page(page, app)
    upload_lora(page, write_lora(tmp_path / "tested.safetensors", width=1536, ffn=8960, blocks=1, rank=1, seed=10))
    expect(lora(page, "tested.safetensors")).to_be_visible()
    page.wait_for_function("() => !window.wanUi.isFilling('#form')")
    small(page, "a power user's grid", 1862)
    compare_tab(page)
    axis(page, "Columns", "LoRA scale", "0.5..1.5 step 0.5")
    axis(page, "Rows", "Seed", "1863, 1864")
    start(page)
    expect(cells(page, "done")).to_have_count(CLIPS)  # two seeds: without the LoRA and at three scales
    expect(page.locator(".board-line")).to_contain_text("Done")
    player = page.locator("#player")
    with page.expect_download() as download:
        player.get_by_role("link", name="Download all (ZIP)").click()
    names = zipfile.ZipFile(io.BytesIO(download.value.path().read_bytes())).namelist()
    assert len([name for name in names if name.endswith(".mp4")]) == CLIPS

    player.get_by_role("button", name="Blind A/B").click()
    duel = page.get_by_role("dialog", name="Blind A/B")
    expect(duel.get_by_role("status")).to_have_text(re.compile(r"^Pair 1 of \d+$"))
    pairs = int(duel.get_by_role("status").inner_text().rpartition(" ")[2])
    assert pairs == 2 * 6  # of the four cells of each seed
    for number in range(1, VOTES + 1):
        expect(duel.get_by_role("status")).to_have_text(f"Pair {number} of {pairs}")
        # One is preferred once and all others are even: so one is the best, whatever the sides.
        duel.get_by_role("button", name="A is better" if number == 1 else "No difference").click()
    expect(duel.get_by_role("status")).to_have_text(f"Pair {VOTES + 1} of {pairs}")
    duel.get_by_role("button", name="Leave").click()
    expect(player.locator("[data-part=verdict]")).to_contain_text("wins")
    player.locator("[data-part=winner]").click()
    expect(tab(page, "Generate")).to_have_attribute("aria-selected", "true")
    expect(field(page, "Seed")).to_have_value(re.compile("186[34]"))


def test_a_guest_opens_the_link_on_a_phone_signs_in_and_makes_a_video(browser: Browser, tmp_path: Path) -> None:
    login = Login("guests", "the password")
    with running(tmp_path, FakeRender(), login=login) as app:
        job = app.service.submit({"model": "wan21_1b", "prompts": [PROMPT]}, LOCAL_ACCESS)
        wait_until(lambda: app.service.job(job.id, LOCAL_ACCESS).status == "succeeded")
        _, token = app.service.shares.create(f"{job.id}-0", 7, LOCAL_ACCESS)
        context = new_context(browser, viewport={"width": 390, "height": 844}, has_touch=True)
        page = context.new_page()
        errors = heard(page)
        page.goto(f"{app.url}shared/{token}")
        page.wait_for_function(PLAYING, arg="#player video")
        page.get_by_role("link", name="Make your own").locator("visible=true").click()
        page.get_by_label("Name").fill(login.user)
        page.get_by_label("Password").fill(login.password)
        page.get_by_role("button", name="Sign in").click()
        expect(field(page, "Width")).to_be_visible()
        expect(page.locator(".effective").locator("visible=true")).to_have_count(1)
        small(page, "a guest's video", 1865)
        generate(page)
        expect(now(page)).to_contain_text("Done")
        expect(page.locator("#result video")).to_have_count(1)
        page.locator("#machine").click()
        panel = page.locator("#machine-panel")
        expect(panel.locator("[data-part=model]")).to_have_text(re.compile("Wan 2"))
        expect(panel.locator("[data-part=memory]")).to_be_hidden()  # which only the owner sees
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        # What a browser says of the sign-in page's own answer.
        assert [text for text in errors if "401" not in text] == []
        context.close()
