"""Clients of the reference server: its documented bodies, its fields that no model here uses, its other routes."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from tests.fakes import FakeRender, fake_write_video
from tests.golden_cases import CHECKPOINTS
from tests.lora_files import write_lora
from tests.waiting import SECONDS, wait_until
from wan_ui.access import LOCAL_ACCESS, Access
from wan_ui.api.app import create_api
from wan_ui.api.concurrency import Latest
from wan_ui.api.root import health_route
from wan_ui.api.serializers import result_of
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.errors import FetchFailed, LoraNotFound
from wan_ui.identity import Identity
from wan_ui.job import ClipRecord
from wan_ui.jobs.fetcher import Fetcher
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.lora.hub import OnBytes
from wan_ui.lora.library import JOBS_FOLDER, Library
from wan_ui.lora.remote import DownloadedFile, RemoteFiles
from wan_ui.media.image import ImageStore
from wan_ui.models import MODELS
from wan_ui.provenance.restoring import UNKNOWN_ENVIRONMENT
from wan_ui.request import parse, resolve

pytestmark = pytest.mark.slow

PERSON: dict[str, Any] = {
    "prompt": "[trigger] a photo of a person",
    "width": 1024,
    "height": 1024,
    "seed": 42,
    "sample_steps": 25,
    "guidance_scale": 4.0,
    "neg": "",
    "num_frames": 41,
    "fps": 16,
}
ONE: list[dict[str, Any]] = [{"path": "my_lora_job/my_lora.safetensors", "network_multiplier": 1.0}]
PAIR = [
    {"path": f"my_lora_job/my_{half}_noise.safetensors", "transformer": half, "network_multiplier": 1.0}
    for half in ("high", "low")
]
PLACEHOLDER = "<base64_or_url>"
ADDRESS = "https://example.com/first_frame.png"
DOCUMENTED: dict[str, dict[str, Any]] = {
    "wan22_5b": {"model": "wan22_5b", "trigger_word": "sks", "prompts": [PERSON], "loras": ONE},
    "wan22_14b_i2v": {
        "model": "wan22_14b_i2v",
        "trigger_word": "sks",
        "prompts": [{**PERSON, "ctrl_img": PLACEHOLDER}],
        "loras": PAIR,
    },
    "wan22_14b_t2v": {"model": "wan22_14b_t2v", "trigger_word": "sks", "prompts": [PERSON], "loras": PAIR},
    "wan21_i2v_14b": {
        "model": "wan21_i2v_14b",
        "trigger_word": "sks",
        "prompts": [{**PERSON, "ctrl_img": PLACEHOLDER}],
        "loras": ONE,
    },
    "wan21_i2v_14b480p": {
        "model": "wan21_i2v_14b480p",
        "trigger_word": "sks",
        "prompts": [
            {
                "prompt": "[trigger] a cinematic shot of a runner on a beach, handheld camera",
                "neg": "",
                "seed": 42,
                "width": 832,
                "height": 480,
                "num_frames": 41,
                "fps": 16,
                "sample_steps": 25,
                "guidance_scale": 4.0,
                "ctrl_img": ADDRESS,
            }
        ],
        "loras": [{"path": "my_wan_job/my_wan_job.safetensors", "network_multiplier": 1.0}],
    },
}
"""The request bodies of the reference server's documentation, by model."""

FOREIGN = {"kv_cache": True, "match_target_res": False}
HEALTH = {"status": "ready", "version": "1", "device": "cpu", "queue": 0}
SMALL = {"width": 64, "height": 64, "num_frames": 1, "sample_steps": 1}


def png(shade: int = 80) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (96, 64), (shade, 40, 200)).save(file, "PNG")
    return file.getvalue()


PNG = base64.b64encode(png()).decode()


TOKEN = "hf_s3cr3t-of-a-request"
PRIVATE = "hf://someone/private/style.safetensors"


class PrivateHub:
    """In place of RemoteFiles: gives one file to whoever sends TOKEN. `tokens` lists what was sent."""

    def __init__(self, folder: Path) -> None:
        self.file = write_lora(folder / "private.safetensors", seed=5)
        self.tokens: list[str | None] = []
        self._stored: DownloadedFile | None = None

    def fetch(self, source: str, on_bytes: OnBytes, token: str | None = None) -> tuple[str, ...]:
        self.tokens.append(token)
        if token != TOKEN:
            raise FetchFailed("The Hugging Face hub has no public someone/private.")
        sha256 = hashlib.sha256(self.file.read_bytes()).hexdigest()
        self._stored = DownloadedFile("style.safetensors", sha256, 1, "1", "2026-01-01T00:00:00Z", True)
        return ()

    def downloaded(self, source: str) -> DownloadedFile | None:
        return self._stored

    def path(self, sha256: str) -> Path:
        return self.file


