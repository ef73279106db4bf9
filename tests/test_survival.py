"""The program under a supervisor: a render that never returns, SIGKILL and SIGINT in renders, its logs and metrics."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.forked import ForkedProgram
from tests.lora_files import write_lora
from tests.stuck_app import PROMPT, run_app, run_stuck_app
from tests.test_app import LONG, SMALL, App, finished, stopped_in_a_render, until
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


class ForkedApp(App):
    """The server in a process forked from one that has imported the engine; test_app.py starts it from nothing."""

    def begin(self, program: tuple[str, ...], arguments: list[str]) -> ForkedProgram:
        return ForkedProgram({STUCK: run_stuck_app, REAL: run_app}[program], arguments)


STUCK: tuple[str, ...] = ("stuck",)
REAL: tuple[str, ...] = ("real",)


def body(prompt: str, **fields: Any) -> dict[str, Any]:
    return {"model": "wan21_1b", "prompts": [{"prompt": prompt, **SMALL, **fields}]}


def events(said: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said if line.startswith("{")]


def start(apps: list[App], data: Path, *flags: str, program: tuple[str, ...] = REAL) -> App:
    apps.append(ForkedApp(data, "--demo", *flags, program=program))
    apps[-1].wait_for("Ready on ")
    return apps[-1]


@pytest.mark.timeout(900)  # three starts
def test_each_start_finishes_what_the_one_before_left_behind(apps: list[App], tmp_path: Path) -> None:
    """One data folder and three starts, which end with exit code 70, by SIGKILL, and by SIGINT."""
    data, named = tmp_path / "data", tmp_path / "named"
    stuck, waiting = end_with_a_render_that_never_returns(start(apps, data, "--job-timeout", "30", program=STUCK))
    app = start(apps, data)
    with app.client() as client:
        failed = client.get(f"/v1/requests/{stuck}/result").json()
        assert (failed["status"], failed["error"]["code"]) == ("failed", "RENDER_TIMED_OUT")
        after = until(client, f"/v1/requests/{waiting}/status", {"succeeded", "failed"})
        assert after["status"] == "succeeded"
    ids, drawn = kill_in_a_render(app)

    write_lora(named / "mine.safetensors")
    app = start(apps, data, "--lora-dir", str(named))
    assert f"LoRAs: {named}" in app.said  # the folder that was named, since it holds a file
    with app.client() as client:
        results = []
        for request_id in ids:
            until(client, f"/v1/requests/{request_id}/status", {"succeeded", "failed", "canceled"})
            results.append(client.get(f"/v1/requests/{request_id}/result").json())
        assert client.post("/v1/loras/inspect", json={"path": "mine.safetensors"}).json()["type"] == "lora"
    assert [result["status"] for result in results] == ["succeeded"] * 3
    assert [result["finished_at"] for result in results] == sorted(result["finished_at"] for result in results)
    assert results[0]["outputs"]["videos"][0]["seed"] == drawn
    listed = {made["file_path"] for result in results for made in result["outputs"]["videos"]}
    made = {f"clips/{file.name}" for file in (data / "clips").iterdir() if file.suffix == ".mp4"}
    assert len(listed) == 4 and len(made) == 6  # and those of the requests before
    assert listed < made
    assert all(video.read_frames(data / file).shape[0] == 5 for file in listed)
    stopped_in_a_render(app, data, signal.SIGINT)


def end_with_a_render_that_never_returns(app: App) -> tuple[str, str]:
    """The ids of the request that ended the server with 70, and of the one that waited behind it."""
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
    return stuck["request_id"], waiting["request_id"]


def kill_in_a_render(app: App) -> tuple[list[str], int]:
    """The ids of three requests, whose first one was rendered when the server was killed, and its drawn seed."""
    with app.client() as client:
        two = {**LONG, "prompts": [{"prompt": "a", **SMALL, "seed": -1}, {**LONG["prompts"][0], "sample_steps": 40}]}
        posted = [client.post("/v1/inference", json=sent) for sent in (two, body("b"), body("c"))]
        ids = [response.json()["request_id"] for response in posted]
        until(client, f"/v1/requests/{ids[0]}/status", {"in_progress"})
        drawn = client.get(f"/v1/requests/{ids[0]}/result").json()["metadata"]["prompts"][0]["seed"]
    app.process.kill()
    app.process.wait()
    return ids, drawn
