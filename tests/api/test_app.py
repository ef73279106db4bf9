"""Every route of /v1 and every error it can answer, on a real job store behind a job service of twenty lines."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from wan_ui import errors
from wan_ui.access import LOCAL_ACCESS, Access
from wan_ui.api.app import create_api
from wan_ui.api.bodies import decode_json
from wan_ui.api.dependencies import SizeLimits
from wan_ui.errors import PictureNotFound, RenderFailed, VideoNotFound, WanUIError
from wan_ui.job import ClipRecord, Job
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.models import MODELS
from wan_ui.provenance.restoring import Restoration
from wan_ui.request import parse, resolve

CLIP = bytes(range(256)) * 40
UNKNOWN = "0" * 32
BODY: dict[str, Any] = {"model": "wan21_1b", "prompts": [{"prompt": "a cat"}]}
LIMIT = 100_000


class ShelfDesk:
    """A job service that stores requests and never runs them; `mishap` is raised by the next submit."""

    imported_jobs: Any = None  # test_trainer.py does
    sample_comparisons: Any = None
    entries: Any = None  # test_gallery.py does, as all of these
    entry_choices: Any = None
    entry: Any = None
    may_change_entry: Any = None
    keep_entry: Any = None
    delete_entry: Any = None
    poster: Any = None
    make_poster: Any = None

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.folder = store, folder
        self.mishap: Exception | None = None

    def submit(self, body: Any, access: Access) -> Job:
        if self.mishap is not None:
            raise self.mishap
        request = parse(body)
        generations = resolve(request, lambda _image: "ab" * 32, lambda: 7)
        return self.store.add(request.model_dump(mode="json"), generations, ["a note"])

    def job(self, job_id: str, access: Access) -> Job:
        return self.store.job(job_id)

    def cancel(self, job_id: str, access: Access) -> Job:
        self.store.job(job_id)
        self.store.request_cancel(job_id)
        return self.store.job(job_id)

    def retry(self, job_id: str, access: Access) -> Job:
        raise AssertionError("test_comparison.py does")

    def may_change(self, job: Job, access: Access) -> bool:
        return True

    def running(self, job_id: str, access: Access) -> None:
        return None

    def pulse(self) -> str:
        return "0"

    def outlook(self, job_id: str) -> None:
        return None

    def progress(self, job_id: str) -> None:
        return None

    def live_picture(self, job_id: str, access: Access) -> bytes:
        self.store.job(job_id)
        raise PictureNotFound("This request has no live picture.")

    def inspect(self, source: str, access: Access) -> dict[str, Any]:
        raise AssertionError("test_inspect.py does")

    def inspect_file(self, file: Path, name: str) -> dict[str, Any]:
        raise AssertionError("test_inspect.py does")

    def restore(self, file: Path, access: Access, from_video: bool = False) -> Restoration:
        raise AssertionError("test_restore.py does")

    def clip_path(self, job_id: str, index: int, access: Access) -> Path:
        for clip in self.store.job(job_id).clips:
            if clip.index == index:
                return self.folder / clip.file
        raise VideoNotFound("There is no such video.")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ShelfDesk]:
    store = Store(tmp_path / "jobs.sqlite")
    (tmp_path / "clips").mkdir()
    yield ShelfDesk(store, tmp_path)
    store.close()


def health() -> dict[str, Any]:
    return {"status": "ready", "version": "1", "device": "cpu", "queue": 3}


@pytest.fixture
def door(service: ShelfDesk) -> FastAPI:
    return create_api(cast(JobService, service), health, lambda: LOCAL_ACCESS, limits=SizeLimits(LIMIT))


@pytest.fixture
def client(door: FastAPI) -> TestClient:
    app = Starlette(routes=[Mount("/v1", app=door)])
    return TestClient(app, base_url="http://localhost:7860", raise_server_exceptions=False)


def run(
    service: ShelfDesk, job_id: str, clips: int, status: Literal["succeeded", "failed", "canceled"] = "succeeded"
) -> None:
    """Does what a worker would: claims the job, files some clips, ends it."""
    assert service.store.claim_next() == job_id
    for index, one in enumerate(service.store.job(job_id).generations[:clips]):
        file = f"clips/{job_id}-{index}.mp4"
        (service.folder / file).write_bytes(CLIP)
        size = (one.width, one.height, one.num_frames, one.fps, one.seed)
        assert service.store.add_clip(job_id, ClipRecord(index, *size, file, {"memory": "resident"}))
    failure = RenderFailed("Prompt 1 failed.", prompt=1).body() if status == "failed" else None
    assert service.store.finish(job_id, status, failure) == status


def submit(client: TestClient, **changes: Any) -> str:
    reply = client.post("/v1/inference", json=BODY | changes)
    assert reply.status_code == 200, reply.text
    job_id: str = reply.json()["request_id"]
    return job_id


def error_of(reply: Any, status: int, code: str) -> dict[str, Any]:
    """Checks that a reply is an error in the shape of all errors; the error itself."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert list(body) == ["detail"] and list(body["detail"]) == ["error"]
    error: dict[str, Any] = body["detail"]["error"]
    assert list(error) == ["code", "message", "details"]
    assert error["code"] == code
    assert error["message"].strip() and "Traceback" not in reply.text
    return error


