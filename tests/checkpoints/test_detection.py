"""Which model a file is, from its header and its name."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.checkpoints.published_files import (
    Tensors,
    clip_shapes,
    fp8_scaled,
    half,
    header_bytes,
    transformer_shapes,
    umt5_shapes,
    vae_shapes,
    write_sparse,
)
from tests.golden_cases import GOLDEN
from wan_ui.checkpoints.configs import ModelConfigs
from wan_ui.checkpoints.detection import Candidate, Detected, NameHints, detect, name_hints, pair_key
from wan_ui.checkpoints.headers import read_header
from wan_ui.checkpoints.modules import open_file
from wan_ui.checkpoints.quantization import read_quantization
from wan_ui.errors import CheckpointInvalid, CheckpointUnsupported
from wan_ui.models import MODELS

CONFIGS = ModelConfigs()
HIGH = Candidate("wan22_14b_t2v", "transformer")
LOW = Candidate("wan22_14b_t2v", "transformer_2")
I2V_HIGH = Candidate("wan22_14b_i2v", "transformer")
I2V_LOW = Candidate("wan22_14b_i2v", "transformer_2")
T2V_21 = Candidate("wan21_14b", "transformer")
I720, I480 = Candidate("wan21_i2v_14b", "transformer"), Candidate("wan21_i2v_14b480p", "transformer")
SMALL, FIVE = Candidate("wan21_1b", "transformer"), Candidate("wan22_5b", "transformer")


def transformer(model: str) -> Tensors:
    return half(transformer_shapes(CONFIGS.config(MODELS[model], "transformer")))


def detected(folder: Path, tensors: Tensors, name: str = "model.safetensors") -> Detected:
    header = read_header(write_sparse(folder / "model.safetensors", tensors), name)
    return detect(header, read_quantization(header), name, CONFIGS)


@pytest.mark.parametrize(
    ("model", "name", "candidates"),
    [
        ("wan21_1b", "wan2.1_t2v_1.3B_bf16.safetensors", {SMALL}),
        ("wan21_1b", "anything.safetensors", {SMALL}),
        ("wan22_5b", "TI2V/Wan2_2-TI2V-5B_fp8_e4m3fn_scaled_KJ.safetensors", {FIVE}),
        ("wan21_14b", "wan2.1_t2v_14B_fp8_scaled.safetensors", {T2V_21}),
        ("wan21_14b", "Wan2_1-T2V-14B_fp8_e5m2.safetensors", {T2V_21}),
        ("wan21_14b", "wan2.2_t2v_high_noise_14B_fp16.safetensors", {HIGH}),
        ("wan21_14b", "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors", {LOW}),
        ("wan21_14b", "T2V/Wan2_2-T2V-A14B_HIGH_fp8_e4m3fn_scaled_KJ.safetensors", {HIGH}),
        ("wan21_14b", "T2V/Wan2_2-T2V-A14B-LOW_fp8_e4m3fn_scaled_KJ.safetensors", {LOW}),
        ("wan21_14b", "LowNoise/Wan2.2-T2V-A14B-Q4_K_M.gguf", {LOW}),
        ("wan21_14b", "Wan2.2-T2V-A14B-HighNoise-Q4_K_M.gguf", {HIGH}),
        ("wan21_14b", "low_noise_model/diffusion_pytorch_model.safetensors", {LOW}),
        ("wan21_14b", "my_finetune.safetensors", {T2V_21, HIGH, LOW}),
        ("wan21_14b", "wan22_finetune.safetensors", {HIGH, LOW}),
        ("wan21_14b", "finetune_low_poly.safetensors", {LOW}),
        ("wan21_14b", "slowmotion.safetensors", {T2V_21, HIGH, LOW}),
        ("wan21_i2v_14b", "wan2.1_i2v_480p_14B_fp16.safetensors", {I480}),
        ("wan21_i2v_14b", "Wan2_1-I2V-14B-720P_fp8_e4m3fn.safetensors", {I720}),
        ("wan21_i2v_14b", "wan_i2v.safetensors", {I480, I720}),
        ("wan22_14b_i2v", "wan2.2_i2v_low_noise_14B_fp16.safetensors", {I2V_LOW}),
        ("wan22_14b_i2v", "I2V/Wan2_2-I2V-A14B-HIGH_fp8_e4m3fn_scaled_KJ.safetensors", {I2V_HIGH}),
        # The header is believed where the name contradicts it.
        ("wan22_14b_i2v", "wan2.1_t2v_14B_high.safetensors", {I2V_HIGH}),
    ],
)
def test_real_transformers(tmp_path: Path, model: str, name: str, candidates: set[Candidate]) -> None:
    found = detected(tmp_path, transformer(model), name)
    assert found.kind == "transformer"
    assert found.candidates == candidates
    assert found.is_open == (len(candidates) > 1)
    assert found.candidates <= found.shapes_like


def test_the_other_components_at_real_size(tmp_path: Path) -> None:
    text = CONFIGS.config(MODELS["wan21_1b"], "text_encoder")
    found = detected(tmp_path, {**half(umt5_shapes(text)), "spiece_model": ("U8", (10,))})
    assert found.kind == "text_encoder" and len(found.candidates) == len(MODELS) and not found.is_open
    vae = detected(tmp_path, half(vae_shapes(CONFIGS.config(MODELS["wan21_1b"], "vae"))))
    assert vae.kind == "vae" and len(vae.candidates) == len(MODELS) - 1
    vae = detected(tmp_path, half(vae_shapes(CONFIGS.config(MODELS["wan22_5b"], "vae"))))
    assert vae.candidates == {Candidate("wan22_5b", "vae")}
    clip = detected(tmp_path, half(clip_shapes(CONFIGS.config(MODELS["wan21_i2v_14b"], "image_encoder"))))
    assert {candidate.model for candidate in clip.candidates} == {I720.model, I480.model}


@pytest.mark.parametrize(
    ("tensors", "published"),
    [
        (transformer("wan22_14b_t2v"), 28577095592),
        (transformer("wan22_5b"), 9999658848),
        (fp8_scaled(transformer_shapes(CONFIGS.config(MODELS["wan22_14b_t2v"], "transformer"))), 14293923632),
        (fp8_scaled(transformer_shapes(CONFIGS.config(MODELS["wan22_14b_i2v"], "transformer"))), 14294742832),
        (half(vae_shapes(CONFIGS.config(MODELS["wan21_1b"], "vae"))), 253806278),
        (half(vae_shapes(CONFIGS.config(MODELS["wan22_5b"], "vae"))), 1409400960),
    ],
)
def test_shipped_configs_give_the_published_sizes(tmp_path: Path, tensors: Tensors, published: int) -> None:
    """To a few kilobytes, which the order of a header's entries decides."""
    path = write_sparse(tmp_path / "model.safetensors", tensors)
    assert abs(path.stat().st_size - published) < 16 * 1024
    assert len(header_bytes(tensors)) < 1 << 20


