"""The diffusers room: loads a row, dresses its transformers, renders a generation. It knows no job and no door."""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import peft
import psutil
import torch
import transformers
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from PIL import Image

import wan_ui
from wan_ui.checkpoints.bases import Base
from wan_ui.checkpoints.folders import Component
from wan_ui.checkpoints.sources import CheckpointSources, base_of, report
from wan_ui.compare import high_noise_part
from wan_ui.config import MemoryMode
from wan_ui.engine import attention, conditioning, lossy, memory
from wan_ui.engine.adapters import Adapter, BaseWeights, Merge, Place, TransformerAdapters, split, summary
from wan_ui.engine.clip_image import clip_pixels
from wan_ui.engine.compile import BlockCompiler, CompiledBlocks
from wan_ui.engine.components import (
    MODULES,
    TRANSFORMERS,
    Components,
    LoadCounts,
    Target,
    build_scheduler,
    checked_elements,
    load_components,
    model_dtype,
    read_tensor,
    same_parts,
)
from wan_ui.engine.core import Pipeline, Report, Storage, storage
from wan_ui.engine.out_of_memory import is_out_of_memory
from wan_ui.engine.placement import DevicePlacement, fitting, free_bytes, idle_bytes, release
from wan_ui.engine.prefetch import Prefetcher, has_room
from wan_ui.engine.recipes import RECIPES, Recipe, SchedulerSpec, scheduler_spec
from wan_ui.engine.result import Clip, OnProgress, Phase, Progress
from wan_ui.engine.sampling import DenoisingState, Experts, Guidance, denoise, old_flow_sigmas
from wan_ui.engine.streaming import ADAPTER_MARK
from wan_ui.errors import BaseNotFound, CheckpointIncomplete, HostError, OutOfMemory
from wan_ui.lora.convert import Converted, convert
from wan_ui.lora.library import LoraFile
from wan_ui.media.image import fit
from wan_ui.models import WanModel
from wan_ui.request import Generation

log = logging.getLogger(__name__)

MAX_SEQUENCE_LENGTH = 512  # tokens, the pipelines' own default
KEPT_FRAMES = 8  # encoded first frames kept on the device, a few MB each
KEPT_PROMPTS = 128  # text embeddings kept in host memory, 4 MB each at full size
ROOM_FOR_A_RENDER = 12 << 30  # bytes of GPU memory left free beside pristine weights
MOST_DROPPED = 50  # dropped tensors named one by one in a report
BUILDING = "The first step also builds this GPU's kernels. They are kept for the next start."
CONVERTED = 1.5  # times the size in memory: files that are larger hold another dtype
FRAMES_AT_ONCE = 8  # frames turned into bytes at a time, so that their float32 copy stays small


