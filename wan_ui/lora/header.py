"""What a LoRA file is, from its header alone, and whether it fits a model; it reads no weights and knows no torch."""

from __future__ import annotations

import json
import math
import os
import re
import statistics
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from wan_ui.errors import LoraInvalid
from wan_ui.lora import geometry, keys
from wan_ui.lora.sound import Listing, TensorEntry, read_listing
from wan_ui.models import WanModel

Kind = Literal["lora", "dora", "lokr", "full", "diff", "bias"]

LONGEST_TEXT = 200  # characters of anything a file says about itself
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

    `slot`: "single" (nothing says), "high", "low" or "combined"; `slots`: the slots by the tensors' own names, ("single",) when
    they name no transformer. `dropped`: (key, why) of tensors that change nothing here.
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


def read_header(path: Path, name: str | None = None) -> LoraHeader:
    """Inspect a file without reading its weights (only the scalars called alpha).

    `name` is the file's original name where `path` is a stored upload; high or low is read from it.
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
    modules: list[ModuleInfo] = []
    dropped = list(grouped.foreign)
    for (slot, module), roles in grouped.parts.items():
        modules += _changes(listing, slot, module, roles, alphas, dropped)
    return _header(listing, grouped, tuple(modules), dropped, path.name if name is None else name)


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
    dropped: list[tuple[str, str]],
) -> list[ModuleInfo]:
    entries = {role: listing.tensors[key] for role, key in roles.items()}
    for role, entry in entries.items():
        if role != "alpha" and (entry.dtype not in _FLOATS or 0 in entry.shape or not entry.shape):
            raise LoraInvalid(f"{clean(roles[role])} is empty or not made of floating-point numbers.")
    kind = keys.weight_kind(roles)
    if kind != "diff" and "diff" in roles and kind is not None:
        raise LoraInvalid(f"The LoRA changes the weight of {module} twice.", module=module)
    alpha = alphas[roles["alpha"]] if "alpha" in roles else None
    changes: list[ModuleInfo] = []
    used: set[str] = set()
    if kind is not None:
        shape, rank = _weight_shape(kind, module, entries)
        changes.append(ModuleInfo(slot, module, _KINDS[kind], shape, rank, alpha))
        used |= _USED[kind]
    bias = entries.get("diff_b") or entries.get("up_bias")
    if bias is not None:
        changes.append(ModuleInfo(slot, module, "bias", bias.shape, None, None))
        used |= {"diff_b", "up_bias"}
    dropped += [(key, "its other half is missing") for role, key in roles.items() if role not in used]
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
        return entries["diff"].shape, None
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
                raise wrong
            sizes.append((shape[0], shape[1]))
        return (sizes[0][0] * sizes[1][0], sizes[0][1] * sizes[1][1]), rank
    down, up = entries["down"].shape, entries["up"].shape
    if len(down) < 2 or len(up) < 2 or down[0] != up[1] or math.prod(up[2:]) != 1:
        raise wrong
    return (up[0], *down[1:]), down[0]


def _header(
    listing: Listing,
    grouped: keys.Grouped,
    modules: tuple[ModuleInfo, ...],
    dropped: Sequence[tuple[str, str]],
    name: str,
) -> LoraHeader:
    told = _Told.of(listing.metadata)
    shapes = [(item.module, item.shape) for item in modules if item.kind != "bias"]
    slot = _slot(grouped.slots, name)
    ranks = [item.rank for item in modules if item.rank is not None]
    alphas = [item.alpha for item in modules if item.alpha is not None]
    return LoraHeader(
        type=_type(modules),
        slot=slot,
        slots=grouped.slots or (keys.SINGLE,),
        modules=modules,
        dropped=tuple((clean(key), why) for key, why in dropped[:MOST_REPORTED]),
        dropped_count=len(dropped),
        dtype=_dtype(listing, grouped),
        hidden=geometry.infer(shapes, "hidden"),
        ffn=geometry.infer(shapes, "ffn"),
        in_channels=geometry.infer(shapes, "in_channels"),
        blocks=tuple(sorted({n for item in modules if (n := geometry.block_of(item.module)) is not None})),
        image_layers=any(geometry.is_image_layer(item.module) for item in modules),
        rank=_spread(ranks),
        alpha=_spread([alpha for alpha in alphas if math.isfinite(alpha) and alpha < _NEVER_DIVIDED]),
        trainer=told.trainer,
        trainer_version=told.version,
        base_version=told.base,
        step=told.step,
        epoch=told.epoch,
        trigger_word=told.trigger,
        output_name=told.output_name,
        model_hash=told.hash,
        messages=_messages(grouped, modules, dropped, alphas),
    )


def _messages(
    grouped: keys.Grouped,
    modules: tuple[ModuleInfo, ...],
    dropped: Sequence[tuple[str, str]],
    alphas: Sequence[float],
) -> tuple[str, ...]:
    said: list[str] = []
    if not modules:
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


def _dtype(listing: Listing, grouped: keys.Grouped) -> str:
    counted = Counter(
        listing.tensors[key].dtype
        for roles in grouped.parts.values()
        for role, key in roles.items()
        if role != "alpha"
    ) or Counter(entry.dtype for entry in listing.tensors.values())
    return "mixed" if len(counted) > 1 else counted.most_common(1)[0][0]


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


def clean(text: str, longest: int = LONGEST_TEXT) -> str:
    """Untrusted text in one line: control, format and surrogate characters gone, capped."""
    kept = "".join(character if character.isprintable() else " " for character in text[: 4 * longest])
    kept = " ".join(kept.split())
    return kept if len(kept) <= longest else kept[: longest - 1] + "…"


@dataclass(frozen=True)
class _Told:
    """What the metadata claims."""

    trainer: str | None
    version: str | None
    base: str | None
    step: int | None
    epoch: int | None
    trigger: str | None
    output_name: str | None
    hash: str | None

    @staticmethod
    def of(metadata: Mapping[str, str]) -> _Told:
        software = _json(metadata.get("software"))
        info = _json(metadata.get("training_info"))
        trainer, version = _text(software.get("name")), _text(software.get("version"))
        network = metadata.get("ss_network_module", "")
        if trainer is None and network:
            trainer = "musubi-tuner" if "lora_wan" in network or "networks.lo" in network else clean(network)
        return _Told(
            trainer=trainer,
            version=version,
            base=_text(metadata.get("ss_base_model_version")) or _text(metadata.get("modelspec.architecture")),
            step=_whole(info.get("step"), metadata.get("ss_steps"), metadata.get("step")),
            epoch=_whole(info.get("epoch"), metadata.get("ss_epoch"), metadata.get("epoch")),
            trigger=_trigger(metadata),
            output_name=_text(metadata.get("ss_output_name")) or _text(metadata.get("name")),
            hash=_text(metadata.get("sshs_model_hash")),
        )


def _json(text: str | None) -> Mapping[str, Any]:
    if not text:
        return MappingProxyType({})
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return MappingProxyType({})
    return value if isinstance(value, dict) else MappingProxyType({})


def _text(value: object) -> str | None:
    return (clean(value) or None) if isinstance(value, str) else None


def _whole(*values: object) -> int | None:
    for value in values:
        if type(value) is int and 0 <= value < 2**53:
            return value
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,15}", value):
            return int(value)
    return None


def _trigger(metadata: Mapping[str, str]) -> str | None:
    """The trigger word: as a trainer states it, or the tag that AI Toolkit writes for it, or the commonest tag."""
    for name in ("modelspec.trigger_phrase", "trigger_word", "trigger_words", "ss_trigger_words"):
        stated = _text(metadata.get(name))
        if stated:
            return stated
    tags: Counter[str] = Counter()
    for counted in _json(metadata.get("ss_tag_frequency")).values():
        if isinstance(counted, dict):
            tags.update({tag: count for tag, count in counted.items() if type(count) is int and 0 < count < 2**53})
    if not tags:
        return None
    return clean(tags.most_common(1)[0][0]) or None


def no_configs(row: WanModel, slot: str) -> Mapping[str, Any] | None:
    """The configs of a machine without checkpoints: none; the table's sizes are used."""
    return None
