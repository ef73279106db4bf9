"""Decoding in tiles: other frames where a side is longer than a tile, the very same where none is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.golden_cases import CHECKPOINTS, LORAS
from wan_ui import Engine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine(models_dir=CHECKPOINTS, lora_dir=LORAS, device="cpu")
    yield engine
    engine.close()


def frames(engine: Engine, width: int, tiled: bool) -> np.ndarray:
    prompt: dict[str, Any] = {"prompt": "a fox", "width": width, "height": 64, "num_frames": 5, "sample_steps": 1}
    (clip,) = engine.generate({"model": "wan21_1b", "prompts": [prompt], "vae_tiling": tiled})
    return clip.frames


def test_a_wide_clip_in_tiles_is_another_and_a_whole_one_after_it_the_same_as_before(engine: Engine) -> None:
    whole, tiled = frames(engine, 320, False), frames(engine, 320, True)
    assert whole.shape == tiled.shape == (5, 64, 320, 3)
    assert not np.array_equal(whole, tiled)
    assert np.abs(whole[:, :, :128].astype(int) - tiled[:, :, :128]).mean() < 4
    assert np.array_equal(frames(engine, 320, False), whole)


def test_a_small_clip_has_no_tiles(engine: Engine) -> None:
    assert np.array_equal(frames(engine, 128, True), frames(engine, 128, False))
