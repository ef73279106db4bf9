"""Continuing a clip over HTTP, with real videos: its last frame, the next part's request, and both as one MP4."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from tests.api.test_app import error_of
from tests.fake_frames import fake_frames
from tests.fakes import PATIENCE, FakeRender
from wan_ui.access import LOCAL_ACCESS
from wan_ui.api.app import create_api
from wan_ui.jobs.continuation import DECODED_NOTE
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.lora.library import Library
from wan_ui.media import clip_frames, video
from wan_ui.media.image import ImageStore
from wan_ui.models import MODELS

pytestmark = pytest.mark.slow
WITH_LAST = next(model.id for model in MODELS.values() if model.takes_last_frame and not model.two_transformers)
OPTIONAL = next(model.id for model in MODELS.values() if model.control_image == "optional")
TEXT_ONLY = next(model.id for model in MODELS.values() if model.control_image == "none" and not model.two_transformers)


class Services:
    """A queue that writes real videos, and its HTTP API."""

    def __init__(self, folder: Path) -> None:
        for name in ("loras", "scratch"):
            (folder / name).mkdir()
        self.folder = folder
        self.store = Store(folder / "jobs.sqlite")
        self.worker = Worker(self.store, FakeRender(), folder / "clips", video.write)
        library, images = Library(folder / "loras"), ImageStore(folder / "images", lambda url: b"")
        self.service = JobService(library, images, self.store, self.worker, folder)
        app = create_api(self.service, dict, lambda: LOCAL_ACCESS, scratch=folder / "scratch")
        self.client = TestClient(Starlette(routes=[Mount("/v1", app=app)]), base_url="http://localhost:7860")
        self.worker.start()

    def made(self, model: str, **fields: Any) -> str:
        """A finished request's id."""
        item = {"prompt": "a fox", "width": 64, "height": 64, "num_frames": 5, "sample_steps": 2, "seed": 7, **fields}
        return self.finished({"model": model, "prompts": [item]})

    def finished(self, request: dict[str, Any]) -> str:
        job = self.service.submit(request, LOCAL_ACCESS)
        assert self.worker.wait(job.id, PATIENCE)
        return job.id

    def frames(self, job_id: str) -> np.ndarray:
        """The rendered frames, which the fake makes again."""
        return fake_frames(self.service.job(job_id, LOCAL_ACCESS).generations[0])

    def close(self) -> None:
        assert self.worker.stop()
        self.store.close()


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    services = Services(tmp_path_factory.mktemp("data"))
    yield services
    services.close()


def png(colour: tuple[int, int, int] = (200, 30, 40)) -> str:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_the_next_part_starts_from_the_rendered_last_frame(services: Services) -> None:
    first = services.made(OPTIONAL, neg="blurry", guidance_scale=2.5, flow_shift=4)
    frames = services.frames(first)
    reply = services.client.get(f"/v1/requests/{first}/videos/0/last_frame.png")
    assert reply.status_code == 200 and reply.headers["content-type"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(reply.content))), frames[-1])
    body = services.client.post(f"/v1/requests/{first}/videos/0/continue").json()
    assert body["lossless"] is True and body["notes"] == []
    item = body["request"]["prompts"][0]
    assert (item["neg"], item["guidance_scale"], item["flow_shift"], item["width"]) == ("blurry", 2.5, 4, 64)
    assert item["seed"] != 7 and item["ctrl_img"].startswith("upload://")
    second = services.finished(body["request"])
    image = services.service.job(second, LOCAL_ACCESS).generations[0].image
    assert image is not None
    assert np.array_equal(np.asarray(services.service.images.open(image, LOCAL_ACCESS)), frames[-1])


def test_an_older_clip_is_decoded_and_says_so(services: Services) -> None:
    first = services.made(OPTIONAL, seed=8)
    services.service.clip_path(first, 0, LOCAL_ACCESS).with_suffix(clip_frames.LAST_SUFFIX).unlink()
    body = services.client.post(f"/v1/requests/{first}/videos/0/continue").json()
    assert (body["lossless"], body["notes"]) == (False, [DECODED_NOTE])


def test_a_last_frame_is_not_carried_and_a_model_without_first_frame_is_named(services: Services) -> None:
    first = services.made(WITH_LAST, ctrl_img=png(), ctrl_img_last=png((1, 2, 3)))
    body = services.client.post(f"/v1/requests/{first}/videos/0/continue").json()
    assert "ctrl_img_last" not in body["request"]["prompts"][0] and "not carried over" in body["notes"][0]
    text = services.made(TEXT_ONLY)
    error = error_of(services.client.post(f"/v1/requests/{text}/videos/0/continue"), 400, "CONTROL_IMAGE_NOT_SUPPORTED")
    assert MODELS[TEXT_ONLY].label in error["message"]
    for path in ("continue", "last_frame.png"):
        method = services.client.post if path == "continue" else services.client.get
        error_of(method(f"/v1/requests/{'0' * 32}/videos/0/{path}"), 404, "REQUEST_NOT_FOUND")
        error_of(method(f"/v1/requests/{first}/videos/5/{path}"), 404, "VIDEO_NOT_FOUND")


