"""The live picture: maps fitted to the demo's VAEs predict their decoded pixels, and are kept."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from PIL import Image

from wan_ui.demo.trained import WEIGHTS
from wan_ui.engine import live_picture
from wan_ui.engine.conditioning import denormalize, normalize
from wan_ui.engine.live_picture import LatentToRgb, LivePictures, as_webp, spaced, synthetic_clips


def loaded(name: str) -> AutoencoderKLWan:
    return AutoencoderKLWan.from_pretrained(WEIGHTS / name, torch_dtype=torch.float32).eval()


@torch.no_grad()
def psnr_of_maps(vae: AutoencoderKLWan, maps: LatentToRgb) -> tuple[float, float]:
    """PSNR in dB of the first and of the later latent frames, on clips that the fit has not seen."""
    errors: tuple[list[float], list[float]] = ([], [])
    for clip in synthetic_clips(3, live_picture.CLIP_FRAMES, seed=99).split(1):
        latents = normalize(vae.encode(clip).latent_dist.mode(), vae)
        pixels = vae.decode(denormalize(latents, vae), return_dict=False)[0][0].clamp(-1, 1)
        small = torch.nn.functional.interpolate(pixels.transpose(0, 1), latents.shape[3:], mode="area")
        truth = torch.stack([small[0], small[1:5].mean(0), small[5:9].mean(0)]).permute(0, 2, 3, 1)
        shown = maps.frames(latents, shown=3).float() / 127.5 - 1
        squares = ((shown - truth) / 2).square().flatten(1).mean(1)
        errors[0].append(float(squares[0]))
        errors[1].append(float(squares[1:].mean()))
    first, later = (-10 * np.log10(np.mean(values)) for values in errors)
    return float(first), float(later)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae8", "vae16"])
def test_the_maps_predict_the_decoded_pixels(name: str, tmp_path: Path) -> None:
    vae = loaded(name)
    maps = LivePictures(tmp_path).maps("a" * 64, vae)
    first, later = psnr_of_maps(vae, maps)
    assert first > 22 and later > 20, (first, later)
    again = LivePictures(tmp_path).known("a" * 64)
    assert again is not None and torch.equal(again.first, maps.first) and torch.equal(again.later, maps.later)
    assert [path.name for path in tmp_path.iterdir()] == [f"{'a' * 64}.npz"]


def test_a_known_map_is_not_fitted_again() -> None:
    pictures = LivePictures(None)
    assert pictures.known("b" * 64) is None


def test_frames_are_spaced_and_of_latent_size() -> None:
    assert spaced(21, 5) == [0, 5, 10, 15, 20] and spaced(3, 5) == [0, 1, 2] and spaced(1, 5) == [0]
    maps = LatentToRgb(torch.zeros(17, 3), torch.cat([torch.zeros(16, 3), torch.ones(1, 3)]))
    frames = maps.frames(torch.randn(1, 16, 21, 6, 8))
    assert frames.shape == (5, 6, 8, 3) and frames.dtype is torch.uint8
    assert int(frames[0].min()) == int(frames[0].max()) == 128 and int(frames[1:].min()) == 255


def test_the_picture_is_an_animated_webp() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (5, 60, 104, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(as_webp(frames))) as image:
        assert (image.format, image.size, getattr(image, "n_frames", 1)) == ("WEBP", (104, 60), 5)
