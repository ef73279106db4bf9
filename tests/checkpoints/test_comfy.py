"""ComfyUI's folders, its extra paths, and a scan of many large files."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoints.published_files import (
    Tensors,
    clip_shapes,
    fp8_scaled,
    half,
    transformer_shapes,
    umt5_shapes,
    vae_shapes,
    write_sparse,
)
from tests.golden_cases import GOLDEN
from wan_ui.checkpoints.catalog import Answers, Catalog, fingerprint
from wan_ui.checkpoints.comfy import find_folders, list_files, read_extra_paths
from wan_ui.checkpoints.configs import ModelConfigs
from wan_ui.checkpoints.detection import Candidate
from wan_ui.models import MODELS

SINGLE = GOLDEN / "single_files"
TINY = ModelConfigs(SINGLE / "configs")
CONFIGS = ModelConfigs()


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_older_and_newer_folder_names_are_one_list(tmp_path: Path) -> None:
    for folder in ("unet", "diffusion_models", "clip", "text_encoders", "vae", "clip_vision", "loras"):
        (tmp_path / "models" / folder).mkdir(parents=True)
    for given in (tmp_path, tmp_path / "models"):
        found = find_folders(given)
        assert [path.name for path in found.by_category["diffusion_models"]] == ["diffusion_models", "unet"]
        assert [path.name for path in found.by_category["text_encoders"]] == ["text_encoders", "clip"]
        assert [path.name for path in found.by_category["loras"]] == ["loras"]
        assert not found.notes


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "nowhere" in find_folders(tmp_path / "nowhere").notes[0]


def test_extra_model_paths_are_relative_to_their_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_DISK", "disk")
    root = tmp_path / "ComfyUI"
    touch(root / "models/vae/a.safetensors")
    touch(root / "shared/models/unet/T2V/b.safetensors")
    touch(root / "disk/other/c.safetensors")
    touch(root / "elsewhere/d.safetensors")
    (root / "extra_model_paths.yaml").write_text(
        "comfyui:\n  base_path: shared\n  is_default: true\n  unet: |\n    models/unet\n    models/none\n"
        "second:\n  base_path: $MODEL_DISK\n  diffusion_models: other\n  checkpoints: models/checkpoints\n"
        "third:\n  clip: elsewhere\n"
    )
    found = find_folders(root / "models")
    names = [file.name for file in list_files(found.by_category["diffusion_models"])]
    assert names == ["T2V/b.safetensors", "c.safetensors"]
    assert found.by_category["text_encoders"] == (root / "elsewhere",)
    assert len(found.notes) == 1 and "folder none" in found.notes[0]


@pytest.mark.parametrize("text", ["!!python/object:os.system {}", "a: [", "\xff", "- 1\n- 2", "a: 3"])
def test_extra_model_paths_that_cannot_be_read_are_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "extra_model_paths.yaml"
    path.write_bytes(text.encode("latin-1"))
    found = read_extra_paths(path)
    assert not found.by_category
    assert len(found.notes) == (0 if text in ("- 1\n- 2", "a: 3") else 1)


def test_links_in_a_circle_and_hidden_folders_end(tmp_path: Path) -> None:
    touch(tmp_path / "vae/a.safetensors")
    touch(tmp_path / "vae/.git/b.safetensors")
    touch(tmp_path / "vae/notes.txt")
    (tmp_path / "vae/circle").symlink_to(tmp_path / "vae")
    assert [file.name for file in list_files([tmp_path / "vae"])] == ["a.safetensors"]


def test_the_golden_folder_is_sorted() -> None:
    listing = Catalog(TINY, SINGLE / "models").scan()
    assert not listing.notes
    files = {file.name: file for file in listing.files}
    assert len(files) == 28
    assert [file.name for file in listing.files if file.problem is not None] == []
    assert files["wan2.1-t2v-14b-Q8_0.gguf"].may_be(Candidate("wan21_14b", "transformer"))
    assert files["wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors"].may_be(Candidate("wan22_14b_t2v", "transformer_2"))
    assert all(file.origin == "comfy" for file in listing.files)


def test_single_files_in_the_models_folder_are_found_beside_repositories(tmp_path: Path) -> None:
    source = SINGLE / "models/diffusion_models/Wan2_1-T2V-1_3B_fp32.safetensors"
    file = tmp_path / "mine/wan2.1_t2v_1.3B.safetensors"
    file.parent.mkdir()
    file.write_bytes(source.read_bytes())
    part = tmp_path / MODELS["wan21_1b"].components["transformer"].repo / "transformer"
    touch(part / "diffusion_pytorch_model.safetensors")
    original = tmp_path / "Wan-AI/Wan2.1-T2V-14B"
    touch(original / "diffusion_pytorch_model-00001-of-00006.safetensors")
    touch(original / "Wan2.1_VAE.pth")
    listing = Catalog(TINY, models_dir=tmp_path).scan()
    found = {file.name: file for file in listing.files}
    assert set(found) == {
        "mine/wan2.1_t2v_1.3B.safetensors",
        "Wan-AI/Wan2.1-T2V-14B/diffusion_pytorch_model-00001-of-00006.safetensors",
        "Wan-AI/Wan2.1-T2V-14B/Wan2.1_VAE.pth",
    }
    assert found["mine/wan2.1_t2v_1.3B.safetensors"].problem is None
    problems = [file.problem for file in found.values() if file.problem is not None]
    assert sorted(problem.details["format"] for problem in problems) == ["pickle", "shard"]


def test_an_answer_is_kept_by_the_files_content(tmp_path: Path) -> None:
    source = SINGLE / "models/diffusion_models/wan2.2_t2v_low_noise_14B_fp16.safetensors"
    models = tmp_path / "models/diffusion_models"
    models.mkdir(parents=True)
    (models / "wan22_mine.safetensors").write_bytes(source.read_bytes())
    kept = tmp_path / "answers.json"
    catalog = Catalog(TINY, tmp_path / "models", answers=Answers(kept))
    (file,) = catalog.scan().files
    high, low = Candidate("wan22_14b_t2v", "transformer"), Candidate("wan22_14b_t2v", "transformer_2")
    assert file.detected is not None and file.detected.candidates == {high, low}
    catalog.answer(file, low)
    (file,) = catalog.scan().files
    assert file.detected is not None and file.detected.candidates == {low}
    (models / "wan22_mine.safetensors").rename(models / "another_name.safetensors")
    (file,) = Catalog(TINY, tmp_path / "models", answers=Answers(kept)).scan().files
    assert file.detected is not None and file.detected.candidates == {low}


def test_the_halves_of_a_pair_have_other_fingerprints(tmp_path: Path) -> None:
    def of(side: str) -> str:
        name = f"wan2.2_t2v_{side}_noise_14B_fp16.safetensors"
        (file,) = (file for file in Catalog(TINY, SINGLE / "models").scan().files if file.name == name)
        assert file.header is not None
        return fingerprint(file.header)

    assert of("high") != of("low") and of("high") == of("high")


def test_damaged_answers_are_asked_again(tmp_path: Path) -> None:
    kept = tmp_path / "answers.json"
    for text in ("{", "[]", '{"a": 3}', '{"a": ["no_model", "transformer"]}'):
        kept.write_text(text)
        assert Answers(kept).is_empty


def forty_files(folder: Path) -> None:
    """Forty sparse files of real size: every model in several forms, encoders, VAEs, foreign files."""

    def shapes(model: str) -> dict[str, tuple[int, ...]]:
        return transformer_shapes(CONFIGS.config(MODELS[model], "transformer"))

    forms: dict[str, Callable[[dict[str, tuple[int, ...]]], Tensors]] = {
        "fp16": half,
        "bf16": lambda found: half(found, "BF16"),
        "fp8_e4m3fn": lambda found: half(found, "F8_E4M3"),
        "fp8_scaled": fp8_scaled,
    }
    names = {
        "wan2.1_t2v_1.3B": "wan21_1b",
        "wan2.1_t2v_14B": "wan21_14b",
        "wan2.1_i2v_480p_14B": "wan21_i2v_14b",
        "wan2.1_i2v_720p_14B": "wan21_i2v_14b",
        "wan2.2_t2v_high_noise_14B": "wan22_14b_t2v",
        "wan2.2_t2v_low_noise_14B": "wan22_14b_t2v",
        "wan2.2_i2v_high_noise_14B": "wan22_14b_i2v",
        "wan2.2_i2v_low_noise_14B": "wan22_14b_i2v",
    }
    for stem, model in names.items():
        for form, build in forms.items():
            write_sparse(folder / "diffusion_models" / f"{stem}_{form}.safetensors", build(shapes(model)))
    write_sparse(folder / "diffusion_models/wan2.2_ti2v_5B_fp16.safetensors", half(shapes("wan22_5b")))
    text = half(umt5_shapes(CONFIGS.config(MODELS["wan21_1b"], "text_encoder")))
    write_sparse(folder / "text_encoders/umt5_xxl_fp16.safetensors", text)
    write_sparse(folder / "clip/umt5_bf16.safetensors", {name: ("BF16", shape) for name, (_, shape) in text.items()})
    write_sparse(folder / "vae/wan_2.1_vae.safetensors", half(vae_shapes(CONFIGS.config(MODELS["wan21_1b"], "vae"))))
    write_sparse(folder / "vae/wan2.2_vae.safetensors", half(vae_shapes(CONFIGS.config(MODELS["wan22_5b"], "vae"))))
    clip = half(clip_shapes(CONFIGS.config(MODELS["wan21_i2v_14b"], "image_encoder")))
    write_sparse(folder / "clip_vision/clip_vision_h.safetensors", clip)
    vace = {**half(shapes("wan21_1b")), "vace_patch_embedding.weight": ("F16", (1536, 96, 1, 2, 2))}
    write_sparse(folder / "diffusion_models/wan2.1_vace_1.3B.safetensors", vace)
    write_sparse(
        folder / "diffusion_models/flux1-dev.safetensors",
        {"double_blocks.0.img_attn.qkv.weight": ("F16", (9216, 3072))},
    )


@pytest.mark.slow
def test_forty_files_of_real_size_are_sorted_in_under_two_seconds(tmp_path: Path) -> None:
    """Of CPU, which is what it takes on a machine that is not busy otherwise."""
    forty_files(tmp_path)
    catalog = Catalog(CONFIGS, tmp_path)
    began = time.process_time()
    listing = catalog.scan()
    seconds = time.process_time() - began
    assert len(listing.files) == 40
    assert seconds < 2
    usable = [file for file in listing.files if file.problem is None]
    assert len(usable) == 38
    assert all(file.detected is not None and not file.detected.is_open for file in usable)
    assert sum(file.size for file in usable) > 500e9
    began = time.process_time()
    assert catalog.scan() == listing
    assert time.process_time() - began < 0.5
