"""Loads one model at a time onto a device, reusing what the model before it has in common with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from wan_ui.checkpoints.bases import Base
from wan_ui.checkpoints.folders import Component
from wan_ui.checkpoints.modules import map_packed, open_file
from wan_ui.checkpoints.quantization import FP8
from wan_ui.checkpoints.sources import CheckpointSources, base_of, report
from wan_ui.engine import budget
from wan_ui.engine.budget import Fp8Weights, MemoryPlan, PlacementMode, Sizes
from wan_ui.engine.caches import FrameCache, PromptCache
from wan_ui.engine.compile import BlockCompiler
from wan_ui.engine.components import (
    MODULES,
    TRANSFORMERS,
    Components,
    LoadStatistics,
    Target,
    component_bytes,
    load_components,
    model_dtype,
    same_parts,
)
from wan_ui.engine.core import Pipeline, storage
from wan_ui.engine.kernels.ahead import built_ahead
from wan_ui.engine.live_picture import LivePictures
from wan_ui.engine.memory import MemoryPolicy, out_of_memory_mapped, release
from wan_ui.engine.parallel import Membership
from wan_ui.engine.pipeline import WanPipeline
from wan_ui.engine.placement import DevicePlacement
from wan_ui.engine.prefetch import Prefetcher
from wan_ui.engine.result import OnProgress
from wan_ui.engine.runtime import Runtime
from wan_ui.engine.vae import use_kernels
from wan_ui.errors import BaseNotFound, HostError
from wan_ui.models import WanModel
from wan_ui.request import Generation

CONVERTED = 1.5  # times the size in memory: files that are larger hold another dtype


class Loader:
    """Loads models and prefetches the next one's files.

    `statistics` count what was read, `forwards` the transformers' forwards; `prefetcher` is the one at work, if any.
    """

    def __init__(
        self,
        sources: CheckpointSources,
        memory: MemoryPolicy,
        compiler: BlockCompiler,
        fp8_weights: Fp8Weights = "auto",
        membership: Membership | None = None,
        pictures: LivePictures | None = None,
    ) -> None:
        self.compiler = compiler
        self.memory = memory
        self.statistics = LoadStatistics()
        self.prefetcher: Prefetcher | None = None
        self.prompts = PromptCache()
        self.frames = FrameCache()
        self.forwards: Counter[str] = Counter()
        self._sources = sources
        self._fp8_weights = fp8_weights
        self._membership = membership or Membership()
        self._pictures = pictures
        self._device: torch.device = memory.device
        self._prefetched: str | None = None
        self._is_packed = False
        self._loaded_files: Mapping[str, Component] = {}

    def load(
        self, model: WanModel, generation: Generation, previous: Pipeline | None, on_progress: OnProgress
    ) -> WanPipeline:
        """A model ready to render the generation. Parts with the same files as before are reused, the rest freed first.

        Raises CheckpointNotFound, CheckpointIncomplete, DiskFull or OutOfMemory.
        """
        self.stop_prefetch()
        sourced = self._sources.fetch(model, base_of(generation.base), on_progress)
        files = sourced.components
        reused = (
            same_parts(self._sources.folders, previous.take_components(), files)
            if isinstance(previous, WanPipeline)
            else {}
        )
        if "text_encoder" not in reused:
            self.prompts.clear()
        self.frames.clear()
        release(self._device)
        plan, sizes = self._plan(model, files, generation)
        if plan.fp8_in_memory != self._is_packed:  # what is reused has the other form
            reused = {name: part for name, part in reused.items() if not is_fp8(files[name])}
            self._is_packed = plan.fp8_in_memory
        self._check_host(plan.mode, plan.on_host(sizes), files, reused, generation)
        on_host = DevicePlacement.on_host(plan.mode)
        target = Target(self._device, model_dtype(self._device), on_host, plan.fp8_in_memory)
        with out_of_memory_mapped():
            with self._kernels_built_ahead(model):
                components = load_components(files, target, reused, self.memory.has_host_room, on_progress)
            use_kernels(components.vae)
            self.statistics = self.statistics.after(files, reused)
            self._loaded_files = files
            placement = DevicePlacement(
                plan.mode,
                components,
                self._device,
                return_to_file=_return_to_file(components) if plan.one_transformer else None,
            )
            facts = {
                "checkpoint": self._sources.identity_of(model, sourced),
                "base": {
                    **report(sourced),
                    "fp8_in_memory": plan.fp8_in_memory,
                    "one_transformer_in_memory": plan.one_transformer,
                },
            }
            return WanPipeline(model, components, placement, self._runtime(), sizes, facts)

    def _plan(
        self, model: WanModel, files: Mapping[str, Component], generation: Generation
    ) -> tuple[MemoryPlan, Sizes]:
        """Where weights will lie, and the bytes that they take."""
        dtype = model_dtype(self._device)
        unpacked = _sizes(model, files, dtype, packed=False)
        packed = _sizes(model, files, dtype, packed=True) if any(map(is_fp8, files.values())) else None
        weights = self._fp8_weights
        if weights == "auto" and self._device.type != "cuda" and not self.memory.has_host_room(unpacked.whole):
            weights = "packed"  # a CPU has no other mode, and may lack the memory
        plan = budget.plan(
            unpacked,
            packed,
            lambda sizes: self.memory.decide(model, sizes, generation),
            self.memory.host_bytes(),
            weights,
        )
        return plan, packed if plan.fp8_in_memory and packed is not None else unpacked

    def _kernels_built_ahead(self, model: WanModel) -> AbstractContextManager[None]:
        if self._device.type != "cuda" or self.compiler.mode == "off":
            return nullcontext()
        return built_ahead(self._device, model.hidden_size, model.ffn_size, exact=self.compiler.mode != "fast")

    def _runtime(self) -> Runtime:
        return Runtime(
            self._device,
            self.memory,
            self.compiler,
            self.prompts,
            self.frames,
            self.forwards,
            self._membership,
            self._pictures,
        )

    def prefetch(self, model: WanModel, base: Base = "auto") -> None:
        """Reads the files that a model has and the loaded one has not into the page cache, in the background.

        Only where host memory has room for them; without effect for files that are not on disk.
        """
        if self._prefetched == model.id:
            return
        self.stop_prefetch()
        self._prefetched = model.id
        try:
            wanted = self._sources.local(model, base, MODULES)
        except (HostError, BaseNotFound):
            return  # its own job reports what is wrong
        files = [
            file
            for name, part in wanted.items()
            if name not in self._loaded_files or not self._sources.folders.known_same(self._loaded_files[name], part)
            for file in part.files
        ]
        if files and self.memory.has_host_room(sum(file.stat().st_size for file in files)):
            self.prefetcher = Prefetcher(files)
            self.prefetcher.start()

    def stop_prefetch(self) -> None:
        """Stops the prefetch; what it read stays in the page cache for as long as nothing else needs the memory."""
        self._prefetched = None
        if self.prefetcher is not None:
            self.prefetcher.stop()
            self.prefetcher = None

    def _check_host(
        self,
        mode: PlacementMode,
        sizes: Sizes,
        files: Mapping[str, Component],
        reused: Mapping[str, Any],
        generation: Generation,
    ) -> None:
        """Raises OutOfMemory where the host cannot hold the weights of the mode.

        Files in bf16 are memory-mapped, so weights that will be packed take only their packed size; files in another
        dtype are converted in memory first.
        """
        encoder = reused.get("text_encoder")
        if encoder is not None and next(encoder.parameters()).device.type == "cpu":
            sizes = replace(sizes, text_encoder=0)  # it is in memory already
        on_disk = sum(part.size for name, part in files.items() if name in TRANSFORMERS)
        is_mapped = on_disk < CONVERTED * sum(sizes.transformers)
        is_packing = storage(generation.speedup) != "exact"
        final_sizes = budget.packed_sizes(sizes) if is_packing and is_mapped else sizes
        self.memory.check_host(mode, final_sizes, packable=is_mapped and not is_packing)


def _return_to_file(components: Components) -> Callable[[str], None]:
    """Lays a transformer's fp8 weights back into its file's pages, which the system drops when it needs the memory."""

    def return_to_file(name: str) -> None:
        single = components.files[name].single
        if single is not None:
            file = open_file(single.header, single.kind, single.config)
            map_packed(file, components.transformers[name])

    return return_to_file


def is_fp8(part: Component) -> bool:
    """Whether a component comes from a single file with fp8 weights."""
    return part.single is not None and any(entry.dtype in FP8 for entry in part.single.header.tensors.values())


def _sizes(model: WanModel, files: Mapping[str, Component], dtype: torch.dtype, packed: bool) -> Sizes:
    """Bytes of a model's parts, by the files' headers, whose names and shapes are compared with the configs."""

    def size(name: str) -> int:
        return component_bytes(model, files[name], dtype, packed) if name in files else 0

    transformers = tuple(size(component) for component in model.slots.values())
    return Sizes(
        transformers=transformers,
        text_encoder=size("text_encoder"),
        rest=size("vae") + size("image_encoder"),
        block=max(transformers) // model.blocks,
    )
