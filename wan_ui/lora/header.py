"""What a LoRA file is, from its header alone, and whether it fits a model; it reads no weights and knows no torch."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wan_ui.errors import LoraMismatch
from wan_ui.lora import key_map, shapes
from wan_ui.lora.layers import Layers, ModuleInfo, find_layers
from wan_ui.lora.metadata import LoraMetadata
from wan_ui.models import MODELS, WanModel
from wan_ui.text import one_line

MOST_REPORTED = 50  # keys named one by one
_NEVER_DIVIDED = 1e9  # AI Toolkit writes an alpha of 1e10 or infinity when both Kronecker factors are full

Configs = Callable[[WanModel, str], Mapping[str, Any] | None]
"""A row and a component ("transformer_2") to that component's own config.json; None while it is not at hand."""


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
        return tuple(item for item in self.modules if item.slot in (slot, key_map.SINGLE))


def read_header(path: Path, name: str | None = None) -> LoraHeader:
    """Inspect a file without reading its weights (only the scalars called alpha).

    `name` is the file's original name where `path` is a stored upload; high or low is read from it.
    Raises LoraInvalid when the file is not sound or holds no LoRA, LoraNotFound when it cannot be opened.
    """
    return _header(find_layers(path), path.name if name is None else name)


def _header(layers: Layers, name: str) -> LoraHeader:
    listing, dropped = layers.listing, layers.dropped
    modules = tuple(change.info for change in layers.changes)
    told = LoraMetadata.of(listing.metadata)
    shape_list = [(item.module, item.shape) for item in modules if item.kind != "bias"]
    ranks = [item.rank for item in modules if item.rank is not None and item.kind != "bias"]
    alphas = [
        float(item.rank) if item.alpha is None else item.alpha
        for item in modules
        if item.rank is not None and item.kind != "bias"
    ]
    return LoraHeader(
        type=_type(modules),
        slot=_slot(layers.slots, name),
        slots=layers.slots or (key_map.SINGLE,),
        modules=modules,
        dropped=tuple((one_line(key), why) for key, why in dropped[:MOST_REPORTED]),
        dropped_count=len(dropped),
        dtype=_dtype(layers),
        hidden=shapes.infer(shape_list, "hidden"),
        ffn=shapes.infer(shape_list, "ffn"),
        in_channels=shapes.infer(shape_list, "in_channels"),
        blocks=tuple(sorted({n for item in modules if (n := shapes.block_of(item.module)) is not None})),
        image_layers=any(shapes.is_image_layer(item.module) for item in modules),
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
        messages=_messages(layers, alphas),
    )


def _messages(layers: Layers, alphas: Sequence[float]) -> tuple[str, ...]:
    dropped = layers.dropped
    said: list[str] = []
    if not layers.changes:
        said.append("None of its layers exist in the Wan models: it was made for another family and would do nothing.")
    elif dropped:
        reasons = Counter(why for _, why in dropped).most_common(3)
        listed = ", ".join(f"{count} × {why}" for why, count in reasons)
        said.append(f"{len(dropped)} of its tensors change nothing here: {listed}.")
    if any(key.startswith("base_model.model.") for change in layers.changes[:1] for key in change.keys.values()):
        said.append(
            "PEFT keeps alpha in adapter_config.json, not in this file: it is taken as equal to the rank. If it was "
            "another, set the scale to alpha / rank."
        )
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


def _dtype(layers: Layers) -> str:
    entries = layers.listing.tensors
    found = {
        entries[key].dtype for change in layers.changes for role, key in change.keys.items() if role != "alpha"
    } or {entry.dtype for entry in entries.values()}
    return "mixed" if len(found) > 1 else found.pop()


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread(min(values), statistics.median(values), max(values)) if values else None


_NOISE = re.compile(r"(high|low)(?=[ _.-]*noise)", re.IGNORECASE)
_HIGH_OR_LOW = re.compile(r"(?<![a-z0-9])(high|low)(?![a-z0-9])", re.IGNORECASE)
_OTHER = {"high": "low", "low": "high", "High": "Low", "Low": "High", "HIGH": "LOW", "LOW": "HIGH"}


def slot_of_name(name: str) -> str | None:
    """ "high" or "low" as a file's name says, or None: it says neither, or both."""
    found = {word.lower() for word in _NOISE.findall(name) or _HIGH_OR_LOW.findall(name)}
    return found.pop() if len(found) == 1 else None


