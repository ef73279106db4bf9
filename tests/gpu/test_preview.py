"""Full-width random weights in bf16: the recipe preview twice is bit-equal, and how far the reference is from it.

A few of the blocks, since all are alike.

The printed figures belong into docs/decisions.md; the distance is that of random weights and a few steps.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gpu.full_size import write, write_lora
from tests.gpu.twice import twice
from wan_ui.models import MODELS

pytestmark = pytest.mark.gpu
STEPS = 3
BLOCKS, TEXT_BLOCKS = 4, 2


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.parametrize(
    ("model", "size"), [("wan22_5b", (832, 480, 17)), ("wan22_14b_i2v", (832, 480, 9))], ids=["5b", "14b_i2v"]
)
def test_preview_twice(folder: Path, model: str, size: tuple[int, int, int]) -> None:
    wan_model = MODELS[model]
    write(wan_model, folder / "models", TEXT_BLOCKS, BLOCKS)
    write_lora(folder / "loras" / "lora.safetensors", wan_model, 16, 0, BLOCKS)
    began = time.perf_counter()
    found = twice(wan_model, folder / "models", folder / "loras", "lora.safetensors", "cuda", size, STEPS)
    first, reference, _ = found.metadata
    print(
        f"\n{model} {size}, {STEPS} steps, {first['dtype']}, {first['memory']}: preview twice apart by {found.apart}; "
        f"reference against preview PSNR {found.psnr:.2f} dB, mean {found.mean:.3f}, most {found.most}; "
        f"{first['sampler']} boundary {first['boundary']}, {reference['sampler']} boundary {reference['boundary']}; "
        f"seconds {first['seconds']}, {reference['seconds']}; in all {time.perf_counter() - began:.1f} s"
    )
    assert first["dtype"] == "bfloat16"
    assert found.apart == 0
