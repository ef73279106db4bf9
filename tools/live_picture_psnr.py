"""Prints the PSNR of live pictures against the finished clip, at 25, 50 and 75 % of the steps, on the demo's two VAEs.

python -m tools.live_picture_psnr
"""

from __future__ import annotations

import base64
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageSequence

from wan_ui import Engine
from wan_ui.demo.checkpoints import LATENT_MAPS, Demo, ensure
from wan_ui.engine.live_picture import FRAME_MILLISECONDS, FRAMES_SHOWN, PictureSettings, spaced
from wan_ui.engine.result import Progress
from wan_ui.models import MODELS, TEMPORAL_COMPRESSION

PROMPTS = ("a red circle", "a blue square", "a green triangle", "an orange star")
STEPS = 24
SIDE, FRAMES = 128, 17


def frames_of(webp: bytes) -> npt.NDArray[np.uint8]:
    """The frames of an animated WebP, (count, h, w, 3); equal neighbours are stored once, with a longer duration."""
    frames: list[npt.NDArray[np.uint8]] = []
    with Image.open(io.BytesIO(webp)) as image:
        for frame in ImageSequence.Iterator(image):
            pixels = np.asarray(frame.convert("RGB"))
            frames += [pixels] * (int(frame.info["duration"]) // FRAME_MILLISECONDS)
    return np.stack(frames)


def at_latent_size(frames: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.float32]:
    """The mean colour that each shown latent position stands for, (count, h, w, 3), 0…255."""
    small = F.interpolate(torch.from_numpy(frames).permute(0, 3, 1, 2).float(), (height, width), mode="area")
    means = [small[0], *(part.mean(0) for part in small[1:].split(TEMPORAL_COMPRESSION))]
    shown = torch.stack([means[index] for index in spaced(len(means), FRAMES_SHOWN)])
    return shown.permute(0, 2, 3, 1).numpy()


def psnr(shown: npt.NDArray[np.uint8], final: npt.NDArray[np.float32]) -> float:
    """Decibels."""
    return float(-10 * np.log10(np.square((shown - final) / 255).mean()))


def measured(engine: Engine, demo: Demo, model: str) -> dict[int, list[float]]:
    """PSNR by step, a value for each prompt."""
    found: dict[int, list[float]] = {STEPS * share // 100: [] for share in (25, 50, 75)}
    for seed, prompt in enumerate(PROMPTS):
        fields: dict[str, Any] = {
            "prompt": prompt, "width": SIDE, "height": SIDE, "num_frames": FRAMES, "sample_steps": STEPS, "seed": seed,
            "guidance_scale": 2.0,
        }  # fmt: skip
        if MODELS[model].control_image == "required":
            fields["ctrl_img"] = base64.b64encode(demo.first_frame.read_bytes()).decode()
        pictures: dict[int, bytes] = {}

        def keep(progress: Progress, pictures: dict[int, bytes] = pictures) -> None:
            if progress.picture is not None:
                pictures[progress.step] = progress.picture

        (clip,) = engine.generate({"model": model, "prompts": [fields]}, keep)
        for step, values in found.items():
            shown = frames_of(pictures[step])
            values.append(psnr(shown, at_latent_size(clip.frames, *shown.shape[1:3])))
    return found


def main() -> None:
    """Prints one line a VAE."""
    with tempfile.TemporaryDirectory() as folder:
        demo = ensure(Path(folder) / "demo")
        settings = PictureSettings(LATENT_MAPS, every=0.0, share=1000.0)
        engine = Engine(demo.models_dir, demo.lora_dir, "cpu", live_pictures=settings)
        for compression in sorted({model.spatial_compression for model in MODELS.values()}):
            model = next(name for name, row in MODELS.items() if row.spatial_compression == compression)
            found = measured(engine, demo, model)
            row = " | ".join(f"{np.mean(values):.1f}" for values in found.values())
            print(f"| demo vae{compression} ({MODELS[model].label}) | {row} |", flush=True)
        engine.close()


if __name__ == "__main__":
    main()