def partner_name(name: str) -> str | None:
    """The name that the other half of a pair has: `x_high_noise.safetensors` <-> `x_low_noise.safetensors`."""
    if slot_of_name(name) is None:
        return None
    pattern = _NOISE if _NOISE.search(name) else _HIGH_OR_LOW
    return pattern.sub(lambda found: _OTHER.get(found.group(1), _OTHER[found.group(1).lower()]), name)


def pair_messages(one: LoraHeader, other: LoraHeader) -> tuple[str, ...]:
    """What speaks against two files being the halves of one save. A renamed swap cannot be detected."""
    same_trainer = one.trainer == other.trainer and one.trainer in (None, "ai-toolkit")
    if one.model_hash and other.model_hash and one.model_hash != other.model_hash and same_trainer:
        return ("These two files are not from the same save: their sshs_model_hash differs.",)
    if one.step is not None and other.step is not None and one.step != other.step:
        return (f"These two files are from different steps: {one.step} and {other.step}.",)
    return ()


def _slot(slots: tuple[str, ...], name: str) -> str:
    if key_map.HIGH in slots and key_map.LOW in slots:
        return "combined"
    if slots and slots != (key_map.SINGLE,):
        return slots[0]
    return slot_of_name(name) or "unknown"


def no_configs(row: WanModel, component: str) -> Mapping[str, Any] | None:
    """The Configs of a machine without checkpoints: none, so that the table's sizes are used."""
    return None


