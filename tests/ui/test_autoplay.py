"""Videos play by themselves, muted and looped; with reduced motion they show their middle frame."""

from __future__ import annotations

from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from tests.ui.fake_app import App
from tests.ui.page_object import fill, generate, open_page, small, used
from wan_ui.access import LOCAL_ACCESS

pytestmark = pytest.mark.browser

FRAMES = 9
GRID = {"columns": {"field": "seed", "values": [1801, 1802]}}
PROMPT = {"prompt": "plays", "width": 64, "height": 64, "num_frames": FRAMES, "fps": 8, "sample_steps": 2}
PLAYING = """selector => {
    const videos = [...document.querySelectorAll(selector)];
    const plays = (video) => !video.paused && video.muted && video.loop && video.currentTime > 0;
    return videos.length && videos.every(plays);
}"""
MIDDLE = """selector => {
    const videos = [...document.querySelectorAll(selector)];
    return videos.length && videos.every((video) => video.paused && !video.seeking
        && Math.abs(video.currentTime - video.duration / 2) < 0.1);
}"""


MOTIONS: tuple[tuple[Literal["no-preference", "reduce"], str], ...] = (("no-preference", PLAYING), ("reduce", MIDDLE))


def test_the_result(page: Page, app: App):
    open_page(page, app)
    small(page, "plays", 1803)
    fill(page, Frames=str(FRAMES))
    generate(page)
    for motion, expected in MOTIONS:
        expect(used(page, "Seed")).to_have_text("1803")
        page.wait_for_function(expected, arg="#result video")
        if motion == "no-preference":
            page.emulate_media(reduced_motion="reduce")
            page.reload()


def test_a_comparison(page: Page, app: App):
    job = app.service.submit({"model": "wan22_5b", "prompts": [PROMPT], "compare": GRID}, LOCAL_ACCESS)
    for motion, expected in MOTIONS:
        page.emulate_media(reduced_motion=motion)
        page.goto(f"{app.url}?compare={job.id}")
        expect(page.locator('#player td[data-state="done"]')).to_have_count(2)
        page.wait_for_function(expected, arg="#player video")
        page.locator("#player").get_by_role("button", name="One frame forward").click()
        page.wait_for_function("[...document.querySelectorAll('#player video')].every((video) => video.paused)")
