"""Encoders: prompts into text embeddings, a first frame into latents and CLIP embeddings, each computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from PIL import Image

from wan_ui.engine import conditioning
from wan_ui.engine.clip_image import clip_pixels
from wan_ui.engine.components import Components
from wan_ui.engine.conditioning import ConditionedNoise
from wan_ui.engine.core import FrameImages
from wan_ui.engine.placement import DevicePlacement
from wan_ui.engine.runtime import Runtime
from wan_ui.engine.sampling import Guidance
from wan_ui.errors import CheckpointIncomplete
from wan_ui.media.image import fit
from wan_ui.models import WanModel
from wan_ui.request import Generation

MAX_SEQUENCE_LENGTH = 512  # tokens, the default of diffusers' Wan pipelines

EncodeFrames = Callable[[AutoencoderKLWan, Sequence[Image.Image], int], Any]


class ConditionEncoder:
    """Encodes what a model's generations are conditioned on, through the engine's caches."""

    def __init__(self, model: WanModel, components: Components, placement: DevicePlacement, runtime: Runtime) -> None:
        self._model = model
        self._components = components
        self._placement = placement
        self._device = runtime.device
        self._dtype = runtime.dtype
        self._prompts = runtime.prompts
        self._frames = runtime.frames

    def guidance(self, generation: Generation, on_encode: Callable[[], None]) -> Guidance:
        """The prompts' embeddings; `on_encode` is called where the text encoder has to run."""
        # The negative prompt matters only to guidance, which a scale of 1 or less turns off.
        wanted = (generation.prompt, generation.neg) if generation.is_guided else (generation.prompt,)
        missing = self._prompts.missing(wanted)
        if missing:
            on_encode()
            with self._placement.text_encoder_onloaded() as device:
                for prompt in missing:
                    self._prompts.add(prompt, self._encode_text(prompt, device))
        return Guidance(
            positive=self._prompts.get(generation.prompt, self._device).to(self._dtype),
            negative=self._prompts.get(generation.neg, self._device).to(self._dtype) if generation.is_guided else None,
            scale=generation.guidance_scale,
            low_scale=generation.guidance_scale_2,
        )

    def noise(self, generation: Generation, images: FrameImages) -> ConditionedNoise:
        """The seed's noise, conditioned on the first and the last frame in the model's way."""
        # The checkpoint's channels, not the table's: the demo's VAEs have fewer.
        channels, spatial = self._components.vae.config.z_dim, self._model.spatial_compression
        shape = conditioning.latent_shape(channels, spatial, generation.num_frames, generation.height, generation.width)
        noise = conditioning.noise(shape, generation.seed, self._device)
        if not images:
            return conditioning.from_text(noise, masked=self._model.expand_timesteps)
        vae, seed, has_last = self._components.vae, generation.seed, len(images) > 1
        match self._model.conditioning:
            case "first_latent":
                posterior = self._posterior(generation, images, 1, conditioning.encode_frames)
                return conditioning.first_latent(noise, vae, posterior, self._dtype, seed)
            case "latent_channels":
                posterior = self._posterior(generation, images, generation.num_frames, conditioning.encode_frames)
                return conditioning.latent_channels(noise, vae, posterior, self._dtype, seed=seed, has_last=has_last)
            case "clip_and_latent_channels":
                encode = conditioning.encode_frames_in_float32
                posterior = self._posterior(generation, images, generation.num_frames, encode)
                hashes = (generation.image, generation.image_last)
                both = [
                    self._clip_embeddings(generation, image, key) for image, key in zip(images, hashes, strict=False)
                ]
                embeddings = torch.cat(both, dim=1).to(self._dtype)
                return conditioning.clip_and_latent_channels(noise, vae, posterior, embeddings, has_last)
            case "text":
                raise AssertionError(f"{self._model.id} takes no first frame, and resolve() refuses one")

    def _encode_text(self, prompt: str, device: torch.device) -> torch.Tensor:
        """UMT5's last hidden state, (1, 512, width), with zeros after the prompt's last token."""
        tokens = self._components.tokenizer(
            [prompt_clean(prompt)],
            padding="max_length",
            max_length=MAX_SEQUENCE_LENGTH,
            truncation=True,
            add_special_tokens=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        mask = tokens.attention_mask
        embeddings = self._components.text_encoder(tokens.input_ids.to(device), mask.to(device)).last_hidden_state
        length = int(mask.gt(0).sum())
        # Padding is zeroed and not masked: the transformer attends to all 512 positions, as it was trained.
        padding = embeddings.new_zeros(1, MAX_SEQUENCE_LENGTH - length, embeddings.shape[2])
        return torch.cat([embeddings[:, :length], padding], dim=1)

    def _posterior(self, generation: Generation, images: FrameImages, num_frames: int, encode: EncodeFrames) -> Any:
        """The VAE's posterior of a clip with these frames, once per images and size."""
        size = (generation.width, generation.height)
        return self._frames.get(
            ("vae", generation.image, generation.image_last, *size, num_frames),
            lambda: encode(self._components.vae, [fit(image, *size) for image in images], num_frames),
        )

    def _clip_embeddings(self, generation: Generation, image: Image.Image, key: str | None) -> torch.Tensor:
        """CLIP's embeddings of a frame, once per image (its SHA-256 is `key`) and size."""
        size = (generation.width, generation.height)
        embeddings: torch.Tensor = self._frames.get(("clip", key, *size), lambda: self._encode_image(fit(image, *size)))
        return embeddings

    def _encode_image(self, image: Image.Image) -> torch.Tensor:
        """CLIP's hidden states before the last layer, (1, tokens, width)."""
        processor, encoder = self._components.image_processor, self._components.image_encoder
        if processor is None or encoder is None:
            raise CheckpointIncomplete(f"{self._model.label} needs an image encoder, and the checkpoint has none.")
        pixels = clip_pixels(processor, image, self._device)
        embeddings: torch.Tensor = encoder(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
        return embeddings
