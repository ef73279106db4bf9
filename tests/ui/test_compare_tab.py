"""The Compare tab and its player in a real browser, over the real job service; only the render is a fake."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import APIResponse, Browser, Locator, Page, Route, expect

from tests.browser_fixture import new_context
from tests.fakes import FakeRender
from tests.ui.fake_app import App, running
from tests.ui.held_requests import HeldRequest
from tests.ui.lora_fixtures import configs
from tests.ui.lora_fixtures import lora as write_lora
from tests.ui.page_object import (
    FRAMES,
    axis_values,
    choose_lora,
    field,
    fill,
    filled,
    followed,
    form,
    lora,
    open_page,
    open_tab,
    type_values,
)
from tests.ui.test_stage import webp
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.api.comparisons import board
from wan_ui.engine.result import Clip
from wan_ui.errors import VideoEncodingFailed
from wan_ui.media import grid, video
from wan_ui.models import MODELS

pytestmark = pytest.mark.browser
SEEDS = {"columns": {"field": "seed", "values": [1552, 1553]}}
CLIP = {"Width": "64", "Height": "64", "Frames": "9", "Steps": "3", "Guidance scale": "3"}


@pytest.fixture(scope="module")
def render() -> Iterator[FakeRender]:
    """Shared, as the app is: each test uses seeds of its own."""
    render = FakeRender()
    yield render
    for gate in render.gates.values():
        gate.open()


@pytest.fixture(scope="module")
def compare_app(tmp_path_factory: pytest.TempPathFactory, render: FakeRender) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("compare")
    for step in (500, 1000):
        write_lora(folder / "loras" / "job" / f"cat_{step:09d}.safetensors", 48, step)
    write_lora(folder / "loras" / "job" / "cat.safetensors", 48, 3)
    with running(folder, render, configs=configs) as app:
        yield app
        for gate in render.gates.values():
            gate.open()


def take_lora(page: Page) -> None:
    choose_lora(page, "job/cat.safetensors")
    expect(lora(page, "cat.safetensors")).to_contain_text("rank")


def prepare(page: Page, app: App, seed: int, *, with_lora: bool = True) -> None:
    """The first tab's form with a small clip and a LoRA."""
    page.emulate_media(reduced_motion="reduce")  # a page that glides takes things away from under the mouse
    open_page(page, app)
    fill(page, Prompt=f"compared {seed}", Seed=str(seed), **CLIP)
    if with_lora:
        take_lora(page)


def compare_tab(page: Page) -> None:
    page.get_by_role("tab", name="Compare", exact=True).click()
    expect(page.locator(".compare-form")).to_be_visible()
    expect(page.locator(".summary")).to_be_visible()


def axis(page: Page, name: str, choice: str, values: str) -> None:
    field(page, name).select_option(label=choice)
    if values:
        type_values(page, name, values)


def start(page: Page) -> None:
    """Presses Start, and waits for the answer."""
    page.wait_for_function("() => window.wanUi.afterOpening(true)")  # whose end is told by the same event
    page.evaluate(
        """() => {
            window.startAnswered = new Promise((heard) => {
                document.addEventListener('wan-ui-answered', () => heard(true), { once: true });
            });
        }"""
    )
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_function("() => window.startAnswered")


def cells(page: Page, state: str) -> Locator:
    return page.locator(f'#player td[data-state="{state}"]')


def count_line(page: Page) -> Locator:
    return page.locator(".block.count-line")


def comparison(page: Page, app: App) -> str:
    """The id of the comparison that the page shows."""
    link = page.locator('#player [data-part="link"]')
    expect(link).to_have_attribute("href", re.compile("[0-9a-f]{32}"))
    return str(link.get_attribute("href")).partition("=")[2]


