"""The layers that a LoRA file changes: what its tensors' names mean, and their shapes; it reads no weights.

Every writer names the same layers in its own way. Here each name becomes (transformer, diffusers module, role), and
the tensors of one module become one change. docs/loras.md lists the formats.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from wan_ui.errors import LoraInvalid
from wan_ui.lora.metadata import LoraMetadata, read_adapter_config
from wan_ui.lora.safetensors_header import SafetensorsHeader, TensorEntry, read_safetensors_header
from wan_ui.text import one_line

SINGLE, HIGH, LOW = "single", "high", "low"
MOST_BLOCKS = 1000
PEFT = "base_model.model."  # the prefix of files that keep their alpha in adapter_config.json

Kind = Literal["lora", "dora", "lokr", "loha", "full", "diff", "bias"]

_FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}

# Original (Wan-Video) name -> diffusers name, inside a block. One-to-one.
BLOCK_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "self_attn.q": "attn1.to_q",
        "self_attn.k": "attn1.to_k",
        "self_attn.v": "attn1.to_v",
        "self_attn.o": "attn1.to_out.0",
        "self_attn.norm_q": "attn1.norm_q",
        "self_attn.norm_k": "attn1.norm_k",
        "cross_attn.q": "attn2.to_q",
        "cross_attn.k": "attn2.to_k",
        "cross_attn.v": "attn2.to_v",
        "cross_attn.o": "attn2.to_out.0",
        "cross_attn.norm_q": "attn2.norm_q",
        "cross_attn.norm_k": "attn2.norm_k",
        "cross_attn.k_img": "attn2.add_k_proj",
        "cross_attn.v_img": "attn2.add_v_proj",
        "cross_attn.norm_k_img": "attn2.norm_added_k",
        "ffn.0": "ffn.net.0.proj",
        "ffn.2": "ffn.net.2",
        "norm3": "norm2",
        "modulation": "scale_shift_table",
    }
)

# The same outside the blocks.
OUTER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "patch_embedding": "patch_embedding",
        "text_embedding.0": "condition_embedder.text_embedder.linear_1",
        "text_embedding.2": "condition_embedder.text_embedder.linear_2",
        "time_embedding.0": "condition_embedder.time_embedder.linear_1",
        "time_embedding.2": "condition_embedder.time_embedder.linear_2",
        "time_projection.1": "condition_embedder.time_proj",
        "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
        "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
        "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
        "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
        "head.head": "proj_out",
        "head.modulation": "scale_shift_table",
    }
)

# Parameters that are no module's weight: diffusers' name of them does not end in ".weight".
BARE_PARAMETERS = ("scale_shift_table",)


def _aliases() -> tuple[dict[str, str], dict[str, str]]:
    """Every spelling, with dots as underscores -> diffusers name: original, diffusers', AI Toolkit's half-converted."""
    block: dict[str, str] = {}
    for original, diffusers in BLOCK_NAMES.items():
        spellings = {original, diffusers}
        kind, _, leaf = original.partition(".")
        if kind in ("self_attn", "cross_attn"):
            spellings.add(f"{kind}.{diffusers.partition('.')[2]}")  # self_attn.to_out.0, cross_attn.add_k_proj
            spellings.add(f"{diffusers.partition('.')[0]}.{leaf}")
        block.update((spelling.replace(".", "_"), diffusers) for spelling in spellings)
    outer = {
        spelling.replace(".", "_"): diffusers
        for original, diffusers in OUTER_NAMES.items()
        for spelling in (original, diffusers)
    }
    return block, outer


_BLOCK, _OUTER = _aliases()

# What writers put before the module's name, with dots as underscores.
_PREFIX = re.compile(
    r"(?:base_model_model_|model_diffusion_model_|diffusion_model_|model_|module_|net_|generator_|dit_|_?orig_mod_"
    r"|lora_unet__?|lora_|lycoris_)*"
    r"(?:(transformer(?:_[12])?|pipe_dit2?)_(?=blocks_|patch_|text_|time_|img_|head_|cond|proj_|scale_))?"
)
_PIPE = {"pipe_dit": "transformer", "pipe_dit2": "transformer_2"}  # DiffSynth's high and low
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")  # of training
_IN_BLOCK = re.compile(r"blocks_([0-9]{1,4})_(.+)")
_TEXT_ENCODER = re.compile(r"(?:lora_te[0-9]*_|text_encoder|te[0-9]*_|conditioner_)")
_ROLE = re.compile(
    r"\.(?:"
    r"lora_(?P<ab>A|B|down|up)(?:(?:\.[A-Za-z0-9_-]+)??\.(?P<wb>weight|bias))?"
    r"|lora\.(?P<old>down|up)\.weight"
    r"|(?P<lokr>lokr_(?:w1|w2)(?:_[ab])?|lokr_t2)"
    r"|(?P<loha>hada_(?:w1|w2)_[ab]|hada_t[12])"
    r"|(?P<dora>dora_scale|magnitude|lora_magnitude_vector(?:\.[A-Za-z0-9_-]+)??(?:\.weight)?)"
    r"|(?P<alpha>(?:lora_(?:A|B|down|up)\.)?(?:lora_|network_)?alpha)(?:\.[A-Za-z0-9_-]+)??(?:\.weight)?"
    r"|(?P<scale>(?:lora_)?alpha_scale)"
    r"|(?P<rank>lora_rank|network_dim)"
    r"|(?P<diff>diff_b|diff_m|diff|w_norm|b_norm)"
    r"|(?P<oft>oft_[A-Za-z0-9_.]+)"
    r"|(?P<boft>boft_[A-Za-z0-9_.]+)"
    r"|(?P<glora>glora_[A-Za-z0-9_.]+|[ab][12]\.weight)"
    r"|(?P<vera>vera_[A-Za-z0-9_.]+)"
    r"|(?P<ia3>ia3_[A-Za-z0-9_.]+|on_input)"
    r")$"
)
_STAND_IN = re.compile(r"[qkv]_loras\.(?:down|up)\.weight$")  # layers beside q, k, v for a reference image
_ROLE_OF = {"A": "down", "down": "down", "B": "up", "up": "up"}
_DIFFERENCES = {"diff": "diff", "diff_b": "diff_b", "w_norm": "diff", "b_norm": "diff_b"}  # the last two: LyCORIS
_UNSUPPORTED = {"oft": "OFT", "boft": "BOFT", "glora": "GLoRA", "vera": "VeRA", "ia3": "IA3"}
UNSUPPORTED_TYPES = (*_UNSUPPORTED.values(), "Stand-In")


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """A tensor's name. `tag`: what its prefix says of the transformer: "", "transformer", "transformer_1", "…_2"."""

    tag: str
    module: str
    role: str


