"""GET /machine and POST /models/unload over both runners: what owner and guest see, and the refusal while rendering."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from tests.fakes import PATIENCE, FakeRender, fake_service, fake_write_video
from tests.jobs.helpers import body
from tests.pool.helpers import FakeSlot
from wan_ui.access import LOCAL_ACCESS, Access
from wan_ui.api.app import create_api
from wan_ui.identity import Identity
from wan_ui.jobs.dispatcher import Dispatcher
from wan_ui.jobs.runner import JobRunner, WorkerHooks
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.pool.slots import Memory

HEALTH = {"status": "ready", "version": "1", "device": "cpu", "queue": 0}
GUEST = Access(Identity("2" * 32, False), shared=True)
MODEL = {"id": "wan21_1b", "label": "Wan 2.1 T2V 1.3B"}


class FakeEngine:
    """Holds the model of the last clip until it is unloaded."""

    def __init__(self, render: FakeRender) -> None:
        self.render = render
        self.is_unloaded = False

    def unload(self) -> None:
        self.is_unloaded = True

    def loaded(self) -> str | None:
        return MODEL["id"] if self.render.seen and not self.is_unloaded else None


@pytest.fixture(params=["worker", "slots"])
def runner(request: pytest.FixtureRequest, store: Store, render: FakeRender, tmp_path: Path) -> Iterator[JobRunner]:
    def memory() -> Memory:
        return Memory(8_000, 10_000)

    runner: JobRunner
    if request.param == "worker":
        engine = FakeEngine(render)
        hooks = WorkerHooks(unload=engine.unload, loaded=engine.loaded, memory=memory)
        runner = Worker(store, render, tmp_path / "clips", fake_write_video, hooks=hooks)
    else:
        slots = [FakeSlot("GPU 0", render), FakeSlot("GPU 1", render)]
        hooks = WorkerHooks(memory=memory)
        runner = Dispatcher(store, slots, tmp_path / "clips", fake_write_video, hooks=hooks)
    yield runner
    for gate in render.gates.values():
        gate.open()
    assert runner.stop()


def client(service: JobService, access: Access) -> TestClient:
    api = create_api(service, lambda: HEALTH, lambda: access)
    return TestClient(Starlette(routes=[Mount("/v1", app=api)]), base_url="http://localhost:7860")


def test_the_owner_unloads_the_model_and_not_while_it_renders(
    store: Store, runner: JobRunner, render: FakeRender, tmp_path: Path
) -> None:
    service = fake_service(store, runner, tmp_path)
    owner, guest = client(service, LOCAL_ACCESS), client(service, GUEST)
    assert owner.get("/v1/machine").json()["models"] == []
    gate = render.gate(1, 1)
    job = service.submit(body(1), LOCAL_ACCESS)
    runner.start()
    gate.await_arrival()
    refused = owner.post("/v1/models/unload")
    assert (refused.status_code, refused.json()["detail"]["error"]["code"]) == (409, "MODEL_IN_USE")
    gate.open()
    assert runner.wait(job.id, PATIENCE)

    seen = owner.get("/v1/machine").json()
    assert (seen["device"], seen["models"], seen["owner"]) == ("cpu", [MODEL], True)
    assert (seen["memory_free"], seen["memory_total"]) == (8_000, 10_000) and seen["disk_free"] > 0
    of_guest = guest.get("/v1/machine").json()
    assert (of_guest["device"], of_guest["models"], of_guest["owner"]) == ("cpu", [MODEL], False)
    assert {of_guest[name] for name in ("memory_free", "memory_total", "disk_free")} == {None}
    refused = guest.post("/v1/models/unload")
    assert (refused.status_code, refused.json()["detail"]["error"]["code"]) == (403, "OWNER_ONLY")
    assert owner.get("/v1/machine").json()["models"] == [MODEL]

    assert owner.post("/v1/models/unload").json()["models"] == []
    again = service.submit(body(2), LOCAL_ACCESS)
    assert runner.wait(again.id, PATIENCE) and service.job(again.id, LOCAL_ACCESS).status == "succeeded"
