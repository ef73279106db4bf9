"""One loaded model: what is held, what is wanted, and the steps between. It knows no framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol

from PIL import Image

from wan_ui.engine.clip import Clip, OnProgress, Progress
from wan_ui.engine.recipes import RECIPES, application
from wan_ui.errors import OutOfMemory
from wan_ui.lora.library import LoraFile
from wan_ui.models import WanModel
from wan_ui.request import Generation, model_row

Report = Mapping[str, Any]
"""What a LoRA does on a slot, JSON-ready: `applied`, `modules_in_file`, `modules_in_use`."""


class Pipeline(Protocol):
    """A loaded model, as the diffusers room provides it. A method that raises leaves that part as the base model."""

    def cast(self, whole_bf16: bool) -> None: ...

    def wear(self, slot: str, files: tuple[LoraFile, ...]) -> Mapping[str, Report]: ...

    def merge(self, slot: str, files: tuple[tuple[LoraFile, float], ...]) -> Mapping[str, Report]: ...

    def weigh(self, slot: str, weights: Mapping[str, float]) -> None: ...

    def render(self, generation: Generation, image: Image.Image | None, on_progress: OnProgress) -> Clip: ...

    def close(self) -> None: ...


Load = Callable[[WanModel, Generation, "Pipeline | None", OnProgress], Pipeline]
"""Loads a row with room for the generation; takes over what it can from the pipeline held before, and closes it."""


@dataclass(frozen=True)
class Worn:
    """What one transformer wears, by the files' SHA-256: unfused adapters, and merges with their multipliers."""

    adapters: tuple[str, ...] = ()
    merges: tuple[tuple[str, float], ...] = ()


BARE = Worn()
NOT_ATTACHED: Report = MappingProxyType({"applied": "not attached", "modules_in_file": 0, "modules_in_use": 0})


@dataclass(frozen=True)
class Held:
    """What the engine holds. Replaced whole, never changed."""

    model: str
    whole_bf16: bool
    slots: Mapping[str, Worn]
    reports: Mapping[str, Mapping[str, Report]] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Wanted:
    """What a generation needs. `weights` are the unfused adapters' scales."""

    model: str
    whole_bf16: bool
    slots: Mapping[str, Worn]
    weights: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class LoadModel:
    model: str


@dataclass(frozen=True)
class Cast:
    whole_bf16: bool


@dataclass(frozen=True)
class Wear:
    slot: str
    adapters: tuple[str, ...]


@dataclass(frozen=True)
class Merge:
    slot: str
    merges: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Weigh:
    slot: str
    weights: Mapping[str, float]


Step = LoadModel | Cast | Wear | Merge | Weigh


def want(generation: Generation, files: Mapping[str, LoraFile]) -> Wanted:
    """What a generation needs, its LoRAs sorted by slot and by how they are applied; multiplier 0 is left out."""
    row, recipe = model_row(generation.model), RECIPES[generation.recipe]
    slots: dict[str, Worn] = dict.fromkeys(row.slots, BARE)
    weights: dict[str, dict[str, float]] = {slot: {} for slot in row.slots}
    for use in generation.loras:
        if use.multiplier == 0:
            continue
        file, worn = files[use.path], slots[use.slot]
        if application(recipe, file.header.type) == "merge":
            slots[use.slot] = replace(worn, merges=(*worn.merges, (file.sha256, use.multiplier)))
        else:
            slots[use.slot] = replace(worn, adapters=(*worn.adapters, file.sha256))
            weights[use.slot][file.sha256] = use.multiplier
    return Wanted(row.id, recipe.whole_bf16, slots, weights)


