"""Makes the README's pictures from the trained demo: the page, a comparison of scales, and a film of its clips.

`PYTHONPATH=. python tools/screenshots.py`; it needs Chromium or Chrome, as the browser tests do.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, ViewportSize, expect, sync_playwright

from tests.browser_fixture import find_browser
from tools import demo_evaluate, demo_scenes
from wan_ui.demo import examples
from wan_ui.demo.checkpoints import DEMO_DEFAULTS, ensure
from wan_ui.models import MODELS

ROOT = Path(__file__).resolve().parent.parent
SHOWN = "wan22_5b"  # the first tab, with a first frame; in the film, from text
WAIT = 300_000  # milliseconds that a render may take on a busy machine
SCALES = (0.0, 0.5, 0.75, 1.0)
FILM = (
    "a red circle moving left on a navy background",
    "a yellow square growing on a teal background",
    "a blue triangle rising slowly on a sand background",
    "a pink star moving right on a black background",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--only", choices=("film", "page"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.only != "page":
            film(Path(scratch, "film"), arguments.out / "demo.webp")
        if arguments.only != "film":
            pages(Path(scratch, "data"), arguments.out)


def film(folder: Path, path: Path) -> None:
    """Above, four prompts; below, one prompt at four LoRA scales."""
    from wan_ui.inference import Engine

    demo = ensure(folder)
    engine = Engine(demo.models_dir, demo.lora_dir, "cpu")
    model = MODELS[SHOWN]
    above = engine.generate({"model": model.id, "prompts": [{"prompt": text, **DEMO_DEFAULTS} for text in FILM]})
    item = {"prompt": f"a {demo_scenes.TRIGGER} red circle moving right on a navy background", **DEMO_DEFAULTS}
    below = [
        clip
        for scale in SCALES
        for clip in engine.generate(
            {"model": model.id, "prompts": [item], "loras": demo_evaluate.attached(model, scale)}
        )
    ]
    engine.close()
    rows = [np.concatenate([clip.frames for clip in clips], axis=2) for clips in (above, below)]
    frames = np.concatenate(rows, axis=1)
    first, *rest = (Image.fromarray(frame) for frame in frames)
    rest += [rest[-1]] * 8  # a pause before it starts again
    first.save(path, save_all=True, append_images=rest, duration=1000 // demo_scenes.FPS, loop=0, quality=85, method=6)
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


@contextmanager
def opened_demo(data_dir: Path, viewport: ViewportSize, *, reduced_motion: bool = False) -> Iterator[Page]:
    """A page of the app started with --demo, with the first model's form filled in."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "app.py", "--demo", "--data-dir", str(data_dir), "--port", str(port)]
    app = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_for(url + "/v1/health")
        with sync_playwright() as playwright:
            flags = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
            browser = playwright.chromium.launch(executable_path=find_browser(), args=flags)
            expect.set_options(timeout=WAIT)
            page = browser.new_page(viewport=viewport, color_scheme="light", locale="en")
            page.emulate_media(reduced_motion="reduce" if reduced_motion else "no-preference")
            page.goto(url)
            # Said once the drafts are in place; a page that still restores them would go back to its first tab.
            expect(page.locator(".effective").locator("visible=true")).to_have_count(1)
            tab = page.get_by_role("tab", name=MODELS[SHOWN].label, exact=True)
            tab.click()
            expect(tab).to_have_attribute("aria-selected", "true")
            expect(page.get_by_label("Prompt", exact=True).locator("visible=true")).to_have_value(examples.FROM_IMAGE)
            yield page
            browser.close()
    finally:
        app.terminate()
        app.wait()


def pages(data_dir: Path, out: Path) -> None:
    """Generates once, compares scales once, and takes a picture after each."""
    with opened_demo(data_dir, {"width": 1280, "height": 900}, reduced_motion=True) as page:
        page.get_by_role("button", name="Generate", exact=True).locator("visible=true").click()
        expect(page.locator("#result video")).to_be_visible()
        page.evaluate("() => window.scrollTo(0, 0)")
        shoot(page, out / "page.png")
        form = page.locator("#form")
        form.get_by_role("button", name="Compare strengths").click()
        form.get_by_role("button", name="Compare", exact=True).click()
        expect(page.locator(".board-line")).to_contain_text("Done")
        page.locator("#player").scroll_into_view_if_needed()
        shoot(page, out / "compare.png")


def shoot(page: Page, path: Path) -> None:
    """A picture once every video on the page shows a frame of its middle."""
    page.evaluate("""() => Promise.all([...document.querySelectorAll('video')].filter((v) => v.duration).map((v) =>
        new Promise((done) => {
          v.pause(); v.controls = false; v.onseeked = done; v.currentTime = v.duration / 2; })))""")
    page.screenshot(path=path)
    small = Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


def wait_for(url: str, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


if __name__ == "__main__":
    main()