@dataclass
class Server:
    """The API over a real job service, whose renders are fake, with the LoRA files that the documentation names."""

    folder: Path
    service: JobService
    worker: Worker
    client: TestClient
    hub: PrivateHub

    def post(self, body: Any) -> Any:
        return self.client.post("/v1/inference", json=body)

    def queued(self, body: Any) -> dict[str, Any]:
        """The result of a request that was accepted, before or after its end."""
        reply = self.post(body)
        assert reply.status_code == 200, reply.text
        result: dict[str, Any] = self.client.get(reply.json()["result_url"]).json()
        return result

    def made(self, body: Any) -> dict[str, Any]:
        """The result of a request once it has ended."""
        request_id = self.queued(body)["request_id"]
        assert self.worker.wait(request_id, SECONDS)
        result: dict[str, Any] = self.client.get(f"/v1/requests/{request_id}/result").json()
        return result


@pytest.fixture
def server(tmp_path: Path, render: FakeRender) -> Iterator[Server]:
    loras = tmp_path / "loras"
    for seed, path in enumerate(sorted({item["path"] for body in DOCUMENTED.values() for item in body["loras"]})):
        write_lora(loras / path, seed=seed)
    store = Store(tmp_path / "jobs.sqlite")
    worker = Worker(store, render, tmp_path / "clips", fake_write_video)
    uploads = tmp_path / "uploads"
    images = ImageStore(tmp_path / "images", lambda url: png(10), owners=store)
    environment = replace(UNKNOWN_ENVIRONMENT, transformer_config=Checkpoints(CHECKPOINTS).transformer_config)
    hub = PrivateHub(tmp_path)
    jobs = tmp_path / "output"
    write_lora(jobs / "my_job" / "my_job.safetensors", seed=7)
    library = Library(loras, uploads, cast(RemoteFiles, hub), store, {JOBS_FOLDER: lambda: (jobs,)})
    service = JobService(library, images, store, worker, tmp_path, environment=environment)
    api = create_api(service, lambda: HEALTH, _access)
    app = Starlette(routes=[Mount("/v1", app=api), health_route(Latest(lambda: HEALTH))])
    client = TestClient(app, base_url="http://localhost")
    worker.start()
    yield Server(tmp_path, service, worker, client, hub)
    assert service.fetcher.stop(SECONDS) and worker.stop()
    store.close()


def _access() -> Any:
    return LOCAL_ACCESS


def documented(model: str) -> dict[str, Any]:
    """A documented body; where its image is only a placeholder, with an image."""
    body = copy.deepcopy(DOCUMENTED[model])
    for item in body["prompts"]:
        if item.get("ctrl_img") == PLACEHOLDER:
            item["ctrl_img"] = PNG
    return body


@pytest.mark.parametrize("model", DOCUMENTED)
def test_the_documented_bodies_are_accepted(server: Server, model: str) -> None:
    result = server.queued(documented(model))
    metadata = result["metadata"]
    assert (metadata["model"], metadata["ignored"], len(metadata["lora"])) == (
        model,
        [],
        len(DOCUMENTED[model]["loras"]),
    )
    assert metadata["prompts"][0]["prompt"].startswith("sks a ")
    server.service.cancel(result["request_id"], LOCAL_ACCESS)


@pytest.mark.parametrize("model", ["wan22_14b_i2v", "wan21_i2v_14b"])
def test_a_placeholder_is_refused_as_no_image(server: Server, model: str) -> None:
    reply = server.post(DOCUMENTED[model])
    assert (reply.status_code, reply.json()["detail"]["error"]["code"]) == (400, "CONTROL_IMAGE_INVALID")


