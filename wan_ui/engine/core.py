"""The engine's core: plans the steps from the loaded model's state to what a generation needs, and does them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from PIL import Image

from wan_ui.engine.recipes import RECIPES, unfused_kinds
from wan_ui.engine.result import Clip, OnProgress, Progress
from wan_ui.errors import OutOfMemory
from wan_ui.lora.library import LoraFile
from wan_ui.models import Speedup, WanModel
from wan_ui.request import Generation, find_model
from wan_ui.scale import Scale, is_constant, scale_body

Storage = Literal["exact", "fp8_storage", "fp8_products"]
"""How the transformers' weights are stored. Packed ones become exact again only by loading them."""

FrameImages = Sequence[Image.Image]
"""A generation's given frames: none, the first, or the first and the last."""

BaseNames = str | tuple[tuple[str, str], ...]
"""A generation's `base`: where the model's files come from. Another base is another load."""

Report = Mapping[str, Any]
"""What a LoRA does on a slot, JSON-ready: modules_in_file, modules_in_use, dropped, weight_change, applied."""


class Pipeline(Protocol):
    """A loaded model, as engine/pipeline.py implements it. A method that raises leaves that part as the base model."""

    def cast(self, whole_bf16: bool) -> None:
        """Casts the whole transformers to bfloat16, or restores their float32 parts."""

    def attach(self, slot: str, files: tuple[LoraFile, ...], unfused: frozenset[str]) -> None:
        """Attaches the files' layers of the unfused kinds as adapters on the slot's transformer, and no others."""

    def merge(self, slot: str, files: tuple[tuple[LoraFile, float], ...], unfused: frozenset[str]) -> None:
        """Merges the files' other layers, at their scales, into the slot's transformer, and no others."""

    def store(self, storage: Storage, generation: Generation) -> None:
        """Packs the weights, merges included."""

    def set_scales(self, slot: str, scales: Mapping[str, Scale]) -> None:
        """Sets the scales of the slot's adapters, by SHA-256; those that change do so during the render."""

    def effect(self, slot: str) -> Mapping[str, Report]:
        """What each file on the slot does now, by SHA-256."""
        ...

    def render(self, generation: Generation, images: FrameImages, on_progress: OnProgress) -> Clip:
        """One clip of the generation, with the first frame `image` where it has one."""
        ...

    def close(self) -> None:
        """Frees the model's memory."""


Load = Callable[[WanModel, Generation, "Pipeline | None", OnProgress], Pipeline]
"""Loads a model with memory for the generation; reuses what it can from the previous pipeline, and closes it."""


@dataclass(frozen=True)
class AttachedLoras:
    """The LoRAs on one transformer, by the files' SHA-256: unfused adapters, and merges with their scales.

    `unfused` are the kinds of layers that stay adapters; a file with layers of both kinds appears in both.
    """

    adapters: tuple[str, ...] = ()
    merges: tuple[tuple[str, float], ...] = ()
    unfused: frozenset[str] = frozenset()


NOTHING_ATTACHED = AttachedLoras()


def _not_attached() -> Report:
    """The report of a LoRA at scale 0. A new one each time, since it becomes part of a clip's metadata."""
    return {
        "applied": "not attached",
        "modules_in_file": 0,
        "modules_in_use": 0,
        "dropped": [],
        "weight_change": {"median": 0.0, "max": 0.0},
    }


@dataclass(frozen=True)
class LoadedState:
    """The loaded model and what was done to it. Replaced whole, never changed."""

    model: str
    whole_bf16: bool
    slots: Mapping[str, AttachedLoras]
    storage: Storage = "exact"
    base: BaseNames = "auto"


@dataclass(frozen=True)
class RequiredState:
    """What a generation needs. `scales` are those of the unfused adapters, by slot and SHA-256."""

    model: str
    whole_bf16: bool
    slots: Mapping[str, AttachedLoras]
    scales: Mapping[str, Mapping[str, Scale]]
    storage: Storage = "exact"
    base: BaseNames = "auto"


@dataclass(frozen=True)
class LoadModel:
    """Load a model by its id, with the checkpoint's own dtypes and nothing attached."""

    model: str


@dataclass(frozen=True)
class Cast:
    """Cast the whole transformers to bfloat16, or back."""

    whole_bf16: bool


@dataclass(frozen=True)
class Attach:
    """Attach these files as adapters on a slot, and no others."""

    slot: str
    adapters: tuple[str, ...]
    unfused: frozenset[str]