@dataclass(frozen=True)
class KeyGroup:
    """A file's names by module.

    `roles`: (slot, diffusers module name) -> role -> key. `foreign`: keys that map to no layer, with the reason.
    `any_role`: whether any name is that of a LoRA tensor.
    """

    roles: Mapping[tuple[str, str], Mapping[str, str]]
    foreign: tuple[tuple[str, str], ...]
    slots: tuple[str, ...]
    any_role: bool


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
    """A valid LoRA file's changes in the file's order, which `header` and `convert` both start from.

    `dropped`: (key, reason) of the tensors that change nothing. `unsupported`: the type of a file without changes whose
    layers are of a type such as OFT.
    """

    file: SafetensorsHeader
    metadata: LoraMetadata
    slots: tuple[str, ...]
    changes: tuple[Change, ...]
    dropped: tuple[tuple[str, str], ...]
    unsupported: str | None = None


def find_layers(path: Path) -> Layers:
    """Groups a file's tensors into changes of modules, without reading weights (only the scalars called alpha).

    Raises LoraInvalid when the file is not valid or holds no LoRA, LoraNotFound when it cannot be opened.
    """
    file = read_safetensors_header(path)
    grouped = group_keys(file.tensors)
    if not grouped.any_role:
        raise LoraInvalid(
            "This safetensors file holds no LoRA: its tensors are whole weights (a checkpoint, perhaps). "
            "Choose the LoRA file that the trainer saved."
        )
    alphas = _alphas(path, file, grouped)
    changes: list[Change] = []
    dropped = list(grouped.foreign)
    for (slot, module), roles in grouped.roles.items():
        module_changes = _changes(file, slot, module, roles, alphas)
        used = {key for change in module_changes for key in change.keys.values()}
        used |= {key for role, key in roles.items() if role in ("alpha_scale", "rank") and module_changes}
        dropped += [(key, "its other half is missing") for key in roles.values() if key not in used]
        changes += module_changes
    reasons = {reason for _, reason in dropped}
    foreign = next((kind for kind in UNSUPPORTED_TYPES if not changes and unsupported(kind) in reasons), None)
    metadata = LoraMetadata.of(file.metadata)
    if not metadata.adapter_config and any(key.startswith(PEFT) for key in file.tensors):
        metadata = replace(metadata, adapter_config=read_adapter_config(path))
    if metadata.adapter_config:
        changes = [_with_stated_alpha(change, metadata) for change in changes]
    return Layers(file, metadata, grouped.slots, tuple(changes), tuple(dropped), foreign)


