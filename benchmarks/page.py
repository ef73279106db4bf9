"""How light the page is in a browser: `python -m benchmarks.page [--before CHECKOUT] [--runs 5]`.

Opens the demo's page in Chromium, and beside it a plain Blocks page of the same component types, which is what Gradio
itself costs; `--before` measures another checkout of this app in the same run. The pages are opened in turn, so that
what else the machine does meets all of them. Prints medians and the load averages before each turn, as a table and as
JSON. Everything else on the machine should be idle.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, sync_playwright

from tests.browser_fixture import ARGUMENTS, find_browser

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 180.0
STOP_SECONDS = 15.0
IDLE_SECONDS = 30.0
SLOW = {"offline": False, "latency": 150, "downloadThroughput": 1.6e6 / 8, "uploadThroughput": 1.6e6 / 8}
"""1.6 Mbit/s with 150 ms of latency: a phone."""
PHONE: ViewportSize = {"width": 390, "height": 844}
DESKTOP: ViewportSize = {"width": 1440, "height": 900}

OBSERVE = """
window.measured = { freeze: 0, shift: 0, usable: 0 };
new PerformanceObserver((list) => {
  for (const task of list.getEntries()) window.measured.freeze = Math.max(window.measured.freeze, task.duration);
}).observe({ type: "longtask", buffered: true });
new PerformanceObserver((list) => {
  for (const shift of list.getEntries()) if (!shift.hadRecentInput) window.measured.shift += shift.value;
}).observe({ type: "layout-shift", buffered: true });
"""
USABLE = """() => {
  const visible = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  const generate = [...document.querySelectorAll("button.generate")].some(
    (button) => visible(button) && !button.disabled,
  );
  const filling = window.wanUi && window.wanUi.isFilling && window.wanUi.isFilling("#form");
  return generate && !filling && [...document.querySelectorAll(".effective")].some(visible);
}"""
"""Generate can be pressed, the form holds what it held before, and the size that will be rendered is said."""
PLAYING = """() => {
  const video = document.querySelector("video");
  return video !== null && !video.paused && video.currentTime > 0;
}"""
PLAIN = "() => document.querySelectorAll('gradio-app .block, .gradio-container .block').length > 20"
PRESS = """() => new Promise((resolve) => {
  const button = [...document.querySelectorAll("button.generate")].find((each) => each.offsetParent !== null);
  const start = performance.now();
  new MutationObserver((_, observer) => {
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - start)));
  }).observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
  button.click();
})"""
"""Milliseconds from a click to the first frame in which anything on the page has changed."""
COMPARE = """() => new Promise((resolve) => {
  const tab = [...document.querySelectorAll('[role="tab"]')].find((each) => each.textContent.trim() === "Compare");
  const start = performance.now();
  tab.click();
  const look = () => {
    const shown = [...document.querySelectorAll("label, legend, span")].some(
      (each) => each.offsetParent !== null && each.textContent.trim().startsWith("Columns"),
    );
    if (shown) requestAnimationFrame(() => resolve(performance.now() - start));
    else requestAnimationFrame(look);
  };
  look();
})"""
FOCUSED = """() => {
  const element = document.activeElement;
  const label = element.getAttribute("aria-label") || (element.labels && element.labels[0]?.textContent) || "";
  return element.matches("button.generate") ? "Generate" : label.trim();
}"""

UNSEEN = ("state", "browserstate", "timer")
"""Types of components that draw nothing."""

Figures = Mapping[str, float]


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def serving(command: Sequence[str], folder: Path, port: int) -> Iterator[str]:
    """The address of a server, which ends with the block. Raises RuntimeError if it does not answer."""
    address = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"No answer from {' '.join(command)} in {folder}.")
            try:
                if httpx.get(address, timeout=5).status_code == httpx.codes.OK:
                    break
            except httpx.TransportError:
                time.sleep(0.1)  # the server is starting: it has no event to wait for
        yield address
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:  # an older checkout may miss a signal during its start
            process.kill()
            process.wait()


def app(checkout: Path, data: Path, lora_dir: Path | None = None) -> tuple[list[str], int]:
    """The command of a checkout's demo, and its port."""
    port = free_port()
    command = [sys.executable, "app.py", "--demo", "--port", str(port), "--data-dir", str(data)]
    return [*command, *(["--lora-dir", str(lora_dir)] if lora_dir else [])], port


@contextmanager
def opened(browser: Browser, viewport: ViewportSize) -> Iterator[BrowserContext]:
    """A fresh profile."""
    context = browser.new_context(viewport=viewport)
    context.set_default_timeout(START_SECONDS * 1000)
    context.add_init_script(OBSERVE)
    yield context
    context.close()


class Traffic:
    """Counts a page's requests and the bytes of their answers on the wire."""

    def __init__(self, page: Page) -> None:
        self.requests = 0
        self.bytes = 0
        session = page.context.new_cdp_session(page)
        session.send("Network.enable")
        session.on("Network.requestWillBeSent", self._count)
        session.on("Network.loadingFinished", self._add)  # `dataReceived` leaves out much of what comes in pieces
        self.session = session

    def _count(self, event: Mapping[str, Any]) -> None:
        self.requests += not str(event["request"]["url"]).startswith(("data:", "blob:"))

    def _add(self, event: Mapping[str, Any]) -> None:
        self.bytes += int(event["encodedDataLength"])


