"""The reference's own frames, through Engine.generate."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.golden_cases import CHECKPOINTS, LORAS, Case, cases, differences
from wan_ui import Engine

pytestmark = pytest.mark.slow
MEAN, MOST = 0.1, 2  # of 255, on the CPU; another CPU may round differently


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine(models_dir=CHECKPOINTS, lora_dir=LORAS, device="cpu")
    yield engine
    engine.close()


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_frames_are_the_references(engine: Engine, case: Case) -> None:
    (clip,) = engine.generate(case.request)
    mean, most = differences(clip.frames, case.cpu_frames)
    assert mean <= MEAN
    assert most <= MOST
    assert clip.frames.shape == (clip.num_frames, clip.height, clip.width, 3)
    assert clip.metadata["recipe"] == case.request["recipe"]
