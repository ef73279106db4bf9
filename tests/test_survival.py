"""The program under a supervisor: a render that never returns, SIGKILL in its middle, and what to watch it by."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stuck_app import PROMPT
from tests.test_app import LONG, SMALL, App, finished, until
from wan_ui.media import video

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the demo in it, to be copied."""
    from wan_ui.demo.checkpoints import ensure

    folder = tmp_path_factory.mktemp("demo")
    ensure(folder / "demo")
    return folder


@pytest.fixture
def apps(demo: Path, tmp_path: Path) -> Iterator[list[App]]:
    shutil.copytree(demo, tmp_path / "data")
    started: list[App] = []
    yield started
    for app in started:
        app.process.kill()
        app.process.wait()


def body(prompt: str, **fields: Any) -> dict[str, Any]:
    return {"model": "wan21_1b", "prompts": [{"prompt": prompt, **SMALL, **fields}]}


def events(said: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said if line.startswith("{")]


def test_a_render_that_never_returns_ends_the_server_with_70_and_the_next_start_finishes_the_line(
    apps: list[App], tmp_path: Path
) -> None:
    def start() -> App:
        apps.append(App(tmp_path / "data", "--demo", "--job-timeout", "30", program=("-m", "tests.stuck_app")))
        apps[-1].wait_for("Ready on ")
        return apps[-1]

    app = start()
    with app.client() as client:
        done = finished(client, client.post("/v1/inference", json=body("before")))
        stuck, waiting = (client.post("/v1/inference", json=body(prompt)).json() for prompt in (PROMPT, "after"))
        until(client, stuck["status_url"], {"in_progress"})
        metrics = client.get("/metrics").text
    assert done["status"] == "succeeded"
    assert 'wan_ui_jobs{status="succeeded"} 1.0' in metrics
    assert 'wan_ui_phase_seconds_count{phase="denoise"} 1.0' in metrics
    code, said = app.ended()
    assert code == 70
    assert any(line.startswith("wan-ui: This took longer than the 30 s") for line in said)
    assert not any("Traceback" in line for line in said)
    logged = {(event["event"], event.get("request_id")) for event in events(said)}
    assert {("queued", stuck["request_id"]), ("started", stuck["request_id"])} <= logged
    assert ("took too long", stuck["request_id"]) in logged

    app = start()
    with app.client() as client:
        failed = client.get(f"/v1/requests/{stuck['request_id']}/result").json()
        assert (failed["status"], failed["error"]["code"]) == ("failed", "RENDER_TIMED_OUT")
        after = until(client, f"/v1/requests/{waiting['request_id']}/status", {"succeeded", "failed"})
        assert after["status"] == "succeeded"


def test_a_killed_server_leaves_the_line_and_its_next_start_finishes_it_in_order(
    apps: list[App], tmp_path: Path
) -> None:
    def start() -> App:
        apps.append(App(tmp_path / "data", "--demo"))
        apps[-1].wait_for("Ready on ")
        return apps[-1]

    app = start()
    ids: list[str] = []
    with app.client() as client:
        two = {**LONG, "prompts": [{"prompt": "a", **SMALL, "seed": -1}, {**LONG["prompts"][0], "sample_steps": 40}]}
        posted = (client.post("/v1/inference", json=sent) for sent in (two, body("b"), body("c")))
        ids.extend(response.json()["request_id"] for response in posted)
        until(client, f"/v1/requests/{ids[0]}/status", {"in_progress"})
        drawn = client.get(f"/v1/requests/{ids[0]}/result").json()["metadata"]["prompts"][0]["seed"]
    app.process.kill()
    app.process.wait()

    app = start()
    with app.client() as client:
        results = []
        for request_id in ids:
            until(client, f"/v1/requests/{request_id}/status", {"succeeded", "failed", "canceled"})
            results.append(client.get(f"/v1/requests/{request_id}/result").json())
    assert [result["status"] for result in results] == ["succeeded"] * 3
    assert [result["finished_at"] for result in results] == sorted(result["finished_at"] for result in results)
    assert results[0]["outputs"]["videos"][0]["seed"] == drawn
    listed = {made["file_path"] for result in results for made in result["outputs"]["videos"]}
    assert listed == {f"clips/{file.name}" for file in (tmp_path / "data" / "clips").iterdir() if file.suffix == ".mp4"}
    assert all(video.read_frames(tmp_path / "data" / file).shape[0] == 5 for file in listed)