# The routes


def test_a_request_is_queued_and_says_where_to_look(client: TestClient, service: ShelfDesk) -> None:
    reply = client.post("/v1/inference", json=BODY)
    body = reply.json()
    job_id = body["request_id"]
    assert reply.status_code == 200
    assert body == {
        "request_id": job_id,
        "status": "queued",
        "status_url": f"http://localhost:7860/v1/requests/{job_id}/status",
        "result_url": f"http://localhost:7860/v1/requests/{job_id}/result",
        "created_at": service.store.job(job_id).created_at,
    }
    assert client.get(body["status_url"]).json()["status"] == "in_queue"
    assert client.get(body["result_url"]).json()["status"] == "in_queue"


def test_a_speedup_is_said_of_a_request_and_refused_in_a_preview(client: TestClient) -> None:
    reply = client.post("/v1/inference", json={**BODY, "speedup": "step_cache"})
    assert reply.status_code == 200
    said = client.get(reply.json()["result_url"]).json()
    assert said["metadata"]["speedup"] == "step_cache"
    for wrong in ({"recipe": "preview", "speedup": "step_cache"}, {"speedup": "turbo"}):
        error = error_of(client.post("/v1/inference", json={**BODY, **wrong}), 422, "INVALID_REQUEST")
        assert [field["loc"] for field in error["details"]["fields"]] == ["speedup"]


def test_urls_follow_the_scheme_and_host_of_the_request(client: TestClient) -> None:
    reply = client.post("https://studio.example:8443/v1/inference", json=BODY)
    assert reply.json()["status_url"].startswith("https://studio.example:8443/v1/requests/")


def test_the_states_of_a_request(client: TestClient, service: ShelfDesk) -> None:
    job_id = submit(client)

    def state() -> dict[str, Any]:
        body: dict[str, Any] = client.get(f"/v1/requests/{job_id}/status").json()
        assert list(body) == ["request_id", "status", "created_at", "started_at", "finished_at", "error", "progress"]
        assert body["request_id"] == job_id
        for name in ("created_at", "started_at", "finished_at"):
            assert body[name] is None or re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", body[name])
        return body

    waiting = state()
    assert (waiting["status"], waiting["started_at"], waiting["finished_at"]) == ("in_queue", None, None)
    service.store.claim_next()
    running = state()
    assert (running["status"], running["finished_at"]) == ("in_progress", None) and running["started_at"]
    service.store.finish(job_id, "failed", RenderFailed("It broke.", prompt=0).body())
    failed = state()
    assert failed["status"] == "failed" and failed["finished_at"]
    assert failed["error"] == {"code": "RENDER_FAILED", "message": "It broke.", "details": {"prompt": 0}}


def test_before_the_end_there_are_no_outputs(client: TestClient, service: ShelfDesk) -> None:
    job_id = submit(client)
    for _ in range(2):
        reply = client.get(f"/v1/requests/{job_id}/result")
        assert reply.status_code == 200
        assert list(reply.json()) == [
            "request_id", "status", "outputs", "error", "created_at", "finished_at", "metadata",
        ]  # fmt: skip
        assert reply.json()["outputs"] is None and reply.json()["finished_at"] is None
        service.store.claim_next()


