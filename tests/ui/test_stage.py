"""The stage while a job runs, from the one event stream of a browser: no polls, live picture, whole job, many tabs."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Request, expect

from tests.browser_fixture import listening, new_context
from tests.fakes import FakeRender
from tests.jobs.helpers import body
from tests.ui.fake_app import App
from tests.ui.page_object import filled, generate, now, open_page, open_tab, small, used
from wan_ui.access import LOCAL_ACCESS
from wan_ui.errors import OutOfMemory

pytestmark = pytest.mark.browser

TABS = 3
HIDE = """hidden => {
    Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });
    document.dispatchEvent(new Event('visibilitychange'));
}"""

SMALL_TARGETS = """() => [...document.querySelectorAll('button, select, #footer a, input')]
    .filter((each) => !['file', 'checkbox'].includes(each.type) && each.getAttribute('role') !== 'combobox')
    .filter((each) => each.checkVisibility({ visibilityProperty: true }))
    .map((each) => [each.outerHTML.slice(0, 90), Math.round(each.getBoundingClientRect().height)])
    .filter(([, height]) => height < 40)"""

# What the page asks for as it opens has been asked for.
QUIET = "() => performance.getEntriesByType('resource').every((entry) => performance.now() - entry.startTime > 2000)"


def webp(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "WEBP")
    return buffer.getvalue()


def opened(page: Page, app: App) -> Page:
    """The page with its stream open: what the server sent first has come."""
    page.goto(app.url)
    page.wait_for_function("() => window.wanUi && window.wanUi.events")
    page.evaluate("() => new Promise((done) => window.wanUi.events.on('server', () => done(true)))")
    return page


def test_the_stage_follows_the_whole_job(page: Page, app: App, held_render: FakeRender):
    gates = [held_render.gate(1801, 3), held_render.gate(1802, 2)]
    held_render.pictures[1801, 2] = webp("red")
    opened(page, app)
    job = app.service.submit(body(1801, 1802, steps=4), LOCAL_ACCESS)
    gates[0].await_arrival()
    card = page.locator(f"#now .card[data-job='{job.id}']")
    expect(card.locator(".facts")).to_contain_text("step 2 of 8")
    live = page.locator("#live img")
    expect(live).to_have_attribute("src", re.compile(f"{job.id}/live.webp"))
    assert live.evaluate("image => image.decode().then(() => image.naturalWidth)") == 8
    gates[0].open()
    gates[1].await_arrival()
    expect(card.locator(".facts")).to_contain_text("step 5 of 8")
    expect(page.locator("#live")).to_be_hidden()  # the second video has no picture yet
    gates[1].open()
    expect(page.locator(f"#result video[src*='{job.id}']")).to_have_count(2)
    poster = page.locator(f"#result video[src*='{job.id}/videos/0']").get_attribute("poster")
    assert poster == f"v1/gallery/{job.id}-0/poster.jpg"
    expect(page.locator(f".jobs img[src='v1/gallery/{job.id}-0/poster.jpg']")).to_have_count(1)


def test_waiting_jobs_have_the_first_frame_or_the_first_words_as_thumbnail(
    page: Page, app: App, held_render: FakeRender, wide_image: Path
):
    gate = held_render.gate(1811, 1)
    image = base64.b64encode(wide_image.read_bytes()).decode()
    app.service.submit(body(1811), LOCAL_ACCESS)
    gate.await_arrival()
    with_image = body(1812)
    with_image["prompts"][0]["ctrl_img"] = image
    started = app.service.submit({**with_image, "model": "wan22_5b"}, LOCAL_ACCESS)
    in_words = body(1813)
    in_words["prompts"][0]["prompt"] = "a lighthouse in a storm with very high waves"
    app.service.submit(in_words, LOCAL_ACCESS)
    opened(page, app)
    thumbnails = page.locator("#side ol.jobs .thumb")
    picture = thumbnails.locator(f"img[src='v1/requests/{started.id}/first_frame.jpg']")
    expect(picture).to_have_count(1)
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth / image.naturalHeight)") > 2
    expect(thumbnails.locator(".words").last).to_have_text("a lighthouse in a storm…")
    gate.open()
    expect(page.locator("#side ol.jobs .thumb")).to_have_count(0)


def test_a_failed_job_of_the_strip_says_why_and_is_run_again(page: Page, app: App, held_render: FakeRender):
    held_render.errors[1821] = OutOfMemory("The GPU ran out of memory.")
    open_page(page, app)
    small(page, "fails once", 1821)
    generate(page)
    expect(now(page)).to_contain_text("Failed")
    held_render.errors.clear()
    page.locator(".jobs .show").filter(has_text="fails once").first.click()
    ended = page.locator("#result .ended")
    expect(ended).to_contain_text("The GPU ran out of memory.")
    ended.get_by_role("button", name="Retry").click()
    expect(page.locator("#toast")).to_have_text("Added to the queue again.")
    expect(used(page, "Seed")).to_have_text("1821")


def test_what_ended_without_a_video_is_removed_from_the_strip(page: Page, app: App, held_render: FakeRender):
    """Defect 24: by a press, or by the Delete key; what has a video is deleted in the gallery, which asks first."""
    failed = []
    for seed in (1822, 1823):
        held_render.errors[seed] = OutOfMemory("The GPU ran out of memory.")
        failed.append(app.service.submit(body(seed), LOCAL_ACCESS).id)
    made = app.service.submit(body(1824), LOCAL_ACCESS)
    open_page(page, app)
    expect(page.locator(f".jobs .show[data-job='{made.id}'] .succeeded")).to_have_count(1)
    removing = [page.locator(f".jobs li:has(.dot.failed) .remove-job[data-job='{job}']") for job in failed]
    for remove in removing:
        expect(remove).to_have_count(1)
    expect(page.locator(f".remove-job[data-job='{made.id}']")).to_have_count(0)
    removing[0].click()
    expect(removing[0]).to_have_count(0)
    page.locator(f".jobs .show[data-job='{failed[1]}']").focus()
    page.keyboard.press("Delete")
    expect(removing[1]).to_have_count(0)
    page.wait_for_function("document.activeElement.matches('.jobs .show')")


MARKS_OVER_PICTURES = """() => [...document.querySelectorAll('#player td[data-state=done]')].filter((cell) => {
    const [marks, picture] = ['.marks', '.screen'].map((part) => cell.querySelector(part).getBoundingClientRect());
    return marks.top < picture.bottom;
}).length"""


def test_targets_on_touch_are_large_and_leave_pictures_visible(browser: Browser, app: App):
    grid = {"columns": {"field": "seed", "values": [1841, 1842]}}
    job = app.service.submit({**body(1841), "compare": grid}, LOCAL_ACCESS)
    with new_context(browser, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as context:
        page = context.new_page()
        page.goto(f"{app.url}?compare={job.id}")
        expect(page.locator("#player td[data-state=done] .marks")).to_have_count(2)
        assert page.evaluate(MARKS_OVER_PICTURES) == 0
        for label in ("Compare", "Generate", "Training job", "Gallery"):
            open_tab(page, label)
            if label == "Gallery":
                expect(page.locator(".gallery .cards")).to_have_attribute("aria-busy", "false")
            assert (label, page.evaluate(SMALL_TARGETS)) == (label, [])


TOPS = """() => Object.fromEntries(
    ['#now', '#result', '#bench', '#restore', '#top > .tab-wrapper', 'button.generate'].map((selector) =>
        [selector, Math.round(document.querySelector(selector).getBoundingClientRect().top)]))"""


def test_a_phone_has_the_stage_first_and_tabs_and_generate_at_hand(browser: Browser, app: App, held_render: FakeRender):
    """Defect 13: landing shows the stage, and a run started below the form is seen at once."""
    width, height = 390, 844
    gate = held_render.gate(1831, 1)
    with new_context(browser, viewport={"width": width, "height": height}, has_touch=True, is_mobile=True) as context:
        page = context.new_page()
        open_page(page, app)
        tops = page.evaluate(TOPS)
        order = [tops[selector] for selector in ("#now", "#result", "#bench", "#restore")]
        assert order == sorted(order) and order[0] < height / 4
        assert tops["button.generate"] < tops["#top > .tab-wrapper"] < height
        assert page.evaluate("document.documentElement.scrollWidth") == width
        small(page, "on a phone", 1831)
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        generate(page)
        gate.await_arrival()
        expect(page.locator("#now .card.running")).to_be_in_viewport()
        gate.open()
        expect(used(page, "Seed")).to_have_text("1831")


def test_a_hidden_tab_asks_for_nothing_and_looks_when_it_is_shown(page: Page, app: App):
    opened(page, app)
    filled(page)
    page.wait_for_function("() => window.wanUi.afterOpening(true)")
    page.wait_for_function(QUIET)
    page.evaluate(HIDE, True)
    paths: list[str] = []
    with listening(page, "request", lambda request: paths.append(request.url.removeprefix(app.url))):
        job = app.service.submit(body(1803), LOCAL_ACCESS)
        page.wait_for_function(
            """id => new Promise((resolve) => window.wanUi.events.on('jobs', ({ jobs }) => {
                if (jobs.some((job) => job.request_id === id && job.status === 'succeeded')) resolve(true);
            }))""",
            arg=job.id,
        )
    assert [path for path in paths if not path.startswith("gradio_api/queue/")] == []
    page.evaluate(HIDE, False)
    expect(page.locator(f"#result video[src*='{job.id}']")).to_have_count(1)


def test_tabs_share_one_stream_and_stay_usable(browser: Browser, app: App):
    context, streams = new_context(browser), []

    def note(request: Request) -> None:
        if request.url.endswith("/v1/events"):
            streams.append(request.url)

    context.on("request", note)
    tabs = [opened(context.new_page(), app) for _ in range(TABS)]
    assert len(streams) == 1
    for tab in tabs:
        assert tab.evaluate("fetch('v1/health').then((answer) => answer.status)") == 200
    assert [tab.evaluate("window.wanUi.events.reads") for tab in tabs] == [True, *[False] * (TABS - 1)]
    tabs[0].close()
    tabs[1].wait_for_function("() => window.wanUi.events.reads")
    job = app.service.submit(body(1804), LOCAL_ACCESS)
    for tab in tabs[1:]:
        expect(tab.locator(f"#result video[src*='{job.id}']")).to_have_count(1)


def test_the_bell_is_remembered(page: Page, app: App):
    opened(page, app)
    bell = page.locator("#bell")
    expect(bell).to_have_attribute("aria-pressed", "false")
    bell.click()
    expect(bell).to_have_attribute("aria-pressed", "true")
    page.reload()
    expect(bell).to_have_attribute("aria-pressed", "true")
