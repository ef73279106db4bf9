"""A LoRA of which the model has only some layers: those are applied, and the clip says what was left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.golden_cases import CHECKPOINTS
from tests.lora.writers import FORMATS, IMAGE, Width
from wan_ui import Engine
from wan_ui.engine.result import Clip

pytestmark = pytest.mark.slow

TINY = Width(48, 2, 96, 3)
WITH_IMAGE = Width(48, 2, 96, 3, image=32)


def render(folder: Path, name: str, recipe: str) -> Clip:
    engine = Engine(CHECKPOINTS, folder, "cpu")
    prompt = {"prompt": "a fox", "width": 64, "height": 64, "num_frames": 5, "sample_steps": 2, "seed": 1}
    body = {"model": "wan22_14b_t2v", "recipe": recipe, "prompts": [prompt],
            "loras": [{"path": name, "transformer": "high", "network_multiplier": 4}]}  # fmt: skip
    (clip,) = engine.generate(body)
    engine.close()
    return clip


@pytest.mark.parametrize("recipe", ["reference", "preview"])
@pytest.mark.parametrize("name", ["ai-toolkit", "LyCORIS loha", "ai-toolkit lokr, w2 factored", "ai-toolkit dora"])
def test_the_layers_that_exist_are_applied_and_the_others_counted(name: str, recipe: str, tmp_path: Path) -> None:
    written = FORMATS[name](WITH_IMAGE)
    written.save(tmp_path / "with_image.safetensors")
    left_out = [target for target in written.expected if target.endswith(IMAGE)]
    assert len(left_out) == 6
    plain = FORMATS[name](WITH_IMAGE)
    plain.tensors = {key: value for key, value in plain.tensors.items() if "k_img" not in key and "v_img" not in key}
    plain.save(tmp_path / "plain.safetensors")

    partly, whole = render(tmp_path, "with_image.safetensors", recipe), render(tmp_path, "plain.safetensors", recipe)
    assert np.array_equal(partly.frames, whole.frames)
    report = partly.metadata["lora"]["high"]
    assert (report["modules_in_file"], report["modules_in_use"]) == (36, 30)
    assert {item["module"] for item in report["dropped"]} == set(left_out)
    assert all("image layer" in item["why"] for item in report["dropped"])
    assert whole.metadata["lora"]["high"]["modules_in_file"] == 30
