"""The denoising loop of all Wan models, over diffusers' transformers and schedulers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from diffusers import SchedulerMixin, WanTransformer3DModel

from wan_ui.engine.conditioning import ConditionedNoise
from wan_ui.engine.parallel import Group
from wan_ui.engine.timesteps import embedded_once
from wan_ui.models import NUM_TRAIN_TIMESTEPS


@dataclass(frozen=True)
class Guidance:
    """Text embeddings (1, 512, width) in the transformer's dtype; `negative` is None when no scale is above 1.

    `low_scale` is that of the low-noise transformer of a pair; None: the same as `scale`. `group` are the GPUs that
    share the prediction; with a guidance split each of them makes one half of it.
    """

    positive: torch.Tensor
    negative: torch.Tensor | None
    scale: float
    low_scale: float | None = None
    group: Group | None = None

    def of_expert(self, is_low: bool) -> Guidance:
        """The guidance of one transformer of a pair, which runs without guidance at a scale of 1 or less.

        diffusers' pipelines decide by the first scale alone: at 1 and 4 they ignore the second, at 4 and 1 they compute
        negative predictions that change nothing.
        """
        scale = self.low_scale if is_low and self.low_scale is not None else self.scale
        return Guidance(self.positive, self.negative if scale > 1 else None, scale, group=self.group)


@dataclass(frozen=True)
class Experts:
    """The transformers: `high` first, then `low`; without `low` or `switch` always `high`.

    `switch` is where they change: a ratio (float), `high` while t ≥ switch × 1000, or a number of `high`'s steps (int).
    `onload` is called with a transformer before its first step, to bring it onto the device.
    """

    high: WanTransformer3DModel
    low: WanTransformer3DModel | None
    switch: float | int | None
    onload: Callable[[WanTransformer3DModel], None]

    def at(self, step: int, timestep: torch.Tensor) -> WanTransformer3DModel:
        """The transformer of one step (from 0) and its timestep (0-dim, 0…1000)."""
        # Wan 2.2's mixture of two experts: the signal-to-noise ratio at the boundary separates layout (high noise)
        # from detail (low noise). The boundary is a share of the training timesteps, such as 0.875 × 1000 = 875.
        if self.low is None or self.switch is None:
            return self.high
        if isinstance(self.switch, int):
            return self.high if step < self.switch else self.low
        return self.high if timestep >= self.switch * NUM_TRAIN_TIMESTEPS else self.low

    def schedule(self, timesteps: torch.Tensor) -> list[ExpertStep]:
        """Each step's transformer, with the step's number (from 0) among that transformer's own steps."""
        transformers = [self.at(step, timestep) for step, timestep in enumerate(timesteps)]
        totals, done = Counter(map(id, transformers)), Counter[int]()
        steps = []
        for transformer in transformers:
            steps.append(ExpertStep(transformer, done[id(transformer)], totals[id(transformer)]))
            done[id(transformer)] += 1
        return steps


@dataclass(frozen=True)
class ExpertStep:
    """Step `step` (from 0) of the `steps` that `transformer` makes in a run."""

    transformer: WanTransformer3DModel
    step: int
    steps: int


OnFirstPrediction = Callable[[WanTransformer3DModel, torch.Tensor, Callable[[], torch.Tensor]], None]
"""Called with a transformer, its first conditional prediction in a run, and a function that recomputes it."""


@dataclass(frozen=True)
class DenoisingState:
    """A run before its first low-noise step, for runs that differ only from there on.

    `step` steps are done; `latents` (1, C, T, h, w), the scheduler with its history of predictions, and the state of
    the random generator of a sampler that adds noise.
    """

    step: int
    latents: torch.Tensor
    scheduler: SchedulerMixin
    generator: torch.Tensor | None = None


@dataclass(frozen=True)
class Schedule:
    """How many steps a scheduler takes. `sigmas`, before the shift, replace the scheduler's own.

    `generator` gives the noise that LCM adds after each step.
    """

    scheduler: SchedulerMixin
    steps: int
    sigmas: npt.NDArray[np.float64] | None = None
    generator: torch.Generator | None = None


@dataclass(frozen=True)
class Callbacks:
    """Functions called during the loop; what one raises ends it.

    `on_step` gets the number of finished steps, before the first and after each. `on_switch` gets the state at the
    change from the high-noise to the low-noise transformer. `before_prediction` gets each step before its forwards, to
    set what changes from step to step. `on_estimate` gets, after each step and before `on_step`, the number of finished
    steps and a function that computes the estimated clean latents, (1, C, T, h, w).
    """

    on_step: Callable[[int], None]
    on_first_prediction: OnFirstPrediction | None = None
    on_switch: Callable[[DenoisingState], None] | None = None
    before_prediction: Callable[[ExpertStep], None] | None = None
    on_estimate: Callable[[int, Callable[[], torch.Tensor]], None] | None = None


