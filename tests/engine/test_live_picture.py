"""The live picture: maps fitted to the demo's VAEs predict their decoded pixels, and are kept."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from PIL import Image

from wan_ui.demo.checkpoints import LATENT_MAPS
from wan_ui.demo.trained import WEIGHTS
from wan_ui.engine import live_picture
from wan_ui.engine.conditioning import denormalize, normalize
from wan_ui.engine.live_picture import (
    LatentToRgb,
    LivePictures,
    PictureMaker,
    PictureSettings,
    as_webp,
    spaced,
    synthetic_clips,
)

pytestmark = pytest.mark.slow


def loaded(name: str) -> AutoencoderKLWan:
    return AutoencoderKLWan.from_pretrained(WEIGHTS / name, torch_dtype=torch.float32).eval()


@torch.no_grad()
def psnr_of_maps(vae: AutoencoderKLWan, maps: LatentToRgb, clips: int) -> tuple[float, float]:
    """PSNR in dB of the first and of the later latent frames, on clips that the fit has not seen."""
    errors: tuple[list[float], list[float]] = ([], [])
    for clip in synthetic_clips(clips, live_picture.CLIP_FRAMES, seed=99).split(1):
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


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae8", pytest.param("vae16", marks=pytest.mark.soak)])
def test_the_maps_predict_the_decoded_pixels(name: str, tmp_path: Path) -> None:
    vae, files = loaded(name), sorted((WEIGHTS / name).glob("*.safetensors"))
    maps = LivePictures(tmp_path, sha256).maps(files, vae)
    first, later = psnr_of_maps(vae, maps, clips=1)
    assert first > 25 and later > 25, (first, later)
    again = LivePictures(tmp_path, sha256).known(files)
    assert again is not None and torch.equal(again.first, maps.first) and torch.equal(again.later, maps.later)
    assert [path.name for path in tmp_path.iterdir()] == [f"{sha256(files[0])}.npz"]


@pytest.mark.parametrize("name", ["vae8", "vae16"])
def test_the_demo_ships_the_maps_of_its_vaes(name: str) -> None:
    files = sorted((WEIGHTS / name).glob("*.safetensors"))
    maps = LivePictures(None, sha256, PictureSettings(LATENT_MAPS)).known(files)
    assert maps is not None
    first, later = psnr_of_maps(loaded(name), maps, clips=1)
    assert first > 22 and later > 22, (first, later)


def test_an_unknown_vae_has_no_map() -> None:
    assert (
        LivePictures(None, lambda path: "b" * 64, PictureSettings(LATENT_MAPS)).known([Path("vae.safetensors")]) is None
    )


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


def test_a_picture_of_noise_is_halved_until_it_is_small() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (5, 90, 160, 3), dtype=np.uint8)
    webp = as_webp(frames)
    assert len(webp) <= live_picture.MOST_BYTES
    with Image.open(io.BytesIO(webp)) as image:
        assert image.size == (80, 45)


class Clock:
    """A clock that a test advances; each picture takes `cost` seconds."""

    def __init__(self, cost: float) -> None:
        self.now = 0.0
        self.cost = cost

    def __call__(self) -> float:
        return self.now


def made_of_run(step_seconds: float, cost: float, steps: int = 25) -> list[int]:
    """The steps of a run after which a picture was made."""
    clock, maps = Clock(cost), LatentToRgb(torch.zeros(5, 3), torch.zeros(5, 3))
    maker = PictureMaker(lambda seconds: maps, PictureSettings(), steps, clock=clock)

    def estimate() -> torch.Tensor:
        clock.now += cost
        return torch.zeros(1, 4, 3, 4, 4)

    made = []
    for step in range(1, steps + 1):
        clock.now += step_seconds
        if maker.picture(step, estimate) is not None:
            made.append(step)
    assert len(made) * cost <= live_picture.SHARE * (clock.now + 1e-9)
    return made


@pytest.mark.parametrize(
    ("step_seconds", "cost", "made"),
    [
        (5.0, 0.02, list(range(1, 25))),  # a large model: after every step but the last
        (0.2, 0.005, [1, 4, 7, 10, 13, 16, 19, 22]),  # at most every half second
        (0.2, 0.02, [1, 4]),  # 1 % of 5 s
        (0.01, 0.02, []),  # too short for any
    ],
)
def test_pictures_are_spaced_and_take_at_most_a_hundredth(step_seconds: float, cost: float, made: list[int]) -> None:
    assert made_of_run(step_seconds, cost) == made


def test_the_time_of_a_fit_is_not_counted() -> None:
    clock, maps, asked = Clock(0.0), LatentToRgb(torch.zeros(5, 3), torch.zeros(5, 3)), []

    def fitted(seconds: float) -> LatentToRgb:
        asked.append(seconds)
        clock.now += 3.0
        return maps

    maker = PictureMaker(fitted, PictureSettings(), 10, clock=clock)
    clock.now += 2.0
    assert maker.picture(1, lambda: torch.zeros(1, 4, 3, 4, 4)) is not None
    assert asked == [20.0] and maker.paused == 3.0
