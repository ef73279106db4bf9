"""Slow answers under a crowd: what waits for them must not keep the other routes from answering."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from tests.api.test_app import ShelfDesk, error_of
from tests.fakes import PATIENCE, Gate
from tests.jobs.helpers import body
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS, Access
from wan_ui.api.app import create_api
from wan_ui.api.concurrency import ByteBudget
from wan_ui.api.dependencies import IMPORT_WAITING, INSPECT_THREADS, INSPECT_WAITING, SAMPLE_THREADS, SAMPLES_WAITING
from wan_ui.errors import PreviewNotFound, ServerBusy
from wan_ui.identity import Identity
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.turns import MOST_WAITING, Turns

pytestmark = pytest.mark.slow

CROWD = 60  # more than the threads that a server answers on


class HeldDesk(ShelfDesk):
    """Looks into files, and finds clips, only when the gate is opened."""

    def __init__(self, store: Store, folder: Path) -> None:
        super().__init__(store, folder)
        self.gate = Gate()

    def inspect(self, source: str, access: Access) -> dict[str, Any]:
        self.gate.hold()
        return {
            **dict.fromkeys(("family", "rank", "alpha", "trainer", "step", "trigger_word", "partner")),
            **dict.fromkeys(("slot", "type", "dtype", "blocks"), ""),
            "candidates": [],
            "modules": 0,
            "fits": {},
            "coverage": {},
            "messages": [],
        }

    def quota_problem(self, size: int) -> None:
        """There is always room."""


class HeldJobs:
    """Imports a training job, or makes a thumbnail, only when the gate is opened; then there is none."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def job(self, job_id: str) -> str:
        return job_id

    def thumbnail(self, job: str, step: int, index: int) -> Path:
        self.gate.hold()
        raise PreviewNotFound("There is no sample.")

    def import_file(self, path: Path, name: str, access: Access) -> None:
        self.gate.hold()
        raise PreviewNotFound("There is no job.")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[HeldDesk]:
    store = Store(tmp_path / "jobs.sqlite")
    service = HeldDesk(store, tmp_path)
    yield service
    service.gate.open()
    store.close()


@pytest.fixture
def client(service: HeldDesk) -> Iterator[TestClient]:
    app = Starlette(routes=[Mount("/v1", app=create_api(cast(JobService, service), dict, lambda: LOCAL_ACCESS))])
    with TestClient(app, base_url="http://localhost:7860", raise_server_exceptions=False) as client:
        yield client


def test_slow_inspections_leave_the_other_routes_alone(service: HeldDesk, client: TestClient) -> None:
    job = service.submit(body(1), LOCAL_ACCESS)
    taken = INSPECT_THREADS + INSPECT_WAITING

    def ask() -> int:
        return client.post("/v1/loras/inspect", json={"path": "x"}).status_code

    with ThreadPoolExecutor(CROWD) as pool:
        asked = [pool.submit(ask) for _ in range(CROWD)]
        wait_until(lambda: sum(one.done() for one in asked) == CROWD - taken)
        assert client.get(f"/v1/requests/{job.id}/status").status_code == 200
        error_of(client.post("/v1/loras/inspect", json={"path": "x"}), 503, "SERVER_BUSY")
        service.gate.open()
        answers = Counter(one.result(PATIENCE) for one in asked)
    assert answers == {200: taken, 503: CROWD - taken}


@pytest.mark.parametrize(
    ("method", "path", "taken"),
    [
        ("GET", "/v1/jobs/x/samples/1/0/thumbnail", SAMPLE_THREADS + SAMPLES_WAITING),
        ("POST", "/v1/jobs/import", 1 + IMPORT_WAITING),
    ],
)
def test_slow_training_jobs_leave_the_other_routes_alone(
    service: HeldDesk, client: TestClient, method: str, path: str, taken: int
) -> None:
    """Each waited for its turn in one of the threads that serve all routes: a status took 9 s."""
    job = service.submit(body(1), LOCAL_ACCESS)
    service.imported_jobs = HeldJobs(service.gate)

    def ask() -> int:
        files = {"file": ("a.zip", b"PK")} if method == "POST" else None
        return client.request(method, path, files=files).status_code

    with ThreadPoolExecutor(CROWD + 20) as pool:
        asked = [pool.submit(ask) for _ in range(CROWD + 20)]
        wait_until(lambda: sum(one.done() for one in asked) == CROWD + 20 - taken)
        assert client.get(f"/v1/requests/{job.id}/status").status_code == 200
        service.gate.open()
        answers = Counter(one.result(PATIENCE) for one in asked)
    assert answers == {404: taken, 503: CROWD + 20 - taken}


def test_turns_are_one_at_a_time_and_few_wait() -> None:
    turns, gate, inside, most = Turns(None, "Busy.", waiting=2), Gate(), [0], [0]

    def one() -> None:
        with turns.hold():
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            gate.hold()
            inside[0] -= 1

    refused = 0
    with ThreadPoolExecutor(CROWD) as pool:
        asked = [pool.submit(one) for _ in range(CROWD)]
        gate.await_arrival()
        wait_until(lambda: sum(task.done() for task in asked) == CROWD - 3)
        gate.open()
        for task in asked:
            try:
                task.result(PATIENCE)
            except ServerBusy as error:
                assert error.message == "Busy."
                refused += 1
    assert (refused, most) == (CROWD - 3, [1])
    with turns.hold():
        pass


def test_large_bodies_have_a_budget_of_memory() -> None:
    budget = ByteBudget(total=10, each=6, refusal="busy")
    one, other, owner = Identity("a" * 32, owner=False), Identity("b" * 32, owner=False), Identity("c" * 32, owner=True)
    with budget.hold(one, 4):
        with pytest.raises(ServerBusy), budget.hold(one, 3):
            pass
        with budget.hold(one, 0), budget.hold(other, 6):
            with pytest.raises(ServerBusy), budget.hold(Identity(None, owner=False), 1):
                pass
            with budget.hold(owner, 100):
                pass
    with budget.hold(one, 6):
        pass


def test_few_threads_wait_for_a_turn() -> None:
    """40 images that are costly to decode held all threads that serve routes, each for up to 30 s."""
    turns, gate = Turns(PATIENCE, "Busy."), Gate()

    def one() -> bool:
        try:
            with turns.hold():
                gate.hold()
        except ServerBusy:
            return False
        return True

    with ThreadPoolExecutor(CROWD) as pool:
        asked = [pool.submit(one) for _ in range(CROWD)]
        wait_until(lambda: sum(task.done() for task in asked) == CROWD - 1 - MOST_WAITING)
        gate.open()
        assert sum(task.result(PATIENCE) for task in asked) == 1 + MOST_WAITING
