"""What a LoRA file is, from its header alone, and whether it fits a model; it reads no weights and knows no torch."""

from __future__ import annotations

import math
import os
import re
import statistics
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wan_ui.errors import LoraInvalid
from wan_ui.lora import geometry, keys
from wan_ui.lora.sound import Listing, TensorEntry, read_listing
from wan_ui.lora.told import Told, adapter_config, clean, stated_alpha
from wan_ui.models import WanModel

Kind = Literal["lora", "dora", "lokr", "full", "diff", "bias"]

MOST_REPORTED = 50  # keys named one by one
_NEVER_DIVIDED = 1e9  # AI Toolkit writes an alpha of 1e10 or infinity when both Kronecker factors are full
_FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}


@dataclass(frozen=True, slots=True)
class ModuleInfo:
    """One change of one module. `shape`: of the weight (or bias) it changes, as far as the tensors tell.

    `rank` is None for types without one; `alpha` is None where the file stores none (it then equals the rank).
    """

    slot: str
    module: str
    kind: Kind
    shape: tuple[int, ...]
    rank: int | None
    alpha: float | None


@dataclass(frozen=True)
class Spread:
    """A number over all modules that have it."""

    min: float
    median: float
    max: float


@dataclass(frozen=True)
class LoraHeader:
    """What the header of a sound LoRA file says. Texts are capped and without control characters, but untrusted.

    `slot`: "high", "low", "combined" or "unknown", by the tensors' names or else the file's. `slots`: by the tensors'
    names alone; ("single",) when they name no transformer. `alpha`: equal to the rank where the file stores none.
    `dropped`: (key, why) of tensors that change nothing here, the first 50 of `dropped_count`.
    """

    type: str
    slot: str
    slots: tuple[str, ...]
    modules: tuple[ModuleInfo, ...]
    dropped: tuple[tuple[str, str], ...]
    dropped_count: int
    dtype: str
    hidden: int | None
    ffn: int | None
    in_channels: int | None
    blocks: tuple[int, ...]
    image_layers: bool
    rank: Spread | None
    alpha: Spread | None
    trainer: str | None
    trainer_version: str | None
    base_version: str | None
    step: int | None
    epoch: int | None
    trigger_word: str | None
    output_name: str | None
    model_hash: str | None
    messages: tuple[str, ...]

    def module_names(self, slot: str) -> frozenset[str]:
        """The diffusers names of the modules that the file changes in a slot; a file of no slot changes any."""
        return frozenset(item.module for item in self.in_slot(slot))

    def in_slot(self, slot: str) -> tuple[ModuleInfo, ...]:
        """The changes for a slot of a model: "single", "high" or "low"."""
        return tuple(item for item in self.modules if item.slot in (slot, keys.SINGLE))


@dataclass(frozen=True)
class Change:
    """One change of one module, with the keys of its tensors by role."""

    info: ModuleInfo
    keys: Mapping[str, str]


@dataclass(frozen=True)
class Survey:
    """A sound LoRA file's tensors in order: what header and converter both start from."""

    listing: Listing
    slots: tuple[str, ...]
    changes: tuple[Change, ...]
    dropped: tuple[tuple[str, str], ...]


def survey(path: Path) -> Survey:
    """Group a file's tensors into changes of modules, without reading weights (only the scalars called alpha).

    Raises LoraInvalid when the file is not sound or holds no LoRA, LoraNotFound when it cannot be opened.
    """
    listing = read_listing(path)
    grouped = keys.group(listing.tensors)
    if not grouped.any_role:
        raise LoraInvalid(
            "The file is sound but holds no LoRA: its tensors are whole weights (a checkpoint, perhaps). "
            "Choose the LoRA file that the trainer saved."
        )
    alphas = _alphas(path, listing, grouped)
    config = adapter_config(listing.metadata)
    changes: list[Change] = []
    dropped = list(grouped.foreign)
    for (slot, module), roles in grouped.parts.items():
        found = _changes(listing, slot, module, roles, alphas, config)
        used = {key for change in found for key in change.keys.values()}
        dropped += [(key, "its other half is missing") for key in roles.values() if key not in used]
        changes += found
    return Survey(listing, grouped.slots, tuple(changes), tuple(dropped))


def read_header(path: Path, name: str | None = None) -> LoraHeader:
    """Inspect a file without reading its weights (only the scalars called alpha).

    `name` is the file's original name where `path` is a stored upload; high or low is read from it.
    Raises LoraInvalid when the file is not sound or holds no LoRA, LoraNotFound when it cannot be opened.
    """
    return _header(survey(path), path.name if name is None else name)


