"""Checkpoints: found or the missing file named, equal files known as equal, the hub asked for no more than needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.demo.random_weights import write_models
from tests.golden_cases import CHECKPOINTS
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.checkpoints.modules import weight_bytes
from wan_ui.errors import CheckpointIncomplete, CheckpointNotFound
from wan_ui.models import MODELS, WanModel

ROOT = Path(__file__).parents[2]
ROW = MODELS["wan21_1b"]


def copy(model_id: str, folder: Path) -> Path:
    """A copy of a model's base checkpoint; returns its folder."""
    target = folder / MODELS[model_id].base_model
    shutil.copytree(CHECKPOINTS / MODELS[model_id].base_model, target)
    return target


@pytest.fixture(scope="module")
def every_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny checkpoints of all models in the table, written now."""
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.id)
def test_every_model_is_found_whole(every_model: Path, model: WanModel) -> None:
    found = Checkpoints(every_model).fetch(model, lambda progress: None)
    assert set(found) == set(model.components)
    assert all(part.size > 0 for part in found.values())


def test_the_decoy_transformers_of_the_base_repository_are_not_used() -> None:
    model = MODELS["wan22_14b_t2v"]
    found = Checkpoints(CHECKPOINTS).fetch(model, lambda progress: None)
    assert found["transformer"].folder == CHECKPOINTS / "ai-toolkit/Wan2.2-T2V-A14B-Diffusers-bf16/transformer"
    assert found["vae"].folder == CHECKPOINTS / model.base_model / "vae"


@pytest.mark.parametrize(
    "missing",
    [
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    (copy(ROW.id, tmp_path) / missing).unlink()
    with pytest.raises(CheckpointIncomplete) as caught:
        Checkpoints(tmp_path).fetch(ROW, lambda progress: None)
    assert caught.value.details["file"] == f"{ROW.base_model}/{missing}"
    assert str(tmp_path) not in caught.value.message


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = copy(ROW.id, tmp_path) / "transformer"
    weights = folder / "diffusion_pytorch_model.safetensors"
    shard = "diffusion_pytorch_model-00001-of-00002.safetensors"
    weights.rename(folder / shard)
    index = {"weight_map": {"a": shard, "b": shard.replace("00001", "00002", 1)}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointIncomplete, match="00002-of-00002"):
        Checkpoints(tmp_path).component(ROW, "transformer")


def test_an_unreadable_index_is_named(tmp_path: Path) -> None:
    folder = copy(ROW.id, tmp_path) / "transformer"
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text("[")
    with pytest.raises(CheckpointIncomplete, match="index.json"):
        Checkpoints(tmp_path).component(ROW, "transformer")


def test_same_files_are_known_by_content_and_a_changed_byte_is_seen(tmp_path: Path) -> None:
    copy(ROW.id, tmp_path)
    checkpoints = Checkpoints(CHECKPOINTS)
    mine, other = checkpoints.component(ROW, "vae"), Checkpoints(tmp_path).component(ROW, "vae")
    assert checkpoints.same_files(mine, other)
    weights = other.files[-1]
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert not checkpoints.same_files(mine, other)


def test_elements_are_counted_from_headers() -> None:
    part = Checkpoints(CHECKPOINTS).component(ROW, "transformer")
    weights = part.files[-1].stat().st_size
    assert weights * 0.9 < weight_bytes(part, "transformer", torch.float32) < weights


FETCH = """
import json, sys
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.models import MODELS
seen = []
found = Checkpoints(None).fetch(MODELS[sys.argv[1]], seen.append)
again = []
Checkpoints(None).fetch(MODELS[sys.argv[1]], again.append)
print(json.dumps({"last": [seen[-1].bytes_done, seen[-1].bytes_total], "phases": sorted({p.phase for p in seen}),
                  "note": seen[1].note, "again": len(again), "files": sum(len(p.files) for p in found.values())}))
"""


@pytest.mark.slow
def test_the_hub_is_asked_for_what_the_row_needs_and_no_more(tmp_path: Path) -> None:
    model = MODELS["wan22_14b_t2v"]
    hub = subprocess.Popen([sys.executable, "-m", "tests.fake_hub"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert hub.stdout is not None
    environment = {**os.environ, "HF_ENDPOINT": hub.stdout.readline().strip(), "HF_HOME": str(tmp_path)}
    environment |= {"HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
    try:
        run = subprocess.run(
            [sys.executable, "-c", FETCH, model.id],
            env=environment,
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        hub.terminate()
    fetched = set(hub.stdout.read().split())
    output = json.loads(run.stdout)
    assert {"downloading", "checking"} == set(output["phases"])
    assert output["last"][0] == output["last"][1] > 1_000_000
    assert "to download" in output["note"] and "free on disk" in output["note"]
    assert output["again"] == 0
    assert output["files"] - 1 <= len(fetched) <= output["files"]  # the two transformers' equal configs may travel once
    assert not any(name.startswith(f"{model.base_model}/transformer") for name in fetched)


@pytest.mark.slow
def test_a_checkpoint_that_nobody_has_is_said(tmp_path: Path) -> None:
    code = (
        "from wan_ui.checkpoints.folders import Checkpoints\nfrom wan_ui.models import MODELS\n"
        "from wan_ui.errors import CheckpointNotFound\n"
        "try: Checkpoints(None).fetch(MODELS['wan21_1b'], lambda p: None)\n"
        "except CheckpointNotFound as error: print(error.message)\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert "does not answer" in run.stdout


def test_offline_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match="not on this machine"):
        Checkpoints(tmp_path, offline=True).fetch(ROW, lambda progress: None)


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.id)
def test_a_checkpoint_in_a_folder_is_identified_by_its_files(every_model: Path, model: WanModel) -> None:
    identity = Checkpoints(every_model).identity(model)
    assert [part["repo"] for part in identity] == sorted({source.repo for source in model.components.values()})
    assert all(part["revision"] is None and len(part["files"] or "") == 64 for part in identity)
    assert str(every_model) not in json.dumps(identity)


def test_other_files_are_another_checkpoint(tmp_path: Path) -> None:
    folder = copy(ROW.id, tmp_path)
    original = Checkpoints(CHECKPOINTS).identity(ROW)
    assert Checkpoints(tmp_path).identity(ROW) == original
    config = folder / "transformer" / "config.json"
    was = config.read_text()
    config.write_text(was.replace("0.0", "0.1", 1) + " ")
    assert Checkpoints(tmp_path).identity(ROW) != original
    config.write_text(was)
    with (folder / "vae" / "diffusion_pytorch_model.safetensors").open("ab") as weights:
        weights.write(b"\0")
    assert Checkpoints(tmp_path).identity(ROW) != original


@pytest.mark.slow
def test_a_checkpoint_of_the_hub_is_told_by_its_commit(tmp_path: Path) -> None:
    """In the layout of the hub's cache, under a folder that is called as the cache's own is."""
    commit = "1a2b3c4d" + "0" * 32
    repo = tmp_path / "snapshots" / "hub" / f"models--{ROW.base_model.replace('/', '--')}"
    shutil.copytree(CHECKPOINTS / ROW.base_model, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    code = (
        "import json\nfrom wan_ui.checkpoints.folders import Checkpoints\nfrom wan_ui.models import MODELS\n"
        f"print(json.dumps(Checkpoints(None).identity(MODELS[{ROW.id!r}])))"
    )
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "snapshots")}
    environment["PYTHONPATH"] = str(ROOT)
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True, timeout=60
    )
    (identity,) = json.loads(run.stdout)
    assert identity == {**Checkpoints(CHECKPOINTS).identity(ROW)[0], "revision": commit}
