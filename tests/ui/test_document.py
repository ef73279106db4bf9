"""What the page's document carries, which is sent anew with every visit."""

from __future__ import annotations

import json
import re

import brotli
import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser_fixture import listening, new_context
from tests.ui.fake_app import App
from tests.ui.page_object import open_page
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.ui.page import API_KEYS
from wan_ui.ui.page_document import SCRIPT
from wan_ui.ui.static_files import COMPONENTS, static_text
from wan_ui.web.compression import BROTLI_QUALITY
from wan_ui.web.security_headers import IMMUTABLE

pytestmark = pytest.mark.slow

MOST_BYTES = 60_000  # of the document as brotli
MOST_COMPONENTS = 160
OF_THE_DEMO = 1  # components more that the demo's page has
MOST_REQUESTS = 82  # eight more than a page of the same component types without own code, `python -m benchmarks.page`
MOST_SHIFT = 0.05
SHIFTS = """
window.shift = 0;
new PerformanceObserver((list) => {
  for (const shift of list.getEntries()) if (!shift.hadRecentInput) window.shift += shift.value;
}).observe({ type: "layout-shift", buffered: true });
"""
TWO_FRAMES = "() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => resolve(true))))"


@pytest.fixture(scope="module")
def document(app: App) -> str:
    return httpx.get(app.url).text


def config(document: str) -> dict:
    match = re.search(r"window\.gradio_config = (\{.*?\});\s*</script>", document, re.DOTALL)
    assert match is not None
    return json.loads(match[1])


def test_no_component_has_an_api_schema_and_no_event_needs_one(document: str):
    shown = config(document)
    assert [component["id"] for component in shown["components"] if set(API_KEYS) & set(component)] == []
    assert {event["api_visibility"] for event in shown["dependencies"]} == {"private"}


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_s_script_is_sent_once(document: str, name: str):
    assert SCRIPT.count(static_text(f"{name}.js")) == 1
    assert json.dumps(static_text(f"{name}.js"))[1:-1] not in json.dumps(config(document))


def test_the_page_s_script_is_a_file_that_browsers_keep(app: App, document: str):
    (path,) = re.findall(r'<script defer src="(scripts/page-[0-9a-f]{16}\.js)"></script>', document)
    answer = httpx.get(app.url + path)
    assert (answer.status_code, answer.text) == (200, SCRIPT)
    assert answer.headers["content-type"].startswith("text/javascript")
    assert answer.headers["cache-control"] == IMMUTABLE
    assert httpx.get(f"{app.url}scripts/page-{'0' * 16}.js").status_code == 404


def test_the_page_s_files_are_there_and_compressed(app: App, document: str):
    paths = re.findall(r'<link rel="(?:preload|modulepreload|stylesheet)" href="([^"]+)"(?! disabled)', document)
    answers = {path: httpx.get(app.url + path, headers={"Accept-Encoding": "br"}) for path in set(paths)}
    assert len(answers) > 40
    assert {answer.status_code for answer in answers.values()} == {200}
    assert {answer.headers["cache-control"] for answer in answers.values()} == {IMMUTABLE}
    encodings = {path.rpartition(".")[2]: answer.headers.get("content-encoding") for path, answer in answers.items()}
    assert encodings == {"js": "br", "css": "br", "woff2": None}


def test_there_are_few_components(document: str):
    assert len(config(document)["components"]) <= MOST_COMPONENTS - OF_THE_DEMO


@pytest.mark.browser
def test_the_document_names_all_that_the_opening_page_loads(page: Page, app: App, document: str):
    """Else the browser learns of it from one script after the other. Nothing is loaded from elsewhere."""
    urls: list[str] = []
    with listening(page, "request", lambda request: urls.append(request.url)):
        open_page(page, app)
    assert [url for url in urls if not url.startswith((app.url, "data:", "blob:"))] == []
    loaded = [url.removeprefix(app.url) for url in urls]
    named = re.findall(r'(?:href|src)="(?:\./)?([^"]+)"', document)
    assert [path for path in loaded if path.startswith("assets/") and path not in named] == []
    of_jobs = [path for path in loaded if path.startswith("v1/")]  # pictures of what other tests have rendered
    assert len(loaded) - len(of_jobs) <= MOST_REQUESTS


@pytest.mark.browser
def test_nothing_moves_while_the_page_opens_on_a_phone(browser: Browser, app: App, document: str):
    """Also where the form is there before the last video, whose box is above it."""
    job = app.service.submit(
        {"model": "wan21_1b", "prompts": [{"prompt": "last", "width": 832, "height": 480, "num_frames": 5, "seed": 1}]},
        LOCAL_ACCESS,
    )
    wait_until(lambda: app.service.job(job.id, LOCAL_ACCESS).status == "succeeded")
    parts = config(document)
    (link,) = [component["id"] for component in parts["components"] if component["props"].get("elem_id") == "link"]
    (look,) = [
        event["id"]
        for event in parts["dependencies"]
        if link in event["outputs"] and "load" in [name for _, name in event["targets"]]
    ]
    held: list[Route] = []

    def hold(route: Route) -> None:
        if json.loads(route.request.post_data or "{}").get("fn_index") == look and not held:
            held.append(route)
        else:
            route.continue_()

    context = new_context(browser, viewport={"width": 390, "height": 844})
    context.add_init_script(SHIFTS)
    page = context.new_page()
    page.route("**/gradio_api/run/**", hold)
    page.goto(app.url)
    page.wait_for_function("() => window.wanUi && !window.wanUi.isFilling('#form')")
    page.evaluate("window.wanUi.afterOpening([])")  # Compare's opening has ended too
    assert len(held) == 1
    expect(page.locator("#skeleton")).to_be_visible()
    held[0].continue_()
    expect(page.locator("#result video, #result img").first).to_be_visible()
    page.evaluate(TWO_FRAMES)
    assert page.evaluate("window.shift") <= MOST_SHIFT
    context.close()


def test_the_document_is_small_on_the_wire(document: str):
    assert len(brotli.compress(document.encode(), quality=BROTLI_QUALITY)) < MOST_BYTES


def test_the_fonts_are_loaded_with_the_document(app: App, document: str):
    (style,) = re.findall(r'<link rel="stylesheet" href="(styles/[^"]+)">', document)
    used = re.findall(r"src: url\(\.\./(\S+?)\)", httpx.get(app.url + style).text)
    assert re.findall(r'<link rel="preload" href="(\S+\.woff2)" as="font"', document) == used
    assert len(used) == 2


@pytest.mark.browser
def test_the_api_page_still_answers(page: Page, app: App):
    open_page(page, app)
    assert page.request.get(f"{app.url}gradio_api/info").json() == {"named_endpoints": {}, "unnamed_endpoints": {}}
    expect(page.locator("#workspace")).to_be_visible()
