"""What can be downloaded of a comparison, over a real job service: the grid as a video, a contact sheet, all cells."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from tests.fakes import PATIENCE, FakeRender, fake_service
from tests.jobs.helpers import body
from wan_ui.access import LOCAL_ACCESS
from wan_ui.api.app import create_api
from wan_ui.api.comparisons import board, deletion_mapped
from wan_ui.errors import VideoEncodingFailed, VideoNotFound
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.media import grid, video

pytestmark = pytest.mark.slow

ROUTES = ("grid.mp4", "sheet.png", "cells.zip")


@pytest.fixture
def worker(store: Store, render: FakeRender, tmp_path: Path) -> Iterator[Worker]:
    """As elsewhere, but with real videos."""
    worker = Worker(store, render, tmp_path / "clips", video.write)
    yield worker
    for gate in render.gates.values():
        gate.open()
    assert worker.stop()


@pytest.fixture
def service(store: Store, worker: Worker, tmp_path: Path) -> JobService:
    return fake_service(store, worker, tmp_path)


@pytest.fixture
def client(service: JobService, tmp_path: Path) -> TestClient:
    (tmp_path / "scratch").mkdir()
    health = {"status": "ready", "version": "1", "device": "cpu", "queue": 0}
    door = create_api(service, lambda: health, lambda: LOCAL_ACCESS, scratch=tmp_path / "scratch")
    return TestClient(Starlette(routes=[Mount("/v1", app=door)]), base_url="http://localhost:7860")


def compared(
    service: JobService, worker: Worker, frames: tuple[int, ...] = (5, 1), seeds: tuple[int, ...] = (5, 6)
) -> str:
    """A finished comparison of lengths and seeds."""
    axes = {"columns": {"field": "num_frames", "values": frames}, "rows": {"field": "seed", "values": seeds}}
    job = service.submit({**body(1), "compare": axes}, LOCAL_ACCESS)
    worker.start()
    assert worker.wait(job.id, PATIENCE)
    return job.id


@pytest.mark.slow
def test_the_grid_is_one_video_with_its_labels(
    client: TestClient, service: JobService, worker: Worker, tmp_path: Path
) -> None:
    job_id = compared(service, worker)
    reply = client.get(f"/v1/requests/{job_id}/grid.mp4")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "video/mp4"
    assert reply.headers["content-disposition"] == f'attachment; filename="wan-ui-{job_id[:8]}-grid.mp4"'
    (tmp_path / "grid.mp4").write_bytes(reply.content)
    frames = video.read_frames(tmp_path / "grid.mp4")
    made = board(service, service.job(job_id, LOCAL_ACCESS), LOCAL_ACCESS)
    assert (made.columns, made.rows) == (("frames 5", "frames 1"), ("seed 5", "seed 6"))
    layout = grid.lay_out(made.columns, made.rows, (64, 64), grid.LARGEST_VIDEO)
    assert frames.shape == (5, layout.height, layout.width, 3)
    drawn = np.array(grid.labels(made, layout)).astype(int)
    assert np.abs(frames[2][: layout.top].astype(int) - drawn[: layout.top]).mean() < 6
    assert drawn[: layout.top].max() > 200
    assert video.read_metadata(tmp_path / "grid.mp4")["request"]["compare"]["columns"]["field"] == "num_frames"
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.slow
def test_a_sheet_of_one_frame(client: TestClient, service: JobService, worker: Worker) -> None:
    job_id = compared(service, worker)
    pictures = []
    for frame in (0, 4):
        reply = client.get(f"/v1/requests/{job_id}/sheet.png?frame={frame}")
        assert reply.headers["content-type"] == "image/png"
        pictures.append(np.array(Image.open(io.BytesIO(reply.content))).astype(int))
    layout = grid.lay_out(("frames 5", "frames 1"), ("seed 5", "seed 6"), (64, 64), grid.LARGEST_SHEET)
    x, y = layout.corner(0, 0)
    middle = y + layout.cell[1] // 2, x + layout.cell[0] // 2
    assert (pictures[1][middle] > pictures[0][middle]).any()  # the fake clips grow brighter


def test_all_cells_with_their_json(client: TestClient, service: JobService, worker: Worker) -> None:
    job_id = compared(service, worker)
    archive = zipfile.ZipFile(io.BytesIO(client.get(f"/v1/requests/{job_id}/cells.zip").content))
    assert archive.testzip() is None
    names = [f"row{row}_column{column}_frames_{frames}_seed_{seed}" for row, seed in ((1, 5), (2, 6))
             for column, frames in ((1, 5), (2, 1))]  # fmt: skip
    assert sorted(archive.namelist()) == sorted(f"{name}.{kind}" for name in names for kind in ("mp4", "json"))
    for name in names:
        about: dict[str, Any] = json.loads(archive.read(f"{name}.json"))
        assert about["row"] == f"seed {about['request']['prompts'][0]['seed']}"
        assert about["generation"]["num_frames"] == about["request"]["prompts"][0]["num_frames"]
        assert job_id not in json.dumps(about)
        assert archive.read(f"{name}.mp4")[4:8] == b"ftyp"


def test_pages_in_the_downloads(client: TestClient, service: JobService, worker: Worker) -> None:
    axes = {"columns": {"field": "seed", "values": [5, 6]}, "pages": {"field": "sample_steps", "values": [1, 2]}}
    job = service.submit({**body(1), "compare": axes}, LOCAL_ACCESS)
    worker.start()
    assert worker.wait(job.id, PATIENCE)
    job = service.job(job.id, LOCAL_ACCESS)
    whole, second = board(service, job, LOCAL_ACCESS), board(service, job, LOCAL_ACCESS, 1)
    assert (whole.rows, second.rows) == (("steps 1", "steps 2"), ("steps 2",))
    assert [second.cells[column, 0] for column in (0, 1)] == [whole.cells[column, 1] for column in (0, 1)]
    heights = [
        Image.open(io.BytesIO(client.get(f"/v1/requests/{job.id}/sheet.png{query}").content)).height
        for query in ("", "?page=0")
    ]
    assert heights[0] > heights[1]
    assert client.get(f"/v1/requests/{job.id}/grid.mp4?page=2").status_code == 404
    archive = zipfile.ZipFile(io.BytesIO(client.get(f"/v1/requests/{job.id}/cells.zip").content))
    assert "page2_row1_column2_seed_6_steps_2.mp4" in archive.namelist()
    assert json.loads(archive.read("page2_row1_column2_seed_6_steps_2.json"))["cell"]["page"] == 1
    compare = client.get(f"/v1/requests/{job.id}/result").json()["metadata"]["compare"]
    assert compare["pages"] == {"field": "sample_steps", "values": [1, 2], "labels": ["steps 1", "steps 2"]}
    assert [cell["page"] for cell in compare["cells"]] == [0, 0, 1, 1]


def test_a_failed_cell_and_one_not_made_are_words(
    client: TestClient, service: JobService, worker: Worker, render: FakeRender
) -> None:
    render.errors[6] = VideoEncodingFailed("The video could not be encoded.")
    job_id = compared(service, worker)
    assert {
        place: cell
        for place, cell in board(service, service.job(job_id, LOCAL_ACCESS), LOCAL_ACCESS).cells.items()
        if isinstance(cell, str)
    } == {
        (0, 1): "failed",
        (1, 1): "failed",
    }
    assert client.get(f"/v1/requests/{job_id}/grid.mp4").status_code == 200
    assert len(zipfile.ZipFile(io.BytesIO(client.get(f"/v1/requests/{job_id}/cells.zip").content)).namelist()) == 4


@pytest.mark.parametrize("route", ROUTES)
def test_before_anything_is_finished_and_what_is_no_comparison(
    client: TestClient, service: JobService, route: str
) -> None:
    waiting = service.submit({**body(1), "compare": {"columns": {"field": "seed", "values": [1, 2]}}}, LOCAL_ACCESS).id
    plain = service.submit(body(1), LOCAL_ACCESS).id
    for job_id, code, word in (
        ("0" * 32, "REQUEST_NOT_FOUND", "no request"),
        (plain, "VIDEO_NOT_FOUND", "not a comparison"),
        (waiting, "VIDEO_NOT_FOUND", "finished yet"),
    ):
        reply = client.get(f"/v1/requests/{job_id}/{route}")
        assert reply.status_code == 404
        error = reply.json()["detail"]["error"]
        assert error["code"] == code
        assert word in error["message"]


@pytest.mark.parametrize("frame", ["-1", "5", "x", "10000", "1.5", ""])
def test_a_frame_that_is_none(client: TestClient, service: JobService, worker: Worker, frame: str) -> None:
    job_id = compared(service, worker, seeds=(5,))
    reply = client.get(f"/v1/requests/{job_id}/sheet.png?frame={frame}")
    assert reply.status_code == 422
    error = reply.json()["detail"]["error"]
    assert error["code"] == "INVALID_REQUEST"
    assert error["details"]["fields"][0]["loc"] == "query.frame"


def test_the_routes_are_documented(client: TestClient) -> None:
    paths = client.get("/v1/openapi.json").json()["paths"]
    for route in ROUTES:
        assert "404" in paths[f"/requests/{{request_id}}/{route}"]["get"]["responses"]


def test_a_cells_broken_file_is_named(client: TestClient, service: JobService, worker: Worker) -> None:
    job_id = compared(service, worker)
    path = service.clip_path(job_id, 1, LOCAL_ACCESS)
    path.write_bytes(path.read_bytes()[:100])
    reply = client.get(f"/v1/requests/{job_id}/cells.zip")
    assert reply.status_code == 404
    assert reply.json()["detail"]["error"]["message"].startswith("The file of row 1, column 2 cannot be read: ")


def test_what_fails_because_a_clip_was_deleted_meanwhile_is_not_found(tmp_path: Path) -> None:
    there, gone = tmp_path / "there.mp4", tmp_path / "gone.mp4"
    there.write_bytes(b"")
    failed = VideoEncodingFailed("gone.mp4 could not be read.")
    with pytest.raises(VideoNotFound, match="deleted"), deletion_mapped([there, gone]):
        raise failed
    with pytest.raises(VideoNotFound, match="deleted"), deletion_mapped([gone]):
        gone.read_bytes()
    with pytest.raises(VideoEncodingFailed), deletion_mapped([there]):
        raise failed