# Names


def role_of(key: str) -> tuple[str, str] | None:
    """(what stands before the role, role), or None when the key is not that of a LoRA tensor."""
    match = _ROLE.search(key)
    if match is None:
        return None
    kind = str(match.lastgroup)
    text = match.group(kind)
    stem = key[: match.start()]
    if match.group("ab"):
        return stem, _ROLE_OF[match.group("ab")] + ("_bias" if match.group("wb") == "bias" else "")
    if text == "diff_m":  # of the modulation table, which is the block's (or the head's) own parameter
        return f"{stem}.modulation", "diff"
    if kind == "diff":
        return stem, _DIFFERENCES[text]
    names = {"dora": "magnitude", "alpha": "alpha", "scale": "alpha_scale", "rank": "rank"}
    return stem, _UNSUPPORTED.get(kind) or names.get(kind) or text


def module_of(stem: str) -> tuple[str, str] | None:
    """(tag, diffusers module name) of a key without its role, or None when these models have no such layer."""
    flat = _WRAPPERS.sub("", stem).replace(".", "_")
    prefix = _PREFIX.match(flat)
    tag = (prefix.group(1) or "") if prefix else ""
    tag = _PIPE.get(tag, tag)
    body = flat[prefix.end() :] if prefix else flat
    block = _IN_BLOCK.fullmatch(body)
    if block is not None:
        name = _BLOCK.get(block.group(2))
        number = int(block.group(1))
        return None if name is None or number >= MOST_BLOCKS else (tag, f"blocks.{number}.{name}")
    outer = _OUTER.get(body)
    return None if outer is None else (tag, outer)


def parse_key(key: str) -> ParsedKey | str:
    """What a key names, or the reason why it changes nothing here."""
    split = role_of(key)
    if split is None:
        return unsupported("Stand-In") if _STAND_IN.search(key) else "not a LoRA tensor"
    stem, role = split
    if role in UNSUPPORTED_TYPES:
        return unsupported(role)
    tag_and_module = module_of(stem)
    if tag_and_module is None:
        flat = stem.replace(".", "_")
        return "a text encoder's layer" if _TEXT_ENCODER.match(flat) else "no such layer in the Wan models"
    return ParsedKey(*tag_and_module, role)


def unsupported(kind: str) -> str:
    """The reason why tensors of a type such as OFT change nothing."""
    return f"{kind}, which is not supported"


def group_keys(keys: Iterable[str]) -> KeyGroup:
    """A file's keys by slot and module.

    `transformer.` beside `transformer_2.` is diffusers' high and low; alone it names no side.
    Raises LoraInvalid when two keys name the same tensor of the same module.
    """
    parsed: list[tuple[str, ParsedKey]] = []
    foreign: list[tuple[str, str]] = []
    any_role = False
    for key in keys:
        named = parse_key(key)
        any_role = any_role or role_of(key) is not None or named == unsupported("Stand-In")
        if isinstance(named, str):
            foreign.append((key, named))
        else:
            parsed.append((key, named))
    both = any(named.tag == "transformer_2" for _, named in parsed)
    slot_of = {"": SINGLE, "transformer": HIGH if both else SINGLE, "transformer_1": HIGH, "transformer_2": LOW}
    by_module: dict[tuple[str, str], dict[str, str]] = {}
    for key, named in parsed:
        roles = by_module.setdefault((slot_of[named.tag], named.module), {})
        if named.role in roles:
            raise LoraInvalid(f"The LoRA names the {named.role} of {named.module} twice.", module=named.module)
        roles[named.role] = key
    present = {slot for slot, _ in by_module}
    if SINGLE in present and len(present) > 1:
        raise LoraInvalid("The LoRA mixes layers of a high/low pair with layers that name no transformer.")
    slots = tuple(slot for slot in (SINGLE, HIGH, LOW) if slot in present)
    return KeyGroup(MappingProxyType(by_module), tuple(foreign), slots, any_role)


def is_bare_parameter(module: str) -> bool:
    """Whether the name is a parameter of its own (a modulation table), not a module with a weight."""
    return module.rpartition(".")[2] in BARE_PARAMETERS


def target_name(module: str, kind: str) -> str:
    """The name that a change has in `Converted.modules`: its module's for a linear layer, else its parameter's.

    `blocks.0.attn1.to_q`, `blocks.0.attn1.to_q.bias`, `blocks.0.norm2.weight`, `blocks.0.scale_shift_table`.
    """
    if kind == "bias":
        return f"{module}.bias"
    if kind == "diff" and not is_bare_parameter(module):
        return f"{module}.weight"
    return module


