"""One loaded model: what is held, what is wanted, and the steps between. It knows no framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from PIL import Image

from wan_ui.engine.recipes import RECIPES, unfused_kinds
from wan_ui.engine.result import Clip, OnProgress, Progress
from wan_ui.errors import OutOfMemory
from wan_ui.lora.library import LoraFile
from wan_ui.models import Speedup, WanModel
from wan_ui.request import Generation, model_row

Storage = Literal["exact", "fp8_storage", "fp8_products"]
"""How the transformers' weights are kept. There is no way back from fp8 but to read them again."""

BaseNames = str | tuple[tuple[str, str], ...]
"""A generation's `base`: where the model's files come from. Another base is another load."""

Report = Mapping[str, Any]
"""What a LoRA does on a slot, JSON-ready: modules_in_file, modules_in_use, dropped, weight_change, applied."""


class Pipeline(Protocol):
    """A loaded model, as the diffusers room provides it. A method that raises leaves that part as the base model."""

    def cast(self, whole_bf16: bool) -> None: ...

    def attach(self, slot: str, files: tuple[LoraFile, ...], unfused: frozenset[str]) -> None: ...

    def merge(self, slot: str, files: tuple[tuple[LoraFile, float], ...], unfused: frozenset[str]) -> None: ...

    def store(self, storage: Storage, generation: Generation) -> None: ...

    def set_scales(self, slot: str, weights: Mapping[str, float]) -> None: ...

    def effect(self, slot: str) -> Mapping[str, Report]: ...

    def render(self, generation: Generation, image: Image.Image | None, on_progress: OnProgress) -> Clip: ...

    def close(self) -> None: ...


Load = Callable[[WanModel, Generation, "Pipeline | None", OnProgress], Pipeline]
"""Loads a row with room for the generation; takes over what it can from the pipeline held before, and closes it."""


@dataclass(frozen=True)
class AttachedLoras:
    """What one transformer wears, by the files' SHA-256: unfused adapters, and merges with their multipliers.

    `unfused` are the kinds of layers that stay adapters; a file with layers of both ways appears in both.
    """

    adapters: tuple[str, ...] = ()
    merges: tuple[tuple[str, float], ...] = ()
    unfused: frozenset[str] = frozenset()


NOTHING_ATTACHED = AttachedLoras()


def _not_attached() -> Report:
    """The report of a LoRA at a multiplier of 0: made anew each time, since it ends in a clip's metadata, as JSON."""
    return {
        "applied": "not attached",
        "modules_in_file": 0,
        "modules_in_use": 0,
        "dropped": [],
        "weight_change": {"median": 0.0, "max": 0.0},
    }


@dataclass(frozen=True)
class LoadedState:
    """What the engine holds. Replaced whole, never changed."""

    model: str
    whole_bf16: bool
    slots: Mapping[str, AttachedLoras]
    storage: Storage = "exact"
    base: BaseNames = "auto"


@dataclass(frozen=True)
class RequiredState:
    """What a generation needs. `weights` are the unfused adapters' scales."""

    model: str
    whole_bf16: bool
    slots: Mapping[str, AttachedLoras]
    weights: Mapping[str, Mapping[str, float]]
    storage: Storage = "exact"
    base: BaseNames = "auto"


@dataclass(frozen=True)
class LoadModel:
    model: str


@dataclass(frozen=True)
class Cast:
    whole_bf16: bool


@dataclass(frozen=True)
class Attach:
    slot: str
    adapters: tuple[str, ...]
    unfused: frozenset[str]


@dataclass(frozen=True)
class Merge:
    slot: str
    merges: tuple[tuple[str, float], ...]
    unfused: frozenset[str]


@dataclass(frozen=True)
class Store:
    storage: Storage


@dataclass(frozen=True)
class SetScales:
    slot: str
    weights: Mapping[str, float]


Step = LoadModel | Cast | Attach | Merge | Store | SetScales


