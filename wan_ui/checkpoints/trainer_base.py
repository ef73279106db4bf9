"""Which checkpoint files the trainer of a job had, by its version and the job's config: what matches them exactly.

AI Toolkit 0.13 and later load Comfy-Org's single files for the models they know (`toolkit/models/v2`), unless the
config names a local folder or sets `model.model_kwargs.use_comfy_weights` to false. Of several candidates the trainer
takes one that is on its disk already, so that for Wan 2.1 14B the config alone does not tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wan_ui.models import WanModel

COMFY_SINCE = (0, 13)  # the first version of AI Toolkit that loads single files
_QUANTIZED_TO_FP8 = ("qfloat8", "float8", "convrot")


@dataclass(frozen=True)
class TrainerBase:
    """The precisions that the trainer's transformer may have had, likeliest first; `folder` is the diffusers one.

    `is_certain`: there is one, and nothing on the trainer's disk could have changed it.
    """

    precisions: tuple[str, ...]
    is_certain: bool


FOLDER_BASE = TrainerBase(("folder",), is_certain=True)


def trainer_base(model: WanModel, config: Mapping[str, Any], version: tuple[int, ...] | None) -> TrainerBase:
    """What a job's transformer was loaded from. `config` is the job's `model` section, `version` the trainer's.

    Without a version nothing is certain: the folder before 0.13, the single files since.
    """
    kwargs = config.get("model_kwargs")
    wants_comfy = not (isinstance(kwargs, Mapping) and kwargs.get("use_comfy_weights") is False)
    known = {model.base_model, *(source.repo for source in model.components.values())}
    if not wants_comfy or config.get("name_or_path") not in known or (version is not None and version < COMFY_SINCE):
        return FOLDER_BASE
    files = _comfy_files(model, config)
    if version is None:
        return TrainerBase((*files, "folder"), is_certain=False)
    return TrainerBase(files, is_certain=len(files) == 1)


def transformer_precisions(base: Mapping[str, Any]) -> tuple[str, ...]:
    """The precisions of the transformers that a clip's `base` names; a clip without one was loaded from the folder."""
    listed = base.get("components")
    named = [
        str(part.get("precision"))
        for part in (listed if isinstance(listed, list) else ())
        if isinstance(part, Mapping) and str(part.get("component")).startswith("transformer")
    ]
    return tuple(dict.fromkeys(named)) or FOLDER_BASE.precisions


def planned_precisions(listing: Mapping[str, Any], base: str | tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """Those of the transformers that a generation's `base` leads to, by the listing of the model's bases."""
    if base == "folder":
        return FOLDER_BASE.precisions
    chosen = dict(listing["auto"]["base"]) | (dict(base) if not isinstance(base, str) else {})
    parts = [
        {"component": part["component"], "precision": option["precision"]}
        for part in listing["components"]
        for option in part["options"]
        if option["name"] == chosen.get(part["component"])
    ]
    return transformer_precisions({"components": parts})


def _comfy_files(model: WanModel, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The precisions of Comfy-Org's transformer files that the trainer tries, in its order."""
    if model.two_transformers:
        return ("fp8_scaled",)
    if model.conditioning == "first_latent":
        return ("fp16",)
    if model.blocks < 40:
        return ("bf16", "fp16")
    quantized = bool(config.get("quantize")) and str(config.get("qtype", "qfloat8")).startswith(_QUANTIZED_TO_FP8)
    return ("fp8_scaled", "bf16", "fp16") if quantized else ("bf16", "fp16", "fp8_scaled")