def test_a_grid_fills_and_keeps_two_cells_after_a_cancel_and_a_reload(
    page: Page, compare_app: App, render: FakeRender
) -> None:
    gate = render.gate(1003, 2)
    render.pictures[1003, 1] = webp("red")
    prepare(page, compare_app, 1001)
    compare_tab(page)
    expect(page.locator(".summary")).to_contain_text("compared 1001")
    expect(page.locator(".summary")).to_contain_text("cat × 1")
    axis(page, "Columns", "Seed", "1001..1003")
    axis(page, "Rows", "Guidance scale", "1, 2")
    expect(count_line(page)).to_contain_text("6 videos")
    start(page)
    # Row by row; the third seed waits at its gate.
    expect(cells(page, "done")).to_have_count(2)
    expect(cells(page, "running")).to_have_count(1)
    expect(cells(page, "waiting")).to_have_count(3)
    expect(cells(page, "running")).to_contain_text("step 1 of 3")
    expect(cells(page, "running").locator(".live img")).to_have_attribute("src", re.compile("live.webp"))
    render.pictures.clear()
    expect(page.locator("#player thead th")).to_have_text(["1001", "1002", "1003"])
    expect(page.locator("#player tbody th")).to_have_text(["1", "2"])
    expect(page.locator(".board-line")).to_contain_text("2 of 6 videos")
    page.reload()
    expect(cells(page, "done")).to_have_count(2)
    expect(cells(page, "running")).to_contain_text("step 1 of 3")
    expect(page.get_by_role("tab", name="Compare", exact=True)).to_have_attribute("aria-selected", "true")
    expect(axis_values(page, "Rows")).to_have_text(["1", "2"])
    expect(axis_values(page, "Columns")).to_have_text(["1001..1003"])
    page.get_by_role("button", name="Cancel the comparison").click()
    expect(page.locator(".board-line")).to_contain_text("cancelling")
    gate.open()
    expect(page.locator(".board-line")).to_contain_text("Cancelled")
    expect(cells(page, "done")).to_have_count(2)
    expect(cells(page, "canceled")).to_have_count(4)
    expect(page.locator("#player video")).to_have_count(2)
    page.get_by_role("button", name="Generate missing").click()
    expect(cells(page, "done")).to_have_count(6)
    expect(page.locator(".board-line")).to_contain_text("Done")


