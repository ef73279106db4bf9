"""A real browser for the page's tests; `python -m tests.browser_fixture` prints which one would be used."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.waiting import SECONDS

if TYPE_CHECKING:  # imported where it is used: the other tests, the GPU's among them, run without it
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Frame, Page, ViewportSize

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REQUIRED = "WAN_UI_REQUIRE_BROWSER"
# Chromium keeps two pages of its own ready beside each of ours, for its address bar: a fifth of what a page's opening
# costs. Of several such flags it heeds the last alone, so what Playwright turns off is said again.
TURNED_OFF = (
    "WebUIOmniboxPopup",
    "WebUIOmniboxAimPopup",
    "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DestroyProfileOnBrowserClose",
    "HttpsUpgrades",
    "LensOverlay",
    "MediaRouter",
    "OptimizationHints",
    "PaintHolding",
    "PreconnectToSearch",
    "AimEnabled",
    "NetworkTimeServiceQuerying",
    "ThirdPartyStoragePartitioning",
)
MILLISECONDS = 1000 * SECONDS  # a wait ends when its event comes, so only a failure takes this long
ARGUMENTS = (
    "--disable-gpu",  # nor a process that draws what a GPU would, on the cores that the tests need
    "--disable-dev-shm-usage",  # which is small in a container
    f"--disable-features={','.join(TURNED_OFF)}",
)


STILL = """(() => {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync('.example i::before, .card progress { animation: none !important; }');
    document.adoptedStyleSheets = [sheet];
})()"""
"""The page's endless animations stand still: without a GPU each of their frames costs the processor."""

EMPTY = "<!doctype html><link rel=icon href=data:,>"
STORED = "local_storage,indexeddb,cache_storage,service_workers"  # all but the cache of files


def find_browser() -> str | None:
    """The path of WAN_UI_BROWSER, else of the first known name in PATH, else of playwright's own download."""
    chosen = os.environ.get("WAN_UI_BROWSER")
    for name in (chosen,) if chosen else NAMES:
        if (path := shutil.which(name)) is not None:
            return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        bundled = playwright.chromium.executable_path
    return bundled if Path(bundled).exists() else None


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium or Chrome, headless, one for the session. Where there is none: skipped, or failed in CI."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=MILLISECONDS)
    path = find_browser()
    if path is None:
        message = "no Chromium or Chrome in PATH: install one, or name it in WAN_UI_BROWSER"
        if os.environ.get(REQUIRED):
            pytest.fail(message)
        pytest.skip(message)
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS, *as_root], timeout=MILLISECONDS)
        yield browser
        browser.close()


def new_context(browser: Browser, **options: Any) -> BrowserContext:
    """A fresh profile of a visitor of its own, whose waits end with their events."""
    context = browser.new_context(**options)
    context.add_init_script(STILL)
    context.set_default_timeout(MILLISECONDS)
    return context


VIEWPORT: ViewportSize = {"width": 1280, "height": 900}


class KeptPage:
    """One page for all tests that need a single visitor: its process has compiled the page's scripts already.

    To open wan-ui in it takes half the time that a page of a new profile takes.
    """

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._context: BrowserContext | None = None
        self.errors: list[str] = []
        self._origins: set[str] = set()

    @property
    def context(self) -> BrowserContext:
        """The page's profile. The page is its first."""
        if self._context is None:
            self._context = new_context(self._browser, viewport=VIEWPORT)
            page = self._context.new_page()
            self.errors = heard(page)
            page.on("framenavigated", self._note_origin)
        return self._context

    def _note_origin(self, frame: Frame) -> None:
        if frame.url.startswith("http"):
            self._origins.add("/".join(frame.url.split("/")[:3]))

    def forget(self) -> None:
        """Makes of the page that of a new visitor: no cookies, stored values, permissions and settings of its own."""
        context = self.context
        page, *others = context.pages
        for other in others:
            other.close()
        page.unroute_all(behavior="ignoreErrors")
        devtools = context.new_cdp_session(page)
        page.route("**/*", lambda route: route.fulfill(content_type="text/html", body=EMPTY))
        for origin in [*self._origins]:
            # An empty document of the same origin: its process has ended the one before, which stores nothing later.
            page.goto(f"{origin}/")
            devtools.send("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": STORED})
            page.wait_for_function("localStorage.length === 0")
        devtools.detach()
        page.unroute_all(behavior="ignoreErrors")
        page.goto("about:blank")
        self._origins.clear()
        context.clear_cookies()
        context.clear_permissions()
        page.emulate_media(media="null", color_scheme="null", reduced_motion="null", forced_colors="null")
        if page.viewport_size != VIEWPORT:
            page.set_viewport_size(VIEWPORT)
        page.mouse.move(0, 0)
        self.errors.clear()

    def drop(self) -> None:
        """Closes it; a new one is opened when it is wanted."""
        if self._context is not None:
            self._context.close()
            self._context = None


@pytest.fixture(scope="session")
def kept_page(browser: Browser) -> Iterator[KeptPage]:
    """The page of all tests' `page`."""
    kept = KeptPage(browser)
    yield kept
    kept.drop()


@pytest.fixture(autouse=True)
def close_contexts(request: pytest.FixtureRequest) -> Iterator[None]:
    """Closes what a test that failed has left open: its page would play videos beside all later tests."""
    if "browser" not in request.fixturenames:
        yield
        return
    assert request.node.get_closest_marker("browser"), "A test with a browser needs the marker of that name."
    browser: Browser = request.getfixturevalue("browser")
    kept = [request.getfixturevalue("kept_page").context, *browser.contexts]
    yield
    for context in browser.contexts:
        if context not in kept:
            context.close()


@pytest.fixture
def context(kept_page: KeptPage) -> Iterator[BrowserContext]:
    """A visitor of whom no server knows anything, with an empty page; `new_context` makes a second visitor."""
    yield kept_page.context
    try:
        kept_page.forget()
    except BaseException:
        kept_page.drop()
        raise


@contextmanager
def listening(page: Page, event: str, listener: Callable[[Any], object]) -> Iterator[None]:
    """Hears an event of a page within the block."""
    page.on(event, listener)  # type: ignore[call-overload]
    yield
    page.remove_listener(event, listener)


def heard(page: Page) -> list[str]:
    """The page's uncaught errors and console errors, in a list that grows.

    Left out is what Gradio's client says when its page is left or loaded again: that it ends its stream, and then of
    each answer that it waited for.
    """
    errors: list[str] = []
    left = False

    def hear(message: ConsoleMessage) -> None:
        nonlocal left
        aborted = message.text.startswith("AbortError: signal is aborted without reason")
        left = left or aborted
        of_leaving = left and message.text.startswith("Unexpected error Connection errored out.")
        if message.type == "error" and not (aborted or of_leaving):
            errors.append(message.text)

    def arrive(frame: Frame) -> None:
        nonlocal left
        left = left and frame != page.main_frame

    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", hear)
    page.on("framenavigated", arrive)
    return errors


@pytest.fixture
def page(context: BrowserContext, kept_page: KeptPage) -> Iterator[Page]:
    """The visitor's page, whose uncaught errors and console errors fail the test at its end."""
    yield context.pages[0]
    assert kept_page.errors == []


@pytest.fixture
def refused_page(context: BrowserContext) -> Page:
    """The visitor's page, on whose console the browser may note what a server refuses."""
    return context.pages[0]


if __name__ == "__main__":
    found = find_browser()
    print(found or "none")
    sys.exit(0 if found else 1)
