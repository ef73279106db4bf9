"""Initial noise, and the three ways in which Wan models are conditioned on a first frame."""

from __future__ import annotations

from collections.abc import Sequence
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
class ConditionedNoise:
    """What denoising starts from: noise, and what a first frame adds. T = (frames − 1) // 4 + 1 latent frames.

    `latents` (1, C, T, h, w) are float32 even where they were rounded to the model's dtype, because UniPC keeps its
    history in their dtype. `channels` (1, mask + C, T, h, w) are appended to the latents at every step. `mask`
    (1, C, T, h, w) is 0 where latents are given and 1 where they are denoised; its dtype is the dtype of the per-token
    timesteps. `image_embeddings` (1, tokens, width) are CLIP's.
    """

    latents: torch.Tensor
    channels: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    image_embeddings: torch.Tensor | None = None

    @cached_property
    def tokens(self) -> Tokens | None:
        """Which tokens have which timestep, for a model with per-token timesteps; computed once."""
        return None if self.mask is None else Tokens.of(self.mask)


def noise(shape: tuple[int, ...], seed: int, device: torch.device) -> torch.Tensor:
    """Initial noise: float32, drawn on the CPU from the seed, so that every device starts from the same numbers."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(device)


def generator_after_noise(shape: tuple[int, ...], seed: int) -> torch.Generator:
    """The seed's generator after it gave the initial noise of this shape, for a sampler that adds more noise."""
    generator = torch.Generator("cpu").manual_seed(seed)
    torch.randn(shape, generator=generator, dtype=torch.float32)
    return generator


def latent_shape(channels: int, spatial: int, num_frames: int, height: int, width: int) -> tuple[int, ...]:
    """(1, C, T, h, w) of a clip: 4 frames to a latent one, but the first alone; `spatial` pixels a side to one."""
    frames = (num_frames - 1) // TEMPORAL_COMPRESSION + 1
    return (1, channels, frames, height // spatial, width // spatial)


def _unit_range(image: Image.Image) -> torch.Tensor:
    """RGB bytes as float32 in 0…1, (1, 3, height, width)."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / np.float32(255)).permute(2, 0, 1).unsqueeze(0)


def normalize(z: torch.Tensor, vae: AutoencoderKLWan) -> torch.Tensor:
    """(z − latents_mean) × (1 / latents_std), per channel, in z's dtype.

    As in diffusers, the reciprocal is rounded to the dtype before the product; a division would give other bits.
    """
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1).to(z.device, z.dtype)
    inverse_std = 1.0 / torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1).to(z.device, z.dtype)
    return (z - mean) * inverse_std


def denormalize(latents: torch.Tensor, vae: AutoencoderKLWan) -> torch.Tensor:
    """The inverse, z / (1 / latents_std) + latents_mean, in the VAE's dtype: what the VAE decodes."""
    latents = latents.to(vae.device, vae.dtype)
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1).to(latents.device, latents.dtype)
    inverse_std = 1.0 / torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1).to(latents.device, latents.dtype)
    return latents / inverse_std + mean


def _sample(posterior: Any, seed: int) -> torch.Tensor:
    """The posterior's mean + std × noise, with noise from a generator on the execution device with the prompt's seed.

    The trainer seeds the device's global generator right before it encodes; this draws the same numbers.
    """
    generator = torch.Generator(posterior.mean.device).manual_seed(seed)
    latents: torch.Tensor = posterior.sample(generator=generator)
    return latents


def _temporal_mask(latents: torch.Tensor, has_last: bool) -> torch.Tensor:
    """(1, 4, T, h, w): 1 in the first latent frame and, with a last frame, in the last entry of the last one; else 0.

    One channel for each of the 4 pixel frames that a latent frame stands for. The first latent frame stands for one
    pixel frame alone, the given one, which diffusers repeats to fill its 4 channels.
    """
    mask = latents.new_zeros(1, TEMPORAL_COMPRESSION, *latents.shape[2:])
    mask[:, :, 0] = 1
    if has_last:
        mask[:, -1, -1] = 1  # the last of the 4 pixel frames of the last latent frame
    return mask


