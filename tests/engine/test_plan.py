"""plan() and Core as tables, with a pipeline that only records its calls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.lora_files import lora_file
from wan_ui.engine.core import (
    NOTHING_ATTACHED,
    Attach,
    AttachedLoras,
    Cast,
    Core,
    LoadedState,
    LoadModel,
    Merge,
    RequiredState,
    SetScales,
    Step,
    Storage,
    Store,
    plan,
    required_state,
    state_after_load,
)
from wan_ui.engine.result import Clip, OnProgress, Progress
from wan_ui.errors import LoraMismatch, OutOfMemory
from wan_ui.lora.library import LoraFile
from wan_ui.request import Generation, parse, resolve
from wan_ui.scale import Scale

A, B = "a" * 64, "b" * 64
ALL, DORA, NONE = frozenset({"lora", "dora"}), frozenset({"dora"}), frozenset[str]()


def adapters(*digests: str) -> AttachedLoras:
    return AttachedLoras(digests, (), ALL)


def merged(scale: float) -> AttachedLoras:
    return AttachedLoras((), ((A, scale),), DORA)


def wanted(model: str = "m", whole: bool = False, **slots: AttachedLoras) -> RequiredState:
    attached = slots or {"single": NOTHING_ATTACHED}
    return RequiredState(
        model, whole, attached, {slot: dict.fromkeys(item.adapters, 1.0) for slot, item in attached.items()}
    )


def packed(target: RequiredState, how: Storage = "fp8_storage") -> RequiredState:
    return replace(target, storage=how)


BASE = LoadedState("m", False, {"single": NOTHING_ATTACHED})
WITH_A = LoadedState("m", False, {"single": adapters(A)})
MERGED_A = LoadedState("m", True, {"single": merged(1.0)})
MERGED_A_IN_PLACE = AttachedLoras((), ((A, 1.0),), ALL)
PACKED = replace(BASE, storage="fp8_storage")
PACKED_WITH_A = replace(WITH_A, storage="fp8_storage")
PAIR = LoadedState("m", False, {"high": adapters(A), "low": adapters(B)})

TABLE: list[tuple[str, LoadedState | None, RequiredState, list[Step]]] = [
    ("nothing loaded", None, wanted(), [LoadModel("m")]),
    (
        "nothing loaded, a LoRA",
        None,
        wanted(single=adapters(A)),
        [LoadModel("m"), Attach("single", (A,), ALL), SetScales("single", {A: 1.0})],
    ),
    ("the same base", BASE, wanted(), []),
    ("the same LoRA: only the scale is sent", WITH_A, wanted(single=adapters(A)), [SetScales("single", {A: 1.0})]),
    ("another LoRA", WITH_A, wanted(single=adapters(B)), [Attach("single", (B,), ALL), SetScales("single", {B: 1.0})]),
    ("no LoRA after one", WITH_A, wanted(), [Attach("single", (), NONE)]),
    ("another model", WITH_A, wanted("n"), [LoadModel("n")]),
    (
        "preview after reference",
        WITH_A,
        wanted(whole=True, single=merged(1.0)),
        [Cast(True), Attach("single", (), DORA), Merge("single", ((A, 1.0),), DORA)],
    ),
    (
        "reference after preview: the base weights first, then the dtype",
        MERGED_A,
        wanted(single=adapters(A)),
        [Merge("single", (), DORA), Cast(False), Attach("single", (A,), ALL), SetScales("single", {A: 1.0})],
    ),
    (
        "another multiplier of a merge",
        MERGED_A,
        wanted(whole=True, single=merged(0.5)),
        [Merge("single", ((A, 0.5),), DORA)],
    ),
    (
        "only the low side changes",
        PAIR,
        wanted(high=adapters(A), low=NOTHING_ATTACHED),
        [Attach("low", (), NONE), SetScales("high", {A: 1.0})],
    ),
    (
        "a fresh preview model is cast",
        None,
        wanted(whole=True),
        [LoadModel("m"), Cast(True)],
    ),
    ("packed after exact", BASE, packed(wanted()), [Store("fp8_storage")]),
    (
        "packed with a LoRA: after it, before its scale",
        None,
        packed(wanted(single=adapters(A)), "fp8_products"),
        [LoadModel("m"), Attach("single", (A,), ALL), Store("fp8_products"), SetScales("single", {A: 1.0})],
    ),
    (
        "a merge goes into the weights before they are packed",
        BASE,
        packed(wanted(single=MERGED_A_IN_PLACE)),
        [Merge("single", MERGED_A_IN_PLACE.merges, ALL), Store("fp8_storage")],
    ),
    ("exact after packed: read again", PACKED, wanted(), [LoadModel("m")]),
    (
        "exact after packed, with the same LoRA",
        PACKED_WITH_A,
        wanted(single=adapters(A)),
        [LoadModel("m"), Attach("single", (A,), ALL), SetScales("single", {A: 1.0})],
    ),
    ("packed as before", PACKED, packed(wanted()), []),
    (
        "another LoRA beside packed weights",
        PACKED_WITH_A,
        packed(wanted(single=adapters(B))),
        [Attach("single", (B,), ALL), SetScales("single", {B: 1.0})],
    ),
    ("products after storage: the same weights", PACKED, packed(wanted(), "fp8_products"), [Store("fp8_products")]),
    (
        "another merge into packed weights: read again",
        replace(PACKED, slots={"single": MERGED_A_IN_PLACE}),
        packed(wanted(single=replace(MERGED_A_IN_PLACE, merges=((A, 0.5),)))),
        [LoadModel("m"), Merge("single", ((A, 0.5),), ALL), Store("fp8_storage")],
    ),
    (
        "the same merge in packed weights",
        replace(PACKED, slots={"single": MERGED_A_IN_PLACE}),
        packed(wanted(single=MERGED_A_IN_PLACE)),
        [],
    ),
    (
        "a preview after packed weights",
        PACKED,
        wanted(whole=True, single=merged(1.0)),
        [LoadModel("m"), Cast(True), Merge("single", ((A, 1.0),), DORA)],
    ),
]


@pytest.mark.parametrize(("loaded", "target", "steps"), [case[1:] for case in TABLE], ids=[case[0] for case in TABLE])
def test_plan(loaded: LoadedState | None, target: RequiredState, steps: list[Step]) -> None:
    assert plan(loaded, target) == steps


def generation(model: str = "wan21_1b", recipe: str = "reference", speedup: str = "none", **loras: float) -> Generation:
    """One generation; `loras` maps `single`, `high` or `low` to a multiplier of the file of that name."""
    items = [
        {"path": f"{slot}.safetensors", "network_multiplier": scale}
        | ({} if slot == "single" else {"transformer": slot})
        for slot, scale in loras.items()
    ]
    body = {"model": model, "recipe": recipe, "speedup": speedup, "prompts": [{"prompt": "x"}], "loras": items}
    return resolve(parse(body), lambda _: "")[0]


def located(item: Generation, types: Mapping[str, str] | None = None) -> dict[str, LoraFile]:
    kinds = types or {}
    return {use.path: lora_file(use.path, kinds.get(use.slot, "lora")) for use in item.loras}


def test_multiplier_zero_is_not_wanted() -> None:
    item = generation(single=0.0)
    assert required_state(item, located(item)).slots == {"single": NOTHING_ATTACHED}


def test_how_a_type_is_applied() -> None:
    plain, preview = generation(single=1.0), generation(recipe="preview", single=1.0)
    digest = lora_file("single.safetensors").sha256
    for item, kind, attached in (
        (plain, "lora", AttachedLoras((digest,), (), ALL)),
        (plain, "dora", AttachedLoras((digest,), (), ALL)),
        (plain, "lokr", AttachedLoras((), ((digest, 1.0),), ALL)),
        (plain, "lora+diff", AttachedLoras((digest,), ((digest, 1.0),), ALL)),
        (preview, "lora", AttachedLoras((), ((digest, 1.0),), DORA)),
        (preview, "dora", AttachedLoras((digest,), (), DORA)),
        (preview, "dora+lora", AttachedLoras((digest,), ((digest, 1.0),), DORA)),
        (preview, "full", AttachedLoras((), ((digest, 1.0),), DORA)),
    ):
        assert required_state(item, located(item, {"single": kind})).slots["single"] == attached


class Scribe:
    """A pipeline that records its calls. `failing` names the calls that raise."""

    def __init__(self, diary: list[tuple[Any, ...]], failing: dict[str, Exception]) -> None:
        self.diary, self.failing = diary, failing
        self.attached: dict[str, tuple[LoraFile, ...]] = {}

    def _note(self, *entry: Any) -> None:
        self.diary.append(entry)
        if entry[0] in self.failing:
            raise self.failing.pop(entry[0])

    def cast(self, whole_bf16: bool) -> None:
        self._note("cast", whole_bf16)

    def attach(self, slot: str, files: tuple[LoraFile, ...], unfused: frozenset[str]) -> None:
        self._note("attach", slot, tuple(file.name for file in files))
        self.attached = {slot: files}

    def merge(self, slot: str, files: tuple[tuple[LoraFile, float], ...], unfused: frozenset[str]) -> None:
        self._note("merge", slot, tuple((file.name, scale) for file, scale in files))

    def effect(self, slot: str) -> Mapping[str, Mapping[str, Any]]:
        counts = {
            "modules_in_file": 3,
            "modules_in_use": 3,
            "dropped": (),
            "weight_change": {"median": 0.1, "max": 0.2},
        }
        return {file.sha256: {"applied": "adapter", **counts} for file in self.attached.get(slot, ())}

    def store(self, storage: str, generation: Generation) -> None:
        self._note("store", storage)

    def set_scales(self, slot: str, scales: Mapping[str, Scale]) -> None:
        self._note("scales", slot, tuple(scales.values()))

    def render(self, generation: Generation, image: object, on_progress: OnProgress) -> Clip:
        self._note("render", generation.seed)
        frames = np.zeros((1, 64, 64, 3), np.uint8)
        return Clip(frames, 64, 64, 1, 16, generation.seed, {"first_step_change": {"high": 0.3}})

    def close(self) -> None:
        self._note("close")


class Planner:
    """A Core over scribes, and their common diary."""

    def __init__(self) -> None:
        self.diary: list[tuple[Any, ...]] = []
        self.failing: dict[str, Exception] = {}
        self.core = Core(self._load)

    def _load(self, model: Any, generation: Generation, before: object, on_progress: OnProgress) -> Scribe:
        self.diary.append(("load", model.id, before is not None))
        if "load" in self.failing:
            raise self.failing.pop("load")
        return Scribe(self.diary, self.failing)

    def run(self, item: Generation) -> list[tuple[Any, ...]]:
        """Renders, and returns what was done for it."""
        start = len(self.diary)
        self.core.generate(item, located(item), (), ignore)
        return self.diary[start:]

    def fails(self, item: Generation, call: str, error: Exception) -> None:
        self.failing[call] = error
        with pytest.raises(type(error)):
            self.core.generate(item, located(item), (), ignore)


def ignore(progress: Progress) -> None:
    """Nobody listens."""


ATTACH = ("attach", "single", ("single.safetensors",))


def test_changing_scale_file_and_back_never_loads() -> None:
    service = Planner()
    assert service.run(generation(single=0.5)) == [
        ("load", "wan21_1b", False),
        ATTACH,
        ("scales", "single", (0.5,)),
        ("render", 42),
    ]
    assert service.run(generation(single=1.0)) == [("scales", "single", (1.0,)), ("render", 42)]
    assert service.run(generation(single=0.0)) == [("attach", "single", ()), ("render", 42)]
    assert service.run(generation(single=1.0)) == [ATTACH, ("scales", "single", (1.0,)), ("render", 42)]
    assert service.run(generation()) == [("attach", "single", ()), ("render", 42)]
    assert service.run(generation("wan21_14b")) == [("load", "wan21_14b", True), ("render", 42)]


def test_packed_weights_are_read_again_for_an_exact_video() -> None:
    service = Planner()
    service.run(generation(single=1.0))
    assert service.run(generation(single=0.5, speedup="fp8_storage")) == [
        ("store", "fp8_storage"),
        ("scales", "single", (0.5,)),
        ("render", 42),
    ]
    assert service.run(generation(single=0.5, speedup="fp8_products"))[0] == ("store", "fp8_products")
    assert service.run(generation(speedup="fp8_products")) == [("attach", "single", ()), ("render", 42)]
    assert service.run(generation(speedup="step_cache")) == [("load", "wan21_1b", True), ("render", 42)]
    assert service.run(generation()) == [("render", 42)]


def test_weights_that_were_packed_by_half_are_read_again() -> None:
    service = Planner()
    service.run(generation())
    service.fails(generation(speedup="fp8_storage"), "store", RuntimeError("no"))
    assert service.core.state is None
    assert service.run(generation())[0] == ("load", "wan21_1b", True)


def test_each_slot_has_its_own_scale() -> None:
    service = Planner()
    service.run(generation("wan22_14b_t2v", high=1.0, low=0.6))
    assert service.run(generation("wan22_14b_t2v", high=0.3, low=0.6)) == [
        ("scales", "high", (0.3,)),
        ("scales", "low", (0.6,)),
        ("render", 42),
    ]
    assert service.run(generation("wan22_14b_t2v", high=0.3)) == [
        ("attach", "low", ()),
        ("scales", "high", (0.3,)),
        ("render", 42),
    ]


def test_a_failed_attach_leaves_the_base_and_the_next_job_runs() -> None:
    service = Planner()
    service.run(generation())
    service.fails(generation(single=1.0), "attach", LoraMismatch("no"))
    assert service.core.state == LoadedState("wan21_1b", False, {"single": NOTHING_ATTACHED})
    assert service.run(generation(single=1.0)) == [ATTACH, ("scales", "single", (1.0,)), ("render", 42)]


def test_a_failed_load_holds_nothing() -> None:
    service = Planner()
    service.run(generation())
    service.fails(generation("wan21_14b"), "load", OutOfMemory("no"))
    assert service.core.state is None
    assert service.run(generation("wan21_14b"))[0] == ("load", "wan21_14b", False)


def test_out_of_memory_in_a_render_lets_go_of_the_model() -> None:
    service = Planner()
    service.fails(generation(), "render", OutOfMemory("no"))
    assert service.diary[-1] == ("close",)
    assert service.run(generation())[0] == ("load", "wan21_1b", False)


def test_the_report_counts_modules_per_slot() -> None:
    service = Planner()
    item = generation("wan22_14b_t2v", high=1.0, low=0.0)
    clip = service.core.generate(item, located(item), (), ignore)
    lora = clip.metadata["lora"]
    assert lora["high"]["modules_in_use"] == lora["high"]["modules_in_file"] == 3
    assert lora["high"]["first_step_change"] == 0.3
    assert lora["low"]["files"][0]["applied"] == "not attached"
    assert lora["low"]["first_step_change"] is None
    assert lora["high"]["files"][0]["name"] == "high.safetensors"
    assert json.dumps(lora["low"])  # as it goes into the MP4


def test_a_model_just_loaded_has_no_lora() -> None:
    assert state_after_load(replace(wanted(single=adapters(A)), model="n")) == LoadedState(
        "n", False, {"single": NOTHING_ATTACHED}
    )


def test_lora_files_of_tests_are_distinct() -> None:
    assert lora_file("a").sha256 != lora_file("b").sha256
    assert lora_file("a").path == Path("a")
