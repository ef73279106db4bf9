"""PATCH /requests/{id}: a waiting request at another position."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from tests.jobs.helpers import body
from wan_ui.access import LOCAL_ACCESS
from wan_ui.api.app import create_api
from wan_ui.jobs.service import JobService

HEALTH = {"status": "ready", "version": "1", "device": "cpu", "queue": 0}


def test_a_waiting_request_is_moved(service: JobService) -> None:
    api = create_api(service, lambda: HEALTH, lambda: LOCAL_ACCESS)
    client = TestClient(Starlette(routes=[Mount("/v1", app=api)]), base_url="http://localhost:7860")
    sent = [client.post("/v1/inference", json=body(seed)).json()["request_id"] for seed in (1, 2, 3)]
    address = f"/v1/requests/{sent[2]}"
    moved = client.patch(address, json={"position": 1})
    assert moved.json() == {"request_id": sent[2], "status": "in_queue", "position": 1}
    for wrong in ({}, {"position": 0}, {"position": "1"}, {"position": True}, {"position": 1, "more": 1}):
        assert client.patch(address, json=wrong).status_code == 422
    assert client.patch(f"/v1/requests/{'0' * 32}", json={"position": 1}).status_code == 404
    client.delete(address)
    gone = client.patch(address, json={"position": 1})
    assert (gone.status_code, gone.json()["detail"]["error"]["code"]) == (409, "NOT_WAITING")