def chips_are_typed_changed_and_removed(page: Page) -> None:
    box, chips = field(page, "Columns: values"), axis_values(page, "Columns")
    expect(chips).to_have_text(["0.5", "1", "1.5"])
    box.press_sequentially("2,0.2..0.8 step 0.2")
    expect(chips).to_have_text(["0.5", "1", "1.5", "2"])
    box.press("Enter")
    expect(chips).to_have_text(["0.5", "1", "1.5", "2", "0.2..0.8 step 0.2"])
    expect(box).to_have_value("")
    expect(count_line(page)).to_contain_text("9 videos")
    page.get_by_role("button", name="Remove 1.5", exact=True).click()
    expect(page.locator("#axes").get_by_role("status")).to_have_text("1.5 removed")
    box.press("Backspace")
    expect(chips).to_have_text(["0.5", "1", "2"])
    expect(count_line(page)).to_contain_text("4 videos")
    for key in ("ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    expect(page.get_by_role("button", name="Change 1", exact=True)).to_be_focused()
    page.keyboard.press("Enter")  # it is typed anew, at its place
    expect(box).to_have_value("1")
    box.fill("1.25")
    box.blur()
    expect(chips).to_have_text(["0.5", "1.25", "2"])


def test_values_are_chips_and_wrong_ones_are_said_at_once(page: Page, compare_app: App) -> None:
    prepare(page, compare_app, 1101)
    compare_tab(page)
    expect(count_line(page)).to_contain_text("4 videos")
    chips_are_typed_changed_and_removed(page)
    for text, message in (
        ("0.5, x", "x is not a number"),
        ("0.5, 7", "7 must be at most 4."),
        ("0.1..0.9", "give the step"),
        ("1..70", "more than 64 values"),
    ):
        type_values(page, "Columns", text)
        expect(count_line(page)).to_contain_text(message)
        expect(count_line(page)).to_contain_text("Columns")
    type_values(page, "Columns", "0, 0.5")
    expect(count_line(page)).to_contain_text("3 videos, 2 to generate (the rest are identical)")
    type_values(page, "Columns", "")
    expect(count_line(page)).to_contain_text("Choose what changes")
    start(page)
    expect(count_line(page)).to_contain_text("Choose what changes")
    axis(page, "Rows", "Match", "reference, other")
    expect(count_line(page)).to_contain_text("Rows: other")


def test_the_expected_time_is_said_once_a_step_is_known(page: Page, compare_app: App) -> None:
    prepare(page, compare_app, 1)
    compare_tab(page)
    axis(page, "Columns", "Seed", "1901..1903")
    expect(count_line(page).locator(".counted")).to_have_text("3 videos")
    expect(count_line(page)).to_be_visible()
    start(page)
    expect(cells(page, "done")).to_have_count(3)
    (generation, *_) = compare_app.service.recent(1, LOCAL_ACCESS)[0].generations
    made = Clip(np.zeros((9, 64, 64, 3), np.uint8), 64, 64, 9, generation.fps, generation.seed)
    compare_app.service.outlooks.timings.record(generation, made, {"denoise": 60.0}, 0.0)
    type_values(page, "Columns", "1901..1906")
    expect(count_line(page)).to_contain_text("6 videos, about 6 min")


def test_a_failed_cell_is_marked_and_alone_rendered_again(page: Page, compare_app: App, render: FakeRender) -> None:
    render.errors[1202] = VideoEncodingFailed("The video could not be encoded: no luck.")
    prepare(page, compare_app, 1201)
    compare_tab(page)
    axis(page, "Columns", "Seed", "1201..1203")
    start(page)
    expect(cells(page, "done")).to_have_count(2)
    expect(cells(page, "failed")).to_contain_text("no luck")
    expect(page.locator(".board-line")).to_contain_text("Failed")
    before = len(render.steps(1201))
    del render.errors[1202]
    page.get_by_role("button", name="Retry failed (1)").click()
    expect(cells(page, "done")).to_have_count(3)
    assert len(render.steps(1201)) == before
    expect(page.get_by_role("button", name=re.compile("Retry"))).to_have_count(0)


def test_two_clicks_compare_strengths_from_the_form(page: Page, compare_app: App) -> None:
    prepare(page, compare_app, 1301, with_lora=False)
    panel = form(page)
    panel.get_by_role("button", name="Compare strengths").click()
    expect(field(page, "Strengths to compare")).to_have_value("0, 0.5, 1, 1.5")
    panel.get_by_role("button", name="Compare", exact=True).click()
    expect(panel.locator(".scales .problem")).to_contain_text("there is no LoRA to scale")
    take_lora(page)
    panel.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_role("tab", name="Compare", exact=True)).to_have_attribute("aria-selected", "true")
    expect(cells(page, "done")).to_have_count(4)
    expect(page.locator("#player thead th")).to_have_text(["scale 0", "scale 0.5", "scale 1", "scale 1.5"])
    expect(axis_values(page, "Columns")).to_have_text(["0", "0.5", "1", "1.5"])
    request = compare_app.service.job(comparison(page, compare_app), LOCAL_ACCESS).request
    assert (request["prompts"][0]["prompt"], request["prompts"][0]["seed"]) == ("compared 1301", 1301)