def load(page: Page, address: str, ready: str = USABLE) -> dict[str, float]:
    """Opens the page: seconds until usable, the longest freeze, requests and bytes."""
    traffic = Traffic(page)
    start = time.monotonic()
    page.goto(address, wait_until="commit")
    page.wait_for_function(ready)
    seconds = time.monotonic() - start
    page.wait_for_load_state("load")
    page.wait_for_timeout(1000)  # what the page asks for once it is usable belongs to its opening
    freeze = float(page.evaluate("window.measured.freeze")) / 1000
    return {"seconds": seconds, "freeze": freeze, "requests": traffic.requests, "kB": traffic.bytes / 1000}


def openings(browser: Browser, address: str, ready: str = USABLE) -> dict[str, float]:
    """A cold and a warm opening of one profile."""
    with opened(browser, DESKTOP) as context:
        figures = {}
        for state in ("cold", "warm"):
            page = context.new_page()
            figures.update({f"{state} {name}": value for name, value in load(page, address, ready).items()})
            page.close()
        return figures


def slow_line(browser: Browser, address: str, ready: str = USABLE) -> dict[str, float]:
    """Seconds until usable at 1.6 Mbit/s, and what moved meanwhile."""
    with opened(browser, PHONE) as context:
        page = context.new_page()
        page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", SLOW)
        seconds = load(page, address, ready)["seconds"]
        return {"1.6 Mbit/s seconds": seconds, "1.6 Mbit/s layout shift": float(page.evaluate("window.measured.shift"))}


def phone(browser: Browser, address: str) -> dict[str, float]:
    """Layout shift while the page opens on a phone."""
    with opened(browser, PHONE) as context:
        page = context.new_page()
        load(page, address)
        return {"phone layout shift": float(page.evaluate("window.measured.shift"))}


def shared_video(address: str) -> str:
    """Renders a video and returns the address of its guest page."""
    with httpx.Client(base_url=address, timeout=START_SECONDS) as client:
        size = {"width": 128, "height": 128, "num_frames": 17, "sample_steps": 4}
        body = {"model": "wan21_1b", "prompts": [{"prompt": "a blue circle moving right", **size}]}
        request_id = client.post("/v1/inference", json=body).raise_for_status().json()["request_id"]
        deadline = time.monotonic() + START_SECONDS
        while client.get(f"/v1/requests/{request_id}/status").json()["status"] != "succeeded":
            if time.monotonic() > deadline:
                raise RuntimeError("The demo rendered nothing.")
            time.sleep(0.2)
        return str(client.post("/v1/shares", json={"entry": f"{request_id}-0"}).raise_for_status().json()["url"])


def guest_page(browser: Browser, address: str) -> dict[str, float]:
    """Seconds at 1.6 Mbit/s until the video of a guest page plays."""
    with opened(browser, PHONE) as context:
        page = context.new_page()
        page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", SLOW)
        start = time.monotonic()
        page.goto(address, wait_until="commit")
        page.wait_for_function(PLAYING)
        return {"1.6 Mbit/s guest page seconds": time.monotonic() - start}


def presses(browser: Browser, address: str) -> dict[str, float]:
    """Milliseconds from a press to what is seen of it, and to the Compare tab; presses of Tab to two controls."""
    with opened(browser, DESKTOP) as context:
        page = context.new_page()
        load(page, address)
        compare = float(page.evaluate(COMPARE))
    # A profile of its own: a page opens on the tab that was left.
    with opened(browser, DESKTOP) as context:
        page = context.new_page()
        load(page, address)
        stops = tab_stops(page)
        return {"press ms": float(page.evaluate(PRESS)), "Compare tab ms": compare, **stops}


def tab_stops(page: Page, most: int = 80) -> dict[str, float]:
    """How often Tab is pressed from the page's top until the prompt and Generate have the focus."""
    page.evaluate("document.activeElement.blur()")
    stops: dict[str, float] = {}
    for pressed in range(1, most + 1):
        page.keyboard.press("Tab")
        name = page.evaluate(FOCUSED)
        for wanted in ("Prompt", "Generate"):
            if name == wanted:
                stops.setdefault(f"Tab to {wanted}", pressed)
        if len(stops) == 2:
            break
    return stops


def idle(browser: Browser, address: str) -> dict[str, float]:
    """New requests a minute of an idle page that is seen, and of one in a hidden tab."""
    figures = {}
    for state in ("visible", "hidden"):
        with opened(browser, DESKTOP) as context:
            page = context.new_page()
            load(page, address)
            if state == "hidden":
                page.evaluate(
                    "Object.defineProperty(document, 'visibilityState', { get: () => 'hidden' });"
                    "Object.defineProperty(document, 'hidden', { get: () => true });"
                    "document.dispatchEvent(new Event('visibilitychange'));"
                )
            page.wait_for_timeout(5000)  # what opening and the change itself cause is not idling
            traffic = Traffic(page)
            page.wait_for_timeout(IDLE_SECONDS * 1000)
            figures[f"idle {state} requests/min"] = traffic.requests * 60 / IDLE_SECONDS
    return figures