def test_the_result_states_what_was_used(client: TestClient, service: ShelfDesk) -> None:
    prompts = [
        {"prompt": "[trigger] one", "width": 1000, "height": 700, "num_frames": 40, "sampler": "ddim", "seed": -1},
        {"prompt": "two", "width": 64, "height": 64, "num_frames": 5, "fps": 24, "neg": "blur"},
    ]
    loras = [{"path": "a.safetensors", "network_multiplier": 0.5}]
    job_id = submit(client, model="wan22_5b", trigger_word="sks", prompts=prompts, loras=loras, recipe="preview")
    run(service, job_id, 2)
    body = client.get(f"/v1/requests/{job_id}/result").json()
    here = f"http://localhost:7860/v1/requests/{job_id}/videos"
    assert body["status"] == "succeeded" and body["error"] is None
    assert body["outputs"] == {
        "images": [],
        "videos": [
            {"format": "mp4", "width": 992, "height": 672, "num_frames": 37, "fps": 16,
             "file_path": f"clips/{job_id}-0.mp4", "url": f"{here}/0", "seed": 7},
            {"format": "mp4", "width": 64, "height": 64, "num_frames": 5, "fps": 24,
             "file_path": f"clips/{job_id}-1.mp4", "url": f"{here}/1", "seed": 43},
        ],
    }  # fmt: skip
    metadata = body["metadata"]
    assert (metadata["model"], metadata["recipe"]) == ("wan22_5b", "preview")
    assert metadata["ignored"] == ["sampler"]
    assert metadata["notes"] == ["a note"]
    assert metadata["adjusted"] == [
        {"prompt": 0, "field": "width", "requested": 1000, "effective": 992},
        {"prompt": 0, "field": "height", "requested": 700, "effective": 672},
        {"prompt": 0, "field": "num_frames", "requested": 40, "effective": 37},
    ]
    assert metadata["lora"] == [{"slot": "single", "path": "a.safetensors", "multiplier": 0.5, "sha256": None}]
    assert [one["prompt"] for one in metadata["prompts"]] == ["sks one", "two"]
    assert [one["seed"] for one in metadata["prompts"]] == [7, 43]
    assert metadata["prompts"][0]["clip"] == {"memory": "resident"}


def test_nothing_ignored_or_adjusted_is_said_so(client: TestClient) -> None:
    metadata = client.get(f"/v1/requests/{submit(client)}/result").json()["metadata"]
    assert metadata["ignored"] == [] and metadata["adjusted"] == [] and metadata["lora"] == []
    assert metadata["prompts"][0]["clip"] is None


@pytest.mark.parametrize("status", ["failed", "canceled"])
def test_finished_clips_of_an_unfinished_request_stay(
    client: TestClient, service: ShelfDesk, status: Literal["failed", "canceled"]
) -> None:
    job_id = submit(client, prompts=[{"prompt": "one"}, {"prompt": "two"}])
    run(service, job_id, 1, status)
    body = client.get(f"/v1/requests/{job_id}/result").json()
    assert body["status"] == status
    assert [video["seed"] for video in body["outputs"]["videos"]] == [42]
    assert (body["error"] is not None) == (status == "failed")
    assert client.get(body["outputs"]["videos"][0]["url"]).content == CLIP


@pytest.mark.parametrize("status", ["failed", "canceled"])
def test_without_a_clip_there_are_no_outputs(
    client: TestClient, service: ShelfDesk, status: Literal["failed", "canceled"]
) -> None:
    job_id = submit(client)
    run(service, job_id, 0, status)
    assert client.get(f"/v1/requests/{job_id}/result").json()["outputs"] is None


