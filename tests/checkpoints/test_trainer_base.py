"""Which checkpoint files a job's trainer had."""

from __future__ import annotations

from typing import Any

import pytest

from wan_ui.checkpoints.trainer_base import (
    FOLDER_BASE,
    TrainerBase,
    planned_precisions,
    trainer_base,
    transformer_precisions,
)
from wan_ui.models import MODELS

NEW, OLD = (0, 13, 2), (0, 12, 9)


def base(model: str, version: tuple[int, ...] | None = NEW, **config: Any) -> TrainerBase:
    return trainer_base(MODELS[model], {"name_or_path": MODELS[model].base_model, **config}, version)


@pytest.mark.parametrize(
    ("model", "config", "precisions"),
    [
        ("wan22_14b_t2v", {}, ("fp8_scaled",)),
        ("wan22_14b_i2v", {"quantize": False}, ("fp8_scaled",)),
        ("wan22_5b", {}, ("fp16",)),
        ("wan21_1b", {"quantize": True}, ("bf16", "fp16")),
        ("wan21_14b", {}, ("bf16", "fp16", "fp8_scaled")),
        ("wan21_14b", {"quantize": True, "qtype": "nvfp4"}, ("bf16", "fp16", "fp8_scaled")),
        ("wan21_i2v_14b", {"quantize": True, "qtype": "qfloat8"}, ("fp8_scaled", "bf16", "fp16")),
        ("wan21_i2v_14b480p", {"quantize": True}, ("fp8_scaled", "bf16", "fp16")),
    ],
)
def test_single_files_since_0_13(model: str, config: dict[str, Any], precisions: tuple[str, ...]) -> None:
    found = base(model, **config)
    assert found.precisions == precisions
    assert found.is_certain == (len(precisions) == 1)


def test_the_folder_before_and_where_it_was_asked_for() -> None:
    assert base("wan22_14b_t2v", OLD) == FOLDER_BASE
    assert base("wan22_14b_t2v", model_kwargs={"use_comfy_weights": False}) == FOLDER_BASE
    assert base("wan22_14b_t2v", name_or_path="/disk/my_model") == FOLDER_BASE


def test_a_registered_transformers_repository_counts() -> None:
    found = base("wan22_14b_t2v", name_or_path="ai-toolkit/Wan2.2-T2V-A14B-Diffusers-bf16")
    assert found.precisions == ("fp8_scaled",)


def test_without_a_version_nothing_is_certain() -> None:
    found = base("wan22_14b_t2v", None)
    assert found == TrainerBase(("fp8_scaled", "folder"), is_certain=False)


def test_the_precisions_that_a_generation_leads_to() -> None:
    options = [{"name": "folder", "precision": "folder"}, {"name": "a.gguf", "precision": "GGUF Q8_0"}]
    listing = {
        "auto": {"base": {"transformer": "a.gguf", "vae": "folder"}},
        "components": [{"component": "transformer", "options": options}, {"component": "vae", "options": options}],
    }
    assert planned_precisions(listing, "auto") == ("GGUF Q8_0",)
    assert planned_precisions(listing, "folder") == ("folder",)
    assert planned_precisions(listing, (("transformer", "folder"),)) == ("folder",)
    assert transformer_precisions({}) == ("folder",)
