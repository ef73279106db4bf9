"""One request in the recipes preview, reference and preview again: do both previews agree, how far is the other."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wan_ui import Engine
from wan_ui.models import WanModel
from wan_ui.trainer.sample_comparison import psnr


@dataclass(frozen=True)
class Twice:
    """`apart`: the largest byte difference of the two previews; the rest is between preview and reference."""

    apart: int
    psnr: float
    mean: float
    most: int
    metadata: Sequence[dict[str, Any]]


def picture() -> str:
    """A first frame as base64: a gradient with a disc, so that a resize has something to do."""
    y, x = np.mgrid[0:360, 0:640]
    pixels = np.stack([x * 255 // 640, y * 255 // 360, np.full_like(x, 90)], axis=-1).astype(np.uint8)
    pixels[(x - 200) ** 2 + (y - 180) ** 2 < 80**2] = (250, 220, 40)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def twice(
    model: WanModel, models: Path, loras: Path, lora: str, device: str, size: tuple[int, int, int], steps: int
) -> Twice:
    """Renders on one engine. The reference in between takes every cast, merge and kept half of the first run back."""
    width, height, frames = size
    slots: tuple[str | None, ...] = ("high", "low") if model.two_transformers else (None,)
    item = {"prompt": "a red circle", "width": width, "height": height, "num_frames": frames, "sample_steps": steps}
    if model.control_image != "none":
        item["ctrl_img"] = picture()
    engine = Engine(models_dir=models, lora_dir=loras, device=device)
    try:
        first, reference, second = (
            engine.generate(
                {
                    "model": model.id,
                    "recipe": recipe,
                    "prompts": [item],
                    "loras": [{"path": lora, "transformer": slot} for slot in slots],
                    "first_step_change": False,
                }
            )[0]
            for recipe in ("preview", "reference", "preview")
        )
    finally:
        engine.close()
    off = np.abs(first.frames.astype(np.int16) - reference.frames.astype(np.int16))
    return Twice(
        apart=int(np.abs(first.frames.astype(np.int16) - second.frames.astype(np.int16)).max()),
        psnr=float(np.mean([psnr(one, two) for one, two in zip(first.frames, reference.frames, strict=True)])),
        mean=float(off.mean()),
        most=int(off.max()),
        metadata=[dict(clip.metadata) for clip in (first, reference, second)],
    )
