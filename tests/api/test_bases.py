"""What a model can be loaded from, over HTTP: names, grades and questions, never a path."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.fakes import FakeRender, fake_service, fake_write_video
from tests.golden_cases import GOLDEN
from wan_ui.access import LOCAL_ACCESS, Access
from wan_ui.api.app import create_api
from wan_ui.checkpoints.catalog import Answers
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.checkpoints.sources import CheckpointSources
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.provenance.restoring import Environment

SINGLE = GOLDEN / "single_files"
VISITOR = Access(replace(LOCAL_ACCESS.identity, owner=False), shared=False)


@contextmanager
def client(folder: Path, comfy_dir: Path | None, access: Access = LOCAL_ACCESS) -> Iterator[TestClient]:
    sources = CheckpointSources(
        Checkpoints(folder / "models", offline=True),
        comfy_dir=comfy_dir,
        models_dir=folder / "models",
        configs_dir=SINGLE / "configs",
        answers=Answers(folder / "answers.json"),
    )
    store = Store(folder / "jobs.sqlite")
    render = FakeRender()
    worker = Worker(store, render, folder / "clips", fake_write_video)
    try:
        service = fake_service(store, worker, folder, Environment(bases=sources))
        with TestClient(create_api(service, dict, lambda: access), raise_server_exceptions=False) as opened:
            yield opened
    finally:
        store.close()


def body(base: Any) -> dict[str, Any]:
    return {"model": "wan22_14b_t2v", "prompts": [{"prompt": "a"}], "base": base}


def test_what_a_model_can_be_loaded_from(tmp_path: Path) -> None:
    with client(tmp_path, SINGLE / "models") as opened:
        reply = opened.get("/models/wan22_14b_t2v/bases")
    assert reply.status_code == 200
    listing = reply.json()
    assert listing["auto"]["base"] == {
        "transformer": "wan2.2_t2v_high_noise_14B_fp16.safetensors",
        "transformer_2": "wan2.2_t2v_low_noise_14B_fp16.safetensors",
        "vae": "Wan2_1_VAE_fp32.safetensors",
        "text_encoder": "umt5_xxl_fp32.safetensors",
    }
    assert listing["auto"]["grade"] == "amber"
    transformer, *_ = listing["components"]
    assert transformer["component"] == "transformer"
    assert [(option["precision"], option["grade"], option["state"]) for option in transformer["options"]] == [
        ("fp16", "amber", "complete"),
        ("fp8_scaled", "red", "complete"),
        ("folder", "green", "missing"),
    ]
    assert not listing["questions"] and not listing["unusable"] and not listing["notes"]
    assert str(SINGLE) not in reply.text and str(tmp_path) not in reply.text


def test_an_unknown_model_has_none(tmp_path: Path) -> None:
    with client(tmp_path, SINGLE / "models") as opened:
        assert opened.get("/models/wan99/bases").json()["detail"]["error"]["code"] == "MODEL_NOT_FOUND"


@pytest.mark.parametrize(
    ("base", "status", "code"),
    [
        ("auto", 200, None),
        ("folder", 200, None),
        ({"transformer": "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors"}, 200, None),
        ({"transformer": "none.safetensors"}, 400, "BASE_NOT_FOUND"),
        ({"vae": "wan2.2_vae.safetensors"}, 400, "BASE_NOT_FOUND"),
        ({"transformer": "/etc/passwd"}, 422, "INVALID_REQUEST"),
        ("best", 422, "INVALID_REQUEST"),
    ],
)
def test_a_base_is_checked_as_the_request_comes_in(tmp_path: Path, base: Any, status: int, code: str | None) -> None:
    with client(tmp_path, SINGLE / "models") as opened:
        reply = opened.post("/inference", json=body(base))
    assert reply.status_code == status
    if code is not None:
        assert reply.json()["detail"]["error"]["code"] == code


def test_a_file_that_tells_nothing_is_asked_about_once(tmp_path: Path) -> None:
    comfy = tmp_path / "comfy"
    (comfy / "diffusion_models").mkdir(parents=True)
    for side, name in (("high", "first"), ("low", "second")):
        source = SINGLE / f"models/diffusion_models/wan2.2_t2v_{side}_noise_14B_fp16.safetensors"
        shutil.copy(source, comfy / f"diffusion_models/wan22_{name}.safetensors")
    (comfy / "diffusion_models/page.safetensors").write_bytes(b"<html>")
    with client(tmp_path, comfy) as opened:
        listing = opened.get("/models/wan22_14b_t2v/bases").json()
        assert [question["name"] for question in listing["questions"]] == [
            "wan22_first.safetensors",
            "wan22_second.safetensors",
        ]
        assert listing["auto"]["base"]["transformer"] == "folder"
        assert [(item["name"], item["code"]) for item in listing["unusable"]] == [
            ("page.safetensors", "CHECKPOINT_INVALID")
        ]
        for name, component in (("first", "transformer"), ("second", "transformer_2")):
            answer = {"name": f"wan22_{name}.safetensors", "component": component}
            listing = opened.post("/models/wan22_14b_t2v/bases", json=answer).json()
        assert not listing["questions"]
        assert listing["auto"]["base"]["transformer_2"] == "wan22_second.safetensors"
        wrong = opened.post(
            "/models/wan22_5b/bases", json={"name": "wan22_first.safetensors", "component": "transformer"}
        )
        assert wrong.json()["detail"]["error"]["code"] == "BASE_NOT_FOUND"
        assert opened.post("/models/wan22_5b/bases", json={"name": "a"}).status_code == 422


def test_visitors_read_the_list_and_do_not_answer(tmp_path: Path) -> None:
    with client(tmp_path, SINGLE / "models", VISITOR) as opened:
        assert opened.get("/models/wan22_5b/bases").status_code == 200
        reply = opened.post("/models/wan22_5b/bases", json={"name": "a", "component": "transformer"})
    assert (reply.status_code, reply.json()["detail"]["error"]["code"]) == (403, "OWNER_ONLY")
