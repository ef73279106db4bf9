"""Whether a LoRA file fits a model, and which models it was made for: by its header and the transformer's config."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wan_ui.errors import LoraMismatch
from wan_ui.lora import shapes
from wan_ui.lora.header import LoraHeader
from wan_ui.lora.layers import SINGLE, UNSUPPORTED_TYPES, unsupported
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
    details["fits"], when it changes nothing here or has another hidden size. Layers that the model does not have are
    left out, and the sentences count and name them.
    """
    covered = coverage(header, model, slot, config)
    if covered.problem is not None:
        made_for = candidates(header, no_configs)
        if model in made_for:  # by the table's sizes, which are not those of the checkpoint that is here
            advice = "It was made for that model at its real size, and the checkpoint here has another."
        elif made_for:
            advice = f"It was made for {_either(made_for)}: open that tab."
        else:
            advice = "No supported model has its layers."
        raise LoraMismatch(
            f"The LoRA does not fit {model.label}: {covered.problem}. {advice}",
            fits=[candidate.id for candidate in made_for],
            model=model.id,
            why=covered.problem,
        )
    return tuple(_notes(header, model, slot, covered, shapes.dimensions(model, config)))


def verdicts(header: LoraHeader, configs: Configs = no_configs) -> dict[str, str]:
    """Each model's id -> "yes" (made for it), "no" (cannot be applied), "unknown" (applies, at
    least in part; the file does not say).
    """
    share = shares(header, configs)
    likely = candidates(header, configs)
    certain = set() if is_ambiguous(likely) else {model.id for model in likely if share[model.id] == 1}
    return {
        model_id: "no" if not share[model_id] else "yes" if model_id in certain else "unknown" for model_id in MODELS
    }


def is_ambiguous(models: Sequence[WanModel]) -> bool:
    """Whether these models differ in more than the resolution they were tuned for."""
    return len({(model.family, model.conditioning) for model in models}) != 1


def candidates(header: LoraHeader, configs: Configs = no_configs) -> tuple[WanModel, ...]:
    """The models that a file was made for, as far as its header tells; empty when it can be applied to none."""
    share = shares(header, configs)
    best = max(share.values())
    models = tuple(model for model in MODELS.values() if best and share[model.id] == best)
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


def shares(header: LoraHeader, configs: Configs = no_configs) -> dict[str, float]:
    """By model id: the smallest share, 0…1, of the file's layers that a slot would use; 0 where it is refused."""
    return {
        model.id: min(
            coverage(header, model, slot, configs(model, model.slots[slot])).share for slot in _slots_for(header, model)
        )
        for model in MODELS.values()
    }


def _slots_for(header: LoraHeader, model: WanModel) -> tuple[str, ...]:
    """The slots of a model that the file would go to."""
    if not model.two_transformers:
        return tuple(model.slots)
    if header.slot == "combined":
        return ("high", "low")
    return (header.slot,) if header.slot in model.slots else ("high",)


@dataclass(frozen=True)
class Coverage:
    """How many of a file's changes for a slot a transformer has, and (reason, count) of the others.

    `problem`: why the file cannot be applied at all, in words, or None: some of its layers can.
    """

    applied: int
    total: int
    left_out: tuple[tuple[str, int], ...]
    problem: str | None = None

    @property
    def share(self) -> float:
        """0…1; 1 where every layer applies, 0 where the file is refused."""
        return self.applied / self.total if self.total else 0.0


def coverage(header: LoraHeader, model: WanModel, slot: str, config: Mapping[str, Any] | None) -> Coverage:
    """Which of a file's changes can be applied to a slot of a model."""
    changes = header.in_slot(slot)
    problem: str | None = None
    if not header.modules:
        problem = _no_layers(header)
    elif not model.two_transformers and header.slots != (SINGLE,):
        problem = "its layers name the high- or low-noise transformer of a pair, and this model has one transformer"
    elif not changes:
        problem = f"its layers are all for {' and '.join(header.slots)}, none for {slot}"
    sizes = shapes.dimensions(model, config)
    if problem is None and header.hidden is not None and header.hidden != sizes.hidden:
        problem = f"it is made for a hidden size of {header.hidden}, this model has {sizes.hidden}"
    elif problem is None and header.ffn is not None and header.ffn != sizes.ffn:
        problem = f"it is made for a feed-forward size of {header.ffn}, this model has {sizes.ffn}"
    if problem is not None:
        return Coverage(0, len(changes), (), problem)
    reasons = Counter(filter(None, (shapes.layer_problem(change, sizes) for change in changes)))
    applied, left_out = len(changes) - reasons.total(), tuple(reasons.most_common())
    return Coverage(
        applied, len(changes), left_out, None if applied else f"none of its layers fits: {_listed(left_out)}"
    )


def _no_layers(header: LoraHeader) -> str:
    kind = next((kind for kind in UNSUPPORTED_TYPES if unsupported(kind) in dict(header.dropped).values()), None)
    if kind is not None:
        return f"it is of the type {kind}, which is not supported"
    return "none of its layers exist in the Wan models, it would do nothing"


def _listed(left_out: Sequence[tuple[str, int]]) -> str:
    return "; ".join(f"{count} × {reason}" for reason, count in left_out[:3])


def _notes(
    header: LoraHeader, model: WanModel, slot: str, covered: Coverage, sizes: shapes.Dimensions
) -> Iterable[str]:
    yield from header.messages
    likely = candidates(header)
    if covered.left_out:
        yield f"{covered.applied} of its {covered.total} layers are applied. Left out: {_listed(covered.left_out)}."
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
