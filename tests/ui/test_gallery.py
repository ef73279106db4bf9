"""The Gallery tab in a real browser: search, play, favourite, delete, and reuse with the same LoRA files."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser_fixture import heard, new_context
from tests.fakes import FakeRender
from tests.lora_files import write_lora
from tests.ui.fake_app import App, running
from tests.ui.page_object import field, open_page
from tests.waiting import wait_until
from tests.web.strangers import running as whole_server
from wan_ui.access import LOCAL_ACCESS
from wan_ui.job import Job
from wan_ui.jobs.gallery import Filter

pytestmark = [pytest.mark.browser, pytest.mark.slow]
MODEL, LABEL = "wan21_1b", "Wan 2.1 T2V 1.3B"


def lora(path: Path, seed: int) -> Path:
    return write_lora(path, width=1536, ffn=8960, blocks=1, rank=1, seed=seed)


@pytest.fixture(scope="module")
def gallery_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with running(tmp_path_factory.mktemp("gallery"), FakeRender()) as app:
        yield app


@pytest.fixture
def here(gallery_app: App) -> App:
    """The server with an empty gallery and three LoRA files."""
    service = gallery_app.service
    while entries := service.entries(Filter(), LOCAL_ACCESS).entries:
        for entry in entries:
            service.delete_entry(entry.id, LOCAL_ACCESS)
    shutil.rmtree(loras(gallery_app))
    for seed, name in enumerate(("fox", "owl", "elk")):
        lora(loras(gallery_app) / f"{name}.safetensors", seed)
    return gallery_app


def loras(app: App) -> Path:
    return app.folder / "loras"


def made(app: App, *prompts: str, **fields: Any) -> Job:
    """A finished request of tiny videos."""
    items = [
        {"prompt": prompt, "width": 64, "height": 64, "num_frames": 5, "sample_steps": 2, "seed": 7}
        for prompt in prompts
    ]
    job = app.service.submit({"model": MODEL, "prompts": items, **fields}, LOCAL_ACCESS)
    wait_until(lambda: app.service.job(job.id, LOCAL_ACCESS).finished_at is not None)
    assert app.service.job(job.id, LOCAL_ACCESS).status == "succeeded"
    return app.service.job(job.id, LOCAL_ACCESS)


def choose(page: Page, name: str) -> None:
    """Opens a tab and waits until the browser has it in mind, for a reload."""
    before = page.evaluate("localStorage.getItem('wan-ui:tab')")
    page.get_by_role("tab", name=name, exact=True).click()
    expect(page.get_by_role("tab", name=name, exact=True)).to_have_attribute("aria-selected", "true")
    page.wait_for_function("(before) => localStorage.getItem('wan-ui:tab') !== before", arg=before)


def open_gallery(page: Page, app: App) -> Locator:
    page.emulate_media(reduced_motion="reduce")
    open_page(page, app)
    choose(page, "Gallery")
    gallery = page.locator("#gallery .gallery")
    expect(gallery).to_have_attribute("data-state", "filled")
    return gallery


def prompts(gallery: Locator) -> Locator:
    return gallery.locator(".entry .words")


def test_newest_first_searched_filtered_and_shown_anew(page: Page, here: App) -> None:
    made(here, "a red fox", loras=[{"path": "fox.safetensors"}])
    made(here, "an owl at night", "an owl at noon")
    gallery = open_gallery(page, here)
    expect(prompts(gallery)).to_have_text(["an owl at noon", "an owl at night", "a red fox"])
    search = gallery.get_by_role("searchbox")
    search.fill("NIGHT owl")
    expect(prompts(gallery)).to_have_text(["an owl at night"])
    search.fill("zebra")
    expect(gallery.get_by_text("No video matches")).to_be_visible()
    gallery.get_by_role("button", name="Show all").click()
    expect(prompts(gallery)).to_have_count(3)
    gallery.get_by_label("LoRA", exact=True).select_option(label="fox (1)")
    expect(prompts(gallery)).to_have_text(["a red fox"])
    gallery.get_by_label("LoRA", exact=True).select_option("")
    expect(prompts(gallery)).to_have_count(3)
    made(here, "the newest")
    choose(page, "Compare")
    expect(gallery).not_to_be_visible()
    choose(page, "Gallery")
    expect(prompts(gallery).first).to_have_text("the newest")
    page.reload()
    expect(page.get_by_role("tab", name="Gallery", exact=True)).to_have_attribute("aria-selected", "true")
    expect(prompts(gallery)).to_have_count(4)


def test_filtered_by_a_training_job_and_then_by_its_step(page: Page, here: App) -> None:
    """Defect 28: the checkpoints of a job are one choice, and each of them the next one."""
    for seed, name in ((11, "cat_000000250"), (12, "cat_000001500"), (13, "cat")):
        lora(loras(here) / f"{name}.safetensors", seed)
        made(here, f"made with {name}", loras=[{"path": f"{name}.safetensors"}])
    made(here, "a red fox", loras=[{"path": "fox.safetensors"}])
    gallery = open_gallery(page, here)
    files, steps = (gallery.get_by_label(label, exact=True) for label in ("LoRA", "Training step"))
    expect(steps).to_be_hidden()
    files.select_option(label="cat (3 checkpoints)")
    expect(prompts(gallery)).to_have_text(["made with cat", "made with cat_000001500", "made with cat_000000250"])
    expect(steps.locator("option")).to_have_text(["All steps", "step 250 (1)", "step 1500 (1)", "final (1)"])
    steps.select_option(label="step 1500 (1)")
    expect(prompts(gallery)).to_have_text(["made with cat_000001500"])
    files.select_option(label="fox (1)")
    expect(prompts(gallery)).to_have_text(["a red fox"])
    expect(steps).to_be_hidden()


def test_played_in_place_by_keyboard_with_all_its_settings(page: Page, here: App) -> None:
    job = made(here, "a red fox", "its twin", loras=[{"path": "fox.safetensors", "network_multiplier": 0.8}])
    gallery = open_gallery(page, here)
    still = gallery.get_by_role("button", name="Play: a red fox")
    still.focus()
    page.keyboard.press("Enter")
    opened = gallery.locator(".entry.open")
    video = opened.locator("video")
    expect(video).to_be_focused()
    expect(video).to_have_js_property("readyState", 4)
    for text in ("a red fox", LABEL, "64 × 64", "5 at 16 fps", "fox.safetensors × 0.8", "SHA-256"):
        expect(opened).to_contain_text(text)
    opened.get_by_text("All metadata").click()
    expect(opened.locator("pre")).to_contain_text('"seed": 7')
    with page.expect_download() as mp4:
        opened.get_by_role("link", name="Download", exact=True).click()
    assert mp4.value.path().read_bytes() == here.service.clip_path(job.id, 0, LOCAL_ACCESS).read_bytes()
    with page.expect_download() as settings:
        opened.get_by_role("link", name="Download JSON").click()
    assert '"prompt": "a red fox"' in settings.value.path().read_text()
    opened.get_by_role("button", name="All 2 of this request").click()
    expect(prompts(gallery)).to_have_text(["its twin", "a red fox"])
    gallery.get_by_role("button", name="Videos of one request only: show all").click()
    still.click()
    expect(opened).to_be_visible()
    page.keyboard.press("Escape")
    expect(opened).to_have_count(0)
    expect(still).to_be_focused()


def test_kept_and_deleted_with_a_question_before(page: Page, here: App) -> None:
    for prompt in ("one", "two", "three"):
        made(here, prompt)
    gallery = open_gallery(page, here)
    gallery.get_by_role("button", name="Favourite: two").click()
    expect(gallery.get_by_role("button", name="Favourite: two")).to_have_attribute("aria-pressed", "true")
    expect(gallery.locator(".count")).to_have_text("3 entries, 1 favourite")
    gallery.get_by_role("button", name="Favourites", exact=True).click()
    expect(prompts(gallery)).to_have_text(["two"])
    gallery.get_by_role("button", name="Favourites", exact=True).click()
    expect(prompts(gallery)).to_have_count(3)
    gallery.get_by_role("button", name="Delete: three").click()
    question = gallery.get_by_role("alertdialog")
    expect(question.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(question).to_have_count(0)
    expect(prompts(gallery)).to_have_count(3)
    gallery.get_by_role("button", name="Delete: three").click()
    question.get_by_role("button", name="Delete", exact=True).click()
    expect(prompts(gallery)).to_have_text(["two", "one"])
    assert len(list((here.folder / "clips").iterdir())) == 6  # a still and the last frame beside each of the two
    expect(gallery.get_by_role("button", name="Play: two")).to_be_focused()


def test_more_are_loaded_at_the_end_in_either_order(page: Page, here: App) -> None:
    for first in range(0, 62, 10):  # each request ends in the time of a wait
        made(here, *[f"clip {number}" for number in range(first, min(first + 10, 62))])
    gallery = open_gallery(page, here)
    expect(prompts(gallery)).to_have_count(60)
    expect(prompts(gallery).first).to_have_text("clip 61")
    gallery.locator(".more").scroll_into_view_if_needed()
    expect(prompts(gallery)).to_have_text([f"clip {number}" for number in range(61, -1, -1)])
    gallery.get_by_label("Order").select_option("oldest")
    expect(prompts(gallery).first).to_have_text("clip 0")
    gallery.locator(".more").scroll_into_view_if_needed()
    expect(prompts(gallery)).to_have_text([f"clip {number}" for number in range(62)])


def test_hovering_plays_and_leaving_shows_the_still_again(page: Page, here: App) -> None:
    made(here, "a red fox")
    open_page(page, here)
    choose(page, "Gallery")
    still = page.get_by_role("button", name="Play: a red fox")
    expect(still.locator("img")).to_have_count(1)
    still.hover()
    page.wait_for_function(
        "() => [...document.querySelectorAll('.still video')].some((video) => !video.paused && video.muted)"
    )
    page.get_by_role("searchbox").hover()
    expect(still.locator("video")).to_have_count(0)
    expect(still.locator("img")).to_have_count(1)


def test_two_selected_videos_are_downloaded_and_compared(page: Page, here: App) -> None:
    made(here, "a red fox", loras=[{"path": "fox.safetensors", "network_multiplier": 0.5}])
    made(here, "a red fox", loras=[{"path": "fox.safetensors", "network_multiplier": 1}])
    gallery = open_gallery(page, here)
    bar = gallery.get_by_role("toolbar", name="Selected videos")
    expect(bar).to_be_hidden()
    picks = gallery.get_by_role("button", name="Select: a red fox")
    picks.nth(0).click()
    expect(bar).to_contain_text("1 selected")
    expect(bar.get_by_role("button", name="Compare", exact=True)).to_be_disabled()
    gallery.get_by_role("button", name="Play: a red fox").nth(1).click()  # adds to the selection while there is one
    expect(bar).to_contain_text("2 selected")
    with page.expect_download() as download:
        bar.get_by_role("link", name="Download ZIP").click()
    assert len(zipfile.ZipFile(download.value.path()).namelist()) == 2
    page.keyboard.press("Escape")
    expect(bar).to_be_hidden()
    for index in (1, 0):
        picks.nth(index).click()
    bar.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_role("tab", name="Compare", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page.locator('#player td[data-state="done"] video')).to_have_count(2)
    assert page.locator("#player thead th").all_inner_texts() == ["LoRA fox × 0.5", "LoRA fox × 1"]
    page.get_by_role("button", name="Enlarge LoRA fox × 0.5").click()
    page.get_by_role("button", name="Use settings: LoRA fox × 0.5").last.click()
    expect(field(page, "Prompt")).to_have_value("a red fox")


def test_the_owner_shares_a_video_and_withdraws_the_link(page: Page, browser: Browser, here: App) -> None:
    made(here, "a red fox")
    gallery = open_gallery(page, here)
    gallery.get_by_role("button", name="Share: a red fox").click()
    dialog = page.get_by_role("dialog", name="Share")
    dialog.get_by_label("Ends after").select_option("30")
    dialog.get_by_role("button", name="Create link").click()
    address = dialog.get_by_label("Address")
    expect(address).to_have_value(re.compile(r"/shared/[\w-]{22}$"))
    code = re.match(r"Link (\w{4}),", dialog.get_by_role("listitem").inner_text())
    assert code is not None
    expect(dialog.get_by_role("status")).to_contain_text(f"Link {code[1]}:")
    with new_context(browser) as context:
        guest = context.new_page()
        guest.goto(address.input_value())
        expect(guest.get_by_role("heading", name="a red fox")).to_be_visible()
        dialog.get_by_role("button", name=re.compile("Withdraw")).click()
        expect(address).to_be_hidden()
        guest.reload()
        expect(guest.get_by_role("heading", name="This link is closed")).to_be_visible()
    dialog.get_by_role("button", name="Close").click()
    expect(gallery.get_by_role("button", name="Share: a red fox")).to_be_focused()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_links_that_end_on_the_same_day_are_told_apart(page: Page, here: App, language: str) -> None:
    times = ("2026-11-29T10:00:05.000Z", "2026-11-29T10:00:04.700Z", "2026-11-29T10:00:04.000Z")
    links = [
        {"id": f"ab0123456789cd{number:02}", "entry": "fox", "created_at": time, "ends_at": "2026-12-06T10:00:05.000Z"}
        for number, time in enumerate(times)
    ]
    page.route("**/v1/shares", lambda route: route.fulfill(json={"shares": links}))
    page.context.add_cookies([{"name": "wan_ui_language", "value": language, "url": here.url}])
    page.goto(here.url)
    page.wait_for_function("() => window.wanUi && window.wanUi.share")
    page.evaluate("() => window.wanUi.share('fox')")
    rows = page.locator(".share-list li")
    expect(rows).to_have_count(3)
    names = [row.get_by_role("button").get_attribute("aria-label") or "" for row in rows.all()]
    for texts in (names, rows.all_inner_texts()):
        assert ":05" in texts[0] and ":04" in texts[1] and ":04" in texts[2]
        assert [code in text for code, text in zip(("cd00", "cd01", "cd02"), texts, strict=True)] == [True] * 3


def test_a_comparison_is_one_entry_that_opens_in_its_tab(page: Page, here: App) -> None:
    axis = {"field": "scale", "values": [0.5, 1]}
    made(here, "a fox compared", loras=[{"path": "fox.safetensors"}], compare={"columns": axis, "baseline": False})
    gallery = open_gallery(page, here)
    expect(gallery.locator(".entry")).to_have_count(1)
    expect(gallery.locator(".badge")).to_have_text("2 videos")
    gallery.get_by_role("button", name="Open the comparison: a fox compared").click()
    expect(page.get_by_role("tab", name="Compare", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page.locator("#player td video")).to_have_count(2)


def use(page: Page, gallery: Locator, prompt: str) -> Locator:
    """The form once the settings are in it."""
    gallery.get_by_role("button", name=f"Play: {prompt}").click()
    gallery.get_by_role("button", name="Use settings").click()
    expect(page.get_by_role("tab", name=LABEL, exact=True)).to_have_attribute("aria-selected", "true")
    expect(field(page, "Prompt")).to_have_value(prompt)
    return page.locator("#bench")


def test_its_settings_again_with_the_file_that_was_moved(page: Page, here: App) -> None:
    made(here, "a red fox", loras=[{"path": "fox.safetensors", "network_multiplier": 0.7}])
    (loras(here) / "best").mkdir()
    os.replace(loras(here) / "fox.safetensors", loras(here) / "best" / "renamed.safetensors")
    gallery = open_gallery(page, here)
    form = use(page, gallery, "a red fox")
    expect(form.locator(".note.again")).to_contain_text("fox.safetensors was found by its content")
    expect(page.locator('#loras [data-source="best/renamed.safetensors"]')).to_have_count(1)
    expect(field(page, "Seed")).to_have_value("7")


def test_its_settings_again_without_the_files_that_are_missing_or_others(page: Page, here: App) -> None:
    made(here, "a red fox", loras=[{"path": "fox.safetensors"}])
    made(here, "an owl", loras=[{"path": "owl.safetensors"}])
    lora(loras(here) / "fox.safetensors", seed=99)
    (loras(here) / "owl.safetensors").unlink()
    gallery = open_gallery(page, here)
    form = use(page, gallery, "a red fox")
    expect(form.locator(".note.again")).to_contain_text("fox.safetensors has changed")
    expect(page.locator("#loras .lcard")).to_have_count(0)
    page.get_by_role("tab", name="Gallery", exact=True).click()
    form = use(page, gallery, "an owl")
    expect(form.locator(".note.again")).to_contain_text("owl.safetensors is missing")
    expect(page.locator("#loras .lcard")).to_have_count(0)


def test_nothing_yet(page: Page, here: App) -> None:
    page.emulate_media(reduced_motion="reduce")
    open_page(page, here)
    page.get_by_role("tab", name="Gallery", exact=True).click()
    expect(page.locator("#gallery").get_by_text("No videos yet")).to_be_visible()
    expect(page.locator("#gallery .chosen")).to_be_hidden()


def test_visitors_do_not_see_each_others(browser: Browser, tmp_path: Path) -> None:
    with whole_server("share", tmp_path) as server, ExitStack() as closing:
        pages = []
        for prompt in ("mine", "theirs"):
            client = closing.enter_context(server.browser())
            visitor = server.visitor_of(client)
            server.finished_job(visitor)
            server.services.store.rows(
                "UPDATE jobs SET generations = json_set(generations, '$[0].prompt', :prompt) WHERE visitor = :visitor",
                {"prompt": prompt, "visitor": visitor},
            )
            (cookie,) = client.cookies.jar
            context = new_context(browser)
            closing.callback(context.close)
            url = f"http://{server.host}"
            context.add_cookies([{"name": cookie.name, "value": cookie.value or "", "url": url}])
            pages.append((context.new_page(), prompt, url))
        for page, prompt, url in pages:
            wrong = heard(page)
            page.goto(url)
            expect(page.locator(".effective").locator("visible=true")).to_have_count(1)
            page.get_by_role("tab", name="Gallery", exact=True).click()
            expect(page.locator("#gallery .entry .words")).to_have_text([prompt])
            expect(page.locator("#gallery .count")).to_have_text("1 entry")
            # Its file is no video, so it has no still; nothing else is wrong, the content policy included.
            assert [text for text in wrong if "404" not in text] == []
        page, prompt, _ = pages[0]
        page.get_by_role("button", name=f"Delete: {prompt}").click()
        page.get_by_role("alertdialog").get_by_role("button", name="Delete", exact=True).click()
        expect(page.locator("#gallery").get_by_text("No videos yet")).to_be_visible()
        other = pages[1][0]
        other.get_by_role("button", name="Favourites", exact=True).click()
        other.get_by_role("button", name="Favourites", exact=True).click()
        expect(other.locator("#gallery .entry .words")).to_have_text(["theirs"])
