"""Live pictures on a GPU: the frames of a video with them are those of one without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import AutoencoderKLWan

from tests.golden_cases import CHECKPOINTS
from wan_ui import Engine
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.engine.live_picture import LivePictures, PictureSettings
from wan_ui.inference import LATENT_MAPS
from wan_ui.models import MODELS

pytestmark = pytest.mark.gpu
MODEL = MODELS["wan22_14b_t2v"]


def frames_are_the_same(folder: Path, device: str) -> int:
    """Renders with a picture after each step and without; how many pictures there were."""
    checkpoints = Checkpoints(CHECKPOINTS)
    part = checkpoints.component(MODEL, "vae")
    LivePictures(folder / LATENT_MAPS, checkpoints.digest).maps(
        part.files, AutoencoderKLWan.from_pretrained(part.folder)
    )
    prompt = {"prompt": "a cat", "width": 64, "height": 64, "num_frames": 9, "sample_steps": 6, "seed": 3}
    pictures: list[bytes] = []

    def on_progress(progress: Any) -> None:
        if progress.picture is not None:
            pictures.append(progress.picture)

    body = {"model": MODEL.id, "prompts": [prompt]}
    found = []
    for settings in (None, PictureSettings(every=0.0, share=1.0)):
        engine = Engine(CHECKPOINTS, folder, device, data_dir=folder, live_pictures=settings)
        (clip,) = engine.generate(body, on_progress)
        found.append(clip.frames)
        engine.close()
    assert np.array_equal(found[0], found[1])
    return len(pictures)


def test_frames_with_and_without(tmp_path: Path) -> None:
    assert frames_are_the_same(tmp_path, "cuda") >= 3
