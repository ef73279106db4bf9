"""The denoising loop of every row, over diffusers' transformers and schedulers; it knows no files, no LoRA, no VAE."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from diffusers import SchedulerMixin, WanTransformer3DModel

from wan_ui.engine.conditioning import Start
from wan_ui.engine.parallel import Group
from wan_ui.engine.timesteps import embedded_once
from wan_ui.models import NUM_TRAIN_TIMESTEPS


@dataclass(frozen=True)
class Guidance:
    """Text embeddings (1, 512, width) in the transformer's dtype; `negative` is None when scale is 1 or less.

    `group`: the GPUs that share the prediction; with a guidance split each of them makes one half of it.
    """

    positive: torch.Tensor
    negative: torch.Tensor | None
    scale: float
    group: Group | None = None


@dataclass(frozen=True)
class Experts:
    """The transformers at work: `high` while t ≥ boundary × 1000, else `low`; without a boundary always `high`.

    `enter` is called before a transformer's first step in a row, to bring it onto the device.
    """

    high: WanTransformer3DModel
    low: WanTransformer3DModel | None
    boundary: float | None
    enter: Callable[[WanTransformer3DModel], None]

    def at(self, timestep: torch.Tensor) -> WanTransformer3DModel:
        """The transformer of one timestep (0-dim)."""
        if self.low is None or self.boundary is None or timestep >= self.boundary * NUM_TRAIN_TIMESTEPS:
            return self.high
        return self.low


Probe = Callable[[WanTransformer3DModel, torch.Tensor, Callable[[], torch.Tensor]], None]
"""Told a transformer's first conditional prediction of a run, with a way to compute it again."""


def predict(
    transformer: WanTransformer3DModel,
    start: Start,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    guidance: Guidance,
    probe: Probe | None = None,
) -> torch.Tensor:
    """The guided velocity at one timestep, (1, C, T, h, w) in the transformer's dtype.

    `latents` are the model-dtype input without appended channels. Guidance: uncond + scale × (cond − uncond).
    """
    if start.channels is not None:
        latents = torch.cat([latents, start.channels], dim=1)
    hidden = latents.to(guidance.positive.dtype)
    tokens = start.tokens
    steps = timestep.expand(1) if tokens is None else tokens.at(timestep)

    def forward(text: torch.Tensor, half: str) -> torch.Tensor:
        with (
            nullcontext() if tokens is None else embedded_once(transformer, tokens, timestep),
            # A step cache keeps each half's own past; without one there is nothing to be told.
            transformer.cache_context(half) if transformer.is_cache_enabled else nullcontext(),
        ):
            prediction: torch.Tensor = transformer(
                hidden_states=hidden,
                timestep=steps,
                encoder_hidden_states=text,
                encoder_hidden_states_image=start.image,
                return_dict=False,
            )[0]
        return prediction

    group = guidance.group
    if guidance.negative is not None and group is not None and group.split.guidance == 2:
        own = forward(guidance.negative, "uncond") if group.half else forward(guidance.positive, "cond")
        cond, uncond = group.exchange(own)
        if probe is not None:
            probe(transformer, cond, lambda: forward(guidance.positive, "probe"))
        return uncond + guidance.scale * (cond - uncond)
    cond = forward(guidance.positive, "cond")
    if probe is not None:
        probe(transformer, cond, lambda: forward(guidance.positive, "probe"))
    if guidance.negative is None:
        return cond
    uncond = forward(guidance.negative, "uncond")
    return uncond + guidance.scale * (cond - uncond)


def old_flow_sigmas(steps: int) -> npt.NDArray[np.float64]:
    """UniPC's flow sigmas of diffusers up to 0.35, before the shift: from 0.999 down, the closing 0 left out."""
    return np.flip(1.0 - np.linspace(1, 1 / NUM_TRAIN_TIMESTEPS, steps + 1))[:-1].copy()


@dataclass(frozen=True)
class DenoisingState:
    """A run before its first low-noise step: what was done so far, for runs that differ only from here on."""

    step: int
    latents: torch.Tensor
    scheduler: SchedulerMixin


def set_timesteps(
    scheduler: SchedulerMixin, steps: int, device: torch.device, sigmas: npt.NDArray[np.float64] | None = None
) -> None:
    """The scheduler's timesteps and sigmas for a run; only a scheduler that is given sigmas takes them."""
    if sigmas is None:
        scheduler.set_timesteps(steps, device=device)
    else:
        scheduler.set_timesteps(device=device, sigmas=sigmas)


def denoise(
    experts: Experts,
    scheduler: SchedulerMixin,
    steps: int,
    start: Start,
    guidance: Guidance,
    on_step: Callable[[int], None],
    probe: Probe | None = None,
    midway: DenoisingState | None = None,
    on_midway: Callable[[DenoisingState], None] | None = None,
    sigmas: npt.NDArray[np.float64] | None = None,
) -> torch.Tensor:
    """Latents (1, C, T, h, w) after all steps.

    `on_step` is called with the number of finished steps, before the first and after each; what it raises ends the
    loop. Text-to-video latents stay float32 between UniPC steps; only the transformer's input is cast.
    `sigmas`, before the shift, take the place of the scheduler's own.
    `on_midway` is told the state at the change of transformers; `midway` continues from such a state, bit for bit.
    """
    if midway is None:
        set_timesteps(scheduler, steps, start.latents.device, sigmas)
        scheduler.set_begin_index(0)
        latents, first = start.latents, 0
    else:
        scheduler, latents, first = deepcopy(midway.scheduler), midway.latents, midway.step
    dtype = guidance.positive.dtype
    working: WanTransformer3DModel | None = None
    for index, timestep in enumerate(scheduler.timesteps[first:], start=first):
        on_step(index)
        transformer = experts.at(timestep)
        entering = transformer is not working
        if entering:
            if working is not None and on_midway is not None:
                on_midway(DenoisingState(index, latents, deepcopy(scheduler)))
            experts.enter(transformer)
            working = transformer
        before = latents.to(dtype) if start.mask is not None else latents
        velocity = predict(transformer, start, before, timestep, guidance, probe if entering else None)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        if start.mask is not None:
            latents = before * (1 - start.mask) + latents * start.mask
    on_step(steps)
    return latents
