"""The whole program with two slots: both render, both are seen, and a stop leaves no process."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from tests.test_app import SMALL, App, finished

pytestmark = pytest.mark.soak  # two processes that import torch, beside the server


def test_two_slots_render_a_requests_videos_and_are_seen(tmp_path: Path) -> None:
    app = App(tmp_path, "--demo", program=("-m", "tests.pool.slots_app"))
    try:
        assert app.wait_for("Ready on ") == "Ready on GPU 0, GPU 1."
        with app.client() as client:
            assert [slot["state"] for slot in client.get("/v1/health").json()["slots"]] == ["stopped", "stopped"]
            prompts = [{"prompt": "a sea", **SMALL, "seed": seed} for seed in (1, 2, 1, 2)]
            result = finished(client, client.post("/v1/inference", json={"model": "wan21_1b", "prompts": prompts}))
            assert (result["status"], len(result["outputs"]["videos"])) == ("succeeded", 4), result["error"]
            slots = client.get("/v1/health").json()["slots"]
            assert [(slot["device"], slot["failures"]) for slot in slots] == [("cpu", 0), ("cpu", 0)]
            assert "wan21_1b" in [slot["model"] for slot in slots]
            metrics = client.get("/metrics").text
            assert 'wan_ui_slot_failures_total{slot="GPU 1"} 0.0' in metrics
        children = psutil.Process(app.process.pid).children()
        assert children
        assert app.stop(signal.SIGTERM)[0] == 0
        assert not any(child.is_running() for child in children)
    finally:
        app.process.kill()
        app.process.wait()