def required_state(generation: Generation, files: Mapping[str, LoraFile]) -> RequiredState:
    """What a generation needs: its LoRAs by slot and by how their layers are applied; multiplier 0 is left out."""
    row, recipe = model_row(generation.model), RECIPES[generation.recipe]
    unfused = unfused_kinds(recipe)
    slots: dict[str, AttachedLoras] = dict.fromkeys(row.slots, NOTHING_ATTACHED)
    weights: dict[str, dict[str, float]] = {slot: {} for slot in row.slots}
    for use in generation.loras:
        if use.multiplier == 0:
            continue
        file, attached = files[use.path], replace(slots[use.slot], unfused=unfused)
        kinds = {module.kind for module in file.header.in_slot(use.slot)}
        if kinds & unfused:
            attached = replace(attached, adapters=(*attached.adapters, file.sha256))
            weights[use.slot][file.sha256] = use.multiplier
        if kinds - unfused:
            attached = replace(attached, merges=(*attached.merges, (file.sha256, use.multiplier)))
        slots[use.slot] = attached
    return RequiredState(row.id, recipe.whole_bf16, slots, weights, storage(generation.speedup), base=generation.base)


def storage(speedup: Speedup) -> Storage:
    """How a speed-up wants the weights to be kept."""
    return speedup if speedup in ("fp8_storage", "fp8_products") else "exact"


def plan(held: LoadedState | None, wanted: RequiredState) -> list[Step]:
    """The steps from what is held to what is wanted, in order. Scales are sent every time.

    Weights are packed last, once merged; what needs the exact ones after that reads them again. Adapters come and go
    beside packed weights as beside exact ones.
    """
    steps: list[Step] = []
    if (
        held is None
        or (held.model, held.base) != (wanted.model, wanted.base)
        or _needs_exact_weights_again(held, wanted)
    ):
        steps.append(LoadModel(wanted.model))
        held = state_after_load(wanted)
    slots = dict(held.slots)
    if held.whole_bf16 != wanted.whole_bf16:
        for slot, attached in slots.items():
            if attached.merges:
                steps.append(Merge(slot, (), attached.unfused))
                slots[slot] = replace(attached, merges=())
        steps.append(Cast(wanted.whole_bf16))
    for slot, attached in wanted.slots.items():
        now = slots[slot]
        other_way = now.unfused != attached.unfused
        if now.adapters != attached.adapters or (other_way and attached.adapters):
            steps.append(Attach(slot, attached.adapters, attached.unfused))
        if _merges_differ(now, attached):
            steps.append(Merge(slot, attached.merges, attached.unfused))
    if held.storage != wanted.storage:
        steps.append(Store(wanted.storage))
    steps += [SetScales(slot, weights) for slot, weights in wanted.weights.items() if weights]
    return steps


def _merges_differ(now: AttachedLoras, attached: AttachedLoras) -> bool:
    return now.merges != attached.merges or (now.unfused != attached.unfused and bool(attached.merges))


def _needs_exact_weights_again(held: LoadedState, wanted: RequiredState) -> bool:
    return held.storage != "exact" and (
        wanted.storage == "exact"
        or held.whole_bf16 != wanted.whole_bf16
        or any(_merges_differ(held.slots[slot], attached) for slot, attached in wanted.slots.items())
    )


def state_after_load(wanted: RequiredState) -> LoadedState:
    """A model just loaded: the checkpoint's own dtypes, nothing worn."""
    slots = dict.fromkeys(wanted.slots, NOTHING_ATTACHED)
    return LoadedState(wanted.model, whole_bf16=False, slots=slots, base=wanted.base)


