"""No press is lost or works with old values, however late the answers to those before it come."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser_fixture import listening
from tests.fakes import FakeRender
from tests.jobs.helpers import body
from tests.lora_files import write_lora
from tests.ui.fake_app import App
from tests.ui.page_object import field, fill, lora, open_page, open_tab, small, tab, type_values
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS

pytestmark = pytest.mark.browser


class Held:
    """The first request to an event's handler that says these words: it is sent when `let_go` is called."""

    def __init__(self, page: Page, words: str) -> None:
        self._page = page
        self._words = words
        self._routes: list[Route] = []
        page.route("**/queue/join**", self._hold)

    def _hold(self, route: Route) -> None:
        if not self._routes and self._words in (route.request.post_data or ""):
            self._routes.append(route)
        else:
            route.fallback()

    def await_request(self) -> None:
        """Returns once the request is held."""
        wait_until(lambda: self._page.evaluate("true") and self._routes)  # while the browser works, it arrives here

    def let_go(self) -> None:
        """Sends it."""
        self.await_request()
        self._routes[0].continue_()


def test_a_comparison_that_is_started_as_soon_as_its_tab_opens_has_the_forms_values(page: Page, app: App) -> None:
    open_page(page, app)
    small(page, "the words before", 1861)
    open_tab(page, "Compare")
    expect(page.locator(".summary")).to_contain_text("the words before")
    field(page, "Columns").select_option(label="Seed")
    type_values(page, "Columns", "1861, 1862")
    expect(page.locator(".block.count-line")).to_contain_text("2 videos")
    open_tab(page, "Generate")
    fill(page, Prompt="the words now")
    held = Held(page, '"data":[{"tab":')  # the tab's opening
    tab(page, "Compare").click()
    held.await_request()
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator('#player td[data-state="done"]')).to_have_count(2)
    made = app.service.recent(1, LOCAL_ACCESS)[0]
    assert made.request["prompts"][0]["prompt"] == "the words now"
    held.let_go()
    expect(page.locator(".summary")).to_contain_text("the words now")


def test_two_waiting_jobs_are_removed_by_two_quick_presses(page: Page, app: App, held_render: FakeRender) -> None:
    gate = held_render.gate(1863, 1)
    app.service.submit(body(1863), LOCAL_ACCESS)
    gate.await_arrival()
    waiting = [app.service.submit(body(seed), LOCAL_ACCESS).id for seed in (1864, 1865, 1866)]
    open_page(page, app)
    removing = [page.locator(f"#side ol.jobs button.small[data-job='{job}']:not([data-do])") for job in waiting]
    held = Held(page, f'"job":"{waiting[0]}"')
    removing[0].click()
    held.await_request()
    removing[1].dblclick()
    removing[2].click()
    held.let_go()
    for remove in removing:
        expect(remove).to_have_count(0)
    assert [app.service.job(job, LOCAL_ACCESS).status for job in waiting] == ["canceled"] * 3
    expect(page.locator("#toast")).to_have_text("")
    gate.open()


def test_two_lora_files_that_are_given_at_once_are_both_chosen(page: Page, app: App, tmp_path: Path) -> None:
    files = [write_lora(tmp_path / f"at_once_{number}.safetensors", seed=number) for number in (1, 2)]
    open_page(page, app)
    held = Held(page, '"do":"upload"')
    uploads: list[str] = []
    with listening(page, "response", lambda answer: uploads.append(answer.url) if "/upload" in answer.url else None):
        page.locator("#loras input[type=file]").set_input_files(files)
        held.await_request()
        wait_until(lambda: page.evaluate("true") and len(uploads) == len(files))
    held.let_go()
    for file in files:
        expect(lora(page, file.name)).to_be_visible()
