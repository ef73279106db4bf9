"""A comparison over HTTP: the grid before and after the end, its videos by cell, its retry."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from tests.fakes import PATIENCE, FakeRender
from tests.jobs.helpers import body, until_made
from wan_ui.access import LOCAL_ACCESS
from wan_ui.api.app import create_api
from wan_ui.errors import VideoEncodingFailed
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker

ROOT = "http://localhost:7860/v1"


@pytest.fixture
def client(service: JobService) -> TestClient:
    door = create_api(
        service, lambda: {"status": "ready", "version": "1", "device": "cpu", "queue": 0}, lambda: LOCAL_ACCESS
    )
    return TestClient(Starlette(routes=[Mount("/v1", app=door)]), base_url="http://localhost:7860")


def grid(steps: list[int], seeds: list[int]) -> dict[str, Any]:
    axes = {"columns": {"field": "sample_steps", "values": steps}, "rows": {"field": "seed", "values": seeds}}
    return {**body(1), "compare": axes}


def submit(client: TestClient, request: dict[str, Any]) -> str:
    reply = client.post("/v1/inference", json=request)
    assert reply.status_code == 200, reply.text
    job_id: str = reply.json()["request_id"]
    return job_id


def result(client: TestClient, job_id: str) -> dict[str, Any]:
    reply = client.get(f"/v1/requests/{job_id}/result")
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def test_the_grid_fills_in(client: TestClient, store: Store, worker: Worker, render: FakeRender) -> None:
    job_id = submit(client, grid([1, 2, 2], [5, 6]))
    compare = result(client, job_id)["metadata"]["compare"]
    assert compare["columns"] == {"field": "sample_steps", "values": [1, 2, 2], "labels": ["steps 1", *["steps 2"] * 2]}
    assert compare["rows"] == {"field": "seed", "values": [5, 6], "labels": ["seed 5", "seed 6"]}
    assert [cell["status"] for cell in compare["cells"]] == ["waiting"] * 6

    gate = render.gate(6, 2)  # the last of the four videos in its second step
    worker.start()
    gate.await_arrival()
    until_made(store, job_id, 3)
    said = result(client, job_id)
    assert said["outputs"] is None and said["status"] == "in_progress"
    cells = said["metadata"]["compare"]["cells"]
    assert [cell["status"] for cell in cells] == ["succeeded"] * 4 + ["running"] * 2
    assert cells[1]["video"] == cells[2]["video"] and cells[1]["url"] == cells[2]["url"]
    assert client.get(cells[0]["url"]).status_code == 200
    assert (cells[4]["video"], cells[4]["url"], cells[0]["progress"]) == (None, None, None)
    assert (cells[4]["progress"]["phase"], cells[4]["progress"]["step"]) == ("denoise", 1)
    assert cells[4]["progress"]["note"] == "cell 5 of 6"

    gate.open()
    assert worker.wait(job_id, PATIENCE)
    said = result(client, job_id)
    videos = said["outputs"]["videos"]
    assert [(one["cell"]["column"], one["cell"]["row"], one["seed"]) for one in videos] == [
        (0, 0, 5), (1, 0, 5), (2, 0, 5), (0, 1, 6), (1, 1, 6), (2, 1, 6),
    ]  # fmt: skip
    assert videos[1]["cell"] == {
        "column": 1, "row": 0, "page": 0, "column_label": "steps 2", "row_label": "seed 5", "page_label": "",
    }  # fmt: skip
    assert videos[4]["url"] == videos[5]["url"] and videos[4]["file_path"] == videos[5]["file_path"]
    assert len({one["file_path"] for one in videos}) == 4
    for cell, one in zip(said["metadata"]["compare"]["cells"], videos, strict=True):
        assert cell["url"] == one["url"] == f"{ROOT}/requests/{job_id}/videos/{cell['video']}"
        used = said["metadata"]["prompts"][cell["video"]]
        assert (used["seed"], used["recipe"], used["lora"]) == (one["seed"], "reference", [])


def test_an_ordinary_request_has_no_cells(client: TestClient, worker: Worker) -> None:
    worker.start()
    job_id = submit(client, {**body(1), "compare": None})
    assert worker.wait(job_id, PATIENCE)
    said = result(client, job_id)
    assert "compare" not in said["metadata"] and "lora" not in said["metadata"]["prompts"][0]
    assert "cell" not in said["outputs"]["videos"][0]
    assert list(said) == ["request_id", "status", "outputs", "error", "created_at", "finished_at", "metadata"]


def test_a_failed_cell_and_its_retry(
    client: TestClient, service: JobService, worker: Worker, render: FakeRender
) -> None:
    render.errors[2] = VideoEncodingFailed("The encoder broke.")
    worker.start()
    job_id = submit(client, {**body(1), "compare": {"rows": {"field": "seed", "values": [1, 2, 3]}}})
    assert worker.wait(job_id, PATIENCE)
    said = result(client, job_id)
    assert (said["status"], said["error"]["code"]) == ("failed", "CELLS_FAILED")
    compare = said["metadata"]["compare"]
    assert compare["columns"] == {"field": None, "values": [None], "labels": [""]}
    assert [cell["status"] for cell in compare["cells"]] == ["succeeded", "failed", "succeeded"]
    assert compare["cells"][1]["error"]["code"] == "VIDEO_ENCODING_FAILED"
    assert [one["cell"]["row"] for one in said["outputs"]["videos"]] == [0, 2]

    render.errors.clear()
    gate = render.gate(2, 1)
    again = client.post(f"/v1/requests/{job_id}/retry")
    assert again.status_code == 200 and again.json()["request_id"] == job_id
    assert again.json()["status"] in ("in_queue", "in_progress") and again.json()["error"] is None
    gate.open()
    assert worker.wait(job_id, PATIENCE)
    assert result(client, job_id)["status"] == client.post(f"/v1/requests/{job_id}/retry").json()["status"]
    assert len(result(client, job_id)["outputs"]["videos"]) == 3
    assert render.steps(1) == [1, 2] and render.steps(3) == [1, 2]


def test_what_a_cancel_left_out_is_missing(
    client: TestClient, service: JobService, worker: Worker, render: FakeRender
) -> None:
    gate = render.gate(2, 1)
    worker.start()
    job_id = submit(client, grid([2], [1, 2, 3]))
    gate.await_arrival()
    client.delete(f"/v1/requests/{job_id}")
    gate.open()
    assert worker.wait(job_id, PATIENCE)
    cells = result(client, job_id)["metadata"]["compare"]["cells"]
    assert [cell["status"] for cell in cells] == ["succeeded", "missing", "missing"]


def test_a_retry_of_an_unknown_request(client: TestClient) -> None:
    reply = client.post(f"/v1/requests/{'0' * 32}/retry")
    assert (reply.status_code, reply.json()["detail"]["error"]["code"]) == (404, "REQUEST_NOT_FOUND")


def test_a_wrong_value_names_its_place(client: TestClient, service: JobService) -> None:
    reply = client.post("/v1/inference", json=grid([1, 500], [1]))
    assert reply.status_code == 422
    assert reply.json()["detail"]["error"]["details"]["fields"][0]["loc"] == "compare.columns.values.1"
    assert service.recent(1, LOCAL_ACCESS) == ()


def test_the_document_has_the_comparison(client: TestClient) -> None:
    schemas = client.get("/v1/openapi.json").json()["components"]["schemas"]
    assert {"Compare", "Axis", "CellPlace"} <= set(schemas)
    assert "scale_high" in str(schemas["Axis"]["properties"]["field"])