def plan(held: Held | None, wanted: Wanted) -> list[Step]:
    """The steps from what is held to what is wanted, in order. Scales are sent every time."""
    steps: list[Step] = []
    if held is None or held.model != wanted.model:
        steps.append(LoadModel(wanted.model))
        held = fresh(wanted)
    slots = dict(held.slots)
    if held.whole_bf16 != wanted.whole_bf16:
        for slot, worn in slots.items():
            if worn.merges:
                steps.append(Merge(slot, ()))
                slots[slot] = replace(worn, merges=())
        steps.append(Cast(wanted.whole_bf16))
    for slot, worn in wanted.slots.items():
        if slots[slot].adapters != worn.adapters:
            steps.append(Wear(slot, worn.adapters))
        if slots[slot].merges != worn.merges:
            steps.append(Merge(slot, worn.merges))
    steps += [Weigh(slot, weights) for slot, weights in wanted.weights.items() if weights]
    return steps


def fresh(wanted: Wanted) -> Held:
    """A model just loaded: the checkpoint's own dtypes, nothing worn."""
    return Held(wanted.model, whole_bf16=False, slots=dict.fromkeys(wanted.slots, BARE))


class Core:
    """Holds one model and brings it to what each generation needs. One thread at a time may call it."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._pipeline: Pipeline | None = None
        self._held: Held | None = None

    @property
    def held(self) -> Held | None:
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
        wanted = want(generation, files)
        by_digest = {file.sha256: file for file in files.values()}
        try:
            for step in plan(self._held, wanted):
                self._do(step, generation, wanted, by_digest, on_progress)
            clip = self._ready().render(generation, image, on_progress)
        except OutOfMemory:
            self.close()
            raise
        return replace(clip, metadata={**clip.metadata, "lora": self._lora_report(generation, files)})

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
        wanted: Wanted,
        files: Mapping[str, LoraFile],
        on_progress: OnProgress,
    ) -> None:
        match step:
            case LoadModel(model):
                before, self._pipeline, self._held = self._pipeline, None, None
                self._pipeline = self._load(model_row(model), generation, before, on_progress)
                self._held = fresh(wanted)
            case Cast(whole_bf16):
                self._ready().cast(whole_bf16)
                self._held = replace(self._now(), whole_bf16=whole_bf16)
            case Wear(slot, adapters):
                on_progress(Progress("lora", note="attaching the LoRA" if adapters else "taking the LoRA off"))
                self._set(slot, replace(self._now().slots[slot], adapters=()), {})
                reports = self._ready().wear(slot, tuple(files[digest] for digest in adapters))
                self._set(slot, replace(self._now().slots[slot], adapters=adapters), reports)
            case Merge(slot, merges):
                on_progress(Progress("lora", note="merging the LoRA" if merges else "restoring the base weights"))
                self._set(slot, replace(self._now().slots[slot], merges=()), {})
                reports = self._ready().merge(slot, tuple((files[digest], scale) for digest, scale in merges))
                self._set(slot, replace(self._now().slots[slot], merges=merges), reports)
            case Weigh(slot, weights):
                self._ready().weigh(slot, weights)

    def _now(self) -> Held:
        if self._held is None:
            raise AssertionError("a model is held while its steps are done")
        return self._held

    def _set(self, slot: str, worn: Worn, reports: Mapping[str, Report]) -> None:
        now = self._now()
        kept = {digest: report for digest, report in now.reports.get(slot, {}).items() if digest in _digests(worn)}
        self._held = replace(
            now, slots={**now.slots, slot: worn}, reports={**now.reports, slot: {**kept, **reports}}
        )

    def _lora_report(self, generation: Generation, files: Mapping[str, LoraFile]) -> dict[str, dict[str, Any]]:
        reports = self._now().reports
        said: dict[str, dict[str, Any]] = {}
        for use in generation.loras:
            file = files[use.path]
            report = reports.get(use.slot, {}).get(file.sha256, NOT_ATTACHED)
            slot = said.setdefault(use.slot, {"modules_in_file": 0, "modules_in_use": 0, "files": []})
            for count in ("modules_in_file", "modules_in_use"):
                slot[count] += report[count]
            slot["files"].append(
                {"name": file.name, "sha256": file.sha256, "network_multiplier": use.multiplier, **report}
            )
        return said


def _digests(worn: Worn) -> set[str]:
    return {*worn.adapters, *(digest for digest, _ in worn.merges)}
