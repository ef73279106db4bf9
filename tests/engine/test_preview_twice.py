"""The path that the GPU test of the recipe preview takes, on tiny checkpoints and the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden_cases import CHECKPOINTS
from tests.gpu.twice import twice
from tests.lora_files import write_lora
from wan_ui.models import MODELS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("model", ["wan22_5b", "wan22_14b_i2v"])
def test_preview_twice_is_equal_and_not_the_reference(tmp_path: Path, model: str) -> None:
    write_lora(tmp_path / "lora.safetensors")
    found = twice(MODELS[model], CHECKPOINTS, tmp_path, "lora.safetensors", "cpu", (64, 64, 9), 3)
    assert found.apart == 0
    assert found.mean > 0 and found.psnr < 100
    assert [one["recipe"] for one in found.metadata] == ["preview", "reference", "preview"]