def test_models_is_the_table(client: TestClient) -> None:
    models = client.get("/v1/models").json()["models"]
    assert [model["id"] for model in models] == list(MODELS)
    assert models[1] == {
        "id": "wan22_14b_i2v",
        "base_model": "ai-toolkit/Wan2.2-I2V-A14B-Diffusers-bf16",
        "resolution_divisor": 16,
        "default_steps": 25,
        "default_guidance_scale": 4.0,
        "requires_control_image": True,
        "is_video_model": True,
        "default_num_frames": 41,
        "default_fps": 16,
    }
    assert [model["resolution_divisor"] for model in models] == [32, 16, 32, 16, 16, 16, 16]
    assert [model["requires_control_image"] for model in models] == [False, True, False, True, True, False, False]


def test_health(client: TestClient) -> None:
    assert client.get("/v1/health").json() == {**health(), "slots": [], "machines": [], "problem": None}


def test_cancel_is_idempotent(client: TestClient, service: ShelfDesk) -> None:
    job_id = submit(client)
    for _ in range(2):
        reply = client.delete(f"/v1/requests/{job_id}")
        assert reply.status_code == 200 and reply.json()["status"] == "canceled"
        assert reply.json() == client.get(f"/v1/requests/{job_id}/status").json()


def test_cancel_leaves_a_finished_request(client: TestClient, service: ShelfDesk) -> None:
    job_id = submit(client)
    run(service, job_id, 1)
    before = client.get(f"/v1/requests/{job_id}/result").json()
    assert client.delete(f"/v1/requests/{job_id}").json()["status"] == "succeeded"
    assert client.get(f"/v1/requests/{job_id}/result").json() == before


# The video


@pytest.fixture
def video(client: TestClient, service: ShelfDesk) -> str:
    job_id = submit(client)
    run(service, job_id, 1)
    return f"/v1/requests/{job_id}/videos/0"


def test_a_video_is_sent_whole(client: TestClient, video: str) -> None:
    reply = client.get(video)
    assert reply.status_code == 200 and reply.content == CLIP
    sent = reply.headers
    assert sent["content-type"] == "video/mp4"
    assert sent["x-content-type-options"] == "nosniff"
    assert sent["accept-ranges"] == "bytes" and sent["content-length"] == str(len(CLIP))
    assert re.fullmatch(r'inline; filename="wan-ui-[0-9a-f]{8}-0\.mp4"', sent["content-disposition"])


def test_a_video_can_be_asked_about(client: TestClient, video: str) -> None:
    reply = client.head(video)
    assert reply.status_code == 200 and reply.content == b""
    assert reply.headers["content-length"] == str(len(CLIP))


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-", 0, 10239),
        ("bytes=0-0", 0, 0),
        ("bytes=100-199", 100, 199),
        ("bytes=10000-", 10000, 10239),
        ("bytes=-1", 10239, 10239),
        ("bytes=-99999999", 0, 10239),
        ("bytes=0-99999999", 0, 10239),
    ],
)
def test_a_range_of_a_video(client: TestClient, video: str, asked: str, first: int, last: int) -> None:
    reply = client.get(video, headers={"Range": asked})
    assert reply.status_code == 206
    assert reply.content == CLIP[first : last + 1]
    assert reply.headers["content-range"] == f"bytes {first}-{last}/{len(CLIP)}"
    assert reply.headers["content-type"] == "video/mp4"


@pytest.mark.parametrize("asked", ["bytes=10240-", "bytes=99999-100000", "bytes=-0"])
def test_a_range_outside_the_video(client: TestClient, video: str, asked: str) -> None:
    reply = client.get(video, headers={"Range": asked})
    error_of(reply, 416, "REQUESTED_RANGE_NOT_SATISFIABLE")
    assert reply.headers["content-range"] == f"bytes */{len(CLIP)}"


@pytest.mark.parametrize(
    "asked",
    ["bytes=5-2", "bytes=-", "bytes=", "bytes", "", "lines=0-1", "bytes=a-b", "bytes=0-1,3-4", f"bytes={'9' * 5000}-"],
)
def test_a_range_that_is_none_is_ignored(client: TestClient, video: str, asked: str) -> None:
    reply = client.get(video, headers={"Range": asked})
    assert reply.status_code == 200 and reply.content == CLIP


