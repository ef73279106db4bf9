"""The golden single files through Engine: every published form gives the frames of its numbers."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.golden_cases import GOLDEN, LORAS, differences
from wan_ui import Engine

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
    pytest.importorskip("gguf")
    (clip,) = engine.generate(request_of(case))
    wanted = np.load(SINGLE / "frames" / f"{case['name']}.npz")["frames"]
    mean, most = differences(clip.frames, wanted)
    assert mean <= MEAN
    assert most <= MOST
    if case["name"] == SAME_AS_THE_FOLDER:
        assert np.array_equal(clip.frames, wanted)
    named = {item["component"]: item["name"] for item in clip.metadata["base"]["components"]}
    assert named == request_of(case)["base"]


def test_without_a_base_the_most_exact_files_are_taken(engine: Engine) -> None:
    case = next(case for case in CASES if case["name"] == SAME_AS_THE_FOLDER)
    (clip,) = engine.generate(case["request"])
    assert np.array_equal(clip.frames, np.load(SINGLE / "frames" / f"{case['name']}.npz")["frames"])
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


def test_a_lora_on_an_fp8_file_changes_the_video_and_comes_off_again(engine: Engine) -> None:
    case = next(case for case in CASES if case["name"] == "wan22_14b_t2v_fp8_scaled")
    request = request_of(case)
    pair = [{"path": f"{side}.safetensors", "transformer": side} for side in ("high", "low")]
    names = sorted(path.name for path in LORAS.glob("*.safetensors"))
    chosen = [next(name for name in names if side in name) for side in ("high", "low")]
    pair = [{"path": name, "transformer": side} for name, side in zip(chosen, ("high", "low"), strict=True)]
    bare = engine.generate(request)[0].frames
    dressed = engine.generate({**request, "loras": pair})[0].frames
    assert not np.array_equal(bare, dressed)
    assert np.array_equal(engine.generate(request)[0].frames, bare)