# Changes


def weight_kind(roles: Iterable[str]) -> Kind | None:
    """The type that a module's roles make, or None when they are not complete."""
    have = set(roles)
    first = "lokr_w1" in have or {"lokr_w1_a", "lokr_w1_b"} <= have
    second = "lokr_w2" in have or {"lokr_w2_a", "lokr_w2_b"} <= have
    if first and second and "lokr_t2" not in have:
        return "lokr"
    if {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"} <= have and ("hada_t1" in have) == ("hada_t2" in have):
        return "loha"
    if {"down", "up"} <= have:
        return "dora" if "magnitude" in have else "lora"
    if "down" in have and not have & {"alpha", "magnitude"}:
        return "full"
    return "diff" if "diff" in have else None


def _alphas(path: Path, header: SafetensorsHeader, grouped: KeyGroup) -> dict[str, float]:
    """The value of each `alpha`, by key; scalars of a few bytes each."""
    keys = [roles[role] for roles in grouped.roles.values() for role in ("alpha", "alpha_scale") if role in roles]
    if not keys:
        return {}
    values: dict[str, float] = {}
    with path.open("rb") as file:
        for key in keys:
            entry = header.tensors[key]
            if math.prod(entry.shape) != 1:
                raise LoraInvalid(f"{one_line(key)} should be one number and is not.")
            values[key] = _scalar(entry, os.pread(file.fileno(), entry.end - entry.start, entry.start))
    return values


_SCALARS = {"F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i", "I16": "<h", "I8": "<b", "U8": "<B"}


def _scalar(entry: TensorEntry, raw: bytes) -> float:
    if entry.dtype == "BF16":  # the upper half of a float32
        return float(struct.unpack("<f", b"\0\0" + raw)[0])
    if entry.dtype == "F8_E5M2":  # the upper half of a float16
        return float(struct.unpack("<e", b"\0" + raw)[0])
    if entry.dtype == "F8_E4M3":
        return _e4m3(raw[0])
    code = _SCALARS.get(entry.dtype)
    if code is None:
        raise LoraInvalid("The LoRA's alpha is stored as a type that is not supported.")
    return float(struct.unpack(code, raw)[0])


def _e4m3(byte: int) -> float:
    """float8_e4m3fn: sign, 4 bits of exponent with bias 7, 3 bits of mantissa; no infinity, 0x7F is NaN (OCP FP8)."""
    sign = -1.0 if byte & 0x80 else 1.0
    exponent, mantissa = byte >> 3 & 0xF, byte & 0x7
    if exponent == 0xF and mantissa == 0x7:
        return math.nan
    if exponent == 0:
        return sign * mantissa / 8 * 2.0**-6
    return sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)