def test_a_range_of_another_version_is_ignored(client: TestClient, video: str) -> None:
    etag = client.get(video).headers["etag"]
    for if_range, status in ((etag, 206), ('"other"', 200)):
        asked = {"Range": "bytes=0-9", "If-Range": if_range}
        assert client.get(video, headers=asked).status_code == status
    assert client.get(video, headers={"Range": "bytes=99999-", "If-Range": etag}).status_code == 200


# The errors


@pytest.mark.parametrize("job_id", [UNKNOWN, "x", "..%2f..", "%00", "%ff", "'%20OR%201=1", "a" * 200, "💥"])
def test_an_unknown_id(client: TestClient, job_id: str) -> None:
    for method, rest in (("GET", "/status"), ("GET", "/result"), ("GET", "/videos/0"), ("DELETE", "")):
        reply = client.request(method, f"/v1/requests/{job_id}{rest}")
        assert reply.status_code == 404
        assert reply.json()["detail"]["error"]["code"] in ("REQUEST_NOT_FOUND", "ROUTE_NOT_FOUND")
    if "%2f" not in job_id:
        error_of(client.get(f"/v1/requests/{job_id}/status"), 404, "REQUEST_NOT_FOUND")


def test_an_unknown_video(client: TestClient, video: str) -> None:
    error_of(client.get(video.removesuffix("0") + "1"), 404, "VIDEO_NOT_FOUND")
    for index in ("-1", "x", "1000", "9" * 5000, "0.5"):
        error = error_of(client.get(video.removesuffix("0") + index), 422, "INVALID_REQUEST")
        assert [field["loc"] for field in error["details"]["fields"]] == ["path.n"]


@pytest.mark.parametrize("path", ["/", "/nothing", "/inference/", "/models/x", "/requests", f"/requests/{UNKNOWN}/x"])
def test_an_unknown_route(client: TestClient, path: str) -> None:
    error_of(client.get(f"/v1{path}"), 404, "ROUTE_NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/inference", "POST"),
        ("DELETE", "/models", "GET"),
        ("POST", f"/requests/{UNKNOWN}/status", "GET"),
        ("GET", f"/requests/{UNKNOWN}", "DELETE"),
        ("OPTIONS", "/inference", "POST"),
    ],
)
def test_a_wrong_method(client: TestClient, method: str, path: str, allowed: str) -> None:
    reply = client.request(method, f"/v1{path}")
    error_of(reply, 405, "METHOD_NOT_ALLOWED")
    assert allowed in reply.headers["allow"]


BROKEN = [
    b"",
    b"  \n",
    b"{",
    b"{'model': 1}",
    b'{"model": "wan21_1b",}',
    b"model=wan21_1b",
    b"\xff\xfe\x00",
    b'{"model": "\xe9"}',
    b"\x00",
    b"[" * 90_000,
    b'{"a":' * 15_000,
    b'{"model": NaN}',
    b'{"model": Infinity}',
    b'{"prompts": [{"guidance_scale": -Infinity}]}',
    b'{"seed": ' + b"9" * 5000 + b"}",
    b'"\\ud83"',
]


@pytest.mark.parametrize("data", BROKEN, ids=lambda data: repr(data[:24]))
def test_broken_json(client: TestClient, data: bytes) -> None:
    error_of(client.post("/v1/inference", content=data), 400, "BAD_JSON")


WRONG: list[tuple[bytes, str]] = [
    (b"null", "body"),
    (b"[]", "body"),
    (b'"text"', "body"),
    (b"1e999", "body"),
    (b"{}", "model"),
    (b'{"model": "wan21_1b"}', "prompts"),
    (b'{"model": "wan21_1b", "prompts": []}', "prompts"),
    (b'{"model": "wan21_1b", "prompts": [{}]}', "prompts.0.prompt"),
    (b'{"model": "wan21_1b", "prompts": [{"prompt": "x", "width": 63}]}', "prompts.0.width"),
    (b'{"model": "wan21_1b", "prompts": [{"prompt": "x", "width": 1e999}]}', "prompts.0.width"),
    (b'{"model": "wan21_1b", "prompts": [{"prompt": "x", "guidance_scale": 1e999}]}', "prompts.0.guidance_scale"),
    (b'{"model": "wan21_1b", "prompts": [{"prompt": "x", "seed": -2}]}', "prompts.0.seed"),
    (b'{"model": "wan21_1b", "prompts": [{"prompt": "x"}], "lora": []}', "lora"),
    (b'{"model": "wan21_1b", "prompts": [{"prompt": "x", "steps": 3}]}', "prompts.0.steps"),
    (b'{"model": "wan21_1b", "prompts": [{"prompt": "\\ud800"}]}', "prompts.0.prompt"),
    (b'{"model": "wan21_1b", "prompts": [{"prompt": "x"}], "loras": [{"path": "x", "network_multiplier": 5}]}',
     "loras.0.network_multiplier"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "loc"), WRONG, ids=lambda value: repr(value)[-60:])
