"""axe-core finds nothing on any screen: WCAG 2.0 to 2.2, A and AA, light and dark, with content and signed out."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Page, expect

from tests.trainer.job_files import write_job, zipped
from tests.ui.fake_app import App
from tests.ui.page_object import open_page, open_tab
from tests.ui.test_autoplay import GRID, PROMPT
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.web import login

pytestmark = pytest.mark.browser

ALL = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa")
OF_COLOURS = ("color-contrast", "link-in-text-block")  # the rules whose result depends on the theme
RULES: tuple[tuple[Literal["dark", "light"], dict[str, Any]], ...] = (
    ("dark", {"type": "rule", "values": OF_COLOURS}),
    ("light", {"type": "tag", "values": ALL}),
)
RUN = """async (only) => {
    const found = await window.axe.run(document, { runOnly: only, resultTypes: ['violations'] });
    return found.violations.map((rule) => [rule.id, rule.nodes.map((node) => node.html.slice(0, 160))]);
}"""


@pytest.fixture(scope="module")
def axe() -> str:
    """axe-core's script."""
    return (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


STILL = """() => document.getAnimations().every(
    (each) => each.playState !== 'running' || each.effect.getTiming().iterations === Infinity)"""
"""What fades in has the contrast of neither state."""


COLOURS = "(({ color, backgroundColor }) => [color, backgroundColor].join())(getComputedStyle(document.body))"
SET_THEME = """(theme) => {
    document.body.classList.toggle('dark', theme === 'dark'); // as the page does
    document.documentElement.dataset.theme = theme; // as a guest's page does
}"""


def findings(page: Page, axe: str) -> list[Any]:
    """axe's findings, once nothing on the page changes its colours any more: all in light, those of colours in dark."""
    found: list[Any] = []
    colours: set[str] = set()
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(axe)
    for theme, rules in RULES:
        page.emulate_media(color_scheme=theme)
        page.evaluate(SET_THEME, theme)
        page.wait_for_function(STILL)
        colours.add(page.evaluate(COLOURS))
        found += [[theme, *finding] for finding in page.evaluate(RUN, rules)]
    assert len(colours) == len(RULES)
    return found


@pytest.fixture(scope="module")
def addresses(app: App) -> dict[str, str]:
    """A comparison and a video, and the addresses that show them."""
    jobs = [app.service.submit({"model": "wan22_5b", "prompts": [PROMPT], **more}, LOCAL_ACCESS)
            for more in ({}, {"compare": GRID})]  # fmt: skip
    wait_until(lambda: all(app.service.job(job.id, LOCAL_ACCESS).status == "succeeded" for job in jobs))
    entries = {"video": f"{jobs[0].id}-0", "comparison": jobs[1].id}
    shared = {name: app.service.shares.create(entry, 7, LOCAL_ACCESS)[1] for name, entry in entries.items()}
    guests = {name: f"{app.url}shared/{token}" for name, token in shared.items()}
    return {"compare": f"{app.url}?compare={jobs[1].id}", **guests}


@pytest.fixture(scope="module")
def job_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    return zipped(write_job(folder / "fox"), folder / "fox.zip")


def test_the_page_has_no_finding(page: Page, app: App, addresses: dict[str, str], job_zip: Path, axe: str) -> None:
    page.set_viewport_size({"width": 1440, "height": 900})
    found: dict[str, list[Any]] = {}
    open_page(page, app)
    found["generate"] = findings(page, axe)
    page.locator("#machine").click()
    expect(page.locator("#machine-panel [data-part=device]")).to_have_text("cpu")
    page.get_by_text("Your uploads").click()
    found["machine"] = findings(page, axe)
    page.keyboard.press("Escape")
    open_tab(page, "Gallery")
    expect(page.locator(".gallery .cards > li").nth(1)).to_be_visible()
    expect(page.locator(".gallery .cards")).to_have_attribute("aria-busy", "false")
    found["gallery"] = findings(page, axe)
    open_tab(page, "Training job")
    page.locator(".trainer-form input[type=file]").set_input_files(job_zip)
    expect(page.locator("#wall tbody tr")).to_have_count(3)
    found["training job"] = findings(page, axe)
    page.goto(addresses["compare"])
    expect(page.locator("#player [data-part=stage], #player td video").first).to_be_attached()
    found["compare"] = findings(page, axe)
    for name in ("Blind A/B", "Share"):
        page.locator("#player").get_by_role("button", name=name).click()
        dialog = page.get_by_role("dialog", name=name)
        expect(dialog.get_by_role("button").nth(1)).to_be_visible()
        found[name] = findings(page, axe)
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
    assert {name: rules for name, rules in found.items() if rules} == {}


def test_what_is_seen_without_the_password_has_no_finding(
    refused_page: Page, addresses: dict[str, str], axe: str
) -> None:
    page = refused_page  # whose policy refuses the styles that axe tries
    page.set_viewport_size({"width": 390, "height": 844})
    found: dict[str, list[Any]] = {}
    for name in ("video", "comparison"):
        page.goto(addresses[name])
        expect(page.locator("#player video")).to_be_visible()
        found[name] = findings(page, axe)
    for name, html in (
        ("sign in", login.page("wan-ui", "Wrong name or password.")),
        ("sign out", login.sign_out_page(True)),
    ):
        page.goto("about:blank")  # whose policy lets the page have its styles
        page.set_content(html)
        found[name] = findings(page, axe)
    assert {name: rules for name, rules in found.items() if rules} == {}
