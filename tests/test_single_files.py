"""The golden single files through Engine: every published form gives the frames of its numbers."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden_cases import GOLDEN, LORAS, differences
from wan_ui import Engine
from wan_ui.engine.budget import Fp8Weights
from wan_ui.errors import BaseNotFound

SINGLE = GOLDEN / "single_files"
MEAN, MOST = 0.1, 2  # of 255, on the CPU; another CPU may round differently
CASES: list[dict[str, Any]] = json.loads((SINGLE / "cases.json").read_text())
SAME_AS_THE_FOLDER = "wan21_1b_fp32"

pytestmark = pytest.mark.slow


def request_of(case: dict[str, Any]) -> dict[str, Any]:
    """The case's request with its files as `base`, named as ComfyUI shows them, and its image inside."""
    request = json.loads(json.dumps(case["request"]))
    if case["image"]:
        image = (SINGLE / case["image"]).read_bytes()
        request["prompts"][0]["ctrl_img"] = base64.b64encode(image).decode()
    request["base"] = {component: name.split("/", 2)[2] for component, name in case["files"].items()}
    return request


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine(comfy_dir=SINGLE / "models", configs_dir=SINGLE / "configs", lora_dir=LORAS, device="cpu")
    yield engine
    engine.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_frames_are_those_of_the_files_numbers(engine: Engine, case: dict[str, Any]) -> None:
    (clip,) = engine.generate(request_of(case))
    wanted = np.load(SINGLE / "frames" / f"{case['name']}.npz")["frames"]
    mean, most = differences(clip.frames, wanted)
    assert mean <= MEAN
    assert most <= MOST
    named = {item["component"]: item["name"] for item in clip.metadata["base"]["components"]}
    assert named == request_of(case)["base"]


def test_without_a_base_the_most_exact_files_are_taken(engine: Engine) -> None:
    case = next(case for case in CASES if case["name"] == SAME_AS_THE_FOLDER)
    (clip,) = engine.generate(case["request"])
    assert np.array_equal(clip.frames, engine.generate(request_of(case))[0].frames)
    assert clip.metadata["base"]["grade"] == "green"


def test_the_folder_gives_the_same_frames_byte_for_byte(engine: Engine) -> None:
    case = next(case for case in CASES if case["name"] == SAME_AS_THE_FOLDER)
    folder = Engine(models_dir=GOLDEN / "checkpoints", lora_dir=LORAS, device="cpu")
    try:
        (clip,) = folder.generate(case["request"])
    finally:
        folder.close()
    assert np.array_equal(clip.frames, engine.generate(request_of(case))[0].frames)
    assert {item["name"] for item in clip.metadata["base"]["components"]} == {"folder"}


FP8_CASES = [case for case in CASES if "fp8" in case["name"] or "quant" in case["name"]]
EACH_FORM = ("wan21_1b_kijai_fp8", "wan22_14b_t2v_fp8_scaled", "wan22_5b_comfy_quant", "wan21_i2v_14b_fp8")
PAIR = [{"path": f"job_{side}_noise.safetensors", "transformer": side} for side in ("high", "low")]


def one_of_each_form() -> list[Any]:
    """The fp8 cases: one of each form is ordinary, the others a soak."""
    return [pytest.param(case, marks=() if case["name"] in EACH_FORM else pytest.mark.soak) for case in FP8_CASES]


def rendered(weights: Fp8Weights, *requests: dict[str, Any]) -> list[Any]:
    """The clips of requests, in order, with fp8 weights kept in this form."""
    engine = Engine(
        comfy_dir=SINGLE / "models", configs_dir=SINGLE / "configs", lora_dir=LORAS, device="cpu", fp8_weights=weights
    )
    try:
        return [engine.generate(request)[0] for request in requests]
    finally:
        engine.close()


@pytest.mark.parametrize("case", one_of_each_form(), ids=lambda case: case["name"])
def test_packed_and_unpacked_weights_give_equal_frames(case: dict[str, Any]) -> None:
    (packed,), (unpacked,) = (rendered(weights, request_of(case)) for weights in ("packed", "unpacked"))
    assert packed.metadata["base"]["fp8_in_memory"] and not unpacked.metadata["base"]["fp8_in_memory"]
    assert np.array_equal(packed.frames, unpacked.frames)


@pytest.mark.parametrize("recipe", ["reference", "preview"])
def test_loras_on_packed_weights_come_and_go_as_on_unpacked_ones(recipe: str) -> None:
    """Attached beside them in one recipe, merged into them in the other; the bare model's frames come back."""
    case = next(case for case in CASES if case["name"] == "wan22_14b_t2v_fp8_scaled")
    bare = {**request_of(case), "recipe": recipe}
    requests = (bare, {**bare, "loras": PAIR}, bare)
    packed, unpacked = (rendered(weights, *requests) for weights in ("packed", "unpacked"))
    for one, other in zip(packed, unpacked, strict=True):
        assert np.array_equal(one.frames, other.frames)
    assert not np.array_equal(packed[0].frames, packed[1].frames)
    assert np.array_equal(packed[0].frames, packed[2].frames)


def test_fp8_storage_on_a_packed_file_is_that_on_the_unpacked_one() -> None:
    case = next(case for case in CASES if case["name"] == "wan22_14b_t2v_fp8_scaled")
    request = {**request_of(case), "speedup": "fp8_storage"}
    (packed,), (unpacked,) = (rendered(weights, request) for weights in ("packed", "unpacked"))
    assert np.array_equal(packed.frames, unpacked.frames)


def test_another_base_is_another_load_and_the_same_base_none(engine: Engine) -> None:
    first, second = (
        next(case for case in CASES if case["name"] == f"wan22_14b_t2v_{form}") for form in ("fp16", "fp8_scaled")
    )
    engine.generate(request_of(first))
    before = engine.loader.statistics.loads
    engine.generate(request_of(first))
    assert engine.loader.statistics.loads == before
    (clip,) = engine.generate(request_of(second))
    assert set(engine.loader.statistics.names[before:]) == {"transformer", "transformer_2", "text_encoder"}
    assert clip.metadata["base"]["grade"] == "red"


def test_files_whose_names_tell_nothing_are_asked_for_by_name(engine: Engine, tmp_path: Path) -> None:
    """And a file that is no part of the model is not among the candidates."""
    case = next(case for case in CASES if case["name"] == "wan22_14b_t2v_fp16")
    (wanted,) = engine.generate(request_of(case))
    shutil.copytree(SINGLE / "models", tmp_path / "models", ignore=shutil.ignore_patterns("wan2.2*"))
    for name, component in (("a", "transformer"), ("b", "transformer_2")):
        shutil.copy(SINGLE / case["files"][component], tmp_path / f"models/diffusion_models/{name}.safetensors")
    names = {"transformer": "a.safetensors", "transformer_2": "b.safetensors"}
    request = {**request_of(case), "base": {**request_of(case)["base"], **names}}
    renamed = Engine(comfy_dir=tmp_path / "models", configs_dir=SINGLE / "configs", lora_dir=LORAS, device="cpu")
    try:
        (clip,) = renamed.generate(request)
        assert np.array_equal(clip.frames, wanted.frames)
        with pytest.raises(BaseNotFound):
            renamed.generate({**request, "base": {"transformer": "a.safetensors"}})
    finally:
        renamed.close()
