"""What stands beside each other at a laptop's width, and how large a result is on a wide screen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.fakes import FakeRender
from tests.ui.fake_app import App, running
from tests.ui.lora_fixtures import configs
from tests.ui.lora_fixtures import lora as write_lora
from tests.ui.page_object import open_page, open_tab
from tests.ui.test_autoplay import PROMPT
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.speed_loras import SPEED_LORAS

pytestmark = pytest.mark.browser

FAST = SPEED_LORAS["fastwan_22_5b"]
LAPTOP_WIDTH, WIDE_WIDTH = 1280, 2560
FOLDS = """() => ['#match', '#restore', '#json', '#block'].map((fold) => document.querySelector(fold))
    .map((fold) => fold.getBoundingClientRect()).map((box) => [Math.round(box.top), Math.round(box.height)])"""


@pytest.fixture(scope="module")
def lora_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("widths")
    for seed, name in enumerate(("style.safetensors", FAST.files["single"].hub.rpartition("/")[2])):
        write_lora(folder / "loras" / name, 48, seed)
    with running(folder, FakeRender(), configs=configs) as app:
        yield app


def test_no_control_is_cut_off_or_wraps_on_a_laptop_and_a_result_is_large_on_a_wide_screen(
    page: Page, app: App
) -> None:
    job = app.service.submit({"model": "wan22_5b", "prompts": [PROMPT]}, LOCAL_ACCESS)
    wait_until(lambda: app.service.job(job.id, LOCAL_ACCESS).status == "succeeded")
    page.set_viewport_size({"width": WIDE_WIDTH, "height": 1440})
    open_page(page, app)
    page.locator(".jobs .show").first.click()
    expect(page.locator("#result video").first).to_be_visible()
    height = page.locator("#result video").first.evaluate("video => video.getBoundingClientRect().height")
    assert height == pytest.approx(0.6 * 1440, abs=1)
    page.set_viewport_size({"width": LAPTOP_WIDTH, "height": 800})
    # Below it, what is needed now and then is one row of closed lines, and the column scrolls with the page.
    (top, line), *others = page.evaluate(FOLDS)
    assert [other[0] for other in others] == [top] * 3 and max(line, *(other[1] for other in others)) < 60
    assert page.locator("#side").evaluate("side => side.scrollHeight <= side.clientHeight")
    assert page.locator("#side").evaluate("side => getComputedStyle(side).overflowY") == "visible"
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    expect(page.locator("#block")).to_be_in_viewport(ratio=1)
    hidden = page.locator(".models .tabs").evaluate("tabs => tabs.scrollWidth - tabs.clientWidth")
    assert hidden == 0
    open_tab(page, "Gallery")
    expect(page.locator(".gallery .cards > li").first).to_be_visible()
    middles = page.locator(".gallery .find").evaluate("""find => [...find.children]
        .filter((each) => each.offsetParent).map((each) => each.getBoundingClientRect())
        .map((box) => Math.round((box.top + box.bottom) / 2))""")
    assert max(middles) - min(middles) <= 2


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_can_be_done_with_a_fast_look_with_a_lora_is_one_row_on_a_laptop(
    page: Page, lora_app: App, language: str
) -> None:
    body = {"model": "wan22_5b", "prompts": [PROMPT], "loras": [{"path": "style.safetensors"}], "speed_lora": FAST.id}
    job = lora_app.service.submit(body, LOCAL_ACCESS)
    wait_until(lambda: lora_app.service.job(job.id, LOCAL_ACCESS).status == "succeeded")
    page.context.add_cookies([{"name": "wan_ui_language", "value": language, "url": lora_app.url}])
    page.set_viewport_size({"width": LAPTOP_WIDTH, "height": 800})
    page.goto(lora_app.url)
    acts = page.locator("#result .acts > *")
    expect(acts).to_have_count(8)
    assert len(set(acts.evaluate_all("acts => acts.map((act) => Math.round(act.getBoundingClientRect().top))"))) == 1
