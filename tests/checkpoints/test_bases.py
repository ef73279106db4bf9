"""Which files a model is loaded from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden_cases import GOLDEN
from wan_ui.checkpoints.bases import FOLDER, Base, Chosen, FolderState, choose, options
from wan_ui.checkpoints.catalog import Catalog, ModelFile
from wan_ui.checkpoints.configs import ModelConfigs
from wan_ui.errors import BaseNotFound, CheckpointInvalid
from wan_ui.models import MODELS

SINGLE = GOLDEN / "single_files"
CONFIGS = ModelConfigs(SINGLE / "configs")
FILES = Catalog(CONFIGS, SINGLE / "models").scan().files
NO_FOLDER: dict[str, FolderState] = {}


def whole(model: str) -> dict[str, FolderState]:
    return dict.fromkeys(MODELS[model].components, "complete")


def chosen(
    model: str, base: Base = "auto", folders: dict[str, FolderState] = NO_FOLDER, without: tuple[str, ...] = ()
) -> Chosen:
    files = [file for file in FILES if not any(part in file.name for part in without)]
    return choose(MODELS[model], options(MODELS[model], files, folders), base, files)


@pytest.mark.parametrize(
    ("without", "name", "label", "colour"),
    [
        ((), "Wan2_1-T2V-1_3B_fp32.safetensors", "fp32", "green"),
        (("1_3B_fp32",), "wan2.1_t2v_1.3B_bf16.safetensors", "bf16", "green"),
        (("1_3B_fp32", "1.3B_bf16"), "Wan2_1-T2V-1_3B_fp8_e4m3fn.safetensors", "fp8", "red"),
        (("1_3B", "1.3B"), FOLDER, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "green"),
    ],
)
def test_the_most_exact_file_is_taken(without: tuple[str, ...], name: str, label: str, colour: str) -> None:
    found = chosen("wan21_1b", without=without)
    option = found.options["transformer"]
    assert (option.name, option.label, option.grade) == (name, label, colour)
    assert found.reason


def test_a_folder_that_is_here_comes_first_and_one_to_download_last() -> None:
    found = chosen("wan21_1b", folders=whole("wan21_1b"))
    assert set(found.names.values()) == {FOLDER} and found.grade == "green"
    found = chosen("wan21_1b", folders={"vae": "complete", "text_encoder": "incomplete"})
    assert found.names == {
        "transformer": "Wan2_1-T2V-1_3B_fp32.safetensors",
        "vae": FOLDER,
        "text_encoder": "umt5_xxl_fp32.safetensors",
    }


def test_more_bits_of_a_gguf_come_first() -> None:
    assert chosen("wan21_14b").names["transformer"] == "wan2.1-t2v-14b-Q8_0.gguf"
    assert chosen("wan21_14b", without=("Q8_0",)).names["transformer"] == "wan2.1-t2v-14b-Q4_K_M.gguf"


def test_a_pair_is_taken_whole() -> None:
    pair = chosen("wan22_14b_t2v").names
    assert pair["transformer"] == "wan2.2_t2v_high_noise_14B_fp16.safetensors"
    assert pair["transformer_2"] == "wan2.2_t2v_low_noise_14B_fp16.safetensors"
    # Half of the better pair is missing: the whole of the other one is taken.
    pair = chosen("wan22_14b_t2v", without=("low_noise_14B_fp16",)).names
    assert pair["transformer"] == "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors"
    assert pair["transformer_2"] == "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors"
    # Nothing belongs together: each half the best there is.
    pair = chosen("wan22_14b_t2v", without=("low_noise_14B_fp16", "high_noise_14B_fp8")).names
    assert (pair["transformer"], pair["transformer_2"]) == (FOLDER, FOLDER)


def test_the_folder_is_taken_where_it_is_asked_for() -> None:
    assert set(chosen("wan21_1b", FOLDER).names.values()) == {FOLDER}


def test_a_file_is_taken_by_its_name_and_the_rest_is_chosen() -> None:
    found = chosen("wan21_1b", {"transformer": "Wan2_1-T2V-1_3B_fp8_e4m3fn.safetensors"}, whole("wan21_1b"))
    assert found.names["transformer"] == "Wan2_1-T2V-1_3B_fp8_e4m3fn.safetensors"
    assert found.names["vae"] == FOLDER and found.grade == "red"


@pytest.mark.parametrize("half", ["transformer", "transformer_2"])
def test_one_name_of_a_pair_takes_its_partner(half: str) -> None:
    side = {"transformer": "high", "transformer_2": "low"}[half]
    name = f"wan2.2_i2v_{side}_noise_14B_fp8_scaled.safetensors"
    assert chosen("wan22_14b_i2v", {half: name}).names["transformer"] == name.replace(side, "high")
    assert chosen("wan22_14b_i2v", {half: name}).names["transformer_2"] == name.replace(side, "low")


def test_a_half_whose_partner_is_not_here_is_refused_with_candidates() -> None:
    base = {"transformer": "wan2.2_t2v_high_noise_14B_fp16.safetensors"}
    with pytest.raises(BaseNotFound) as caught:
        chosen("wan22_14b_t2v", base, without=("low_noise_14B_fp16",))
    assert caught.value.details["component"] == "transformer_2"
    assert "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors" in caught.value.details["candidates"]


@pytest.mark.parametrize(
    "base",
    [
        {"transformer": "none.safetensors"},
        {"transformer": "wan_2.1_vae.safetensors"},
        {"vae": "wan2.2_vae.safetensors"},
        {"image_encoder": "clip_vision_h.safetensors"},
        {"transformer": "../models/diffusion_models/Wan2_1-T2V-1_3B_fp32.safetensors"},
    ],
)
def test_names_that_are_not_listed_are_refused(base: dict[str, str]) -> None:
    with pytest.raises(BaseNotFound) as caught:
        chosen("wan21_1b", base)
    assert caught.value.details["candidates"]


def test_a_file_whose_name_tells_nothing_is_taken_when_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "diffusion_models"
    folder.mkdir()
    source = SINGLE / "models/diffusion_models"
    for side in ("high", "low"):
        content = (source / f"wan2.2_t2v_{side}_noise_14B_fp16.safetensors").read_bytes()
        (folder / f"{'ab'[side == 'low']}.safetensors").write_bytes(content)
    files = Catalog(CONFIGS, tmp_path).scan().files
    model = MODELS["wan22_14b_t2v"]
    available = options(model, files, NO_FOLDER)
    assert [option.name for option in available["transformer"]] == [FOLDER]
    names = {"transformer": "a.safetensors", "transformer_2": "b.safetensors"}
    assert {**choose(model, available, names, files).names, "vae": "", "text_encoder": ""} == {
        **names,
        "vae": "",
        "text_encoder": "",
    }


def test_a_broken_file_that_is_asked_for_says_what_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "diffusion_models"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    files: tuple[ModelFile, ...] = Catalog(CONFIGS, tmp_path).scan().files
    model = MODELS["wan21_1b"]
    with pytest.raises(CheckpointInvalid):
        choose(model, options(model, files, NO_FOLDER), {"transformer": "a.safetensors"}, files)


def test_grades() -> None:
    colours = {"folder": "green", "fp32": "green", "bf16": "green", "fp16": "amber", "fp8_scaled": "red", "fp8": "red",
               "gguf": "red"}  # fmt: skip
    listed = [found for model in MODELS.values() for found in options(model, FILES, NO_FOLDER).values()]
    seen = {option.precision: option.grade for found in listed for option in found}
    assert seen == colours
