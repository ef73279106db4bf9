"""What a LoRA file is, from its header alone: type, rank, sizes, half of a pair, trainer; it reads no weights."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wan_ui.lora import shapes
from wan_ui.lora.layers import HIGH, LOW, PEFT, SINGLE, Layers, ModuleInfo, find_layers
from wan_ui.lora.pair_names import slot_of_name, states_noise
from wan_ui.text import one_line

MOST_REPORTED = 50  # keys named one by one
_NEVER_DIVIDED = 1e9  # AI Toolkit writes an alpha of 1e10 or infinity when both Kronecker factors are full


@dataclass(frozen=True)
class Spread:
    """The smallest, median and largest value over all modules that have one."""

    min: float
    median: float
    max: float


@dataclass(frozen=True)
class LoraHeader:
    """What the header of a valid LoRA file states. Texts are capped and printable, but untrusted.

    `slot`: "high", "low", "combined" or "unknown", by the tensors' names or else the file's. `slots`: by the tensors'
    names alone; ("single",) when they name no transformer. `alpha`: equal to the rank where the file stores none.
    `dropped`: (key, reason) of tensors that change nothing here, the first 50 of `dropped_count`.
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

    def in_slot(self, slot: str) -> tuple[ModuleInfo, ...]:
        """The changes for a slot of a model: "single", "high" or "low"."""
        return tuple(item for item in self.modules if item.slot in (slot, SINGLE))


def read_header(path: Path, name: str | None = None) -> LoraHeader:
    """Inspects a file without reading its weights (only the scalars called alpha).

    `name` is the file's original name where `path` is a stored upload; high or low is read from it.
    Raises LoraInvalid when the file is not valid or holds no LoRA, LoraNotFound when it cannot be opened.
    """
    layers = find_layers(path)
    modules = tuple(change.info for change in layers.changes)
    ranked = [item for item in modules if item.rank is not None and item.kind != "bias"]
    ranks = [float(item.rank or 0) for item in ranked]
    alphas = [float(item.rank or 0) if item.alpha is None else item.alpha for item in ranked]
    metadata, dropped = layers.metadata, layers.dropped
    weights = [(item.module, item.shape) for item in modules if item.kind != "bias"]
    return LoraHeader(
        type=_type(modules),
        dropped=tuple((one_line(key), reason) for key, reason in dropped[:MOST_REPORTED]),
        dropped_count=len(dropped),
        dtype=_dtype(layers),
        rank=_spread(ranks),
        alpha=_spread([alpha for alpha in alphas if math.isfinite(alpha) and alpha < _NEVER_DIVIDED]),
        messages=tuple(_messages(layers, alphas)),
        slot=_slot(layers, path.name if name is None else name),
        slots=layers.slots or (SINGLE,),
        modules=modules,
        hidden=shapes.infer(weights, "hidden"),
        ffn=shapes.infer(weights, "ffn"),
        in_channels=shapes.infer(weights, "in_channels"),
        blocks=tuple(sorted({n for item in modules if (n := shapes.block_of(item.module)) is not None})),
        image_layers=any(shapes.is_image_layer(item.module) for item in modules),
        trainer=metadata.trainer,
        trainer_version=metadata.version,
        base_version=metadata.base,
        step=metadata.step,
        epoch=metadata.epoch,
        trigger_word=metadata.trigger,
        output_name=metadata.output_name,
        model_hash=metadata.hash,
    )


def pair_messages(first: LoraHeader, second: LoraHeader) -> tuple[str, ...]:
    """Why two files are probably not the halves of one save. Swapped names cannot be detected."""
    same_trainer = first.trainer == second.trainer and first.trainer in (None, "ai-toolkit")
    if first.model_hash and second.model_hash and first.model_hash != second.model_hash and same_trainer:
        return ("These two files are not from the same save: their sshs_model_hash differs.",)
    if first.step is not None and second.step is not None and first.step != second.step:
        return (f"These two files are from different steps: {first.step} and {second.step}.",)
    return ()


def _messages(layers: Layers, alphas: Sequence[float]) -> Iterator[str]:
    dropped = layers.dropped
    if layers.unsupported is not None:
        yield f"Its layers are of the type {layers.unsupported}, which is not supported."
    elif not layers.changes:
        yield "None of its layers exist in the Wan models: it was made for another family and would do nothing."
    elif dropped:
        reasons = Counter(reason for _, reason in dropped).most_common(3)
        listed = ", ".join(f"{count} × {reason}" for reason, count in reasons)
        yield f"{len(dropped)} of its tensors change nothing here: {listed}."
    peft = any(key.startswith(PEFT) for change in layers.changes[:1] for key in change.keys.values())
    if peft and not layers.metadata.adapter_config:
        yield (
            "PEFT stores alpha in adapter_config.json, which is not beside this file: alpha is taken as equal to the "
            "rank. If it was another value, set the LoRA scale to alpha / rank."
        )
    if any(alpha == 0 for alpha in alphas):
        yield "Some of its layers have an alpha of 0: they change nothing."
    if any(math.isnan(alpha) for alpha in alphas):
        yield "Some of its layers have an alpha that is not a number."


def _type(modules: Sequence[ModuleInfo]) -> str:
    kinds = {item.kind for item in modules}
    if len(kinds) == 1:
        kind = kinds.pop()
        return "diff" if kind == "bias" else kind
    if not kinds:
        return "none"
    return "diff" if kinds == {"diff", "bias"} else "mixed"


def _dtype(layers: Layers) -> str:
    entries = layers.file.tensors
    used = {key for change in layers.changes for role, key in change.keys.items() if role != "alpha"}
    dtypes = {entries[key].dtype for key in used or entries}
    return "mixed" if len(dtypes) > 1 else dtypes.pop()


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread(min(values), statistics.median(values), max(values)) if values else None


_ONE_TRANSFORMER = re.compile(r"wan[ _-]?2[._]?1|(?:^|[^0-9])5b")


def _slot(layers: Layers, name: str) -> str:
    slots = layers.slots
    if HIGH in slots and LOW in slots:
        return "combined"
    if slots and slots != (SINGLE,):
        return slots[0]
    # The metadata of a model with one transformer wins over a mere word in the name, such as low_tide.
    if not states_noise(name) and _ONE_TRANSFORMER.search((layers.metadata.base or "").lower()):
        return "unknown"
    return slot_of_name(name) or "unknown"
