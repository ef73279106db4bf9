"""A LoRA file's tensors grouped into changes of modules; it reads no weights and knows no models, no torch."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wan_ui.errors import LoraInvalid
from wan_ui.lora import key_map
from wan_ui.lora.metadata import adapter_config, stated_alpha
from wan_ui.lora.safetensors_header import SafetensorsHeader, TensorEntry, read_safetensors_header
from wan_ui.text import one_line

Kind = Literal["lora", "dora", "lokr", "full", "diff", "bias"]

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
class Change:
    """One change of one module, with the keys of its tensors by role."""

    info: ModuleInfo
    keys: Mapping[str, str]


@dataclass(frozen=True)
class Layers:
    """A sound LoRA file's tensors in order: what header and converter both start from."""

    listing: SafetensorsHeader
    slots: tuple[str, ...]
    changes: tuple[Change, ...]
    dropped: tuple[tuple[str, str], ...]


def find_layers(path: Path) -> Layers:
    """Group a file's tensors into changes of modules, without reading weights (only the scalars called alpha).

    Raises LoraInvalid when the file is not sound or holds no LoRA, LoraNotFound when it cannot be opened.
    """
    listing = read_safetensors_header(path)
    grouped = key_map.group(listing.tensors)
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
    return Layers(listing, grouped.slots, tuple(changes), tuple(dropped))


def _alphas(path: Path, listing: SafetensorsHeader, grouped: key_map.KeyGroup) -> dict[str, float]:
    """The value of each `alpha`, by key; scalars of a few bytes each."""
    wanted = [roles["alpha"] for roles in grouped.parts.values() if "alpha" in roles]
    if not wanted:
        return {}
    values: dict[str, float] = {}
    with path.open("rb") as file:
        for key in wanted:
            entry = listing.tensors[key]
            if math.prod(entry.shape) != 1:
                raise LoraInvalid(f"{one_line(key)} should be one number and is not.")
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
    listing: SafetensorsHeader,
    slot: str,
    module: str,
    roles: Mapping[str, str],
    alphas: Mapping[str, float],
    config: Mapping[str, Any],
) -> list[Change]:
    entries = {role: listing.tensors[key] for role, key in roles.items()}
    for role, entry in entries.items():
        if role != "alpha" and (entry.dtype not in _FLOATS or 0 in entry.shape or not entry.shape):
            raise LoraInvalid(f"{one_line(roles[role])} is empty or not made of floating-point numbers.")
    kind = key_map.weight_kind(roles)
    if ("diff" in roles and kind not in ("diff", None)) or {"diff_b", "up_bias"} <= set(roles):
        raise LoraInvalid(f"The LoRA changes {module} twice.", module=module)
    alpha = alphas[roles["alpha"]] if "alpha" in roles else None
    rank: int | None = None
    changes: list[Change] = []
    if kind is not None:
        shape, rank = _weight_shape(kind, module, entries)
        if alpha is None and rank is not None and kind != "lokr":
            alpha = stated_alpha(config, "transformer_2" if slot == key_map.LOW else "transformer", module, rank)
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


def _weight_shape(kind: str, module: str, entries: Mapping[str, TensorEntry]) -> tuple[tuple[int, ...], int | None]:
    """The shape of the weight that the tensors change, and the rank."""
    wrong = LoraInvalid(f"The tensors of {module} do not fit together.", module=module)
    if kind == "diff":
        shape = entries["diff"].shape
        if key_map.is_bare_parameter(module) and len(shape) == 2:
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
