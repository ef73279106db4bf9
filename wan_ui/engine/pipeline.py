"""One loaded Wan model: renders a generation from its conditions over noise and denoising to decoded frames."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from wan_ui.engine import attention, budget
from wan_ui.engine.budget import PlacementMode, Sizes
from wan_ui.engine.compile import CompiledBlocks
from wan_ui.engine.components import Components
from wan_ui.engine.core import FrameImages, Report, Storage
from wan_ui.engine.decoding import decode
from wan_ui.engine.denoiser import Denoised, Denoiser, RenderPlan
from wan_ui.engine.encoding import ConditionEncoder
from wan_ui.engine.lora_slots import LoraSlots
from wan_ui.engine.memory import is_out_of_memory, out_of_memory_mapped, release
from wan_ui.engine.metadata import device_name, sampling_facts, versions
from wan_ui.engine.placement import DevicePlacement, retry_with_less_memory
from wan_ui.engine.recipes import RECIPES, SchedulerSpec, chosen_scheduler
from wan_ui.engine.result import Clip, OnProgress
from wan_ui.engine.runtime import Runtime
from wan_ui.engine.timing import RenderProgress
from wan_ui.engine.weights import TransformerWeights
from wan_ui.errors import CheckpointIncomplete
from wan_ui.lora.library import LoraFile
from wan_ui.models import WanModel
from wan_ui.request import Generation
from wan_ui.scale import Scale

log = logging.getLogger(__name__)


class WanPipeline:
    """A loaded model. Implements core.Pipeline; a method that fails leaves that part as the base model."""

    def __init__(
        self,
        model: WanModel,
        components: Components,
        placement: DevicePlacement,
        runtime: Runtime,
        sizes: Sizes,
        facts: Mapping[str, Any],
    ) -> None:
        """`sizes` are the bytes of its parts in memory; `facts` say in the metadata which files it was loaded from."""
        self._model = model
        self._components = components
        self._placement = placement
        self._runtime = runtime
        self._sizes = sizes
        self._checkpoint_facts = facts
        self._weights = TransformerWeights(components, placement, runtime)
        self._loras = LoraSlots(model, components, placement, runtime)
        self._encoder = ConditionEncoder(model, components, placement, runtime)
        self._denoiser = Denoiser(components, placement, self._loras, runtime)
        self._compiled: CompiledBlocks | None = None
        self._attention = attention.kernel(components.transformers["transformer"], runtime.device, runtime.dtype)
        self._hooks = [
            transformer.register_forward_pre_hook(partial(_count, runtime.forwards, name))
            for name, transformer in components.transformers.items()
        ]

    @property
    def components(self) -> Components:
        """The loaded parts."""
        return self._components

    def cast(self, whole_bf16: bool) -> None:
        """On CUDA, casts the whole transformers to bfloat16, or restores their float32 parts exactly."""
        self._weights.cast(whole_bf16)

    def attach(self, slot: str, files: tuple[LoraFile, ...], unfused: frozenset[str]) -> None:
        """Attaches these files' layers of the unfused kinds as adapters, and no others."""
        transformer = self._loras.attach(slot, files, unfused)
        if self._compiled is not None:
            self._compiled.adapters_changed(transformer)

    def merge(self, slot: str, files: tuple[tuple[LoraFile, float], ...], unfused: frozenset[str]) -> None:
        """Merges these files' other layers in float32 into the slot's transformer, and no others."""
        self._loras.merge(slot, files, unfused)

    def set_scales(self, slot: str, scales: Mapping[str, Scale]) -> None:
        """Sets the scales of the slot's adapters, by SHA-256."""
        self._loras.set_scales(slot, scales)

    def effect(self, slot: str) -> Mapping[str, Report]:
        """What each file on the slot does now, by SHA-256."""
        return self._loras.report(slot)

    def store(self, storage: Storage, generation: Generation) -> None:
        """Packs the transformers' weights, merges included, for good; more of the model may fit on the GPU then."""
        was_exact = self._weights.storage == "exact"
        self._loras.keep_merges()
        with out_of_memory_mapped():
            self._weights.pack(storage)
            release(self._runtime.device)
            if was_exact:
                self._sizes = budget.packed_sizes(self._sizes)
            self._change_mode(self._runtime.memory.decide(self._model, self._sizes, generation))

    @torch.no_grad()
    def render(self, generation: Generation, images: FrameImages, on_progress: OnProgress) -> Clip:
        """One clip. A cancel raised by on_progress ends it between two steps, before the decode."""
        progress = RenderProgress(on_progress, lambda: self._placement.note)
        with out_of_memory_mapped():
            plan = self._prepare(generation)
            denoised = retry_with_less_memory(
                lambda: self._denoise(plan, images, progress), self._placement, self._may_denoise_again
            )
            mode = self._placement.mode
            with progress.phase("decode"):
                progress.decoding(generation.sample_steps, 0.0)
                self._placement.offload_transformers()
                group = self._runtime.group
                if group is None or group.leads:
                    frames, tiled = self._decode(denoised.latents, generation, progress)
                else:  # the leader's frames are the video's
                    frames, tiled = np.empty((0, generation.height, generation.width, 3), np.uint8), False
        return Clip(
            frames=frames,
            width=generation.width,
            height=generation.height,
            num_frames=frames.shape[0],
            fps=generation.fps,
            seed=generation.seed,
            metadata={
                **sampling_facts(plan),
                **self._facts(mode),
                "seconds": dict(progress.seconds),
                "device": device_name(self._runtime.device),
                "versions": versions(),
                **deepcopy(dict(self._checkpoint_facts)),
                "tiled": tiled,
                "speedup": generation.speedup,
                **({} if self._runtime.group is None else {"split": str(self._runtime.group.split)}),
                "steps": dict(denoised.steps),
                **({"forwards": dict(denoised.forwards)} if denoised.forwards else {}),
                "first_step_change": dict(denoised.first_step_change),
            },
        )

    def take_components(self) -> Components:
        """The base model's parts, for the next model; this pipeline cannot be used afterwards.

        Packed transformers are not part of the base model, and are left out.
        """
        components = self._components
        if self._weights.storage == "exact":
            self._loras.remove_all()
            self._weights.cast(False)
        else:
            components = replace(components, transformers={})
        for hook in self._hooks:
            hook.remove()
        self._use_compiled(None)
        self._placement.close()
        self._drop_parts()
        return components

    def close(self) -> None:
        """Frees the model's memory; this pipeline cannot be used afterwards."""
        self._placement.close()
        self._drop_parts()
        release(self._runtime.device)

    def _drop_parts(self) -> None:
        """Deletes every reference to the parts: a caller may still hold this object while the next model is loaded."""
        del self._components, self._placement, self._weights, self._loras, self._encoder, self._denoiser

    def _prepare(self, generation: Generation) -> RenderPlan:
        """Makes room for a generation, switches to its arithmetic, and settles how it is sampled."""
        memory, recipe = self._runtime.memory, RECIPES[generation.recipe]
        self._change_mode(memory.tightened(self._placement.mode, self._model, self._sizes, generation))
        self._placement.reserve(budget.render_bytes(self._model, generation, generation.vae_tiling))
        self._use_compiled(self._runtime.compiler.of(recipe))
        return RenderPlan(
            generation=generation,
            recipe=recipe,
            scheduler=self._scheduler(generation),
            boundary=self._boundary(generation),
            compiled=self._compiled,
            earlier=self._denoiser.high_noise,
        )

    def _denoise(self, plan: RenderPlan, images: FrameImages, progress: RenderProgress) -> Denoised:
        """From prompt, first frame and seed to denoised latents."""
        with progress.phase("text"):
            guidance = self._encoder.guidance(plan.generation, lambda: progress.report("text"))
        with progress.phase("image"):
            if plan.generation.image is not None:
                progress.report("image")
            noise = self._encoder.noise(plan.generation, images)
        if self._runtime.group is not None:  # others may still load the model, which does not count as denoising
            self._runtime.group.meet(lambda: progress.report("image" if images else "text"))
        with progress.phase("denoise"):
            return self._denoiser.run(plan, noise, guidance, progress)

    def _decode(
        self, latents: torch.Tensor, generation: Generation, progress: RenderProgress
    ) -> tuple[npt.NDArray[np.uint8], bool]:
        """The frames, and whether they were decoded in tiles: as asked for, or because memory ran out."""
        vae, tiled = self._components.vae, generation.vae_tiling
        on_fraction = None  # the processes of a group must not be ended at different frames
        if self._runtime.group is None:
            on_fraction = partial(progress.decoding, generation.sample_steps)
        try:
            # In all modes but `resident` the VAE has the device to itself by now, so tightening would free nothing.
            frames = retry_with_less_memory(
                lambda: decode(vae, latents, tiled, on_fraction),
                self._placement,
                lambda: self._placement.is_resident and self._may_tighten(),
            )
            return frames, tiled
        except RuntimeError as error:
            if tiled or not is_out_of_memory(error):
                raise
            log.warning("out of GPU memory while decoding whole frames, decoding in tiles: %s", str(error))
        release(self._runtime.device)
        return decode(vae, latents, True, on_fraction), True

    def _change_mode(self, mode: PlacementMode) -> None:
        if mode != self._placement.mode:
            self._placement.change(mode)

    def _may_tighten(self) -> bool:
        return self._runtime.memory.may_tighten(self._placement.mode, self._sizes)

    def _may_denoise_again(self) -> bool:
        """As _may_tighten, for the denoising: the GPUs of a group are at one step, and none of them can begin anew."""
        return self._runtime.group is None and self._may_tighten()

    def _use_compiled(self, compiled: CompiledBlocks | None) -> None:
        """Runs the transformers' blocks through these graphs from now on; None: eagerly."""
        for transformer in self._components.transformers.values():
            if self._compiled is not None and self._compiled is not compiled:
                self._compiled.remove(transformer)
            if compiled is not None:
                compiled.install(transformer)
        self._compiled = compiled

    def _scheduler(self, generation: Generation) -> SchedulerSpec:
        """The generation's scheduler, with the checkpoint's config where the recipe has none."""
        recipe, config = RECIPES[generation.recipe], self._components.scheduler_config
        spec = chosen_scheduler(self._model, recipe, generation.sampler, generation.flow_shift, config)
        if spec.config is None:
            raise CheckpointIncomplete(f"{self._model.label} needs the checkpoint's scheduler, and there is none.")
        return spec

    def _boundary(self, generation: Generation) -> float | None:
        if generation.boundary is not None:
            return generation.boundary
        boundary = self._model.boundary[generation.recipe]
        return self._components.boundary_ratio if boundary == "checkpoint" else boundary

    def _facts(self, mode: PlacementMode) -> Mapping[str, Any]:
        """Dtype, memory mode and kernels, for the clip's metadata."""
        transformers = self._components.transformers.values()
        return {
            "dtype": str(self._runtime.dtype).removeprefix("torch."),
            "memory": mode,
            "arithmetic": self._compiled.arithmetic_of(transformers) if self._compiled is not None else "eager",
            "attention": self._attention,
        }


def _count(forwards: Counter[str], name: str, module: torch.nn.Module, arguments: Any) -> None:
    forwards[name] += 1
