"""The reference's own frames on a CUDA GPU in bf16."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.golden_cases import CHECKPOINTS, LORAS, Case, cases, differences
from wan_ui import Engine

pytestmark = pytest.mark.gpu
MEAN, MOST = 0.5, 12


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine(models_dir=CHECKPOINTS, lora_dir=LORAS, device="cuda")
    yield engine
    engine.close()


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_frames_are_the_references(engine: Engine, case: Case) -> None:
    (clip,) = engine.generate(case.request)
    mean, most = differences(clip.frames, case.cuda_frames)
    print(f"{case.name}: mean {mean:.4f}, most {most}")
    assert mean <= MEAN
    assert most <= MOST
