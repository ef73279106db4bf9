"""Denoising of one model's generations: reuse of the high-noise steps of the run before, step cache and progress."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from diffusers import WanTransformer3DModel

from wan_ui.engine.compile import CompiledBlocks
from wan_ui.engine.components import Components, build_scheduler
from wan_ui.engine.conditioning import ConditionedNoise, generator_after_noise
from wan_ui.engine.live_picture import WORTH_A_FIT, LatentToRgb, PictureMaker
from wan_ui.engine.lora_slots import LoraSlots
from wan_ui.engine.parallel import Group
from wan_ui.engine.placement import DevicePlacement
from wan_ui.engine.recipes import Recipe, SchedulerSpec
from wan_ui.engine.runtime import Runtime
from wan_ui.engine.sampling import (
    Callbacks,
    DenoisingState,
    Experts,
    ExpertStep,
    Guidance,
    Schedule,
    denoise,
    linear_sigmas,
    old_flow_sigmas,
)
from wan_ui.engine.step_cache import StepCache, step_cache
from wan_ui.engine.timing import RenderProgress, StepEstimate
from wan_ui.errors import SpeedupNotSupported
from wan_ui.render_order import high_noise_part
from wan_ui.request import Generation

log = logging.getLogger(__name__)

BUILDING_NOTE = "The first step also builds this GPU's kernels. They are kept for the next start."


@dataclass(frozen=True)
class HighNoiseRun:
    """The high-noise half of a run, for the next run that shares it.

    `key` is the part of the generation that decides it, `state` its end, `first_step_change` what was measured in it,
    by slot, and `forwards` all and the computed forwards where a step cache counts them.
    """

    key: Hashable
    state: DenoisingState
    first_step_change: Mapping[str, float]
    forwards: tuple[int, int]


@dataclass(frozen=True)
class RenderPlan:
    """How one generation is rendered.

    `boundary` is the share of the 1000 training timesteps where transformers change, or None. `compiled` runs the
    transformers' blocks, or None for eager. `earlier` is the high-noise half that an earlier run left.
    """

    generation: Generation
    recipe: Recipe
    scheduler: SchedulerSpec
    boundary: float | None
    compiled: CompiledBlocks | None
    earlier: HighNoiseRun | None

    @property
    def graphs(self) -> int:
        """How many graphs were compiled so far."""
        return self.compiled.graphs if self.compiled is not None else 0


@dataclass(frozen=True)
class Denoised:
    """What a run's denoising ended with, and what it did.

    `latents` are (1, C, T, h, w). `steps`: `total`, `high_noise` ones among them, and `shared` ones that an earlier
    run had done. `forwards`, of a run with a step cache: the `computed` ones of `total`. `first_step_change`: by slot,
    how much the LoRAs change the first prediction.
    """

    latents: torch.Tensor
    steps: Mapping[str, int]
    forwards: Mapping[str, int]
    first_step_change: Mapping[str, float]


class Denoiser:
    """Denoises with one model's transformers; `high_noise` is the latest run's first half, of a pair."""

    def __init__(self, components: Components, placement: DevicePlacement, loras: LoraSlots, runtime: Runtime) -> None:
        self.high_noise: HighNoiseRun | None = None
        self._components = components
        self._placement = placement
        self._loras = loras
        self._device = runtime.device
        self._runtime = runtime
        self._pictures = runtime.pictures

    def run(self, plan: RenderPlan, noise: ConditionedNoise, guidance: Guidance, progress: RenderProgress) -> Denoised:
        """All steps of a generation, without the high-noise ones where the run before has done the same."""
        with ExitStack() as stack:
            cache = stack.enter_context(step_cache(plan.generation.speedup))
            if (group := self._runtime.group) is not None:
                if cache is not None and group.split.sequence > 1:
                    raise SpeedupNotSupported(
                        "step_cache cannot be combined with a video whose tokens are divided among GPUs: each of them "
                        "would skip other steps. Set speedup to none."
                    )
                guidance = replace(guidance, group=group)
                stack.enter_context(group.divided(list(self._components.transformers.values())))
                if plan.compiled is not None:
                    stack.enter_context(plan.compiled.checked_together(group.all_agree, str(group.split)))
            return self._run(plan, noise, guidance, progress, cache)

    def _run(
        self,
        plan: RenderPlan,
        noise: ConditionedNoise,
        guidance: Guidance,
        progress: RenderProgress,
        cache: StepCache | None,
    ) -> Denoised:
        generation = plan.generation
        key = high_noise_part(generation)
        shared = self._shared(key)
        resume = shared.state if shared is not None else None
        changes = dict(shared.first_step_change) if shared is not None else {}
        if shared is not None and cache is not None:
            cache.forwards, cache.computed = shared.forwards

        def measure(
            transformer: WanTransformer3DModel, prediction: torch.Tensor, recompute: Callable[[], torch.Tensor]
        ) -> None:
            changes.update(self._loras.first_prediction_change(transformer, prediction, recompute))

        def keep(state: DenoisingState) -> None:
            forwards = (0, 0) if cache is None else (cache.forwards, cache.computed)
            self.high_noise = HighNoiseRun(key, state, dict(changes), forwards)

        on_first_prediction = cache.uncounted(measure) if cache is not None else measure
        first = resume.step if resume is not None else 0
        pictures = self._picture_maker(generation, first)
        reporter = StepReporter(plan, progress, first, self._runtime.group, pictures)

        def on_step(step: int) -> None:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            reporter.on_step(step)

        latents = denoise(
            self._experts(plan, cache),
            _schedule(plan, noise),
            noise,
            guidance,
            Callbacks(
                on_step=on_step,
                on_first_prediction=on_first_prediction if generation.first_step_change else None,
                on_switch=keep,
                on_estimate=None if pictures is None else reporter.on_estimate,
                before_prediction=lambda step: self._set_scales(step, cache),
            ),
            resume,
        )
        self._loras.end_steps()
        steps = {"total": generation.sample_steps}
        if self.high_noise is not None and self.high_noise.key == key:
            steps["high_noise"] = self.high_noise.state.step
        if shared is not None and shared is plan.earlier:  # not where the same run was tried again with less memory
            steps["shared"] = shared.state.step
        forwards = {} if cache is None else {"total": cache.forwards, "computed": cache.computed}
        return Denoised(latents, steps, forwards, changes)

    def _shared(self, key: Hashable) -> HighNoiseRun | None:
        """The latest run's high-noise half, where this run's is the same."""
        latest, group = self.high_noise, self._runtime.group
        shared = latest if latest is not None and latest.key == key else None
        if group is not None and not group.all_agree(shared is not None):
            return None  # one that joined lacks these steps, and all must do the same ones
        return shared

    def _picture_maker(self, generation: Generation, first: int) -> PictureMaker | None:
        group = self._runtime.group
        if self._pictures is None or (group is not None and not group.leads):  # the others report to nobody
            return None
        return PictureMaker(self._maps, self._pictures.settings, generation.sample_steps, first)

    def _set_scales(self, step: ExpertStep, cache: StepCache | None) -> None:
        """Sets scales that change over the steps. What a step cache keeps is of the scales before, and is dropped."""
        if self._loras.set_step(step.transformer, step.step, step.steps) and cache is not None:
            cache.enable(step.transformer)

    def _experts(self, plan: RenderPlan, cache: StepCache | None) -> Experts:
        def onload(transformer: WanTransformer3DModel) -> None:
            self._placement.onload(transformer)
            if cache is not None:
                cache.enable(transformer)

        transformers = self._components.transformers
        switch = plan.generation.switch_step if plan.generation.switch_step is not None else plan.boundary
        return Experts(transformers["transformer"], transformers.get("transformer_2"), switch, onload)

    def _maps(self, seconds: float) -> LatentToRgb | None:
        """The maps of the live pictures of a run that takes so long; a long one fits them where there are none yet."""
        pictures, files = self._pictures, self._components.files["vae"].files
        if pictures is None:
            return None
        try:
            return pictures.known(files) if seconds < WORTH_A_FIT else pictures.maps(files, self._components.vae)
        except OSError as error:
            log.warning("the maps of the live pictures cannot be stored: %s", error.strerror)
            return pictures.known(files)


class StepReporter:
    """Reports the steps of one run, each with an estimate of the rest and, where one is due, a live picture."""

    def __init__(
        self, plan: RenderPlan, progress: RenderProgress, first: int, group: Group | None, pictures: PictureMaker | None
    ) -> None:
        """`first` steps were done by an earlier run; `pictures` None makes no live picture."""
        self._plan = plan
        self._progress = progress
        self._group = group
        self._pictures = pictures
        self._estimate = StepEstimate(plan.generation.sample_steps, first)
        self._graphs = plan.graphs
        self._picture: bytes | None = None

    def on_estimate(self, step: int, estimate: Callable[[], torch.Tensor]) -> None:
        """Makes the picture that the next report carries."""
        if self._pictures is None:
            return
        paused = self._pictures.paused
        self._picture = self._pictures.picture(step, estimate)
        self._estimate.leave_out(self._pictures.paused - paused)

    def on_step(self, step: int) -> None:
        """Reports `step` finished steps."""
        plan, estimate, picture = self._plan, self._estimate, self._picture
        self._picture = None
        if plan.graphs > self._graphs:  # the time to build a graph does not predict the steps to come
            estimate.restart(step)
            self._graphs = plan.graphs
        is_building = step == 0 and plan.compiled is not None and not plan.graphs
        note = BUILDING_NOTE if is_building else ""
        if self._group is None:
            self._progress.denoising(estimate, step, note, picture)
        else:
            self._group.together(lambda: self._progress.denoising(estimate, step, note, picture))


def _schedule(plan: RenderPlan, noise: ConditionedNoise) -> Schedule:
    steps, spec = plan.generation.sample_steps, plan.scheduler
    sigmas = None
    if spec.sigmas == "before_0_36":
        sigmas = old_flow_sigmas(steps)
    elif spec.sigmas == "linear":
        sigmas = linear_sigmas(steps)
    generator = None
    if plan.generation.sampler == "lcm":
        generator = generator_after_noise(tuple(noise.latents.shape), plan.generation.seed)
    return Schedule(build_scheduler(spec.class_name, spec.config or {}), steps, sigmas, generator)
