"""What a tensor's name in a LoRA file means: slot, diffusers module, role. Names only; it reads no file, no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from wan_ui.errors import LoraInvalid

SINGLE, HIGH, LOW = "single", "high", "low"
MOST_BLOCKS = 1000

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

# Parameters that are no module's weight: a difference to them has no ".weight" in diffusers' name.
BARE_PARAMETERS = ("scale_shift_table",)


def _aliases() -> tuple[dict[str, str], dict[str, str]]:
    """Every spelling, dots as underscores, -> diffusers name: original, diffusers', and AI Toolkit's half-converted."""
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

# What writers put before the module's name, dots as underscores.
_PREFIX = re.compile(
    r"(?:base_model_model_|model_diffusion_model_|diffusion_model_|pipe_dit_|dit_|lora_unet__?|lora_|lycoris_)*"
    r"(?:(transformer(?:_[12])?)_(?=blocks_|patch_|text_|time_|img_|head_|cond|proj_|scale_))?"
)
_IN_BLOCK = re.compile(r"blocks_([0-9]{1,4})_(.+)")
_TEXT_ENCODER = re.compile(r"(?:lora_te[0-9]*_|text_encoder|te[0-9]*_|conditioner_)")
_ROLE = re.compile(
    r"\.(?:"
    r"lora_(?P<ab>A|B|down|up)(?:\.[A-Za-z0-9_-]+)??\.(?P<wb>weight|bias)"
    r"|lora\.(?P<old>down|up)\.weight"
    r"|(?P<lokr>lokr_(?:w1|w2)(?:_[ab])?|lokr_t2)"
    r"|(?P<dora>dora_scale|magnitude|lora_magnitude_vector(?:\.[A-Za-z0-9_-]+)??(?:\.weight)?)"
    r"|(?P<plain>alpha|diff|diff_b)"
    r"|(?P<foreign>hada_[a-z0-9_]+|oft_[a-z0-9_]+|boft_[a-z0-9_]+|glora_[a-z0-9_]+|w_norm|b_norm|a1\.weight|a2\.weight)"
    r")$"
)
_ROLE_OF = {"A": "down", "down": "down", "B": "up", "up": "up"}


@dataclass(frozen=True, slots=True)
class KeyMeaning:
    """`tag` is what the prefix says of the transformer: "", "transformer", "transformer_1" or "transformer_2"."""

    tag: str
    module: str
    role: str


@dataclass(frozen=True)
class KeyGroup:
    """`parts`: (slot, diffusers module name) -> role -> key. `foreign`: keys that map to nothing, with why."""

    parts: Mapping[tuple[str, str], Mapping[str, str]]
    foreign: tuple[tuple[str, str], ...]
    slots: tuple[str, ...]
    any_role: bool


def role_of(key: str) -> tuple[str, str] | None:
    """(what is before the role, role) or None when the key names nothing of a LoRA."""
    found = _ROLE.search(key)
    if found is None:
        return None
    groups = found.groupdict()
    if groups["ab"]:
        role = _ROLE_OF[groups["ab"]] + ("_bias" if groups["wb"] == "bias" else "")
    elif groups["old"]:
        role = groups["old"]
    elif groups["dora"]:
        role = "magnitude"
    else:
        role = groups["lokr"] or groups["plain"] or "foreign"
    return key[: found.start()], role


def module_of(stem: str) -> tuple[str, str] | None:
    """(tag, diffusers module name) of a key without its role, or None when these models have no such layer."""
    flat = stem.replace(".", "_")
    found = _PREFIX.match(flat)
    tag = (found.group(1) or "") if found else ""
    body = flat[found.end() :] if found else flat
    block = _IN_BLOCK.fullmatch(body)
    if block is not None:
        name = _BLOCK.get(block.group(2))
        number = int(block.group(1))
        return None if name is None or number >= MOST_BLOCKS else (tag, f"blocks.{number}.{name}")
    outer = _OUTER.get(body)
    return None if outer is None else (tag, outer)


def key_meaning(key: str) -> KeyMeaning | str:
    """What a key means, or why it means nothing here."""
    split = role_of(key)
    if split is None:
        return "not a LoRA tensor"
    stem, role = split
    if role == "foreign":
        return "a LoRA type that is not supported"
    found = module_of(stem)
    if found is None:
        flat = stem.replace(".", "_")
        return "a text encoder's layer" if _TEXT_ENCODER.match(flat) else "no such layer in the Wan models"
    tag, module = found
    return KeyMeaning(tag, module, role)


def group(keys: Iterable[str]) -> KeyGroup:
    """A file's keys by slot and module.

    `transformer.` beside `transformer_2.` is diffusers' high and low; alone it says nothing.
    Raises LoraInvalid when two keys name the same tensor of the same module.
    """
    meanings: list[tuple[str, KeyMeaning]] = []
    foreign: list[tuple[str, str]] = []
    any_role = False
    for key in keys:
        meant = key_meaning(key)
        any_role = any_role or role_of(key) is not None
        if isinstance(meant, str):
            foreign.append((key, meant))
        else:
            meanings.append((key, meant))
    tags = {meant.tag for _, meant in meanings}
    second = "transformer_2" in tags
    slot_of = {"": SINGLE, "transformer": HIGH if second else SINGLE, "transformer_1": HIGH, "transformer_2": LOW}
    parts: dict[tuple[str, str], dict[str, str]] = {}
    for key, meant in meanings:
        roles = parts.setdefault((slot_of[meant.tag], meant.module), {})
        if meant.role in roles:
            raise LoraInvalid(f"The LoRA names the {meant.role} of {meant.module} twice.", module=meant.module)
        roles[meant.role] = key
    present = {slot for slot, _ in parts}
    if SINGLE in present and len(present) > 1:
        raise LoraInvalid("The LoRA mixes layers of a high/low pair with layers that name no transformer.")
    return KeyGroup(
        MappingProxyType(parts), tuple(foreign), tuple(s for s in (SINGLE, HIGH, LOW) if s in present), any_role
    )


def weight_kind(roles: Iterable[str]) -> str | None:
    """The type that a module's roles make: lora, dora, lokr, full or diff; None when they are not complete."""
    have = set(roles)
    one = "lokr_w1" in have or {"lokr_w1_a", "lokr_w1_b"} <= have
    two = "lokr_w2" in have or {"lokr_w2_a", "lokr_w2_b"} <= have
    if one and two and "lokr_t2" not in have:
        return "lokr"
    if {"down", "up"} <= have:
        return "dora" if "magnitude" in have else "lora"
    if "down" in have and not have & {"alpha", "magnitude"}:
        return "full"
    return "diff" if "diff" in have else None


def is_bare_parameter(module: str) -> bool:
    """Whether the name is a parameter of its own (a modulation table), not a module with a weight."""
    return module.rpartition(".")[2] in BARE_PARAMETERS


def target_of(module: str, kind: str) -> str:
    """What a change is filed under: a linear layer's weight under its module, anything else under its parameter.

    `blocks.0.attn1.to_q`, `blocks.0.attn1.to_q.bias`, `blocks.0.norm2.weight`, `blocks.0.scale_shift_table`.
    """
    if kind == "bias":
        return f"{module}.bias"
    if kind == "diff" and not is_bare_parameter(module):
        return f"{module}.weight"
    return module