def _clip_of_frames(frames: Sequence[torch.Tensor], num_frames: int) -> torch.Tensor:
    """(1, 3, num_frames, height, width): the first frame, zeros (mid grey), and the last frame where there is one."""
    first, *last = (frame.unsqueeze(2) for frame in frames)
    return torch.cat([first, first.new_zeros(1, 3, num_frames - len(frames), *first.shape[3:]), *last], dim=2)


def from_text(latents: torch.Tensor, masked: bool) -> ConditionedNoise:
    """Text-to-video: plain noise. A model with per-token timesteps gets a float32 mask of ones."""
    return ConditionedNoise(latents, mask=torch.ones_like(latents) if masked else None)


def encode_frames(vae: AutoencoderKLWan, images: Sequence[Image.Image], num_frames: int) -> Any:
    """The VAE's posterior of a clip, grey but for its first and perhaps its last frame, in the VAE's dtype.

    `images` have the clip's size. AI Toolkit's order: rounded to the VAE's dtype first, then shifted to −1…1.
    """
    frames = [_unit_range(image).to(vae.device, vae.dtype) * 2.0 - 1.0 for image in images]
    return vae.encode(_clip_of_frames(frames, num_frames)).latent_dist


def encode_frames_in_float32(vae: AutoencoderKLWan, images: Sequence[Image.Image], num_frames: int) -> Any:
    """The same in the order of diffusers' image-to-video pipeline: shifted in float32, rounded after."""
    frames = [2.0 * _unit_range(image).to(vae.device) - 1.0 for image in images]
    return vae.encode(_clip_of_frames(frames, num_frames).to(vae.dtype)).latent_dist


def first_latent(
    latents: torch.Tensor, vae: AutoencoderKLWan, posterior: Any, dtype: torch.dtype, seed: int
) -> ConditionedNoise:
    """5B: the encoded frame (a posterior of one frame) replaces the first latent frame of the noise.

    Everything is computed in the model's dtype, the mask too: on CUDA the per-token timesteps are therefore rounded
    to bf16 (999 becomes 1000), as the trainer's are.
    """
    started = latents.to(dtype)
    started[:, :, :1] = normalize(_sample(posterior, seed).to(dtype), vae)
    mask = torch.ones_like(started)
    mask[:, :, :1] = 0
    return ConditionedNoise(started.float(), mask=mask)


def latent_channels(
    latents: torch.Tensor,
    vae: AutoencoderKLWan,
    posterior: Any,
    dtype: torch.dtype,
    *,
    seed: int,
    has_last: bool = False,
) -> ConditionedNoise:
    """2.2 I2V A14B: mask (4) and latent (16) channels behind the 16 noise channels, all in the model's dtype."""
    encoded = normalize(_sample(posterior, seed).to(dtype), vae)
    started = latents.to(dtype)
    return ConditionedNoise(started.float(), channels=torch.cat([_temporal_mask(started, has_last), encoded], dim=1))


def clip_and_latent_channels(
    latents: torch.Tensor, vae: AutoencoderKLWan, posterior: Any, embeddings: torch.Tensor, has_last: bool = False
) -> ConditionedNoise:
    """2.1 I2V: the posterior's mode, normalized in float32, behind the noise; CLIP embeddings beside the text.

    diffusers conditions on the mode (the mean) here; only AI Toolkit's two pipelines sample the posterior. With a last
    frame the embeddings are those of both frames, one after the other along the tokens.
    """
    encoded = normalize(posterior.mode().to(latents.dtype), vae)
    return ConditionedNoise(
        latents, channels=torch.cat([_temporal_mask(latents, has_last), encoded], dim=1), image_embeddings=embeddings
    )