class Loader:
    """Loads rows onto one device, one at a time, and keeps what the next row has in common with the last."""

    def __init__(
        self, sources: CheckpointSources, device: torch.device, wanted_memory: MemoryMode, compiler: BlockCompiler
    ) -> None:
        self.compiler = compiler
        self._sources = sources
        self._checkpoints = sources.folders
        self._device = device
        self._memory: MemoryMode = wanted_memory
        self.counts = LoadCounts()
        self.ahead: Prefetcher | None = None
        self._prefetched: str | None = None
        self._held: Mapping[str, Component] = {}
        self.prompts = PromptCache()
        self.frames = FrameCache()
        self.forwards: Counter[str] = Counter()

    def load(
        self, row: WanModel, generation: Generation, before: Pipeline | None, on_progress: OnProgress
    ) -> WanPipeline:
        """A row ready to render the generation. What is the same files as before is kept, the rest let go first.

        Raises CheckpointNotFound, CheckpointIncomplete, DiskFull or OutOfMemory.
        """
        self.stop_prefetch()
        sourced = self._sources.fetch(row, base_of(generation.base), on_progress)
        files = sourced.components
        kept = same_parts(self._checkpoints, before.hand_over(), files) if isinstance(before, WanPipeline) else {}
        before = None
        if "text_encoder" not in kept:
            self.prompts.clear()
        self.frames = FrameCache(self.frames.encodes)
        release(self._device)
        sizes = _sizes(row, files, model_dtype(self._device))
        mode = self.decide(row, sizes, generation)
        self._check_host(mode, sizes, files, kept, generation)
        target = Target(self._device, model_dtype(self._device), DevicePlacement.on_host(mode))
        with out_of_memory_mapped():
            components = load_components(row, files, target, kept, self.counts, on_progress)
            self._held = files
            placement = DevicePlacement(mode, components, self._device)
            identity = self._sources.identity_of(row, sourced)
            return WanPipeline(row, components, placement, self, sizes, identity, report(sourced))

    def prefetch(self, row: WanModel, base: Base = "auto") -> None:
        """Pulls the files that a row has and the one held has not into the page cache, in the background.

        Only where host memory has room for them; without effect for files that are not on disk.
        """
        if self._prefetched == row.id:
            return
        self.stop_prefetch()
        self._prefetched = row.id
        try:
            wanted = self._sources.local(row, base, MODULES)
        except (HostError, BaseNotFound):
            return  # what is wrong with it is said when its own job runs
        files = [
            file
            for name, part in wanted.items()
            if name not in self._held or not self._checkpoints.known_same(self._held[name], part)
            for file in part.files
        ]
        if files and has_room(sum(file.stat().st_size for file in files)):
            self.ahead = Prefetcher(files)
            self.ahead.start()

    def stop_prefetch(self) -> None:
        """Ends what `prefetch` began; what it read stays in the page cache for as long as nothing else needs it."""
        self._prefetched = None
        if self.ahead is not None:
            self.ahead.stop()
            self.ahead = None

    def decide(self, row: WanModel, sizes: memory.Sizes, generation: Generation) -> memory.Placement:
        if self._device.type != "cuda":
            return "resident"
        activations = activation_bytes_of(row, generation, generation.vae_tiling)
        in_tiles = activation_bytes_of(row, generation, True)
        return memory.decide(self._memory, sizes, activations, in_tiles, free_bytes(self._device))

    def tighter(
        self, now: memory.Placement, row: WanModel, sizes: memory.Sizes, generation: Generation
    ) -> memory.Placement:
        """The mode a generation needs, never looser than the one in force. Raises OutOfMemory."""
        mode = max(now, self.decide(row, sizes, generation), key=memory.MODES.index)
        if mode != now == "resident":
            memory.check_host(self._memory, mode, sizes, psutil.virtual_memory().available, packable=False)
        return mode

    def _check_host(
        self,
        mode: memory.Placement,
        sizes: memory.Sizes,
        files: Mapping[str, Component],
        kept: Mapping[str, Any],
        generation: Generation,
    ) -> None:
        """Raises OutOfMemory. Files in bf16 stay on disk until they are packed, others are converted in memory."""
        encoder = kept.get("text_encoder")
        if encoder is not None and next(encoder.parameters()).device.type == "cpu":
            sizes = replace(sizes, text_encoder=0)  # its room is taken already
        on_disk = sum(part.size for name, part in files.items() if name in TRANSFORMERS)
        mapped = on_disk < CONVERTED * sum(sizes.transformers)
        packing = storage(generation.speedup) != "exact"
        staying = memory.packed(sizes) if packing and mapped else sizes
        available = psutil.virtual_memory().available
        memory.check_host(self._memory, mode, staying, available, packable=mapped and not packing)

    def may_tighten(self, now: memory.Placement, sizes: memory.Sizes) -> bool:
        """Whether a render may go on in a tighter mode: the mode is ours to choose, and the host has room."""
        moving = memory.host_bytes("pair", sizes) if now == "resident" else 0
        return self._memory == "auto" and self._device.type == "cuda" and has_room(moving)

    @property
    def device(self) -> torch.device:
        return self._device