@pytest.mark.parametrize("model", DOCUMENTED)
def test_the_documented_bodies_with_every_further_field(server: Server, model: str) -> None:
    body = documented(model) | FOREIGN | {"hf_token": "hf_*** (optional)"}
    body["prompts"][0] |= {"resolution": "High", "sampler": "ddim", "ctrl_img_2": PNG, "ctrl_img_3": ADDRESS}
    result = server.queued(body)
    expected = ["ctrl_img_2", "ctrl_img_3", "kv_cache", "match_target_res", "resolution", "sampler"]
    assert result["metadata"]["ignored"] == expected
    job = server.service.cancel(result["request_id"], LOCAL_ACCESS)
    assert not {*FOREIGN, "ctrl_img_2", "ctrl_img_3", "resolution"} & {*job.request, *job.request["prompts"][0]}
    assert PNG not in json.dumps(job.request)


def test_ctrl_img_1_is_the_first_frame(server: Server) -> None:
    prompt = {"prompt": "a fox", **SMALL}
    alone = server.made({"model": "wan22_5b", "prompts": [{**prompt, "ctrl_img_1": PNG}]})
    named = server.made({"model": "wan22_5b", "prompts": [{**prompt, "ctrl_img": PNG}]})
    both = server.made({"model": "wan22_5b", "prompts": [{**prompt, "ctrl_img": ADDRESS, "ctrl_img_1": PNG}]})
    images = [result["metadata"]["prompts"][0]["image"] for result in (alone, named, both)]
    assert images[0] is not None and len(set(images)) == 1
    assert [result["metadata"]["ignored"] for result in (alone, named, both)] == [[], [], ["ctrl_img"]]


@pytest.mark.parametrize("name", ["ctrl_img", "ctrl_img_1"])
def test_a_control_image_for_a_text_to_video_model_is_ignored_with_a_note(server: Server, name: str) -> None:
    result = server.made({"model": "wan21_1b", "prompts": [{"prompt": "a fox", **SMALL, name: "no image at all"}]})
    assert result["status"] == "succeeded"
    assert result["metadata"]["ignored"] == ["ctrl_img"] and result["metadata"]["prompts"][0]["image"] is None
    assert any("takes no first frame" in note for note in result["metadata"]["notes"])


def test_a_comparison_reports_the_ignored_fields_too(server: Server) -> None:
    compare = {"columns": {"field": "seed", "values": [1, 2]}}
    body = {"model": "wan21_1b", "prompts": [{"prompt": "a fox", **SMALL, "resolution": "Default"}], "compare": compare}
    assert server.made(body | FOREIGN)["metadata"]["ignored"] == ["kv_cache", "match_target_res", "resolution"]


