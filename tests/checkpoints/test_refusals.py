"""Checkpoints that cannot be right are refused through Engine, before anything is loaded, with a code and a name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.golden_cases import CHECKPOINTS, GOLDEN, LORAS
from wan_ui import Engine
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.errors import (
    BaseNotFound,
    CheckpointIncomplete,
    CheckpointInvalid,
    CheckpointNotFound,
    HostError,
    InvalidRequest,
)
from wan_ui.models import MODELS

ROOT = Path(__file__).parents[2]
MODEL = MODELS["wan21_1b"]
REPO = MODEL.base_model
SINGLE = GOLDEN / "single_files"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2838303560\n"
PAGE = b"<!doctype html><html><head><title>Sign in</title></head></html>"
REQUEST: dict[str, Any] = {
    "model": MODEL.id,
    "prompts": [{"prompt": "a", "width": 64, "height": 64, "sample_steps": 1, "num_frames": 1}],
}


def refused(models_dir: Path | None, error: type[Exception], comfy_dir: Path | None = None, **request: Any) -> Any:
    """The error of a request; nothing was loaded when it came."""
    engine = Engine(models_dir, LORAS, "cpu", comfy_dir=comfy_dir, configs_dir=SINGLE / "configs")
    try:
        with pytest.raises(error) as caught:
            engine.generate({**REQUEST, **request})
        assert engine.loader.statistics.loads == 0
    finally:
        engine.close()
    return caught.value


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    shutil.copytree(CHECKPOINTS / REPO, tmp_path / REPO)
    return tmp_path


def pointer(path: Path) -> None:
    path.write_bytes(POINTER)


def page(path: Path) -> None:
    path.write_bytes(PAGE)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def claiming(path: Path) -> None:
    path.write_bytes(b"\xff\xff\xff\xff\xff\xff\xff\x7f{" + b" " * 100)


@pytest.mark.parametrize(
    "part", ["transformer/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"]
)
@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (pointer, CheckpointInvalid),
        (page, CheckpointInvalid),
        (claiming, CheckpointInvalid),
        (empty, CheckpointIncomplete),
        (cut, CheckpointIncomplete),
    ],
)
def test_folders_with_files_that_are_none(
    models_dir: Path, part: str, damage: Callable[[Path], None], error: type[HostError]
) -> None:
    damage(models_dir / REPO / f"{part}.safetensors")
    found = refused(models_dir, error)
    assert found.details["file"] == f"{part}.safetensors"
    assert str(models_dir) not in found.message


def test_a_pointer_in_place_of_a_config(models_dir: Path) -> None:
    for name in ("transformer/config.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json"):
        pointer(models_dir / REPO / name)
        found = refused(models_dir, CheckpointIncomplete)
        assert name.split("/")[0] in found.message
        shutil.copy(CHECKPOINTS / REPO / name, models_dir / REPO / name)


def test_another_models_transformer_in_the_folder(models_dir: Path) -> None:
    other = CHECKPOINTS / "ai-toolkit/Wan2.2-I2V-A14B-Diffusers-bf16/transformer"
    shutil.copytree(other, models_dir / REPO / "transformer", dirs_exist_ok=True)
    found = refused(models_dir, CheckpointInvalid)
    assert found.details["file"] == "transformer/config.json"
    assert "36" in found.message and "16" in found.message


def test_weights_that_do_not_fit_their_config(models_dir: Path) -> None:
    other = CHECKPOINTS / "ai-toolkit/Wan2.2-I2V-A14B-Diffusers-bf16/transformer/diffusion_pytorch_model.safetensors"
    shutil.copy(other, models_dir / REPO / "transformer/diffusion_pytorch_model.safetensors")
    found = refused(models_dir, CheckpointInvalid)
    assert found.details["tensor"] == "patch_embedding.weight"


def test_an_index_that_lists_nothing(models_dir: Path) -> None:
    index = models_dir / REPO / "transformer/diffusion_pytorch_model.safetensors.index.json"
    for text in (
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": "../../x.safetensors"}}',
    ):
        index.write_text(text)
        refused(models_dir, CheckpointIncomplete)


def test_the_original_layout_under_the_diffusers_name(tmp_path: Path) -> None:
    folder = tmp_path / REPO
    folder.mkdir(parents=True)
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    (folder / "models_t5_umt5-xxl-enc-bf16.pth").write_bytes(b"")
    found = refused(tmp_path, CheckpointInvalid, base="folder")
    assert REPO in found.message and "diffusers" in found.message


def test_the_original_repository_says_which_is_needed(tmp_path: Path) -> None:
    (tmp_path / REPO.removesuffix("-Diffusers")).mkdir(parents=True)
    program = (
        "import sys\nfrom pathlib import Path\nfrom wan_ui.checkpoints.folders import Checkpoints\n"
        "from wan_ui.errors import CheckpointNotFound\nfrom wan_ui.models import MODELS\n"
        "try: Checkpoints(Path(sys.argv[1]), offline=True).fetch(MODELS[sys.argv[2]], lambda p: None)\n"
        "except CheckpointNotFound as error: print(error.message); print(error.details['missing'])\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), MODEL.id],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"original layout; {REPO} is needed" in done.stdout
    assert f"{REPO}/transformer" in done.stdout


def test_a_partly_filled_cache_names_what_is_missing(tmp_path: Path) -> None:
    """Offline, with a snapshot that lacks the text encoder's weights."""
    commit = "0" * 40
    cache = tmp_path / "hub" / f"models--{REPO.replace('/', '--')}"
    shutil.copytree(CHECKPOINTS / REPO, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text(commit)
    (cache / "snapshots" / commit / "text_encoder/model.safetensors").unlink()
    program = (
        "import json, sys\nfrom wan_ui.checkpoints.folders import Checkpoints\n"
        "from wan_ui.errors import CheckpointNotFound\nfrom wan_ui.models import MODELS\n"
        "try: Checkpoints(None, offline=True).fetch(MODELS[sys.argv[1]], lambda p: None)\n"
        "except CheckpointNotFound as error: print(json.dumps(error.body()))\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program, MODEL.id], env=environment, capture_output=True, text=True, check=True
    )
    body = json.loads(done.stdout)
    assert body["details"]["missing"] == [f"{REPO}/text_encoder/model.safetensors"]
    assert f"{REPO}/text_encoder/model.safetensors" in body["message"]


@pytest.mark.parametrize(
    ("content", "error"), [(POINTER, CheckpointInvalid), (PAGE, CheckpointInvalid), (b"", CheckpointIncomplete)]
)
def test_single_files_that_are_none(tmp_path: Path, content: bytes, error: type[HostError]) -> None:
    folder = tmp_path / "diffusion_models"
    folder.mkdir()
    (folder / "wan2.1_t2v_1.3B.safetensors").write_bytes(content)
    found = refused(None, error, comfy_dir=tmp_path, base={"transformer": "wan2.1_t2v_1.3B.safetensors"})
    assert found.details["file"] == "wan2.1_t2v_1.3B.safetensors"


def test_a_file_that_is_another_models_is_not_listed_for_this_one() -> None:
    name = "wan2.2_ti2v_5B_fp16.safetensors"
    found = refused(None, BaseNotFound, comfy_dir=SINGLE / "models", base={"transformer": name})
    assert name not in found.details["candidates"] and found.details["candidates"]


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.safetensors", "a/../../x.safetensors", "C:\\x.safetensors", ""])
def test_paths_are_no_names(name: str) -> None:
    refused(CHECKPOINTS, InvalidRequest, base={"transformer": name})


@pytest.mark.parametrize("base", ["bf16", 3, {"tokenizer": "a"}, []])
def test_what_is_no_base(base: Any) -> None:
    refused(CHECKPOINTS, InvalidRequest, base=base)


def test_missing_checkpoints_are_told_as_before(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound):
        Checkpoints(tmp_path, offline=True).component(MODEL, "vae")
