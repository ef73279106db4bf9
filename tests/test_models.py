"""The model table holds the reference's facts, and a further model is one more entry."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from types import MappingProxyType
from typing import Any

import pytest

from wan_ui import models, request
from wan_ui.engine.recipes import RECIPES, euler_config, scheduler_spec, unipc_config
from wan_ui.models import MODELS, WAN21_1B, Preset, Source, WanModel

# id, label, base checkpoint, control image, divisor (reference, preview), frame rule, slots, UniPC shift or None for
# the checkpoint's scheduler, Euler shift, boundary (reference, preview), spatial compression
FACTS: tuple[tuple[Any, ...], ...] = (
    ("wan22_5b", "Wan 2.2 TI2V 5B", "Wan-AI/Wan2.2-TI2V-5B-Diffusers", "optional", (32, 32), "floor", ("single",),
     5.0, 5.0, (None, None), 16),
    ("wan22_14b_i2v", "Wan 2.2 I2V A14B", "ai-toolkit/Wan2.2-I2V-A14B-Diffusers-bf16", "required", (16, 16), "floor",
     ("high", "low"), 3.0, 5.0, (0.9, 0.875), 8),
    ("wan22_14b_t2v", "Wan 2.2 T2V A14B", "Wan-AI/Wan2.2-T2V-A14B-Diffusers", "none", (32, 16), "diffusers",
     ("high", "low"), None, 5.0, ("checkpoint", 0.875), 8),
    ("wan21_i2v_14b", "Wan 2.1 I2V 14B 720P", "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers", "required", (16, 16),
     "diffusers", ("single",), None, 3.0, (None, None), 8),
    ("wan21_i2v_14b480p", "Wan 2.1 I2V 14B 480P", "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", "required", (16, 16),
     "diffusers", ("single",), None, 3.0, (None, None), 8),
    ("wan21_14b", "Wan 2.1 T2V 14B", "Wan-AI/Wan2.1-T2V-14B-Diffusers", "none", (16, 16), "diffusers", ("single",),
     None, 3.0, (None, None), 8),
    ("wan21_1b", "Wan 2.1 T2V 1.3B", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "none", (16, 16), "diffusers", ("single",),
     None, 3.0, (None, None), 8),
)  # fmt: skip


def test_the_seven_models_in_the_documents_order() -> None:
    assert list(MODELS) == [facts[0] for facts in FACTS]
    assert all(model.id == model_id for model_id, model in MODELS.items())


@pytest.mark.parametrize("facts", FACTS, ids=lambda facts: facts[0])
def test_a_rows_facts(facts: tuple[Any, ...]) -> None:
    model = MODELS[facts[0]]
    assert facts == (
        model.id,
        model.label,
        model.base_model,
        model.control_image,
        (model.divisor["reference"], model.divisor["preview"]),
        model.frame_rule,
        tuple(model.slots),
        model.unipc_shift,
        model.euler_shift,
        (model.boundary["reference"], model.boundary["preview"]),
        model.spatial_compression,
    )


def test_defaults() -> None:
    assert (models.DEFAULT_STEPS, models.DEFAULT_GUIDANCE_SCALE, models.DEFAULT_SEED) == (25, 4.0, 42)
    assert (models.DEFAULT_NUM_FRAMES, models.DEFAULT_FPS, models.DEFAULT_SIDE) == (41, 16, 1024)
    small = {"wan21_i2v_14b480p", "wan21_1b"}
    for model in MODELS.values():
        assert model.form_size == (Preset(832, 480) if model.id in small else Preset(1024, 1024))
    assert MODELS["wan21_i2v_14b480p"].presets == (Preset(832, 480), Preset(848, 480), Preset(864, 480))


def test_the_components_of_the_two_rows_that_mix_repositories() -> None:
    i2v = "ai-toolkit/Wan2.2-I2V-A14B-Diffusers-bf16"
    assert MODELS["wan22_14b_i2v"].components == {
        "transformer": Source(i2v, "transformer"),
        "transformer_2": Source(i2v, "transformer_2"),
        "vae": Source("ai-toolkit/wan2.1-vae", ""),
        "text_encoder": Source("ai-toolkit/umt5_xxl_encoder", "text_encoder"),
        "tokenizer": Source("ai-toolkit/umt5_xxl_encoder", "tokenizer"),
    }
    t2v = MODELS["wan22_14b_t2v"].components
    for name in ("transformer", "transformer_2"):
        assert t2v[name] == Source("ai-toolkit/Wan2.2-T2V-A14B-Diffusers-bf16", name)
    for name in ("vae", "text_encoder", "tokenizer", "scheduler"):
        assert t2v[name] == Source("Wan-AI/Wan2.2-T2V-A14B-Diffusers", name)


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_a_rows_columns_agree_with_each_other(model: WanModel) -> None:
    assert model.two_transformers == ("transformer_2" in model.components)
    assert set(model.slots.values()) <= set(model.components)
    assert {"transformer", "vae", "text_encoder", "tokenizer"} <= set(model.components)
    assert ("scheduler" in model.components) == (model.unipc_shift is None)
    assert (
        ("image_encoder" in model.components)
        == (model.conditioning == "clip_and_latent_channels")
        == model.image_layers
    )
    assert (model.control_image == "none") == (model.conditioning == "text")
    for recipe in ("reference", "preview"):
        divisor = model.divisor[recipe]
        # A frame of latents is cut in 2 × 2 patches: a smaller multiple would not fit.
        assert divisor % (model.spatial_compression * 2) == 0
        assert request.snap_size(model, recipe, model.form_size.width, model.form_size.height) == (
            model.form_size.width,
            model.form_size.height,
        )
    for preset in model.presets:
        assert request.snap_size(model, "reference", preset.width, preset.height) == (preset.width, preset.height)


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        MODELS["x"] = WAN21_1B  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        WAN21_1B.label = "x"  # type: ignore[misc]
    for model in MODELS.values():
        for field in fields(model):
            assert not isinstance(getattr(model, field.name), dict | list)


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_schedulers_of_both_recipes(model: WanModel) -> None:
    reference = scheduler_spec(model, RECIPES["reference"])
    assert reference.class_name == "UniPCMultistepScheduler"
    assert reference.config == (None if model.unipc_shift is None else unipc_config(model.unipc_shift))
    preview = scheduler_spec(model, RECIPES["preview"])
    assert preview.class_name == "FlowMatchEulerDiscreteScheduler"
    assert preview.config == euler_config(model.euler_shift)


def test_the_built_unipc_scheduler() -> None:
    assert unipc_config(3.0) == {
        "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "solver_order": 2, "solver_type": "bh2",
        "predict_x0": True, "prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0,
        "final_sigmas_type": "zero", "lower_order_final": True, "num_train_timesteps": 1000,
        "time_shift_type": "exponential", "timestep_spacing": "linspace", "disable_corrector": [], "steps_offset": 0,
        "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0, "thresholding": False,
        "rescale_betas_zero_snr": False, "use_beta_sigmas": False, "use_dynamic_shifting": False,
        "use_exponential_sigmas": False, "use_karras_sigmas": False,
    }  # fmt: skip
    assert euler_config(5.0) == {"num_train_timesteps": 1000, "shift": 5.0, "use_dynamic_shifting": False}


def test_an_eighth_model_is_one_row() -> None:
    eighth = replace(
        WAN21_1B,
        id="wan23_2b",
        label="Wan 2.3 T2V 2B",
        divisor=MappingProxyType({"reference": 64, "preview": 32}),
        frame_rule="floor",
    )
    table = {**MODELS, eighth.id: eighth}
    body = {"model": eighth.id, "prompts": [{"prompt": "x", "width": 100, "height": 200, "num_frames": 40}]}
    (generation,) = request.resolve(request.parse(body), store_image=str, models=table)
    assert (generation.model, generation.width, generation.height, generation.num_frames) == (eighth.id, 64, 192, 37)
    (generation,) = request.resolve(request.parse({**body, "recipe": "preview"}), store_image=str, models=table)
    assert (generation.width, generation.height) == (96, 192)
