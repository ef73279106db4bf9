"""Outlooks are kept for a moment, and never longer than what they were computed from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.fakes import FakeRender, fake_service, fake_write_video
from tests.jobs.helpers import body
from tests.pool.helpers import FakeSlot
from wan_ui.access import LOCAL_ACCESS
from wan_ui.engine.result import Clip
from wan_ui.jobs.dispatcher import Dispatcher
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


def test_jobs_on_several_slots_do_not_wait_for_each_other(store: Store, render: FakeRender, tmp_path: Path):
    dispatcher = Dispatcher(
        store, [FakeSlot(f"GPU {number}", render) for number in range(2)], tmp_path / "clips", fake_write_video
    )
    service = fake_service(store, dispatcher, tmp_path)
    outlooks = Outlooks(store, dispatcher, UNKNOWN_ENVIRONMENT)
    gates = [render.gate(seed, 1) for seed in (1, 2)]
    jobs = [service.submit(body(*seeds, steps=4), LOCAL_ACCESS) for seeds in ((1,), (2,), (3, 4), (5,))]
    made = Clip(np.zeros((1, 64, 64, 3), np.uint8), 64, 64, 1, 16, 1)
    (generation,) = store.job(jobs[0].id).generations
    outlooks.timings.record(generation, made, {"denoise": 40.0, "decode": 2.0}, 0.0)  # 42 s a clip
    dispatcher.start()
    try:
        for gate in gates:
            gate.await_arrival()
        queue = outlooks.queue()
        found = [queue.jobs[job.id] for job in jobs]
        assert [(outlook.wait, outlook.seconds_left) for outlook in found] == [(0, 42), (0, 42), (42, 84), (84, 126)]
        assert (queue.seconds_left, queue.about) == (126, False)
    finally:
        for gate in gates:
            gate.open()
        assert dispatcher.stop()