@dataclass(frozen=True)
class Merge:
    """Merge these (file, scale) pairs into a slot's weights, and no others."""

    slot: str
    merges: tuple[tuple[str, float], ...]
    unfused: frozenset[str]


@dataclass(frozen=True)
class Store:
    """Store the transformers' weights in this way."""

    storage: Storage


@dataclass(frozen=True)
class SetScales:
    """Set the scales of a slot's adapters, by SHA-256."""

    slot: str
    scales: Mapping[str, Scale]


Step = LoadModel | Cast | Attach | Merge | Store | SetScales


def required_state(generation: Generation, files: Mapping[str, LoraFile]) -> RequiredState:
    """What a generation needs: its LoRAs by slot and by how their layers are applied; scale 0 is left out."""
    model, recipe = find_model(generation.model), RECIPES[generation.recipe]
    unfused = unfused_kinds(recipe)
    slots: dict[str, AttachedLoras] = dict.fromkeys(model.slots, NOTHING_ATTACHED)
    scales: dict[str, dict[str, Scale]] = {slot: {} for slot in model.slots}
    for use in generation.loras:
        if use.scale == 0:
            continue
        file, attached = files[use.path], replace(slots[use.slot], unfused=unfused)
        kinds = {module.kind for module in file.header.in_slot(use.slot)}
        if kinds & unfused:
            attached = replace(attached, adapters=(*attached.adapters, file.sha256))
            scales[use.slot][file.sha256] = use.scale
        if kinds - unfused:
            if not is_constant(use.scale):
                raise AssertionError("a request whose merged layers change their scale is refused")
            attached = replace(attached, merges=(*attached.merges, (file.sha256, use.scale)))
        slots[use.slot] = attached
    packing = storage(generation.speedup)
    return RequiredState(model.id, recipe.whole_bf16, slots, scales, packing, base=generation.base)


def storage(speedup: Speedup) -> Storage:
    """How a speed-up stores the weights."""
    return speedup if speedup in ("fp8_storage", "fp8_products") else "exact"


def plan(loaded: LoadedState | None, required: RequiredState) -> list[Step]:
    """The steps from the loaded state to the required one, in order. Scales are set every time.

    Weights are packed last, after merging; a change that needs the exact ones after that loads them again. Adapters
    are attached to packed weights as to exact ones.
    """
    steps: list[Step] = []
    is_same = loaded is not None and (loaded.model, loaded.base) == (required.model, required.base)
    if loaded is None or not is_same or _needs_exact_weights_again(loaded, required):
        steps.append(LoadModel(required.model))
        loaded = state_after_load(required)
    slots = dict(loaded.slots)
    if loaded.whole_bf16 != required.whole_bf16:
        for slot, attached in slots.items():
            if attached.merges:
                steps.append(Merge(slot, (), attached.unfused))
                slots[slot] = replace(attached, merges=())
        steps.append(Cast(required.whole_bf16))
    for slot, wanted in required.slots.items():
        current = slots[slot]
        is_other_way = current.unfused != wanted.unfused
        if current.adapters != wanted.adapters or (is_other_way and wanted.adapters):
            steps.append(Attach(slot, wanted.adapters, wanted.unfused))
        if _merges_differ(current, wanted):
            steps.append(Merge(slot, wanted.merges, wanted.unfused))
    if loaded.storage != required.storage:
        steps.append(Store(required.storage))
    steps += [SetScales(slot, scales) for slot, scales in required.scales.items() if scales]
    return steps


def _merges_differ(current: AttachedLoras, wanted: AttachedLoras) -> bool:
    return current.merges != wanted.merges or (current.unfused != wanted.unfused and bool(wanted.merges))


def _needs_exact_weights_again(loaded: LoadedState, required: RequiredState) -> bool:
    return loaded.storage != "exact" and (
        required.storage == "exact"
        or loaded.whole_bf16 != required.whole_bf16
        or any(_merges_differ(loaded.slots[slot], wanted) for slot, wanted in required.slots.items())
    )


def state_after_load(required: RequiredState) -> LoadedState:
    """The state of a model just loaded: the checkpoint's own dtypes, no LoRA."""
    slots = dict.fromkeys(required.slots, NOTHING_ATTACHED)
    return LoadedState(required.model, whole_bf16=False, slots=slots, base=required.base)


