"""A first frame into latents and masks, in the three ways Wan models take one; it knows no scheduler and no LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from PIL import Image

from wan_ui.engine.timesteps import Tokens
from wan_ui.models import TEMPORAL_COMPRESSION


@dataclass(frozen=True)
class Start:
    """Where denoising starts. Shapes: latents (1, C, T, h, w), float32, T = (frames − 1) // 4 + 1.

    Latents are float32 even where they were rounded to the model's dtype: UniPC keeps its state in their dtype.
    `channels` (1, 20, T, h, w) are appended to the latents at every step. `mask` (1, C, T, h, w) is 0 where the
    latents are given and 1 where they are denoised; its dtype is the dtype of the per-token timesteps. `image`
    (1, tokens, width) are CLIP embeddings.
    """

    latents: torch.Tensor
    channels: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    image: torch.Tensor | None = None

    @cached_property
    def tokens(self) -> Tokens | None:
        """Which tokens have which timestep, of a row that expands timesteps; computed once."""
        return None if self.mask is None else Tokens.of(self.mask)


def noise(shape: tuple[int, ...], seed: int, device: torch.device) -> torch.Tensor:
    """Initial noise: float32, drawn on the CPU from the seed, so that every device starts from the same numbers."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(device)


def latent_shape(channels: int, num_frames: int, height: int, width: int, spatial: int) -> tuple[int, ...]:
    """(1, channels, latent frames, height / spatial, width / spatial)."""
    return (1, channels, (num_frames - 1) // TEMPORAL_COMPRESSION + 1, height // spatial, width // spatial)


def _unit_range(image: Image.Image) -> torch.Tensor:
    """RGB bytes as float32 in 0…1, (1, 3, height, width)."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / np.float32(255)).permute(2, 0, 1).unsqueeze(0)


def normalised(z: torch.Tensor, vae: AutoencoderKLWan) -> torch.Tensor:
    """(z − latents_mean) × (1 / latents_std), per channel, in z's dtype."""
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1).to(z.device, z.dtype)
    inverse_std = 1.0 / torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1).to(z.device, z.dtype)
    return (z - mean) * inverse_std


def denormalised(latents: torch.Tensor, vae: AutoencoderKLWan) -> torch.Tensor:
    """The inverse, in the VAE's dtype, ready to decode."""
    latents = latents.to(vae.device, vae.dtype)
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1).to(latents.device, latents.dtype)
    inverse_std = 1.0 / torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1).to(latents.device, latents.dtype)
    return latents / inverse_std + mean


def _sampled(posterior: Any, seed: int) -> torch.Tensor:
    """The posterior sampled with a generator of its own on the execution device, seeded with the prompt's seed.

    The trainer seeds the device's global generator right before it encodes; this draws the same numbers.
    """
    generator = torch.Generator(posterior.mean.device).manual_seed(seed)
    sampled: torch.Tensor = posterior.sample(generator=generator)
    return sampled


def _temporal_mask(latents: torch.Tensor) -> torch.Tensor:
    """(1, 4, T, h, w): 1 for the four entries of the first latent frame, 0 for all the rest."""
    mask = latents.new_zeros(1, TEMPORAL_COMPRESSION, *latents.shape[2:])
    mask[:, :, 0] = 1
    return mask


def _clip_of_first_frame(frame: torch.Tensor, num_frames: int) -> torch.Tensor:
    """(1, 3, num_frames, height, width): the frame, then zeros (mid grey)."""
    first = frame.unsqueeze(2)
    return torch.cat([first, first.new_zeros(1, 3, num_frames - 1, *first.shape[3:])], dim=2)


def from_text(latents: torch.Tensor, masked: bool) -> Start:
    """Text-to-video. A row that expands timesteps runs with a float32 mask of ones."""
    return Start(latents, mask=torch.ones_like(latents) if masked else None)


def encode_frame(vae: AutoencoderKLWan, image: Image.Image, num_frames: int) -> Any:
    """The VAE's posterior of the frame followed by num_frames − 1 grey frames, in the VAE's dtype.

    `image` has the clip's very size. The rounding to the VAE's dtype comes before the shift to −1…1, as in the trainer.
    """
    frame = _unit_range(image).to(vae.device, vae.dtype) * 2.0 - 1.0
    return vae.encode(_clip_of_first_frame(frame, num_frames)).latent_dist


def encode_frame_in_float32(vae: AutoencoderKLWan, image: Image.Image, num_frames: int) -> Any:
    """The same, shifted in float32 and rounded after, as diffusers' image-to-video pipeline does."""
    frame = 2.0 * _unit_range(image).to(vae.device) - 1.0
    return vae.encode(_clip_of_first_frame(frame, num_frames).to(vae.dtype)).latent_dist


def first_latent(latents: torch.Tensor, vae: AutoencoderKLWan, posterior: Any, dtype: torch.dtype, seed: int) -> Start:
    """5B: the encoded frame (a posterior of one frame) over the first latent frame; the mask in the model's dtype."""
    started = latents.to(dtype)
    started[:, :, :1] = normalised(_sampled(posterior, seed).to(dtype), vae)
    mask = torch.ones_like(started)
    mask[:, :, :1] = 0
    return Start(started.float(), mask=mask)


def latent_channels(
    latents: torch.Tensor, vae: AutoencoderKLWan, posterior: Any, dtype: torch.dtype, seed: int
) -> Start:
    """2.2 I2V A14B: mask (4) and latent (16) channels behind the noise, all in the model's dtype."""
    encoded = normalised(_sampled(posterior, seed).to(dtype), vae)
    started = latents.to(dtype)
    return Start(started.float(), channels=torch.cat([_temporal_mask(started), encoded], dim=1))


def clip_and_latent_channels(
    latents: torch.Tensor, vae: AutoencoderKLWan, posterior: Any, embeddings: torch.Tensor
) -> Start:
    """2.1 I2V: the posterior's mode, normalised in float32, behind the noise; CLIP embeddings beside the text."""
    encoded = normalised(posterior.mode().to(latents.dtype), vae)
    return Start(latents, channels=torch.cat([_temporal_mask(latents), encoded], dim=1), image=embeddings)