@pytest.mark.parametrize(
    ("extra", "family"),
    [
        ("vace_patch_embedding.weight", "VACE"),
        ("vace_blocks.0.before_proj.weight", "VACE"),
        ("control_adapter.conv.weight", "camera control"),
        ("face_adapter.fuser_blocks.0.linear1.weight", "Animate"),
        ("casual_audio_encoder.encoder.weight", "S2V"),
        ("audio_proj.proj1.weight", "audio"),
        ("patch_embedding_global.weight", "Animate"),
        ("ref_conv.weight", "Fun control"),
        ("img_emb.emb_pos", "first-and-last-frame"),
        ("blocks.0.self_attn.q.lora_A.weight", "LoRA"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_other_families_are_refused_by_name(tmp_path: Path, prefix: str, extra: str, family: str) -> None:
    tensors = {prefix + name: value for name, value in transformer("wan21_1b").items()}
    with pytest.raises(CheckpointUnsupported) as caught:
        detected(tmp_path, {**tensors, prefix + extra: ("F16", (2, 2))})
    assert family in caught.value.message


def test_a_lora_among_the_checkpoints_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointUnsupported) as caught:
        detected(tmp_path, {"diffusion_model.blocks.0.self_attn.q.lora_A.weight": ("F16", (2, 2))})
    assert "LoRA" in caught.value.message


def test_files_of_other_programs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid):
        detected(tmp_path, {"double_blocks.0.img_attn.qkv.weight": ("F16", (2, 2))})
    first_t5 = {"shared.weight": ("F16", (32128, 4096)), "encoder.final_layer_norm.weight": ("F16", (4096,))}
    with pytest.raises(CheckpointInvalid):
        detected(tmp_path, first_t5)


def test_a_transformer_of_another_size_is_refused(tmp_path: Path) -> None:
    config = dict(CONFIGS.config(MODELS["wan21_1b"], "transformer"))
    for change in ({"ffn_dim": 64}, {"in_channels": 36}, {"num_layers": 29}, {"num_layers": 31}, {"text_dim": 768}):
        with pytest.raises(CheckpointInvalid):
            detected(tmp_path, half(transformer_shapes({**config, **change})))


def test_configs_in_force_are_compared_with(tmp_path: Path) -> None:
    """A tiny file fits none of the shipped configs and one of those that take their place."""
    path = GOLDEN / "single_files/models/diffusion_models/wan2.2_ti2v_5B_fp16.safetensors"
    header = read_header(path, path.name)
    with pytest.raises(CheckpointInvalid):
        detect(header, read_quantization(header), path.name, CONFIGS)
    tiny = ModelConfigs(GOLDEN / "single_files/configs")
    assert detect(header, read_quantization(header), path.name, tiny).candidates == {FIVE}


def test_every_name_and_shape_is_compared_before_anything_is_read(tmp_path: Path) -> None:
    config = CONFIGS.config(MODELS["wan21_1b"], "transformer")
    whole = transformer("wan21_1b")

    def opened(tensors: Tensors) -> int:
        header = read_header(write_sparse(tmp_path / "a.safetensors", tensors), "a")
        return sum(math.prod(shape) for shape in open_file(header, "transformer", config).shapes.values())

    assert opened(whole) == 1_418_996_800
    missing = {name: value for name, value in whole.items() if name != "blocks.3.cross_attn.v.bias"}
    with pytest.raises(CheckpointInvalid) as caught:
        opened(missing)
    assert caught.value.details["missing"] == ["blocks.3.attn2.to_v.bias"]
    with pytest.raises(CheckpointInvalid) as caught:
        opened({**whole, "blocks.0.extra.weight": ("F16", (1,))})
    assert caught.value.details["unknown"] == ["blocks.0.extra.weight"]
    with pytest.raises(CheckpointInvalid) as caught:
        opened({**whole, "blocks.0.self_attn.q.weight": ("F16", (1536, 1535))})
    assert caught.value.details["tensor"] == "blocks.0.attn1.to_q.weight"


@pytest.mark.parametrize(
    ("name", "hints"),
    [
        ("wan2.2_i2v_high_noise_14B_fp16", NameHints("2.2", "i2v", "14", None, "high")),
        ("Wan2_1-I2V-14B-480P_fp8_e4m3fn", NameHints("2.1", "i2v", "14", "480", None)),
        ("Wan2_1-T2V-1_3B_bf16", NameHints("2.1", "t2v", "1.3", None, None)),
        ("Wan2.2-TI2V-5B-Q8_0", NameHints("2.2", "ti2v", "5", None, None)),
        ("HighNoise/model", NameHints(None, None, None, None, "high")),
        ("high_and_low", NameHints()),
        ("umt5_xxl_fp16", NameHints()),
    ],
)
def test_what_a_name_says(name: str, hints: NameHints) -> None:
    assert name_hints(name) == hints


@pytest.mark.parametrize(
    ("high", "low"),
    [
        ("wan2.2_t2v_high_noise_14B_fp16.safetensors", "wan2.2_t2v_low_noise_14B_fp16.safetensors"),
        ("T2V/Wan2_2-T2V-A14B_HIGH_fp8_KJ.safetensors", "T2V/Wan2_2-T2V-A14B-LOW_fp8_KJ.safetensors"),
        ("HighNoise/Wan2.2-T2V-A14B-HighNoise-Q4_K_M.gguf", "LowNoise/Wan2.2-T2V-A14B-LowNoise-Q4_K_M.gguf"),
        ("myHigh.safetensors", "myLow.safetensors"),
    ],
)  # fmt: skip
def test_halves_of_a_pair_have_one_key(high: str, low: str) -> None:
    assert pair_key(high) == pair_key(low)
    assert pair_key(high) != pair_key("slow.safetensors") == "slow-safetensors"
