"""Judging a comparison in a real browser: marks by keys and buttons, filters, blind votes, and the verdict."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.fakes import FakeRender
from tests.lora_files import write_lora
from tests.ui.fake_app import App, running
from tests.ui.page_object import field, tab
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def judged_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("judged")
    for step in (500, 1000):
        path = folder / "loras" / f"cat_{step:09d}.safetensors"
        write_lora(path, width=1536, ffn=8960, blocks=1, rank=1, seed=step)
    with running(folder, FakeRender()) as app:
        yield app


@pytest.fixture
def board(page: Page, judged_app: App) -> Locator:
    """A grid of two checkpoints and two scales with a baseline, all its cells finished."""
    prompt = {"prompt": "a cat", "width": 64, "height": 64, "num_frames": 5, "sample_steps": 2, "seed": 7}
    paths = [f"cat_{step:09d}.safetensors" for step in (500, 1000)]
    axes = {"columns": {"field": "scale", "values": [0.5, 1]}, "rows": {"field": "lora", "values": paths}}
    body = {"model": "wan21_1b", "prompts": [prompt], "loras": [{"path": paths[0]}], "compare": axes}
    job = judged_app.service.submit(body, LOCAL_ACCESS)
    wait_until(lambda: judged_app.service.job(job.id, LOCAL_ACCESS).status == "succeeded")
    page.emulate_media(reduced_motion="reduce")
    page.goto(f"{judged_app.url}?compare={job.id}")
    player = page.locator("#player")
    expect(player.locator('td[data-state="done"] video')).to_have_count(5)
    return player


@contextmanager
def kept(page: Page) -> Iterator[None]:
    """Sets a mark in the block, and waits until the server has it."""
    with page.expect_response("**/marks/*") as answer:
        yield
    assert answer.value.ok


def test_marks_by_keys_filter_the_grid_and_outlive_a_reload(page: Page, board: Locator) -> None:
    expect(board.locator("thead th")).to_have_text(["no LoRA", "0.5", "1"])
    expect(board.locator("tbody th")).to_have_text(["500", "1000"])
    expect(board.locator('td[data-key="0,0"]')).to_have_attribute("rowspan", "2")
    board.get_by_role("button", name="Enlarge scale 0.5 · cat_000000500").focus()
    with kept(page):
        page.keyboard.press("s")
    expect(board.locator('td[data-key="1,0"]')).to_have_attribute("data-mark", "favourite")
    page.keyboard.press("ArrowRight")
    expect(board.get_by_role("button", name="Enlarge scale 1 · cat_000000500")).to_be_focused()
    page.keyboard.press("ArrowDown")
    with kept(page):
        page.keyboard.press("x")
    expect(board.locator('td[data-key="2,1"]')).to_have_attribute("data-mark", "rejected")
    expect(board.locator(".best")).to_have_text("Favourite: scale 0.5 · cat_000000500")
    board.get_by_role("button", name="Hide rejected (1)").click()
    expect(board.locator('td[data-hidden="yes"]')).to_have_count(1)
    board.get_by_role("button", name="Only favourites (1)").click()
    expect(board.locator("td[data-key] video").locator("visible=true")).to_have_count(1)
    page.reload()
    expect(board.locator('td[data-mark="favourite"]')).to_have_count(1)
    board.get_by_role("button", name="Favourite scale 0.5 · cat_000000500").click()
    expect(board.locator('td[data-mark="favourite"]')).to_have_count(0)


def test_a_mark_that_is_set_before_the_kept_ones_are_there_stays(page: Page, board: Locator, judged_app: App) -> None:
    job = page.url.rpartition("=")[2]
    kept = page.request.get(f"{judged_app.url}v1/requests/{job}/judging").json()
    held: list[Route] = []
    page.route("**/judging", lambda route: held.append(route))
    with page.expect_request("**/judging"):
        page.reload()
    board.get_by_role("button", name="Favourite scale 0.5 · cat_000000500").click()
    board.get_by_role("button", name="Reject scale 1 · cat_000000500").click()
    with page.expect_response("**/judging"):
        for route in held:
            route.fulfill(json=kept)
    expect(board.locator('[data-part="hide"]')).to_have_text("Hide rejected (1)")
    expect(board.locator('td[data-key="1,0"]')).to_have_attribute("data-mark", "favourite")
    page.get_by_role("button", name="Only favourites (1)").click()
    expect(board.locator("td[data-key] video").locator("visible=true")).to_have_count(1)


def test_blind_votes_lead_to_a_verdict_whose_settings_are_loaded(page: Page, board: Locator) -> None:
    board.get_by_role("button", name="Blind A/B").click()
    duel = page.get_by_role("dialog", name="Blind A/B")
    expect(duel.get_by_role("status")).to_have_text(re.compile(r"^Pair 1 of \d+$"))
    pairs = int(duel.get_by_role("status").inner_text().rpartition(" ")[2])
    expect(duel).not_to_contain_text("scale")
    page.keyboard.press("ArrowLeft")
    expect(duel.get_by_role("status")).to_have_text(f"Pair 2 of {pairs}")
    page.keyboard.press("Backspace")
    expect(duel.get_by_role("status")).to_have_text(f"Pair 1 of {pairs}")
    for number in range(1, pairs + 1):
        expect(duel.get_by_role("status")).to_have_text(f"Pair {number} of {pairs}")
        expect(duel.locator(".pairs i")).to_have_count(pairs)
        expect(duel.locator(".pairs .done")).to_have_count(number - 1)
        # One cell is preferred to another one, and all others are even: so one is the best, whatever the sides.
        duel.get_by_role("button", name="A is better" if number == 1 else "No difference").click()
    expect(duel.get_by_role("status")).to_have_text(f"{pairs} votes")
    expect(duel.locator(".pairs")).to_be_hidden()
    expect(duel.locator("li").first).to_contain_text("wins")
    expect(duel.get_by_role("heading")).to_have_text(duel.locator("li").first.inner_text())
    expect(duel.locator("video").locator("visible=true")).to_have_count(1)
    expect(duel.locator(".hint")).to_be_hidden()
    expect(duel.get_by_role("button", name=re.compile("^Use settings: "))).to_be_visible()
    duel.get_by_role("button", name="Leave").click()
    expect(board.locator(".best")).to_contain_text(f"({pairs} votes)")
    board.locator('[data-part="winner"]').click()
    expect(tab(page, "Generate")).to_have_attribute("aria-selected", "true")
    expect(field(page, "Prompt")).to_have_value("a cat")


@pytest.mark.parametrize(("pairs", "voted", "segments"), [(12, 5, 12), (40, 10, 2), (40, 0, 1)])
def test_the_bar_of_pairs_fits_a_phone(page: Page, board: Locator, pairs: int, voted: int, segments: int) -> None:
    def many(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "pairs": pairs, "voted": voted})

    page.route("**/pairs", many)
    page.set_viewport_size({"width": 390, "height": 844})
    board.get_by_role("button", name="Blind A/B").click()
    duel = page.get_by_role("dialog", name="Blind A/B")
    expect(duel.get_by_role("status")).to_have_text(f"Pair {voted + 1} of {pairs}")
    bar = duel.locator(".pairs")
    expect(bar.locator("i")).to_have_count(segments)
    left, width = bar.evaluate("bar => [bar.getBoundingClientRect().left, bar.offsetWidth]")
    ends = bar.locator(".done").evaluate_all("all => all.map((one) => one.offsetLeft + one.offsetWidth)")
    done = max(ends, default=left) - left
    assert done / width == pytest.approx(voted / pairs, abs=0.1)
    assert 0 < left < left + width <= 390
    assert duel.evaluate("duel => duel.scrollWidth") == 390


PAUSED = "videos => videos.map((video) => video.paused)"
"""Whether each of the videos stands still."""


def test_even_votes_have_no_winner_and_the_sides_stand_still_until_play(page: Page, board: Locator) -> None:
    expect(board.get_by_role("button", name="Only favourites")).to_be_disabled()
    board.get_by_role("button", name="Blind A/B").click()
    duel = page.get_by_role("dialog", name="Blind A/B")
    expect(duel.get_by_role("status")).to_have_text(re.compile("^Pair 1 of"))
    sides = duel.locator(".option video")
    assert sides.evaluate_all(PAUSED) == [True, True]  # motion is unwanted
    page.keyboard.press("Space")
    page.wait_for_function(f"() => !({PAUSED})([...document.querySelectorAll('.duel .option video')]).includes(true)")
    duel.get_by_role("button", name="Pause").click()
    assert sides.evaluate_all(PAUSED) == [True, True]
    pairs = int(duel.get_by_role("status").inner_text().rpartition(" ")[2])
    for number in range(1, pairs + 1):
        expect(duel.get_by_role("status")).to_have_text(f"Pair {number} of {pairs}")
        page.keyboard.press("ArrowDown")
    expect(duel.get_by_role("heading")).to_have_text("No difference")
    expect(duel.locator("video").locator("visible=true")).to_have_count(0)
    duel.get_by_role("button", name="Leave").click()
    expect(board.locator(".best")).to_have_text(f"No difference ({pairs} votes)")
    expect(board.locator('[data-part="winner"]')).to_be_hidden()
