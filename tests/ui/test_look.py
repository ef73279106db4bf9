"""What the page shows keeps up with the queue, however late the answers to its looks come."""

from __future__ import annotations

import gradio as gr
import pytest
from playwright.sync_api import APIResponse, Page, Route, expect

from tests.fakes import FakeRender
from tests.ui.fake_app import App
from tests.ui.test_autoplay import PROMPT
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.ui.status_panel import StatusPanel

pytestmark = pytest.mark.browser

GRID = {"columns": {"field": "seed", "values": [1811, 1812]}}

# The page has heard of the job's end, and the time between two looks has passed since.
TOLD = """id => new Promise((resolve) => window.wanUi.events.on('jobs', ({ jobs }) => {
    if (jobs.some((job) => job.request_id === id && job.status === 'succeeded')) setTimeout(resolve, 1000, true);
}))"""


def test_a_late_answer_to_a_look_at_the_comparison_is_followed_by_another_look(
    page: Page, app: App, held_render: FakeRender
):
    gates = [held_render.gate(seed, 1) for seed in (1811, 1812)]
    job = app.service.submit({"model": "wan22_5b", "prompts": [PROMPT], "compare": GRID}, LOCAL_ACCESS)
    page.goto(f"{app.url}?compare={job.id}")
    expect(page.locator('#player td[data-state="running"]')).to_have_count(1)
    late: list[tuple[Route, APIResponse]] = []

    def hold(route: Route) -> None:
        """The answer to the first look at the comparison is read, and kept back."""
        if not late and f'"data":["{job.id}"' in (route.request.post_data or ""):
            late.append((route, route.fetch()))
        else:
            route.fallback()

    page.route("**/gradio_api/run/**", hold)
    gates[0].open()
    gates[1].await_arrival()
    wait_until(lambda: page.evaluate("true") and late)  # while the browser works, its requests arrive here
    gates[1].open()
    page.evaluate(TOLD, job.id)
    ((route, answer),) = late
    route.fulfill(response=answer)
    expect(page.locator('#player td[data-state="done"]')).to_have_count(2)


def test_a_look_before_the_opening_whose_answer_comes_after_it_is_followed_by_another_look(
    page: Page, app: App, held_render: FakeRender
):
    """The server has sent the newest board then, and the browser shows an older one."""
    gates = [held_render.gate(seed, 1) for seed in (1811, 1812)]
    job = app.service.submit({"model": "wan22_5b", "prompts": [PROMPT], "compare": GRID}, LOCAL_ACCESS)
    gates[0].open()
    gates[1].await_arrival()
    wait_until(lambda: len(app.service.job(job.id, LOCAL_ACCESS).clips) == 1)
    late: list[tuple[Route, APIResponse]] = []
    opening: list[Route] = []

    def hold(route: Route) -> None:
        """The answer to the first look is read, and kept back; so is the request that opens the tab."""
        sent = route.request.post_data or ""
        if not late and '"event_data":{}' in sent:
            late.append((route, route.fetch()))
        elif not opening and '"data":[null,null,{"axes"' in sent:
            opening.append(route)
        else:
            route.fallback()

    page.route("**/gradio_api/run/**", hold)
    page.goto(f"{app.url}?compare={job.id}")
    wait_until(lambda: page.evaluate("true") and late and opening)
    gates[1].open()
    wait_until(lambda: app.service.job(job.id, LOCAL_ACCESS).status == "succeeded")
    opening[0].continue_()
    expect(page.locator('#player td[data-state="done"]')).to_have_count(2)
    page.evaluate(
        "() => { window.looked = new Promise((heard) => document.addEventListener('wan-ui-looked', heard)); }"
    )
    ((route, answer),) = late
    route.fulfill(response=answer)
    page.evaluate("() => window.looked.then(() => true)")
    expect(page.locator('#player td[data-state="done"]')).to_have_count(2)


def test_each_answer_with_a_change_says_whether_there_is_something_to_cancel(app: App):
    """An answer that was made before another and comes after it would else leave the button as the other one had it."""
    with gr.Blocks():
        panel = StatusPanel(app.service, lambda: LOCAL_ACCESS, None)
        panel.lay_out_now()
        panel.lay_out_lists()
    seen = panel.look(None, {})[panel.seen]
    assert panel.look(None, seen)[panel.seen] != seen  # gr.skip(): nothing has changed
    changed = panel.look(None, {**seen, "now": "another card"})
    assert changed[panel.cancel].interactive is False and panel.result not in changed