class PromptCache:
    """Text embeddings by prompt, (1, 512, width) on the host; `encodes` counts the encoder's forwards."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()
        self.encodes = 0

    def clear(self) -> None:
        """Forgets everything: the text encoder is another one now."""
        self._kept.clear()

    def missing(self, prompts: tuple[str, ...]) -> list[str]:
        """The distinct prompts that are not kept, in order."""
        return [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._kept]

    def add(self, prompt: str, embeddings: torch.Tensor) -> None:
        self.encodes += 1
        self._kept[prompt] = embeddings.cpu()
        while len(self._kept) > KEPT_PROMPTS:
            self._kept.popitem(last=False)

    def get(self, prompt: str, device: torch.device) -> torch.Tensor:
        self._kept.move_to_end(prompt)
        return self._kept[prompt].to(device)


class FrameCache:
    """What first frames were encoded to, the latest few; `encodes` counts the encoders' forwards."""

    def __init__(self, encodes: int = 0) -> None:
        self._kept: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self.encodes = encodes

    def once(self, key: tuple[Any, ...], encode: Callable[[], Any]) -> Any:
        """What `encode` gave for the key, computed at the first call."""
        if key not in self._kept:
            self._kept[key] = encode()
            self.encodes += 1
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT_FRAMES:
            self._kept.popitem(last=False)
        return self._kept[key]


@dataclass(frozen=True)
class DenoiseReport:
    """What a run's denoising tells of itself: `steps` in all, `high_noise` ones among them, `shared` ones that an
    earlier run had done; with a step cache, of `total` forwards how many were `computed`; and by slot how much the
    LoRAs change the first prediction. `earlier` is the high-noise half that was kept before this run began.
    """

    earlier: HighNoise | None
    steps: dict[str, int]
    forwards: dict[str, int]
    changes: dict[str, float]


@dataclass(frozen=True)
class HighNoise:
    """The high-noise half of a run, for the next that shares it: what decides it, its end, what it measured.

    `forwards` are all and the computed ones, where a step cache counts them.
    """

    decided_by: Hashable
    state: DenoisingState
    first_step_change: Mapping[str, float]
    forwards: tuple[int, int] = (0, 0)


class Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 4)


@dataclass(frozen=True)
class Counts:
    """A file's modules on one slot: in the file, in use one way, and the tensors that change nothing."""

    in_file: int
    in_use: int
    dropped: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, lora: Converted, in_use: int) -> Counts:
        return cls(len(lora.modules), in_use, lora.dropped[:MOST_DROPPED])


