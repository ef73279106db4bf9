"""Decoding: latents through the VAE into the bytes of a video's frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKLWan

from wan_ui.engine.conditioning import denormalize
from wan_ui.errors import FramesNotFinite

FRAMES_AT_ONCE = 8  # frames converted to bytes at a time, so that their float32 copy stays small


def decode(
    vae: AutoencoderKLWan, latents: torch.Tensor, tiled: bool, on_fraction: Callable[[float], None] | None = None
) -> npt.NDArray[np.uint8]:
    """Frames as uint8, (num_frames, height, width, 3), of latents (1, C, T, h, w).

    `tiled`: in tiles of diffusers' own size (256 pixels, every 192) where a side is longer than that. `on_fraction` is
    called with the share of the work that is done; what it raises ends the decoding.
    Raises FramesNotFinite: NaN would become some byte or other.
    """
    if not torch.isfinite(latents).all():
        raise _not_finite("denoise")
    if tiled:
        vae.enable_tiling()
    calls = latents.shape[2] * (_tiles(vae, latents.shape[3:]) if tiled else 1)
    try:
        with counted_calls(vae.decoder, calls, on_fraction):
            video = vae.decode(denormalize(latents, vae), return_dict=False)[0][0]  # (3, frames, height, width), −1…1
    finally:
        vae.disable_tiling()
    if not all(torch.isfinite(part).all() for part in video.split(FRAMES_AT_ONCE, dim=1)):
        raise _not_finite("decode")
    # (x / 2 + 0.5) clamped to 0…1, × 255, rounded; the shift in the VAE's dtype, as diffusers' video processor does.
    chunks = [
        ((part * 0.5 + 0.5).clamp(0, 1).float() * 255).round().to(torch.uint8).permute(1, 2, 3, 0).cpu()
        for part in video.split(FRAMES_AT_ONCE, dim=1)
    ]
    return torch.cat(chunks).numpy()


@contextmanager
def counted_calls(decoder: torch.nn.Module, calls: int, on_fraction: Callable[[float], None] | None) -> Iterator[None]:
    """Reports the share of `calls` after each call of the decoder: the VAE decodes one latent frame at a time."""
    if on_fraction is None:
        yield
        return
    done = 0

    def count(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal done
        done += 1
        if output.device.type == "cuda":
            torch.cuda.synchronize(output.device)  # else the calls are only queued
        on_fraction(min(1.0, done / calls))

    hook = decoder.register_forward_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _tiles(vae: AutoencoderKLWan, sides: Sequence[int]) -> int:
    """How many tiles diffusers decodes of latents with these sides; 1 where no side is longer than a tile."""
    ratio = vae.spatial_compression_ratio
    if max(sides) <= vae.tile_sample_min_width // ratio:
        return 1
    return math.prod(math.ceil(side / (vae.tile_sample_stride_width // ratio)) for side in sides)


def _not_finite(stage: str) -> FramesNotFinite:
    return FramesNotFinite(
        "The video has values that are no numbers, so there is nothing to show. A LoRA's weights or scale are too "
        "large for this model: lower the scale, or choose another file.",
        stage=stage,
    )