def document_sizes(checkout: Path) -> dict[str, float]:
    """Bytes of the first answer, compressed, with 0, 300 and 3,000 LoRA files in the folder."""
    sizes = {}
    for count in (0, 300, 3000):
        with tempfile.TemporaryDirectory() as folder:
            loras = Path(folder) / "loras"
            loras.mkdir()
            for index in range(count):
                (loras / f"lora_{index:04d}.safetensors").write_bytes(b"")
            command, port = app(checkout, Path(folder) / "data", loras)
            with serving(command, checkout, port) as address:
                answer = httpx.get(address, headers={"Accept-Encoding": "gzip"})
                raw = answer.num_bytes_downloaded
                sizes[f"document kB, {count} LoRAs"] = raw / 1000
                sizes[f"document kB, {count} LoRAs, gzip"] = len(gzip.compress(answer.content)) / 1000
    return sizes


def of_app(browser: Browser, address: str) -> dict[str, float]:
    """Every figure of one opening of the app's page."""
    figures = openings(browser, address)
    for measure in (slow_line, phone, presses):
        figures.update(measure(browser, address))
    return figures


def of_plain_page(browser: Browser, address: str) -> dict[str, float]:
    """What Gradio alone costs."""
    return {**openings(browser, address, PLAIN), **slow_line(browser, address, PLAIN)}


def types_of(address: str) -> Counter[str]:
    """How many components of each type a page has."""
    components = httpx.get(f"{address}/config", timeout=30).json()["components"]
    return Counter(component["type"] for component in components)


def serve_plain_page(types: Mapping[str, int], port: int) -> None:
    """A Blocks page with as many components of each type, and nothing of this app."""
    import gradio as gr

    known = {cls.__name__.lower(): cls for cls in vars(gr).values() if isinstance(cls, type)}
    with gr.Blocks(analytics_enabled=False) as blocks:
        for name, count in types.items():
            cls = known.get(name.replace("_", "")) or known.get(name)
            if (
                cls is None
                or not issubclass(cls, gr.components.Component)
                or name in ("state", "browserstate", "timer")
            ):
                continue
            for _ in range(count):
                cls()
    blocks.launch(server_port=port, quiet=True, footer_links=[])


def median_of(turns: Sequence[Figures]) -> dict[str, float]:
    """The median of each figure."""
    return {name: median(turn[name] for turn in turns) for name in turns[0]}


def measure(browser: Browser, options: argparse.Namespace, folder: Path) -> tuple[dict[str, Figures], list[float]]:
    """The figures by page, and the load averages before each turn."""
    checkouts = {"now": ROOT, **({"before": options.before.resolve()} if options.before else {})}
    turns: dict[str, list[Figures]] = {name: [] for name in (*checkouts, "plain Blocks page")}
    once: dict[str, dict[str, float]] = {name: {} for name in turns}
    loads: list[float] = []
    with ExitStack() as servers:
        addresses = {}
        for name, checkout in checkouts.items():
            command, port = app(checkout, folder / name)
            addresses[name] = servers.enter_context(serving(command, checkout, port))
        types = types_of(addresses["now"])
        once["now"]["components"] = types.total()
        port = free_port()
        plain = [sys.executable, "-m", "benchmarks.page", "--plain", json.dumps(types), "--port", str(port)]
        addresses["plain Blocks page"] = servers.enter_context(serving(plain, ROOT, port))
        for _ in range(options.runs):
            for name, address in addresses.items():
                loads.append(os.getloadavg()[0])
                turns[name].append(of_app(browser, address) if name in checkouts else of_plain_page(browser, address))
        for name in checkouts:
            once[name] |= idle(browser, addresses[name])
        guest = shared_video(addresses["now"])  # last, so that the pages above have no finished video
        once["now"] |= median_of([guest_page(browser, guest) for _ in range(options.runs)])
    if not options.skip_documents:
        for name, checkout in checkouts.items():
            once[name] |= document_sizes(checkout)
    return {name: {**median_of(turns[name]), **once[name]} for name in turns}, loads


def main(arguments: Sequence[str]) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--before", type=Path, help="another checkout, measured in the same run")
    parser.add_argument("--skip-documents", action="store_true", help="leave out the sizes with many LoRA files")
    parser.add_argument("--plain", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.plain:
        serve_plain_page(json.loads(options.plain), options.port)
        return
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=[*ARGUMENTS, *as_root])
        columns, loads = measure(browser, options, Path(folder))
        browser.close()
    names = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    print(
        f"{options.runs} runs, medians; load average {min(loads):.1f} to {max(loads):.1f}, median {median(loads):.1f}"
    )
    print("| |", " | ".join(columns), "|")
    for name in names:
        print(f"| {name} |", " | ".join(f"{each[name]:.3g}" if name in each else "" for each in columns.values()), "|")
    print(json.dumps({**columns, "load averages": loads}))


if __name__ == "__main__":
    main(sys.argv[1:])