def _alphas(path: Path, listing: Listing, grouped: keys.Grouped) -> dict[str, float]:
    """The value of each `alpha`, by key; scalars of a few bytes each."""
    wanted = [roles["alpha"] for roles in grouped.parts.values() if "alpha" in roles]
    if not wanted:
        return {}
    values: dict[str, float] = {}
    with path.open("rb") as file:
        for key in wanted:
            entry = listing.tensors[key]
            if math.prod(entry.shape) != 1:
                raise LoraInvalid(f"{clean(key)} should be one number and is not.")
            values[key] = _scalar(entry, os.pread(file.fileno(), entry.end - entry.start, entry.start))
    return values


_SCALARS = {"F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i", "I16": "<h", "I8": "<b", "U8": "<B"}


def _scalar(entry: TensorEntry, raw: bytes) -> float:
    if entry.dtype == "BF16":
        return float(struct.unpack("<f", b"\0\0" + raw)[0])
    code = _SCALARS.get(entry.dtype)
    if code is None:
        raise LoraInvalid("The LoRA's alpha is stored as a type that is not supported.")
    return float(struct.unpack(code, raw)[0])


def _changes(
    listing: Listing,
    slot: str,
    module: str,
    roles: Mapping[str, str],
    alphas: Mapping[str, float],
    config: Mapping[str, Any],
) -> list[Change]:
    entries = {role: listing.tensors[key] for role, key in roles.items()}
    for role, entry in entries.items():
        if role != "alpha" and (entry.dtype not in _FLOATS or 0 in entry.shape or not entry.shape):
            raise LoraInvalid(f"{clean(roles[role])} is empty or not made of floating-point numbers.")
    kind = keys.weight_kind(roles)
    if ("diff" in roles and kind not in ("diff", None)) or {"diff_b", "up_bias"} <= set(roles):
        raise LoraInvalid(f"The LoRA changes {module} twice.", module=module)
    alpha = alphas[roles["alpha"]] if "alpha" in roles else None
    rank: int | None = None
    changes: list[Change] = []
    if kind is not None:
        shape, rank = _weight_shape(kind, module, entries)
        if alpha is None and rank is not None and kind != "lokr":
            alpha = stated_alpha(config, "transformer_2" if slot == keys.LOW else "transformer", module, rank)
        info = ModuleInfo(slot, module, _KINDS[kind], shape, rank, alpha)
        changes.append(Change(info, {role: key for role, key in roles.items() if role in _USED[kind]}))
    for role in ("diff_b", "up_bias"):
        if role in roles and (role == "diff_b" or kind in ("lora", "dora")):
            info = ModuleInfo(slot, module, "bias", entries[role].shape, rank, alpha if role == "up_bias" else None)
            changes.append(Change(info, {role: roles[role]}))
    return changes


