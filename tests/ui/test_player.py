"""The player in a real browser: videos in step, scrubbed to one frame, wiped and subtracted, by mouse and by keys."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.fakes import FakeRender
from tests.ui.fake_app import App, running
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.engine.result import Clip, OnProgress
from wan_ui.models import MODELS
from wan_ui.request import Generation

pytestmark = pytest.mark.browser

SECONDS = float(os.environ.get("WAN_UI_LOOP_SECONDS", "6"))  # of looping; scripts/soak asks for more
FPS, FRAMES, BAR = 16, 33, 5
MODEL = next(row.id for row in MODELS.values() if row.control_image == "none" and not row.two_transformers)
TIMES = "() => [...document.querySelectorAll('#player video')].map((video) => video.currentTime)"
# Where the bar stands in each video, which tells the frame that is really shown.
SHOWN = """() => [...document.querySelectorAll('#player video')].map((video) => {
    const canvas = Object.assign(document.createElement('canvas'), {width: video.videoWidth, height: 1});
    const context = canvas.getContext('2d');
    context.drawImage(video, 0, 4, video.videoWidth, 1, 0, 0, video.videoWidth, 1);
    const row = context.getImageData(0, 0, video.videoWidth, 1).data;
    let best = 0, at = 0;
    for (let x = 0; x + 5 <= video.videoWidth; x += 5) {
        let sum = 0;
        for (let i = 0; i < 5; i++) sum += row[4 * (x + i) + 1];
        if (sum > best) { best = sum; at = x / 5; }
    }
    return at;
})"""
PIXEL = """([x, y]) => {
    const canvas = document.querySelector('#player [data-part="canvas"]');
    const at = [Math.floor(x * canvas.width), Math.floor(y * canvas.height)];
    return [...canvas.getContext('2d').getImageData(...at, 1, 1).data].slice(0, 3);
}"""

# Where all videos stand at so many moments in a row, a quarter of a second apart, at which the first one says its time.
LOOKS = """count => new Promise((done) => {
    const videos = [...document.querySelectorAll('#player video')], looks = [];
    videos[0].addEventListener('timeupdate', function look() {
        looks.push(videos.map((video) => video.currentTime));
        if (looks.length < count) return;
        videos[0].removeEventListener('timeupdate', look);
        done(looks);
    });
})"""
LOOKS_A_SECOND = 4


class Bars(FakeRender):
    """A white bar in the upper half that is one place further in each frame; below, a colour by the seed."""

    def __call__(self, generation: Generation, on_progress: OnProgress) -> Clip:
        clip = super().__call__(generation, on_progress)
        frames = np.zeros_like(clip.frames)
        frames[:, generation.height // 2 :] = ((200, 40, 40), (40, 60, 200), (40, 160, 60))[generation.seed % 3]
        for index, frame in enumerate(frames):
            frame[: generation.height // 2, index * BAR : (index + 1) * BAR] = 255
        return Clip(frames, clip.width, clip.height, clip.num_frames, clip.fps, clip.seed, {})


@pytest.fixture(scope="module")
def bars() -> Bars:
    return Bars()


@pytest.fixture(scope="module")
def player_app(tmp_path_factory: pytest.TempPathFactory, bars: Bars) -> Iterator[App]:
    with running(tmp_path_factory.mktemp("player"), bars) as app:
        yield app
        for gate in bars.gates.values():
            gate.open()


def compare(app: App, columns: dict[str, Any], rows: dict[str, Any] | None = None, frames: int = FRAMES) -> str:
    prompt = {"prompt": "bars", "width": 192, "height": 64, "num_frames": frames, "fps": FPS, "sample_steps": 2}
    axes = {"columns": columns, **({"rows": rows} if rows else {})}
    return app.service.submit({"model": MODEL, "prompts": [{**prompt, "seed": 7}], "compare": axes}, LOCAL_ACCESS).id


def opened(page: Page, app: App, job_id: str, count: int) -> Locator:
    """The player with all its videos on their first frame, paused."""
    page.emulate_media(reduced_motion="reduce")
    page.goto(f"{app.url}?compare={job_id}")
    player = page.locator("#player")
    expect(player.locator('td[data-state="done"]')).to_have_count(count)
    page.wait_for_function(
        "count => [...document.querySelectorAll('#player video')].filter((v) => v.readyState >= 3).length === count",
        arg=count,
    )
    player.get_by_label("Frame", exact=True).fill("0")
    return player


def frame_count(player: Locator) -> Locator:
    return player.locator('[data-part="count"]')


def all_at(page: Page, frame: int | list[int]) -> None:
    """Waits until every video shows the frame, by its time and by its pixels."""
    page.wait_for_function(
        f"""frame => {{
            const seeking = [...document.querySelectorAll('#player video')].some((video) => video.seeking);
            const shown = ({SHOWN})();
            const list = Array.isArray(frame) ? frame : shown.map(() => frame);
            return !seeking && JSON.stringify(shown) === JSON.stringify(list);
        }}""",
        arg=frame,
    )


def await_pixel(page: Page, colour: tuple[int, int, int], within: int) -> None:
    """Waits until the stage shows the colour in the middle of its lower half."""
    page.wait_for_function(
        f"([colour, within]) => ({PIXEL})([0.5, 0.75]).every((level, i) => Math.abs(level - colour[i]) <= within)",
        arg=[colour, within],
    )


def apart(times: list[float]) -> float:
    """The largest distance in frames, around the loop."""
    length = FRAMES / FPS
    gaps = [abs(one - other) for one in times for other in times]
    return max(min(gap, length - gap) for gap in gaps) * FPS


@pytest.mark.soak
def test_four_videos_loop_within_one_frame_of_each_other(page: Page, player_app: App) -> None:
    job_id = compare(player_app, {"field": "seed", "values": [1, 2]}, {"field": "guidance_scale", "values": [1, 3]})
    player = opened(page, player_app, job_id, 4)
    player.get_by_role("button", name="Play", exact=True).click()
    expect(player.get_by_role("button", name="Pause", exact=True)).to_be_visible()
    # A moment of a busy machine is not a drift: a few looks tell whether they are in step.
    looks = [apart(times) for times in page.evaluate(LOOKS, int(LOOKS_A_SECOND * SECONDS) + 5)[-5:]]
    print(f"frames apart after {SECONDS:g} s: {', '.join(f'{look:.2f}' for look in looks)}")
    assert float(np.median(looks)) < 1
    assert not page.evaluate("[...document.querySelectorAll('#player video')].some((video) => video.paused)")
    player.get_by_role("button", name="Pause", exact=True).click()
    page.wait_for_function("![...document.querySelectorAll('#player video')].some((v) => v.seeking || !v.paused)")
    assert apart(page.evaluate(TIMES)) < 0.01
    assert len(set(page.evaluate(SHOWN))) == 1


def test_scrubbing_and_stepping_show_one_frame_in_all(page: Page, player_app: App) -> None:
    job_id = compare(player_app, {"field": "seed", "values": [1, 2, 3]})
    player = opened(page, player_app, job_id, 3)
    for frame in (20, 0, 32, 7):
        player.get_by_label("Frame", exact=True).fill(str(frame))
        expect(frame_count(player)).to_have_text(f"{frame + 1} / {FRAMES}")
        all_at(page, frame)
    player.get_by_role("button", name="One frame forward").click()
    all_at(page, 8)
    player.get_by_role("button", name="One frame back").click()
    player.get_by_role("button", name="One frame back").click()
    all_at(page, 6)


def test_the_keys(page: Page, player_app: App) -> None:
    job_id = compare(player_app, {"field": "seed", "values": [1, 2]})
    player = opened(page, player_app, job_id, 2)
    player.locator(".player").focus()
    for key, frame in (("End", 32), ("Home", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1)):
        page.keyboard.press(key)
        all_at(page, frame)
    page.keyboard.press("Space")
    expect(player.get_by_role("button", name="Pause", exact=True)).to_be_visible()
    page.keyboard.press("Space")
    expect(player.get_by_role("button", name="Play", exact=True)).to_be_visible()
    player.get_by_role("button", name="Enlarge seed 2").focus()
    page.keyboard.press("Enter")
    stage = player.get_by_role("region", name="Enlarged")
    expect(stage).to_be_visible()
    page.keyboard.press("Escape")
    expect(stage).to_be_hidden()


def test_without_loop_all_stop_on_the_last_frame(page: Page, player_app: App) -> None:
    job_id = compare(player_app, {"field": "seed", "values": [1, 2]})
    player = opened(page, player_app, job_id, 2)
    player.get_by_role("button", name="Loop").click()
    expect(player.get_by_role("button", name="Loop")).to_have_attribute("aria-pressed", "false")
    player.get_by_label("Speed").select_option("2")
    player.get_by_role("button", name="Play", exact=True).click()
    expect(player.get_by_role("button", name="Play", exact=True)).to_be_visible()
    all_at(page, FRAMES - 1)


def test_a_shorter_clip_holds_its_last_frame(page: Page, player_app: App) -> None:
    job_id = compare(player_app, {"field": "num_frames", "values": [9, FRAMES]})
    player = opened(page, player_app, job_id, 2)
    expect(frame_count(player)).to_have_text(f"1 / {FRAMES}")
    player.get_by_label("Frame", exact=True).fill("20")
    all_at(page, [8, 20])
    player.get_by_label("Frame", exact=True).fill("5")
    all_at(page, [5, 5])


def test_the_wipe_shows_one_left_and_the_other_right(page: Page, player_app: App) -> None:
    job_id = compare(player_app, {"field": "seed", "values": [0, 1]})
    player = opened(page, player_app, job_id, 2)
    player.get_by_role("button", name="Enlarge seed 0").click()
    player.get_by_role("button", name="Wipe", exact=True).click()
    expect(player.get_by_label("Cell B")).to_have_value("1,0")

    def await_sides(expected: str) -> None:
        page.wait_for_function(
            f"""expected => expected === [0.1, 0.4, 0.6, 0.9].map((x) => {{
                const [red, , blue] = ({PIXEL})([x, 0.75]);
                return red > blue ? 'A' : 'B';
            }}).join('')""",
            arg=expected,
        )

    await_sides("AABB")
    player.get_by_label("Wipe position").fill("250")
    await_sides("ABBB")
    canvas = player.locator("canvas")
    width = canvas.evaluate("canvas => canvas.clientWidth")
    canvas.hover(position={"x": 0.3 * width, "y": 20})
    page.mouse.down()
    canvas.hover(position={"x": 0.7 * width, "y": 30})
    page.mouse.up()
    await_sides("AAAB")
    player.get_by_role("button", name="Swap A and B").click()
    await_sides("BBBA")
    player.get_by_label("Frame", exact=True).fill("30")
    all_at(page, 30)
    page.wait_for_function(f"at => ({PIXEL})(at)[1] > 200", arg=[(30.5 * BAR) / 192, 0.1])  # the stage follows


def test_the_difference_of_two_cells(page: Page, player_app: App) -> None:
    # Equal cells share a file, so their difference is nothing at all.
    job_id = compare(player_app, {"field": "seed", "values": [0, 1]}, {"field": "sample_steps", "values": [2, 2]})
    player = opened(page, player_app, job_id, 4)
    player.get_by_role("button", name="Enlarge seed 0 · steps 2").first.click()
    player.get_by_role("button", name="Difference", exact=True).click()
    player.get_by_label("Cell B").select_option("1,0")
    player.get_by_label("Gain of the difference").select_option("1")
    await_pixel(page, (160, 20, 160), 16)
    assert max(page.evaluate(PIXEL, [0.99, 0.25])) < 12  # where both are black
    player.get_by_label("Gain of the difference").select_option("4")
    await_pixel(page, (255, 80, 255), 40)
    player.get_by_label("Cell B").select_option("0,1")
    await_pixel(page, (0, 0, 0), 2)


def test_a_cell_that_ends_leaves_the_playing_ones_alone(page: Page, player_app: App, bars: Bars) -> None:
    gate = bars.gate(3, 2)
    job_id = compare(player_app, {"field": "seed", "values": [1, 2, 3]})
    player = opened(page, player_app, job_id, 2)
    expect(player.locator('td[data-state="running"]')).to_contain_text("step 1 of 2")
    player.get_by_role("button", name="Play", exact=True).click()
    page.evaluate("document.querySelectorAll('#player video').forEach((video) => { video.dataset.mark = 'same'; })")
    gate.open()
    expect(player.locator('td[data-state="done"]')).to_have_count(3)
    assert player.locator('video[data-mark="same"]').count() == 2
    # The new one joins in.
    page.wait_for_function(
        "[...document.querySelectorAll('#player video')].every((v) => v.readyState > 2 && !v.paused)"
    )
    wait_until(lambda: all(apart(times) < 1.6 for times in page.evaluate(LOOKS, 3)))


def test_leaving_the_tab_stops_the_videos(page: Page, player_app: App) -> None:
    player = opened(page, player_app, compare(player_app, {"field": "seed", "values": [1, 2]}), 2)
    player.get_by_role("button", name="Play", exact=True).click()
    page.wait_for_function("[...document.querySelectorAll('#player video')].every((v) => !v.paused)")
    page.get_by_role("tab", name="Generate", exact=True).click()
    page.wait_for_function("[...document.querySelectorAll('#player video')].every((v) => v.paused)")