def test_a_wrong_field_is_named(client: TestClient, data: bytes, loc: str) -> None:
    error = error_of(client.post("/v1/inference", content=data), 422, "INVALID_REQUEST")
    assert loc in [field["loc"] for field in error["details"]["fields"]]
    assert all(list(field) == ["loc", "msg"] for field in error["details"]["fields"])


def test_a_field_name_that_utf8_cannot_say(client: TestClient) -> None:
    data = b'{"model": "wan21_1b", "prompts": [{"prompt": "x"}], "\\ud800": 1}'
    error_of(client.post("/v1/inference", content=data), 422, "INVALID_REQUEST")


def test_many_levels_below_the_limit_of_the_parser(client: TestClient) -> None:
    for depth in (50, 200, 400, 600, 800, 900, 950, 990):
        data = b'{"model": "wan21_1b", "prompts": [{"prompt": "x"}], "x": ' + b"[" * depth + b"]" * depth + b"}"
        reply = client.post("/v1/inference", content=data)
        assert reply.status_code in (400, 422), (depth, reply.text)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model": "sdxl"}, "MODEL_NOT_FOUND"),
        ({"model": "wan22_14b_t2v", "loras": [{"path": "x"}]}, "MOE_FORMAT_REQUIRED"),
        ({"loras": [{"path": "x", "transformer": "low"}]}, "MOE_FORMAT_NOT_SUPPORTED"),
        ({"model": "wan22_14b_t2v", "loras": [{"path": "x", "transformer": "low"}] * 2}, "SINGLE_MOE_CONFIG_ONLY"),
        ({"loras": [{"path": "x"}, {"path": "y"}]}, "SINGLE_LORA_ONLY"),
        ({"model": "wan21_i2v_14b"}, "CONTROL_IMAGE_REQUIRED"),
        ({"prompts": [{"prompt": "x", "ctrl_img_last": "aGk="}]}, "CONTROL_IMAGE_NOT_SUPPORTED"),
    ],
)
def test_a_request_that_cannot_be_run(client: TestClient, changes: dict[str, Any], code: str) -> None:
    error_of(client.post("/v1/inference", json=BODY | changes), 400, code)


def _every_type(of: type[WanUIError]) -> Iterator[type[WanUIError]]:
    for kind in of.__subclasses__():
        yield kind
        yield from _every_type(kind)


@pytest.mark.parametrize("kind", list(_every_type(errors.WanUIError)), ids=lambda kind: kind.__name__)
def test_every_error_type_keeps_its_status_and_code(
    client: TestClient, service: ShelfDesk, kind: type[WanUIError]
) -> None:
    service.mishap = kind("It happened.", what="this")
    error = error_of(client.post("/v1/inference", json=BODY), kind.status, kind.code)
    assert (error["message"], error["details"]) == ("It happened.", {"what": "this"})


def test_a_failure_of_ours_has_the_shape_and_tells_nothing(client: TestClient, service: ShelfDesk) -> None:
    service.mishap = ZeroDivisionError("/secret/path")
    error = error_of(client.post("/v1/inference", json=BODY), 500, "INTERNAL_ERROR")
    assert "secret" not in json.dumps(error)