_USED: Mapping[Kind, set[str]] = {
    "lora": {"down", "up", "alpha"},
    "dora": {"down", "up", "alpha", "magnitude"},
    "lokr": {"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "alpha"},
    "loha": {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "alpha"},
    "full": {"down"},
    "diff": {"diff"},
}
_NUMBERS = ("alpha", "alpha_scale", "rank")  # scalars beside the factors


def _changes(
    header: SafetensorsHeader, slot: str, module: str, roles: Mapping[str, str], alphas: Mapping[str, float]
) -> list[Change]:
    """The change of a module's weight and that of its bias, as far as the module's tensors make them."""
    entries = {role: header.tensors[key] for role, key in roles.items()}
    for role, entry in entries.items():
        if role not in _NUMBERS and (entry.dtype not in _FLOATS or 0 in entry.shape or not entry.shape):
            raise LoraInvalid(f"{one_line(roles[role])} is empty or not made of floating-point numbers.")
    kind = weight_kind(roles)
    if ("diff" in roles and kind not in ("diff", None)) or {"diff_b", "up_bias"} <= set(roles):
        raise LoraInvalid(f"The LoRA changes {module} twice.", module=module)
    alpha = alphas[roles["alpha"]] if "alpha" in roles else None
    factor = alphas[roles["alpha_scale"]] if "alpha_scale" in roles else None
    rank: int | None = None
    changes: list[Change] = []
    if kind is not None:
        shape, rank = _weight_shape(kind, module, entries)
        if alpha is None and factor is not None and rank is not None:
            alpha = factor * rank  # alpha_scale states alpha / rank itself
        info = ModuleInfo(slot, module, kind, shape, rank, alpha)
        changes.append(Change(info, {role: key for role, key in roles.items() if role in _USED[kind]}))
    for role in ("diff_b", "up_bias"):
        if role in roles and (role == "diff_b" or kind in ("lora", "dora")):
            scaled = role == "up_bias"  # PEFT's bias of the up layer is scaled as its output is
            info = ModuleInfo(slot, module, "bias", entries[role].shape, rank, alpha if scaled else None)
            changes.append(Change(info, {role: roles[role]}))
    return changes


def _with_stated_alpha(change: Change, metadata: LoraMetadata) -> Change:
    """The change with the alpha of the adapter config (diffusers' or PEFT's), where the file stores none for it."""
    info = change.info
    if info.alpha is not None or info.rank is None or info.kind == "lokr" or "diff_b" in change.keys:
        return change
    component = "transformer_2" if info.slot == LOW else "transformer"
    written = (role_of(next(iter(change.keys.values()))) or ("", ""))[0].removeprefix(PEFT)
    alpha = metadata.stated_alpha(component, (info.module, written), info.rank)
    return replace(change, info=replace(info, alpha=alpha))


def _weight_shape(kind: Kind, module: str, entries: Mapping[str, TensorEntry]) -> tuple[tuple[int, ...], int | None]:
    """The shape of the weight that the tensors change, and the rank."""
    if kind == "diff":
        shape = entries["diff"].shape
        return ((1, *shape) if is_bare_parameter(module) and len(shape) == 2 else shape), None
    if kind == "lokr":
        return _lokr_shape(module, entries)
    if kind == "loha":
        return _loha_shape(module, entries)
    down = entries["down"].shape
    if kind == "full":
        if len(down) != 2:
            raise _shapes_disagree(module)
        return down, None
    up = entries["up"].shape
    if len(down) < 2 or len(up) < 2 or down[0] != up[1] or math.prod(up[2:]) != 1:
        raise _shapes_disagree(module)
    if kind == "dora":
        magnitude = entries["magnitude"].shape
        if magnitude[0] != up[0] or math.prod(magnitude) != up[0]:
            raise LoraInvalid(
                f"The DoRA magnitude of {module} is not one number per output: only that kind is supported.",
                module=module,
            )
    return (up[0], *down[1:]), down[0]


def _lokr_shape(module: str, entries: Mapping[str, TensorEntry]) -> tuple[tuple[int, ...], int | None]:
    """kron(w1, w2) of [a, b] and [c, d] is [a·c, b·d]; a factor may itself be a product of rank r."""
    sizes: list[tuple[int, int]] = []
    rank: int | None = None
    for factor in ("lokr_w1", "lokr_w2"):
        if factor in entries:
            shape = entries[factor].shape
        else:
            left, right = entries[f"{factor}_a"].shape, entries[f"{factor}_b"].shape
            if len(left) != 2 or len(right) != 2 or left[1] != right[0]:
                raise _shapes_disagree(module)
            shape, rank = (left[0], right[1]), right[0]
        if len(shape) != 2:
            raise LoraInvalid(f"The LoKr factors of {module} are of a kind that is not supported.", module=module)
        sizes.append((shape[0], shape[1]))
    return (sizes[0][0] * sizes[1][0], sizes[0][1] * sizes[1][1]), rank


def _loha_shape(module: str, entries: Mapping[str, TensorEntry]) -> tuple[tuple[int, ...], int | None]:
    """(w1_a · w1_b) ∘ (w2_a · w2_b): a [out, rank], b [rank, in]. Tucker: t [rank, rank, k…], a [rank, out]."""
    shapes: list[tuple[int, ...]] = []
    ranks: list[int] = []
    for number in ("1", "2"):
        a, b = entries[f"hada_w{number}_a"].shape, entries[f"hada_w{number}_b"].shape
        if len(a) != 2 or len(b) != 2:
            raise _shapes_disagree(module)
        if f"hada_t{number}" in entries:
            core = entries[f"hada_t{number}"].shape
            if len(core) < 3 or core[0] != a[0] or core[1] != b[0]:
                raise _shapes_disagree(module)
            shapes.append((a[1], b[1], *core[2:]))
        else:
            if a[1] != b[0]:
                raise _shapes_disagree(module)
            shapes.append((a[0], b[1]))
        ranks.append(b[0])
    if shapes[0] != shapes[1]:
        raise _shapes_disagree(module)
    return shapes[0], ranks[0]


def _shapes_disagree(module: str) -> LoraInvalid:
    return LoraInvalid(f"The shapes of the tensors of {module} do not fit together.", module=module)
