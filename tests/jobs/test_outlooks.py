"""Outlooks are kept for a moment, and never longer than what they were computed from."""

from __future__ import annotations

from tests.fakes import FakeRender
from tests.jobs.helpers import body
from wan_ui.access import LOCAL_ACCESS
from wan_ui.jobs.outlooks import Outlooks
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.provenance.restoring import UNKNOWN_ENVIRONMENT


def test_a_step_within_the_moment_for_which_an_outlook_is_kept_is_in_the_next_one(
    service: JobService, store: Store, worker: Worker, render: FakeRender
):
    outlooks = Outlooks(store, worker, UNKNOWN_ENVIRONMENT, clock=lambda: 0.0)  # no time passes at all
    gates = [render.gate(1, step) for step in (1, 3)]
    worker.start()
    job = service.submit(body(1, steps=4), LOCAL_ACCESS)
    for gate, steps_done in zip(gates, (0, 2), strict=True):
        gate.await_arrival()
        assert outlooks.queue().jobs[job.id].own.steps_done == steps_done
        assert outlooks.queue() is outlooks.queue()
        gate.open()