class Core:
    """Holds one model and brings it to what each generation needs. One thread at a time may call it."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._pipeline: Pipeline | None = None
        self._held: LoadedState | None = None

    @property
    def held(self) -> LoadedState | None:
        return self._held

    def generate(
        self,
        generation: Generation,
        files: Mapping[str, LoraFile],
        image: Image.Image | None,
        on_progress: OnProgress,
    ) -> Clip:
        """One clip. `files` are the located LoRA files by the path written in the request.

        Raises what the steps raise; out of memory drops the model, so that the next job starts with a free GPU.
        """
        wanted = required_state(generation, files)
        by_digest = {file.sha256: file for file in files.values()}
        try:
            for step in plan(self._held, wanted):
                self._do(step, generation, wanted, by_digest, on_progress)
            clip = self._ready().render(generation, image, on_progress)
            return replace(clip, metadata={**clip.metadata, "lora": self._lora_report(generation, files, clip)})
        except OutOfMemory:
            self.close()
            raise

    def close(self) -> None:
        """Lets go of the model."""
        pipeline, self._pipeline, self._held = self._pipeline, None, None
        if pipeline is not None:
            pipeline.close()

    def _ready(self) -> Pipeline:
        if self._pipeline is None:
            raise AssertionError("plan() loads a model before anything else")
        return self._pipeline

    def _do(
        self,
        step: Step,
        generation: Generation,
        wanted: RequiredState,
        files: Mapping[str, LoraFile],
        on_progress: OnProgress,
    ) -> None:
        match step:
            case LoadModel(model):
                before, self._pipeline, self._held = self._pipeline, None, None
                self._pipeline = self._load(model_row(model), generation, before, on_progress)
                self._held = state_after_load(wanted)
            case Cast(whole_bf16):
                self._ready().cast(whole_bf16)
                self._held = replace(self._now(), whole_bf16=whole_bf16)
            case Attach(slot, adapters, unfused):
                on_progress(Progress("lora", note="attaching the LoRA" if adapters else "taking the LoRA off"))
                self._set(slot, replace(self._now().slots[slot], adapters=()))
                self._ready().attach(slot, tuple(files[digest] for digest in adapters), unfused)
                self._set(slot, replace(self._now().slots[slot], adapters=adapters, unfused=unfused))
            case Merge(slot, merges, unfused):
                on_progress(Progress("lora", note="merging the LoRA" if merges else "restoring the base weights"))
                self._set(slot, replace(self._now().slots[slot], merges=()))
                self._ready().merge(slot, tuple((files[digest], scale) for digest, scale in merges), unfused)
                self._set(slot, replace(self._now().slots[slot], merges=merges, unfused=unfused))
            case Store(storage):
                on_progress(Progress("loading", note="packing the weights as fp8"))
                now, self._held = self._now(), None  # half packed is nothing to go on from
                self._ready().store(storage, generation)
                self._held = replace(now, storage=storage)
            case SetScales(slot, weights):
                self._ready().set_scales(slot, weights)

    def _now(self) -> LoadedState:
        if self._held is None:
            raise AssertionError("a model is held while its steps are done")
        return self._held

    def _set(self, slot: str, attached: AttachedLoras) -> None:
        now = self._now()
        self._held = replace(now, slots={**now.slots, slot: attached})

    def _lora_report(
        self, generation: Generation, files: Mapping[str, LoraFile], clip: Clip
    ) -> dict[str, dict[str, Any]]:
        """Per slot: counts over its files, what was dropped, how much changed, and each file by itself."""
        said: dict[str, dict[str, Any]] = {}
        for slot in dict.fromkeys(use.slot for use in generation.loras):
            effects = self._ready().effect(slot)
            uses = [use for use in generation.loras if use.slot == slot]
            reports = [
                {
                    "name": files[use.path].name,
                    "sha256": files[use.path].sha256,
                    "network_multiplier": use.multiplier,
                    **(effects.get(files[use.path].sha256) or _not_attached()),
                }
                for use in uses
            ]
            said[slot] = {
                "modules_in_file": sum(report["modules_in_file"] for report in reports),
                "modules_in_use": sum(report["modules_in_use"] for report in reports),
                "dropped": [item for report in reports for item in report["dropped"]],
                "weight_change": max((report["weight_change"] for report in reports), key=lambda c: c["median"]),
                "first_step_change": clip.metadata["first_step_change"].get(slot),
                "files": reports,
            }
        return said