class WanPipeline:
    """A loaded row. Implements engine.Pipeline."""

    def __init__(
        self,
        row: WanModel,
        components: Components,
        placement: DevicePlacement,
        loader: Loader,
        sizes: memory.Sizes,
        identity: Sequence[Mapping[str, Any]],
        base: Mapping[str, Any],
    ) -> None:
        self._row = row
        self._identity = identity
        self._base = base
        self._components = components
        self._placement = placement
        self._loader = loader
        self._sizes = sizes
        self._storage: Storage = "exact"
        self._device = loader.device
        self._adapters = {
            slot: TransformerAdapters(
                components.transformers[component],
                self._originals(component),
                self._device if loader.compiler.mode != "off" else None,
            )
            for slot, component in row.slots.items()
        }
        self._counts: dict[tuple[str, str], dict[str, Counts]] = {}
        self._compiled: CompiledBlocks | None = None
        self._float32: dict[tuple[str, str], torch.Tensor] = {}
        self._frames = loader.frames
        first = components.transformers["transformer"]
        self._attention = attention.kernel(first, self._device, model_dtype(self._device))
        self._high_noise: HighNoise | None = None
        self._hooks = [
            transformer.register_forward_pre_hook(partial(_count, loader.forwards, name))
            for name, transformer in components.transformers.items()
        ]

    def cast(self, whole_bf16: bool) -> None:
        """On CUDA, diffusers' float32 exceptions and the rotary buffers to bfloat16, or back bit for bit."""
        for name in self._components.transformers:
            transformer = self._placement.reshape(name) if whole_bf16 or self._float32 else self._placement.still(name)
            if whole_bf16 and model_dtype(self._device) is torch.bfloat16:
                for key, tensor in base_tensors(transformer).items():
                    if tensor.dtype is torch.float32:
                        self._float32[name, key] = tensor.data.to("cpu")
                        tensor.data = tensor.data.to(torch.bfloat16)
            if not whole_bf16 and self._float32:
                for key, tensor in base_tensors(transformer).items():
                    if (name, key) in self._float32:
                        tensor.data = self._float32.pop((name, key)).to(tensor.device)

    def attach(self, slot: str, files: tuple[LoraFile, ...], unfused: frozenset[str]) -> None:
        """These files' layers of the unfused kinds as adapters on the slot's transformer, and no others."""
        self._placement.still(self._row.slots[slot])
        self._counts[slot, "adapter"] = {}
        with out_of_memory_mapped():
            loras = {file.sha256: convert(file.path, slot) for file in files}
            used = self._adapters[slot].attach(
                [Adapter(digest, split(lora, unfused)[0]) for digest, lora in loras.items()]
            )
        if self._compiled is not None:
            self._compiled.adapters_changed(self._components.transformers[self._row.slots[slot]])
        self._counts[slot, "adapter"] = {digest: Counts.of(loras[digest], used[digest]) for digest in loras}

    def merge(self, slot: str, files: tuple[tuple[LoraFile, float], ...], unfused: frozenset[str]) -> None:
        """These files' other layers merged in float32 into the slot's transformer, and no others."""
        self._placement.still(self._row.slots[slot])
        self._counts[slot, "merged"] = {}
        with out_of_memory_mapped():
            loras = {file.sha256: (convert(file.path, slot), multiplier) for file, multiplier in files}
            used = self._adapters[slot].merge(
                [Merge(digest, split(lora, unfused)[1], multiplier) for digest, (lora, multiplier) in loras.items()]
            )
        self._counts[slot, "merged"] = {digest: Counts.of(loras[digest][0], used[digest]) for digest in loras}

    def store(self, storage: Storage, generation: Generation) -> None:
        """The transformers' weights packed, merges included, for good; more of the model may fit on the GPU then."""
        before, self._storage = self._storage, storage
        for adapters in self._adapters.values():
            adapters.settle()
        with out_of_memory_mapped():
            for name in self._components.transformers:
                lossy.pack_blocks(self._placement.reshape(name), self._device, products=storage == "fp8_products")
            release(self._device)
            if before == "exact":
                self._sizes = memory.packed(self._sizes)
            mode = self._loader.decide(self._row, self._sizes, generation)
            if mode != self._placement.mode:
                self._placement.change(mode)

    def set_scales(self, slot: str, weights: Mapping[str, float]) -> None:
        """The scales of the slot's adapters."""
        self._adapters[slot].set_scales(weights)

    def effect(self, slot: str) -> Mapping[str, Report]:
        """What each file on the slot does now, by SHA-256."""
        changes = self._adapters[slot].changes()
        reports: dict[str, Report] = {}
        for digest, change in changes.items():
            ways = [way for way in ("adapter", "merged") if digest in self._counts.get((slot, way), {})]
            counts = [self._counts[slot, way][digest] for way in ways]
            reports[digest] = {
                "applied": " and ".join(ways),
                "modules_in_file": counts[0].in_file,
                "modules_in_use": sum(count.in_use for count in counts),
                "dropped": [{"module": key, "why": why} for key, why in counts[0].dropped],
                "weight_change": summary(change),
            }
        return reports

    def hand_over(self) -> Components:
        """The bare base model's parts, for the next row; this pipeline is empty afterwards.

        Transformers whose weights are packed are none of the base model's parts.
        """
        if self._storage == "exact":
            self._strip()
        for hook in self._hooks:
            hook.remove()
        self._fuse(None)
        self._placement.close()
        held = self._components if self._storage == "exact" else replace(self._components, transformers={})
        self._let_go()
        return held

    def close(self) -> None:
        """Lets the parts go and gives their memory back."""
        self._placement.close()
        self._let_go()
        release(self._device)

    def _let_go(self) -> None:
        self._adapters.clear()
        self._float32.clear()
        del self._components, self._placement

    def _originals(self, component: str) -> BaseWeights:
        """Beside the model where the GPU has room for it and a render, else in host memory, else read again."""
        files = self._components.files[component]

        def place(size: int) -> Place:
            if self._device.type == "cuda" and size + ROOM_FOR_A_RENDER <= idle_bytes(self._device):
                return "device"
            return "host" if has_room(size) else "checkpoint"

        return BaseWeights(place, lambda name: read_tensor(files, name), lambda: self._placement.in_place)

    def _strip(self) -> None:
        for slot, adapters in self._adapters.items():
            self._placement.still(self._row.slots[slot])
            adapters.attach([])
            adapters.restore()
        self.cast(False)

    @torch.no_grad()
    def render(self, generation: Generation, image: Image.Image | None, on_progress: OnProgress) -> Clip:
        """One clip. A cancel raised by on_progress ends it between two steps, before the decode."""
        clock, recipe = Clock(), RECIPES[generation.recipe]
        mode = self._loader.tighter(self._placement.mode, self._row, self._sizes, generation)
        with out_of_memory_mapped():
            if mode != self._placement.mode:
                self._placement.change(mode)
            self._placement.prepare(activation_bytes_of(self._row, generation, generation.vae_tiling))
            self._fuse(self._loader.compiler.of(recipe))
            spec = self._scheduler(recipe)
            said = DenoiseReport(self._high_noise, {"total": generation.sample_steps}, {}, {})
            latents = fitting(
                lambda: self._latents(generation, image, recipe, spec, on_progress, clock, said),
                self._placement,
                self._may_tighten,
            )
            mode = self._placement.mode
            with clock.phase("decode"):
                note = memory.sentence(mode)
                on_progress(Progress("decode", generation.sample_steps, generation.sample_steps, note=note))
                self._placement.clear_for_decode()
                frames, tiled = self._decoded(latents, generation)
        return Clip(
            frames=frames,
            width=generation.width,
            height=generation.height,
            num_frames=frames.shape[0],
            fps=generation.fps,
            seed=generation.seed,
            metadata={
                **self._metadata(recipe, spec, mode, clock),
                "tiled": tiled,
                "speedup": generation.speedup,
                "steps": said.steps,
                **({"forwards": said.forwards} if said.forwards else {}),
                "first_step_change": said.changes,
            },
        )

    def _may_tighten(self) -> bool:
        return self._loader.may_tighten(self._placement.mode, self._sizes)

    def _may_leave_the_device(self) -> bool:
        return self._placement.mode == "resident" and self._may_tighten()

    def _latents(
        self,
        generation: Generation,
        image: Image.Image | None,
        recipe: Recipe,
        spec: SchedulerSpec,
        on_progress: OnProgress,
        clock: Clock,
        said: DenoiseReport,
    ) -> torch.Tensor:
        """The denoised latents, from the prompt and the first frame on."""
        note = memory.sentence(self._placement.mode)
        guidance = self._guidance(generation, clock, on_progress, note)
        with clock.phase("image"):
            if generation.image is not None:
                on_progress(Progress("image", note=note))
            start = self._start(generation, image, guidance.positive.dtype)
        with clock.phase("denoise"), lossy.step_cache(generation.speedup) as cache:
            return self._denoise(generation, recipe, spec, start, guidance, on_progress, note, said, cache)

    def _decoded(self, latents: torch.Tensor, generation: Generation) -> tuple[npt.NDArray[np.uint8], bool]:
        """The frames, and whether they were decoded in tiles: as asked for, or for want of room.

        In all modes but the resident one the device is the VAE's alone by now.
        """
        try:
            whole = partial(self._decode, latents, generation.vae_tiling)
            return fitting(whole, self._placement, self._may_leave_the_device), generation.vae_tiling
        except RuntimeError as error:
            if generation.vae_tiling or not is_out_of_memory(error):
                raise
            log.warning("no room to decode whole frames, in tiles instead: %s", str(error))
        release(self._device)
        return self._decode(latents, True), True

    def _fuse(self, compiled: CompiledBlocks | None) -> None:
        """The transformers' blocks in this arithmetic from here on."""
        for transformer in self._components.transformers.values():
            if self._compiled is not None and self._compiled is not compiled:
                self._compiled.remove(transformer)
            if compiled is not None:
                compiled.install(transformer)
        self._compiled = compiled

    def _guidance(self, generation: Generation, clock: Clock, on_progress: OnProgress, note: str) -> Guidance:
        guided = generation.guidance_scale > 1
        wanted = (generation.prompt, generation.neg) if guided else (generation.prompt,)
        prompts = self._loader.prompts
        with clock.phase("text"):
            missing = prompts.missing(wanted)
            if missing:
                on_progress(Progress("text", note=note))
                with self._placement.encoding() as device:
                    for prompt in missing:
                        prompts.add(prompt, self._encode_text(prompt, device))
            dtype = model_dtype(self._device)
            return Guidance(
                positive=prompts.get(generation.prompt, self._device).to(dtype),
                negative=prompts.get(generation.neg, self._device).to(dtype) if guided else None,
                scale=generation.guidance_scale,
            )

    def _encode_text(self, prompt: str, device: torch.device) -> torch.Tensor:
        """(1, 512, width): rows past the prompt's length are zero."""
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
        return torch.cat(
            [embeddings[:, :length], embeddings.new_zeros(1, MAX_SEQUENCE_LENGTH - length, embeddings.shape[2])], dim=1
        )

    def _start(self, generation: Generation, image: Image.Image | None, dtype: torch.dtype) -> conditioning.Start:
        vae, row = self._components.vae, self._row
        shape = conditioning.latent_shape(
            vae.config.z_dim, generation.num_frames, generation.height, generation.width, row.spatial_compression
        )
        noise = conditioning.noise(shape, generation.seed, self._device)
        if image is None:
            return conditioning.from_text(noise, masked=row.expand_timesteps)
        match row.conditioning:
            case "first_latent":
                posterior = self._encoded(generation, image, 1, conditioning.encode_frame)
                return conditioning.first_latent(noise, vae, posterior, dtype, generation.seed)
            case "latent_channels":
                posterior = self._encoded(generation, image, generation.num_frames, conditioning.encode_frame)
                return conditioning.latent_channels(noise, vae, posterior, dtype, generation.seed)
            case "clip_and_latent_channels":
                posterior = self._encoded(
                    generation, image, generation.num_frames, conditioning.encode_frame_in_float32
                )
                embeddings = self._looked_at(generation, image)
                return conditioning.clip_and_latent_channels(noise, vae, posterior, embeddings.to(dtype))
            case "text":
                raise AssertionError(f"{row.id} takes no first frame, and resolve() refuses one")

    def _encoded(
        self,
        generation: Generation,
        image: Image.Image,
        num_frames: int,
        encode: Callable[[AutoencoderKLWan, Image.Image, int], Any],
    ) -> Any:
        """The VAE's posterior of a first frame, once per image and size."""
        size = (generation.width, generation.height)
        return self._frames.once(
            ("vae", generation.image, *size, num_frames),
            lambda: encode(self._components.vae, fit(image, *size), num_frames),
        )

    def _looked_at(self, generation: Generation, image: Image.Image) -> torch.Tensor:
        """CLIP's embeddings of a first frame, once per image and size."""
        size = (generation.width, generation.height)
        embeddings: torch.Tensor = self._frames.once(
            ("clip", generation.image, *size), lambda: self._encode_image(fit(image, *size))
        )
        return embeddings

    def _encode_image(self, image: Image.Image) -> torch.Tensor:
        """CLIP's last hidden states but one, (1, tokens, width)."""
        processor, encoder = self._components.image_processor, self._components.image_encoder
        if processor is None or encoder is None:
            raise CheckpointIncomplete(f"{self._row.label} needs an image encoder, and the checkpoint has none.")
        pixels = clip_pixels(processor, image, self._device)
        embeddings: torch.Tensor = encoder(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
        return embeddings

    def _scheduler(self, recipe: Recipe) -> SchedulerSpec:
        spec = scheduler_spec(self._row, recipe)
        if spec.config is not None:
            return spec
        config = self._components.scheduler_config
        if config is None:
            raise CheckpointIncomplete(f"{self._row.label} needs the checkpoint's scheduler, and there is none.")
        return SchedulerSpec(str(config.get("_class_name", spec.class_name)), config)

    def _boundary(self, recipe: Recipe) -> float | None:
        boundary = self._row.boundary[recipe.id]
        return self._components.boundary_ratio if boundary == "checkpoint" else boundary

    def _denoise(
        self,
        generation: Generation,
        recipe: Recipe,
        spec: SchedulerSpec,
        start: conditioning.Start,
        guidance: Guidance,
        on_progress: OnProgress,
        note: str,
        said: DenoiseReport,
        cache: lossy.StepCache | None,
    ) -> torch.Tensor:
        parts = self._components.transformers

        def enter(transformer: WanTransformer3DModel) -> None:
            self._placement.enter(transformer)
            if cache is not None:
                cache.enter(transformer)

        experts = Experts(
            high=parts["transformer"],
            low=parts.get("transformer_2"),
            boundary=self._boundary(recipe),
            enter=enter,
        )
        steps, began, resumed, graphs = generation.sample_steps, time.perf_counter(), 0, self._graphs

        def on_step(done: int) -> None:
            nonlocal began, resumed, graphs
            self._synchronize()
            if self._graphs > graphs:  # that step built one, which says nothing about the steps to come
                began, resumed, graphs = time.perf_counter(), done, self._graphs
            each = (time.perf_counter() - began) / (done - resumed) if done > resumed else None
            left = each * (steps - done) if each is not None else None
            building = done == 0 and self._compiled is not None and not self._compiled.graphs
            on_progress(Progress("denoise", done, steps, each, left, note=note or BUILDING * building))

        config = spec.config if spec.config is not None else {}
        scheduler = build_scheduler(spec.class_name, config)
        probe: lossy.Probe | None = partial(self._measure, said.changes) if generation.first_step_change else None
        if probe is not None and cache is not None:
            probe = cache.uncounted(probe)
        half, before = high_noise_part(generation), self._high_noise
        shared = before if before is not None and before.decided_by == half else None
        if shared is not None:
            resumed = shared.state.step
            said.steps.update(high_noise=resumed, **({"shared": resumed} if shared is said.earlier else {}))
            said.changes.update(shared.first_step_change)
            if cache is not None:
                cache.forwards, cache.computed = shared.forwards

        def keep(state: DenoisingState) -> None:
            said.steps["high_noise"] = state.step
            counted = (0, 0) if cache is None else (cache.forwards, cache.computed)
            self._high_noise = HighNoise(half, state, dict(said.changes), counted)

        midway = shared.state if shared is not None else None
        sigmas = old_flow_sigmas(steps) if recipe.sigmas == "before_0_36" else None
        latents = denoise(experts, scheduler, steps, start, guidance, on_step, probe, midway, keep, sigmas)
        if cache is not None:
            said.forwards.update(total=cache.forwards, computed=cache.computed)
        return latents

    @property
    def _arithmetic(self) -> str:
        return self._compiled.said(self._components.transformers.values()) if self._compiled is not None else "eager"

    @property
    def _graphs(self) -> int:
        return self._compiled.graphs if self._compiled is not None else 0

    def _measure(
        self,
        changes: dict[str, float],
        transformer: WanTransformer3DModel,
        prediction: torch.Tensor,
        again: Callable[[], torch.Tensor],
    ) -> None:
        """Notes by how much the slot's LoRAs change its first prediction: ‖with − without‖ / ‖without‖."""
        for slot, component in self._row.slots.items():
            adapters = self._adapters[slot]
            if self._components.transformers[component] is transformer and not adapters.has_no_adapters:
                with adapters.disabled() as possible:
                    if possible:
                        base = again().float()
                        changes[slot] = float((prediction.float() - base).norm() / base.norm())

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _decode(self, latents: torch.Tensor, tiled: bool) -> npt.NDArray[np.uint8]:
        """Frames as uint8, (num_frames, height, width, 3): (x / 2 + 0.5) clamped to 0…1, × 255, rounded.

        `tiled`: in tiles of diffusers' own size (256 pixels, every 192) where a side is longer than that.
        """
        vae = self._components.vae
        if tiled:
            vae.enable_tiling()
        try:
            video = vae.decode(conditioning.denormalised(latents, vae), return_dict=False)[0][0]
        finally:
            vae.disable_tiling()
        chunks = [
            ((part * 0.5 + 0.5).clamp(0, 1).float() * 255).round().to(torch.uint8).permute(1, 2, 3, 0).cpu()
            for part in video.split(FRAMES_AT_ONCE, dim=1)
        ]
        return torch.cat(chunks).numpy()

    def _metadata(self, recipe: Recipe, spec: SchedulerSpec, mode: memory.Placement, clock: Clock) -> dict[str, Any]:
        config = spec.config if spec.config is not None else {}
        return {
            "recipe": recipe.id,
            "sampler": {"name": spec.class_name, "shift": config.get("flow_shift", config.get("shift"))},
            "boundary": self._boundary(recipe),
            "dtype": str(model_dtype(self._device)).removeprefix("torch."),
            "memory": mode,
            "arithmetic": self._arithmetic,
            "attention": self._attention,
            "seconds": dict(clock.seconds),
            "device": device_name(self._device),
            "versions": versions(),
            "checkpoint": [dict(one) for one in self._identity],
            "base": dict(self._base),
        }


def base_tensors(transformer: WanTransformer3DModel) -> dict[str, torch.Tensor]:
    """Parameters and buffers of the base model by name, whatever is attached; a move makes new buffers."""
    named = (*transformer.named_parameters(), *transformer.named_buffers())
    return {name.replace(".base_layer", ""): tensor for name, tensor in named if ADAPTER_MARK not in name}


def _count(forwards: Counter[str], name: str, module: torch.nn.Module, arguments: Any) -> None:
    forwards[name] += 1


def versions() -> dict[str, str]:
    """What computed a clip."""
    return {
        "wan-ui": wan_ui.__version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


def device_name(device: torch.device) -> str:
    """The GPU's own name, or the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def activation_bytes_of(row: WanModel, generation: Generation, tiled: bool) -> int:
    """Bytes of device memory that a render needs beside the weights, with a decode of whole frames or in tiles."""
    size = (generation.width, generation.height, generation.num_frames)
    cache = memory.cache_bytes(row, *size) if generation.speedup == "step_cache" else 0
    return memory.activation_bytes(row, *size, tiled=tiled) + cache


@contextmanager
def out_of_memory_mapped() -> Iterator[None]:
    """Maps torch's out-of-memory error to ours, which says what to try."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        log.error("out of GPU memory", exc_info=error)
        raise OutOfMemory(
            "The GPU ran out of memory. Try a smaller width, height or frame count, close other programs that use the "
            "GPU, or start with --memory stream where it is not on yet."
        ) from error


def _sizes(row: WanModel, files: Mapping[str, Component], dtype: torch.dtype) -> memory.Sizes:
    """Bytes of the model's parts in memory, read off the files' headers, which are checked against the configs."""

    def size(name: str) -> int:
        return checked_elements(row, files[name]) * dtype.itemsize if name in files else 0

    transformers_ = tuple(size(component) for component in row.slots.values())
    return memory.Sizes(
        transformers=transformers_,
        text_encoder=size("text_encoder"),
        rest=size("vae") + size("image_encoder"),
        block=max(transformers_) // row.blocks,
    )
