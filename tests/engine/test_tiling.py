"""Decoding in tiles: other frames where a side is longer than a tile, the very same where none is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanDecoder3d

from tests.golden_cases import CHECKPOINTS, LORAS
from wan_ui import Engine
from wan_ui.engine.result import Clip
from wan_ui.errors import OutOfMemory

pytestmark = pytest.mark.slow
TILE = 256 // 8  # columns of latents


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine(models_dir=CHECKPOINTS, lora_dir=LORAS, device="cpu")
    yield engine
    engine.close()


def clip(engine: Engine, width: int, tiled: bool) -> Clip:
    prompt: dict[str, Any] = {"prompt": "a fox", "width": width, "height": 64, "num_frames": 5, "sample_steps": 1}
    (made,) = engine.generate({"model": "wan21_1b", "prompts": [prompt], "vae_tiling": tiled})
    return made


def frames(engine: Engine, width: int, tiled: bool) -> np.ndarray:
    return clip(engine, width, tiled).frames


@contextmanager
def room_for(columns: int) -> Iterator[None]:
    """A device whose memory runs out where more than so many columns of latents are decoded at once."""

    def before(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, WanDecoder3d) and arguments[0].shape[-1] > columns:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = torch.nn.modules.module.register_module_forward_pre_hook(before)
    try:
        yield
    finally:
        hook.remove()


def test_a_wide_clip_in_tiles_is_another_and_a_whole_one_after_it_the_same_as_before(engine: Engine) -> None:
    whole, tiled = frames(engine, 320, False), frames(engine, 320, True)
    assert whole.shape == tiled.shape == (5, 64, 320, 3)
    assert not np.array_equal(whole, tiled)
    assert np.abs(whole[:, :, :128].astype(int) - tiled[:, :, :128]).mean() < 4
    assert np.array_equal(frames(engine, 320, False), whole)


def test_a_small_clip_has_no_tiles(engine: Engine) -> None:
    assert np.array_equal(frames(engine, 128, True), frames(engine, 128, False))


def test_where_whole_frames_have_no_room_they_are_decoded_in_tiles_and_that_is_said(engine: Engine) -> None:
    with room_for(TILE):
        made = clip(engine, 320, False)
    assert made.metadata["tiled"] is True
    assert np.array_equal(made.frames, frames(engine, 320, True))
    assert clip(engine, 320, False).metadata["tiled"] is False


@pytest.mark.parametrize("tiled", [False, True])
def test_where_tiles_have_no_room_either_it_is_said(engine: Engine, tiled: bool) -> None:
    with room_for(TILE - 1), pytest.raises(OutOfMemory, match="smaller width"):
        clip(engine, 320, tiled)
