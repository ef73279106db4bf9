"""Slots on the machines of a Ray cluster: machines join and are lost, workers are killed, and none is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import fake_service
from tests.jobs.helpers import body
from tests.pool.ray_cluster import LONG, joined, ray_machines
from wan_ui.access import LOCAL_ACCESS
from wan_ui.jobs.dispatcher import Dispatcher
from wan_ui.jobs.runner import RenderLimits
from wan_ui.jobs.service import JobService
from wan_ui.jobs.slot_use import SlotRules
from wan_ui.jobs.store import Store
from wan_ui.media import video
from wan_ui.pool.cluster import Cluster

pytestmark = pytest.mark.soak  # Ray starts half a dozen processes of its own, within 30 s or not at all
KILLS = 20
MANY = 10**6  # attempts


@contextmanager
def server(
    data_dir: Path, machines: Any, attempts: int = 3, split: int = 1
) -> Iterator[tuple[Dispatcher, JobService, Cluster]]:
    """A dispatcher and its service over a cluster that was joined."""
    store = Store(data_dir / "jobs.sqlite")
    dispatcher = Dispatcher(
        store,
        (),
        data_dir / "clips",
        video.write,
        RenderLimits(max_attempts=attempts),
        rules=SlotRules(pause=0.05, longest_pause=0.5, starts=None, split=split),
    )
    cluster = joined(machines.address, data_dir, dispatcher)
    dispatcher.start()
    cluster.start()
    try:
        yield dispatcher, fake_service(store, dispatcher, data_dir), cluster
    finally:
        cluster.stop()
        assert dispatcher.stop()
        store.close()


def slow_job(first_seed: int, count: int, steps: int) -> dict[str, Any]:
    request = body(*range(first_seed, first_seed + count), steps=steps)
    for prompt in request["prompts"]:
        prompt["prompt"] = "slow"
    return request


def test_a_machines_gpu_renders_and_a_killed_process_is_replaced(tmp_path: Path) -> None:
    with ray_machines(tmp_path, gpus_of_head=1) as machines:
        with server(tmp_path, machines) as (dispatcher, service, cluster):
            request = body(1, 2)
            request["prompts"][0]["prompt"] = "die"
            job = service.submit(request, LOCAL_ACCESS)
            assert dispatcher.wait(job.id, LONG)
            done = service.job(job.id, LOCAL_ACCESS)
            assert (done.status, [clip.index for clip in done.clips], done.attempts) == ("succeeded", [0, 1], 1)
            for clip in done.clips:
                path = tmp_path / clip.file
                assert video.read_metadata(path)["request"]["prompts"] and video.probe(path).num_frames == 1
            ((machine,), (slot,)) = (cluster.states(), dispatcher.slots())
            assert (machine.state, "wan21_1b" in machine.models) == ("used", True)
            assert (slot.name in machine.slots, slot.device, slot.failures) == (True, "fake GPU", 1)