def test_a_third_axis_makes_pages_of_which_one_is_loaded(page: Page, compare_app: App) -> None:
    prepare(page, compare_app, 1851)
    compare_tab(page)
    axis(page, "Columns", "Seed", "1851, 1852")
    axis(page, "Rows", "Guidance scale", "1, 2")
    axis(page, "Pages", "Steps", "2, 4, 5")
    expect(count_line(page)).to_contain_text("12 videos")
    start(page)
    expect(page.locator(".board-line")).to_contain_text("Done")
    player, pages = page.locator("#player"), page.locator("#player").get_by_role("tab")
    expect(pages).to_have_text(["2", "4", "5"])
    expect(cells(page, "done")).to_have_count(4)
    expect(player.locator("video")).to_have_count(4)
    first = player.locator("video").first.get_attribute("src")

    pages.first.focus()
    page.keyboard.press("ArrowLeft")  # to the last one
    expect(player.get_by_role("tab", name="steps 5")).to_be_focused()
    expect(player.get_by_role("tab", selected=True)).to_have_text("5")
    expect(player.locator("video").first).not_to_have_attribute("src", str(first))
    expect(player.locator("video")).to_have_count(4)
    expect(player.get_by_role("link", name="Download grid (MP4)")).to_have_attribute("href", re.compile(r"page=2$"))
    player.locator("figcaption").last.hover()
    player.locator("[data-part=pop]").get_by_role("button", name=re.compile("Use settings")).click()
    expect(page.get_by_role("tab", name="Generate", exact=True)).to_have_attribute("aria-selected", "true")
    expect(field(page, "Steps")).to_have_value("5")
    expect(field(page, "Seed")).to_have_value("1852")

    page.reload()
    filled(page)
    open_tab(page, "Compare")
    expect(player.get_by_role("tab")).to_have_count(3)
    expect(axis_values(page, "Pages")).to_have_text(["2", "4", "5"])


def test_checkpoints_of_a_job_in_the_order_of_training(page: Page, compare_app: App) -> None:
    prepare(page, compare_app, 1401)
    compare_tab(page)
    axis(page, "Columns", "LoRA file or checkpoint", "")
    expect(count_line(page)).to_contain_text("Choose what changes")
    field(page, "Columns: all checkpoints of a job").select_option(label="job")
    names = [f"job/{name}.safetensors" for name in ("cat_000000500", "cat_000001000", "cat")]
    expect(axis_values(page, "Columns")).to_have_text(["cat 500", "cat 1000", "cat"])
    assert axis_values(page, "Columns").evaluate_all("chips => chips.map((chip) => chip.dataset.value)") == names
    expect(count_line(page)).to_contain_text("4 videos")  # with the baseline
    start(page)
    expect(cells(page, "done")).to_have_count(4)
    expect(page.locator("#player thead th")).to_have_text(["no LoRA", "cat_000000500", "cat_000001000", "cat"])


def test_a_late_count_of_older_axes_is_replaced(page: Page, compare_app: App) -> None:
    held: list[Route] = []

    def hold_first_count(route: Route) -> None:
        """Any but the questions for a job's checkpoints, which name its folder."""
        if held or '"folder"' in (route.request.post_data or ""):
            route.continue_()
        else:
            held.append(route)

    prepare(page, compare_app, 1403)
    compare_tab(page)
    expect(count_line(page)).to_contain_text("videos")
    page.route("**/queue/join**", hold_first_count)
    field(page, "Columns").select_option(label="LoRA file or checkpoint")  # without values there is nothing to count
    field(page, "Columns: all checkpoints of a job").select_option(label="job")
    expect(axis_values(page, "Columns")).to_have_count(3)
    axis(page, "Rows", "Seed", "1403, 1404")
    with page.expect_request("**/queue/join**"):  # asked again as soon as the late answer is there
        held[0].continue_()
    expect(count_line(page)).to_contain_text("8 videos")  # of two rows with three checkpoints and the baseline


def test_a_jobs_checkpoints_that_come_late_change_their_axis_alone(page: Page, compare_app: App) -> None:
    prepare(page, compare_app, 1404)
    compare_tab(page)
    axis(page, "Columns", "LoRA file or checkpoint", "")
    held = HeldRequest(page, '"folder":"job"')
    field(page, "Columns: all checkpoints of a job").select_option(label="job")
    held.await_request()
    axis(page, "Rows", "Seed", "1404, 1405")
    field(page, "Rows: values").fill("1406")  # typed, and no chip yet
    held.let_go()
    expect(axis_values(page, "Columns")).to_have_text(["cat 500", "cat 1000", "cat"])
    expect(axis_values(page, "Rows")).to_have_text(["1404", "1405"])
    expect(field(page, "Rows: values")).to_have_value("1406")
    expect(count_line(page)).to_contain_text("12 videos")  # with the baseline
    type_values(page, "Columns", "job/cat.safetensors")
    field(page, "Columns: all checkpoints of a job").select_option(label="job")  # the same answer once more
    expect(axis_values(page, "Columns")).to_have_count(3)