def clean_estimate(
    latents: torch.Tensor, velocity: torch.Tensor, sigma: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """The clean latents that a prediction at σ implies, float32: x₀ = x_t − σ·v; given latents (mask 0) as they are."""
    clean = latents.float() - sigma.to(latents.device, torch.float32) * velocity.float()
    return clean if mask is None else latents * (1 - mask) + clean * mask


def predict(
    transformer: WanTransformer3DModel,
    start: ConditionedNoise,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    guidance: Guidance,
    on_first_prediction: OnFirstPrediction | None = None,
) -> torch.Tensor:
    """The guided velocity at one timestep, (1, C, T, h, w) in the transformer's dtype.

    `latents` are the model-dtype input without appended channels.
    """
    if start.channels is not None:
        latents = torch.cat([latents, start.channels], dim=1)  # (1, 16 + 20, T, h, w) of the 14B I2V models
    hidden = latents.to(guidance.positive.dtype)
    tokens = start.tokens
    steps = timestep.expand(1) if tokens is None else tokens.at(timestep)

    def forward(text: torch.Tensor, cache_context: str) -> torch.Tensor:
        with (
            nullcontext() if tokens is None else embedded_once(transformer, tokens, timestep),
            # A step cache compares each forward with the previous one of the same context.
            transformer.cache_context(cache_context) if transformer.is_cache_enabled else nullcontext(),
        ):
            prediction: torch.Tensor = transformer(
                hidden_states=hidden,
                timestep=steps,
                encoder_hidden_states=text,
                encoder_hidden_states_image=start.image_embeddings,
                return_dict=False,
            )[0]
        return prediction

    if guidance.negative is not None and guidance.group is not None and guidance.group.split.guidance == 2:
        is_second = guidance.group.half == 1
        own = forward(guidance.negative, "uncond") if is_second else forward(guidance.positive, "cond")
        cond, uncond = guidance.group.exchange(own)
        if on_first_prediction is not None:
            on_first_prediction(transformer, cond, lambda: forward(guidance.positive, "probe"))
        return uncond + guidance.scale * (cond - uncond)
    cond = forward(guidance.positive, "cond")
    if on_first_prediction is not None:
        on_first_prediction(transformer, cond, lambda: forward(guidance.positive, "probe"))
    if guidance.negative is None:
        return cond
    # Classifier-free guidance (Ho & Salimans, 2022), on velocities: v = v_uncond + s × (v_cond − v_uncond).
    uncond = forward(guidance.negative, "uncond")
    return uncond + guidance.scale * (cond - uncond)


def old_flow_sigmas(steps: int) -> npt.NDArray[np.float64]:
    """UniPC's flow sigmas of diffusers up to 0.35, before the shift: (steps,), from 0.999 down, the final 0 left out.

    σ_i = 1 − x_i with x linear from 1 to 1/1000 in steps + 1 values, reversed. diffusers 0.36 starts at 1 instead.
    """
    return np.flip(1.0 - np.linspace(1, 1 / NUM_TRAIN_TIMESTEPS, steps + 1))[:-1].copy()


def linear_sigmas(steps: int) -> npt.NDArray[np.float64]:
    """σ_i = 1 − i / steps for i = 0 … steps − 1, before the shift."""
    return 1.0 - np.arange(steps) / steps


def set_timesteps(
    scheduler: SchedulerMixin, steps: int, device: torch.device, sigmas: npt.NDArray[np.float64] | None = None
) -> None:
    """Sets the scheduler's timesteps and sigmas for a run; `sigmas` (steps,) replace its own where given.

    The scheduler applies its shift to either: σ' = shift × σ / (1 + (shift − 1) × σ), and t = 1000 × σ'.
    """
    if sigmas is None:
        scheduler.set_timesteps(steps, device=device)
    else:
        scheduler.set_timesteps(device=device, sigmas=sigmas)


def denoise(
    experts: Experts,
    schedule: Schedule,
    start: ConditionedNoise,
    guidance: Guidance,
    callbacks: Callbacks,
    resume: DenoisingState | None = None,
) -> torch.Tensor:
    """Denoised latents, (1, C, T, h, w).

    The latents keep the dtype of the start between steps (float32: UniPC's history would otherwise be rounded at
    every step); only the transformer's input is cast. `resume` continues from a state that `on_switch` received, with
    the same bits as an uninterrupted run.
    """
    if resume is None:
        scheduler = schedule.scheduler
        set_timesteps(scheduler, schedule.steps, start.latents.device, schedule.sigmas)
        scheduler.set_begin_index(0)
        latents, first = start.latents, 0
        state = None if schedule.generator is None else schedule.generator.get_state()
    else:
        scheduler, latents, first = deepcopy(resume.scheduler), resume.latents, resume.step
        state = resume.generator
    noise = {} if schedule.generator is None else {"generator": schedule.generator}
    if schedule.generator is not None and state is not None:
        schedule.generator.set_state(state)
    dtype = guidance.positive.dtype
    current: WanTransformer3DModel | None = None
    expert_steps = experts.schedule(scheduler.timesteps)
    for index, timestep in enumerate(scheduler.timesteps[first:], start=first):
        callbacks.on_step(index)
        transformer = expert_steps[index].transformer
        is_first = transformer is not current
        if is_first:
            if current is not None and callbacks.on_switch is not None:
                drawn = None if schedule.generator is None else schedule.generator.get_state()
                callbacks.on_switch(DenoisingState(index, latents, deepcopy(scheduler), drawn))
            experts.onload(transformer)
            current = transformer
        if callbacks.before_prediction is not None:
            callbacks.before_prediction(expert_steps[index])
        before = latents.to(dtype) if start.mask is not None else latents
        on_first_prediction = callbacks.on_first_prediction if is_first else None
        own_guidance = guidance.of_expert(transformer is experts.low)
        velocity = predict(transformer, start, before, timestep, own_guidance, on_first_prediction)
        # Flow matching: x_t = (1 − σ) × x_0 + σ × noise and v = noise − x_0; the scheduler integrates dx/dσ = v.
        estimate = partial(clean_estimate, latents, velocity, scheduler.sigmas[index], start.mask)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False, **noise)[0]
        if start.mask is not None:
            # AI Toolkit's rule for 5B: given latents (mask 0) stay as they were, the others move.
            latents = before * (1 - start.mask) + latents * start.mask
        if callbacks.on_estimate is not None:
            callbacks.on_estimate(index + 1, estimate)
    callbacks.on_step(schedule.steps)
    return latents