def _pieces(size: int) -> Iterator[bytes]:
    for _ in range(size // 1000):
        yield b" " * 1000


@pytest.mark.parametrize("make", [lambda size: b" " * size, _pieces], ids=["with a length", "in chunks"])
def test_a_body_over_the_limit(client: TestClient, make: Callable[[int], Any]) -> None:
    error_of(client.post("/v1/inference", content=make(LIMIT)), 400, "BAD_JSON")
    error = error_of(client.post("/v1/inference", content=make(LIMIT + 1000)), 413, "PAYLOAD_TOO_LARGE")
    assert error["details"] == {"limit": LIMIT}


def test_a_small_body_over_its_limit(client: TestClient) -> None:
    """Only a request for videos has images in it."""
    body = b'{"entry_id": "' + b"a" * SizeLimits().small_body + b'"}'
    for method, path in (("POST", "/v1/shares"), ("PATCH", "/v1/gallery/x-0"), ("PATCH", "/v1/requests/x")):
        reply = client.request(method, path, content=body)
        assert error_of(reply, 413, "PAYLOAD_TOO_LARGE")["details"] == {"limit": SizeLimits().small_body}


def test_a_length_that_is_a_lie(client: TestClient) -> None:
    data = json.dumps(BODY).encode()
    for length in ("9" * 30, str(LIMIT + 1)):
        reply = client.post("/v1/inference", content=data, headers={"Content-Length": length})
        error_of(reply, 413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x", ""])
def test_the_content_type_does_not_matter(client: TestClient, kind: str) -> None:
    reply = client.post("/v1/inference", content=json.dumps(BODY), headers={"Content-Type": kind})
    assert reply.status_code == 200


def test_a_byte_order_mark_and_nulls_pass(client: TestClient) -> None:
    data = b"\xef\xbb\xbf" + json.dumps(BODY | {"trigger_word": None, "anything": None}).encode()
    assert client.post("/v1/inference", content=data).status_code == 200


def test_decode_json_says_where() -> None:
    with pytest.raises(errors.BadJson) as caught:
        decode_json(b'{\n"a": }')
    assert caught.value.details == {"line": 2, "column": 6}


# The document


def test_the_document_describes_every_operation(client: TestClient) -> None:
    document = client.get("/v1/openapi.json").json()
    assert document["servers"] == [{"url": "/v1"}]
    operations = {
        (method, path): operation for path, item in document["paths"].items() for method, operation in item.items()
    }
    assert set(operations) == {
        ("post", "/inference"),
        ("get", "/requests/{request_id}/status"),
        ("get", "/requests/{request_id}/result"),
        ("delete", "/requests/{request_id}"),
        ("patch", "/requests/{request_id}"),
        ("post", "/requests/{request_id}/retry"),
        ("get", "/requests/{request_id}/videos/{n}"),
        ("get", "/requests/{request_id}/first_frame.jpg"),
        ("get", "/requests/{request_id}/videos/{n}/last_frame.png"),
        ("post", "/requests/{request_id}/videos/{n}/continue"),
        ("get", "/joined.mp4"),
        ("get", "/requests/{request_id}/comfyui.json"),
        ("get", "/speed-loras"),
        ("get", "/requests/{request_id}/grid.mp4"),
        ("get", "/requests/{request_id}/sheet.png"),
        ("get", "/pulse"),
        ("get", "/events"),
        ("get", "/requests/{request_id}/events"),
        ("get", "/requests/{request_id}/live.webp"),
        ("post", "/restore"),
        ("get", "/models/{model}/bases"),
        ("post", "/models/{model}/bases"),
        ("get", "/requests/{request_id}/cells.zip"),
        ("get", "/requests/{request_id}/judging"),
        ("put", "/requests/{request_id}/marks/{n}"),
        ("post", "/requests/{request_id}/pairs"),
        ("put", "/requests/{request_id}/pairs/{pair_id}"),
        ("get", "/requests/{request_id}/pairs/{pair_id}/{side}.mp4"),
        ("get", "/gallery"),
        ("get", "/gallery/choices"),
        ("get", "/gallery/clips.zip"),
        ("get", "/gallery/{entry_id}"),
        ("patch", "/gallery/{entry_id}"),
        ("delete", "/gallery/{entry_id}"),
        ("get", "/gallery/{entry_id}/poster.jpg"),
        ("get", "/gallery/{entry_id}/settings.json"),
        ("post", "/jobs/import"),
        ("get", "/jobs/{job_id}/renders"),
        ("delete", "/jobs/{job_id}"),
        ("get", "/uploads"),
        ("delete", "/uploads/loras/{file_id}"),
        ("delete", "/uploads/images/{file_id}"),
        ("get", "/shares"),
        ("post", "/shares"),
        ("delete", "/shares/{share_id}"),
        ("post", "/jobs/{job_id}/watch"),
        ("get", "/jobs/{job_id}/watch"),
        ("delete", "/jobs/{job_id}/watch"),
        ("get", "/jobs/{job_id}/samples/{step}/{index}"),
        ("get", "/jobs/{job_id}/samples/{step}/{index}/thumbnail"),
        ("get", "/requests/{request_id}/checklist"),
        ("post", "/requests/{request_id}/preview"),
        ("get", "/requests/{request_id}/preview.mp4"),
        ("get", "/requests/{request_id}/difference.mp4"),
        ("get", "/loras"),
        ("post", "/loras/inspect"),
        ("get", "/models"),
        ("post", "/models/unload"),
        ("get", "/machine"),
        ("get", "/health"),
    }
    for operation in operations.values():
        for status, reply in operation["responses"].items():
            if int(status) >= 400:
                assert reply["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorReply"}
        assert {"403", "500"} <= set(operation["responses"])
    names = set(document["components"]["schemas"])
    assert {"InferenceRequest", "PromptItem", "LoraItem", "ErrorReply", "RequestResult"} <= names
    assert not any("HTTPValidation" in name for name in names)


def test_every_reference_in_the_document_leads_somewhere(client: TestClient) -> None:
    text = client.get("/v1/openapi.json").text
    schemas = json.loads(text)["components"]["schemas"]
    references = set(re.findall(r'"\$ref":"#/components/schemas/([^"]+)"', text))
    assert references and references <= set(schemas)
    assert "$defs" not in text


def test_the_document_lets_null_pass_where_the_parser_does(client: TestClient) -> None:
    schemas = client.get("/v1/openapi.json").json()["components"]["schemas"]
    for name in ("InferenceRequest", "PromptItem", "TrainingSample", "LoraItem", "Compare", "Axis"):
        schema = schemas[name]
        assert schema["additionalProperties"] == {"type": "null"}
        for field, rule in schema["properties"].items():
            nullable = {"type": "null"} in rule.get("anyOf", [])
            assert nullable == (field not in schema.get("required", []))


def test_the_document_states_every_bound(client: TestClient) -> None:
    schemas = client.get("/v1/openapi.json").json()["components"]["schemas"]
    assert schemas["InferenceRequest"]["properties"]["model"]["enum"] == list(MODELS)
    bounds = {
        name: {(kind["minimum"], kind["maximum"]) for kind in rule["anyOf"] if "minimum" in kind}
        for name, rule in schemas["PromptItem"]["properties"].items()
        if "anyOf" in rule
    }
    assert bounds["width"] == {(64, 4096)} and bounds["seed"] == {(-1, 2**63 - 1)}


def test_every_request_error_can_be_met_in_the_document(client: TestClient) -> None:
    """A status that submit can answer with is in the document; 410 is that of share links, 501 that of /mcp."""
    document = client.get("/v1/openapi.json").json()
    documented = {int(status) for status in document["paths"]["/inference"]["post"]["responses"]}
    raised = {kind.status for kind in _every_type(errors.WanUIError)} - {404, 409, 410, 501}
    assert raised <= documented


def test_the_rendered_documentation_loads_its_files_from_this_server(client: TestClient) -> None:
    page = client.get("/v1/docs")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    files = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(files) == 3 and not [file for file in files if "//" in file]
    for file in files:
        reply = client.get(f"/v1/{file}")
        assert reply.status_code == 200 and len(reply.content) > 1000
    assert "'openapi.json'" in page.text
    for path in ("redoc", "docs/nothing.js", "docs/redoc.standalone.js", "docs/..%2f__init__.py"):
        error_of(client.get(f"/v1/{path}"), 404, "ROUTE_NOT_FOUND")