def test_a_cells_settings_go_back_into_the_form(page: Page, compare_app: App) -> None:
    prepare(page, compare_app, 1501)
    compare_tab(page)
    axis(page, "Columns", "LoRA scale", "0.5, 1.5")
    axis(page, "Rows", "Seed", "1501, 1502")
    start(page)
    expect(page.locator(".board-line")).to_contain_text("Done")  # which moves the grid a last time
    cell = page.locator('#player td[data-key="2,1"]')
    cell.locator("figcaption").hover()
    pop = page.locator('#player [data-part="pop"]')
    expect(pop).to_contain_text("scale 1.5 · seed 1502")
    expect(pop).to_contain_text("cat × 1.5")
    pop.get_by_role("button", name=re.compile("Use settings")).click()
    expect(page.get_by_role("tab", name="Wan 2.2 TI2V 5B")).to_have_attribute("aria-selected", "true")
    expect(field(page, "Seed")).to_have_value("1502")
    expect(lora(page, "cat.safetensors").get_by_role("spinbutton")).to_have_value("1.5")
    expect(field(page, "Prompt")).to_have_value("compared 1501")


def test_a_pasted_comparison_and_a_finished_one_fill_the_tab_again(page: Page, compare_app: App) -> None:
    prompt = {"prompt": "pasted, whole", "width": 64, "height": 64, "num_frames": 5, "sample_steps": 1, "seed": 1551}
    body = {
        "model": "wan21_1b",
        "prompts": [prompt],
        "compare": {
            "columns": {"field": "guidance_scale", "values": [1, 2.5]},
            "rows": {"field": "prompt", "values": ["a cat, asleep", "a dog"]},
            "baseline": False,
        },
    }

    def is_filled() -> None:
        expect(page.get_by_role("tab", name="Compare", exact=True)).to_have_attribute("aria-selected", "true")
        expect(axis_values(page, "Columns")).to_have_text(["1", "2.5"])
        expect(axis_values(page, "Rows")).to_have_text(["a cat, asleep", "a dog"])
        expect(page.get_by_label("Include a baseline without LoRA")).not_to_be_checked()
        expect(page.locator(".summary")).to_contain_text("pasted, whole")
        expect(count_line(page)).to_contain_text("4 videos")

    late: list[tuple[Route, APIResponse]] = []

    def hold(route: Route) -> None:
        """The answer with which the page's opening fills the tab is read, and kept back."""
        if not late and '"axes":[' in (route.request.post_data or ""):
            late.append((route, route.fetch()))
        else:
            route.fallback()

    page.route("**/gradio_api/run/**", hold)
    open_page(page, compare_app)
    page.get_by_role("button", name="Request as JSON").click()
    page.get_by_label("Paste a request").fill(json.dumps(body))
    page.get_by_role("button", name="Load into the form").click()
    page.evaluate(FRAMES, 20)  # in which the pasted request would be loaded if it did not wait
    wait_until(lambda: page.evaluate("true") and late)  # while the browser works, its requests arrive here
    ((route, answer),) = late
    route.fulfill(response=answer)
    is_filled()
    start(page)
    expect(page.locator(".board-line")).to_contain_text("Done")
    plain = compare_app.service.submit(
        {"model": "wan22_5b", "prompts": [{**prompt, "prompt": "a plain one"}]}, LOCAL_ACCESS
    )
    open_tab(page, "Generate")
    finished = page.locator(".jobs button.show")
    with followed(page):
        finished.filter(has_text="a plain one").click()
    expect(page.locator("#result video")).to_have_attribute("src", re.compile(plain.id))
    with followed(page):
        finished.filter(has_text="a cat, asleep").click()
    expect(finished.filter(has_text="a cat, asleep")).to_have_attribute("aria-current", "true")
    page.get_by_role("button", name="Use settings", exact=True).click()
    is_filled()