_KINDS: Mapping[str, Kind] = {"lora": "lora", "dora": "dora", "lokr": "lokr", "full": "full", "diff": "diff"}
_USED: Mapping[str, set[str]] = {
    "lora": {"down", "up", "alpha"},
    "dora": {"down", "up", "alpha", "magnitude"},
    "lokr": {"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "alpha"},
    "full": {"down"},
    "diff": {"diff"},
}


def _weight_shape(
    kind: str, module: str, entries: Mapping[str, TensorEntry]
) -> tuple[tuple[int, ...], int | None]:
    """The shape of the weight that the tensors change, and the rank."""
    wrong = LoraInvalid(f"The tensors of {module} do not fit together.", module=module)
    if kind == "diff":
        shape = entries["diff"].shape
        if keys.is_bare(module) and len(shape) == 2:
            shape = (1, *shape)
        return shape, None
    if kind == "full":
        if len(entries["down"].shape) != 2:
            raise wrong
        return entries["down"].shape, None
    if kind == "lokr":
        sizes: list[tuple[int, int]] = []
        rank: int | None = None
        for factor in ("lokr_w1", "lokr_w2"):
            if factor in entries:
                shape = entries[factor].shape
            else:
                a, b = entries[f"{factor}_a"].shape, entries[f"{factor}_b"].shape
                if len(a) != 2 or len(b) != 2 or a[1] != b[0]:
                    raise wrong
                shape, rank = (a[0], b[1]), b[0]
            if len(shape) != 2:
                raise LoraInvalid(f"The LoKr factors of {module} are of a kind that is not supported.", module=module)
            sizes.append((shape[0], shape[1]))
        return (sizes[0][0] * sizes[1][0], sizes[0][1] * sizes[1][1]), rank
    down, up = entries["down"].shape, entries["up"].shape
    if len(down) < 2 or len(up) < 2 or down[0] != up[1] or math.prod(up[2:]) != 1:
        raise wrong
    if kind == "dora":
        magnitude = entries["magnitude"].shape
        if magnitude[0] != up[0] or math.prod(magnitude) != up[0]:
            raise LoraInvalid(
                f"The DoRA magnitude of {module} is not one number per output: only that kind is supported.",
                module=module,
            )
    return (up[0], *down[1:]), down[0]


def _header(survey: Survey, name: str) -> LoraHeader:
    listing, dropped = survey.listing, survey.dropped
    modules = tuple(change.info for change in survey.changes)
    told = Told.of(listing.metadata)
    shapes = [(item.module, item.shape) for item in modules if item.kind != "bias"]
    ranks = [item.rank for item in modules if item.rank is not None and item.kind != "bias"]
    alphas = [
        float(item.rank) if item.alpha is None else item.alpha
        for item in modules
        if item.rank is not None and item.kind != "bias"
    ]
    return LoraHeader(
        type=_type(modules),
        slot=_slot(survey.slots, name),
        slots=survey.slots or (keys.SINGLE,),
        modules=modules,
        dropped=tuple((clean(key), why) for key, why in dropped[:MOST_REPORTED]),
        dropped_count=len(dropped),
        dtype=_dtype(survey),
        hidden=geometry.infer(shapes, "hidden"),
        ffn=geometry.infer(shapes, "ffn"),
        in_channels=geometry.infer(shapes, "in_channels"),
        blocks=tuple(sorted({n for item in modules if (n := geometry.block_of(item.module)) is not None})),
        image_layers=any(geometry.is_image_layer(item.module) for item in modules),
        rank=_spread([float(rank) for rank in ranks]),
        alpha=_spread([alpha for alpha in alphas if math.isfinite(alpha) and alpha < _NEVER_DIVIDED]),
        trainer=told.trainer,
        trainer_version=told.version,
        base_version=told.base,
        step=told.step,
        epoch=told.epoch,
        trigger_word=told.trigger,
        output_name=told.output_name,
        model_hash=told.hash,
        messages=_messages(survey, alphas),
    )


def _messages(survey: Survey, alphas: Sequence[float]) -> tuple[str, ...]:
    dropped = survey.dropped
    said: list[str] = []
    if not survey.changes:
        said.append("None of its layers exist in the Wan models: it was made for another family and would do nothing.")
    elif dropped:
        reasons = Counter(why for _, why in dropped).most_common(3)
        listed = ", ".join(f"{count} × {why}" for why, count in reasons)
        said.append(f"{len(dropped)} of its tensors change nothing here: {listed}.")
    if any(alpha == 0 for alpha in alphas):
        said.append("Some of its layers have an alpha of 0: they change nothing.")
    if any(math.isnan(alpha) for alpha in alphas):
        said.append("Some of its layers have an alpha that is no number.")
    return tuple(said)


def _type(modules: Sequence[ModuleInfo]) -> str:
    kinds = {item.kind for item in modules}
    if len(kinds) == 1:
        kind = kinds.pop()
        return "diff" if kind == "bias" else kind
    if not kinds:
        return "none"
    return "diff" if kinds == {"diff", "bias"} else "mixed"


def _dtype(survey: Survey) -> str:
    entries = survey.listing.tensors
    found = {
        entries[key].dtype for change in survey.changes for role, key in change.keys.items() if role != "alpha"
    } or {entry.dtype for entry in entries.values()}
    return "mixed" if len(found) > 1 else found.pop()


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread(min(values), statistics.median(values), max(values)) if values else None


_HIGH_OR_LOW = re.compile(r"(?:^|[^a-z0-9])(high|low)(?:[ _.-]*noise)?(?=$|[^a-z])")


def slot_of_name(name: str) -> str | None:
    """"high" or "low" as a file's name says, or None: it says neither, or both."""
    stem = name.lower().removesuffix(".safetensors")
    noisy = set(re.findall(r"(high|low)[ _.-]*noise", stem))
    found = noisy or set(_HIGH_OR_LOW.findall(stem))
    return found.pop() if len(found) == 1 else None


def _slot(slots: tuple[str, ...], name: str) -> str:
    if keys.HIGH in slots and keys.LOW in slots:
        return "combined"
    if slots and slots != (keys.SINGLE,):
        return slots[0]
    return slot_of_name(name) or "unknown"


def no_configs(row: WanModel, slot: str) -> Mapping[str, Any] | None:
    """The configs of a machine without checkpoints: none; the table's sizes are used."""
    return None
