"""How light the page is in a browser: `python -m benchmarks.page [--before CHECKOUT] [--runs 5]`.

Opens the demo's page in Chromium, and beside it a plain Blocks page of the same component types, which is what Gradio
itself costs; `--before` measures another checkout of this app in the same run. Prints medians as a table and as JSON.
Everything else on the machine should be idle: the load average is printed with the figures.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
  const visible = (element) => element.offsetParent !== null;
  const generate = [...document.querySelectorAll("button.generate")].some(
    (button) => visible(button) && !button.disabled,
  );
  return generate && [...document.querySelectorAll(".effective")].some(visible);
}"""
"""Generate can be pressed and the size that will be rendered is said, which comes with the values kept from before."""
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
        session.on("Network.dataReceived", self._add)
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
    """Seconds until usable at 1.6 Mbit/s."""
    with opened(browser, PHONE) as context:
        page = context.new_page()
        page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", SLOW)
        return {"1.6 Mbit/s seconds": load(page, address, ready)["seconds"]}


def phone(browser: Browser, address: str) -> dict[str, float]:
    """Layout shift while the page opens on a phone."""
    with opened(browser, PHONE) as context:
        page = context.new_page()
        load(page, address)
        return {"phone layout shift": float(page.evaluate("window.measured.shift"))}


def presses(browser: Browser, address: str) -> dict[str, float]:
    """Milliseconds from a press to what is seen of it, and to the Compare tab; presses of Tab to two controls."""
    with opened(browser, DESKTOP) as context:
        page = context.new_page()
        load(page, address)
        compare = float(page.evaluate(COMPARE))
        page.close()
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
            page.wait_for_timeout(2000)  # what the change itself causes is not idling
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


def medians(measure: Callable[[], Figures], runs: int) -> dict[str, float]:
    """The median of each figure over the runs."""
    results = [measure() for _ in range(runs)]
    return {name: median(result[name] for result in results if name in result) for name in results[0]}


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
    columns: dict[str, dict[str, float]] = {}
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=[*ARGUMENTS, *as_root])
        checkouts = {"now": ROOT, **({"before": options.before.resolve()} if options.before else {})}
        for name, checkout in checkouts.items():
            command, port = app(checkout, Path(folder) / name)
            with serving(command, checkout, port) as address:
                columns[name] = medians(lambda address=address: of_app(browser, address), options.runs)  # type: ignore[misc]
                columns[name].update(idle(browser, address))
                if name == "now":
                    types = types_of(address)
                    columns[name]["components"] = types.total()
            if not options.skip_documents:
                columns[name].update(document_sizes(checkout))
        port = free_port()
        plain = [sys.executable, "-m", "benchmarks.page", "--plain", json.dumps(types), "--port", str(port)]
        with serving(plain, ROOT, port) as address:
            columns["plain Blocks page"] = medians(lambda: of_plain_page(browser, address), options.runs)
        browser.close()
    names = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    print(f"load average {os.getloadavg()[0]:.1f}, {options.runs} runs, medians")
    print("| |", " | ".join(columns), "|")
    for name in names:
        print(f"| {name} |", " | ".join(f"{each[name]:.3g}" if name in each else "" for each in columns.values()), "|")
    print(json.dumps(columns))


if __name__ == "__main__":
    main(sys.argv[1:])
