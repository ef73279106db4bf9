"""POST /v1/restore on a real job service: a video's settings, its first frame, and every file that is none of ours."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from tests.api.test_app import error_of
from tests.fakes import PATIENCE, FakeRender
from tests.golden_cases import CHECKPOINTS
from tests.lora_files import write_lora
from tests.mp4_boxes import box, carrying, film, mp4
from wan_ui.access import LOCAL_ACCESS
from wan_ui.api.app import create_api
from wan_ui.api.dependencies import SizeLimits
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.lora.library import Library
from wan_ui.media import video
from wan_ui.media.image import ImageStore
from wan_ui.models import MODELS
from wan_ui.provenance.restoring import Environment

WHERE = "/v1/restore"
LIMIT = 6 << 20
ROW = next(row for row in MODELS.values() if row.control_image == "optional")


def _no_fetch(url: str) -> bytes:
    raise AssertionError("these tests fetch nothing")


@pytest.fixture
def worker(store: Store, render: FakeRender, tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(store, render, tmp_path / "clips", video.write)
    worker.start()
    yield worker
    assert worker.stop()


@pytest.fixture
def service(store: Store, worker: Worker, tmp_path: Path) -> JobService:
    write_lora(tmp_path / "loras" / "fox.safetensors")
    library = Library(tmp_path / "loras", tmp_path / "uploads")
    images = ImageStore(tmp_path / "images", _no_fetch)
    environment = Environment(transformer_config=Checkpoints(CHECKPOINTS).transformer_config)
    return JobService(library, images, store, worker, tmp_path, environment=environment)


@pytest.fixture
def client(service: JobService, tmp_path: Path) -> Iterator[TestClient]:
    (tmp_path / "scratch").mkdir()
    door = create_api(service, dict, lambda: LOCAL_ACCESS, limits=SizeLimits(file=LIMIT), scratch=tmp_path / "scratch")
    yield TestClient(Starlette(routes=[Mount("/v1", app=door)]), base_url="http://localhost:7860")
    assert list((tmp_path / "scratch").iterdir()) == []  # whatever was sent


def made(service: JobService, worker: Worker) -> tuple[Path, str]:
    """A clip with a LoRA and a first frame, and that image's SHA-256."""
    kept = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 40)).save(kept, "PNG")
    image = service.images.put_bytes(kept.getvalue(), LOCAL_ACCESS)
    item = {"prompt": "a fox", "width": 64, "height": 64, "num_frames": 1, "sample_steps": 1, "seed": -1}
    item["ctrl_img"] = f"upload://{image}"
    job = service.submit({"model": ROW.id, "prompts": [item], "loras": [{"path": "fox.safetensors"}]}, LOCAL_ACCESS)
    assert worker.wait(job.id, PATIENCE)
    return service.clip_path(job.id, 0, LOCAL_ACCESS), image


def sent(client: TestClient, data: bytes, query: str = "", name: str = "clip.mp4") -> dict[str, object]:
    reply = client.post(WHERE + query, files={"file": (name, data, "video/mp4")})
    assert reply.status_code == 200, reply.text
    said: dict[str, object] = reply.json()
    return said


@pytest.mark.slow
def test_what_comes_back_runs_as_it_is(client: TestClient, service: JobService, worker: Worker) -> None:
    clip, image = made(service, worker)
    said = sent(client, clip.read_bytes())
    assert list(said) == ["request", "comparison", "cell", "notes", "first_frame", "last_frame", "made"]
    assert (said["comparison"], said["notes"], said["first_frame"]) == (None, [], "here")
    reply = client.post("/v1/inference", json=said["request"])
    assert reply.status_code == 200
    again = service.job(reply.json()["request_id"], LOCAL_ACCESS).generations
    assert (
        again == service.job(service.recent(2, LOCAL_ACCESS)[1].id, LOCAL_ACCESS).generations
        and again[0].image == image
    )


@pytest.mark.slow
def test_the_videos_first_frame_is_kept_only_when_asked_for(
    client: TestClient, service: JobService, worker: Worker, tmp_path: Path
) -> None:
    clip, image = made(service, worker)
    (tmp_path / "images" / image).unlink()
    said = sent(client, clip.read_bytes())
    assert said["first_frame"] == "missing" and list((tmp_path / "images").iterdir()) == []
    said = sent(client, clip.read_bytes(), "?from_video=true")
    assert said["first_frame"] == "from_video" and len(list((tmp_path / "images").iterdir())) == 1
    assert client.post("/v1/inference", json=said["request"]).status_code == 200


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 99, "a PNG picture"),
        (b"", "is empty"),
        (b"not a video", "not an MP4"),
        (mp4(box(b"moov"), box(b"mdat", b"x" * 99)), "contains no settings"),
        (carrying({"a": 1}), "not made by wan-ui"),
        (carrying({"request": {"model": ROW.id}})[:-9], "cut off"),
        (mp4(film(b" " * (5 << 20))), "5242880 bytes of text"),
        (carrying(b"[" * 3_000_000), "not made by wan-ui"),
    ],
    ids=["png", "empty", "text", "foreign", "foreign json", "cut off", "a bomb", "deep"],
)
def test_no_file_but_ours(client: TestClient, data: bytes, words: str) -> None:
    for query in ("", "?from_video=true"):
        reply = client.post(WHERE + query, files={"file": ("clip.mp4", data)})
        assert words in error_of(reply, 400, "VIDEO_INVALID")["message"]


def test_the_size_of_an_upload_is_limited(client: TestClient) -> None:
    error_of(client.post(WHERE, files={"file": ("clip.mp4", b"\0" * (LIMIT + 1))}), 413, "PAYLOAD_TOO_LARGE")
    for reply in (
        client.post(WHERE, json={"request": {}}),
        client.post(WHERE, files={"video": ("clip.mp4", b"x")}),
        client.post(f"{WHERE}?from_video=maybe", files={"file": ("clip.mp4", b"x")}),
    ):
        error_of(reply, 422, "INVALID_REQUEST")
