"""Training jobs over HTTP, on a real job service, store, worker and library: import, checklist, hostile input."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from tests.api.test_app import error_of
from tests.fakes import PATIENCE
from tests.trainer.job_files import (
    I2V,
    PAIR,
    SAMPLE,
    MovingRender,
    config,
    moving,
    tiny,
    webp,
    write_job,
    zipped,
)
from wan_ui.access import LOCAL_ACCESS, Access
from wan_ui.api.app import create_api
from wan_ui.api.dependencies import SizeLimits
from wan_ui.identity import Identity
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.lora.library import Library
from wan_ui.media import video
from wan_ui.media.image import ImageStore
from wan_ui.provenance.restoring import Environment

pytestmark = pytest.mark.slow
IMPORT = "/v1/jobs/import"
LIMIT = 3_000_000


def _no_fetch(url: str) -> bytes:
    raise AssertionError("these tests fetch nothing")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data folder; all that is not in it must stay as it is."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def store(data: Path) -> Iterator[Store]:
    store = Store(data / "jobs.sqlite")
    yield store
    store.close()


@pytest.fixture
def worker(store: Store, data: Path) -> Iterator[Worker]:
    worker = Worker(store, MovingRender(), data / "clips", video.write)
    worker.start()
    yield worker
    assert worker.stop()


@pytest.fixture
def service(store: Store, worker: Worker, data: Path, tmp_path: Path) -> JobService:
    (tmp_path / "loras").mkdir()
    images = ImageStore(data / "images", _no_fetch)
    library = Library(tmp_path / "loras", data / "uploads")
    environment = Environment(transformer_config=tiny)
    return JobService(library, images, store, worker, data, environment=environment)


@pytest.fixture
def client(service: JobService, data: Path) -> Iterator[TestClient]:
    scratch = data / "uploads"
    app = create_api(
        service, dict, lambda: LOCAL_ACCESS, limits=SizeLimits(small_body=400_000, file=LIMIT), scratch=scratch
    )
    yield TestClient(Starlette(routes=[Mount("/v1", app=app)]), base_url="http://localhost:7860")
    assert [path for path in scratch.iterdir() if path.is_dir()] == []  # whatever was sent
    assert list((data / "trainer").glob(".part*")) == []


def sent(client: TestClient, data: bytes, name: str = "job.zip", status: int = 200) -> Any:
    reply = client.post(IMPORT, files={"file": (name, data)})
    assert reply.status_code == status, reply.text
    return reply.json()


def rendered(client: TestClient, worker: Worker, request: dict[str, Any]) -> str:
    reply = client.post("/v1/inference", json=request)
    assert reply.status_code == 200, reply.text
    job_id: str = reply.json()["request_id"]
    assert worker.wait(job_id, PATIENCE)
    assert client.get(f"/v1/requests/{job_id}/status").json()["status"] == "succeeded"
    return job_id


def states(client: TestClient, job_id: str, video: int = 0) -> dict[str, str]:
    reply = client.get(f"/v1/requests/{job_id}/checklist?video={video}")
    assert reply.status_code == 200, reply.text
    return {row["row"]: row["state"] for row in reply.json()["rows"]}


def test_a_zip_becomes_requests_that_make_its_previews(client: TestClient, worker: Worker, tmp_path: Path) -> None:
    job = sent(client, zipped(write_job(tmp_path / "fox"), tmp_path / "job.zip").read_bytes())
    assert (job["model"], job["recipe"], job["recipe_known"], job["name"]) == ("wan21_1b", "preview", True, "fox")
    assert [one["step"] for one in job["checkpoints"]] == [250, 500, None]
    assert [one["trained_step"] for one in job["checkpoints"]] == [250, 500, 750]
    assert len(job["sample_files"]) == 6 and not any("has no" in note for note in job["notes"])
    first, second = job["requests"]
    assert first["prompts"][0]["prompt"] == "a sks fox runs" and second["prompts"][0]["seed"] == 9
    assert first["prompts"][0]["training_sample"] == {"job": job["id"], "sample": 0, "step": 750}
    assert first["loras"][0]["path"].endswith("/fox.safetensors")

    job_id = rendered(client, worker, first)
    found = client.get(f"/v1/requests/{job_id}/checklist").json()
    assert {row["row"]: row["state"] for row in found["rows"] if row["state"] != "green"} == {}
    beside = found["comparison"]
    assert beside["exact"] and beside["causes"] == [] and beside["mean_psnr"] > 30
    assert len(beside["psnr"]) == 9 and (beside["width"], beside["num_frames"], beside["fps"]) == (96, 9, 16)
    assert found["text"].startswith("Training sample against this run: 0 red, 0 amber, 25 green")

    other = rendered(client, worker, {**first, "prompts": [{**first["prompts"][0], "seed": 8}]})
    found = client.get(f"/v1/requests/{other}/checklist").json()
    assert [row["row"] for row in found["rows"] if row["state"] == "red"] == ["seed"]
    assert [cause["id"] for cause in found["comparison"]["causes"]] == ["seed_or_sampler"]


def test_the_frames_are_the_renders_own(client: TestClient, worker: Worker, tmp_path: Path, data: Path) -> None:
    job = sent(client, zipped(write_job(tmp_path / "fox"), tmp_path / "job.zip").read_bytes())
    rendered(client, worker, job["requests"][0])
    (kept,) = (data / "clips").glob("*.mkv")
    assert np.array_equal(video.read_lossless(kept), moving(7))
    about = video.read_metadata(kept.with_suffix(".mp4"))
    assert job["id"] not in json.dumps(about) and about["request"]["prompts"][0]["seed"] == 7
    plain = {**job["requests"][0], "prompts": [{"prompt": "x", "width": 64, "height": 64, "num_frames": 5}]}
    rendered(client, worker, plain)
    assert len(list((data / "clips").glob("*.mkv"))) == 1


def test_films_to_look_at(client: TestClient, worker: Worker, tmp_path: Path) -> None:
    job = sent(client, zipped(write_job(tmp_path / "fox"), tmp_path / "job.zip").read_bytes())
    job_id = rendered(client, worker, job["requests"][1])
    for name in ("preview", "difference"):
        reply = client.get(f"/v1/requests/{job_id}/{name}.mp4")
        assert reply.status_code == 200 and reply.headers["content-type"] == "video/mp4"
        (tmp_path / "film.mp4").write_bytes(reply.content)
        frames = video.read_frames(tmp_path / "film.mp4")
        assert frames.shape == (9, 64, 96, 3)
        assert (frames.mean() < 16) == (name == "difference")
    file = job["sample_files"][0]
    picture = client.get(file["url"].removeprefix("http://localhost:7860"))
    assert (picture.headers["content-type"], picture.headers["x-content-type-options"]) == ("image/webp", "nosniff")
    assert getattr(Image.open(io.BytesIO(picture.content)), "n_frames", 1) == 9
    small = client.get(file["thumbnail_url"].removeprefix("http://localhost:7860"))
    assert max(Image.open(io.BytesIO(small.content)).size) <= 320


def test_a_pair_by_steps(client: TestClient, tmp_path: Path, worker: Worker) -> None:
    folder = write_job(tmp_path / "fox", PAIR, sides=("_high_noise", "_low_noise"))
    job = sent(client, zipped(folder, tmp_path / "job.zip").read_bytes())
    assert [sorted(one["files"]) for one in job["checkpoints"]] == [["high", "low"]] * 3
    request = job["requests"][0]
    assert [one["transformer"] for one in request["loras"]] == ["high", "low"]
    assert states(client, rendered(client, worker, request))["lora_sides"] == "green"
    one_side = {**request, "loras": request["loras"][:1]}
    assert states(client, rendered(client, worker, one_side))["lora_sides"] == "red"
    earlier = [{**item, "path": job["checkpoints"][0]["files"][item["transformer"]]} for item in request["loras"]]
    assert states(client, rendered(client, worker, {**request, "loras": earlier}))["lora_step"] == "red"


def test_a_folder_under_the_lora_folder_is_read_where_it_is(client: TestClient, worker: Worker, tmp_path: Path) -> None:
    write_job(tmp_path / "loras" / "fox")
    before = sorted(path for path in (tmp_path / "loras").rglob("*"))
    job = client.post(IMPORT, json={"folder": "fox"}).json()
    assert job["requests"][0]["loras"][0]["path"] == "fox/fox.safetensors"
    job_id = rendered(client, worker, job["requests"][0])
    assert set(states(client, job_id).values()) == {"green"}
    assert sorted(path for path in (tmp_path / "loras").rglob("*")) == before
    # A sample file that becomes a link to elsewhere is not followed.
    (secret := tmp_path / "secret.webp").write_bytes(webp(moving(1)))
    url = job["sample_files"][0]["url"].removeprefix("http://localhost:7860")
    assert client.get(url).status_code == 200
    file = next((tmp_path / "loras" / "fox" / "samples").glob("*000000250_0.webp"))
    file.unlink()
    file.symlink_to(secret)
    assert error_of(client.get(url), 404, "PREVIEW_NOT_FOUND")


def test_a_config_as_json_with_its_loras(client: TestClient, worker: Worker, tmp_path: Path) -> None:
    write_job(tmp_path / "loras" / "fox", previews=False)
    body = {"config": config().decode(), "loras": [{"path": "fox/fox_000000500.safetensors"}]}
    job = client.post(IMPORT, json=body).json()
    assert (job["recipe"], job["recipe_known"]) == ("preview", True)
    assert job["requests"][0]["loras"] == [{"path": "fox/fox_000000500.safetensors", "network_multiplier": 1.0}]
    assert states(client, rendered(client, worker, job["requests"][0]))["lora_step"] == "green"
    disabled = sent(client, config(), "config.yaml")
    assert disabled["requests"][0].get("loras") == [] and disabled["recipe_known"] is False


def test_first_frames_are_found_in_the_zip(client: TestClient, worker: Worker, tmp_path: Path) -> None:
    here = {"prompt": "a", "seed": 7, "ctrl_img": "D:\\data\\images\\cat.png"}
    samples = [here, {"prompt": "b", "ctrl_img": "/x.png"}]
    sample = {**SAMPLE, "samples": samples}
    folder = write_job(tmp_path / "fox", I2V, sample, ("_high_noise", "_low_noise"))
    (folder / "images").mkdir()
    Image.linear_gradient("L").convert("RGB").save(folder / "images" / "cat.png")
    job = sent(client, zipped(folder, tmp_path / "job.zip").read_bytes())
    assert job["requests"][0]["prompts"][0]["ctrl_img"].startswith("upload://")
    assert [one["missing_image"] for one in job["samples"]] == [None, "x.png"]
    assert states(client, rendered(client, worker, job["requests"][0]))["control_image"] == "green"


def test_an_uploaded_preview(client: TestClient, worker: Worker) -> None:
    request = {
        "model": "wan21_1b",
        "prompts": [{"prompt": "x", "width": 96, "height": 64, "num_frames": 9, "fps": 16, "seed": 7}],
    }
    job_id = rendered(client, worker, request)
    where = f"/v1/requests/{job_id}/preview"
    assert error_of(client.get(f"/v1/requests/{job_id}/checklist"), 404, "PREVIEW_NOT_FOUND")
    assert error_of(client.get(f"/v1/requests/{job_id}/preview.mp4"), 404, "PREVIEW_NOT_FOUND")
    found = client.post(where, files={"file": ("a.webp", webp(moving(7)))}).json()
    assert {row["row"]: row["state"] for row in found["rows"]} == {
        "size": "green", "frames": "green", "fps": "green", "job": "amber",
    }  # fmt: skip
    assert found["comparison"]["causes"] == [] and found["comparison"]["exact"] is False
    assert client.get(f"/v1/requests/{job_id}/checklist").json() == found
    faults = {
        "size": webp(moving(7, 128, 64)),
        "frames": webp(moving(7, frames=13)),
        "fps": webp(moving(7), 24),
        "seed_or_sampler": webp(moving(8)),
        "colour": webp((moving(7) * 0.9).astype(np.uint8)),
    }
    for fault, file in faults.items():
        found = client.post(where, files={"file": ("a.webp", file)}).json()
        assert [cause["id"] for cause in found["comparison"]["causes"]] == [fault]
        red = [row["row"] for row in found["rows"] if row["state"] == "red"]
        assert red == ([fault] if fault in ("size", "frames", "fps") else [])


def test_only_the_owner_of_a_request_brings_another_preview(service: JobService, worker: Worker, data: Path) -> None:
    prompt = {"prompt": "x", "width": 96, "height": 64, "num_frames": 9, "fps": 16, "seed": 7}
    job = service.submit({"model": "wan21_1b", "prompts": [prompt]}, Access(Identity("a" * 32, False), shared=True))
    assert worker.wait(job.id, PATIENCE)
    for visitor, status in (("b", 404), ("a", 200)):
        access = partial(Access, Identity(visitor * 32, False), True)
        door = create_api(service, dict, access, scratch=data / "uploads")
        client = TestClient(Starlette(routes=[Mount("/v1", app=door)]), base_url="http://localhost:7860")
        reply = client.post(f"/v1/requests/{job.id}/preview", files={"file": ("a.webp", webp(moving(7)))})
        assert reply.status_code == status, reply.text


def test_what_is_to_be_compared_must_be_here(client: TestClient) -> None:
    for sample in ({"job": "0" * 32, "sample": 0}, {"file": "0" * 64}, {"step": 3}):
        request = {"model": "wan21_1b", "prompts": [{"prompt": "x", "training_sample": sample}]}
        error = error_of(client.post("/v1/inference", json=request), 422, "INVALID_REQUEST")
        assert error["details"]["fields"][0]["loc"] == "prompts.0.training_sample"
    request = {"model": "wan21_1b", "prompts": [{"prompt": "x", "training_sample": {"job": "../../etc"}}]}
    assert error_of(client.post("/v1/inference", json=request), 422, "INVALID_REQUEST")


def test_jobs_outlast_the_process(
    client: TestClient, service: JobService, store: Store, worker: Worker, data: Path, tmp_path: Path
) -> None:
    job = sent(client, zipped(write_job(tmp_path / "fox"), tmp_path / "job.zip").read_bytes())
    job_id = rendered(client, worker, job["requests"][0])
    environment = Environment(transformer_config=tiny)
    again = JobService(service.library, service.images, store, worker, data, environment=environment)
    assert [row.state for row in again.sample_comparisons.check(again.job(job_id, LOCAL_ACCESS), 0).rows] == [
        "green"
    ] * 25


def test_a_job_of_the_jobs_folder_is_read_in_place_and_named_without_its_path(
    service: JobService, store: Store, worker: Worker, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    folder = write_job(output / "fox", PAIR, sides=("_high_noise", "_low_noise"))
    before = sorted(folder.rglob("*"))
    library = Library(tmp_path / "loras", data / "uploads", further={"jobs": lambda: (output,)})
    environment = Environment(transformer_config=tiny)
    again = JobService(library, service.images, store, worker, data, environment=environment)
    assert library.folders_with(("config.yaml",)) == ["jobs/fox"]
    guest = Access(Identity("guest", owner=False), shared=False)
    app = create_api(again, dict, lambda: guest, scratch=data / "uploads")
    client = TestClient(Starlette(routes=[Mount("/v1", app=app)]), base_url="http://localhost:7860")
    reply = client.post(IMPORT, json={"folder": "jobs/fox"})
    assert reply.status_code == 200, reply.text
    assert str(tmp_path) not in reply.text
    job = reply.json()
    assert [item["path"] for item in job["requests"][0]["loras"]] == [
        "jobs/fox/fox_high_noise.safetensors", "jobs/fox/fox_low_noise.safetensors",
    ]  # fmt: skip
    assert sorted(folder.rglob("*")) == before
    sample = client.get(f"/v1/jobs/{job['id']}/samples/250/0")
    assert sample.status_code == 200 and sample.content[:4] == b"RIFF"
    for source in ("jobs/../loras", "jobs/gone", "output/fox", str(folder)):
        refused = client.post(IMPORT, json={"folder": source})
        assert refused.status_code == 422 and str(tmp_path) not in refused.text.replace(str(folder), ""), source


# Hostile input


def archive(entries: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in entries.items():
            made.writestr(name, data)
    return file.getvalue()


BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(9)
)
HOSTILE: dict[str, tuple[bytes, str, int, str]] = {
    "a YAML bomb": (BOMB, "config.yaml", 422, "JOB_CONFIG_INVALID"),
    "a YAML tag": (b"!!python/object/apply:os.system ['touch x']", "config.yaml", 422, "JOB_CONFIG_INVALID"),
    "10 MB of config": (b"# x\n" * 700_000, "config.yaml", 422, "JOB_CONFIG_INVALID"),
    "nothing": (b"", "config.yaml", 422, "JOB_CONFIG_INVALID"),
    "a picture": (webp(moving(1)), "config.yaml", 422, "JOB_CONFIG_INVALID"),
    "a list": (b"[1, 2]", "config.yaml", 422, "JOB_CONFIG_INVALID"),
    "another model": (config({"arch": "flux"}), "config.yaml", 422, "JOB_CONFIG_INVALID"),
    "a ZIP without a config": (archive({"x.webp": b"x"}), "job.zip", 422, "JOB_CONFIG_INVALID"),
    "ZIP slip": (archive({"config.yaml": config(), "../../x.webp": b"x"}), "job.zip", 422, "JOB_CONFIG_INVALID"),
    "a ZIP bomb": (archive({"config.yaml": config(), "x.webp": bytes(50_000_000)}), "job.zip", 422,
                   "JOB_CONFIG_INVALID"),
    "a ZIP that is cut off": (archive({"config.yaml": config()})[:-30], "job.zip", 422, "JOB_CONFIG_INVALID"),
    "a ZIP with a bomb for a config": (archive({"config.yaml": BOMB}), "job.zip", 422, "JOB_CONFIG_INVALID"),
    "a ZIP with 10 MB of config": (archive({"config.yaml": b"# x\n" * 2_600_000}), "job.zip", 422,
                                   "JOB_CONFIG_INVALID"),
    "more than the limit": (random.Random(0).randbytes(LIMIT + 100_000), "job.zip", 413, "PAYLOAD_TOO_LARGE"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_input_is_refused_and_leaves_nothing(client: TestClient, tmp_path: Path, data: Path, case: str) -> None:
    sends, name, status, code = HOSTILE[case]
    before = {path for path in tmp_path.rglob("*") if "jobs.sqlite" not in path.name}
    reply = client.post(IMPORT, files={"file": (name, sends)})
    error = error_of(reply, status, code)
    assert len(error["message"]) < 500 and str(tmp_path) not in reply.text
    left = {path for path in tmp_path.rglob("*") if "jobs.sqlite" not in path.name} - before
    assert left <= {data / "trainer"}


def test_bodies_that_are_no_import(client: TestClient, tmp_path: Path) -> None:
    assert error_of(client.post(IMPORT, content=b"{"), 400, "BAD_JSON")
    for body in ({}, {"config": "x", "folder": "y"}, {"config": 3}, {"konfig": "x"}, [1]):
        assert error_of(client.post(IMPORT, json=body), 422, "INVALID_REQUEST")
    for folder in ("../..", "/etc", "nowhere", "a\\..\\b", "x\0", "."):
        assert error_of(client.post(IMPORT, json={"folder": folder}), 422, "JOB_CONFIG_INVALID")
    assert error_of(client.post(IMPORT, json={"config": "x" * 500_000}), 413, "PAYLOAD_TOO_LARGE")
    assert error_of(client.post(IMPORT, content=b'{"config": "\\ud800"}'), 422, "JOB_CONFIG_INVALID")
    assert error_of(client.get("/v1/jobs/..%2f..%2fetc/samples/1/1"), 404, "ROUTE_NOT_FOUND")
    assert error_of(client.get(f"/v1/jobs/{'0' * 32}/samples/1/1"), 404, "PREVIEW_NOT_FOUND")


def test_previews_that_lie(client: TestClient, worker: Worker, data: Path) -> None:
    job_id = rendered(client, worker, {"model": "wan21_1b", "prompts": [{"prompt": "x", "width": 64, "height": 64,
                                                                       "num_frames": 5}]})  # fmt: skip
    where = f"/v1/requests/{job_id}/preview"
    flat = np.zeros((1, 16, 16, 3), np.uint8)
    many = np.concatenate([flat + (index % 2) * 200 for index in range(1500)]).astype(np.uint8)
    for file, status, code in (
        (b"<html>", 422, "INVALID_REQUEST"),
        (webp(moving(1))[:-2000], 422, "INVALID_REQUEST"),
        (b"\0\0\0\x18ftypmp42" + bytes(400), 422, "INVALID_REQUEST"),
        (webp(many), 413, "PAYLOAD_TOO_LARGE"),
    ):
        assert error_of(client.post(where, files={"file": ("a.webp", file)}), status, code)
    assert error_of(client.post(f"/v1/requests/{'0' * 32}/preview", files={"file": ("a", b"x")}), 404,
                    "REQUEST_NOT_FOUND")  # fmt: skip
    assert error_of(client.post(f"{where}?video=3", files={"file": ("a", webp(moving(1)))}), 404, "VIDEO_NOT_FOUND")
    assert not list((data / "trainer").glob("previews/*"))


def test_files_of_a_zip_that_are_no_loras_are_passed_over(client: TestClient, tmp_path: Path, data: Path) -> None:
    folder = write_job(tmp_path / "fox")
    (folder / "fox_000000500.safetensors").write_bytes(b"<html>sign in</html>")
    (folder / "samples" / "1750000000001__000000900_0.webp").write_bytes(b"<script>alert(1)</script>")
    job = sent(client, zipped(folder, tmp_path / "job.zip").read_bytes())
    assert [one["step"] for one in job["checkpoints"]] == [250, None]
    assert any("fox_000000500.safetensors is skipped" in note for note in job["notes"])
    url = next(one["url"] for one in job["sample_files"] if one["step"] == 900).removeprefix("http://localhost:7860")
    assert error_of(client.get(url), 404, "PREVIEW_NOT_FOUND")
    assert error_of(client.get(f"{url}/thumbnail"), 404, "PREVIEW_NOT_FOUND")


def test_a_job_in_a_folder_is_watched_by_the_owner(
    client: TestClient, service: JobService, data: Path, tmp_path: Path
) -> None:
    write_job(tmp_path / "loras" / "fox", previews=False)
    job_id = client.post(IMPORT, json={"folder": "fox"}).json()["id"]
    watch = f"/v1/jobs/{job_id}/watch"
    error_of(client.get(watch), 404, "NOT_WATCHED")
    begun = client.post(watch)
    assert begun.status_code == 200, begun.text
    assert client.post(watch, json={"existing": True}).json() == begun.json()  # it is watched already
    assert {**begun.json(), "started_at": ""} == {
        "job_id": job_id, "started_at": "", "comparison": None, "rendered": 0, "waiting": 0, "problem": None,
    }  # fmt: skip
    guests = create_api(service, dict, lambda: Access(Identity("2" * 32, False), shared=True), scratch=data)
    guest = TestClient(Starlette(routes=[Mount("/v1", app=guests)]), base_url="http://localhost:7860")
    for method in ("POST", "GET", "DELETE"):
        error_of(guest.request(method, watch), 403, "OWNER_ONLY")
    assert client.delete(watch).status_code == 204
    error_of(client.delete(watch), 404, "NOT_WATCHED")
    assert client.post(watch, json={"existing": 1, "more": 2}).status_code == 422
    error_of(client.post(f"/v1/jobs/{'0' * 32}/watch"), 404, "PREVIEW_NOT_FOUND")