def test_parts_are_joined_without_the_doubled_frame(services: Services, tmp_path: Path) -> None:
    first, second = (services.made(OPTIONAL, seed=seed, num_frames=count) for seed, count in ((3, 9), (4, 5)))
    parts = {"part": [f"{first}-0", f"{second}-0"]}
    reply = services.client.get("/v1/joined.mp4", params=parts)
    assert reply.status_code == 200, reply.text
    path = tmp_path / "joined.mp4"
    path.write_bytes(reply.content)
    frames = video.read_frames(path)
    assert len(frames) == 9 + 5 - 1
    rendered = np.concatenate([services.frames(first), services.frames(second)[1:]]).astype(int)
    assert np.abs(frames.astype(int) - rendered).mean() < 4
    seeds = [part["generation"]["seed"] for part in video.read_metadata(path)["parts"]]
    assert seeds == [3, 4] and first not in reply.text
    assert services.service.restore(path, LOCAL_ACCESS).request["prompts"][0]["seed"] == 3
    for job_id in (first, second):  # the parts stay
        assert services.service.clip_path(job_id, 0, LOCAL_ACCESS).is_file()
    assert list((services.folder / "scratch").iterdir()) == []


def test_what_cannot_be_joined(services: Services) -> None:
    small, large = services.made(OPTIONAL), services.made(OPTIONAL, width=128)
    for params in ([small], [small, small] * 9, ["x", "y"], [f"{small}-0", f"{large}-0"], [f"{small}-0", "a-b"]):
        names = [name if "-" in name or len(name) < 9 else f"{name}-0" for name in params]
        error_of(services.client.get("/v1/joined.mp4", params={"part": names}), 422, "INVALID_REQUEST")
    error_of(services.client.get("/v1/joined.mp4", params={"part": [f"{small}-0", f"{'0' * 32}-0"]}), 404,
             "REQUEST_NOT_FOUND")  # fmt: skip


def test_a_missing_last_frame_is_taken_from_the_video(services: Services) -> None:
    first = services.made(WITH_LAST, ctrl_img=png(), ctrl_img_last=png((9, 8, 7)))
    clip = services.service.clip_path(first, 0, LOCAL_ACCESS)
    image = services.service.job(first, LOCAL_ACCESS).generations[0].image_last
    assert services.service.restore(clip, LOCAL_ACCESS).last_frame == "here"
    (services.folder / "images" / str(image)).unlink()
    without = services.service.restore(clip, LOCAL_ACCESS)
    assert without.last_frame == "missing" and "ctrl_img_last" not in without.request["prompts"][0]
    assert without.first_frame == "here" and "last frame is not on this server" in without.notes[0]
    taken = services.service.restore(clip, LOCAL_ACCESS, from_video=True)
    assert taken.last_frame == "from_video"
    kept = taken.request["prompts"][0]["ctrl_img_last"].removeprefix("upload://")
    shown = np.asarray(services.service.images.open(kept, LOCAL_ACCESS)).astype(int)
    assert np.abs(shown - services.frames(first)[-1]).mean() < 4


def test_a_request_is_exported_for_comfyui(services: Services) -> None:
    first = services.made(OPTIONAL, neg="blurry")
    reply = services.client.get(f"/v1/requests/{first}/comfyui.json")
    assert reply.headers["content-disposition"] == f'attachment; filename="wan-ui-{first[:8]}-0-comfyui.json"'
    assert "KSamplerAdvanced" in {node["class_type"] for node in reply.json().values()}
    error_of(services.client.get(f"/v1/requests/{first}/comfyui.json?video=1"), 404, "VIDEO_NOT_FOUND")


def test_the_file_of_joined_frames_has_all_its_blocks(tmp_path: Path) -> None:
    """Writing through a mapping into a hole of a file ends the process when the disk is full."""
    frames = clip_frames.allocate_frames(tmp_path / "frames", (9, 64, 96, 3))
    assert frames.shape == (9, 64, 96, 3) and not frames.any()
    assert (tmp_path / "frames").stat().st_blocks * 512 >= frames.nbytes


def test_the_first_frame_that_a_request_starts_from_as_a_small_picture(services: Services) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (800, 400), (200, 30, 30)).save(buffer, "PNG")
    started = services.made(OPTIONAL, ctrl_img=base64.b64encode(buffer.getvalue()).decode())
    reply = services.client.get(f"/v1/requests/{started}/first_frame.jpg")
    with Image.open(io.BytesIO(reply.content)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (264, 132))
    without = services.client.get(f"/v1/requests/{services.made(OPTIONAL)}/first_frame.jpg")
    assert "no first frame" in error_of(without, 404, "PICTURE_NOT_FOUND")["message"]
    error_of(services.client.get(f"/v1/requests/{'0' * 32}/first_frame.jpg"), 404, "REQUEST_NOT_FOUND")
    for stored in services.service.stored_files.listing(LOCAL_ACCESS):
        services.service.stored_files.delete(stored.kind, stored.id, LOCAL_ACCESS)
    gone = services.client.get(f"/v1/requests/{started}/first_frame.jpg")
    assert "deleted" in error_of(gone, 404, "PICTURE_NOT_FOUND")["message"]