def check_fit(header: LoraHeader, row: WanModel, slot: str, config: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Whether a file can be applied to a slot of a row, and what to know about it.

    `slot` is one of row.slots; `config` is the transformer's own config.json, or None for the table's sizes.
    Returns sentences for the user. Raises LoraMismatch, with the ids of the models the file was made for (as far as
    the header tells) in details["fits"], when it changes nothing here, has another width or depth, or has image
    layers that the model has not.
    """
    problem = _problem(header, row, slot, shapes.dimensions(row, config))
    if problem is not None:
        made_for = candidates(header, no_configs)
        if row in made_for:  # by the table's sizes, which are not those of the checkpoint that is here
            where = "It was made for that model at its real size, and the checkpoint here has another."
        elif made_for:
            where = f"It was made for {_either(made_for)}: open that tab."
        else:
            where = "No model of the table has its layers."
        raise LoraMismatch(
            f"The LoRA does not fit {row.label}: {problem}. {where}",
            fits=[made.id for made in made_for],
            model=row.id,
            why=problem,
        )
    return tuple(_notes(header, row, slot, shapes.dimensions(row, config)))


def verdicts(header: LoraHeader, configs: Configs = no_configs) -> dict[str, str]:
    """Each row's id -> "yes" (made for it), "no" (cannot be applied) or "unknown" (applies; the file does not say)."""
    fitting = {row.id for row in _fitting(header, configs)}
    likely = candidates(header, configs)
    certain = {row.id for row in likely} if len({(row.family, row.conditioning) for row in likely}) == 1 else set()
    return {row_id: "no" if row_id not in fitting else "yes" if row_id in certain else "unknown" for row_id in MODELS}


def candidates(header: LoraHeader, configs: Configs = no_configs) -> tuple[WanModel, ...]:
    """The rows that a file was made for, as far as its header tells; empty when it can be applied to none."""
    rows = _fitting(header, configs)
    cross = any(item.module.endswith("attn2.to_k") for item in header.modules)
    pair = header.slot in ("high", "low", "combined")
    hints: list[Callable[[WanModel], bool]] = []
    if header.image_layers or cross:  # a file that changes cross-attention without its image half is not for 2.1 I2V
        hints.append(lambda row: row.image_layers == header.image_layers)
    if pair:
        hints.append(lambda row: row.two_transformers)
    hints += _version_hints(header.base_version or "")
    for hint in hints:
        rows = tuple(row for row in rows if hint(row)) or rows
    return rows


def _version_hints(version: str) -> Iterable[Callable[[WanModel], bool]]:
    """AI Toolkit states wan_2.1, wan_2.2_5b or wan_2.2_14b; others wan2.1-t2v-14b and the like."""
    said = version.lower()
    generation = re.search(r"wan[ _-]?(2)[._]?([12])", said)
    if generation is not None:
        yield lambda row: row.family.startswith(f"wan2{generation.group(2)}")
    if re.search(r"(?:^|[^0-9])5b", said):
        yield lambda row: row.conditioning == "first_latent"
    elif "14b" in said:
        yield lambda row: row.conditioning != "first_latent"
    if "i2v" in said and "ti2v" not in said:
        yield lambda row: row.control_image == "required"
    elif "t2v" in said:
        yield lambda row: row.control_image == "none"


def _fitting(header: LoraHeader, configs: Configs) -> tuple[WanModel, ...]:
    found: list[WanModel] = []
    for row in MODELS.values():
        problems = [
            _problem(header, row, slot, shapes.dimensions(row, configs(row, row.slots[slot])))
            for slot in _slots_for(header, row)
        ]
        if not any(problems):
            found.append(row)
    return tuple(found)


def _slots_for(header: LoraHeader, row: WanModel) -> tuple[str, ...]:
    """The slots of a row that the file would go to."""
    if not row.two_transformers:
        return tuple(row.slots)
    if header.slot == "combined":
        return ("high", "low")
    return (header.slot,) if header.slot in row.slots else ("high",)


def _problem(header: LoraHeader, row: WanModel, slot: str, sizes: shapes.Dimensions) -> str | None:
    """Why the file cannot be applied to the slot, in words, or None."""
    if not header.modules:
        return "none of its layers exist in the Wan models, it would do nothing"
    if not row.two_transformers and header.slots != (key_map.SINGLE,):
        return "its layers name the high- or low-noise transformer of a pair, and this model has one transformer"
    changes = header.in_slot(slot)
    if not changes:
        return f"its layers are all for {' and '.join(header.slots)}, none for {slot}"
    if header.hidden is not None and header.hidden != sizes.hidden:
        return f"it is made for a width of {header.hidden}, this model has {sizes.hidden}"
    if header.ffn is not None and header.ffn != sizes.ffn:
        return f"it is made for a feed-forward width of {header.ffn}, this model has {sizes.ffn}"
    if header.blocks and header.blocks[-1] >= sizes.blocks:
        return f"it changes block {header.blocks[-1]}, this model has the blocks 0 to {sizes.blocks - 1}"
    for item in changes:
        shape = sizes.shape(item.module)
        if shape is None:
            if shapes.is_image_layer(item.module):
                return "it has image layers (it was made for Wan 2.1 image-to-video), this model has none"
            return f"it changes {item.module}, which this model does not have"
        if item.kind == "bias":
            if not shapes.has_bias(item.module):
                return f"it changes a bias of {item.module}, which has none"
            shape = shape[:1]
        if item.shape != shape:
            return f"its {item.module} has the shape {_times(item.shape)}, this model's {_times(shape)}"
    return None


def _notes(header: LoraHeader, row: WanModel, slot: str, sizes: shapes.Dimensions) -> Iterable[str]:
    yield from header.messages
    changes = header.in_slot(slot)
    blocks = {number for item in changes if (number := shapes.block_of(item.module)) is not None}
    if blocks and len(blocks) < sizes.blocks:
        yield f"The LoRA changes {len(blocks)} of the model's {sizes.blocks} blocks."
    if sizes.added and not header.image_layers:
        yield "The LoRA has no image layers: it was made for text-to-video, or trained on some layers only."
    if row.two_transformers and header.slot in ("high", "low") and header.slot != slot:
        yield f"The file's name says {header.slot} noise; here it is used for {slot} noise."
    if not row.two_transformers and header.slot in ("high", "low"):
        yield f"The file's name says {header.slot} noise: it looks like half of a Wan 2.2 A14B pair."
    likely = candidates(header)
    if likely and row.id not in {one.id for one in likely}:
        yield f"It fits by its shapes, but was probably made for {_either(likely)}."
    elif len({(one.family, one.conditioning) for one in likely}) > 1:
        yield f"The file does not say which of these it was made for: {', '.join(one.label for one in likely)}."


def _either(rows: Sequence[WanModel]) -> str:
    return " or ".join(row.label for row in rows)


def _times(shape: Sequence[int]) -> str:
    return " × ".join(str(size) for size in shape)