@pytest.mark.parametrize(
    ("changes", "loc"),
    [
        ({"kv_cache": "yes"}, "kv_cache"),
        ({"match_target_res": 1}, "match_target_res"),
        ({"prompts": [{"prompt": "x", "resolution": "Low"}]}, "prompts.0.resolution"),
        ({"prompts": [{"prompt": "x", "ctrl_img_1": 5}]}, "prompts.0.ctrl_img_1"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_wrong_values_and_unknown_fields_are_still_refused(server: Server, changes: dict[str, Any], loc: str) -> None:
    reply = server.post({"model": "wan21_1b", "prompts": [{"prompt": "x"}]} | changes)
    assert reply.status_code == 422
    assert [field["loc"] for field in reply.json()["detail"]["error"]["details"]["fields"]] == [loc]


# Routes at the root, times, and the list of models


def test_health_is_at_the_root(server: Server) -> None:
    assert server.client.get("/health").json() == {"status": "healthy"}


@pytest.mark.parametrize(("status", "code"), [("starting", 200), ("ready", 200), ("failed", 503)])
def test_health_at_the_root_follows_the_server(status: str, code: int) -> None:
    reply = TestClient(Starlette(routes=[health_route(Latest(lambda: {"status": status}))])).get("/health")
    assert (reply.status_code, reply.json()["status"] == "healthy") == (code, code == 200)


def test_a_result_has_the_times(server: Server) -> None:
    body = {"model": "wan21_1b", "prompts": [{"prompt": "one", **SMALL}, {"prompt": "two", **SMALL}]}
    metadata = server.made(body)["metadata"]
    assert metadata["inference_time"] >= 0
    rest = metadata["inference_time"]
    assert metadata["timings"] == {"get_pipeline": rest, "inference_total": 0, "prompts": [{}, {}]}


def test_the_times_are_those_of_the_clips_phases(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    body = {"model": "wan21_1b", "prompts": [{"prompt": "one", **SMALL}, {"prompt": "two", **SMALL}]}
    job = store.add(body, resolve(parse(body), str))
    waiting = result_of("", job, None)["metadata"]
    assert (waiting["inference_time"], waiting["timings"]["get_pipeline"]) == (None, None)
    store.claim_next()
    seconds = {"text": 0.25, "denoise": 4.0, "decode": 1.0}
    store.add_clip(job.id, ClipRecord(0, 64, 64, 1, 16, 42, "clips/a.mp4", {"seconds": seconds}))
    store.finish(job.id, "canceled", None)
    metadata = result_of("", store.job(job.id), None)["metadata"]
    assert metadata["timings"] == {"get_pipeline": 0, "inference_total": 5.25, "prompts": [{"generate": 5.25}, {}]}
    store.close()


def test_an_unknown_model_is_answered_with_the_known_ones(server: Server) -> None:
    error = server.post({"model": "flux", "prompts": [{"prompt": "x"}]}).json()["detail"]["error"]
    assert (error["code"], error["details"]["supported_models"]) == ("MODEL_NOT_FOUND", list(MODELS))


# The token of a request


def with_token(token: str | None = TOKEN) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": "wan21_1b",
        "prompts": [{"prompt": "a fox", **SMALL}],
        "loras": [{"path": PRIVATE}],
    }
    return body if token is None else body | {"hf_token": token}


def test_a_token_is_for_the_requests_downloads_and_kept_nowhere(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    server.service.fetcher.start()
    result = server.made(with_token())
    assert result["status"] == "succeeded" and server.hub.tokens == [TOKEN]
    assert "hf_token" not in result["metadata"]["ignored"]
    without = server.made(with_token(None))
    assert (without["status"], without["error"]["code"]) == ("failed", "FETCH_FAILED")
    assert server.hub.tokens == [TOKEN, None]
    server.service.cancel(server.queued({**documented("wan22_5b"), "hf_token": TOKEN})["request_id"], LOCAL_ACCESS)
    files = [path for path in server.folder.rglob("*") if path.is_file()]
    assert len(files) > 5 and [path for path in files if TOKEN.encode() in path.read_bytes()] == []
    assert TOKEN not in caplog.text + json.dumps([result, without])


def test_a_file_that_came_by_a_token_is_not_for_others(server: Server) -> None:
    server.service.fetcher.start()
    assert server.made(with_token())["status"] == "succeeded"
    guest = Access(Identity("a" * 32, owner=False), shared=False)
    with pytest.raises(LoraNotFound):
        server.service.library.locate(PRIVATE, guest)
    assert server.service.library.locate(PRIVATE, LOCAL_ACCESS).name == "style.safetensors"


def test_a_job_whose_token_is_lost_fails_and_no_other(server: Server) -> None:
    """The fetcher of another process has not seen the requests."""
    lost = server.queued(with_token())["request_id"]
    other = server.queued(with_token(None))["request_id"]
    plain = server.made({"model": "wan21_1b", "prompts": [{"prompt": "a fox", **SMALL}]})
    store = Store(server.folder / "jobs.sqlite")
    library = server.service.library
    fetcher = Fetcher(store, library, lambda model, component: None, lambda: None)
    fetcher.start()
    wait_until(lambda: all(store.job(job).finished_at for job in (lost, other)), state=lambda: store.job(other))
    assert fetcher.stop(SECONDS)
    codes = [(store.job(job).error or {})["code"] for job in (lost, other)]
    assert codes == ["HF_TOKEN_NEEDED", "FETCH_FAILED"] and plain["status"] == "succeeded"
    assert server.hub.tokens == [None]
    store.close()


@pytest.mark.parametrize("token", ["a\nb", "é", "x" * 501, 5])
def test_a_token_that_is_none_is_refused_and_not_repeated(server: Server, token: Any) -> None:
    reply = server.post(with_token(token))
    assert [field["loc"] for field in reply.json()["detail"]["error"]["details"]["fields"]] == ["hf_token"]
    assert str(token) == "5" or str(token) not in reply.text


def test_an_empty_token_is_none(server: Server) -> None:
    server.service.fetcher.start()
    assert server.made(with_token(" "))["error"]["code"] == "FETCH_FAILED" and server.hub.tokens == [None]


# --compat reference


@pytest.fixture
def compatible(server: Server) -> TestClient:
    """The same service as the reference server's clients see it with --compat reference."""
    api = create_api(server.service, lambda: HEALTH, _access, reference_errors=True)
    return TestClient(Starlette(routes=[Mount("/v1", app=api)]), base_url="http://localhost")


def test_the_error_of_a_request_is_text(server: Server, compatible: TestClient) -> None:
    server.service.fetcher.start()
    made = server.made(with_token(None))
    path = f"/v1/requests/{made['request_id']}"
    errors = [compatible.get(f"{path}/{what}").json()["error"] for what in ("status", "result")]
    assert errors == [made["error"]["message"]] * 2
    done = server.made({"model": "wan21_1b", "prompts": [{"prompt": "a fox", **SMALL}]})
    assert compatible.get(f"/v1/requests/{done['request_id']}/status").json()["error"] is None


def test_wrong_fields_are_a_list_as_fastapi_sends_it(compatible: TestClient) -> None:
    body = {"model": "wan21_1b", "prompts": [{"prompt": "x", "width": 1}], "loras": [{"transformer": "low"}]}
    reply = compatible.post("/v1/inference", json=body)
    assert reply.status_code == 422
    detail = reply.json()["detail"]
    assert [item["loc"] for item in detail] == [["body", "prompts", 0, "width"], ["body", "loras", 0, "path"]]
    assert [item["msg"] for item in detail] == ["must be at least 64", "is missing"]
    assert all(set(item) == {"type", "loc", "msg", "input"} for item in detail)
    whole = compatible.post("/v1/inference", json=[]).json()["detail"]
    assert [item["loc"] for item in whole] == [["body"]]
    parameter = compatible.get("/v1/requests/" + "x" * 201 + "/status")
    assert (parameter.status_code, parameter.json()["detail"][0]["loc"]) == (422, ["path", "request_id"])


def test_other_errors_keep_their_form(compatible: TestClient) -> None:
    body = {"model": "flux", "prompts": [{"prompt": "x"}]}
    reply = compatible.post("/v1/inference", json=body)
    assert (reply.status_code, reply.json()["detail"]["error"]["code"]) == (400, "MODEL_NOT_FOUND")


# Absolute LoRA paths


def test_the_owner_may_give_absolute_lora_paths(server: Server) -> None:
    small = {"model": "wan21_1b", "prompts": [{"prompt": "a fox", **SMALL}]}
    named = {
        server.folder / "loras" / ONE[0]["path"]: ONE[0]["path"],
        server.folder / "output" / "my_job" / "my_job.safetensors": "jobs/my_job/my_job.safetensors",
        server.folder / "loras" / "x" / ".." / ONE[0]["path"]: ONE[0]["path"],
    }
    for path, source in named.items():
        result = server.made({**small, "loras": [{"path": str(path)}]})
        assert (result["status"], [use["path"] for use in result["metadata"]["lora"]]) == ("succeeded", [source])
        assert str(server.folder) not in json.dumps(server.service.job(result["request_id"], LOCAL_ACCESS).request)


def test_an_axis_may_hold_absolute_paths_too(server: Server) -> None:
    path = str(server.folder / "loras" / ONE[0]["path"])
    compare = {"columns": {"field": "lora", "values": [path]}}
    result = server.made({"model": "wan21_1b", "prompts": [{"prompt": "a fox", **SMALL}], "compare": compare})
    assert result["status"] == "succeeded" and str(server.folder) not in json.dumps(result)


def test_absolute_paths_elsewhere_and_those_of_others_are_refused(server: Server) -> None:
    outside = write_lora(server.folder / "elsewhere" / "a.safetensors")
    (server.folder / "loras" / "link.safetensors").symlink_to(outside)
    inside = server.folder / "loras" / ONE[0]["path"]
    guest = Access(Identity("a" * 32, owner=False), shared=False)
    refused = [
        (outside, LOCAL_ACCESS),
        (server.folder / "loras" / "link.safetensors", LOCAL_ACCESS),
        (server.folder / "loras" / ".." / "elsewhere" / "a.safetensors", LOCAL_ACCESS),
        (server.folder / "loras" / ("x" * 300 + ".safetensors"), LOCAL_ACCESS),
        (inside, guest),
    ]
    for path, access in refused:
        body = {"model": "wan21_1b", "prompts": [{"prompt": "x"}], "loras": [{"path": str(path)}]}
        with pytest.raises(LoraNotFound):
            server.service.submit(body, access)
