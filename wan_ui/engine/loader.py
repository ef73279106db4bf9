"""Loads one model at a time onto a device, reusing what the model before it has in common with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from wan_ui.checkpoints.folders import Checkpoints, Component
from wan_ui.engine import budget
from wan_ui.engine.budget import PlacementMode, Sizes
from wan_ui.engine.caches import FrameCache, PromptCache
from wan_ui.engine.compile import BlockCompiler
from wan_ui.engine.components import (
    MODULES,
    TRANSFORMERS,
    LoadStatistics,
    Target,
    load_components,
    model_dtype,
    same_parts,
)
from wan_ui.engine.core import Pipeline, storage
from wan_ui.engine.memory import MemoryPolicy, out_of_memory_mapped, release
from wan_ui.engine.pipeline import WanPipeline
from wan_ui.engine.placement import DevicePlacement
from wan_ui.engine.prefetch import Prefetcher
from wan_ui.engine.result import OnProgress
from wan_ui.engine.runtime import Runtime
from wan_ui.errors import CheckpointIncomplete, CheckpointNotFound
from wan_ui.models import WanModel
from wan_ui.request import Generation

CONVERTED = 1.5  # times the size in memory: files that are larger hold another dtype


class Loader:
    """Loads models and prefetches the next one's files.

    `statistics` count what was read, `forwards` the transformers' forwards; `prefetcher` is the one at work, if any.
    """

    def __init__(self, checkpoints: Checkpoints, memory: MemoryPolicy, compiler: BlockCompiler) -> None:
        self.compiler = compiler
        self.memory = memory
        self.statistics = LoadStatistics()
        self.prefetcher: Prefetcher | None = None
        self.prompts = PromptCache()
        self.frames = FrameCache()
        self.forwards: Counter[str] = Counter()
        self._checkpoints = checkpoints
        self._device: torch.device = memory.device
        self._prefetched: str | None = None
        self._loaded_files: Mapping[str, Component] = {}

    def load(
        self, model: WanModel, generation: Generation, previous: Pipeline | None, on_progress: OnProgress
    ) -> WanPipeline:
        """A model ready to render the generation. Parts with the same files as before are reused, the rest freed first.

        Raises CheckpointNotFound, CheckpointIncomplete, DiskFull or OutOfMemory.
        """
        self.stop_prefetch()
        files = self._checkpoints.fetch(model, on_progress)
        reused = (
            same_parts(self._checkpoints, previous.take_components(), files)
            if isinstance(previous, WanPipeline)
            else {}
        )
        if "text_encoder" not in reused:
            self.prompts.clear()
        self.frames.clear()
        release(self._device)
        sizes = _sizes(self._checkpoints, model, files, model_dtype(self._device))
        mode = self.memory.decide(model, sizes, generation)
        self._check_host(mode, sizes, files, reused, generation)
        target = Target(self._device, model_dtype(self._device), DevicePlacement.on_host(mode))
        with out_of_memory_mapped():
            components = load_components(files, target, reused, self.memory.has_host_room, on_progress)
            self.statistics = self.statistics.after(files, reused)
            self._loaded_files = files
            placement = DevicePlacement(mode, components, self._device)
            identity = self._checkpoints.identity(model)
            return WanPipeline(model, components, placement, self._runtime(), sizes, identity)

    def _runtime(self) -> Runtime:
        return Runtime(self._device, self.memory, self.compiler, self.prompts, self.frames, self.forwards)

    def prefetch(self, model: WanModel) -> None:
        """Reads the files that a model has and the loaded one has not into the page cache, in the background.

        Only where host memory has room for them; without effect for files that are not on disk.
        """
        if self._prefetched == model.id:
            return
        self.stop_prefetch()
        self._prefetched = model.id
        try:
            wanted = {name: self._checkpoints.component(model, name) for name in model.components if name in MODULES}
        except (CheckpointNotFound, CheckpointIncomplete):
            return  # its own job reports what is wrong
        files = [
            file
            for name, part in wanted.items()
            if name not in self._loaded_files or not self._checkpoints.known_same(self._loaded_files[name], part)
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


def _sizes(checkpoints: Checkpoints, model: WanModel, files: Mapping[str, Component], dtype: torch.dtype) -> Sizes:
    """Bytes of a model's parts in this dtype."""

    def size(name: str) -> int:
        return checkpoints.elements(files[name]) * dtype.itemsize if name in files else 0

    transformers = tuple(size(component) for component in model.slots.values())
    return Sizes(
        transformers=transformers,
        text_encoder=size("text_encoder"),
        rest=size("vae") + size("image_encoder"),
        block=max(transformers) // model.blocks,
    )