class Core:
    """Holds one loaded model and brings it to what each generation needs. Only one thread at a time may call it.

    `state` is the loaded model's, `pipeline` the model itself; both are None while none is loaded.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self.pipeline: Pipeline | None = None
        self.state: LoadedState | None = None

    def generate(
        self,
        generation: Generation,
        files: Mapping[str, LoraFile],
        images: FrameImages,
        on_progress: OnProgress,
    ) -> Clip:
        """One clip. `files` are the located LoRA files by the path written in the request, `images` its given frames.

        Raises what the steps raise; out of memory drops the model, so that the next job starts with a free GPU.
        """
        required = required_state(generation, files)
        by_digest = {file.sha256: file for file in files.values()}
        try:
            for step in plan(self.state, required):
                if isinstance(step, LoadModel):
                    self._load_model(generation, required, on_progress)
                else:
                    self._do(step, generation, by_digest, on_progress)
            clip = self._loaded_pipeline().render(generation, images, on_progress)
            return replace(clip, metadata={**clip.metadata, "lora": self._lora_report(generation, files, clip)})
        except OutOfMemory:
            self.close()
            raise

    def close(self) -> None:
        """Frees the model."""
        pipeline, self.pipeline, self.state = self.pipeline, None, None
        if pipeline is not None:
            pipeline.close()

    def _load_model(self, generation: Generation, required: RequiredState, on_progress: OnProgress) -> None:
        # Forgotten before the load: one that fails leaves no model.
        previous, self.pipeline, self.state = self.pipeline, None, None
        self.pipeline = self._load(find_model(required.model), generation, previous, on_progress)
        self.state = state_after_load(required)

    def _do(self, step: Step, generation: Generation, files: Mapping[str, LoraFile], on_progress: OnProgress) -> None:
        """Does one step on the loaded model. Before each the state says what is left if it fails."""
        pipeline = self._loaded_pipeline()
        match step:
            case Cast(whole_bf16):
                pipeline.cast(whole_bf16)
                self.state = replace(self._loaded_state(), whole_bf16=whole_bf16)
            case Attach(slot, adapters, unfused):
                on_progress(Progress("lora", note="Loading LoRA" if adapters else "Removing LoRA"))
                self._set_slot(slot, adapters=())
                pipeline.attach(slot, tuple(files[digest] for digest in adapters), unfused)
                self._set_slot(slot, adapters=adapters, unfused=unfused)
            case Merge(slot, merges, unfused):
                on_progress(Progress("lora", note="Merging LoRA" if merges else "Restoring base weights"))
                self._set_slot(slot, merges=())
                pipeline.merge(slot, tuple((files[digest], scale) for digest, scale in merges), unfused)
                self._set_slot(slot, merges=merges, unfused=unfused)
            case Store(storage):
                on_progress(Progress("loading", note="Converting weights to fp8"))
                state, self.state = self._loaded_state(), None  # a partially packed model cannot be reused
                pipeline.store(storage, generation)
                self.state = replace(state, storage=storage)
            case SetScales(slot, scales):
                pipeline.set_scales(slot, scales)

    def _loaded_pipeline(self) -> Pipeline:
        if self.pipeline is None:
            raise AssertionError("plan() loads a model before anything else")
        return self.pipeline

    def _loaded_state(self) -> LoadedState:
        if self.state is None:
            raise AssertionError("a model is loaded while its steps are done")
        return self.state

    def _set_slot(self, slot: str, **changes: Any) -> None:
        state = self._loaded_state()
        self.state = replace(state, slots={**state.slots, slot: replace(state.slots[slot], **changes)})

    def _lora_report(
        self, generation: Generation, files: Mapping[str, LoraFile], clip: Clip
    ) -> dict[str, dict[str, Any]]:
        """By slot: counts over its files, what was dropped, how much changed, and each file by itself."""
        by_slot: dict[str, dict[str, Any]] = {}
        for slot in dict.fromkeys(use.slot for use in generation.loras):
            effects = self._loaded_pipeline().effect(slot)
            uses = [use for use in generation.loras if use.slot == slot]
            reports = [
                {
                    "name": files[use.path].name,
                    "sha256": files[use.path].sha256,
                    "network_multiplier": scale_body(use.scale),
                    **(effects.get(files[use.path].sha256) or _not_attached()),
                }
                for use in uses
            ]
            by_slot[slot] = {
                "modules_in_file": sum(report["modules_in_file"] for report in reports),
                "modules_in_use": sum(report["modules_in_use"] for report in reports),
                "dropped": [item for report in reports for item in report["dropped"]],
                "weight_change": max((report["weight_change"] for report in reports), key=lambda c: c["median"]),
                "first_step_change": clip.metadata["first_step_change"].get(slot),
                "files": reports,
            }
        return by_slot
