"""Records a run on the demo for the README: Generate with its live picture, then LoRA strengths side by side.

`python -m tools.screen_recording`; it needs Chromium or Chrome. The recording is an animated WebP: moments in which
nothing on the page changes are left out, so it plays several times faster than the run was.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page, ViewportSize, expect

from tools.screenshots import ROOT, SHOWN, opened_demo
from wan_ui.models import MODELS

VIEW: ViewportSize = {"width": 1280, "height": 840}  # the chips of Compare's axes are in sight
STEPS = 40  # so many that a quick machine shows live pictures, too
WIDTH = 800  # pixels of the recording
EVERY = 0.25  # seconds between two looks
SHOWN_FOR = 140  # milliseconds of a frame
PAUSE = 1600  # milliseconds on which a scene ends
CHANGED = 6  # of 255: the largest difference of a pixel that is not worth a frame
MOST_BYTES = 2_000_000
_POINTER = """([x, y]) => {
  const dot = document.getElementById('pointer') || document.body.appendChild(document.createElement('div'));
  dot.id = 'pointer';
  dot.style.cssText = `position: fixed; z-index: 99999; pointer-events: none; width: 26px; height: 26px;
    border-radius: 50%; background: rgb(200 30 120 / .35); border: 2px solid rgb(200 30 120);
    left: ${x - 15}px; top: ${y - 15}px`;
}"""
_IN_SIGHT = """(button) => {
  const middle = () => {
    const box = button.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };
  const isInSight = button.contains(document.elementFromPoint(...middle()));
  if (!isInSight) button.scrollIntoView({ block: 'center', behavior: 'instant' });
  return middle();
}"""
_IN_ITS_MIDDLE = """(selector) => {
  const video = document.querySelector(selector);
  return Math.abs(video.currentTime / video.duration - 0.5) < 0.1;
}"""


@dataclass
class Recording:
    """The frames of a page that differ from the one before, with how long each is shown."""

    page: Page
    frames: list[Image.Image] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)

    def look(self) -> None:
        """Takes a frame, unless nothing has changed."""
        shot = Image.open(io.BytesIO(self.page.screenshot(scale="css"))).convert("RGB")
        frame = shot.resize((WIDTH, WIDTH * shot.height // shot.width), Image.Resampling.LANCZOS)
        if self.frames:
            difference = np.abs(np.asarray(frame, np.int16) - np.asarray(self.frames[-1], np.int16))
            if difference.max() <= CHANGED:
                return
        self.frames.append(frame)
        self.durations.append(SHOWN_FOR)

    def watch(self, seconds: float) -> None:
        """Takes frames for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.look()
            self.page.wait_for_timeout(1000 * EVERY)

    def until(self, shown: Locator, seconds: float = 300) -> None:
        """Takes frames until the element is visible."""
        end = time.monotonic() + seconds
        while not shown.is_visible():
            if time.monotonic() > end:
                raise TimeoutError(f"{shown} was not shown in {seconds} s")
            self.look()
            self.page.wait_for_timeout(1000 * EVERY)

    def pause(self, video: str | None = None) -> None:
        """Takes a frame that is shown longer, of the middle of the first video that a selector finds."""
        if video is not None:
            self.page.wait_for_function(_IN_ITS_MIDDLE, arg=video)
        self.look()
        self.durations[-1] = PAUSE

    def press(self, button: Locator) -> None:
        """Shows where is pressed, and presses; scrolls only where the button is not in sight."""
        x, y = button.evaluate(_IN_SIGHT)
        self.page.evaluate(_POINTER, [x, y])
        self.look()
        self.durations[-1] = PAUSE // 2
        self.page.mouse.click(x, y)
        self.page.mouse.move(0, 0)  # nothing is pointed at that is shown then
        self.look()
        self.page.evaluate("() => document.getElementById('pointer').remove()")

    def save(self, path: Path) -> None:
        """Writes the animated WebP; an error where it is larger than a repository should carry."""
        first, *rest = self.frames
        first.save(
            path,
            save_all=True,
            append_images=rest,
            duration=self.durations,
            loop=0,
            quality=60,
            method=4,
            minimize_size=True,
        )
        size = path.stat().st_size
        print(f"{path.name}: {size / 1e3:.0f} kB, {len(self.frames)} frames, {sum(self.durations) / 1000:.0f} s")
        if size > MOST_BYTES:
            raise ValueError(f"{path} has more than {MOST_BYTES} bytes: record fewer frames")


def record(page: Page, path: Path) -> None:
    """One run: a video with a LoRA, then the same at several strengths."""
    recording = Recording(page)
    form = page.locator("#form")
    form.get_by_label("Steps", exact=True).locator("visible=true").fill(str(STEPS))
    page.evaluate("() => window.scrollTo(0, 0)")
    recording.pause()
    recording.press(page.get_by_role("button", name="Generate", exact=True).locator("visible=true"))
    recording.until(page.locator("#result video"))
    recording.watch(3)
    recording.pause("#result video")
    recording.press(form.get_by_role("button", name="Compare strengths"))
    recording.press(form.get_by_role("button", name="Compare", exact=True))
    recording.until(page.locator(".board-line", has_text="Done"))
    page.locator("#player").scroll_into_view_if_needed()
    recording.watch(4)
    recording.pause("#player video")
    recording.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "recording.webp")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, opened_demo(Path(scratch), VIEW) as page:
        expect(page.get_by_role("tab", name=MODELS[SHOWN].label, exact=True)).to_be_visible()
        record(page, arguments.out)


if __name__ == "__main__":
    main()