def test_taking_it_along_and_its_own_address(page: Page, browser: Browser, compare_app: App, tmp_path: Path) -> None:
    prepare(page, compare_app, 1601)
    compare_tab(page)
    axis(page, "Columns", "Seed", "1601, 1602")
    start(page)
    expect(cells(page, "done")).to_have_count(2)
    expect(page.locator(".board-line")).to_contain_text("Done")  # with which the board is shown a last time

    def saved(name: str) -> bytes:
        with page.expect_download() as download:
            page.get_by_role("link", name=name).click()
        return download.value.path().read_bytes()

    (tmp_path / "grid.mp4").write_bytes(saved("Download grid (MP4)"))
    frame = video.read_frames(tmp_path / "grid.mp4")[4].astype(int)
    job = compare_app.service.job(comparison(page, compare_app), LOCAL_ACCESS)
    made = board(compare_app.service, job, LOCAL_ACCESS)
    layout = grid.lay_out(made.columns, made.rows, (64, 64), grid.LARGEST_VIDEO)
    drawn = np.array(grid.labels(made, layout)).astype(int)[: layout.top]
    assert made.columns == ("seed 1601", "seed 1602")
    assert drawn.max() > 200
    assert np.abs(frame[: layout.top] - drawn).mean() < 6
    page.locator('#player [data-part="scrub"]').fill("3")
    assert saved("Download contact sheet")[:4] == b"\x89PNG"
    assert "frame=3" in str(page.locator('#player [data-part="sheet"]').get_attribute("href"))
    assert len(zipfile.ZipFile(io.BytesIO(saved("Download all (ZIP)"))).namelist()) == 4

    with new_context(browser) as context:
        other = context.new_page()
        other.goto(f"{compare_app.url}?compare={job.id}")
        expect(cells(other, "done")).to_have_count(2)
        expect(other.get_by_role("tab", name="Compare", exact=True)).to_have_attribute("aria-selected", "true")
    page.goto(f"{compare_app.url}?compare={'0' * 32}")
    expect(page.locator(".block.board-status")).to_contain_text("There is no request with this id")


def test_on_a_phone_the_grid_scrolls_in_its_own_box_and_every_control_has_a_name(page: Page, compare_app: App) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(reduced_motion="reduce")
    job = compare_app.service.submit(
        {
            "model": next(iter(MODELS)),
            "prompts": [{"prompt": "x", "width": 96, "height": 64, "num_frames": 5, "sample_steps": 1, "seed": 1}],
            "compare": {"columns": {"field": "seed", "values": [1, 2, 3, 4]}},
        },
        LOCAL_ACCESS,
    )
    page.goto(f"{compare_app.url}?compare={job.id}")
    expect(cells(page, "done")).to_have_count(4)
    page.get_by_role("button", name="Enlarge seed 1").click()
    page.get_by_role("button", name="Wipe", exact=True).click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    inside = page.evaluate(
        """() => [...document.querySelectorAll('#player *, .compare-form *')]
            .filter((e) => e.offsetParent && !e.closest('.board table, svg, option'))
            .map((e) => Math.ceil(e.getBoundingClientRect().right))"""
    )
    assert max(inside) <= 390
    box = page.locator('#player [data-part="board"]')
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")
    page.get_by_role("button", name="Difference", exact=True).click()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('input, textarea, select, button, video, a, canvas')]
            .filter((e) => e.offsetParent && e.type !== 'file')
            .filter((e) => !(e.ariaLabel || e.textContent.trim() || (e.labels && e.labels.length)))
            .map((e) => e.outerHTML)"""
    )
    assert nameless == []
