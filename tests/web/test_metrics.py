"""GET /metrics over HTTP: what Prometheus reads there, and what it reads when the queue cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tests.fakes import PATIENCE, FakeRender, fake_service, fake_write_video
from tests.jobs.helpers import body
from wan_ui.access import LOCAL_ACCESS
from wan_ui.errors import HostError, OutOfMemory
from wan_ui.jobs.runner import WorkerHooks
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.web.metrics import Metrics


def scraped(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Values by name and by the label that tells them apart."""
    reply = TestClient(Starlette(routes=[metrics.route()])).get("/metrics")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
        if "le" not in sample.labels
    }


def test_jobs_by_state_and_seconds_per_phase(store: Store, tmp_path: Path) -> None:
    metrics = Metrics()
    metrics.watch(store.counts, lambda: True)
    render = FakeRender(errors={2: OutOfMemory("Not enough.")})
    worker = Worker(store, render, tmp_path / "clips", fake_write_video, hooks=WorkerHooks(observe=metrics.observe))
    service = fake_service(store, worker, tmp_path)
    jobs = [service.submit(body(*seeds), LOCAL_ACCESS) for seeds in ((1, 3), (2,), (4,), (5,))]
    service.cancel(jobs[3].id, LOCAL_ACCESS)
    before = scraped(metrics)
    assert before["wan_ui_jobs", "in_queue"] == 3
    assert before["wan_ui_jobs", "canceled"] == 1
    worker.start()
    assert worker.wait(jobs[2].id, PATIENCE)
    assert worker.stop()
    after = scraped(metrics)
    by_state = {status: after["wan_ui_jobs", status] for status in store.counts()}
    assert by_state == {"in_queue": 0, "in_progress": 0, "succeeded": 2, "failed": 1, "canceled": 1}
    assert after["wan_ui_ready", ""] == 1
    assert after["wan_ui_phase_seconds_count", "denoise"] == 3
    assert after["wan_ui_phase_seconds_count", "encode"] == 3
    assert after["wan_ui_phase_seconds_count", "loading"] == 4
    assert after["wan_ui_phase_seconds_sum", "denoise"] > 0
    assert after["process_resident_memory_bytes", ""] > 1e6


def test_a_list_that_cannot_be_read_is_said() -> None:
    def counts() -> Mapping[str, int]:
        raise HostError("The list of jobs is locked by another program. Close it and try again.")

    metrics = Metrics()
    metrics.watch(counts, lambda: False)
    reply = TestClient(Starlette(routes=[metrics.route()])).get("/metrics")
    assert (reply.status_code, reply.json()["detail"]["error"]["code"]) == (503, "HOST_ERROR")
