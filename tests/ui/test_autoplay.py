"""Videos play by themselves, muted and looped; with reduced motion they show their middle frame."""

from __future__ import annotations

from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser_fixture import new_context
from tests.ui.fake_app import App
from tests.ui.page_object import fill, generate, open_page, small, used
from tests.waiting import wait_until
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


COUNTED = """(() => {
    const next = window.requestAnimationFrame.bind(window);
    window.framesAsked = 0;
    window.requestAnimationFrame = (callback) => { window.framesAsked += 1; return next(callback); };
    window.askedWithin = (frames) => new Promise((resolve) => {
        const before = window.framesAsked;
        const count = (left) => left ? next(() => count(left - 1)) : resolve(window.framesAsked - before);
        count(frames);
    });
})();"""
"""Counts what the page asks for; `askedWithin` says how often that was during so many frames of its own."""


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


def test_a_settled_page_with_a_paused_result_asks_for_no_animation_frames(browser: Browser, app: App):
    job = app.service.submit({"model": "wan22_5b", "prompts": [{**PROMPT, "seed": 1805}]}, LOCAL_ACCESS)
    wait_until(lambda: app.service.job(job.id, LOCAL_ACCESS).status == "succeeded")
    with new_context(browser) as context:
        context.add_init_script(COUNTED)
        page = context.new_page()
        open_page(page, app)
        page.wait_for_function(PLAYING, arg="#result video")
        page.evaluate("document.querySelectorAll('video').forEach((video) => video.pause())")
        # A loop asks for one in each frame; what the page still does after its opening comes to an end.
        page.wait_for_function("async () => await window.askedWithin(40) < 4")
