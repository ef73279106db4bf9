"""Whether a LoRA file fits a model, and which models it was made for: by its header and the transformer's config."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from wan_ui.errors import LoraMismatch
from wan_ui.lora import shapes
from wan_ui.lora.header import LoraHeader
from wan_ui.lora.layers import SINGLE, ModuleInfo
from wan_ui.models import MODELS, WanModel

Configs = Callable[[WanModel, str], Mapping[str, Any] | None]
"""A model and a component ("transformer_2") to that component's own config.json; None while it is not on disk."""


def no_configs(model: WanModel, component: str) -> Mapping[str, Any] | None:
    """The Configs of a machine without checkpoints: the sizes of the model table are used."""
    return None


def check_fit(header: LoraHeader, model: WanModel, slot: str, config: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Checks that a file can be applied to a slot of a model; returns sentences for the user.

    `slot` is one of model.slots; `config` is the transformer's own config.json, or None for the table's sizes.
    Raises LoraMismatch, with the ids of the models the file was made for (as far as the header tells) in
    details["fits"], when it changes nothing here, has another width or depth, or has image layers that the model has
    not.
    """
    problem = _problem(header, model, slot, config)
    if problem is not None:
        made_for = candidates(header, no_configs)
        if model in made_for:  # by the table's sizes, which are not those of the checkpoint that is here
            advice = "It was made for that model at its real size, and the checkpoint here has another."
        elif made_for:
            advice = f"It was made for {_either(made_for)}: open that tab."
        else:
            advice = "No supported model has its layers."
        raise LoraMismatch(
            f"The LoRA does not fit {model.label}: {problem}. {advice}",
            fits=[candidate.id for candidate in made_for],
            model=model.id,
            why=problem,
        )
    return tuple(_notes(header, model, slot, config))


def verdicts(header: LoraHeader, configs: Configs = no_configs) -> dict[str, str]:
    """Each model's id -> "yes" (made for it), "no" (cannot be applied), "unknown" (applies; the file does not say)."""
    fitting = {model.id for model in _fitting(header, configs)}
    likely = candidates(header, configs)
    certain = {model.id for model in likely} if not is_ambiguous(likely) else set()
    return {
        model_id: "no" if model_id not in fitting else "yes" if model_id in certain else "unknown"
        for model_id in MODELS
    }


def is_ambiguous(models: Sequence[WanModel]) -> bool:
    """Whether these models differ in more than the resolution they were tuned for."""
    return len({(model.family, model.conditioning) for model in models}) != 1


def candidates(header: LoraHeader, configs: Configs = no_configs) -> tuple[WanModel, ...]:
    """The models that a file was made for, as far as its header tells; empty when it can be applied to none."""
    models = _fitting(header, configs)
    cross = any(item.module.endswith("attn2.to_k") for item in header.modules)
    hints: list[Callable[[WanModel], bool]] = []
    if header.image_layers or cross:  # a file that changes cross-attention without its image half is not for 2.1 I2V
        hints.append(lambda model: model.image_layers == header.image_layers)
    if header.slot in ("high", "low", "combined"):
        hints.append(lambda model: model.two_transformers)
    hints += _version_hints(header.base_version or "")
    for hint in hints:  # one that no model meets says nothing
        models = tuple(model for model in models if hint(model)) or models
    return models


def _version_hints(version: str) -> Iterable[Callable[[WanModel], bool]]:
    """AI Toolkit states wan_2.1, wan_2.2_5b or wan_2.2_14b; others wan2.1-t2v-14b and the like."""
    version = version.lower()
    generation = re.search(r"wan[ _-]?(2)[._]?([12])", version)
    if generation is not None:
        yield lambda model: model.family.startswith(f"wan2{generation.group(2)}")
    if re.search(r"(?:^|[^0-9])5b", version):
        yield lambda model: model.conditioning == "first_latent"
    elif "14b" in version:
        yield lambda model: model.conditioning != "first_latent"
    if "i2v" in version and "ti2v" not in version:
        yield lambda model: model.control_image == "required"
    elif "t2v" in version:
        yield lambda model: model.control_image == "none"


def _fitting(header: LoraHeader, configs: Configs) -> tuple[WanModel, ...]:
    return tuple(
        model
        for model in MODELS.values()
        if not any(
            _problem(header, model, slot, configs(model, model.slots[slot])) for slot in _slots_for(header, model)
        )
    )


def _slots_for(header: LoraHeader, model: WanModel) -> tuple[str, ...]:
    """The slots of a model that the file would go to."""
    if not model.two_transformers:
        return tuple(model.slots)
    if header.slot == "combined":
        return ("high", "low")
    return (header.slot,) if header.slot in model.slots else ("high",)


def _problem(header: LoraHeader, model: WanModel, slot: str, config: Mapping[str, Any] | None) -> str | None:
    """Why the file cannot be applied to the slot, in words, or None."""
    if not header.modules:
        return "none of its layers exist in the Wan models, it would do nothing"
    if not model.two_transformers and header.slots != (SINGLE,):
        return "its layers name the high- or low-noise transformer of a pair, and this model has one transformer"
    changes = header.in_slot(slot)
    if not changes:
        return f"its layers are all for {' and '.join(header.slots)}, none for {slot}"
    sizes = shapes.dimensions(model, config)
    if header.hidden is not None and header.hidden != sizes.hidden:
        return f"it is made for a width of {header.hidden}, this model has {sizes.hidden}"
    if header.ffn is not None and header.ffn != sizes.ffn:
        return f"it is made for a feed-forward width of {header.ffn}, this model has {sizes.ffn}"
    if header.blocks and header.blocks[-1] >= sizes.blocks:
        return f"it changes block {header.blocks[-1]}, this model has the blocks 0 to {sizes.blocks - 1}"
    return next(filter(None, (_layer_problem(item, sizes) for item in changes)), None)


def _layer_problem(item: ModuleInfo, sizes: shapes.Dimensions) -> str | None:
    """Why one change cannot be applied to a transformer of these sizes, in words, or None."""
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


def _notes(header: LoraHeader, model: WanModel, slot: str, config: Mapping[str, Any] | None) -> Iterable[str]:
    yield from header.messages
    likely = candidates(header)
    sizes = shapes.dimensions(model, config)
    blocks = {number for item in header.in_slot(slot) if (number := shapes.block_of(item.module)) is not None}
    if blocks and len(blocks) < sizes.blocks:
        yield f"The LoRA changes {len(blocks)} of the model's {sizes.blocks} blocks."
    if sizes.added and not header.image_layers:
        yield "The LoRA has no image layers: it was made for text-to-video, or trained on some layers only."
    if model.two_transformers and header.slot in ("high", "low") and header.slot != slot:
        yield f"The file's name says {header.slot} noise; here it is used for {slot} noise."
    if not model.two_transformers and header.slot in ("high", "low"):
        yield f"The file's name says {header.slot} noise: it looks like half of a Wan 2.2 A14B pair."
    if likely and model.id not in {candidate.id for candidate in likely}:
        yield f"It fits by its shapes, but was probably made for {_either(likely)}."
    elif likely and is_ambiguous(likely):
        labels = ", ".join(candidate.label for candidate in likely)
        yield f"The file does not say which of these it was made for: {labels}."


def _either(models: Sequence[WanModel]) -> str:
    return " or ".join(model.label for model in models)


def _times(shape: Sequence[int]) -> str:
    return " × ".join(str(size) for size in shape)
