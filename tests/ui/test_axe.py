"""axe-core finds nothing on any screen: WCAG 2.0 to 2.2, A and AA, light and dark, with content and signed out."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser_fixture import new_context
from tests.trainer.job_files import write_job, zipped
from tests.ui.fake_app import App
from tests.ui.page_object import open_page, open_tab
from tests.ui.test_autoplay import GRID, PROMPT
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.web import login

pytestmark = pytest.mark.browser

RUN = """async () => {
    const only = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22a', 'wcag22aa'];
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


def findings(page: Page, axe: str) -> list[Any]:
    """axe's findings, once nothing on the page changes its colours any more."""
    page.wait_for_function(STILL)
    page.evaluate(axe)
    found: list[Any] = page.evaluate(RUN)
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


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_has_no_finding(
    browser: Browser, app: App, addresses: dict[str, str], job_zip: Path, axe: str, theme: Any
) -> None:
    context = new_context(browser, viewport={"width": 1440, "height": 900}, color_scheme=theme)
    page = context.new_page()
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
    context.close()
    assert {name: rules for name, rules in found.items() if rules} == {}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_is_seen_without_the_password_has_no_finding(
    browser: Browser, addresses: dict[str, str], axe: str, theme: Any
) -> None:
    context = new_context(browser, viewport={"width": 390, "height": 844}, color_scheme=theme)
    page = context.new_page()
    found: dict[str, list[Any]] = {}
    for name in ("video", "comparison"):
        page.goto(addresses[name])
        expect(page.locator("#player video")).to_be_visible()
        found[name] = findings(page, axe)
    for name, html in (
        ("sign in", login.page("wan-ui", "Wrong name or password.")),
        ("sign out", login.sign_out_page(True)),
    ):
        page.set_content(html)
        found[name] = findings(page, axe)
    context.close()
    assert {name: rules for name, rules in found.items() if rules} == {}
